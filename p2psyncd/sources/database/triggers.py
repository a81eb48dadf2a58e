"""The SQL that notes, in an app's own file, which rows the app touches.

Per table there is one side table, a row of which is a *hint*: the key of a row, when it was touched last, and how often it was. Triggers
write hints, so they come and go with the app's transactions, whatever program writes, and whether or not the daemon runs.

- The triggers name only columns of keys and of unique indexes: SQLite refuses to drop a column that a trigger names. It
  refuses to drop these anyway, but for one case: an app that drops a unique index, and then a column of it before the daemon has made the
  triggers anew, is refused (decision 0024).
- A hint is written as UPDATE, and as INSERT where that found none. Neither can meet a conflict, because the conflict clause of the app's
  statement would override ours: under INSERT OR IGNORE a hint would be dropped.
- What a REPLACE evicts fires no DELETE trigger (unless recursive_triggers is on). So whoever holds a unique value that is about to be taken is
  hinted beforehand; so is whoever has the rowid, where that is not the key. A hint too many is harmless: rows are compared, not believed.
- Everything here runs in SQLite 3.11 and under trusted_schema=OFF. (Before 3.25, and with legacy_alter_table, renaming a table does not rename
  it within triggers: if it has unique indexes, the next write to it fails until the daemon has made them anew.)
- What fires no trigger leaves no hint: incremental writes into a blob (sqlite3_blob_write), and apps that switch triggers off. A scan in full finds it.
"""

# ruff: noqa: S608 - names are quoted, and there are no values.
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from p2psyncd.sources.database.indexes import OddUnique, Unique
from p2psyncd.sources.database.names import MARK_TABLE, OURS, quoted
from p2psyncd.sources.database.schema import Table

__all__ = [
    "HintTable",
    "Made",
    "columns_of",
    "hint_table",
    "made_for",
    "mark_table",
    "number_of",
    "table_named_by",
]

NUMBERED = re.compile(r"_p2p_h([0-9]+)")
NOW = "CAST((julianday('now')-2440587.5)*86400000.0 AS INTEGER)"

# Affinities, by which SQLite reads a declared type, in the order of its rules.
AFFINITIES = (
    (("INT",), "INTEGER"),
    (("CHAR", "CLOB", "TEXT"), "TEXT"),
    (("BLOB",), "BLOB"),
    (("REAL", "FLOA", "DOUB"), "REAL"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An object that we put into the app's schema."""

    type: str
    name: str
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HintTable:
    """The side table of one of the app's tables."""

    number: int
    table: Table

    @property
    def name(self) -> str:
        """Its name."""
        return f"_p2p_h{self.number}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold the key, in its order."""
        return tuple(f"k{n}" for n in range(len(self.table.pk)))

    @property
    def operator(self) -> str:
        """How keys are compared: NULL is a value where a key may hold it."""
        return "IS" if self.table.key_may_be_null else "="

    def where(self, *keys: str) -> str:
        """Return the condition that a hint has this key."""
        return " AND ".join(f"{c} {self.operator} {key}" for c, key in zip(self.columns, keys, strict=True))


def hint_table(number: int, table: Table) -> HintTable:
    """Return the side table with this number."""
    return HintTable(number=number, table=table)


def made_for(hints: HintTable) -> tuple[Made, ...]:
    """Return all that is made for one table, in the order of its making."""
    return (*side_table(hints), *triggers(hints))


def mark_table() -> Made:
    """Return the table that holds the watermark, in its one row."""
    return Made(
        type="table",
        name=MARK_TABLE,
        sql=f"CREATE TABLE {MARK_TABLE}({OURS}*/ share BLOB, device BLOB, number INTEGER, nonce BLOB, arrival INTEGER)",
    )


def number_of(name: str) -> int | None:
    """Return the number of the side table that a name of ours belongs to."""
    found = NUMBERED.match(name)
    return int(found[1]) if found else None


def table_named_by(sql: str) -> str:
    """Return the app's table that the SQL of a side table names."""
    begin = sql.index(OURS) + len(OURS)
    return sql[begin : sql.index(" */", begin)].replace("%2A", "*").replace("%25", "%")


def columns_of(sql: str) -> str:
    """Return what the SQL of a side table says beside the name of the app's table."""
    return sql[sql.index(" */") :]


def side_table(hints: HintTable) -> Iterator[Made]:
    """Yield the side table, and its index where it needs one."""
    table = hints.table
    note = f"{OURS}{table.name.replace('%', '%25').replace('*', '%2A')} */"
    rest = "ms INTEGER, n INTEGER"
    if table.rowid:
        yield Made(
            type="table",
            name=hints.name,
            sql=f"CREATE TABLE {hints.name}({note} k0 INTEGER PRIMARY KEY, {rest})",
        )
        return
    columns = ", ".join(
        f"{name} {affinity(column.type, strict=table.strict)} COLLATE {column.collation.upper()}"
        for name, column in zip(hints.columns, table.key_columns, strict=True)
    )
    key = ", ".join(hints.columns)
    if table.key_may_be_null:
        yield Made(type="table", name=hints.name, sql=f"CREATE TABLE {hints.name}({note} {columns}, {rest})")
        index = f"{hints.name}x"
        yield Made(type="index", name=index, sql=f"CREATE INDEX {index} ON {hints.name}({OURS}*/ {key})")
        return
    sql = f"CREATE TABLE {hints.name}({note} {columns}, {rest}, PRIMARY KEY({key})) WITHOUT ROWID"
    yield Made(type="table", name=hints.name, sql=sql)


def triggers(hints: HintTable) -> Iterator[Made]:
    """Yield the triggers on the app's table."""
    new, old = (tuple(f"{row}.{quoted(name)}" for name in hints.table.pk) for row in ("NEW", "OLD"))
    moved = " OR ".join(f"{n} COLLATE BINARY IS NOT {o}" for n, o in zip(new, old, strict=True))
    yield trigger(hints, "i", "AFTER INSERT", "", touch(hints, new))
    yield trigger(hints, "d", "AFTER DELETE", "", touch(hints, old))
    yield trigger(hints, "u", "AFTER UPDATE", "", touch(hints, new))
    yield trigger(hints, "k", "AFTER UPDATE", moved, touch(hints, old))
    uniques: tuple[Unique | OddUnique, ...] = (*hints.table.uniques, *hints.table.odd_uniques)
    for n, unique in enumerate(uniques):
        claim = unique.claim()
        holder = f"EXISTS(SELECT 1 FROM {quoted(hints.table.name)} AS holder WHERE {claim})"
        yield trigger(hints, f"b{n}", "BEFORE INSERT", holder, touch_holder(hints, claim))
        changed = f"({unique.change()}) AND {holder}"
        yield trigger(hints, f"c{n}", "BEFORE UPDATE", changed, touch_holder(hints, claim))
    if rowid := name_of_rowid(hints.table):
        claim = f"holder.{rowid} = NEW.{rowid}"
        holder = f"EXISTS(SELECT 1 FROM {quoted(hints.table.name)} AS holder WHERE {claim})"
        yield trigger(hints, "r", "BEFORE INSERT", holder, touch_holder(hints, claim))
        changed = f"NEW.{rowid} IS NOT OLD.{rowid} AND {holder}"
        yield trigger(hints, "s", "BEFORE UPDATE", changed, touch_holder(hints, claim))


def name_of_rowid(table: Table) -> str:
    """Return what an app may call the rowid of a table that has another key; empty if there is nothing like that."""
    if table.rowid or table.without_rowid:
        return ""
    taken = {column.name.lower() for column in table.columns}
    return next((name for name in ("rowid", "oid", "_rowid_") if name not in taken), "")


def trigger(hints: HintTable, letter: str, event: str, when: str, body: str) -> Made:
    """Return one trigger."""
    name = f"{hints.name}{letter}"
    condition = f" WHEN {when}" if when else ""
    return Made(
        type="trigger",
        name=name,
        sql=f"CREATE TRIGGER {name} {event} ON {quoted(hints.table.name)}{condition} BEGIN {OURS}*/ {body} END",
    )


def touch(hints: HintTable, key: tuple[str, ...]) -> str:
    """Return the statements that hint at a row of the trigger."""
    return (
        f"UPDATE {hints.name} SET ms = {NOW}, n = n + 1 WHERE {hints.where(*key)}; "
        f"INSERT INTO {hints.name} SELECT {', '.join(key)}, {NOW}, 1 WHERE changes() = 0;"
    )


def touch_holder(hints: HintTable, claim: str) -> str:
    """Return the statements that hint at the row that holds a unique value."""
    source = f"FROM {quoted(hints.table.name)} AS holder WHERE {claim}"
    key = tuple(f"holder.{quoted(name)}" for name in hints.table.pk)
    return (
        f"UPDATE {hints.name} SET ms = {NOW}, n = n + 1 WHERE {hints.where(*(f'(SELECT {k} {source})' for k in key))}; "
        f"INSERT INTO {hints.name} SELECT {', '.join(key)}, {NOW}, 1 {source} AND changes() = 0;"
    )


def affinity(declared: str, *, strict: bool) -> str:
    """Return the affinity of a declared type, as a type that has it."""
    upper = declared.upper()
    if not upper or (strict and upper == "ANY"):
        return "BLOB"
    for parts, name in AFFINITIES:
        if any(part in upper for part in parts):
            return name
    return "NUMERIC"
