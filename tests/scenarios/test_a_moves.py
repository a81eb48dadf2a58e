"""Scenarios A13 to A20 and A59: deleted directories, renames and moves, also against each other."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Self

from daemons import offered
from group import ORDERS, Group, contents, put, texts

FILES = 10_000
SAVES = 12


async def test_a13_ignored_files_stay_in_a_directory_that_a_peer_deleted_and_that_is_reported(
    pair: Group,
) -> None:
    here, there = await pair.begin()
    put(here / ".p2psyncignore", "*.o\n")
    put(here / "build" / "main.c", "source")
    await pair.settle()
    put(there / "build" / "main.o", "object")
    shutil.rmtree(here / "build")
    await pair.noted(0)
    willow = pair.daemons[1]
    await willow.until(lambda: not (there / "build" / "main.c").exists(), "the deletion")
    assert (there / "build" / "main.o").read_text() == "object"
    await pair.until(lambda: bool(willow.running("f").replica.errors), "a report")
    row = await pair.row(1)
    assert row["errors"] == [
        {"item": "build", "error": "deleted on another device; kept, it holds ignored files"}
    ]
    await pair.settle()
    assert not (here / "build").exists()
    # What is not ignored brings the directory back everywhere, with that alone.
    put(there / "build" / "new.c", "new source")
    await pair.settle()
    assert contents(here) == {".p2psyncignore": "*.o\n", "build": None, "build/new.c": "new source"}
    assert (there / "build" / "main.o").read_text() == "object"


@ORDERS
async def test_a14_an_edit_against_a_rename_is_kept(pair: Group, first: int) -> None:
    here, there = await pair.begin(old_txt="base")
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            (here / "old.txt").rename(here / "new.txt")
        else:
            put(there / "old.txt", "edited")
        await pair.noted(number)
    await pair.meet()
    # A rename is a delete and a create: the edit beats the delete, so both names exist.
    assert await pair.same() == {"new.txt": "base", "old.txt": "edited"}


@ORDERS
async def test_a15_two_renames_of_one_file_leave_both_names_everywhere(pair: Group, first: int) -> None:
    here, there = await pair.begin(old_txt="content")
    await pair.part()
    for number in (first, 1 - first):
        folder, name = (here, "here.txt") if number == 0 else (there, "there.txt")
        (folder / "old.txt").rename(folder / name)
        await pair.noted(number)
    await pair.meet()
    assert await pair.same() == {"here.txt": "content", "there.txt": "content"}
    assert pair.travelled() == (0, 0)


@ORDERS
async def test_a16_a_file_moved_into_a_directory_that_was_deleted_brings_it_back(
    pair: Group, first: int
) -> None:
    here, there = await pair.begin(note_txt="content")
    put(here / "d" / "old", "old")
    await pair.settle()
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            (here / "note.txt").rename(here / "d" / "note.txt")
        else:
            shutil.rmtree(there / "d")
        await pair.noted(number)
    await pair.meet()
    assert await pair.same() == {"d": None, "d/note.txt": "content"}


async def test_a17_two_files_swap_names_and_no_content_travels(pair: Group) -> None:
    here, _ = await pair.begin(one_txt="one", two_txt="two")
    (here / "one.txt").rename(here / "spare")
    (here / "two.txt").rename(here / "one.txt")
    (here / "spare").rename(here / "two.txt")
    assert await pair.same() == {"one.txt": "two", "two.txt": "one"}
    assert pair.travelled() == (0, 0)


@ORDERS
async def test_a18_two_directories_moved_into_each_other_make_no_cycle(pair: Group, first: int) -> None:
    here, there = await pair.begin()
    put(here / "a" / "in-a", "in a")
    put(here / "b" / "in-b", "in b")
    await pair.settle()
    pair.count()
    await pair.part()
    for number in (first, 1 - first):
        if number == 0:
            (here / "a").rename(here / "b" / "a")
        else:
            (there / "b").rename(there / "a" / "b")
        await pair.noted(number)
    await pair.meet()
    found = await pair.same()
    assert set(texts(found)) == {"in a", "in b"}
    assert found["b/a/in-a"] == "in a"
    assert found["a/b/in-b"] == "in b"
    assert pair.travelled() == (0, 0)


async def test_a19_a_move_across_folders_is_a_local_move_on_the_other_side(pair: Group) -> None:
    here, there = await pair.begin(big_txt="content" * 100_000)
    put(here / "d" / "e" / "other", "other")
    await pair.settle()
    pair.count()
    inode = (there / "big.txt").stat().st_ino
    (here / "big.txt").rename(here / "d" / "e" / "big.txt")
    found = await pair.same()
    assert found.keys() == {"d", "d/e", "d/e/big.txt", "d/e/other"}
    assert (there / "d" / "e" / "big.txt").stat().st_ino == inode
    assert pair.travelled() == (0, 0)
    assert pair.kept(1) == []


async def test_a20_a_renamed_directory_of_ten_thousand_files_sends_no_content(pair: Group) -> None:
    maple, willow = pair.daemons
    here, there = pair.folders
    for number in range(FILES):
        put(here / "before" / f"d{number % 50:02}" / f"{number}", str(number))
    shutil.copytree(here, there)
    await maple.backend.share_add(str(here), name="f", kind=None, mode="send-receive", with_devices=[])
    await offered(maple, willow, "f")
    await willow.backend.share_accept("f", str(there), mode="send-receive", from_device=None)
    await pair.settle()
    pair.count()
    (here / "before").rename(here / "after")
    found = await pair.same()
    assert len(found) == FILES + 51
    assert all(name.startswith("after") for name in found)
    assert pair.travelled() == (0, 0)


async def test_a59_an_editors_atomic_save_is_one_update_and_the_file_never_vanishes(pair: Group) -> None:
    here, there = await pair.begin(note_txt="save 0")
    target = there / "note.txt"
    with Watchman(target) as watchman:
        for number in range(1, SAVES + 1):
            temporary = here / f".note.txt.{number}.swp"
            put(temporary, f"save {number}")
            temporary.rename(here / "note.txt")
            await pair.daemons[1].until(lambda n=number: target.read_text() == f"save {n}", "the save")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    assert watchman.looks > SAVES
    assert watchman.missed == 0
    assert await pair.same() == {"note.txt": f"save {SAVES}"}
    # One content for each save, and one earlier version: the temporary names never came over.
    assert pair.travelled()[0] == SAVES
    assert pair.kept(1) == sorted(f"save {number}" for number in range(SAVES))


class Watchman:
    """Looks all the time, from a thread, whether a file is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.looks = 0
        self.missed = 0
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        while not self.enough.is_set():
            self.looks += 1
            self.missed += not os.path.lexists(self.path)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.enough.set()
        self.thread.join()
