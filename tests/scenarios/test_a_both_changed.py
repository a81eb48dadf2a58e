"""Scenarios A1 to A12: the same thing changed on several devices that could not talk meanwhile."""

from __future__ import annotations

import os
import shutil

from group import ORDERS, Group, put, texts


async def test_a1_both_edit_one_file_and_both_contents_survive_everywhere(row: Group) -> None:
    here, _, there = await row.begin(note_txt="base")
    await row.part()
    put(here / "note.txt", "maple's")
    await row.noted(0)
    put(there / "note.txt", "birch's")
    await row.noted(2)
    await row.meet()
    found = await row.same(conflicts=1)
    [conflict] = await row.conflicts(1)
    [loser] = conflict["losers"]
    # The later edit has the name, on every device; the other one lies beside it, on every device.
    assert found == {"note.txt": "birch's", loser["where"]: "maple's"}
    assert (conflict["item"], conflict["winner"], loser["device"]) == ("note.txt", "birch", "maple")
    # What the one in the middle had is in its history, whichever of the two it met first.
    assert "base" in row.kept(1)


async def test_a2_both_make_the_identical_edit_and_there_is_no_conflict(pair: Group) -> None:
    here, there = await pair.begin(note_txt="base")
    await pair.part()
    put(here / "note.txt", "the same")
    put(there / "note.txt", "the same", age_s=100)
    await pair.noted()
    await pair.meet()
    assert await pair.same() == {"note.txt": "the same"}
    assert pair.travelled() == (0, 0)
    assert pair.kept(0) == pair.kept(1) == []


@ORDERS
async def test_a3_an_edit_against_a_delete_survives_at_its_name(pair: Group, first: int) -> None:
    here, there = await pair.begin(note_txt="base", other_txt="other")
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            put(here / "note.txt", "edited")
        else:
            (there / "note.txt").unlink()
        await pair.noted(number)
    await pair.meet()
    assert await pair.same() == {"note.txt": "edited", "other.txt": "other"}
    assert await pair.conflicts() == []


async def test_a4_both_delete_and_it_is_gone_without_noise(pair: Group) -> None:
    here, there = await pair.begin(note_txt="base", other_txt="other")
    await pair.part()
    seen = [(await daemon.backend.events(since=0, limit=100))[-1]["id"] for daemon in pair.daemons]
    (here / "note.txt").unlink()
    (there / "note.txt").unlink()
    await pair.meet()
    assert await pair.same() == {"other.txt": "other"}
    assert pair.kept(0) == pair.kept(1) == []
    for daemon, last in zip(pair.daemons, seen, strict=True):
        told = await daemon.backend.events(since=last, limit=100)
        assert {event["type"] for event in told} <= {"disconnected", "connected"}


@ORDERS
async def test_a5_an_edit_wins_against_a_change_of_mtime_alone(pair: Group, first: int) -> None:
    here, there = await pair.begin(note_txt="base")
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            put(here / "note.txt", "edited")
        else:
            os.utime(there / "note.txt", ns=(10**18, 10**18))
        await pair.noted(number)
    await pair.meet()
    assert await pair.same() == {"note.txt": "edited"}
    assert (there / "note.txt").stat().st_mtime_ns != 10**18


@ORDERS
async def test_a6_a_chmod_and_an_edit_both_take_effect(pair: Group, first: int) -> None:
    here, there = await pair.begin(run_sh="base")
    (here / "run.sh").chmod(0o644)
    await pair.settle()
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            put(here / "run.sh", "edited")
        else:
            (there / "run.sh").chmod(0o750)
        await pair.noted(number)
    await pair.meet()
    assert await pair.same() == {"run.sh": "edited"}
    assert (here / "run.sh").stat().st_mode & 0o777 == 0o750


async def test_a7_both_create_one_name_and_one_becomes_a_conflict_copy(pair: Group) -> None:
    here, there = await pair.begin()
    await pair.part()
    put(here / "new.txt", "maple's")
    await pair.noted(0)
    put(there / "new.txt", "willow's")
    await pair.meet()
    found = await pair.same(conflicts=1)
    [conflict] = await pair.conflicts()
    assert found == {"new.txt": "willow's", conflict["losers"][0]["where"]: "maple's"}
    assert (conflict["item"], conflict["winner"]) == ("new.txt", "willow")


async def test_a8_a_conflict_on_a_conflict_copy_keeps_everything(pair: Group) -> None:
    here, there = await pair.begin(note_txt="base")
    await pair.part()
    put(here / "note.txt", "one")
    await pair.noted(0)
    put(there / "note.txt", "two")
    await pair.meet()
    await pair.same(conflicts=1)
    [conflict] = await pair.conflicts()
    copy = conflict["losers"][0]["where"]
    await pair.part()
    put(here / copy, "three")
    await pair.noted(0)
    put(there / copy, "four")
    await pair.meet()
    found = await pair.same(conflicts=2)
    assert texts(found) == ["four", "three", "two"]
    assert (found["note.txt"], found[copy]) == ("two", "four")


async def test_a9_two_symlinks_of_one_name_are_both_kept(pair: Group) -> None:
    here, there = await pair.begin()
    await pair.part()
    (here / "link").symlink_to("one")
    await pair.noted(0)
    (there / "link").symlink_to("two")
    await pair.meet()
    found = await pair.same(conflicts=1)
    [conflict] = await pair.conflicts()
    assert found == {"link": "→ two", conflict["losers"][0]["where"]: "→ one"}


@ORDERS
async def test_a10_a_directory_in_place_of_a_file_has_the_name_and_the_edit_is_kept_aside(
    pair: Group, first: int
) -> None:
    here, there = await pair.begin(thing="base")
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            (here / "thing").unlink()
            put(here / "thing" / "child", "child")
        else:
            put(there / "thing", "edited")
        await pair.noted(number)
    await pair.meet()
    found = await pair.same(conflicts=1)
    [conflict] = await pair.conflicts()
    assert found == {"thing": None, "thing/child": "child", conflict["losers"][0]["where"]: "edited"}
    assert conflict["item"] == "thing"


@ORDERS
async def test_a11_a_new_child_is_kept_though_its_directory_became_a_file(pair: Group, first: int) -> None:
    here, there = await pair.begin()
    put(here / "thing" / "old", "old")
    await pair.settle()
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            shutil.rmtree(here / "thing")
            put(here / "thing", "a file now")
        else:
            put(there / "thing" / "new", "new")
        await pair.noted(number)
    await pair.meet()
    found = await pair.same(conflicts=1)
    [conflict] = await pair.conflicts()
    assert found == {"thing": None, "thing/new": "new", conflict["losers"][0]["where"]: "a file now"}


async def test_a12_a_child_that_was_not_scanned_yet_keeps_its_deleted_directory(pair: Group) -> None:
    here, there = await pair.begin()
    put(here / "d" / "old", "old")
    await pair.settle()
    # While this is held, nobody works off what the watch tells: the child is there, and not on record.
    async with pair.daemons[1].running("f").busy:
        put(there / "d" / "new", "new")
        shutil.rmtree(here / "d")
        await pair.noted(0)
        await pair.daemons[1].until(lambda: not (there / "d" / "old").exists(), "the deletion")
        assert (there / "d" / "new").read_text() == "new"
    assert await pair.same() == {"d": None, "d/new": "new"}
    assert pair.kept(1) == ["old"]
