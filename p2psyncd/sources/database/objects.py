"""Tables, indexes, views and triggers that came from a peer, made in the app's file where that is wanted.

Wanted it is where nobody but us has made a table so far (a device without the app, or before it first ran), and where
the user said so. Only what adds is carried out: what is missing is made, and columns are added at a table's
end. Nothing is ever dropped or rebuilt here: that is for the app's own migration to do.

The SQL is a peer's. It is one statement, run with an authorizer that lets it make the one thing that it says it is, and what
stands in the file's schema afterwards must be that, letter by letter. Nothing of it runs without an end: a table or index is
made without a query, and each statement has a bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import closing

import apsw

from p2psyncd.core.storage import Pending
from p2psyncd.sources.database.keys import SCHEMA_TABLE, pack_key, unpack_key
from p2psyncd.sources.database.names import is_bookkeeping, quoted
from p2psyncd.sources.database.row import state_of
from p2psyncd.sources.database.schema import (
    PRAGMA,
    PRAGMAS,
    Schema,
    SchemaObject,
    Table,
    read_objects,
    read_schema,
)
from p2psyncd.sources.database.show import HELD
from p2psyncd.sources.database.values import row_hash
from p2psyncd.sources.faults import ROW_FAULTS, Faults
from p2psyncd.sources.source import Applied, Failed, Outcome

__all__ = ["CutOff", "Objects", "state_of_object"]

ORDER = ("table", "index", "view", "trigger", PRAGMA)
MODULES = {"fts3", "fts4", "fts5", "rtree", "rtree_i32", "geopoly"}
"""Modules of virtual tables that touch nothing but their own tables."""
HARMLESS = {
    apsw.SQLITE_SELECT,
    apsw.SQLITE_READ,
    apsw.SQLITE_FUNCTION,
    apsw.SQLITE_RECURSIVE,
    apsw.SQLITE_REINDEX,
}
QUERIES = {apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE}
MAKING = {
    apsw.SQLITE_CREATE_TABLE,
    apsw.SQLITE_CREATE_INDEX,
    apsw.SQLITE_CREATE_VIEW,
    apsw.SQLITE_CREATE_TRIGGER,
}
WRITING = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
OUTWARD = {apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH, apsw.SQLITE_PRAGMA, apsw.SQLITE_CREATE_VTABLE}
SQL_MAX = 1_000_000
INT_BITS = 32
VIRTUAL = "CREATE VIRTUAL TABLE"
"""So SQLite itself writes it down."""
# An index over eight million rows takes as many, a statement without an end one or two seconds until here.
STEPS_MAX, STEPS_ASKED = 100_000_000, 1_000_000


def state_of_object(each: SchemaObject) -> bytes:
    """Return the state of a table, index, view or trigger that is here."""
    return row_hash({"sql": each.sql, "table": each.table})


class Objects:
    """Makes what a batch wants to have made, inside a transaction of the app's file."""

    def __init__(
        self,
        connection: apsw.Connection,
        schema: Schema,
        *,
        wanted: bool,
        made: Collection[bytes],
        cut_off: Collection[bytes] = (),
        faults: Faults | None = None,
    ) -> None:
        """Begin.

        Args:
            connection: The app's file.
            schema: As it is.
            wanted: Whether the user lets peers add to the schema.
            made: The keys of what was made here for a peer before.
            cut_off: The keys of what took too long.
            faults: Who tells of errors that nobody foresaw.
        """
        self.faults = faults or Faults()
        self.cut_off = cut_off
        self.connection = connection
        self.here = {(each.type, each.name.lower()): each for each in schema.objects}
        tables = {object_key(each) for each in schema.objects if each.type == "table"}
        self.wanted = wanted or tables <= set(made)
        self.empty = not tables
        """Whether the file begins with what is made now."""
        self.made: set[bytes] = set()
        self.outcomes: list[Outcome] = []
        self.whole = connection.in_transaction
        self.trouble: apsw.Error | None = None

    def carry_out(self, batch: Sequence[Pending]) -> None:
        """Do what can be done about some objects; tables come first."""
        named: list[tuple[int, str, str, Pending]] = []
        for pending in batch:
            match unpack_key(pending.item.key).pk:
                case (str(kind), str(name)) if kind in ORDER:
                    named.append((ORDER.index(kind), kind, name, pending))
                case _:
                    reason = "it is no table, index, view, trigger or number of the file"
                    self.outcomes.append(Failed(key=pending.item.key, reason=reason))
        for _, kind, name, pending in sorted(named, key=lambda one: one[:3]):
            try:
                state = self.one(kind, name, pending)
            except ROW_FAULTS as error:
                reason = self.faults.reason(f"making {kind} {name}", error)
                self.outcomes.append(Failed(key=pending.item.key, reason=reason))
            else:
                self.outcomes.append(Applied(key=pending.item.key, state=state))

    def one(self, kind: str, name: str, pending: Pending) -> bytes:
        """Do what can be done about one object; return its state then."""
        here = self.here.get((kind, name.lower()))
        if here is not None and here.name != name:
            # SQLite takes both for one name, and here it has the other spelling.
            return HELD if pending.item.live else b""
        if not pending.item.live:
            return b"" if here is None else state_of_object(here)
        cells = state_of(pending.item).cells
        sql, table = cells.get("sql"), cells.get("table")
        if not isinstance(sql, str) or not isinstance(table, str) or len(sql) > SQL_MAX:
            return HELD if here is None else state_of_object(here)
        wanted = SchemaObject(type=kind, name=name, table=table, sql=sql)
        if (
            self.wanted
            and pending.item.key not in self.cut_off
            and not is_reserved(name)
            and not is_bookkeeping(table)
        ):
            try:
                if kind == PRAGMA:
                    self.number(wanted)
                elif here is None:
                    self.make(wanted)
                elif kind == "table" and here.sql != sql:
                    self.extend(here, wanted)
            except (apsw.Error, Unfit):
                if self.whole and not self.connection.in_transaction:
                    # All was rolled back with it: that is not for the next one to go on with.
                    raise self.trouble_with(pending.item.key) from None
            else:
                self.look_again(wanted)
        here = self.here.get((kind, name.lower()))
        return HELD if here is None else state_of_object(here)

    def number(self, wanted: SchemaObject) -> None:
        """Set a number in the head of a file that begins with a peer's tables, as their app would have."""
        value = int(wanted.sql) if re.fullmatch(r"-?[0-9]{1,10}", wanted.sql) else 0
        if wanted.name in PRAGMAS and self.empty and self.made and 0 < value.bit_length() < INT_BITS:
            self.connection.pragma(wanted.name, value)
            here = SchemaObject(type=PRAGMA, name=wanted.name, table="", sql=str(value))
            self.here[PRAGMA, wanted.name] = here

    def trouble_with(self, key: bytes) -> Exception:
        """Return why all was rolled back while an object was made."""
        trouble = self.trouble
        return CutOff(key) if trouble is None or isinstance(trouble, apsw.InterruptError) else trouble

    def make(self, wanted: SchemaObject) -> None:
        """Make an object.

        Raises:
            apsw.Error: SQLite will not.
            Unfit: It is not what it says.
        """
        self.run(wanted.sql, wanted.name, wanted)
        self.made.add(object_key(wanted))

    def extend(self, here: SchemaObject, wanted: SchemaObject) -> None:
        """Add the columns to a table that another definition has at its end; errors as `make`."""
        columns = added_columns(here.sql, wanted.sql, wanted.name)
        with self.connection:
            for column in columns:
                self.run(f"ALTER TABLE main.{quoted(here.name)} ADD COLUMN {column}", here.name)
            # Both without their parents and indexes, which are not what a definition says.
            [made] = [one for one in self.objects() if one.type == "table" and one.name == here.name]
            if columns_of(table_of(made.sql, made.name)) != columns_of(table_of(wanted.sql, made.name)):
                raise Unfit

    def run(self, sql: str, name: str, wanted: SchemaObject | None = None) -> None:
        """Run a peer's statement, which may make one thing, or change one table, and nothing else."""
        queries = wanted is None or wanted.type in {"view", "trigger"} or wanted.sql.startswith(VIRTUAL)

        def allowed(
            action: int, first: str | None, second: str | None, _base: str | None, _by: str | None
        ) -> int:
            first, second = first or "", second or ""
            own = first.lower() == name.lower() or first.lower().startswith((f"{name.lower()}_", "sqlite_"))
            fine = (
                (action in HARMLESS and (queries or action not in QUERIES))
                or (action in MAKING and own)
                or (action in WRITING and own and first.lower() != name.lower())
                or (action == apsw.SQLITE_ALTER_TABLE and second.lower() == name.lower())
                or (action == apsw.SQLITE_CREATE_VTABLE and own and second.lower() in MODULES)
            )
            return apsw.SQLITE_OK if fine else apsw.SQLITE_DENY

        before = self.objects() if wanted is not None else set()
        with self.connection:
            try:
                run_one(self.connection, sql, allowed)
            except apsw.Error as error:
                self.trouble = error  # leaving the savepoint may hide it
                raise
            if wanted is not None and wanted not in self.objects() - before:
                raise Unfit

    def objects(self) -> set[SchemaObject]:
        """Return all that is in the schema."""
        return set(read_objects(self.connection)[0])

    def look_again(self, wanted: SchemaObject) -> None:
        """Take note of what an object is like now."""
        for kind, name, table, sql in self.connection.execute(
            "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE name = ? AND type = ?",
            (wanted.name, wanted.type),
        ):
            self.here[kind, name.lower()] = SchemaObject(type=kind, name=name, table=table, sql=sql)


class CutOff(Exception):
    """An object took too long, and all that was done in the transaction is rolled back."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key


class Unfit(Exception):
    """A definition is not what it says, or more than an addition."""


def object_key(each: SchemaObject) -> bytes:
    """Return the key of an object."""
    return pack_key(SCHEMA_TABLE, (each.type, each.name))


def is_reserved(name: str) -> bool:
    """Return whether no peer's object may have a name."""
    return name.lower().startswith(("sqlite_", "_p2p_"))


def run_one(connection: apsw.Connection, sql: str, allowed: Callable[..., int]) -> None:
    """Run one statement of a peer's.

    Args:
        connection: Where.
        sql: It; what follows it is refused.
        allowed: The authorizer.

    Raises:
        apsw.Error: SQLite will not, or it takes too long.
    """
    asked = statements = 0

    def is_too_long() -> bool:
        nonlocal asked
        asked += 1
        return asked * STEPS_ASKED > STEPS_MAX

    def is_first(*_: object) -> bool:
        nonlocal statements
        statements += 1
        return statements == 1

    cursor = connection.cursor()
    cursor.exec_trace = is_first
    connection.authorizer = allowed
    connection.set_progress_handler(is_too_long, STEPS_ASKED)
    try:
        cursor.execute(sql).fetchall()
    finally:
        connection.set_progress_handler(None)
        connection.authorizer = None


def table_of(sql: str, name: str) -> Table:
    """Return the table that a definition makes, made in an empty database in memory."""
    outward = {*OUTWARD, *QUERIES}
    with closing(apsw.Connection(":memory:")) as connection:
        connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        run_one(connection, sql, lambda action, *_: apsw.SQLITE_DENY if action in outward else apsw.SQLITE_OK)
        table = read_schema(connection).tables.get(name)
    if table is None:
        raise Unfit
    return table


def columns_of(table: Table | None) -> object:
    """Return what of a table matters to its rows."""
    if table is None:
        return None
    uniques = sorted((unique.columns, unique.collations) for unique in table.uniques)
    return (
        table.columns,
        table.pk,
        table.rowid,
        table.without_rowid,
        table.strict,
        uniques,
        table.foreign_keys,
    )


def added_columns(here: str, wanted: str, name: str) -> list[str]:
    """Return the definitions of the columns that a table's definition has beyond another's.

    Raises:
        Unfit: They differ in more than that.
    """
    ours, theirs = table_of(here, name), table_of(wanted, name)
    known = [column.name for column in ours.columns]
    new = [column.name for column in theirs.columns[len(known) :]]
    if [column.name for column in theirs.columns[: len(known)]] != known or not new:
        raise Unfit
    found = {}
    for part in parts_of(wanted):
        text = part.strip()
        for column in new:
            if re.match(rf"""(?:{re.escape(quoted(column))}|\[{re.escape(column)}\]|`{re.escape(column)}`|{re.escape(column)})(?:\s|$)""", text, re.IGNORECASE):  # fmt: skip
                found[column] = text
    if len(found) != len(new):
        raise Unfit
    return [found[column] for column in new]


def parts_of(sql: str) -> list[str]:
    """Return what stands between the commas of a table's definition."""
    pieces = re.findall(
        r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|.""", sql, re.DOTALL
    )
    depth, parts, part = 0, [], ""
    for piece in pieces:
        if piece.startswith(("--", "/*")):
            part += " "
            continue
        if piece == ")":
            depth -= 1
            if not depth:
                break
        if piece == "," and depth == 1:
            parts.append(part)
            part = ""
        elif depth:
            part += piece
        if piece == "(":
            depth += 1
    return [*parts, part]
