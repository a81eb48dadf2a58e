"""A device that has nothing yet begins with a whole copy of a database, and the log brings the rest."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from daemons import WAIT_S, Daemon, offered

from p2psyncd.errors import P2psyncError
from p2psyncd.wire.messages import SnapshotReady, SnapshotRefused

ROWS = 20_000
SCHEMA = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT UNIQUE);
CREATE TABLE tags (person INTEGER REFERENCES people (id) ON DELETE CASCADE, tag TEXT, PRIMARY KEY (person, tag));
CREATE TABLE django_migrations (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE seen (at TEXT);
CREATE TABLE private (id INTEGER PRIMARY KEY, note TEXT);
CREATE INDEX by_name ON people (name);
CREATE VIEW short AS SELECT id, name FROM people WHERE length(name) < 8;
CREATE TRIGGER shout AFTER UPDATE OF name ON people BEGIN INSERT INTO seen VALUES (new.name); END;
CREATE VIRTUAL TABLE found USING fts5(name, content = 'people', content_rowid = 'id');
CREATE TRIGGER found_in AFTER INSERT ON people BEGIN INSERT INTO found (rowid, name) VALUES (new.id, new.name); END;
CREATE TRIGGER found_out AFTER DELETE ON people BEGIN
  INSERT INTO found (found, rowid, name) VALUES ('delete', old.id, old.name);
END;
CREATE TRIGGER found_on AFTER UPDATE ON people BEGIN
  INSERT INTO found (found, rowid, name) VALUES ('delete', old.id, old.name);
  INSERT INTO found (rowid, name) VALUES (new.id, new.name);
END;
PRAGMA user_version = 7;
"""


def app(path: Path) -> apsw.Connection:
    """Open a database as an app does, each statement a transaction of its own."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(int(WAIT_S * 1000))
    return connection


def write(path: Path, *statements: str) -> None:
    with closing(app(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def read(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(app(path)) as connection:
        return connection.execute(query).fetchall()


def tables(path: Path, *names: str) -> list[list[tuple[Any, ...]]]:
    return [read(path, f"SELECT * FROM {name} ORDER BY 1, 2") for name in names or ("people", "tags")]


def make(daemon: Daemon, rows: int = ROWS, *, mode: str = "wal") -> Path:
    path = daemon.folder / "app.db"
    with closing(app(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        connection.execute(SCHEMA)
        with connection:
            connection.executemany(
                "INSERT INTO people VALUES (?, ?, ?)",
                ((i, f"name {i}", f"{i}@x") for i in range(1, rows + 1)),
            )
            connection.executemany(
                "INSERT INTO tags VALUES (?, ?)", ((i, "red") for i in range(1, rows + 1, 10))
            )
            connection.execute("INSERT INTO django_migrations VALUES (1, '0001_initial')")
            connection.execute("INSERT INTO seen VALUES ('long ago')")
            connection.execute("INSERT INTO private VALUES (1, 'nobody else''s')")
    return path


async def add(daemon: Daemon, path: Path, **more: Any) -> None:
    given = {"name": "app", "kind": None, "mode": "send-receive", "with_devices": []} | more
    await daemon.backend.share_add(str(path), **given)
    await daemon.wait("app", peers=0)


async def accept(owner: Daemon, taker: Daemon, path: Path, **more: Any) -> None:
    await offered(owner, taker, "app")
    given = {"mode": "send-receive", "from_device": None} | more
    await taker.backend.share_accept("app", str(path), **given)


async def settle(*daemons: Daemon) -> None:
    """Wait until what was written anywhere is everywhere."""
    for _ in range(2):
        for daemon in daemons:
            await daemon.wait("app", peers=len(daemons) - 1)


def came(daemon: Daemon) -> int:
    """Return how many rows came by themselves."""
    replica = daemon.running("app").replica
    ours = replica.standing.actor
    return sum(item.dot.actor != ours for item in replica.store.all_items()) - replica.store.count_written_by(
        bytes(8)
    )


def is_sound(path: Path) -> bool:
    """Return whether a database is whole, its search index too."""
    with closing(app(path)) as connection:
        connection.execute("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


async def test_an_empty_device_begins_with_a_copy_and_no_row_travels(
    two: tuple[Daemon, Daemon], caplog: pytest.LogCaptureFixture
) -> None:
    maple, willow = two
    caplog.set_level("INFO")
    here, there = make(maple), willow.folder / "app.db"
    await add(maple, here, without=["private"])
    await accept(maple, willow, there)
    await settle(maple, willow)
    assert "copy_in_place" in caplog.text
    assert tables(here) == tables(there)
    assert came(willow) == 0
    assert is_sound(there)
    assert read(there, "SELECT count(*) FROM short") == read(here, "SELECT count(*) FROM short")
    assert read(there, "SELECT count(*) FROM found WHERE found MATCH '77'") == [(1,)]
    # The app of the new device is not to run its migrations again.
    assert read(there, "SELECT * FROM django_migrations") == [(1, "0001_initial")]
    assert read(there, "PRAGMA user_version") == [(7,)]
    # What is not synced, or is nobody else's, does not come with the copy.
    assert read(there, "SELECT * FROM seen") == []
    assert b"nobody else's" not in there.read_bytes()
    # And from now on both are as any two.
    write(here, "UPDATE people SET name = 'Ann' WHERE id = 1", "DELETE FROM people WHERE id = 2")
    write(
        there,
        "INSERT INTO people VALUES (100000, 'Bob', 'bob@x')",
        "UPDATE tags SET tag = 'blue' WHERE person = 11",
    )
    await settle(maple, willow)
    assert tables(here) == tables(there)
    assert read(there, "SELECT name FROM people WHERE id IN (1, 2, 100000) ORDER BY id") == [
        ("Ann",),
        ("Bob",),
    ]
    assert read(there, "SELECT rowid FROM found WHERE found MATCH 'ann'") == [(1,)]
    assert [row["conflicts"] for row in await willow.backend.share_list()] == [0]


async def test_what_was_written_since_it_was_shared_comes_with_the_log(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple), willow.folder / "app.db"
    await add(maple, here)
    write(
        here,
        "UPDATE people SET name = 'Ann' WHERE id = 1",
        "DELETE FROM people WHERE id = 3",
        "INSERT INTO people VALUES (3, 'Cid', 'cid@x')",
        "UPDATE tags SET tag = 'blue' WHERE person = 11",
        "CREATE TABLE later (id INTEGER PRIMARY KEY, word TEXT)",
        "INSERT INTO later VALUES (1, 'new')",
        "ALTER TABLE people ADD COLUMN age INTEGER DEFAULT 30",
        "UPDATE people SET age = 31 WHERE id = 5",
        "CREATE INDEX by_age ON people (age)",
    )
    await maple.wait("app", peers=0)
    await accept(maple, willow, there)
    await settle(maple, willow)
    assert tables(here, "people", "tags", "later") == tables(there, "people", "tags", "later")
    assert read(there, "SELECT name, age FROM people WHERE id IN (1, 3, 5) ORDER BY id") == [
        ("Ann", 30),
        ("Cid", 30),
        ("name 5", 31),
    ]
    assert is_sound(there)
    for daemon in two:
        [row] = await daemon.backend.share_list()
        assert row["conflicts"] == 0


async def test_what_is_only_hinted_at_when_the_copy_is_made_comes_later(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple), willow.folder / "app.db"
    await add(maple, here)
    async with maple.running("app").busy:  # nothing is captured
        write(
            here,
            "UPDATE people SET name = 'Ann' WHERE id = 1",
            "DELETE FROM people WHERE id = 2",
            "INSERT INTO people VALUES (100000, 'Bob', 'bob@x')",
        )
        await accept(maple, willow, there)
        source: Any = willow.running("app").source
        await willow.until(lambda: not source.awaiting, "the copy")
        assert read(there, "SELECT id FROM people WHERE id IN (1, 2, 100000)") == []
        assert read(there, "SELECT count(*) FROM people") == [(ROWS - 2,)]
    await settle(maple, willow)
    assert tables(here) == tables(there)
    assert is_sound(there)


async def test_what_an_app_writes_while_its_rows_are_looked_at_is_its_own(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple), willow.folder / "app.db"
    await add(maple, here)
    await accept(maple, willow, there)
    async with willow.running("app").busy:
        source: Any = willow.running("app").source
        await willow.until(lambda: not source.awaiting, "the copy")
        write(
            there,
            "UPDATE people SET name = 'Ann' WHERE id = 1",
            "DELETE FROM people WHERE id = 2",
            "INSERT INTO people VALUES (100000, 'Bob', 'bob@x')",
        )
        write(
            here,
            "UPDATE people SET mail = 'ann@x' WHERE id = 1",
            "UPDATE people SET name = 'Cid' WHERE id = 4",
        )
    await settle(maple, willow)
    assert tables(here) == tables(there)
    assert read(here, "SELECT * FROM people WHERE id IN (1, 2, 4, 100000) ORDER BY id") == [
        (1, "Ann", "ann@x"),
        (4, "Cid", "4@x"),
        (100000, "Bob", "bob@x"),
    ]
    [row] = await maple.backend.share_list()
    assert row["conflicts"] == 0


async def test_a_daemon_that_ends_in_the_middle_goes_on_where_it_was(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple), willow.folder / "app.db"
    await add(maple, here)
    async with maple.supervisor.bootstrap.one_at_a_time:  # no copy is given
        await accept(maple, willow, there)
        assert willow.running("app").source.awaiting  # type: ignore[attr-defined]
        await willow.until(lambda: willow.running("app").arriving is not None, "it asks")
        [row] = await willow.backend.share_list()
        assert row["state"] == "syncing"
        with pytest.raises(P2psyncError):
            await willow.backend.wait("app", timeout_s=0, peers=0)
        await willow.restart()
        assert willow.running("app").source.awaiting  # type: ignore[attr-defined]
    share = willow.running("app")
    async with share.busy:
        source: Any = share.source
        await willow.until(lambda: not source.awaiting, "the copy")
        write(there, "UPDATE people SET name = 'Ann' WHERE id = 1")
        await willow.stop()
    await willow.start()
    await willow.until(lambda: willow.connected_to(maple), "connected again")
    await settle(maple, willow)
    assert came(willow) == 0
    assert tables(here) == tables(there)
    assert read(here, "SELECT name FROM people WHERE id = 1") == [("Ann",)]
    assert list((willow.folder / "home").rglob("first.db*")) == []


async def test_a_file_in_which_the_app_made_its_tables_meanwhile_gets_the_rows_one_by_one(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    here, there = make(maple, 6000), willow.folder / "app.db"
    await add(maple, here)
    async with maple.supervisor.bootstrap.one_at_a_time:
        await accept(maple, willow, there)
        write(there, SCHEMA, "INSERT INTO django_migrations VALUES (1, 'its own')")
    await settle(maple, willow)
    assert tables(here) == tables(there)
    assert read(there, "SELECT name FROM django_migrations") == [("its own",)]
    assert came(willow) == 0  # rows of nobody's, each by itself


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_an_app_that_has_the_empty_file_open_sees_the_copy(
    two: tuple[Daemon, Daemon], mode: str
) -> None:
    maple, willow = two
    here, there = make(maple, 6000, mode="delete"), willow.folder / "app.db"
    await add(maple, here)
    with closing(app(there)) as early:
        early.execute(f"PRAGMA page_size = 1024; PRAGMA journal_mode = {mode}").fetchall()
        assert early.execute("SELECT * FROM sqlite_schema").fetchall() == []
        await accept(maple, willow, there)
        await settle(maple, willow)
        assert early.execute("SELECT count(*) FROM people").fetchall() == [(6000,)]
        assert early.pragma("journal_mode") == mode
    assert tables(here) == tables(there)


async def test_nobody_is_listened_to_who_was_not_asked_for_a_copy(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, 6000), willow.folder / "app.db"
    await add(maple, here)
    await accept(maple, willow, there)
    await settle(maple, willow)
    [link] = maple.supervisor.mesh.links()
    share = willow.running("app").record.id
    link.post(SnapshotReady(share=share, digest=b"d" * 32, size=4096))
    link.post(SnapshotRefused(share=share, reason="no"))
    write(here, "UPDATE people SET name = 'Ann' WHERE id = 1")
    await settle(maple, willow)
    assert tables(here) == tables(there)
    assert not willow.running("app").applier.wanted


async def test_a_device_that_was_cut_off_asks_again(
    two: tuple[Daemon, Daemon], caplog: pytest.LogCaptureFixture
) -> None:
    maple, willow = two
    caplog.set_level("INFO")
    here, there = make(maple, 6000), willow.folder / "app.db"
    await add(maple, here)
    async with maple.supervisor.bootstrap.one_at_a_time:
        await accept(maple, willow, there)
        await willow.until(lambda: bool(willow.supervisor.bootstrap.answers), "it asks")
        await maple.backend.device_pause(willow.name)
        await willow.until(lambda: not willow.connected_to(maple), "it was cut off")
    await maple.backend.device_resume(willow.name)
    await settle(maple, willow)
    assert "copy_in_place" in caplog.text
    assert tables(here) == tables(there)
