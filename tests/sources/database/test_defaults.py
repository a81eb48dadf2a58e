"""What a column holds by default: what SQLite itself would store."""

from __future__ import annotations

import apsw
import pytest

from p2psyncd.sources.database.defaults import UnknownDefault, default_of
from p2psyncd.sources.database.schema import read_schema


@pytest.mark.parametrize(
    "column",
    [
        "TEXT DEFAULT none",
        'TEXT DEFAULT "no\'ne"',
        "TEXT DEFAULT [a b]",
        "TEXT DEFAULT 'x'",
        "INTEGER DEFAULT '0'",
        "INTEGER DEFAULT -3",
        "REAL DEFAULT 5",
        "TEXT DEFAULT 5",
        "DEFAULT x'00'",
        "DEFAULT TRUE",
        "DEFAULT (1 + 2)",
        "DEFAULT (lower('A'))",
        "DEFAULT NULL",
        "VARCHAR(10)",
    ],
)
def test_a_default_is_what_sqlite_stores(column: str) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(f"CREATE TABLE t(id INTEGER PRIMARY KEY, one {column})")
    connection.execute("INSERT INTO t DEFAULT VALUES")
    [(expected,)] = connection.execute("SELECT one FROM t")
    found = default_of(read_schema(connection).tables["t"], "one")
    assert (type(found), found) == (type(expected), expected)


def test_a_default_that_only_the_app_can_make_is_unknown() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, one DEFAULT (uuid4()))")
    with pytest.raises(UnknownDefault, match="uuid4"):
        default_of(read_schema(connection).tables["t"], "one")
