"""The real folder source on simulated disks: killed and without power at every operation, nothing is lost."""

from __future__ import annotations

import os

import pytest
from deterministic import run
from faults import make_plan
from folders import FolderKind
from plan import Plan, Step
from world import live

SEEDS = int(os.environ.get("P2PSYNC_SIMULATIONS", "0")) or 20
# What happens to disks and processes; what happens to states is tested with the memory kind.
FAULTS = ["cut", "replace", "delay", "kill", "power", "full", "hints"]


def take(*steps: Step, machines: int = 2, trace: list[str] | None = None) -> None:
    """Take steps, and check in the end that all agree, nothing is lost, and all is quiet."""
    plan = Plan(seed=1, kind="folder", machines=(("send-receive", 0),) * machines, steps=tuple(steps))
    violation = run(1, live, plan, FolderKind(), [] if trace is None else trace)
    assert violation is None, violation


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
@pytest.mark.parametrize("ordered", [True, False])
def test_devices_on_failing_disks_lose_nothing_and_agree(first: int, ordered: bool) -> None:
    kind = FolderKind(ordered=ordered)
    for seed in range(first, first + 10):
        plan = make_plan(seed, kind, FAULTS)
        violation = run(seed, live, plan, kind, [])
        assert violation is None, f"{violation}\n{plan.text()}"


def test_a_file_that_is_read_again_and_is_the_same_is_not_told_to_anyone() -> None:
    """Read within 20 ms of its last change, it is read again by the next scan."""
    take(
        ("user", 0, ("save", b"d/e/a", b"content", True), True),
        ("wait", 0.001),
        ("user", 0, ("copy", b"d/e/a", b"d/b"), True),
    )


def test_a_conflict_copy_is_no_change_of_its_directory() -> None:
    take(
        ("user", 1, ("write", b"d/a", b"one", False), True),
        ("user", 0, ("write", b"d/a", b"other", False), True),
        ("link", 0, 1, 0.0),
        ("wait", 1.0),
    )
