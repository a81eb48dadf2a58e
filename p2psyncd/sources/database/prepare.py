"""What can be made of a batch before the app's file is locked for it: everything that only the versions themselves say.

Most of what comes is new rows of a few tables, nothing but their values. Those are prepared column by column: what takes
one call for a row otherwise takes one for the lot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Pending
from p2psyncd.sources.database.keys import RowKey, pack_table, unpack_key, unpack_table
from p2psyncd.sources.database.resolve import WHOLE_TABLE, Constraints
from p2psyncd.sources.database.row import RowState, plain_cells, stored_state
from p2psyncd.sources.database.rows import keeps, keeps_type
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.show import HELD, Place, as_value
from p2psyncd.sources.database.values import Ref, Value, row_hash, row_hashes
from p2psyncd.sources.source import Applied, Failed, Outcome

__all__ = ["Prepared", "prepare", "prepare_plain"]

Member = tuple[Pending, dict[str, Value]]
INTEGERS: set[type] = {int}


@dataclass(slots=True)
class Prepared:
    """A version of a row, decoded."""

    pending: Pending
    table: Table
    goal: dict[str, Value]
    """What is shown where every row has the number that it was born with."""
    place: Place
    hash: bytes | None
    """The state of that; None where the table has columns that the version lacks, or converts values."""
    plain: bool = False
    """Whether nothing is in place for it, and it has all columns of its table, just as they are stored, and the number that
    its key says."""
    known_at: RowKey | None = None
    known_state: RowState | None = None

    @property
    def at(self) -> RowKey:
        """What its key names."""
        if self.known_at is None:
            self.known_at = unpack_key(self.pending.item.key)
        return self.known_at

    @property
    def state(self) -> RowState:
        """What it says; its own stamps explicit."""
        if self.known_state is None:
            self.known_state = stored_state(self.pending.item)
        return self.known_state


def prepare_plain(batch: Iterable[Pending], constraints: Constraints) -> tuple[list[Prepared], list[Pending]]:
    """Return the plain rows of a batch (see `Prepared.plain`), prepared, and all others."""
    groups: dict[tuple[bytes, tuple[str, ...]], list[Member]] = {}
    others: list[Pending] = []
    row = Kind.ROW
    for pending in batch:
        item = pending.item
        plain = plain_cells(item.meta) if item.kind is row and pending.base is None else None
        if plain is None:
            others.append(pending)
        else:
            cells = plain[1]
            groups.setdefault((item.key.partition(b"/")[0], tuple(cells)), []).append((pending, cells))
    found: list[Prepared] = []
    for (name, columns), members in groups.items():
        table = constraints.schema.tables.get(unpack_table(name))
        rows = None
        if table is not None and constraints.births[table.name]:
            rows = column_by_column(table, constraints.affinities[table.name], columns, members)
        if rows is None:
            others += [pending for pending, _ in members]
        else:
            for one, (pending, _) in zip(rows, members, strict=True):
                if one is None:
                    others.append(pending)
                else:
                    found.append(one)
    return found, others


def column_by_column(
    table: Table, here: dict[str, str], names: tuple[str, ...], members: Sequence[Member]
) -> Iterator[Prepared | None] | None:
    """Yield rows with values for the same columns, prepared, None for those that are not plain; return None if none is.

    Args:
        table: Theirs.
        here: The affinities of its columns.
        names: The columns, sorted.
        members: The rows.
    """
    if here.keys() != set(names):
        return None
    columns = list(zip(*[cells.values() for _, cells in members], strict=True))
    kinds = [set(map(type, column)) for column in columns]
    for name, column, those in zip(names, columns, kinds, strict=True):
        affinity = here[name]
        if not all(keeps_type(affinity, kind) for kind in those) and not all(
            keeps(affinity, value) for value in column
        ):
            return None
    at = names.index(table.pk[0])
    if kinds[at] != INTEGERS:
        return None
    return numbered(table, members, columns[at], row_hashes(columns))


def numbered(
    table: Table, members: Sequence[Member], numbers: Sequence[Value], states: Iterable[bytes]
) -> Iterator[Prepared | None]:
    """Yield rows, prepared, None for those whose number is not the one that their key says."""
    name = pack_table(table.name)
    for (pending, cells), number, state in zip(members, numbers, states, strict=True):
        begin = b"%s/%x/%d" % (name, number >> 8, number)  # type: ignore[operator, str-format]  # looked at before
        key = pending.item.key
        if key == begin or key.startswith(begin + b"/"):
            yield Prepared(pending, table, cells, (number,), state, plain=True)
        else:
            yield None


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
        return Prepared(pending, table, {}, (), b"", known_at=at, known_state=state)
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
    return Prepared(
        pending, table, goal, place, row_hash(goal) if same else None, known_at=at, known_state=state
    )
