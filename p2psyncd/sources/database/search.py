"""Triggers of the app that only keep a search index: they run while rows are applied, though all others do not.

An FTS table with external content holds nothing but the index; triggers on the table with the content keep it. If
they did not run, a search would not find what a peer wrote, and the app's next change of such a row would damage the
index. SQLite leaves only TEMP triggers on where triggers are off, so they are made again as such, for one transaction.

An index whose tokenizer, or a function in its triggers, only the app has cannot be kept here: it is left as it is, and
its app has to build it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from p2psyncd.sources.database.names import quoted
from p2psyncd.sources.database.schema import Schema, SchemaObject, what_is_lacking

__all__ = ["SearchIndexes"]

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


class SearchIndexes:
    """The search indexes of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.triggers = search_triggers(schema)
        self.unkept: dict[str, str] = {}
        """Why the indexes of a table are not kept, as far as anybody has tried."""
        self.tried = not self.triggers

    @contextmanager
    def kept(self, connection: apsw.Connection) -> Iterator[None]:
        """Let the triggers that keep indexes run in this block, which is inside a transaction."""
        made: dict[str, str] = {}
        try:
            for number, each in enumerate(self.triggers):
                name = f"_p2p_search_{number}"
                connection.execute(HEAD.sub(f"CREATE TEMP TRIGGER {name}", each.sql, count=1))
                made[name] = each.table.lower()
            if not self.tried:
                self.leave_out_unkept(connection, made)
            yield
        finally:
            for name in made:
                connection.execute(f"DROP TRIGGER IF EXISTS temp.{name}")

    def leave_out_unkept(self, connection: apsw.Connection, made: dict[str, str]) -> None:
        """Find the tables that could not be written with these triggers, and drop what was made for them."""
        for name, table in self.schema.tables.items():
            if name.lower() not in made.values():
                continue
            if reason := what_is_lacking(connection, table) or self.what_fails(connection, name):
                self.unkept[name] = reason
                for trigger in [trigger for trigger, of in made.items() if of == name.lower()]:
                    del made[trigger]
                    connection.execute(f"DROP TRIGGER temp.{trigger}")
        lost = {name.lower() for name in self.unkept}
        self.triggers = [each for each in self.triggers if each.table.lower() not in lost]
        self.tried = True

    def what_fails(self, connection: apsw.Connection, table: str) -> str:
        """Return why an index of a table cannot be used, or nothing: FTS5 looks for its tokenizer when it first needs it."""
        triggers = [each for each in self.triggers if each.table.lower() == table.lower()]
        for index in sorted({index for each in triggers for index in written_by(each.sql)}):
            try:
                connection.execute(
                    f"SELECT 1 FROM main.{quoted(index)} WHERE {quoted(index)} MATCH 'x' LIMIT 1"  # noqa: S608  (quoted)
                ).fetchall()
            except (apsw.SQLError, apsw.CorruptError) as error:
                return str(error)
        return ""


def search_triggers(schema: Schema) -> list[SchemaObject]:
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
        each
        for each in schema.objects
        if each.type == "trigger" and each.table.lower() in by_name and writes_only(each.sql, indexes)
    ]


def writes_only(sql: str, tables: set[str]) -> bool:
    """Return whether a trigger writes to some tables, and to no others."""
    written = written_by(sql)
    return bool(written) and written <= tables


def written_by(sql: str) -> set[str]:
    """Return the tables that a trigger writes to, in small letters; none if it may forbid what it is for."""
    body = BODY.search(NOISE.sub(" ", sql))
    if body is None or RAISE.search(body[1]):
        return set()
    return {plain(name).lower() for name in WRITE.findall(body[1])}


def plain(name: str) -> str:
    """Return a name without its quotes."""
    for begin, end in (('"', '"'), ("[", "]"), ("`", "`")):
        if name.startswith(begin):
            return name[1:-1].replace(end * 2, end) if begin == end else name[1:-1]
    return name
