from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.sources.database.resolve import Constraints
from p2psyncd.sources.database.schema import Schema, read_schema
from p2psyncd.sources.database.scratch import generated_from
from p2psyncd.sources.database.values import RawText, Value


def schema_of(ddl: str) -> Schema:
    connection = apsw.Connection(":memory:")
    connection.execute(ddl)
    return read_schema(connection)


def held(ddl: str, **cells: Value) -> tuple[Value, ...] | None:
    """Return what the last unique index of a table holds for a row."""
    unique = Constraints(schema_of(ddl)).unique["t"][-1]
    return unique.values(cells, lambda _, cell: cell)  # type: ignore[arg-type, return-value]  # no references


def test_expressions_of_generated_columns_are_found_in_whatever_way_they_are_written() -> None:
    schema = schema_of(
        """CREATE TABLE "t (a, b"(a TEXT DEFAULT (lower('x) AS (')), -- b AS (a)
             [b c] INTEGER GENERATED ALWAYS AS ((length(a) + 1) * 2) STORED UNIQUE,
             `d` NUM CHECK (d <> CAST('2' AS INT)) AS("b c" || A) VIRTUAL, k INTEGER PRIMARY KEY, CHECK (CAST(k AS INT) > 0))"""
    )
    table = schema.tables["t (a, b"]
    assert generated_from(table) == {
        "b c": ("( length ( a ) + 1 ) * 2", frozenset({"a"})),
        "d": ('"b c" || A', frozenset({"a", "b c"})),
    }


@pytest.mark.parametrize(
    ("ddl", "cells", "values"),
    [
        ("t(id, a TEXT, g AS (lower(a)) UNIQUE", {"a": "X"}, ("x",)),
        ("t(id, a, g AS (a || h), h INT AS (a) STORED, UNIQUE(a, g)", {"a": "7"}, ("7", "77")),
        ("t(id, a, g AS (lower(a)) UNIQUE", {}, None),
        ("t(id, a, g AS (nullif(a, 1)) UNIQUE", {"a": 1}, None),
        ("t(id, a TEXT, g AS (a || '!') UNIQUE", {"a": RawText(b"\xff")}, (RawText(b"\xff!"),)),
        ("t(id, a, b TEXT COLLATE NOCASE); CREATE UNIQUE INDEX i ON t(a) WHERE (b = 'x'", {"a": 1, "b": "X"}, (1,)),
        ("t(id, a, b INTEGER); CREATE UNIQUE INDEX i ON t(a) WHERE (b = '1'", {"a": 1, "b": 1}, (1,)),
        ("t(id, a, b BLOB); CREATE UNIQUE INDEX i ON t(a) WHERE (b = '1'", {"a": 1, "b": 1}, None),
        ("t(id, a, g AS (lower(a))); CREATE UNIQUE INDEX i ON t(g || 'x') WHERE (g <> 'a'", {"a": "B"}, ("bx",)),
        ("t(id, a, g AS (lower(a))); CREATE UNIQUE INDEX i ON t(g || 'x') WHERE (g <> 'a'", {"a": "A"}, None),
        ("t(id, a); CREATE UNIQUE INDEX i ON t((json_extract(a, '$.x'))", {"a": "no JSON"}, None),
    ],
)  # fmt: skip
def test_an_index_holds_for_a_row_what_it_holds_in_the_file(
    ddl: str, cells: dict[str, Value], values: tuple[Value, ...] | None
) -> None:
    assert held(f"CREATE TABLE {ddl.replace('t(id', 't(id INTEGER PRIMARY KEY', 1)})", **cells) == values


def test_what_only_the_app_has_does_no_harm_where_it_is_not_needed() -> None:
    columns = (
        "id INTEGER PRIMARY KEY, a TEXT, b TEXT COLLATE unicase, g AS (unaccent(a)), h AS (lower(a)) UNIQUE"
    )
    app = apsw.Connection(":memory:")
    app.create_collation("unicase", lambda a, b: (a > b) - (a < b))
    app.create_scalar_function("unaccent", lambda text: text, deterministic=True)
    app.execute(f"CREATE TABLE t({columns}); CREATE UNIQUE INDEX i ON t(a) WHERE a > 'x'")
    assert [unique.columns for unique in Constraints(read_schema(app)).unique["t"]] == [("a",), ("a",)]


def test_an_index_that_needs_what_only_the_app_has_says_nothing() -> None:
    app = apsw.Connection(":memory:")
    app.create_scalar_function("unaccent", lambda text: text, deterministic=True)
    app.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, g AS (unaccent(a)) UNIQUE)")
    assert Constraints(read_schema(app)).unique["t"] == []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("ddl", "first", "second"),
    [
        ("k TEXT PRIMARY KEY NOT NULL, a TEXT, g AS (lower(a)) UNIQUE)", "('1', 'A')", "('2', 'a')"),
        ("k INTEGER PRIMARY KEY, a TEXT, g AS (lower(a)) STORED); CREATE UNIQUE INDEX i ON t(g)", "(1, 'A')", "(2, 'a')"),
        ("k INTEGER PRIMARY KEY, a, b COLLATE NOCASE); CREATE UNIQUE INDEX i ON t(a) WHERE b = 'x'", "(1, 1, 'x')", "(2, 1, 'X')"),
        ("k INTEGER PRIMARY KEY, a, b INTEGER); CREATE UNIQUE INDEX i ON t(a) WHERE b = '1'", "(1, 1, 1)", "(2, 1, 1)"),
    ],
)  # fmt: skip
def test_of_two_rows_with_such_a_value_the_earlier_is_shown_everywhere_and_then_the_other(
    tmp_path: Path, clock: Clock, ddl: str, first: str, second: str
) -> None:
    a, b, c = (Replica(n, tmp_path / f"{n}.db", f"CREATE TABLE t({ddl}", clock) for n in (1, 2, 3))
    columns = "k, a, b" if "b COLLATE" in ddl or "b INT" in ddl else "k, a"
    a.run(f"INSERT INTO t({columns}) VALUES{first}")
    b.run(f"INSERT INTO t({columns}) VALUES{second}")
    exchange(a, b, c)
    shown = a.run(f"SELECT {columns} FROM t")
    assert str(shown[0]) == first
    assert a.tables() == b.tables() == c.tables()
    b.run("DELETE FROM t")
    exchange(a, b, c)
    assert str(a.run(f"SELECT {columns} FROM t")[0]) == second
    assert a.tables() == b.tables() == c.tables()
