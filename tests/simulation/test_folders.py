"""The real folder source on simulated disks: killed and without power at every operation, nothing is lost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random

import pytest
import trio
from deterministic import run
from faults import make_plan
from folders import FolderDevice, FolderKind, FolderMachine
from kinds import Killed, Operation
from plan import Plan, Step
from trio.testing import MockClock
from world import live

from p2psyncd.sources.folder.layout import STAGING

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


# A crash at every operation


def values_of(machine: FolderMachine) -> set[bytes]:
    return {claim.value for claim in machine.claims()}


async def record(device: FolderDevice) -> None:
    await device.replica.scan()


async def pass_on(source: FolderDevice, target: FolderDevice) -> None:
    """Give a device what another has, and let it put everything in place."""
    keys = [bytes(key) for (key,) in source.store.database.rows("SELECT key FROM items ORDER BY key")]
    items = [stored.item for stored in source.store.get_many(keys).values()]
    await target.replica.receive(items, [], repair=False)
    for _ in range(5):
        await target.applier.round(survey=True)
        wanted = list(target.applier.wanted.values())
        for one in wanted:
            data = source.content(one.digest)
            assert data is not None
            target.put_content(one.digest, data)
        target.applier.arrived([one.digest for one in wanted])
    await target.applier.round(survey=True)


BEFORE: list[Operation] = [
    ("write", b"a", b"a before", True),
    ("write", b"b", b"b before", True),
    ("write", b"d/x", b"x before" * 1000, True),
    ("write", b"d/y", b"y before", True),
    ("write", b"e/z", b"z before", True),
    ("symlink", b"l", b"before", True),
    ("write", b"p", b"p before", True),
    ("write", b"q", b"q before", True),
]
AFTER: list[Operation] = [
    ("save", b"a", b"a after", True),
    ("remove", b"b"),
    ("rename", b"d/x", b"n/x"),
    ("chmod", b"d/y", 0o600),
    ("write", b"e", b"e after" * 1000, True),  # a file where a directory was
    ("symlink", b"l", b"after", True),
    ("mkdir", b"m/o", True),
    ("write", b"m/new", b"new", True),
    ("swap", b"p", b"q"),
]


@dataclass
class Stage:
    """A machine with the files from before, its backup, and a device that went on from there."""

    machine: FolderMachine
    backup: object
    there: FolderDevice


async def set_up(kind: FolderKind) -> Stage:
    ours, theirs = kind.machine(0), kind.machine(1)
    there = theirs.boot()
    for operation in BEFORE:
        theirs.operate(operation)
    await record(there)
    here = ours.boot()
    await pass_on(there, here)
    await trio.sleep(1)
    for operation in AFTER:
        theirs.operate(operation)
    await record(there)
    here.close()
    assert ours.picture() != theirs.picture()
    return Stage(ours, ours.snapshot(), there)


async def crash_at(number: int, stage: Stage, random: Random | None) -> bool:
    """Kill a device before one operation of taking everything over, with a power cut or not; go on after a start.

    Returns:
        Whether it came to that operation.
    """
    machine, there = stage.machine, stage.there
    machine.hazard.revive()
    machine.restore(stage.backup, everything=True, noticed=False)
    old = values_of(machine)
    ours = machine.picture()
    new = there.machine.picture()
    here = machine.boot()
    machine.hazard.operations_left = number
    try:
        await pass_on(there, here)
    except Killed:
        killed = True
    else:
        killed = False
    here.close()
    machine.hazard.revive()
    if random is not None:
        machine.cut_power(random)
    for key, there_now in machine.picture().items():
        states = (ours.get(key), new.get(key))
        # What a file was replaced by, or a directory, is there already or not yet; modes of directories come last.
        assert there_now in states or there_now[1] is None, (number, key, there_now)
    assert old <= values_of(machine) | machine.kept(), f"lost after operation {number}"
    here = machine.boot()
    assert not machine.user.at(STAGING).entries, "staging is not empty after a start"
    await record(here)
    assert old <= values_of(machine) | machine.kept()
    await pass_on(there, here)
    await record(here)
    assert here.replica.totals.pending_items == 0, here.applier.failures
    assert machine.picture() == new, f"other than the peer after operation {number}"
    assert here.store.root() == there.store.root(), f"something new was recorded after operation {number}"
    assert old <= values_of(machine) | machine.kept()
    assert here.ailments() == []
    here.close()
    return killed


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_device_that_is_killed_at_any_operation_has_old_or_new_and_goes_on(
    autojump_clock: MockClock, ordered: bool
) -> None:
    stage, number = await set_up(FolderKind(ordered=ordered)), 0
    while await crash_at(number, stage, None):
        number += 1
    assert number >= 80


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(2))
async def test_a_power_cut_at_any_operation_leaves_old_or_new_and_the_device_goes_on(
    autojump_clock: MockClock, ordered: bool, seed: int
) -> None:
    stage, number = await set_up(FolderKind(ordered=ordered)), 0
    while await crash_at(number, stage, Random(1000 * seed + number)):
        number += 1
    assert number >= 80
