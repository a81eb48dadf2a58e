"""Databases that a program has open: captured as they are at one moment, served from that, never replaced."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2psyncd.sources.folder import databases
from p2psyncd.sources.folder.databases import SNAPSHOTS, database_of

# A program of its own, as users' programs are: in one process closing a file drops SQLite's locks on it.
APP = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    print(connection.execute(line).fetchall(), flush=True)
"""


class App:
    """A program that has a database open."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", APP, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, sql: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def app() -> Iterator[Callable[[Path], App]]:
    """Opens a database in a program of its own."""
    apps: list[App] = []

    def open_(path: Path) -> App:
        apps.append(App(path))
        return apps[-1]

    yield open_
    for one in apps:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture
def notes(here: Any, app: Callable[[Path], App]) -> App:
    """A database in the share, in WAL mode, open, with a row that is in the -wal alone."""
    made = app(here.path("notes.db"))
    assert made.run("PRAGMA journal_mode=WAL") == "[('wal',)]"
    made.run("CREATE TABLE t (a)")
    made.run("INSERT INTO t VALUES ('first')")
    return made


def rows(path: Path) -> list[str]:
    """Return what a database holds that nobody has open."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("SELECT a FROM t")]
    finally:
        connection.close()


def snapshots(device: Any) -> list[Path]:
    return list(device.path(SNAPSHOTS).iterdir())


def test_what_another_program_wrote_is_in_the_snapshot_that_peers_get(
    here: Any, there: Any, lab: Any, notes: App
) -> None:
    lab.sync(here, there)
    assert rows(there.path("notes.db")) == ["first"]
    assert sorted(there.tree()) == [b"notes.db"]
    assert sorted(path.name for path in here.root.glob("notes.db*")) == [
        "notes.db",
        "notes.db-shm",
        "notes.db-wal",
    ]
    # The program notices nothing, and its next change arrives too.
    notes.run("INSERT INTO t VALUES ('second')")
    here.keys(b"notes.db-wal")
    lab.sync(here, there)
    assert rows(there.path("notes.db")) == ["first", "second"]
    assert len(snapshots(here)) == 1


def test_a_database_that_rests_is_not_captured_again(here: Any, notes: App) -> None:
    assert [one.draft.key for one in here.scan()] == [b"notes.db"]
    before = [path.stat().st_mtime_ns for path in snapshots(here)]
    assert here.scan() == []
    assert [path.stat().st_mtime_ns for path in snapshots(here)] == before
    # Work that leaves the same content is no new version.
    notes.run("CREATE TEMP TABLE u (a)")
    notes.run("BEGIN IMMEDIATE")
    notes.run("ROLLBACK")
    item = here.storage.items[b"notes.db"].item
    here.scan()
    assert here.storage.items[b"notes.db"].item.dot == item.dot


def test_after_a_restart_the_snapshot_is_taken_again_and_is_the_same(here: Any, notes: App) -> None:
    assert notes.run("SELECT a FROM t") == "[('first',)]"
    here.scan()
    item = here.storage.items[b"notes.db"].item
    here.restart()
    here.source.tidy()
    assert snapshots(here) == []
    assert here.source.reader(here.storage.items[b"notes.db"]) is None
    here.scan()
    assert here.storage.items[b"notes.db"].item == item
    assert here.contents().keys() == {item.digest}


def test_a_snapshot_that_takes_too_long_is_reported_and_the_rest_goes_on(
    here: Any, notes: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notes.run("SELECT a FROM t") == "[('first',)]"
    here.write("other.txt")
    monkeypatch.setattr(databases, "SNAPSHOT_S_MAX", 0.0)
    assert [one.draft.key for one in here.scan()] == [b"other.txt"]
    assert "takes too long" in here.errors[b"notes.db"]
    assert snapshots(here) == []


def test_what_is_announced_of_a_database_in_use_is_on_the_disk_before(
    here: Any, notes: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notes.run("SELECT a FROM t") == "[('first',)]"
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda one: (synced.append(os.fstat(one).st_ino), real(one)))
    here.scan()
    assert here.path("notes.db-wal").stat().st_ino in synced


def test_a_change_in_the_wal_points_to_the_database(here: Any, notes: App) -> None:
    here.scan()
    notes.run("INSERT INTO t VALUES ('more')")
    found = here.keys(b"notes.db-wal")
    assert [one.draft.key for one in found] == [b"notes.db"]


def test_nothing_is_put_in_the_place_of_a_database_in_use(
    here: Any, there: Any, lab: Any, notes: App
) -> None:
    lab.sync(here, there)
    connection = sqlite3.connect(there.path("notes.db"))
    connection.execute("INSERT INTO t VALUES ('from there')")
    connection.commit()
    connection.close()
    lab.sync(here, there)
    assert "in use here" in here.errors[b"notes.db"]
    # Untouched, and the program goes on in it.
    assert notes.run("SELECT a FROM t") == "[('first',)]"
    assert notes.run("PRAGMA integrity_check") == "[('ok',)]"
    notes.close()
    lab.sync(here, there)
    # Closing it is no edit, so there is nothing to keep aside.
    assert rows(here.path("notes.db")) == ["first", "from there"]
    assert sorted(here.tree()) == sorted(there.tree()) == [b"notes.db"]


def test_a_remote_delete_waits_until_the_program_has_closed_it(
    here: Any, there: Any, lab: Any, notes: App
) -> None:
    lab.sync(here, there)
    there.path("notes.db").unlink()
    lab.sync(here, there)
    assert "in use here" in here.errors[b"notes.db"]
    assert here.path("notes.db").exists()
    assert notes.run("SELECT a FROM t") == "[('first',)]"


def test_a_closed_database_is_a_file_like_any_other_and_its_snapshot_goes(
    here: Any, there: Any, lab: Any, notes: App
) -> None:
    lab.sync(here, there)
    notes.run("INSERT INTO t VALUES ('last')")
    notes.close()
    assert not here.path("notes.db-wal").exists()
    lab.sync(here, there)
    assert snapshots(here) == []
    assert here.read("notes.db") == there.read("notes.db")
    assert rows(there.path("notes.db")) == ["first", "last"]


def test_a_rollback_journal_is_no_item_and_its_transaction_is_not_seen(
    here: Any, there: Any, lab: Any, app: Callable[[Path], App]
) -> None:
    program = app(here.path("old.db"))
    program.run("CREATE TABLE t (a)")
    program.run("INSERT INTO t VALUES ('before')")
    program.run("BEGIN IMMEDIATE")
    program.run("INSERT INTO t VALUES ('not committed')")
    assert here.path("old.db-journal").exists()
    lab.sync(here, there)
    assert sorted(there.tree()) == [b"old.db"]
    assert rows(there.path("old.db")) == ["before"]
    program.run("COMMIT")
    lab.sync(here, there)
    assert rows(there.path("old.db")) == ["before", "not committed"]


def test_a_database_that_its_program_keeps_locked_is_left_for_later(
    here: Any, app: Callable[[Path], App]
) -> None:
    program = app(here.path("old.db"))
    program.run("CREATE TABLE t (a)")
    program.run("PRAGMA cache_size=2")
    program.run("BEGIN EXCLUSIVE")
    program.run(f"INSERT INTO t VALUES {','.join(['(randomblob(4000))'] * 100)}")
    assert here.scan() == []
    assert b"old.db" in here.source.take_busy().keys
    program.run("COMMIT")
    assert [one.draft.key for one in here.scan()] == [b"old.db"]


def test_what_a_killed_program_left_is_still_consistent(here: Any, there: Any, lab: Any, notes: App) -> None:
    notes.kill()
    assert here.path("notes.db-wal").exists()
    lab.sync(here, there)
    assert rows(there.path("notes.db")) == ["first"]
    # Only looked at: what the program left is there for the program.
    assert here.path("notes.db-wal").stat().st_size > 0


def test_a_database_is_not_put_beside_what_another_one_left(here: Any, there: Any, lab: Any) -> None:
    connection = sqlite3.connect(there.path("new.db"))
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    here.write("new.db-wal", b"left over" * 1000)
    lab.sync(here, there)
    assert "in use here" in here.errors[b"new.db"]
    assert not here.path("new.db").exists()


def test_a_damaged_database_is_reported_and_the_rest_goes_on(here: Any) -> None:
    here.write("bad.db", b"SQLite format 3\0" + b"\xff" * 1008)
    here.write("bad.db-wal", b"x" * 100)
    here.write("good.txt")
    assert [one.draft.key for one in here.scan()] == [b"good.txt"]
    assert "SQLite cannot read" in here.errors[b"bad.db"]


@pytest.mark.parametrize(
    ("key", "database"),
    [
        (b"a-wal", b"a"),
        (b"d/a.db-journal", b"d/a.db"),
        (b"a-shm", b"a"),
        (b"-wal", b""),
        (b"d/-wal", b""),
        (b"a", b""),
    ],
)
def test_what_lies_beside_a_database_is_known_by_its_name(key: bytes, database: bytes) -> None:
    assert database_of(key) == database


def test_a_file_of_such_a_name_beside_no_database_is_synced(here: Any) -> None:
    here.write("trip-journal", b"day one")
    here.write("trip", b"no database")
    assert sorted(one.draft.key for one in here.scan()) == [b"trip", b"trip-journal"]
