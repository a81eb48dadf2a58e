"""What can be made of a batch before the app's file is locked for it: everything that only the versions themselves say."""

from __future__ import annotations

from dataclasses import dataclass

from p2psyncd.core.storage import Pending
from p2psyncd.sources.database.keys import RowKey, unpack_key
from p2psyncd.sources.database.resolve import WHOLE_TABLE, Constraints
from p2psyncd.sources.database.row import RowState, stored_state
from p2psyncd.sources.database.rows import keeps
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.show import HELD, Place, as_value
from p2psyncd.sources.database.values import Ref, Value, row_hash
from p2psyncd.sources.source import Applied, Failed, Outcome

__all__ = ["Prepared", "prepare"]


@dataclass(slots=True)
class Prepared:
    """A version of a row, decoded."""

    pending: Pending
    at: RowKey
    table: Table
    state: RowState
    goal: dict[str, Value]
    """What is shown where every row has the number that it was born with."""
    place: Place
    hash: bytes | None
    """The state of that; None where the table has columns that the version lacks, or converts values."""


def prepare(pending: Pending, constraints: Constraints) -> Prepared | Outcome:
    """Return a version decoded, or its outcome where nothing needs to be done in the file."""
    item = pending.item
    try:
        at = unpack_key(item.key)
        state = stored_state(item)
    except ValueError as error:
        return Failed(key=item.key, reason=f"it is no row: {error}")
    table = constraints.table_of(at)
    if table is None:
        # It waits for the table, or for a migration that gives it such a key.
        if item.live and constraints.lacks(at.table):
            constraints.note_ahead(at.table, (WHOLE_TABLE,))
        return Applied(key=item.key, state=HELD if item.live else b"")
    if not item.live:
        return Prepared(pending, at, table, state, {}, (), b"")
    cells, here = state.cells, constraints.affinities[at.table]
    if cells.keys() == here.keys() and Ref not in map(type, cells.values()):
        goal: dict[str, Value] = dict(cells)  # type: ignore[arg-type]
    else:
        goal = {name: as_value(cell) for name, cell in cells.items() if name in here}
        if len(goal) < len(cells):
            constraints.note_ahead(at.table, cells.keys() - here.keys())
    try:
        place = tuple(goal[column] for column in table.pk)
    except KeyError:
        return Failed(key=item.key, reason=f"it lacks a part of the primary key of {at.table}")
    same = len(goal) == len(here) and (
        constraints.keeps_types(at.table, goal)
        or all(keeps(here[name], value) for name, value in goal.items())
    )
    return Prepared(pending, at, table, state, goal, place, row_hash(goal) if same else None)
