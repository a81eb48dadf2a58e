"""Scenario A47: the power goes, and what was not synced with it. Longer runs: `python -m tests.crash`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crashrig.disk import Disk
from crashrig.runs import DISKS, power_cuts
from p2plab.waiting import eventually

if TYPE_CHECKING:
    from conftest import NewRig

NeedDisk = Callable[[str], None]


def test_a_cut_takes_what_was_not_synced_and_nothing_else(need_disk: NeedDisk, tmp_path: Path) -> None:
    need_disk("ext4")
    disk = Disk(tmp_path / "image", tmp_path / "d", options="commit=300")
    try:
        with (disk.mountpoint / "synced").open("w") as file:
            file.write("whole")
            file.flush()
            os.fsync(file.fileno())
        (disk.mountpoint / "unsynced").write_text("lost")
        disk.cut()
        with pytest.raises(OSError, match="Input/output"):
            (disk.mountpoint / "late").write_text("refused")
        disk.replug()
        assert (disk.mountpoint / "synced").read_text() == "whole"
        assert not (disk.mountpoint / "unsynced").exists()
    finally:
        disk.close()


@pytest.mark.parametrize(("kind", "options"), [DISKS[0], DISKS[2], DISKS[4]])
def test_a47_a_power_cut_under_load_announces_nothing_stale_torn_or_empty(
    new_rig: NewRig, need_disk: NeedDisk, kind: str, options: str
) -> None:
    need_disk(kind)
    with new_rig(47, kind=kind, options=options) as rig:
        power_cuts(rig, 2)
        assert rig.totals.all == 2


def test_a47_what_a_peer_has_seen_outlives_a_power_cut_after_a_rename(
    new_rig: NewRig, need_disk: NeedDisk
) -> None:
    need_disk("ext4")
    with new_rig(4747, kind="ext4", options="data=writeback,commit=300,noauto_da_alloc") as rig:
        a, b = rig.a.root, rig.b.root
        for name in ("replaced", "deleted", "renamed"):
            (a / name).write_text(f"the old {name}")
        rig.pair.settle()
        (rig.a.room / "new").write_text("the new one")
        (rig.a.room / "new").rename(a / "replaced")
        (a / "deleted").unlink()
        (a / "renamed").rename(a / "other")
        (a / "born").write_text("born")
        eventually("b has it all", lambda: names(b) >= {"replaced", "other", "born"} and not names(b) & OLD)
        eventually("b has the new one", lambda: (b / "replaced").read_text() == "the new one")
        # Nobody synced a thing, and the file system had no reason to.
        rig.power_cut()
        rig.pair.settle()
        for root in (a, b):
            assert (root / "replaced").read_text() == "the new one"
            assert (root / "born").read_text() == "born"
            assert (root / "other").read_text() == "the old renamed"
            assert not names(root) & OLD
            assert not [name for name in names(root) if "conflict" in name]


OLD = {"deleted", "renamed"}


def names(root: Path) -> set[str]:
    """Return the names in a folder."""
    return {path.name for path in root.iterdir()}
