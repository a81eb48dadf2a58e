"""Rows whose app does not enforce declared references: nobody is to mend those for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from p2psyncd.core.storage import Stored
from p2psyncd.sources.database.look import Sighting
from p2psyncd.sources.database.moments import Moments
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import ForeignKey, Schema, Table, quoted
from p2psyncd.sources.database.values import Value
from p2psyncd.sources.faults import ROW_FAULTS, Faults

__all__ = ["Orphans"]

# Conditions with more values are more than SQLite likes to plan.
IN_MAX = 500


class Orphans:
    """Tells which rows refer to nothing, and which were deleted though others refer to them."""

    def __init__(self, schema: Schema, faults: Faults) -> None:
        self.schema = schema
        self.faults = faults

    def orphaned(
        self, moments: Moments, page: Sequence[Sighting], bases: Mapping[bytes, Stored | None]
    ) -> set[bytes]:
        """Return which rows are new ones without a parent, or left such ones behind: their app does not enforce references."""
        gone, new = [], []
        for one in page:
            base = bases[one.key]
            if one.values is None:
                gone.append(one)
            elif one.table.foreign_keys and (base is None or not base.item.live):
                new.append((one.key, one.table, one.values))
        if not gone and not new:
            return set()
        with moments.open() as rows:
            return self.left_orphans(rows, gone) | {
                key for key, table, values in new if self.is_orphan(rows, table, values)
            }

    def is_orphan(self, rows: Rows, table: Table, values: Mapping[str, Value]) -> bool:
        """Return whether a row refers to something that is not in the file: its app does not enforce that."""
        return any(
            self.lacks_parent(rows, foreign, values)
            for foreign in table.foreign_keys
            if foreign.parent in self.schema.tables
        )

    def lacks_parent(self, rows: Rows, foreign: ForeignKey, values: Mapping[str, Value]) -> bool:
        """Return whether a row refers to a parent that is not there."""
        wanted = tuple(values.get(column) for column in foreign.columns)
        if None in wanted:
            return False
        try:
            return not rows.find(self.schema.tables[foreign.parent], foreign.parent_columns, wanted)
        except ROW_FAULTS as error:
            self.faults.reason(f"looking for a parent in {foreign.parent}", error)
            return True  # nobody mends what cannot be looked up

    def left_orphans(self, rows: Rows, gone: Sequence[Sighting]) -> set[bytes]:
        """Return which of the rows that are gone left rows behind that refer to them."""
        found: set[bytes] = set()
        for name in {one.table.name for one in gone}:
            table = self.schema.tables[name]
            if len(table.pk) != 1:
                continue
            # The table may have got another key: then no row refers to one by that.
            keys = {one.place[0]: one.key for one in gone if one.table.name == name and len(one.place) == 1}
            for child in self.schema.tables.values():
                for foreign in child.foreign_keys:
                    if foreign.parent == name and foreign.parent_columns == table.pk:
                        found |= {
                            keys[value]
                            for value in referred(rows, child, foreign, list(keys))
                            if value in keys
                        }
        return found


def referred(rows: Rows, child: Table, foreign: ForeignKey, values: Sequence[Value]) -> Iterator[Value]:
    """Yield which of some values a table still refers to: a look at the table, not one a row."""
    plain = [value for value in values if isinstance(value, int | str | bytes | float)]
    column = quoted(foreign.columns[0])
    for at in range(0, len(plain), IN_MAX):
        part = plain[at : at + IN_MAX]
        marks = ",".join("?" * len(part))
        for (value,) in rows.connection.execute(
            f"SELECT DISTINCT {column} FROM main.{quoted(child.name)} WHERE {column} IN ({marks})",  # noqa: S608
            part,
        ):
            yield value
