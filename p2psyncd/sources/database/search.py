"""Triggers of the app that keep a search index: they run while rows are applied, though all others do not.

An FTS table with external content holds nothing but the index; triggers on the table with the content keep it. If
they did not run, a search would not find what a peer wrote, and the app's next change of such a row would damage the
index. SQLite leaves only TEMP triggers on where triggers are off, so they are made again as such, for one transaction.
Of a trigger that does more, count a table's rows, say, only the statements that keep an index are taken.

An index whose tokenizer, or a function in its triggers, only the app has cannot be kept here, nor one that is
written to by a statement which may refuse (RAISE): it is left as it is, and its app has to build it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import apsw

from p2psyncd.sources.database.indexes import TOKEN
from p2psyncd.sources.database.names import quoted
from p2psyncd.sources.database.schema import Schema, SchemaObject, what_is_lacking

__all__ = ["SearchIndexes"]

NAME = r"""(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|[^\s"'`\[(,;.]+)"""
VIRTUAL = re.compile(
    rf"^CREATE VIRTUAL TABLE\s+(?:{NAME}\s+)?.*?\sUSING\s+fts[345]\b", re.IGNORECASE | re.DOTALL
)
HEAD = re.compile(rf"^CREATE TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:{NAME}\s*\.\s*)?{NAME}", re.IGNORECASE)
WRITE = re.compile(
    rf"\s*(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|REPLACE\s+INTO|UPDATE(?:\s+OR\s+\w+)?|DELETE\s+FROM)\s+({NAME})",
    re.IGNORECASE,
)
RAISE = re.compile(r"\bRAISE\s*\(", re.IGNORECASE)
# Texts and comments, in which anything may stand; a quoted name is none.
NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)


class SearchIndexes:
    """The search indexes of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.triggers, self.unkept = search_triggers(schema)
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


def search_triggers(schema: Schema) -> tuple[list[SchemaObject], dict[str, str]]:
    """Return the triggers on synced tables that write to search indexes, without what else they do; and why none of a table's do."""
    indexes = {
        each.name.lower()
        for each in schema.objects
        if each.type == "table" and VIRTUAL.match(NOISE.sub(" ", each.sql))
    }
    triggers: list[SchemaObject] = []
    unkept: dict[str, str] = {}
    by_name = {name.lower(): name for name in schema.tables} if indexes else {}
    for each in schema.objects:
        if each.type == "trigger" and each.table.lower() in by_name:
            head, body = parts_of(each.sql)
            kept = [one for one in body if written(one) in indexes]
            if any(RAISE.search(NOISE.sub(" ", one)) for one in kept):
                unkept[by_name[each.table.lower()]] = f"its trigger {each.name} may refuse (RAISE)"
            elif kept:
                triggers.append(replace(each, sql=f"{head} {' '.join(f'{one};' for one in kept)} END"))
    lost = {name.lower() for name in unkept}
    return [each for each in triggers if each.table.lower() not in lost], unkept


def parts_of(sql: str) -> tuple[str, list[str]]:
    """Return a trigger's SQL up to its BEGIN, and the statements that follow; none where there are none."""
    head, begin, last = 0, 0, ""
    statements: list[str] = []
    for token in TOKEN.finditer(sql):
        if not head:
            # After a dot it is a column.
            if token[0].upper() == "BEGIN" and last != ".":
                head = begin = token.end()
        elif token[0] == ";":
            statements.append(sql[begin : token.start()])
            begin = token.end()
        last = token[0] if token["gap"] is None else last
    return sql[:head], statements


def written_by(sql: str) -> set[str]:
    """Return the tables that a trigger writes to, in small letters."""
    return {name for one in parts_of(sql)[1] if (name := written(one))}


def written(statement: str) -> str:
    """Return the table that a statement writes to, in small letters; nothing if it only reads."""
    found = WRITE.match(NOISE.sub(" ", statement))
    return plain(found[1]).lower() if found else ""


def plain(name: str) -> str:
    """Return a name without its quotes."""
    for begin, end in (('"', '"'), ("[", "]"), ("`", "`")):
        if name.startswith(begin):
            return name[1:-1].replace(end * 2, end) if begin == end else name[1:-1]
    return name
