"""Scenario B35: four devices and a database that apps write to in every way; `appuser` has what they do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice

import pytest
from appuser import KEYS, TABLES
from databases import DatabaseKind, DatabaseMachine
from deterministic import run
from faults import make_plan
from plan import Plan
from world import live

from p2psyncd.sources.database.keys import SCHEMA_TABLE, unpack_key
from p2psyncd.sources.database.row import state_of

DEVICES = 4
PLANS = int(os.environ.get("P2PSYNC_SIMULATIONS", "0")) or 100
BATCH = 10
# Links that are cut, slow or replaced, processes that are killed and start again, clocks that are years off, changes
# that only the next full look finds. What befalls disks besides: `python -m tests.simulation --kind database`.
FAULTS = ["cut", "replace", "delay", "kill", "clock", "hints"]
# What there must be in every hundred plans, at least so often, or they would show less than they say.
MUST_HAPPEN = {
    "INSERT": 300,
    "UPDATE": 300,
    "DELETE": 100,
    "REPLACE": 100,
    "upsert": 50,
    "key changed": 100,
    "rolled back": 50,
    "skewed clock": 50,
    "cut": 100,
    "kill": 50,
}


def plans() -> Iterator[Plan]:
    """Yield plans for four devices."""
    for seed in count():
        plan = make_plan(seed, DatabaseKind(), FAULTS)
        if len(plan.machines) == DEVICES:
            yield plan


def happens(plan: Plan) -> Iterator[str]:
    """Yield what a plan has of what must happen."""
    yield from ("skewed clock" for _, skew_s in plan.machines if skew_s)
    for step in plan.steps:
        yield step[0]
        if step[0] == "user" and step[2][0] == "app":
            _, _, _, _, undone, statements = step[2]
            if undone:
                yield "rolled back"
            for sql, *_ in statements:
                yield from statement(sql)


def statement(sql: str) -> Iterator[str]:
    """Yield what a statement is."""
    verb = sql.split(maxsplit=1)[0]
    if " OR REPLACE " in sql:
        yield "REPLACE"
    elif " ON CONFLICT" in sql:
        yield "upsert"
    else:
        yield verb
    if verb == "UPDATE":
        table, _, rest = sql.removeprefix("UPDATE ").removeprefix("OR REPLACE ").partition(" SET ")
        if rest.split()[0] in TABLES[table][: KEYS.get(table, 1)]:
            yield "key changed"


class Watched(DatabaseKind):
    """Remembers its machines, to look at them in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.machines: list[DatabaseMachine] = []

    def machine(self, number: int, *, mode: str = "send-receive", skew_us: int = 0) -> DatabaseMachine:
        machine = super().machine(number, mode=mode, skew_us=skew_us)
        self.machines.append(machine)
        return machine


def keeps_losers(machine: DatabaseMachine) -> bool:
    """Return whether some row keeps what a user wrote and lost."""
    items = [stored.item for stored in machine.look_at_state().everything()]
    states = [state_of(item) for item in items if unpack_key(item.key).table != SCHEMA_TABLE]
    cells = [cell for state in states for one in state.losers for cell in one.cells.values()]
    return any(isinstance(cell, str) and cell.startswith("v") for cell in cells)


def test_b35_the_plans_have_all_that_apps_do_and_all_that_goes_wrong() -> None:
    found = Counter(what for plan in islice(plans(), 100) for what in happens(plan))
    assert {what: found[what] for what, least in MUST_HAPPEN.items() if found[what] < least} == {}


@pytest.mark.parametrize("first", range(0, PLANS, BATCH))
def test_b35_four_devices_end_with_identical_tables_and_lists_of_what_lost(first: int) -> None:
    lost = False
    for plan in islice(plans(), first, first + BATCH):
        kind = Watched()
        violation = run(plan.seed, live, plan, kind, [])
        assert violation is None, f"seed {plan.seed}: {violation}\n{plan.text()}"
        # Rows, what lost to others, and which rows gave way.
        pictures = [machine.picture() for machine in kind.machines]
        assert len(pictures) == DEVICES
        assert all(picture == pictures[0] for picture in pictures)
        lost |= keeps_losers(kind.machines[0])
    assert lost, "ten plans without a conflict show little"
