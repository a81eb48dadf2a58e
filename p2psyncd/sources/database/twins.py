"""Rows that a device sees for the first time, and that the others know already under a longer name.

A row that is inserted while its database is shared is named by its number and its birth. A file that was copied from
another device, or whose state was lost, holds such rows, too, and whoever looks at it for the first time knows nothing of births.
Taken for other rows that happen to have the same numbers, all of them would be there twice.

So a row of a first sight that nobody has written since, and a born one of its number that holds the same, are one:
the born one. The other is taken back by the device that brought it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from enum import Enum

from p2psyncd.core.ids import BASELINE_ACTOR
from p2psyncd.core.item import Draft, Item
from p2psyncd.sources.database.defaults import UnknownDefault, default_of
from p2psyncd.sources.database.keys import SCHEMA_TABLE, plain_key, unpack_key
from p2psyncd.sources.database.row import UNENFORCED, draft, is_sound, removed, state_of
from p2psyncd.sources.database.schema import Schema, Table
from p2psyncd.sources.database.show import Catalogue, as_value
from p2psyncd.sources.database.values import Value, same_cell

__all__ = ["SameRow", "take_back_twins"]

# To look for each of the rows that came costs about 15 µs.
FEW = 1000
OBJECTS = SCHEMA_TABLE.encode() + b"/"


class SameRow:
    """Tells whether two versions show the same in a database of some schema.

    A column that was added later is in no version that was written before: there it holds its default.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.defaults: dict[tuple[str, str], Value | Unknown] = {}

    def __call__(self, first: Item, other: Item) -> bool:
        """Return whether a row of a first sight here and another version show the same, numbers of parents as they were born."""
        if not (first.live and other.live and is_sound(first) and is_sound(other)):
            return False
        table = self.schema.tables.get(unpack_key(first.key).table)
        ours, theirs = state_of(first).cells, state_of(other).cells
        if ours.keys() != theirs.keys() and table is None:
            return False
        return all(
            same_cell(as_value(cell), as_value(theirs[name]))
            if name in theirs
            else self.is_default(table, name, as_value(cell))
            for name, cell in ours.items()
        ) and all(
            # What is in a column that is not here is in nobody's way, and stays.
            name in ours or not has_column(table, name) or self.is_default(table, name, as_value(cell))
            for name, cell in theirs.items()
        )

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
    plain = {key: name for key in changed if (name := plain_key(key)) is not None}
    known = store.get_many(sorted(set(plain.values())))
    firsts = {name: stored.item for name, stored in known.items() if stored.item.dot.actor == BASELINE_ACTOR}
    born = store.get_many(sorted(key for key, name in plain.items() if name in firsts))
    is_same = SameRow(schema)
    twins = {plain[key] for key, stored in born.items() if is_same(firsts[plain[key]], stored.item)}
    return [taken_back(firsts[name]) for name in sorted(twins)]


def taken_back(item: Item) -> Draft:
    """Return a row as one that is not there, without a word of what it held: another one holds that.

    Its children, if it has any, mean the number, which that one has.
    """
    return draft(item.key, replace(removed(item, UNENFORCED), cells={}, stamps={}, image={}, losers=()))
