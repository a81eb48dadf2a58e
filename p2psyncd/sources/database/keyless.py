"""Rows that have NULL in their primary key, as SQLite lets them where the key is not the rowid.

Any number of rows may have the same NULL, so they cannot be told apart: nobody could say which of them was changed or
deleted elsewhere. They are left as they are and reported, until the app gives them a key.
"""

# ruff: noqa: S608 - names are quoted, and there are no values.
from __future__ import annotations

from collections.abc import Collection, Iterator

import apsw

from p2psyncd.sources.database.names import quoted
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import Schema, Table
from p2psyncd.sources.database.show import pack
from p2psyncd.sources.source import ItemError

__all__ = ["drop_keyless", "keyless_errors", "may_be_keyless"]


def may_be_keyless(schema: Schema) -> set[str]:
    """Return the tables whose rows may have NULL in their key."""
    return {name for name, table in schema.tables.items() if table.key_may_be_null}


def keyless_errors(
    connection: apsw.Connection, schema: Schema, tables: Collection[str]
) -> Iterator[tuple[str, ItemError]]:
    """Yield which of some tables have such rows, and what to tell the user."""
    rows = Rows(connection)
    for name in sorted(tables):
        table = schema.tables.get(name)
        if table is None or not table.key_may_be_null:
            continue
        count: int = connection.execute(
            f"SELECT count(*) FROM main.{quoted(name)} WHERE {is_keyless(table)}"
        ).get
        if count:
            first, *_ = rows.table(table).find(f"{is_keyless(table)} LIMIT 1", ())
            what = "a row has" if count == 1 else f"{count} rows have"
            reason = (
                f"{what} NULL in the primary key of this table, and cannot be told apart from others like it"
            )
            yield (
                name,
                ItemError(
                    key=pack(table, first),
                    reason=f"{reason}: not synced until every part of the key is filled in",
                ),
            )


def drop_keyless(connection: apsw.Connection, schema: Schema) -> None:
    """Delete such rows: from a copy that is to travel."""
    for name in may_be_keyless(schema):
        connection.execute(f"DELETE FROM main.{quoted(name)} WHERE {is_keyless(schema.tables[name])}")


def is_keyless(table: Table) -> str:
    """Return the condition that a row has NULL in its key."""
    return " OR ".join(
        f"{quoted(column.name)} IS NULL" for column in table.key_columns if not column.not_null
    )
