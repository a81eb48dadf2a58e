"""Rows that a device sees for the first time, and that the others know already under a longer name.

A row that is inserted while its database is shared is named by its number and its birth. A file that was copied from
another device, or whose state was lost, holds such rows, too, and whoever looks at it for the first time knows nothing of births.
Taken for other rows that happen to have the same numbers, all of them would be there twice.

So a row of a first sight that nobody has written since, and a born one of its number that holds the same, are one:
the born one. The other is taken back by the device that brought it. Where two devices had given one number to two rows,
one of them is shown with a fresh number, and a file holds that: as its own, or as its parent's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from enum import Enum
from itertools import islice, product

from p2psyncd.core.ids import BASELINE_ACTOR
from p2psyncd.core.item import Draft, Item
from p2psyncd.sources.database.defaults import UnknownDefault, default_of
from p2psyncd.sources.database.keys import SCHEMA_TABLE, RowKey, fresh_pk, pack_key, plain_key, unpack_key
from p2psyncd.sources.database.row import UNENFORCED, draft, is_sound, removed, state_of
from p2psyncd.sources.database.schema import Schema, Table
from p2psyncd.sources.database.show import Catalogue, as_value, reference_roots
from p2psyncd.sources.database.values import Cell, Ref, Value, same_cell

__all__ = ["FirstNames", "SameRow", "name_here", "take_back_twins"]

# To look for each of the rows that came costs about 15 µs.
FEW = 1000
# A key of many references may be shown in as many ways as two to their number.
NAMES_MAX = 16
OBJECTS = SCHEMA_TABLE.encode() + b"/"


class FirstNames:
    """Tells under which names a file may hold a row for who knows nothing of births."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.roots = reference_roots(schema)

    def of(self, key: bytes) -> list[bytes]:
        """Return the names of a row, without births, likeliest first; none if it has a birth neither itself nor in its key."""
        plain = plain_key(key)
        if plain is None:
            return []
        at = unpack_key(key)
        table = self.schema.tables.get(at.table)
        if at.birth and isinstance(at.pk[0], int):
            return [plain, pack_key(at.table, (fresh_pk(at.table, at.pk[0], at.birth),))]
        if table is None or len(table.pk) != len(at.pk):
            return [plain]
        parts = [
            dict.fromkeys((as_value(part), self.fresh(at.table, column, part)))
            for column, part in zip(table.pk, at.pk, strict=True)
        ]
        return [pack_key(at.table, pk) for pk in islice(product(*parts), NAMES_MAX)]

    def fresh(self, table: str, column: str, cell: Cell) -> Cell:
        """Return a cell as it is shown where the row that it refers to has a fresh number."""
        root = self.roots.get((table, column))
        if root is None or not isinstance(cell, Ref):
            return as_value(cell)
        return fresh_pk(root, cell.pk, cell.birth)


class SameRow:
    """Tells whether two versions show the same in a database of some schema.

    A column that was added later is in no version that was written before: there it holds its default.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.names = FirstNames(schema)
        self.defaults: dict[tuple[str, str], Value | Unknown] = {}

    def __call__(self, first: Item, other: Item) -> bool:
        """Return whether a row of a first sight here and another version show the same.

        Numbers are compared as rows were born with them, and as they are shown where these were taken.
        """
        if not (first.live and other.live and is_sound(first) and is_sound(other)):
            return False
        at = unpack_key(other.key)
        table = self.schema.tables.get(at.table)
        ours, theirs = state_of(first).cells, state_of(other).cells
        if ours.keys() != theirs.keys() and table is None:
            return False
        return all(
            self.is_shown(at, table, name, as_value(cell), theirs[name])
            if name in theirs
            else self.is_default(table, name, as_value(cell))
            for name, cell in ours.items()
        ) and all(
            # What is in a column that is not here is in nobody's way, and stays.
            name in ours or not has_column(table, name) or self.is_default(table, name, as_value(cell))
            for name, cell in theirs.items()
        )

    def is_shown(self, at: RowKey, table: Table | None, column: str, value: Value, cell: Cell) -> bool:
        """Return whether a value is what a cell of another version may be shown as."""
        if same_cell(value, as_value(cell)):
            return True
        if at.birth and table is not None and table.pk == (column,) and isinstance(cell, int):
            return same_cell(value, fresh_pk(at.table, cell, at.birth))
        return isinstance(cell, Ref) and same_cell(value, as_value(self.names.fresh(at.table, column, cell)))

    def is_default(self, table: Table | None, column: str, value: Value) -> bool:
        """Return whether a value is what a column holds where nobody wrote it."""
        if table is None or not has_column(table, column):
            return False
        place = (table.name, column)
        if place not in self.defaults:
            try:
                self.defaults[place] = default_of(table, column)
            except UnknownDefault:
                self.defaults[place] = Unknown.UNKNOWN
        found = self.defaults[place]
        return not isinstance(found, Unknown) and same_cell(found, value)


class Unknown(Enum):
    """Stands for a default that only the app can tell."""

    UNKNOWN = 0


def has_column(table: Table | None, name: str) -> bool:
    """Return whether a table has a column."""
    return table is not None and any(column.name == name for column in table.columns)


def take_back_twins(store: Catalogue, schema: Schema, changed: Collection[bytes]) -> list[Draft]:
    """Return the writes that take back rows of a first sight that are the same as born ones which came.

    The other way round need not be looked: rows of a first sight stand in no log, so that nobody hears of one before
    its device has heard of all that was written.
    """
    some = store.keys_written_by(BASELINE_ACTOR, most=FEW + 1)
    if len(some) <= FEW and all(key.startswith(OBJECTS) for key in some):
        return []  # the tables were empty at the first sight, or every row has been written since
    is_same = SameRow(schema)
    names = {key: found for key in changed if (found := is_same.names.of(key))}
    known = store.get_many(sorted({name for found in names.values() for name in found}))
    firsts = {name: stored.item for name, stored in known.items() if stored.item.dot.actor == BASELINE_ACTOR}
    meant = {key: name for key, found in names.items() if (name := name_here(found, known)) in firsts}
    born = store.get_many(sorted(meant))
    twins = {meant[key] for key, stored in born.items() if is_same(firsts[meant[key]], stored.item)}
    return [taken_back(firsts[name]) for name in sorted(twins)]


def name_here(names: Sequence[bytes], known: Collection[bytes]) -> bytes | None:
    """Return under which of its names a row may be here, of those that are known, now or once; None if of none.

    Where the fresh one is known the file was made with the row there, and the plain one is another row's.
    """
    return next((name for name in reversed(names) if name in known), None)


def taken_back(item: Item) -> Draft:
    """Return a row as one that is not there, without a word of what it held: another one holds that.

    Its children, if it has any, mean the number, which that one has.
    """
    return draft(item.key, replace(removed(item, UNENFORCED), cells={}, stamps={}, image={}, losers=()))
