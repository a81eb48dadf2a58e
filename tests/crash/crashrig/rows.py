"""The rows of two databases: as they are, and as the apps wrote them, value by value; the oracle's memory.

Every value has a number of its own (`app_program`): so whatever is in a row can be told, and whose it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crashrig.app_program import number_of

__all__ = ["Dump", "RowJournal", "Written", "differences", "dump", "numbers_in", "unsound"]

BUSY_S = 60.0
# A column that says what another one says: that is where the value is counted.
REPEATED = {"belongs"}
Dump = dict[str, list[dict[str, Any]]]


def opened(path: Path) -> sqlite3.Connection:
    """Open a database as an app does."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def dump(path: Path) -> Dump:
    """Return the rows of an app's tables, in the order of their keys."""
    with closing(opened(path)) as connection:
        connection.execute("BEGIN")
        tables = [
            row["name"]
            for row in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table'"
                " AND name NOT GLOB '_p2p_*' AND name <> 'sqlite_sequence' ORDER BY name"
            )
        ]
        return {
            table: sorted((dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')), key=repr)
            for table in tables
        }


def differences(ours: Dump, theirs: Dump) -> list[str]:
    """Return rows that only one of two databases has; a value of another type is another value."""
    found = []
    for table in ours.keys() | theirs.keys():
        here, there = ({repr(row) for row in each.get(table, [])} for each in (ours, theirs))
        found += [f"differs: {table}: only a has {row:.300}" for row in sorted(here - there)]
        found += [f"differs: {table}: only b has {row:.300}" for row in sorted(there - here)]
    return found


def unsound(path: Path) -> list[str]:
    """Return what SQLite itself has to say against a database."""
    with closing(opened(path)) as connection:
        checked = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        orphans = [tuple(row) for row in connection.execute("PRAGMA foreign_key_check")]
    found = [] if checked == ["ok"] else [f"integrity: {path.parent.parent.name}: {checked}"]
    return found + [f"orphan: {path.parent.parent.name}: {orphan}" for orphan in orphans]


def numbers_in(rows: Dump) -> Iterable[int]:
    """Yield the numbers of all values."""
    for table in rows.values():
        for row in table:
            for column, value in row.items():
                number = number_of(value)
                if number is not None and column not in REPEATED:
                    yield number


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A value that an app wrote."""

    side: str
    table: str
    column: str
    row: int
    """Number of its row: the token's, or what stands for a key."""
    times: int
    """In how many rows it is."""
    parent: int
    """Number of the row that its row belongs to, and goes with; 0: none."""


@dataclass
class RowJournal:
    """Both apps' work."""

    written: dict[int, Written] = field(default_factory=dict)
    removed: dict[int, set[str]] = field(default_factory=dict)
    """By whom a value was replaced or deleted, seeing it."""
    touched: set[tuple[int, str]] = field(default_factory=set)
    """Rows, and who wrote or removed something in them since both sides were last equal."""
    claimed: set[tuple[str, str]] = field(default_factory=set)
    """UNIQUE values, and who gave them to a row since then."""
    contested: set[str] = field(default_factory=set)
    """UNIQUE values that two rows had then: one of these rows is not shown."""
    hidden: set[int] = field(default_factory=set)
    """Values that were out of sight then, and listed: their row gave way to another, or they lost."""
    known: set[int] = field(default_factory=set)
    """Values that conflicts were about then."""
    same: dict[int, int] = field(default_factory=dict)
    """Rows that took the place of others."""
    lines: list[str] = field(default_factory=list)

    def take(self, side: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Note what an app did."""
        for record in records:
            for old, new in record["same"]:
                if self.first(old) != self.first(new):
                    self.same[self.first(new)] = self.first(old)
            for number, table, column, row, times, parent in record["wrote"]:
                self.written[number] = Written(
                    side=side, table=table, column=column, row=row, times=times, parent=parent
                )
                self.touched.add((row, side))
            for number, row in record["removed"]:
                self.removed.setdefault(number, set()).add(side)
                self.touched.add((row, side))
            self.claimed |= {(name, side) for name in record["claimed"]}
            wrote, removed = [one[0] for one in record["wrote"]], [one[0] for one in record["removed"]]
            self.lines.append(f"{side} {'+'.join(record['did'])}: wrote {wrote}, removed {removed}")

    def line(self, row: int) -> list[int]:
        """Return a row, the one whose place it took, and so on: to everybody else these are one."""
        rows = [row]
        while rows[-1] in self.same:
            rows.append(self.same[rows[-1]])
        return rows

    def first(self, row: int) -> int:
        """Return the first row of such a line."""
        return self.line(row)[-1]

    def lost_its_parent(self, row: int) -> bool:
        """Return whether a row, or one whose place it took, belonged to a row that somebody deleted."""
        tokens = (self.written.get(one) for one in self.line(row))
        return any(token is not None and token.parent in self.removed for token in tokens)

    def touched_by(self, row: int, sides: str) -> bool:
        """Return whether some apps wrote or removed something in a row since both sides were last equal."""
        at = self.first(row)
        return any(side in sides and self.first(other) == at for other, side in self.touched)

    def about(self, number: int) -> str:
        """Return what is known of a value."""
        one = self.written.get(number)
        whose = (
            f"{one.side}'s {one.table}.{one.column} of row {one.row}" if one is not None else "never written"
        )
        lines = [line for line in self.lines if str(number) in line]
        return f"{whose}; {'; '.join(lines)}"

    def agree(self, present: Collection[int], listed: Collection[int], contested: Collection[str]) -> None:
        """Begin anew from a state that both sides have.

        Args:
            present: The values that are there.
            listed: Those that conflicts are about.
            contested: UNIQUE values that are claimed by a row that is not shown.
        """
        for number in self.written:
            if number in present:
                self.removed.pop(number, None)
            elif number not in listed:
                self.removed.setdefault(number, set()).add("?")
        self.hidden = set(listed) - set(present)
        self.known = set(listed)
        self.contested = set(contested)
        self.touched.clear()
        self.claimed.clear()
