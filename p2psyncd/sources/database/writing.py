"""Carrying out a plan: what goes, what comes, what changes, in an order in which no row is in another one's way.

Rows that change one UNIQUE value for another that some row of the plan has now are taken out and put in again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from p2psyncd.sources.database.plan import Planner
from p2psyncd.sources.database.resolve import Row
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.show import HELD, Place
from p2psyncd.sources.database.values import Value, row_hash, same_cell

__all__ = ["Broken", "Writer"]

# The last is what an expression of the schema raises over a row's values (a CHECK or an index over JSON), or that a default
# needs a function which only the app has.
BREACHES = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.SQLError)
# Extended result codes of what other rows have nothing to do with.
OF_THE_ROW_ALONE = {
    apsw.SQLITE_CONSTRAINT_CHECK,
    apsw.SQLITE_CONSTRAINT_NOTNULL,
    apsw.SQLITE_CONSTRAINT_DATATYPE,
}


class Broken(Exception):
    """A row breaks a constraint."""


class Writer:
    """Carries out one plan, all of it or nothing."""

    def __init__(self, connection: apsw.Connection, planner: Planner) -> None:
        self.connection = connection
        self.planner = planner
        self.file: Rows = planner.file
        self.stuck = {
            planner.wholes.of(row.key) for row in planner.rows.values() if row.troubled and self.differs(row)
        }
        self.alone: set[bytes] = set()
        """Rows that break a constraint whatever other rows hold; see `find_broken`."""
        self.wrote = False
        self.gone: list[Row] = []
        self.new: list[Row] = []
        self.changed: list[tuple[Row, tuple[str, ...]]] = []
        self.sort()

    def differs(self, row: Row) -> bool:
        """Return whether what is there is not what is to be there.

        A row that an app has just deleted is gone, but not because it gave way to another one.
        """
        if row.goal is None or row.values is None or row.place is None:
            return row.goal is not None or row.values is not None or row.place is None or row.held
        return bool(self.changes(row))

    def changes(self, row: Row) -> tuple[str, ...]:
        """Return the columns that change."""
        assert row.goal is not None
        assert row.values is not None
        values = row.values
        return tuple(name for name, value in row.goal.items() if not same_cell(values[name], value))

    def is_stuck(self, row: Row) -> bool:
        """Return whether a row is left as it is, because of an edit that is not captured yet."""
        return bool(self.stuck) and self.planner.wholes.of(row.key) in self.stuck

    def sort(self) -> None:
        """Find out what is to be done with each row."""
        for row in self.planner.rows.values():
            if self.is_stuck(row):
                continue
            if row.values is None:
                if row.goal is not None:
                    self.new.append(row)
            elif row.goal is None:
                self.gone.append(row)
            elif changes := self.changes(row):
                if self.must_make_way(row, changes):
                    self.gone.append(row)
                    self.new.append(row)
                else:
                    self.changed.append((row, changes))
        self.wrote = bool(self.gone or self.new or self.changed)

    def must_make_way(self, row: Row, changes: Iterable[str]) -> bool:
        """Return whether a row has to be out of the way while others take what it had, or it what they had."""
        if row.number is not None and row.table.pk[0] in changes:
            return True
        return not set(self.planner.constraints.columns[row.table.name]).isdisjoint(changes)

    # Writing

    def write(self) -> None:
        """Do it.

        Raises:
            Broken: A row breaks a constraint; see `find_broken`.
        """
        try:
            for row in self.gone:
                self.delete(row)
            for (table, columns), rows in grouped((self.inserted(row), row) for row in self.new):
                self.file.insert(
                    self.table(table), columns, [tuple(r[c] for c in columns) for r in map(full, rows)]
                )
            for (table, columns), rows in grouped(
                ((row.table.name, changes), row) for row, changes in self.changed
            ):
                self.file.update(self.table(table), columns, [updated(row, columns) for row in rows])
        except BREACHES as error:
            raise Broken from error

    def table(self, name: str) -> Table:
        """Return a table by its name."""
        return self.planner.schema.tables[name]

    def delete(self, row: Row) -> None:
        """Delete a row from where it is."""
        assert row.place is not None
        self.file.delete(row.table, [row.place])

    def inserted(self, row: Row) -> tuple[str, tuple[str, ...]]:
        """Return the table and columns of a row that is inserted: those that it lacks get their defaults."""
        return (row.table.name, tuple(full(row)))

    def find_broken(self) -> dict[bytes, int]:
        """Return which rows break constraints (see `Row.broken`), by writing them one by one; nothing stays written."""
        found: dict[bytes, int] = {}
        order = self.planner.constraints.order
        updates = {row.key: changes for row, changes in self.changed}
        rows = sorted([*self.new, *(row for row, _ in self.changed)], key=order)
        self.connection.execute("SAVEPOINT probe")
        try:
            for row in self.gone:
                self.delete(row)
            for row in rows:
                try:
                    self.write_one(row, updates.get(row.key))
                except BREACHES as error:
                    code = getattr(error, "extendedresult", 0)
                    alone = code in OF_THE_ROW_ALONE or isinstance(error, apsw.SQLError)
                    has_image = row.state is not None and bool(row.state.image)
                    found[row.key] = 1 if alone and has_image and not row.broken else 2
                    if alone:
                        self.alone.add(row.key)
        finally:
            self.connection.execute("ROLLBACK TO probe")
            self.connection.execute("RELEASE probe")
        return found

    def write_one(self, row: Row, changes: tuple[str, ...] | None) -> None:
        """Write one row."""
        if changes is None:
            values = full(row)
            self.file.insert(row.table, tuple(values), [tuple(values.values())])
        else:
            self.file.update(row.table, changes, [updated(row, changes)])

    @property
    def freed(self) -> set[str]:
        """The tables of which rows went or changed."""
        return {row.table.name for row in (*self.gone, *(row for row, _ in self.changed))}

    # What is there then

    def state(self, row: Row) -> bytes:
        """Return the state of a row after all was written."""
        if row.goal is None:
            return b"" if row.item is None else HELD
        assert row.goal_place is not None
        if row.goal_state is not None:
            return row.goal_state
        values = full(row)
        columns = self.file.table(row.table)
        if len(values) < len(columns.columns) or not columns.keeps(values):
            values = self.file.read(row.table, row.goal_place) or values
        return row_hash(values)


def full(row: Row) -> dict[str, Value]:
    """Return all values of a row as it is to be: columns that the item lacks stay as they are."""
    assert row.goal is not None
    return row.goal if row.values is None else {**row.values, **row.goal}


def updated(row: Row, columns: Sequence[str]) -> tuple[Place, Place]:
    """Return the new values of some columns, and where the row is."""
    assert row.goal is not None
    assert row.place is not None
    return tuple(row.goal[column] for column in columns), row.place


def grouped(
    rows: Iterable[tuple[tuple[str, tuple[str, ...]], Row]],
) -> list[tuple[tuple[str, tuple[str, ...]], list[Row]]]:
    """Return rows by table and columns."""
    found: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
    for kind, row in rows:
        found.setdefault(kind, []).append(row)
    return list(found.items())
