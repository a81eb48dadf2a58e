"""Triggers of the app that only keep a search index: they run while rows are applied, though all others do not.

An FTS table with external content holds nothing but the index; triggers on the table with the content keep it. If
they did not run, a search would not find what a peer wrote, and the app's next change of such a row would damage the
index. SQLite leaves only TEMP triggers on where triggers are off, so they are made again as such, for one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from p2psyncd.sources.database.schema import Schema

__all__ = ["search_triggers"]

NAME = r"""(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|[^\s"'`\[(,;.]+)"""
VIRTUAL = re.compile(
    rf"^CREATE VIRTUAL TABLE\s+(?:{NAME}\s+)?.*?\sUSING\s+fts[345]\b", re.IGNORECASE | re.DOTALL
)
HEAD = re.compile(rf"^CREATE TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:{NAME}\s*\.\s*)?{NAME}", re.IGNORECASE)
BODY = re.compile(r"\bBEGIN\b(.*)\bEND\b\s*;?\s*$", re.IGNORECASE | re.DOTALL)
WRITE = re.compile(
    rf"\b(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|REPLACE\s+INTO|UPDATE(?:\s+OR\s+\w+)?|DELETE\s+FROM)\s+({NAME})",
    re.IGNORECASE,
)
RAISE = re.compile(r"\bRAISE\s*\(", re.IGNORECASE)
# Texts and comments, in which anything may stand; a quoted name is none.
NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)


@contextmanager
def search_triggers(connection: apsw.Connection, schema: Schema) -> Iterator[None]:
    """Let the triggers that only keep search indexes run in this block, which is inside a transaction."""
    made: list[str] = []
    try:
        for number, sql in enumerate(search_trigger_sql(schema)):
            name = f"_p2p_search_{number}"
            connection.execute(HEAD.sub(f"CREATE TEMP TRIGGER {name}", sql, count=1))
            made.append(name)
        yield
    finally:
        for name in made:
            connection.execute(f"DROP TRIGGER IF EXISTS temp.{name}")


def search_trigger_sql(schema: Schema) -> list[str]:
    """Return the triggers on synced tables that write to search indexes and nowhere else."""
    indexes = {
        each.name.lower()
        for each in schema.objects
        if each.type == "table" and VIRTUAL.match(NOISE.sub(" ", each.sql))
    }
    if not indexes:
        return []
    by_name = {name.lower() for name in schema.tables}
    return [
        each.sql
        for each in schema.objects
        if each.type == "trigger" and each.table.lower() in by_name and writes_only(each.sql, indexes)
    ]


def writes_only(sql: str, tables: set[str]) -> bool:
    """Return whether a trigger writes to some tables, and to no others."""
    body = BODY.search(NOISE.sub(" ", sql))
    if body is None or RAISE.search(body[1]):
        return False
    written = {plain(name).lower() for name in WRITE.findall(body[1])}
    return bool(written) and written <= tables


def plain(name: str) -> str:
    """Return a name without its quotes."""
    for begin, end in (('"', '"'), ("[", "]"), ("`", "`")):
        if name.startswith(begin):
            return name[1:-1].replace(end * 2, end) if begin == end else name[1:-1]
    return name
