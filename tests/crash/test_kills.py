"""Scenario A46: kill -9 at any moment. Longer runs: `python -m tests.crash`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crashrig.runs import kill_at_random, kill_at_steps, kill_in_batch
from crashrig.shim import FILE_KINDS, Kind

if TYPE_CHECKING:
    from conftest import NewRig


def test_the_shim_sees_every_kind_of_step_of_an_apply(new_rig: NewRig, shim: Path) -> None:
    with new_rig(1, shim) as rig:
        rig.b.control.arm()
        rig.users["a"].create()
        rig.users["a"].large()
        rig.users["a"].replace()
        rig.users["a"].new_tree()
        rig.pair.settle()
        seen = {kind: rig.b.control.count(kind) for kind in FILE_KINDS}
        rig.b.control.disarm()
    assert all(seen.values()), seen


def test_a46_kill_nine_at_the_steps_of_an_apply_leaves_each_file_old_or_new(
    new_rig: NewRig, shim: Path
) -> None:
    with new_rig(46, shim) as rig:
        kill_at_steps(rig, dict.fromkeys(FILE_KINDS, (True,)), lambda _: None, every=40)
        assert kill_in_batch(rig, Kind.EXCHANGE, 2, after=False)
        assert set(rig.totals.kills) == {f"kill -9 at every step: {kind.name.lower()}" for kind in FILE_KINDS}


def test_a46_kill_nine_at_any_moment_leaves_whole_files_and_then_equal_trees(
    new_rig: NewRig, shim: Path
) -> None:
    with new_rig(4646, shim) as rig:
        kill_at_random(rig, 6)
        assert rig.totals.all >= 6
