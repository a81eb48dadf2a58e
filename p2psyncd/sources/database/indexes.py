"""Unique indexes of the app's tables: which values a row claims for itself alone.

What SQLite's pragmas do not tell about an index over expressions, or over some of the rows, is taken from its CREATE INDEX: the
expressions and the condition, as text without comments, so that they can stand in a statement of ours.
"""

# ruff: noqa: S608 - names are quoted, and there are no values.
from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import apsw
import apsw.ext

from p2psyncd.sources.database.names import quoted

__all__ = ["TOKEN", "OddUnique", "Unique", "is_word", "joined", "names_in", "read_uniques"]

log = logging.getLogger(__name__)

TOKEN = re.compile(
    r"""(?P<gap>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<name>"(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
      | (?P<text>[xX]?'(?:[^']|'')*')
      | (?P<word>[A-Za-z_$\x80-\U0010ffff][\w$]*)
      | (?P<number>0[xX][0-9a-fA-F]+ | (?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
      | (?P<sign>->>|->|\|\||<=|>=|<>|!=|==|<<|>>|.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """A UNIQUE constraint, or a unique index over plain columns of all rows."""

    name: str
    columns: tuple[str, ...]
    collations: tuple[str, ...]
    constraint: bool = True
    """Part of CREATE TABLE; otherwise an index, which an app may drop before it drops a column."""

    def claim(self) -> str:
        """Return the condition that a row of the table holds the value that a trigger's NEW row claims."""
        return " AND ".join(
            f"holder.{quoted(column)} COLLATE {quoted(collation)} = NEW.{quoted(column)}"
            for column, collation in zip(self.columns, self.collations, strict=True)
        )

    def change(self) -> str:
        """Return the condition that a trigger's NEW row claims another value than its OLD one."""
        return " OR ".join(
            f"NEW.{quoted(column)} COLLATE {quoted(collation)} IS NOT OLD.{quoted(column)}"
            for column, collation in zip(self.columns, self.collations, strict=True)
        )

    def as_odd(self) -> OddUnique:
        """Return the same as an index over expressions, each of which is a column."""
        return OddUnique(
            name=self.name,
            terms=tuple(map(quoted, self.columns)),
            collations=self.collations,
            where="",
            columns=self.columns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OddUnique:
    """A unique index over some of the rows, or over expressions."""

    name: str
    terms: tuple[str, ...]
    """What is indexed, in SQL that names columns without a table."""
    collations: tuple[str, ...]
    where: str
    """Which rows are; empty: all."""
    columns: tuple[str, ...]
    """The columns that all of this depends on."""

    def claim(self) -> str:
        """Return the condition that a row of the table, `holder`, holds the value that a trigger's NEW row claims.

        Of a row that is not in the index no expression is worked out: it may be none that it can be worked out for.
        For NEW a CASE sees to that, for the holder the index itself, in which SQLite looks the values up.
        """
        new = ", ".join(f"NEW.{quoted(column)} AS {quoted(column)}" for column in self.columns)
        parts = [
            f"({term}) COLLATE {quoted(collation)} = (SELECT {self.guarded(term)} FROM (SELECT {new}))"
            for term, collation in zip(self.terms, self.collations, strict=True)
        ]
        return " AND ".join([f"({self.where})", *parts] if self.where else parts)

    def guarded(self, term: str) -> str:
        """Return a term that is NULL for rows that are not in the index, and is not worked out for them."""
        return f"CASE WHEN {self.where} THEN {term} END" if self.where else term

    def change(self) -> str:
        """Return the condition that a trigger's NEW row may claim another value than its OLD one."""
        return " OR ".join(
            f"NEW.{quoted(column)} COLLATE BINARY IS NOT OLD.{quoted(column)}" for column in self.columns
        )

    def works(self, connection: apsw.Connection, table: str) -> bool:
        """Tell whether SQLite understands `claim`: a trigger that it does not would keep the app from writing."""
        name = quoted(table)
        sql = f"SELECT (SELECT 1 FROM main.{name} AS holder WHERE {self.claim()}) FROM main.{name} AS NEW"
        try:
            apsw.ext.query_info(connection, sql)
        except apsw.SQLError:
            return False
        return True


def read_uniques(
    connection: apsw.Connection, table: str, columns: Collection[str]
) -> tuple[tuple[Unique, ...], tuple[OddUnique, ...], dict[str, str] | None]:
    """Return a table's unique indexes, plain and odd, and the collations of its primary key's columns.

    Returns:
        The last is None where the primary key has no index, which is so if it is the rowid.
    """
    uniques: list[Unique] = []
    odd: list[OddUnique] = []
    key: dict[str, str] | None = None
    # seq, name, unique, origin, partial; the first made comes last.
    indexes: list[tuple[Any, ...]] = connection.execute(
        "SELECT * FROM pragma_index_list(?, 'main') WHERE \"unique\" ORDER BY seq DESC", (table,)
    ).fetchall()
    for _, name, _, origin, partial in indexes:
        # seqno, cid, name, desc, coll, key; a cid below zero is the rowid or an expression.
        parts: list[tuple[Any, ...]] = connection.execute(
            "SELECT * FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno", (name,)
        ).fetchall()
        collations = tuple(part[4] for part in parts)
        if origin == "pk":
            key = {part[2]: part[4] for part in parts}
        elif partial or any(part[1] < 0 for part in parts):
            index = read_odd(index_sql(connection, name), name, collations, columns)
            if index.works(connection, table):
                odd.append(index)
            else:
                log.warning("index_not_understood table=%r index=%r", table, name)
        else:
            uniques.append(
                Unique(
                    name=name,
                    columns=tuple(part[2] for part in parts),
                    collations=collations,
                    constraint=origin == "u",
                )
            )
    return tuple(uniques), tuple(odd), key


def index_sql(connection: apsw.Connection, index: str) -> str:
    """Return an index's CREATE INDEX."""
    sql: str = connection.execute(
        "SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND name = ?", (index,)
    ).get
    return sql


def read_odd(sql: str, name: str, collations: tuple[str, ...], columns: Collection[str]) -> OddUnique:
    """Take a CREATE INDEX apart."""
    found = [token for token in TOKEN.finditer(sql) if token.lastgroup != "gap"]
    # CREATE UNIQUE INDEX name ON table ( ... ) WHERE ...; the name may be the word "on", so the first ON after it.
    begin = next(n for n, token in enumerate(found) if n > 3 and is_word(token, "ON")) + 3  # noqa: PLR2004
    terms: list[list[re.Match[str]]] = [[]]
    depth, at = 1, begin
    while True:
        token = found[at]
        at += 1
        depth += (token[0] == "(") - (token[0] == ")")
        if not depth:
            break
        if token[0] == "," and depth == 1:
            terms.append([])
        else:
            terms[-1].append(token)
    for term in terms:
        if is_word(term[-1], "ASC") or is_word(term[-1], "DESC"):
            term.pop()
    where = found[at + 1 :]
    named = set(names_in([token for term in terms for token in term] + where))
    return OddUnique(
        name=name,
        terms=tuple(joined(term) for term in terms),
        collations=collations,
        where=joined(where),
        columns=tuple(column for column in columns if column.lower() in named),
    )


def is_word(token: re.Match[str], word: str) -> bool:
    """Tell whether a token is a certain keyword."""
    return token.lastgroup == "word" and token[0].upper() == word


def joined(tokens: Collection[re.Match[str]]) -> str:
    """Return tokens as one line of SQL."""
    return " ".join(token[0] for token in tokens)


def names_in(tokens: Collection[re.Match[str]]) -> Iterator[str]:
    """Yield, in small letters, all that may be a column's name."""
    for token in tokens:
        text = token[0].lower()
        if token.lastgroup == "word":
            yield text
        elif token.lastgroup in ("name", "text"):
            # SQLite takes a quoted text for a name where only a name makes sense.
            yield text[1:-1].replace(text[-1] * 2, text[-1])
