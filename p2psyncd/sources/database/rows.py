"""Rows of the app's tables as they are: read and written inside one transaction, value for value.

Values are bound with their types and never quoted into SQL: floats are exact, texts may hold NUL, and a text that is
no UTF-8 goes in as a cast of its bytes. A row that is there is updated, one that is not is inserted, never
REPLACEd (that would delete other rows, and what refers to them); which of the two it is was looked up in the same
transaction. `OR ABORT` overrules an ON CONFLICT clause in the table's own definition.
"""

# ruff: noqa: S608 - names are quoted, values are bound.
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from sys import getsizeof
from typing import NamedTuple

import apsw

from p2psyncd.sources.database.indexes import OddUnique
from p2psyncd.sources.database.names import quoted
from p2psyncd.sources.database.schema import UTF_8, Table, encoding_of
from p2psyncd.sources.database.values import RawText, Value, text_of

__all__ = ["Rows", "affinities", "affinity", "bound", "keeps", "keeps_type"]

Place = tuple[Value, ...]
# Keys looked up at once; of only a few lengths of statement SQLite keeps prepared.
IN_MAX = 512

# A statement's own marks are outside of texts and names, in which a question mark may stand, too.
MARK = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|\?""")

PAGE_ROWS = 1000
# So many rows are inserted by one statement: faster, and other threads go on meanwhile. Of columns that all have a
# place among the parameters that a statement can have.
GROUP_ROWS, GROUPED_COLUMNS_MAX = 32, 500
PAGE_BYTES = 1 << 20
"""A page ends with the row with which it has so many bytes."""
# A result has no more than that.
COLUMNS_MAX = 2000
ROWID_NAMES = ("rowid", "oid", "_rowid_")


class Page(NamedTuple):
    """Some rows of a table, one after the other."""

    rows: list[dict[str, Value]]
    after: Place | None
    """Where the next page begins, which may have no rows; None: there is none."""


class TableRows:
    """The statements of one table."""

    def __init__(self, connection: apsw.Connection, table: Table, encoding: str) -> None:
        self.connection = connection
        self.table = table
        self.encoding = encoding
        self.columns = tuple(column.name for column in table.stored)
        self.affinities = affinities(table)
        self.name = f"main.{quoted(table.name)}"
        self.where = table.key_condition
        self.selected = ", ".join(quoted(column) for column in self.columns)
        self.select = f"SELECT {self.selected} FROM {self.name} WHERE {self.where}"
        self.delete = f"DELETE FROM {self.name} WHERE {self.where}"
        keys = ", ".join(quoted(column) for column in table.pk)
        self.keys = f"SELECT {keys} FROM {self.name} WHERE "
        self.number = numbering(table)
        self.order = paging_order(table, self.number)

    def read(self, place: Place) -> dict[str, Value] | None:
        """Return a row's values; None if there is none."""
        select, bindings = bound(self.select, place)
        try:
            row = self.plain(select, bindings).fetchone()
        except UnicodeError:
            rest = select.removeprefix(f"SELECT {self.selected}")
            row = next(self.raw(self.columns, rest, bindings), None)
        return None if row is None else dict(zip(self.columns, row, strict=True))

    def keeps(self, values: Mapping[str, Value]) -> bool:
        """Return whether the table stores values as they are: what one of another schema held may be converted."""
        return all(keeps(self.affinities[name], value) for name, value in values.items())

    def all(self) -> Iterator[dict[str, Value]]:
        """Yield the values of every row, in the order of the keys."""
        rest = f"FROM {self.name} ORDER BY {', '.join(quoted(column) for column in self.table.pk)}"
        read = 0
        try:
            for row in self.plain(f"SELECT {self.selected} {rest}"):
                yield dict(zip(self.columns, row, strict=True))
                read += 1
        except UnicodeError:
            for raw in self.raw(self.columns, f" {rest} LIMIT -1 OFFSET ?", (read,)):
                yield dict(zip(self.columns, raw, strict=True))

    def page(self, after: Place | None) -> Page:
        """Return the next rows after a place that an earlier page said; all rows where there is nothing to go by."""
        order = ", ".join(self.order)
        rest = f"FROM {self.name}"
        places: Sequence[Value] = ()
        if after is not None:
            # SQLite finds no place in an index by a row value that names collations.
            rest += f" WHERE {self.order[0]} >= ? AND ({order}) > ({', '.join('?' * len(after))})"
            places = (after[0], *after)
        if order:
            rest += f" ORDER BY {order} LIMIT {PAGE_ROWS}"
        rest, bindings = bound(rest, places)
        take = taken if order else list
        columns = [*self.columns, *self.number]
        try:
            wanted = ", ".join(map(quoted, columns))
            rows = take(self.plain(f"SELECT {wanted} {rest}", bindings))
        except UnicodeError:
            rows = take(self.raw(columns, f" {rest}", bindings))
        found = [dict(zip(self.columns, row, strict=False)) for row in rows]
        if not found or not order:
            return Page(found, None)
        number = rows[-1][len(self.columns) :]
        return Page(found, tuple(number) or tuple(found[-1][column] for column in self.table.pk))

    def read_numbers(self, numbers: Sequence[int]) -> list[Place]:
        """Return the values of rows whose key is one integer, columns in the order of their names; errors as `plain`."""
        names = ", ".join(quoted(column) for column in sorted(self.columns))
        found: list[Place] = []
        for at in range(0, len(numbers), IN_MAX):
            part = numbers[at : at + IN_MAX]
            marks = ",".join("?" * len(part))
            found += self.plain(
                f"SELECT {names} FROM {self.name} WHERE {quoted(self.table.pk[0])} IN ({marks})", part
            )
        return found

    def find(self, condition: str, values: Place) -> list[Place]:
        """Return the key values of the rows that fulfil a condition."""
        statement, bindings = bound(self.keys + condition, values)
        try:
            return [tuple(row) for row in self.plain(statement, bindings)]
        except UnicodeError:
            rest = f" FROM {self.name} WHERE " + statement.removeprefix(self.keys)
            return list(self.raw(self.table.pk, rest, bindings))

    def plain(self, sql: str, bindings: Sequence[object] = ()) -> apsw.Cursor:
        """Run a query whose texts are read as such.

        Raises:
            UnicodeError: They have to be read as bytes. Of UTF-16 that is none SQLite makes other text, and does not tell.
        """
        if self.encoding != UTF_8:
            raise UnicodeError(self.encoding)
        return self.connection.execute(sql, bindings)

    def raw(self, columns: Sequence[str], rest: str, bindings: Sequence[object]) -> Iterator[Place]:
        """Yield some columns of rows in which a text may be no UTF-8: read as bytes, beside the type of each.

        These are two statements, as a result has 2,000 columns at most, which a table may have already.
        """
        names = [quoted(column) for column in columns]
        types = ", ".join(f"typeof({name})" for name in names)
        values = ", ".join(f"iif(typeof({name}) = 'text', CAST({name} AS BLOB), {name})" for name in names)
        kinds = self.connection.execute(f"SELECT {types}{rest}", bindings)
        for row in self.connection.execute(f"SELECT {values}{rest}", bindings):
            yield tuple(
                text_of(value, self.encoding) if kind == "text" else value
                for kind, value in zip(next(kinds), row, strict=True)
            )


class Rows:
    """The rows of all tables that a transaction deals with."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.encoding = encoding_of(connection)
        self.tables: dict[str, TableRows] = {}

    def table(self, table: Table) -> TableRows:
        """Return the statements of a table."""
        found = self.tables.get(table.name)
        if found is None:
            found = self.tables[table.name] = TableRows(self.connection, table, self.encoding)
        return found

    def read(self, table: Table, place: Place) -> dict[str, Value] | None:
        """Return the values of a row, without generated columns; None if there is none."""
        return self.table(table).read(place)

    def read_numbers(self, table: Table, numbers: Sequence[int]) -> tuple[tuple[str, ...], list[Place]]:
        """Return the rows of a table whose key is one of some integers: the names of the columns, sorted, and their values.

        Raises:
            UnicodeError: They are to be read one by one.
        """
        of = self.table(table)
        return tuple(sorted(of.columns)), of.read_numbers(numbers)

    def numbers_present(self, table: Table, numbers: Sequence[Value]) -> set[Value]:
        """Return which of some numbers are keys of rows, in a table whose key is one integer."""
        name, key = f"main.{quoted(table.name)}", quoted(table.pk[0])
        found: set[Value] = set()
        for at in range(0, len(numbers), IN_MAX):
            part = numbers[at : at + IN_MAX]
            marks = ",".join("?" * len(part))
            found.update(
                number
                for (number,) in self.connection.execute(
                    f"SELECT {key} FROM {name} WHERE {key} IN ({marks})", part
                )
            )
        return found

    def find(
        self, table: Table, columns: Sequence[str], values: Place, collations: Sequence[str] = ()
    ) -> list[Place]:
        """Return the key values of the rows with these values in some columns.

        Args:
            table: The table.
            columns: Their names.
            values: What to look for.
            collations: How to compare; as the columns were declared if there are none.
        """
        compared = [f" COLLATE {collation}" for collation in collations] or [""] * len(columns)
        condition = " AND ".join(
            f"{quoted(column)}{collation} = ?" for column, collation in zip(columns, compared, strict=True)
        )
        return self.table(table).find(condition, values)

    def all(self, table: Table) -> Iterator[dict[str, Value]]:
        """Yield the values of every row of a table, in the order of the keys."""
        return self.table(table).all()

    def page(self, table: Table, after: Place | None) -> Page:
        """Return the next rows of a table; see `TableRows.page`."""
        return self.table(table).page(after)

    def find_odd(self, table: Table, odd: OddUnique, values: Place) -> list[Place]:
        """Return the key values of the rows for which an index over expressions, or some rows, holds some values."""
        parts = [
            f"({term}) COLLATE {quoted(collation)} = ?"
            for term, collation in zip(odd.terms, odd.collations, strict=True)
        ]
        return self.table(table).find(
            " AND ".join([f"({odd.where})", *parts] if odd.where else parts), values
        )

    def delete(self, table: Table, places: Iterable[Place]) -> None:
        """Delete rows."""
        self.run(self.table(table).delete, places)

    def insert(self, table: Table, columns: Sequence[str], rows: Iterable[Place]) -> None:
        """Insert rows.

        Raises:
            apsw.ConstraintError: One breaks a constraint.
            apsw.MismatchError: One has a text that a file of this encoding cannot hold.
        """
        names = ", ".join(quoted(column) for column in columns)
        marks = f"({', '.join('?' * len(columns))})"
        insert = f"INSERT OR ABORT INTO {self.table(table).name} ({names}) VALUES {marks}"
        rest = plain = list(self.fitting(rows))
        if len(columns) <= GROUPED_COLUMNS_MAX and not any(RawText in map(type, row) for row in plain):
            whole = len(plain) - len(plain) % GROUP_ROWS
            grouped = insert + f", {marks}" * (GROUP_ROWS - 1)
            for at in range(0, whole, GROUP_ROWS):
                self.connection.execute(grouped, list(chain.from_iterable(plain[at : at + GROUP_ROWS])))
            rest = plain[whole:]
        self.run(insert, rest)

    def update(self, table: Table, columns: Sequence[str], rows: Iterable[tuple[Place, Place]]) -> None:
        """Update columns of rows: (new values, key values); errors as `insert`."""
        of = self.table(table)
        names = ", ".join(f"{quoted(column)} = ?" for column in columns)
        self.run(
            f"UPDATE OR ABORT {of.name} SET {names} WHERE {of.where}",
            self.fitting((*new, *place) for new, place in rows),
        )

    def fitting(self, rows: Iterable[Place]) -> Iterable[Place]:
        """Return rows, each of which a file of this encoding can hold."""
        return rows if self.encoding == UTF_8 else map(fitting_utf_16, rows)

    def run(self, sql: str, rows: Iterable[Place]) -> None:
        """Run a statement for many bindings; those with a text that is no UTF-8 one by one."""
        plain: list[Place] = []
        for row in rows:
            if RawText in map(type, row):
                self.connection.execute(*bound(sql, row))
            else:
                plain.append(row)
        if plain:
            self.connection.executemany(sql, plain)


def fitting_utf_16(row: Place) -> Place:
    """Return a row that a file in UTF-16 can hold as it is.

    Raises:
        apsw.MismatchError: A text is no UTF-8, or has a character for which SQLite puts another one there.
    """
    for value in row:
        kind = type(value)
        if kind is RawText or (kind is str and ("\ufffe" in value or "\uffff" in value)):  # type: ignore[operator]
            raise apsw.MismatchError("a text that cannot be written in UTF-16")
    return row


def bound(sql: str, values: Sequence[Value]) -> tuple[str, Sequence[object]]:
    """Return a statement and what to bind: casts in place of the marks of texts that are no UTF-8."""
    if RawText not in map(type, values):
        return sql, values
    left = iter(values)

    def cast(found: re.Match[str]) -> str:
        if found[0] != "?":
            return found[0]
        return "CAST(? AS TEXT)" if isinstance(next(left), RawText) else "?"

    bindings = [value.data if isinstance(value, RawText) else value for value in values]
    return MARK.sub(cast, sql), bindings


def numbering(table: Table) -> tuple[str, ...]:
    """Return the rowid's name where it is none of the columns; nothing where there is none, or an app took all its names."""
    if table.without_rowid or table.rowid or len(table.columns) >= COLUMNS_MAX:
        return ()
    names = {column.name.lower() for column in table.columns}
    return tuple(name for name in ROWID_NAMES if name not in names)[:1]


def paging_order(table: Table, number: tuple[str, ...]) -> tuple[str, ...]:
    """Return by what the rows of a table are read page by page, as they lie; nothing where there is nothing to go by."""
    if table.without_rowid:
        return tuple(
            f"{quoted(column.name)} COLLATE {quoted(column.collation)}" for column in table.key_columns
        )
    return tuple(map(quoted, table.pk if table.rowid else number))


def taken(rows: Iterable[Sequence[Value]]) -> list[Sequence[Value]]:
    """Return rows until they are enough for a page."""
    found: list[Sequence[Value]] = []
    size = 0
    for row in rows:
        found.append(row)
        size += sum(map(getsizeof, row))
        if size >= PAGE_BYTES:
            break
    return found


def affinities(table: Table) -> dict[str, str]:
    """Return the affinities of a table's columns, generated ones left out; its columns in their order."""
    return {column.name: affinity(column.type, strict=table.strict) for column in table.stored}


def affinity(kind: str, *, strict: bool) -> str:
    """Return the affinity of a column of a declared type, as SQLite's documentation tells."""
    kind = kind.upper()
    if strict and kind == "ANY":
        return "BLOB"
    if "INT" in kind:
        return "INTEGER"
    if any(part in kind for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not kind or "BLOB" in kind:
        return "BLOB"
    return "REAL" if any(part in kind for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def keeps_type(affinity_here: str, kind: type) -> bool:
    """Return whether a column surely stores every value of a type as it is."""
    if kind is type(None) or kind is bytes or affinity_here == "BLOB":
        return True
    if affinity_here == "TEXT":
        return kind is str or kind is RawText
    return kind is int and affinity_here != "REAL"


def keeps(affinity_here: str, value: Value) -> bool:
    """Return whether a column surely stores a value as it is."""
    kind = type(value)
    if value is None or kind is bytes or affinity_here == "BLOB":
        return True
    if affinity_here == "TEXT":
        return kind is str or kind is RawText
    if affinity_here == "REAL":
        return kind is float and value != 0  # -0.0 becomes 0.0
    if kind is str:
        return not value or value[0].isalpha()  # type: ignore[index, union-attr]
    return kind is int or (kind is float and not value.is_integer())  # type: ignore[union-attr]
