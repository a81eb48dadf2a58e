"""What capture costs the app: the same work on a plain SQLite file and on one with hint triggers, in turns; prints ratios.

    python tests/bench/capture_cost.py [--rounds 15] [--rows 10000] [--only inserts] [--tmp DIR]

The app is Python's own sqlite3 in WAL. Every round does each piece of work on a fresh plain file and on a fresh captured
one, in turns (transactions of one row in turns of ten); the ratio of a round is captured ÷ plain. Figures are read, never asserted. DIR should be on a real disk.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from p2psyncd.sources.database.hints import install, read_hints
from p2psyncd.sources.database.schema import read_schema

PLAIN_TABLE = "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount INTEGER, note TEXT)"
UNIQUE_TABLE = (
    "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, amount INTEGER, note TEXT)"
)
TEXT_KEY_TABLE = (
    "CREATE TABLE item(id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, amount INTEGER, note TEXT)"
)
INSERT = "INSERT INTO item(id, name, amount, note) VALUES(?, ?, ?, ?)"
UPDATE = "UPDATE item SET amount = amount + 1 WHERE id = ?"
NOTE = "n" * 60
ONE_ROW_TRANSACTIONS = {"NORMAL": 2000, "FULL": 300}

TRANSACTIONS_IN_TURN = 10

Work = Callable[[sqlite3.Connection, range], None]


@dataclass(frozen=True)
class Case:
    """A piece of work, and what it may cost."""

    name: str
    target: str
    table: str
    synchronous: str
    rows: int
    work: Work
    before: Work | None = None
    slices: int = 1
    """In how many parts the work is done, in turns with the other file's: a busy disk then slows both."""


def record(n: int, *, text_keys: bool = False) -> tuple[object, ...]:
    return (f"key-{n * 7919 % 1_000_003:07}" if text_keys else n, f"name {n}", n % 100, NOTE)


def insert_one_by_one(app: sqlite3.Connection, rows: range) -> None:
    for n in rows:
        app.execute(INSERT, record(n))


def insert_at_once(app: sqlite3.Connection, rows: range) -> None:
    app.execute("BEGIN IMMEDIATE")
    app.executemany(INSERT, (record(n) for n in rows))
    app.execute("COMMIT")


def insert_text_keys(app: sqlite3.Connection, rows: range) -> None:
    app.execute("BEGIN IMMEDIATE")
    app.executemany(INSERT, (record(n, text_keys=True) for n in rows))
    app.execute("COMMIT")


def update_at_once(app: sqlite3.Connection, rows: range) -> None:
    app.execute("BEGIN IMMEDIATE")
    app.executemany(UPDATE, ((n,) for n in rows))
    app.execute("COMMIT")


def update_all(app: sqlite3.Connection, rows: range) -> None:
    app.execute("UPDATE item SET amount = amount + 1 WHERE id BETWEEN ? AND ?", (rows[0], rows[-1]))


def update_one_by_one(app: sqlite3.Connection, rows: range) -> None:
    for n in rows:
        app.execute(UPDATE, (n,))


def delete_at_once(app: sqlite3.Connection, rows: range) -> None:
    app.execute("BEGIN IMMEDIATE")
    app.executemany("DELETE FROM item WHERE id = ?", ((n,) for n in rows))
    app.execute("COMMIT")


def cases(rows: int) -> Iterator[Case]:
    for synchronous, target in (("NORMAL", "≤ 1.9"), ("FULL", "≤ 1.1")):
        one = ONE_ROW_TRANSACTIONS[synchronous]
        for name, work, before in (
            ("inserts", insert_one_by_one, None),
            ("updates", update_one_by_one, insert_at_once),
        ):
            yield Case(
                f"one-row {name}, {synchronous}",
                target,
                PLAIN_TABLE,
                synchronous,
                one,
                work,
                before,
                slices=one // TRANSACTIONS_IN_TURN,
            )
    tables = ("plain", PLAIN_TABLE), ("UNIQUE", UNIQUE_TABLE)
    for kind, table in tables:
        yield Case(f"inserts at once, {kind} table", "≤ 2.6", table, "NORMAL", rows, insert_at_once)
    yield Case("inserts at once, text key", "≤ 2.6", TEXT_KEY_TABLE, "NORMAL", rows, insert_text_keys)
    for kind, table in tables:
        yield Case(
            f"updates by key, {kind} table", "≤ 3.4", table, "NORMAL", rows, update_at_once, insert_at_once
        )
    yield Case("update of a whole table", "", PLAIN_TABLE, "NORMAL", rows, update_all, insert_at_once)
    yield Case("deletes by key", "", PLAIN_TABLE, "NORMAL", rows, delete_at_once, insert_at_once)


@contextmanager
def app_of(case: Case, path: Path, *, captured: bool) -> Iterator[sqlite3.Connection]:
    """Open a fresh file that is ready for a piece of work."""
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute("PRAGMA journal_mode = WAL")
        app.execute(f"PRAGMA synchronous = {case.synchronous}")
        app.execute(case.table)
        if case.before is not None:
            case.before(app, range(case.rows))
        if captured:
            with closing(apsw.Connection(str(path))) as daemon:
                install(daemon, read_schema(daemon), share=b"share", device=b"device")
        app.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        app.execute("SELECT count(*) FROM item").fetchall()
        yield app


def seconds(case: Case, folder: Path, *, captured_first: bool) -> tuple[float, float]:
    """Do a piece of work on a plain and on a captured file, and return how long it took on each."""
    took = [0.0, 0.0]
    length = case.rows // case.slices
    with (
        app_of(case, folder / "plain.db", captured=False) as plain,
        app_of(case, folder / "captured.db", captured=True) as captured,
    ):
        turns = [(1, captured), (0, plain)] if captured_first else [(0, plain), (1, captured)]
        for begin in range(0, case.rows, length):
            for which, app in turns:
                began = time.perf_counter()
                case.work(app, range(begin, begin + length))
                took[which] += time.perf_counter() - began
            turns.reverse()
    return took[0], took[1]


def ratios(case: Case, rounds: int, tmp: Path) -> tuple[list[float], list[float]]:
    """Return captured ÷ plain and the plain seconds of every round."""
    found, plain_s = [], []
    for n in range(rounds):
        with tempfile.TemporaryDirectory(dir=tmp) as folder:
            plain, captured = seconds(case, Path(folder), captured_first=n % 2 == 0)
        found.append(captured / plain)
        plain_s.append(plain)
    return found, plain_s


def hints_of_many_updates(updates: int, rows: int, tmp: Path) -> int:
    """Return how many hints a number of updates to some rows leaves behind."""
    with tempfile.TemporaryDirectory(dir=tmp) as folder:
        path = Path(folder) / "app.db"
        with (
            closing(sqlite3.connect(path, isolation_level=None)) as app,
            closing(apsw.Connection(str(path))) as daemon,
        ):
            app.execute(PLAIN_TABLE)
            insert_at_once(app, range(rows))
            schema = read_schema(daemon)
            install(daemon, schema, share=b"share", device=b"device")
            app.execute("BEGIN")
            app.executemany(UPDATE, ((n % rows,) for n in range(updates)))
            app.execute("COMMIT")
            return len(read_hints(daemon, schema))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument(
        "--updates", type=int, default=0, help="of 100 rows, to count the hints that they leave"
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--tmp", type=Path, default=None)
    options = parser.parse_args()
    tmp = options.tmp or Path(tempfile.gettempdir())
    out = sys.stdout.write
    out(f"SQLite {sqlite3.sqlite_version}, {options.rounds} rounds\n")
    out(f"{'captured ÷ plain':<36} {'median':>7} {'least':>7} {'most':>7} {'plain, ms':>10}  target\n")
    for case in cases(options.rows):
        if options.only in case.name:
            found, plain_s = ratios(case, options.rounds, tmp)
            out(
                f"{case.name:<36} {statistics.median(found):>7.2f} {min(found):>7.2f} {max(found):>7.2f}"
                f" {statistics.median(plain_s) * 1000:>10.1f}  {case.target}\n"
            )
            sys.stdout.flush()
    if options.updates:
        out(
            f"hints after {options.updates:,} updates of 100 rows: {hints_of_many_updates(options.updates, 100, tmp)}\n"
        )


if __name__ == "__main__":
    main()
