"""What a column holds where nobody wrote it: its DEFAULT, as SQLite itself understands and stores it.

A default is more than its text says: `DEFAULT none` is a text, and `DEFAULT '0'` a number where the column is one. So a
table with such a column is made in memory, and asked.
"""

from __future__ import annotations

from contextlib import closing, suppress

import apsw

from p2psyncd.sources.database.rows import affinity
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.values import Value

__all__ = ["UnknownDefault", "default_of"]


class UnknownDefault(Exception):
    """Only the app can tell what a column holds by default: it needs a function of its own, say."""


def default_of(table: Table, column: str) -> Value:
    """Return what a column holds where nobody wrote it.

    Raises:
        UnknownDefault: Only the app knows.
    """
    declared = table.column(column)
    if declared.default is None:
        return None
    kind = affinity(declared.type, strict=table.strict)
    # SQLite tells an expression without its parentheses. In them, a bare word would be a column's name.
    for text in (f"({declared.default})", declared.default):
        with suppress(apsw.Error, UnicodeDecodeError):
            return stored(f"CREATE TABLE made(one {kind} DEFAULT {text})")
    raise UnknownDefault(f"{table.name}.{column}: {declared.default}")


def stored(sql: str) -> Value:
    """Return what the one column of a table holds by default."""
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(sql)
        connection.execute("INSERT INTO made DEFAULT VALUES")
        value: Value = connection.execute("SELECT one FROM made").get
        return value
