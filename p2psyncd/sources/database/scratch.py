"""What unique indexes over expressions, generated columns or some of the rows hold for a row that is nowhere stored.

Only SQLite knows that, and it depends on how the columns are declared: on their affinities and collations. So each such row is put
into a table in memory that has the app's columns, and nothing that could stand against it.
"""

# ruff: noqa: S608 - names are quoted, values are bound.
from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

import apsw

from p2psyncd.sources.database.indexes import TOKEN, OddUnique, is_word, joined, names_in
from p2psyncd.sources.database.names import quoted
from p2psyncd.sources.database.rows import affinity, bound
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.values import Value, text_of

__all__ = ["Scratch", "generated_from"]


def generated_from(table: Table) -> dict[str, tuple[str, frozenset[str]]]:
    """Return for each generated column its expression, and the columns that are named in it, taken from CREATE TABLE."""
    generated = {column.name.lower(): column.name for column in table.columns if column.generated}
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for part in parts_of(table.sql) if generated else ():
        name = generated.get(next(names_in(part[:1]), ""))
        if name is None:
            continue
        expression = expression_of(part)
        named = set(names_in(expression))
        columns = frozenset(column.name for column in table.columns if column.name.lower() in named)
        found[name] = (joined(expression), columns)
    return found


def expression_of(part: list[re.Match[str]]) -> list[re.Match[str]]:
    """Return what stands in parentheses after the AS of a generated column, which is in none itself."""
    depth = begin = 0
    for at, token in enumerate(part):
        if not depth and is_word(token, "AS"):
            begin = at + 2
        depth += (token[0] == "(") - (token[0] == ")")
        if begin and at >= begin and not depth:
            return part[begin:at]
    return []


def parts_of(sql: str) -> Iterator[list[re.Match[str]]]:
    """Yield what CREATE TABLE lists: columns and constraints."""
    tokens = [token for token in TOKEN.finditer(sql) if token.lastgroup != "gap"]
    begin = next(n for n, token in enumerate(tokens) if token[0] == "(") + 1
    depth = 1
    part: list[re.Match[str]] = []
    for token in tokens[begin:]:
        depth += (token[0] == "(") - (token[0] == ")")
        if not depth:
            break
        if token[0] == "," and depth == 1:
            yield part
            part = []
        else:
            part.append(token)
    yield part


class Scratch:
    """A table in memory with one row."""

    def __init__(self, table: Table, indexes: Collection[OddUnique]) -> None:
        """Make it.

        Raises:
            apsw.SQLError: The indexes need what only the app has: a function, say.
        """
        self.generated = generated_from(table)
        needed = self.needed(column for index in indexes for column in index.columns)
        self.connection = apsw.Connection(":memory:")
        self.name = quoted(table.name)
        columns = []
        for column in table.columns:
            if column.name not in needed:
                continue
            kind = affinity(column.type, strict=table.strict)
            declared = f"{quoted(column.name)} {kind} COLLATE {quoted(column.collation)}"
            if column.name in self.generated:
                declared += f" AS ({self.generated[column.name][0]})"
            columns.append(declared)
        # One transaction for ever: there is nothing to keep.
        self.connection.execute(f"CREATE TABLE {self.name}({', '.join(columns)}); BEGIN")
        self.connection.execute(f"INSERT INTO {self.name} DEFAULT VALUES")

    def stored(self, table: Table, columns: Collection[str]) -> tuple[str, ...]:
        """Return the stored columns that some columns depend on, in the table's order."""
        needed = self.needed(columns)
        return tuple(column.name for column in table.stored if column.name in needed)

    def needed(self, columns: Iterable[str]) -> set[str]:
        """Return columns with all that they depend on."""
        needed = set(columns)
        waiting = [*needed]
        while waiting:
            _, further = self.generated.get(waiting.pop(), ("", frozenset()))
            waiting += further - needed
            needed |= further
        return needed

    def work_out(self, odd: OddUnique, values: Mapping[str, Value]) -> tuple[Value, ...] | None:
        """Return what an index holds for a row; None if it holds nothing, or that cannot be said."""
        sql = f"UPDATE {self.name} SET {', '.join(f'{quoted(column)} = ?' for column in values)}"
        terms = [f"({term})" for term in odd.terms]
        rest = f"FROM {self.name}" + (f" WHERE {odd.where}" if odd.where else "")
        try:
            self.connection.execute(*bound(sql, tuple(values.values())))
            try:
                return self.connection.execute(f"SELECT {', '.join(terms)} {rest}").fetchone()
            except UnicodeDecodeError:
                return self.raw(terms, rest)
        except apsw.SQLError:
            return None

    def raw(self, terms: Collection[str], rest: str) -> tuple[Value, ...]:
        """Return the values of expressions among which a text is no UTF-8."""
        types = ", ".join(f"typeof({term})" for term in terms)
        values = ", ".join(f"iif(typeof({term}) = 'text', CAST({term} AS BLOB), {term})" for term in terms)
        (kinds,) = self.connection.execute(f"SELECT {types} {rest}")
        (found,) = self.connection.execute(f"SELECT {values} {rest}")
        return tuple(
            text_of(value) if kind == "text" else value for kind, value in zip(kinds, found, strict=True)
        )
