"""Two devices keep a folder equal: the scenarios of folders, driven through the source alone."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Device, Lab


def test_a_tree_arrives_with_modes_times_links_and_odd_names(here: Device, there: Device, lab: Lab) -> None:
    here.write("a/b/c.txt", "hello", mode=0o640)
    here.write("a/run.sh", "#!/bin/sh\n", mode=0o755)
    here.write(b"odd \xff\n\x1b[31m name", b"")
    here.write("long-" + "n" * 250, "long")
    here.path("empty").mkdir()
    here.path("link").symlink_to("a/b")
    here.path("dangling").symlink_to("/nowhere/at all")
    here.write("big.bin", os.urandom(700_000))
    lab.sync(here, there)
    assert there.tree() == here.tree()
    assert there.storage.items.keys() == here.storage.items.keys()
    assert not here.look()
    assert not there.look()
    assert there.staged() == []


def test_edits_renames_and_deletes_on_both_sides_arrive(here: Device, there: Device, lab: Lab) -> None:
    for number in range(20):
        here.write(f"d{number % 3}/f{number}", f"content {number}")
    lab.sync(here, there)
    here.write("d0/f0", "edited here")
    there.write("d1/f1", "edited there")
    here.path("d0/f3").rename(here.path("d1/moved"))
    there.path("d2/f5").unlink()
    there.path("d2/f8").rename(there.path("d2/f8b"))
    here.path("d1/f4").chmod(0o600)
    lab.sync(here, there)
    assert there.tree() == here.tree()
    assert not here.look()
    # A change of metadata alone is read again once; it brings only a new fingerprint.
    again = there.scan()
    assert [found.draft.key for found in again] == [b"d1/f4"]
    assert not there.look()
    assert there.items() == here.items()
    assert there.read("d1/moved") == b"content 3"


def test_both_edit_one_file_and_both_contents_survive(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    here.write("f", "edited here")
    there.write("f", "edited there")
    lab.sync(here, there)
    assert there.tree() == here.tree()
    assert len(here.tree()) == 2
    assert {one[2] for one in here.tree().values()} == {b"edited here", b"edited there"}
    assert here.read("f") == b"edited there"


def live(device: Device) -> dict[bytes, bytes | None]:
    """Names and contents (or targets) of what a device holds."""
    return {key: one[2] for key, one in device.tree().items()}


def same(here: Device, there: Device) -> bool:
    """Whether both hold the same, on disk and in store, and both know it."""
    for device in (here, there):
        device.scan()
        assert not device.look()
        assert not device.storage.waiting
        assert device.staged() == []
    assert there.tree() == here.tree()
    assert [(i.key, i.dot) for i in here.items()] == [(i.key, i.dot) for i in there.items()]
    return True


def test_an_edit_against_a_delete_survives_at_its_name(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    here.write("f", "edited")
    there.path("f").unlink()
    lab.sync(here, there)
    assert same(here, there)
    assert live(here) == {b"f": b"edited"}


def test_a_delete_against_an_earlier_edit_does_not_win(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    here.write("f", "edited")
    here.scan()
    there.clock.ahead_us += 10_000_000
    there.path("f").unlink()
    there.scan()
    lab.sync(here, there)
    assert same(here, there)
    assert live(here) == {b"f": b"edited"}


def test_both_delete_and_nothing_is_said(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    here.path("f").unlink()
    there.path("f").unlink()
    lab.sync(here, there)
    assert same(here, there)
    assert live(here) == {}


def test_a_touch_against_an_edit_leaves_one_file(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    there.write("f", "edited")
    there.scan()
    here.clock.ahead_us += 10_000_000
    os.utime(here.path("f"), ns=(1, 2_000_000_000_000_000_000))
    lab.sync(here, there)
    assert same(here, there)
    assert live(here) == {b"f": b"edited"}


def test_a_chmod_against_an_edit_takes_effect_too(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base", mode=0o644)
    lab.sync(here, there)
    here.path("f").chmod(0o755)
    there.write("f", "edited")
    lab.sync(here, there)
    assert same(here, there)
    assert live(there) == {b"f": b"edited"}
    assert here.path("f").stat().st_mode & 0o777 == 0o755


def test_the_identical_edit_is_no_conflict(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    here.write("f", "same")
    there.write("f", "same")
    lab.sync(here, there)
    assert same(here, there)
    assert live(here) == {b"f": b"same"}


def test_a_conflict_on_a_conflict_copy_keeps_everything(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    here.write("f", "one")
    there.write("f", "two")
    lab.sync(here, there)
    (copy,) = [key for key in here.tree() if key != b"f"]
    here.write(copy, "three")
    there.write(copy, "four")
    lab.sync(here, there)
    assert same(here, there)
    assert set(live(here).values()) == {b"two", b"three", b"four"}


def test_two_symlinks_of_one_name_are_both_kept(here: Device, there: Device, lab: Lab) -> None:
    here.path("link").symlink_to("one")
    there.path("link").symlink_to("two")
    lab.sync(here, there)
    assert same(here, there)
    assert set(live(here).values()) == {b"one", b"two"}


def test_a_file_turned_into_a_directory_against_an_edit(here: Device, there: Device, lab: Lab) -> None:
    here.write("x", "base")
    lab.sync(here, there)
    here.path("x").unlink()
    here.write("x/child", "child")
    there.write("x", "edited")
    lab.sync(here, there)
    assert same(here, there)
    assert live(here)[b"x/child"] == b"child"
    assert b"edited" in live(here).values()


def test_a_file_turned_into_a_directory_against_a_later_edit(here: Device, there: Device, lab: Lab) -> None:
    here.write("x", "base")
    lab.sync(here, there)
    here.path("x").unlink()
    here.write("x/child", "child")
    here.scan()
    there.clock.ahead_us += 10_000_000
    there.write("x", "edited")
    there.scan()
    lab.sync(here, there)
    assert same(here, there)
    assert live(here)[b"x/child"] == b"child"
    assert b"edited" in live(here).values()


def test_a_directory_deleted_against_a_new_child_comes_back(here: Device, there: Device, lab: Lab) -> None:
    here.write("d/old", "old")
    lab.sync(here, there)
    shutil.rmtree(here.path("d"))
    there.write("d/new", "new")
    lab.sync(here, there)
    assert same(here, there)
    assert live(here) == {b"d": None, b"d/new": b"new"}


def test_two_files_swap_names(here: Device, there: Device, lab: Lab) -> None:
    here.write("one", "1")
    here.write("two", "2")
    lab.sync(here, there)
    there.fetched.clear()
    here.path("one").rename(here.path("x"))
    here.path("two").rename(here.path("one"))
    here.path("x").rename(here.path("two"))
    lab.sync(here, there)
    assert same(here, there)
    assert (there.read("one"), there.read("two"), there.fetched) == (b"2", b"1", [])


def test_a_renamed_folder_costs_no_content(here: Device, there: Device, lab: Lab) -> None:
    for number in range(50):
        here.write(f"old/{number % 5}/{number}", f"content {number}")
    lab.sync(here, there)
    there.fetched.clear()
    here.path("old").rename(here.path("new"))
    lab.sync(here, there)
    assert same(here, there)
    assert there.fetched == []
    assert not there.path("old").exists()


def test_a_rename_of_case_only_and_other_spellings_of_one_letter(
    here: Device, there: Device, lab: Lab
) -> None:
    here.write("readme", "x")
    here.write("caf\u00e9", "composed")
    here.write("cafe\u0301", "decomposed")
    lab.sync(here, there)
    here.path("readme").rename(here.path("README"))
    lab.sync(here, there)
    assert same(here, there)
    assert b"README" in live(there)
    assert len(live(there)) == 3


def test_folders_that_held_other_files_before_are_united(here: Device, there: Device, lab: Lab) -> None:
    here.write("same", "same")
    there.write("same", "same")
    here.write("only-here", "h")
    there.write("only-there", "t")
    here.write("both", "here")
    there.write("both", "there")
    here.write("d/x", "x")
    there.write("d/y", "y")
    lab.sync(here, there)
    assert same(here, there)
    found = live(here)
    assert set(found.values()) == {None, b"same", b"h", b"t", b"here", b"there", b"x", b"y"}
    assert b"same" not in {key for key in here.fetched + there.fetched if key == b"same"}


def test_hard_links_keep_their_content_on_both_names(here: Device, there: Device, lab: Lab) -> None:
    path = here.write("one", "x")
    os.link(path, here.path("two"))
    lab.sync(here, there)
    path.write_text("changed")
    lab.sync(here, there)
    assert same(here, there)
    assert live(there) == {b"one": b"changed", b"two": b"changed"}


def test_a_path_that_becomes_ignored_and_back_is_deleted_nowhere(
    here: Device, there: Device, lab: Lab
) -> None:
    here.write("build/o", "x")
    here.write("f", "x")
    lab.sync(here, there)
    here.write(".p2psyncignore", "build/\n")
    lab.sync(here, there)
    assert live(there)[b"build/o"] == b"x"
    here.path(".p2psyncignore").unlink()
    lab.sync(here, there)
    assert same(here, there)
    assert live(there)[b"build/o"] == b"x"


def test_random_work_on_three_devices_ends_alike(
    here: Device, there: Device, make_device: Callable[[str], Device], lab: Lab
) -> None:
    chance = random.Random(20261123)
    devices = [here, there, make_device("third")]
    written: set[bytes] = set()
    for _ in range(12):
        for device in devices:
            for _ in range(4):
                work(device, chance, written)
        if chance.random() < 0.5:
            lab.sync(*chance.sample(devices, 2))
    for _ in range(3):
        lab.sync(*devices, rounds=20)
    for device in devices:
        device.scan()
        assert not device.storage.waiting, device.errors
    assert devices[0].tree() == devices[1].tree() == devices[2].tree()


def work(device: Device, chance: random.Random, written: set[bytes]) -> None:
    """Do what a user might do."""
    names = ["a", "b", "c", "d"]
    path = device.path("f-" + chance.choice(names))
    match chance.randrange(6):
        case 0 | 1 | 2:
            data = b"%d" % chance.randrange(10**9)
            written.add(data)
            path.write_bytes(data)
        case 3:
            path.unlink(missing_ok=True)
        case 4:
            if path.exists():
                path.rename(device.path("f-" + chance.choice(names)))
        case _:
            if path.exists():
                path.chmod(chance.choice([0o600, 0o644, 0o755]))
