"""What the app has touched, and nobody has captured yet: rows that a plan must leave alone, and what they refer to.

A row may be put in place that refers to one which the app has just deleted; or one may be deleted to which the app has just
given a child. Foreign keys do not speak up while versions are applied, so each is looked at here: once captured,
such a child would look as if its own app had never cared for its parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from p2psyncd.sources.database.hints import Hint
from p2psyncd.sources.database.resolve import Row
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import ForeignKey, Schema, Table
from p2psyncd.sources.database.show import Place, canonical_place

__all__ = ["Edits"]


class Edits:
    """The rows that hints tell of."""

    def __init__(self, schema: Schema, hints: Iterable[Hint]) -> None:
        self.schema = schema
        self.places = {
            (hint.table, canonical_place(schema.tables[hint.table], hint.pk))
            for hint in hints
            if hint.table in schema.tables
        }
        self.tables = {table for table, _ in self.places}

    def touched(self, table: Table, place: Place) -> bool:
        """Return whether the app touched a row."""
        return table.name in self.tables and (table.name, canonical_place(table, place)) in self.places

    def cross(self, row: Row, file: Rows) -> bool:
        """Return whether what is to become of a row crosses an edit of another one that has to do with it."""
        if not self.places:
            return False
        if row.number is not None and row.number != row.place and self.touched(row.table, row.number):
            return True  # the app has given that number to another row, or taken it from one
        if row.goal is not None:
            return any(self.parent_is_gone(foreign, row, file) for foreign in row.table.foreign_keys)
        return row.values is not None and any(
            self.touched(child, place) for child, place in self.children(row, file)
        )

    def parent_is_gone(self, foreign: ForeignKey, row: Row, file: Rows) -> bool:
        """Return whether a row is to refer to one that the app has deleted."""
        parent = self.schema.tables.get(foreign.parent)
        if (
            parent is None
            or foreign.parent not in self.tables
            or set(foreign.parent_columns) != set(parent.pk)
        ):
            return False
        assert row.goal is not None
        by_column = dict(
            zip(foreign.parent_columns, (row.goal.get(c) for c in foreign.columns), strict=False)
        )
        place = tuple(by_column[column] for column in parent.pk)
        return None not in place and self.touched(parent, place) and file.read(parent, place) is None

    def children(self, row: Row, file: Rows) -> Iterator[tuple[Table, Place]]:
        """Yield the rows of the file that refer to a row, of tables of which any row was touched."""
        assert row.values is not None
        for name in self.tables:
            child = self.schema.tables[name]
            for foreign in child.foreign_keys:
                values = tuple(row.values.get(column) for column in foreign.parent_columns)
                if foreign.parent == row.table.name and None not in values:
                    yield from ((child, place) for place in file.find(child, foreign.columns, values))
