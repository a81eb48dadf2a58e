"""Whether the key of an item is one that a row of a table can have.

An app's new version may give a table another primary key, and devices do not get it at one time; and a peer can send any
key. A row whose key has another number of parts, a birth where there are none, or a value that its column would store
as another one cannot be put in place: it is kept until the table has such a key. The functions here are pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from p2psyncd.sources.database.keys import RowKey
from p2psyncd.sources.database.rows import affinity
from p2psyncd.sources.database.schema import Schema, Table
from p2psyncd.sources.database.values import Cell, RawText, Ref

__all__ = ["Fitting"]

# What SQLite makes a number of in a column with such an affinity.
NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?[ \t\n\v\f\r]*", re.ASCII)

TEXTS: frozenset[type] = frozenset({str, bytes, RawText})
NUMBERS: frozenset[type] = frozenset({int, float, bytes, RawText})
# By affinity: text that is no UTF-8 is no number either.
SURELY = {
    "TEXT": TEXTS,
    "BLOB": TEXTS | NUMBERS,
    "INTEGER": NUMBERS,
    "NUMERIC": NUMBERS,
    "REAL": NUMBERS - {int},
}


class Fitting:
    """The keys that rows of the tables of a schema can have."""

    def __init__(self, schema: Schema, references: Collection[tuple[str, str]]) -> None:
        """Begin; `references` are the tables and columns that refer to rows with births."""
        self.tables = schema.tables
        self.births = {name for name, table in schema.tables.items() if table.has_births(schema)}
        self.parts = {
            name: [
                Part(
                    affinity(column.type, strict=table.strict), table.rowid, (name, column.name) in references
                )
                for column in table.key_columns
            ]
            for name, table in schema.tables.items()
        }

    def table_of(self, at: RowKey) -> Table | None:
        """Return the table that a row with a key is in; None if there is none that can have it."""
        table = self.tables.get(at.table)
        return table if table is not None and self.fits(at, table) else None

    def fits(self, at: RowKey, table: Table) -> bool:
        """Return whether a row of a table can have a key."""
        pk = at.pk
        births = table.name in self.births
        if births and len(pk) == 1 and type(pk[0]) is int:
            return True
        if at.birth or (table.rowid and births):
            return False
        if not pk:  # only its hash is known: it is long, so no number
            return not table.rowid
        parts = self.parts[table.name]
        if len(pk) != len(parts):
            return False
        for cell, part in zip(pk, parts, strict=True):
            # A loop without calls for what nearly all keys are: every row that comes is looked at.
            if type(cell) not in part.surely and not part.keeps(cell):
                return False
        return True


class Part:
    """A column of a key."""

    __slots__ = ("affinity", "is_reference", "rowid", "surely")

    def __init__(self, affinity_here: str, rowid: bool, is_reference: bool) -> None:  # noqa: FBT001
        self.affinity = affinity_here
        self.rowid = rowid
        self.is_reference = is_reference
        self.surely = SURELY[affinity_here] & {int} if rowid else SURELY[affinity_here]
        """The types of which every value is stored as it is."""

    def keeps(self, cell: Cell) -> bool:
        """Return whether a value of another type is stored as it is; NULL is nobody's key."""
        match cell:
            case Ref():
                return self.is_reference and self.affinity != "TEXT"
            case int():
                return self.affinity == "REAL" and int(float(cell)) == cell
            case str():
                return not self.rowid and NUMBER.fullmatch(cell) is None
            case _:
                return False
