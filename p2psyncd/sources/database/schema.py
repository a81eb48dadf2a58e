"""What an app's database consists of: tables with their keys, columns and constraints, and which of them can be kept equal.

Everything is read through SQLite's own pragmas, so every way to quote or abbreviate has been understood by the
only parser that counts. The names are SQLite's spelling of the table or column itself, whatever a foreign key or an index calls it.

Two groups of tables are not taken. *Left out*: what belongs to one device (bookkeeping of migrations), what SQLite makes
itself from other tables (virtual tables and their shadows), what the user does not want. *Refused*: tables whose rows cannot be told
apart, or not be compared as the app compares them; the reason says what to do.
"""

# ruff: noqa: S608 - names are quoted, values are bound.
from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import apsw
import apsw.ext

from p2psyncd.sources.database.indexes import OddUnique, Unique, read_uniques
from p2psyncd.sources.database.keys import SCHEMA_TABLE
from p2psyncd.sources.database.names import is_bookkeeping, is_ours, is_shadow_of, quoted

__all__ = [
    "PRAGMA",
    "PRAGMAS",
    "UTF_8",
    "Column",
    "ForeignKey",
    "OddUnique",
    "Schema",
    "SchemaObject",
    "Table",
    "Unique",
    "parents_first",
    "quoted",
    "read_objects",
    "read_schema",
    "schema_version",
    "what_is_lacking",
]

NO_KEY = "it has no primary key, so its rows cannot be told apart: declare one, or leave the table out"
MIGRATIONS = "it is the bookkeeping of migrations, which every device does for itself"
VIRTUAL = "it is a virtual table"
SHADOW = "it holds the data of a virtual table"
WITHOUT = "it was named to be left out"
RESERVED = "its name begins with _p2p_, which is reserved"
OTHER_TEXT = (
    "its definition, or that of an index, holds text that is no UTF-8: write it anew, or leave the table out"
)
SCHEMA_NAME = (
    f"{SCHEMA_TABLE} is what the schema itself is called here: give it another name, or leave the table out"
)

KNOWN_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
UTF_8 = "UTF-8"
# By these an app knows its file, and which migrations it has run there.
PRAGMA, PRAGMAS = "pragma", ("user_version", "application_id")
# table_xinfo's `hidden`.
VIRTUAL_COLUMN, STORED_COLUMN = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `collation` is that of the primary key for its columns, otherwise the one declared."""

    name: str
    type: str
    not_null: bool
    default: str | None
    generated: bool
    collation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A declared reference. `parent` is the parent's name in `Schema.tables` where it exists."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str
    """NO ACTION, RESTRICT, SET NULL, SET DEFAULT or CASCADE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that has a primary key."""

    name: str
    columns: tuple[Column, ...]
    pk: tuple[str, ...]
    rowid: bool
    """The primary key is another name for the rowid."""
    without_rowid: bool
    strict: bool
    uniques: tuple[Unique, ...]
    odd_uniques: tuple[OddUnique, ...]
    foreign_keys: tuple[ForeignKey, ...]
    sql: str

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns that an app writes: all but the generated ones."""
        return tuple(column for column in self.columns if not column.generated)

    def column(self, name: str) -> Column:
        """Return a column by its exact name.

        Raises:
            KeyError: There is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        """The columns of the primary key, in its order."""
        return tuple(self.column(name) for name in self.pk)

    @property
    def key_condition(self) -> str:
        """The condition, with a `?` for each part, that a row has a key, as the key itself compares."""
        return " AND ".join(
            f"{quoted(column.name)} IS ?"
            if self.rowid
            else f"{quoted(column.name)} COLLATE {quoted(column.collation)} IS ?"
            for column in self.key_columns
        )

    @property
    def key_may_be_null(self) -> bool:
        """Whether SQLite lets a part of the key be NULL, as it does in tables that have a rowid."""
        return not (self.rowid or self.without_rowid or all(c.not_null for c in self.key_columns))

    def has_births(self, schema: Schema) -> bool:
        """Tell whether two devices may give one key to two different rows: it is one integer that refers to nothing."""
        if len(self.pk) != 1 or any(self.pk[0] in fk.columns for fk in self.foreign_keys):
            return False
        return self.rowid or "INT" in self.column(self.pk[0]).type.upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaObject:
    """One of the app's tables, indexes, views or triggers, as sqlite_schema lists it; or a number in the file's head (PRAGMA)."""

    type: str
    name: str
    table: str
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What there is, and why some of it is not taken (by the table's name)."""

    tables: dict[str, Table]
    version: int
    """SQLite's schema_version: another number means that the schema may have changed."""
    left_out: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    objects: tuple[SchemaObject, ...] = ()
    encoding: str = UTF_8
    """Of texts in the file."""


def encoding_of(connection: apsw.Connection) -> str:
    """Return the encoding of a file's texts: UTF-8, UTF-16le or UTF-16be; Python knows all by these names."""
    return str(connection.pragma("encoding"))


def schema_version(connection: apsw.Connection) -> int:
    """Return the number that changes with every change of the schema."""
    return int(connection.pragma("schema_version", schema="main"))


def is_current(schema: Schema, connection: apsw.Connection) -> bool:
    """Return whether the app has changed nothing of what was read; SQLite does not count changes of the pragmas."""
    return schema.version == schema_version(connection) and read_pragmas(connection) == tuple(
        each for each in schema.objects if each.type == PRAGMA
    )


def read_pragmas(connection: apsw.Connection) -> tuple[SchemaObject, ...]:
    """Return the numbers in the file's head that an app has set."""
    values = {name: int(connection.pragma(name, schema="main")) for name in PRAGMAS}
    return tuple(
        SchemaObject(type=PRAGMA, name=name, table="", sql=str(value))
        for name, value in values.items()
        if value
    )


def read_schema(connection: apsw.Connection, *, without: Collection[str] = ()) -> Schema:
    """Read the schema of the app's file.

    Args:
        connection: To the app's file, in a transaction or not.
        without: Names of tables that the user wants left out, in any case of letters.

    Raises:
        apsw.Error: It is no database, encrypted, damaged or locked.
    """
    version = schema_version(connection)
    kinds: dict[str, str] = {}
    options: dict[str, tuple[bool, bool]] = {}
    encoding: str = connection.pragma("encoding")
    for name, kind, bare, strict in connection.execute(
        "SELECT CAST(name AS BLOB), type, wr, strict FROM pragma_table_list WHERE schema = 'main'"
    ):
        text = name.decode(encoding, errors="replace")
        kinds[text], options[text] = kind, (bool(bare), bool(strict))
    objects, unreadable = read_objects(connection)
    shadows = shadow_tables(kinds, objects)
    unwanted = {name.lower() for name in without}
    tables: dict[str, Table] = {}
    left_out: dict[str, str] = {}
    refused: dict[str, str] = {}
    for each in objects:
        name = each.name
        if each.type != "table" or name.lower().startswith("sqlite_") or is_ours(name, each.sql):
            continue
        if reason := reason_to_leave_out(
            name, kinds.get(name, ""), name in shadows, name.lower() in unwanted
        ):
            left_out[name] = reason
            continue
        if any(one.table == name and one.type in {"table", "index"} for one in unreadable):
            refused[name] = OTHER_TEXT
            continue
        table = read_table(connection, name, each.sql, *options[name])
        if reason := reason_to_refuse(table) or reason_to_fail(connection, table):
            refused[name] = reason
        else:
            tables[name] = table
    return Schema(
        tables=with_parents(tables),
        version=version,
        left_out=left_out,
        refused=refused,
        objects=(
            *(one for one in app_objects(objects, shadows) if one not in unreadable),
            *read_pragmas(connection),
        ),
        encoding=encoding_of(connection),
    )


def read_objects(connection: apsw.Connection) -> tuple[list[SchemaObject], Collection[SchemaObject]]:
    """Return all objects of the schema, and those of them of which some text could not be read.

    SQLite takes any bytes for text, in a comment for instance.
    """
    encoding: str = connection.pragma("encoding")
    objects: list[SchemaObject] = []
    unreadable: set[SchemaObject] = set()
    for kind, *parts in connection.execute(
        "SELECT type, CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB)"
        " FROM main.sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"
    ):
        name, table, sql = (part.decode(encoding, errors="replace") for part in parts)
        objects.append(SchemaObject(type=kind, name=name, table=table, sql=sql))
        if [text.encode(encoding) for text in (name, table, sql)] != parts:
            unreadable.add(objects[-1])
    return objects, unreadable


def reason_to_leave_out(name: str, kind: str, shadow: bool, unwanted: bool) -> str:  # noqa: FBT001
    """Say why a table is left out, or nothing."""
    if unwanted:
        return WITHOUT
    if shadow:
        return SHADOW
    if kind == "virtual":
        return VIRTUAL
    if is_bookkeeping(name):
        return MIGRATIONS
    if name.lower().startswith("_p2p_"):
        return RESERVED
    return ""


def reason_to_refuse(table: Table) -> str:
    """Say why a table cannot be kept equal and what to do, or nothing."""
    if not table.pk:
        return NO_KEY
    if table.name == SCHEMA_TABLE:
        return SCHEMA_NAME
    compared = {column.collation for column in table.key_columns}
    for unique in table.uniques:
        compared.update(unique.collations)
    unknown = sorted(name for name in compared if name.upper() not in KNOWN_COLLATIONS)
    if unknown:
        return (
            f"a key or unique index compares with the collation {unknown[0]}, which only its own program has: "
            "leave the table out"
        )
    return ""


def reason_to_fail(connection: apsw.Connection, table: Table) -> str:
    """Say why our SQLite could not write a table's rows, and what to do, or nothing."""
    lacking = what_is_lacking(connection, table)
    return (
        f"its rows cannot be written without its own program ({lacking}): leave the table out"
        if lacking
        else ""
    )


def what_is_lacking(connection: apsw.Connection, table: Table) -> str:
    """Return what our SQLite lacks for writing a table's rows with TEMP triggers (a function, say, that a CHECK needs), or nothing."""
    columns = [quoted(column.name) for column in table.stored]
    name, places = f"main.{quoted(table.name)}", ", ".join("?" * len(columns))
    triggers = connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, -1)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    try:
        for sql in (
            f"INSERT INTO {name}({', '.join(columns)}) VALUES({places})",
            f"UPDATE {name} SET {', '.join(f'{column} = ?' for column in columns)} WHERE {table.key_condition}",
            f"DELETE FROM {name} WHERE {table.key_condition}",
        ):
            apsw.ext.query_info(connection, sql)
    except apsw.SQLError as error:
        return str(error)
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, triggers)
    return ""


def shadow_tables(kinds: dict[str, str], objects: Collection[SchemaObject]) -> set[str]:
    """Return the names of tables in which virtual tables keep their data."""
    shadows = {name for name, kind in kinds.items() if kind == "shadow"}
    # SQLite knows the shadows of modules that it has; of others we know the names.
    virtual = [o for o in objects if kinds.get(o.name) == "virtual"]
    shadows.update(name for name in kinds if any(is_shadow_of(name, v.name, v.sql) for v in virtual))
    return shadows


def app_objects(objects: Collection[SchemaObject], shadows: Collection[str]) -> Iterator[SchemaObject]:
    """Yield what the app made: nothing of SQLite's, of a virtual table's, or of ours."""
    for each in objects:
        names = (each.name, each.table)
        if any(name in shadows or name.lower().startswith("sqlite_") for name in names):
            continue
        if not is_ours(each.name, each.sql):
            yield each


def read_table(connection: apsw.Connection, name: str, sql: str, without_rowid: bool, strict: bool) -> Table:  # noqa: FBT001
    """Read one table; its foreign keys' parents are named as they were declared."""
    # cid, name, type, notnull, dflt_value, pk, hidden
    rows: list[tuple[Any, ...]] = connection.execute(
        "SELECT * FROM pragma_table_xinfo(?, 'main')", (name,)
    ).fetchall()
    pk = tuple(row[1] for row in sorted((row for row in rows if row[5]), key=lambda row: int(row[5])))
    uniques, odd, key_collations = read_uniques(connection, name, [row[1] for row in rows])
    columns = tuple(
        Column(
            name=column,
            type=kind,
            not_null=bool(not_null),
            default=default,
            generated=hidden in (VIRTUAL_COLUMN, STORED_COLUMN),
            collation=(key_collations or {}).get(column) or declared_collation(connection, name, column),
        )
        for _, column, kind, not_null, default, _, hidden in rows
    )
    return Table(
        name=name,
        columns=columns,
        pk=pk,
        rowid=bool(pk) and key_collations is None and not without_rowid,
        without_rowid=without_rowid,
        strict=strict,
        uniques=uniques,
        odd_uniques=odd,
        foreign_keys=tuple(read_foreign_keys(connection, name)),
        sql=sql,
    )


def declared_collation(connection: apsw.Connection, table: str, column: str) -> str:
    """Return the collation that a column was declared with."""
    return connection.column_metadata("main", table, column)[1]


def read_foreign_keys(connection: apsw.Connection, table: str) -> Iterator[ForeignKey]:
    """Yield the references that a table declares, in the order of their declaration."""
    grouped: dict[int, list[tuple[str, str, str | None, str]]] = {}
    # id, seq, table, from, to, on_update, on_delete, match; the last declared has id 0.
    for number, _, parent, column, to, _, on_delete, _ in connection.execute(
        "SELECT * FROM pragma_foreign_key_list(?, 'main') ORDER BY id DESC, seq", (table,)
    ):
        grouped.setdefault(number, []).append((parent, column, to, on_delete))
    for parts in grouped.values():
        yield ForeignKey(
            columns=tuple(column for _, column, _, _ in parts),
            parent=parts[0][0],
            # Without names it refers to the parent's key, filled in by `with_parents`.
            parent_columns=tuple(to for _, _, to, _ in parts if to is not None),
            on_delete=parts[0][3],
        )


def with_parents(tables: dict[str, Table]) -> dict[str, Table]:
    """Name parents and their columns as they name themselves, and the key where a reference names no columns.

    A reference that does not fit its parent goes: an app that declares one never enforces it, as SQLite would
    refuse to write either table.
    """
    by_name = {name.lower(): table for name, table in tables.items()}

    def resolved(key: ForeignKey) -> ForeignKey | None:
        parent = by_name.get(key.parent.lower())
        if parent is None:
            return key
        spelling = {column.name.lower(): column.name for column in parent.columns}
        columns = tuple(spelling.get(name.lower(), name) for name in key.parent_columns) or parent.pk
        if len(columns) != len(key.columns) or not is_unique(parent, columns):
            return None
        return replace(key, parent=parent.name, parent_columns=columns)

    return {
        name: replace(table, foreign_keys=tuple(fit for key in table.foreign_keys if (fit := resolved(key))))
        for name, table in tables.items()
    }


def is_unique(table: Table, columns: Collection[str]) -> bool:
    """Return whether some columns are what a reference may name: the primary key, or those of a unique index."""
    return set(columns) in (set(table.pk), *(set(unique.columns) for unique in table.uniques))


def parents_first(schema: Schema, names: Collection[str]) -> list[Table]:
    """Return tables so that parents come before their children, as far as there is such an order."""
    ordered: dict[str, Table] = {}
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in ordered or name in visiting or name not in schema.tables:
            return
        visiting.add(name)
        for foreign in schema.tables[name].foreign_keys:
            visit(foreign.parent)
        ordered[name] = schema.tables[name]

    for name in sorted(schema.tables):
        visit(name)
    return [table for name, table in ordered.items() if name in names]
