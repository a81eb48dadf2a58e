"""What users of an app do to its database: SQL, as apps have it, in transactions of one statement or several.

An operation is plain: whether the app enforces its foreign keys and lets a REPLACE fire triggers, whether what it commits is durable at once,
whether it rolls back in the end, and statements with their bindings. One that breaks a constraint changes nothing, and the app goes on.

Texts that begin with "v" are unlike all others: they are what must not be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

import apsw
from kinds import Claim, Deed, Operation

from p2psyncd.sources.source import Dirty

__all__ = ["SCHEMA", "TABLES", "claim_of", "deed_of", "is_torn", "random_operation", "rows_of", "work"]

SCHEMA = """
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, mail TEXT UNIQUE, note, edits INTEGER DEFAULT 0);
CREATE TRIGGER person_edited AFTER UPDATE OF name ON person
  BEGIN UPDATE person SET edits = edits + 1 WHERE id = NEW.id; END;
CREATE TABLE pet(id INTEGER PRIMARY KEY,
  owner INTEGER REFERENCES person(id) ON DELETE CASCADE ON UPDATE CASCADE, name TEXT);
CREATE TABLE bill(id INTEGER PRIMARY KEY, payer INTEGER NOT NULL REFERENCES person(id), name TEXT);
CREATE TABLE task(id INTEGER PRIMARY KEY,
  owner INTEGER REFERENCES person(id) ON DELETE SET NULL ON UPDATE CASCADE, name TEXT);
CREATE TABLE tag(owner INTEGER REFERENCES person(id) ON DELETE CASCADE ON UPDATE CASCADE, word TEXT, name TEXT,
  PRIMARY KEY(owner, word)) WITHOUT ROWID;
CREATE TABLE word(word TEXT COLLATE NOCASE PRIMARY KEY, name TEXT, note);
CREATE TABLE seat(line INTEGER, letter TEXT, name TEXT, note, PRIMARY KEY(line, letter)) WITHOUT ROWID;
CREATE TABLE span(id INTEGER PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL, name TEXT,
  CHECK(low <= high));
INSERT INTO person VALUES(1, 'first', 'm0', 'base', 0), (2, 'second', NULL, 'base', 0);
INSERT INTO bill VALUES(1, 2, 'base');
INSERT INTO word VALUES('a', 'base', 1.0);
INSERT INTO span VALUES(1, 0, 5, 'base');
CREATE TABLE pair(id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO pair VALUES(1, 'base'), (2, 'base');
"""
TABLES: Mapping[str, tuple[str, ...]] = {
    "person": ("id", "name", "mail", "note", "edits"),
    "pet": ("id", "owner", "name"),
    "bill": ("id", "payer", "name"),
    "task": ("id", "owner", "name"),
    "tag": ("owner", "word", "name"),
    "word": ("word", "name", "note"),
    "seat": ("line", "letter", "name", "note"),
    "span": ("id", "low", "high", "name"),
    "pair": ("id", "name"),
}
PAIR = "pair"
"""A table whose rows hold the same at any moment, if no part of a transaction is ever seen; one machine writes to it."""
KEYS: Mapping[str, int] = {"tag": 2, "seat": 2}
"""How many of the first columns are the key, where that is more than one."""
NUMBERS = 4
WORDS = ["a", "A", "b", "ä"]
MAILS = [None, "m0", "m1", "m2"]
SET = "UPDATE {} SET {} WHERE {}"

Statement = tuple[Any, ...]
"""SQL and its bindings."""


# What a user chooses


def random_operation(random: Random, serial: int) -> Operation:
    """Return something that an app may do; see the top of the file."""
    if random.random() < 0.06:
        return ("both", random.random() < 0.5, f"v{serial}.0")
    enforces = random.random() < 0.97
    recursive = random.random() < 0.3
    durable = random.random() < 0.5
    undone = random.random() < 0.08
    count = random.choice([1, 1, 1, 2, 3])
    made = Maker(random, serial)
    statements = tuple(made.statement() for _ in range(count))
    return ("app", enforces, recursive, durable, undone, statements)


class Maker:
    """Makes statements with values that are told apart by a number."""

    def __init__(self, random: Random, serial: int) -> None:
        self.random = random
        self.serial = serial
        self.made = 0

    def text(self) -> str:
        """Return a text unlike all others; now and then two people write the very same."""
        if self.random.random() < 0.1:
            return f"same {self.random.randrange(3)}"
        self.made += 1
        return f"v{self.serial}.{self.made}"

    def odd(self) -> Any:
        """Return a value of any type."""
        choice = self.random.random()
        if choice < 0.6:
            return self.text()
        if choice < 0.75:
            return self.text().encode()
        return self.random.choice([None, 1, 1.0, -0.0, "nul\0in it", b"\xff\0", 2**63 - 1, 0.1])

    def values(self, table: str) -> list[Any]:
        """Return the values of a whole row."""
        random = self.random
        number = random.choice([*range(1, NUMBERS + 1), None])
        if table == "person":
            return [number, self.text(), random.choice(MAILS), self.odd(), 0]
        if table in {"pet", "bill", "task"}:
            return [number, random.randrange(1, NUMBERS + 1), self.text()]
        if table == "tag":
            return [random.randrange(1, NUMBERS + 1), random.choice(WORDS), self.text()]
        if table == "word":
            return [random.choice(WORDS), self.text(), self.odd()]
        if table == "seat":
            return [random.randrange(1, 3), random.choice(["x", "y"]), self.text(), self.odd()]
        low = random.randrange(10)
        return [number, low, low + random.randrange(5), self.text()]

    def statement(self) -> Statement:
        """Return one statement."""
        table = self.random.choice([*(name for name in TABLES if name != PAIR), "person", "person"])
        choice = self.random.random()
        if choice < 0.3:
            return self.insert(table, "INSERT")
        if choice < 0.4:
            return self.insert(table, "INSERT OR REPLACE")
        if choice < 0.48:
            return self.upsert(table)
        if choice < 0.78:
            return self.update(table)
        if choice < 0.86:
            return self.update_key(table)
        return (f"DELETE FROM {table} WHERE {self.chosen(table)}",)

    def insert(self, table: str, verb: str) -> Statement:
        values = self.values(table)
        return (f"{verb} INTO {table} VALUES({', '.join('?' * len(values))})", *values)

    def upsert(self, table: str) -> Statement:
        """Return an INSERT that updates the row that is there."""
        sql, *values = self.insert(table, "INSERT")
        key = ", ".join(TABLES[table][: KEYS.get(table, 1)])
        return (f"{sql} ON CONFLICT({key}) DO UPDATE SET name = excluded.name", *values)

    def update(self, table: str) -> Statement:
        """Return an UPDATE of one column, or of several."""
        new = dict(zip(TABLES[table], self.values(table), strict=True))
        columns = [name for name in TABLES[table][KEYS.get(table, 1) :] if name != "edits"]
        chosen = self.random.sample(columns, min(len(columns), self.random.choice([1, 1, 1, 2, 3])))
        return (
            SET.format(table, ", ".join(f"{name} = ?" for name in chosen), self.chosen(table)),
            *(new[name] for name in chosen),
        )

    def update_key(self, table: str) -> Statement:
        """Return an UPDATE of a column of the key."""
        new = dict(zip(TABLES[table], self.values(table), strict=True))
        column = self.random.choice(TABLES[table][: KEYS.get(table, 1)])
        verb = "UPDATE OR REPLACE" if self.random.random() < 0.3 else "UPDATE"
        value = new[column] if new[column] is not None else NUMBERS + 1
        return (SET.format(table, f"{column} = ?", self.chosen(table)).replace("UPDATE", verb, 1), value)

    def chosen(self, table: str) -> str:
        """Return the condition for one of the rows that there are, whichever they are."""
        key = ", ".join(TABLES[table][: KEYS.get(table, 1)])
        nth = self.random.randrange(6)
        return (
            f"({key}) = (SELECT {key} FROM {table} ORDER BY {key}"
            f" LIMIT 1 OFFSET {nth} % (SELECT max(count(*), 1) FROM {table}))"
        )


# What comes of it


def work(connection: apsw.Connection, operation: Operation) -> bool:
    """Let an app do an operation; return whether it changed anything, and committed it."""
    match operation:
        case ("both", bool(_), str(text)):
            connection.execute("BEGIN IMMEDIATE")
            for number in (1, 2):
                connection.execute("UPDATE pair SET name = ? WHERE id = ?", (text, number))
            connection.execute("COMMIT")
            return True
        case ("app", bool(enforces), bool(recursive), bool(_), bool(undone), tuple(statements)):
            connection.execute(f"PRAGMA foreign_keys = {int(enforces)}")
            connection.execute(f"PRAGMA recursive_triggers = {int(recursive)}")
            connection.execute("BEGIN IMMEDIATE")
            before = connection.total_changes()
            for sql, *bindings in statements:
                with suppress(apsw.ConstraintError, apsw.MismatchError):
                    connection.execute(sql, bindings).fetchall()
            changed = connection.total_changes() != before
            connection.execute("ROLLBACK" if undone or not changed else "COMMIT")
            return changed and not undone
        case _:
            msg = f"no app can do {operation!r}"
            raise ValueError(msg)


class Cell(NamedTuple):
    """A value that must not be lost, and where it is."""

    table: str
    key: tuple[Any, ...]
    claim: Claim


def rows_of(connection: apsw.Connection) -> dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]]:
    """Return all rows, exactly: each value with its type, a text that is none as its bytes."""
    found = {}
    for table, columns in TABLES.items():
        parts = ", ".join(f"typeof({c}), iif(typeof({c}) = 'text', CAST({c} AS BLOB), {c})" for c in columns)
        for row in connection.execute(f"SELECT {parts} FROM {table}"):
            values = tuple(
                (kind, value.hex() if kind == "real" else value)
                for kind, value in zip(row[::2], row[1::2], strict=True)
            )
            found[table, values[: KEYS.get(table, 1)]] = values
    return found


def is_torn(connection: apsw.Connection) -> bool:
    """Return whether a part of a transaction is seen."""
    return connection.execute("SELECT count(DISTINCT name) FROM pair").get != 1


def claim_of(table: str, column: str, value: object) -> Claim | None:
    """Return the claim that a value is, if it is one; whatever row it stands in."""
    data = value.encode() if isinstance(value, str) else value
    if not isinstance(data, bytes) or data[:1] != b"v":
        return None
    return Claim(data, f"{table}.{column}".encode())


def cells_of(rows: Mapping[tuple[str, tuple[Any, ...]], tuple[Any, ...]]) -> Iterator[Cell]:
    """Yield what must not be lost of some rows."""
    for (table, key), values in rows.items():
        for column, (_, value) in zip(TABLES[table], values, strict=True):
            claim = claim_of(table, column, value)
            if claim is not None:
                yield Cell(table, key, claim)


def deed_of(
    before: Mapping[tuple[str, tuple[Any, ...]], tuple[Any, ...]],
    after: Mapping[tuple[str, tuple[Any, ...]], tuple[Any, ...]],
) -> Deed:
    """Return what came of a transaction: what a row that is gone held is deleted, other values are replaced."""
    old, new = set(cells_of(before)), set(cells_of(after))
    wrote = claims(new - old)
    there = claims(new)
    gone = [cell for cell in old - new if cell.claim not in there]
    deleted = claims(cell for cell in gone if (cell.table, cell.key) not in after)
    return Deed(
        wrote=tuple(sorted(wrote.elements())),
        replaced=tuple(sorted(claims(gone).keys() - deleted.keys())),
        deleted=tuple(sorted(deleted)),
        dirty=Dirty(subtrees=frozenset({b""})),
    )


def claims(cells: Iterable[Cell]) -> Counter[Claim]:
    """Return the claims of some cells."""
    return Counter(cell.claim for cell in cells)
