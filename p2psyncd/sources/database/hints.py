"""Hints in an app's file about which rows it has touched: putting them in, reading, dropping, and taking all of it out again.

Beside the side tables and triggers (`triggers.py`) a file holds a *watermark*, one row that says which share and device the file belongs
to, and which step of an apply it contains: it changes in the same transaction as the rows.
"""

# ruff: noqa: S608 - names are our own, values are bound.
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import apsw

from p2psyncd.errors import NameTaken
from p2psyncd.sources.database.names import MARK_TABLE, OURS
from p2psyncd.sources.database.schema import Schema, encoding_of
from p2psyncd.sources.database.triggers import (
    HintTable,
    Made,
    columns_of,
    hint_table,
    made_for,
    mark_table,
    number_of,
    table_named_by,
)
from p2psyncd.sources.database.values import RawText, Value, text_of

__all__ = [
    "Hint",
    "Mark",
    "check_names",
    "drop_hints",
    "following",
    "following_apply",
    "hinted_among",
    "install",
    "installed",
    "is_hinted",
    "read_hints",
    "read_mark",
    "uninstall",
    "write_mark",
]


KEPT = "p2p_kept_"
# Dropping each by itself takes 5 µs, and an app waits for that; emptying the table takes nearly nothing.
DROPPED_AT_ONCE_MIN = 16


class Hint(NamedTuple):
    """The app touched a row."""

    table: str
    pk: tuple[Value, ...]
    ms: int
    """When it did last, in milliseconds since 1970 by this device's clock."""
    n: int
    """How often since the hint was last dropped; tells a hint from a later one about the same row."""


class Mark(NamedTuple):
    """What a file says about itself."""

    share: bytes
    device: bytes
    number: int
    nonce: bytes
    arrival: int = 0
    """How far the state had come (`ShareStorage.arrival`) when we last wrote to the file."""


class Found(NamedTuple):
    """An object of ours in the app's schema."""

    type: str
    name: str
    table: str
    sql: str


def install(connection: apsw.Connection, schema: Schema, *, share: bytes, device: bytes) -> None:
    """Put side tables, triggers and the watermark into the file, in one transaction; what is there already stays, with its hints.

    A watermark of another share or device begins anew. What belongs to tables that are gone or no longer taken is taken out.

    Raises:
        apsw.Error: The file cannot be written, or the app has it locked.
        NameTaken: Something of the app's has the watermark's name.
    """
    with writing(connection):
        check_names(connection)
        found = find_ours(connection)
        wanted = {made.name: made for made in wanted_objects(connection, schema, found)}
        # Triggers go first: while a side table is gone nothing may refer to it.
        for each in sorted(found, key=lambda each: each.type != "trigger"):
            made = wanted.get(each.name)
            if made is None or made.sql != each.sql:
                take_out(connection, each, made)
        present = {each.name for each in find_ours(connection)}
        for name, made in wanted.items():
            if name not in present:
                put_in(connection, made)
        mark = read_mark(connection)
        if mark is None or (mark.share, mark.device) != (share, device):
            connection.execute(f"DELETE FROM main.{MARK_TABLE}")
            connection.execute(f"INSERT INTO main.{MARK_TABLE} VALUES(?, ?, 0, x'', 0)", (share, device))


def installed(connection: apsw.Connection, schema: Schema) -> bool:
    """Tell whether all that `install` would make is there as it would make it, and nothing else of ours.

    Raises:
        NameTaken: Something of the app's has the watermark's name.
    """
    check_names(connection)
    found = find_ours(connection)
    wanted = wanted_objects(connection, schema, found)
    return {(o.name, o.sql) for o in found} == {(made.name, made.sql) for made in wanted}


def uninstall(connection: apsw.Connection) -> None:
    """Take everything of ours out of the file, in one transaction: the schema is then what it was before.

    Raises:
        apsw.Error: The file cannot be written, or the app has it locked.
    """
    with writing(connection):
        found = find_ours(connection)
        for each in found:
            if each.type == "trigger":
                connection.execute(f"DROP TRIGGER main.{each.name}")
        for each in found:
            if each.type == "table":
                connection.execute(f"DROP TABLE main.{each.name}")


def read_hints(connection: apsw.Connection, schema: Schema) -> list[Hint]:
    """Return all hints, the oldest first."""
    hints: list[Hint] = []
    for side in side_tables(connection, schema):
        name = side.table.name
        hints.extend(Hint(name, row[:-2], row[-2], row[-1]) for row in rows_of(connection, side))
    hints.sort(key=lambda hint: hint.ms)
    return hints


def drop_hints(connection: apsw.Connection, hints: Iterable[Hint]) -> None:
    """Drop hints, unless the app has touched their rows again since they were read."""
    names = side_names(connection)
    by_table: dict[str, list[Hint]] = {}
    for hint in hints:
        by_table.setdefault(hint.table, []).append(hint)
    for table, those in by_table.items():
        name = names.get(table)
        if name is None:
            continue
        if len(those) >= DROPPED_AT_ONCE_MIN and are_all(connection, name, those):
            connection.execute(f"DELETE FROM main.{name}")
            continue
        for hint in those:
            condition, bindings = key_condition(hint.pk)
            connection.execute(
                f"DELETE FROM main.{name} WHERE {condition} AND ms = ? AND n = ?",
                (*bindings, hint.ms, hint.n),
            )


def are_all(connection: apsw.Connection, name: str, hints: Sequence[Hint]) -> bool:
    """Return whether a side table holds just these hints."""
    if connection.execute(f"SELECT count(*) FROM main.{name}").get != len(hints):
        return False
    known = {(*hint.pk, hint.ms, hint.n) for hint in hints}
    try:
        return all(row in known for row in connection.execute(f"SELECT * FROM main.{name}"))
    except UnicodeDecodeError:
        return False  # a text that is no valid UTF-8 is compared by SQLite


def is_hinted(connection: apsw.Connection, table: str, pk: Sequence[Value]) -> bool:
    """Tell whether the app has touched a row since its hint was last dropped.

    Meant for single rows: whoever asks about many calls `read_hints` once in its transaction.
    """
    name = side_names(connection).get(table)
    if name is None:
        return False
    condition, bindings = key_condition(pk)
    sql = f"SELECT 1 FROM main.{name} WHERE {condition}"
    return connection.execute(sql, bindings).get is not None


def hinted_among(
    connection: apsw.Connection, table: str, places: Iterable[tuple[Value, ...]]
) -> set[tuple[Value, ...]]:
    """Return which of some rows of a table the app has touched since their hints were last dropped."""
    name = side_names(connection).get(table)
    if name is None or connection.execute(f"SELECT 1 FROM main.{name} LIMIT 1").get is None:
        return set()
    found = set()
    for place in places:
        condition, bindings = key_condition(place)
        if connection.execute(f"SELECT 1 FROM main.{name} WHERE {condition}", bindings).get is not None:
            found.add(place)
    return found


def read_mark(connection: apsw.Connection) -> Mark | None:
    """Return the watermark, or None where there is none of ours."""
    if not any(each.name == MARK_TABLE for each in find_ours(connection)):
        return None
    row = connection.execute(
        f"SELECT share, device, number, nonce, arrival FROM main.{MARK_TABLE}"
    ).fetchone()
    return None if row is None else Mark(*row)


def following_apply(number: int) -> int:
    """Return the number of an apply that follows: odd, so that no other transaction of ours ever passes for one that was not committed."""
    return number + 1 | 1


def following(number: int) -> int:
    """Return the number of any other transaction of ours that follows: even."""
    return number + 2 & ~1


def write_mark(connection: apsw.Connection, number: int, nonce: bytes) -> None:
    """Set the watermark, in the caller's transaction."""
    connection.execute(f"UPDATE main.{MARK_TABLE} SET number = ?, nonce = ?", (number, nonce))


@contextmanager
def writing(connection: apsw.Connection) -> Iterator[None]:
    """A transaction that has the right to write from the start, or a part of the one that is open."""
    if connection.in_transaction:
        with connection:
            yield
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def find_ours(connection: apsw.Connection) -> list[Found]:
    """Return what is ours in the app's schema."""
    rows = connection.execute(
        "SELECT type, name, tbl_name, sql FROM main.sqlite_schema"
        " WHERE name GLOB '_p2p_*' AND instr(sql, ?) ORDER BY rowid",
        (OURS,),
    )
    return [Found(*row) for row in rows]


def names_taken(connection: apsw.Connection) -> set[str]:
    """Return names like ours that the app has given to something of its own."""
    rows = connection.execute(
        "SELECT CAST(name AS BLOB) FROM main.sqlite_schema WHERE name LIKE '\\_p2p\\_%' ESCAPE '\\'"
        " AND NOT (name GLOB '_p2p_*' AND ifnull(instr(sql, ?), 0))",
        (OURS,),
    )
    encoding: str = connection.pragma("encoding")
    return {name.decode(encoding, errors="replace").lower() for (name,) in rows}


def check_names(connection: apsw.Connection) -> None:
    """See whether the file can have a watermark.

    Raises:
        NameTaken: Something of the app's has its name.
    """
    if MARK_TABLE in names_taken(connection):
        raise NameTaken(MARK_TABLE)


def numbers(found: Iterable[Found]) -> dict[str, int]:
    """Return the numbers that tables have. A table that was renamed has taken its triggers along; one that was rebuilt has lost them."""
    by_table: dict[str, int] = {}
    rebuilt: dict[str, int] = {}
    for each in found:
        number = number_of(each.name)
        if number is None:
            continue
        if each.type == "trigger":
            by_table[each.table] = number
        elif each.type == "table":
            rebuilt[table_named_by(each.sql)] = number
    for table, number in rebuilt.items():
        if number not in by_table.values():
            by_table.setdefault(table, number)
    return by_table


def side_of_each(schema: Schema, found: Sequence[Found], taken: set[str]) -> Iterator[HintTable]:
    """Yield the side tables that there should be: with the number that a table has, or the next free one."""
    known = {name.lower(): number for name, number in numbers(found).items()}
    used = set(known.values())
    following = 1
    for name, table in schema.tables.items():
        number = known.get(name.lower())
        if number is None:
            while following in used or any(t.startswith(f"_p2p_h{following}") for t in taken):
                following += 1
            number = following
            used.add(number)
        yield hint_table(number, table)


def wanted_objects(connection: apsw.Connection, schema: Schema, found: Sequence[Found]) -> list[Made]:
    """Return all that should be there, in the order in which it can be made."""
    made = [mark_table()]
    for side in side_of_each(schema, found, names_taken(connection)):
        made.extend(made_for(side))
    return made


def take_out(connection: apsw.Connection, found: Found, made: Made | None) -> None:
    """Take one object out; the hints of a side table whose key stays the same are kept for `put_in`."""
    if found.type == "table" and made is not None and columns_of(found.sql) == columns_of(made.sql):
        connection.execute(f"CREATE TEMP TABLE {KEPT}{found.name} AS SELECT * FROM main.{found.name}")
    # An index goes with its table.
    if found.type != "index":
        connection.execute(f"DROP {found.type} main.{found.name}")


def put_in(connection: apsw.Connection, made: Made) -> None:
    """Make one object, a side table with the hints that were kept."""
    connection.execute(made.sql)
    kept = f"{KEPT}{made.name}"
    if connection.table_exists("temp", kept):
        connection.execute(f"INSERT INTO main.{made.name} SELECT * FROM temp.{kept}")
        connection.execute(f"DROP TABLE temp.{kept}")


def side_names(connection: apsw.Connection) -> dict[str, str]:
    """Return the names of the side tables by the tables that they are about."""
    return {table: f"_p2p_h{number}" for table, number in numbers(find_ours(connection)).items()}


def side_tables(connection: apsw.Connection, schema: Schema) -> Iterator[HintTable]:
    """Yield the side tables that are there."""
    for table, number in numbers(find_ours(connection)).items():
        if table in schema.tables:
            yield hint_table(number, schema.tables[table])


def rows_of(connection: apsw.Connection, side: HintTable) -> list[tuple[Any, ...]]:
    """Return the rows of a side table; a text that is not UTF-8 as such."""
    try:
        return connection.execute(f"SELECT * FROM main.{side.name}").fetchall()
    except UnicodeDecodeError:
        parts = ", ".join(
            f"typeof({c}), iif(typeof({c}) = 'text', CAST({c} AS BLOB), {c})" for c in side.columns
        )
        typed = connection.execute(f"SELECT {parts}, ms, n FROM main.{side.name}").fetchall()
        encoding = encoding_of(connection)
        return [(*texts_of(row[:-2], encoding), *row[-2:]) for row in typed]


def texts_of(row: Sequence[Any], encoding: str) -> Iterator[Value]:
    """Yield values that were read as a type and a value each, texts as blobs."""
    for kind, value in zip(row[::2], row[1::2], strict=True):
        yield text_of(value, encoding) if kind == "text" else value


def key_condition(pk: Sequence[Value]) -> tuple[str, tuple[Value, ...]]:
    """Return the condition that a hint has this key, and what to bind."""
    parts = []
    bindings: list[Value] = []
    for n, value in enumerate(pk):
        if isinstance(value, RawText):
            parts.append(f"k{n} IS CAST(? AS TEXT)")
            bindings.append(value.data)
        else:
            parts.append(f"k{n} IS ?")
            bindings.append(value)
    return " AND ".join(parts), tuple(bindings)
