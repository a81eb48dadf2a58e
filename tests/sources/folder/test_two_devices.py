"""Two devices keep a folder equal: the scenarios of folders, driven through the source alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
