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


class Fitting:
    """The keys that rows of the tables of a schema can have."""

    def __init__(self, schema: Schema, references: Collection[tuple[str, str]]) -> None:
        """Begin; `references` are the tables and columns that refer to rows with births."""
        self.tables = schema.tables
        self.births = {name for name, table in schema.tables.items() if table.has_births(schema)}
        self.parts = {
            name: [
                (affinity(column.type, strict=table.strict), (name, column.name) in references)
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
        births = table.name in self.births
        if births and len(at.pk) == 1 and type(at.pk[0]) is int:
            return True
        if at.birth or (table.rowid and births):
            return False
        if not at.pk:  # only its hash is known: it is long, so no number
            return not table.rowid
        parts = self.parts[table.name]
        return len(at.pk) == len(parts) and all(
            fits_part(part, kept, is_reference=is_reference, rowid=table.rowid)
            for part, (kept, is_reference) in zip(at.pk, parts, strict=True)
        )


def fits_part(part: Cell, kept: str, *, is_reference: bool, rowid: bool) -> bool:
    """Return whether a column of a key, with an affinity, stores a value as it is; NULL is nobody's key."""
    match part:
        case None:
            return False
        case Ref():
            return is_reference and kept != "TEXT"
        case int():
            return kept != "TEXT" and (kept != "REAL" or int(float(part)) == part)
        case float():
            return kept != "TEXT" and not rowid
        case str():
            return not rowid and (kept in {"TEXT", "BLOB"} or NUMBER.fullmatch(part) is None)
        case bytes() | RawText():
            return not rowid
