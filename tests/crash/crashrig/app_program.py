"""An app at work in its own database, in a process of its own, with the SQLite that came with Python; and what it knows of its work.

`python app_program.py DATABASE NAME SEED`; one JSON object a line: `{"steps": 20, "pause_s": 0.01}` works at random,
`{"actions": ["add_person", …]}` does these, each a transaction. Both answer with a line when it is done: `{"records": […],
"errors": […]}`. A record is one transaction that was committed.

**Every value is written once, ever**, and is known by its number, whatever type it has. A transaction looks at what it is going to
replace or delete: so it is known which values somebody was rid of knowingly. `UNIQUE` names and keys of settings are few,
and both apps take the same ones. A row with the number of one that was deleted a moment ago is to everybody else that row, changed:
so parents have numbers that are not used again.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["NAMES", "PARTS", "SCHEMA", "App", "main", "number_of"]

SCHEMA = """
CREATE TABLE people(id INTEGER PRIMARY KEY, token TEXT NOT NULL, note, extra);
CREATE TABLE orders(id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL, note);
CREATE TABLE lines(id INTEGER PRIMARY KEY, "order" INTEGER NOT NULL REFERENCES orders ON DELETE CASCADE,
                   belongs TEXT NOT NULL, token TEXT NOT NULL, note);
CREATE TABLE names(id INTEGER PRIMARY KEY, token TEXT NOT NULL, name TEXT UNIQUE, note);
CREATE TABLE parts(token TEXT, n INTEGER, round, PRIMARY KEY(token, n)) WITHOUT ROWID;
CREATE TABLE settings(key TEXT PRIMARY KEY, token TEXT NOT NULL, value);
"""
PARTS = 5
"""Rows of `parts` that come, change and go together."""
NAMES = 6
SETTINGS = 4
ROWS_MAX = 60
LOCKED_S = 60.0
FIRST_NUMBER = 10**12
DIGITS = re.compile(r"w(\d{13})")
Value = str | int | float | bytes | None


def number_of(value: Value) -> int | None:
    """Return the number by which a value is known; None if no app wrote it."""
    match value:
        case bytes():
            return number_of(value.decode(errors="replace"))
        case str():
            found = DIGITS.match(value)
            return int(found[1]) if found else None
        case int() | float() if value >= FIRST_NUMBER:
            return int(value)
        case _:
            return None


class Record:
    """What one transaction did."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.wrote: list[list[Any]] = []
        """[number, table, column, number of the row, how often, number of the row's parent]."""
        self.removed: list[list[int]] = []
        """[number, number of the row]."""
        self.claimed: list[str] = []
        """Names that only one row may have."""
        self.same: list[list[int]] = []
        """Rows of which the second took the place of the first."""

    def remove(self, row: int, *values: Value) -> None:
        """Note that values of a row are replaced or deleted."""
        self.removed += [[number, row] for value in values if (number := number_of(value)) is not None]


class NothingThere(Exception):
    """There is nothing to work on."""


class App:
    """Works in one database."""

    def __init__(self, path: str, name: str, seed: str) -> None:
        self.path = path
        self.name = name
        self.rng = random.Random(f"{seed} {name} app")
        self.serial = 0
        self.connection: sqlite3.Connection | None = None
        self.made = Record()
        self.numbered: dict[tuple[str, int], int] = {}
        """The row that had a number last, as far as this app gave it."""
        self.actions: dict[str, tuple[int, Callable[[], None]]] = {
            "add_person": (14, self.add_person),
            "edit_person": (16, self.edit_person),
            "delete_person": (8, self.delete_person),
            "replace_person": (6, self.replace_person),
            "add_order": (8, self.add_order),
            "add_line": (6, self.add_line),
            "edit_line": (6, self.edit_line),
            "delete_order": (5, self.delete_order),
            "claim_name": (8, self.claim_name),
            "seize_name": (5, self.seize_name),
            "swap_names": (4, self.swap_names),
            "delete_name": (4, self.delete_name),
            "set": (8, self.set),
            "unset": (3, self.unset),
            "add_parts": (8, self.add_parts),
            "edit_parts": (8, self.edit_parts),
            "delete_parts": (4, self.delete_parts),
        }

    # Transactions

    def step(self) -> Record | None:
        """Do one thing at random, or some of them in one transaction; None if nothing came of it."""
        weights = [weight for weight, _ in self.actions.values()]
        chosen = self.rng.choices(list(self.actions), weights, k=self.rng.choice([1, 1, 1, 2, 4]))
        return self.transact(chosen, keep=self.rng.random() < 0.95)

    def transact(self, names: Sequence[str], *, keep: bool = True) -> Record | None:
        """Do some things in one transaction; None if nothing came of it."""
        connection = self.opened()
        self.made = Record()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for name in names:
                self.actions[name][1]()
                self.made.did.append(name)
        except (NothingThere, sqlite3.IntegrityError):
            keep = False
        connection.execute("COMMIT" if keep else "ROLLBACK")
        if self.rng.random() < 0.3:
            self.close()
        return self.made if keep else None

    def opened(self) -> sqlite3.Connection:
        """Return the connection; it is opened if need be."""
        if self.connection is None:
            self.connection = sqlite3.connect(self.path, timeout=LOCKED_S, isolation_level=None)
            self.connection.execute("PRAGMA foreign_keys = ON")
            self.connection.execute(f"PRAGMA recursive_triggers = {self.rng.choice(['ON', 'OFF'])}")
            self.connection.execute(f"PRAGMA synchronous = {self.rng.choice(['NORMAL', 'FULL'])}")
        return self.connection

    def close(self) -> None:
        """Close the connection: whoever does last clears a WAL away, and now and then that is to be the daemon."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # Values and rows

    def number(self) -> int:
        """Return a number that nobody ever had."""
        self.serial += 1
        return FIRST_NUMBER + 2 * self.serial + (self.name == "b")

    def text(self, number: int) -> str:
        """Return a text with a number; some are so long that they fill pages of their own."""
        return f"w{number:013d} " + "." * self.rng.choice([0, 0, 10, 60, 60, 6000])

    def value(self, number: int) -> Value:
        """Return a value of any type with a number."""
        match self.rng.randrange(4):
            case 0:
                return number
            case 1:
                return number + 0.5
            case 2:
                return self.text(number).encode()
            case _:
                return self.text(number)

    def rows(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """Return the rows that a statement gives."""
        return self.opened().execute(sql, values).fetchall()

    def a_row(self, sql: str, *values: Value) -> tuple[Any, ...]:
        """Return one of the rows that a statement gives."""
        found = self.rows(sql, *values)
        if not found:
            raise NothingThere
        return tuple(self.rng.choice(found))

    def insert(
        self, table: str, *, verb: str = "INSERT", parent: int = 0, row: int = 0, **plain: Value
    ) -> int:
        """Insert a row with a token, and with new values where its other columns are given as None; return its number."""
        token = self.number()
        cells: dict[str, Value] = {"token": f"w{token:013d}"}
        numbers = {"token": token}
        for column, given in plain.items():
            if given is None:
                numbers[column] = self.number()
            cells[column] = given if given is not None else self.value(numbers[column])
        columns = ", ".join(f'"{column}"' for column in cells)
        self.rows(f"{verb} INTO {table}({columns}) VALUES({', '.join('?' * len(cells))})", *cells.values())
        self.made.wrote += [[n, table, column, row or token, 1, parent] for column, n in numbers.items()]
        if table != "settings":
            [(place,)] = self.rows("SELECT last_insert_rowid()")
            self.take_place(table, place, token)
        return token

    def take_place(self, table: str, given: int, row: int) -> None:
        """Note which row has a number now."""
        before = self.numbered.get((table, given))
        if before is not None:
            self.made.same.append([before, row])
        self.numbered[table, given] = row

    def delete(self, table: str, token: str, *values: Value) -> None:
        """Delete a row; its number is to be had again."""
        [(number,)] = self.rows(f"SELECT id FROM {table} WHERE token = ?", token)
        self.rows(f"DELETE FROM {table} WHERE token = ?", token)
        row = number_of(token) or 0
        self.made.remove(row, token, *values)
        self.numbered[table, number] = row

    def update(self, table: str, column: str, token: str, old: Value) -> None:
        """Give one column of a row a new value."""
        number = self.number()
        self.rows(f"UPDATE {table} SET {column} = ? WHERE token = ?", self.value(number), token)
        row = number_of(token) or 0
        self.made.remove(row, old)
        self.made.wrote.append([number, table, column, row, 1, 0])

    # What it does

    def add_person(self) -> None:
        """Insert a row; SQLite may give its number to a row of the other app, too."""
        if len(self.rows("SELECT 1 FROM people")) > ROWS_MAX:
            self.delete_person()
        self.insert("people", note=None, extra=None)

    def edit_person(self) -> None:
        """Change one column."""
        column = self.rng.choice(["note", "extra"])
        self.update("people", column, *self.a_row(f"SELECT token, {column} FROM people"))

    def delete_person(self) -> None:
        """Delete a row."""
        self.delete("people", *self.a_row("SELECT token, note, extra FROM people"))

    def replace_person(self) -> None:
        """Put another row in the place of one."""
        number, token, note, extra = self.a_row("SELECT id, token, note, extra FROM people")
        row = number_of(token) or 0
        self.made.remove(row, token, note, extra)
        self.numbered["people", number] = row
        self.insert("people", verb="INSERT OR REPLACE", row=row, id=number, note=None, extra=None)

    def add_order(self) -> None:
        """Insert a parent and its children, in one transaction."""
        if len(self.rows("SELECT 1 FROM orders")) > ROWS_MAX:
            self.delete_order()
        token = self.insert("orders", note=None)
        [(number,)] = self.rows("SELECT last_insert_rowid()")
        for _ in range(2):
            self.insert_line(number, token)

    def insert_line(self, order: int, token: int) -> None:
        """Insert a child."""
        self.insert("lines", parent=token, order=order, belongs=f"w{token:013d}", note=None)

    def add_line(self) -> None:
        """Insert a child of a parent that is there."""
        number, token = self.a_row("SELECT id, token FROM orders")
        self.insert_line(number, number_of(token) or 0)

    def edit_line(self) -> None:
        """Change a child."""
        self.update("lines", "note", *self.a_row("SELECT token, note FROM lines"))

    def delete_order(self) -> None:
        """Delete a parent and its children with it."""
        number, token, note = self.a_row("SELECT id, token, note FROM orders")
        for line in self.rows('SELECT token, note FROM lines WHERE "order" = ?', number):
            self.delete("lines", *line)
        self.delete("orders", token, note)

    def a_name(self) -> str:
        """Return one of the few names."""
        name = f"name {self.rng.randrange(NAMES)}"
        self.made.claimed.append(name)
        return name

    def claim_name(self) -> None:
        """Insert a row with a name that maybe is free."""
        self.insert("names", name=self.a_name(), note=None)

    def seize_name(self) -> None:
        """Insert a row with a name, and be rid of the one that has it."""
        name = self.a_name()
        for number, token, note in self.rows("SELECT id, token, note FROM names WHERE name = ?", name):
            self.made.remove(number_of(token) or 0, token, note)
            self.numbered["names", number] = number_of(token) or 0
        self.insert("names", verb="INSERT OR REPLACE", name=name, note=None)

    def swap_names(self) -> None:
        """Let two rows have each other's name."""
        found = self.rows("SELECT token, name FROM names")
        if len(found) < 2:
            raise NothingThere
        (one, name), (two, other) = self.rng.sample(found, 2)
        for token, given in ((one, None), (two, name), (one, other)):
            self.rows("UPDATE names SET name = ? WHERE token = ?", given, token)
        self.made.claimed += [given for given in (name, other) if given is not None]

    def delete_name(self) -> None:
        """Delete a row with a name."""
        self.delete("names", *self.a_row("SELECT token, note FROM names"))

    def set(self) -> None:
        """Put a row under a key that the other app takes, too."""
        key = f"key {self.rng.randrange(SETTINGS)}"
        row = self.forget_setting(key)
        self.insert("settings", verb="INSERT OR REPLACE", row=row, key=key, value=None)

    def unset(self) -> None:
        """Delete the row under a key."""
        key, *_ = self.a_row("SELECT key FROM settings")
        self.forget_setting(key)
        self.rows("DELETE FROM settings WHERE key = ?", key)

    def forget_setting(self, key: str) -> int:
        """Note what is under a key, and return the number that stands for any row there."""
        row = 1 + int(key.removeprefix("key "))
        for cells in self.rows("SELECT token, value FROM settings WHERE key = ?", key):
            self.made.remove(row, *cells)
        return row

    def add_parts(self) -> None:
        """Insert rows that are to be seen all or not at all."""
        if len(self.rows("SELECT 1 FROM parts")) > ROWS_MAX * PARTS:
            self.delete_parts()
        token, value = self.number(), self.number()
        written = self.value(value)
        for n in range(PARTS):
            self.rows("INSERT INTO parts VALUES(?, ?, ?)", f"w{token:013d} of {self.name}", n, written)
        self.made.wrote += [
            [token, "parts", "token", token, PARTS, 0],
            [value, "parts", "round", token, PARTS, 0],
        ]

    def my_parts(self) -> tuple[Any, ...]:
        """Return token and value of such rows of this app: what two apps did at once would be merged, row by row."""
        return self.a_row("SELECT DISTINCT token, round FROM parts WHERE token LIKE ?", f"% of {self.name}")

    def edit_parts(self) -> None:
        """Change them all in the same way."""
        token, old = self.my_parts()
        row, value = number_of(token) or 0, self.number()
        self.rows("UPDATE parts SET round = ? WHERE token = ?", self.value(value), token)
        self.made.remove(row, old)
        self.made.wrote.append([value, "parts", "round", row, PARTS, 0])

    def delete_parts(self) -> None:
        """Delete them all."""
        token, old = self.my_parts()
        self.rows("DELETE FROM parts WHERE token = ?", token)
        self.made.remove(number_of(token) or 0, token, old)


def answer(app: App, command: dict[str, Any]) -> dict[str, Any]:
    """Carry out a command."""
    records: list[Record] = []
    errors: list[str] = []

    def attempt(act: Callable[[], Record | None]) -> None:
        try:
            made = act()
        except sqlite3.Error as error:
            errors.append(f"{app.made.did}: {error!r}")
            app.close()
        else:
            records.extend([made] if made is not None else [])

    for action in command.get("actions", []):
        attempt(lambda action=action: app.transact(action.split("+")))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    for _ in range(command.get("steps", 0)):
        attempt(app.step)
        threading.Event().wait(app.rng.uniform(0, command["pause_s"]))
    if command.get("close"):
        app.close()
    return {"records": [vars(record) for record in records], "errors": errors}


def main(path: str, name: str, seed: str) -> None:
    """Serve until the input ends."""
    app = App(path, name, seed)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(app, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
