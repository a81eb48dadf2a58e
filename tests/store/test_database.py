from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from p2psyncd.core.storage import Stored
from p2psyncd.errors import HomeUnusable, P2psyncError, StateCorrupt, StateTooNew
from p2psyncd.store.database import MEMORY, Database
from p2psyncd.store.device import DeviceStore


def filled(share: Any) -> None:
    store = share.open()
    store.put([Stored(item=share.item(b"%d" % n, n + 1), state=b"s") for n in range(1000)])
    store.close()


def test_a_new_file_is_for_this_user_only(share: Any) -> None:
    store = share.open()
    for name in (share.path, Path(f"{share.path}-wal")):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600
    store.close()


def test_every_table_says_what_a_row_means(share: Any) -> None:
    store = share.open()
    tables = store.database.rows(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    )
    assert {name for name, _ in tables} == {
        "settings",
        "actors",
        "items",
        "bases",
        "branches",
        "knowledge",
        "chunks",
        "forgotten",
        "boots",
        "members",
    }
    assert all("STRICT" in sql for _, sql in tables)
    store.close()


def test_opening_twice_changes_nothing(share: Any) -> None:
    filled(share)
    before = share.path.read_bytes()
    share.open().close()
    assert share.path.read_bytes() == before


def test_a_file_that_is_no_database_is_named(share: Any, tmp_path: Path) -> None:
    share.path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(StateCorrupt, match=r"share\.db"):
        share.open()
    (tmp_path / "device.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StateCorrupt, match=r"device\.db"):
        DeviceStore.open(tmp_path / "device.db")


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_damaged_page_is_noticed_when_the_file_is_opened(share: Any, at: float) -> None:
    filled(share)
    size = share.path.stat().st_size
    with share.path.open("r+b") as file:
        file.seek(int(size * at) // 4096 * 4096)
        file.write(os.urandom(4096))
    with pytest.raises(StateCorrupt, match=r"share\.db"):
        share.open()


def test_a_file_cut_short_is_noticed(share: Any) -> None:
    filled(share)
    os.truncate(share.path, share.path.stat().st_size // 2)
    with pytest.raises(StateCorrupt, match=r"share\.db"):
        share.open()


def test_damage_that_comes_later_is_noticed_too(share: Any) -> None:
    filled(share)
    store = share.open()
    reader = store.reader()
    size = share.path.stat().st_size
    with share.path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(size - 4096))
    with pytest.raises(StateCorrupt, match=r"share\.db"):
        list(reader.below(b""))
    reader.close()
    store.close()


def test_another_programs_database_is_left_alone(share: Any) -> None:
    connection = apsw.Connection(str(share.path))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StateCorrupt, match="another program's"):
        share.open()
    connection = apsw.Connection(str(share.path))
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    connection.close()


def test_the_devices_file_is_no_shares_file(share: Any, tmp_path: Path) -> None:
    DeviceStore.open(share.path).close()
    with pytest.raises(StateCorrupt, match=r"share\.db"):
        share.open()


def test_a_newer_versions_file_is_left_alone(share: Any) -> None:
    filled(share)
    connection = apsw.Connection(str(share.path))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateTooNew, match=r"share\.db"):
        share.open()


@pytest.mark.parametrize("broken", ["folder missing", "a folder"], ids=str)
def test_a_file_that_cannot_be_made_is_named(share: Any, tmp_path: Path, broken: str) -> None:
    path = tmp_path / "none" / "share.db" if broken == "folder missing" else tmp_path
    with pytest.raises(HomeUnusable, match=str(path)):
        share.open(path)


def test_a_full_disk_leaves_everything_as_it_was(share: Any) -> None:
    filled(share)
    store = share.open()
    pages = store.database.row("PRAGMA page_count")[0]
    store.database.run(f"PRAGMA max_page_count = {pages + 5}")
    before = (store.root(), store.totals(), store.arrival())
    items = [Stored(item=share.item(b"more/%d" % n, n + 5000), state=b"s") for n in range(2000)]
    with pytest.raises(OSError, match="No space left") as caught:
        store.put(items)
    assert caught.value.filename == str(share.path)
    assert (store.root(), store.totals(), store.arrival()) == before
    store.database.run("PRAGMA max_page_count = 1000000")
    store.put(items)
    assert store.root() == store.rebuilt_root()
    store.close()


def test_a_full_disk_undoes_the_outermost_transaction(share: Any) -> None:
    store = share.open()
    pages = store.database.row("PRAGMA page_count")[0]
    store.database.run(f"PRAGMA max_page_count = {pages + 20}")

    def work() -> None:
        with store.transaction():
            store.put([Stored(item=share.item(b"first", 1), state=b"s")])
            store.put([Stored(item=share.item(b"%d" % n, n + 10), state=b"s") for n in range(3000)])

    with pytest.raises(OSError, match="No space left"):
        work()
    assert store.totals().items == 0
    assert store.get(b"first") is None
    store.close()


def test_a_row_that_must_be_there_and_is_not_means_damage() -> None:
    database = Database.open(MEMORY, kind="device")
    with pytest.raises(StateCorrupt):
        database.row("SELECT 1 WHERE 0")
    database.close()


def test_an_actor_that_must_be_there_and_is_not_means_damage(share: Any) -> None:
    store = share.open()
    store.put([Stored(item=share.item(b"a", 1), state=b"s")])
    store.database.run("DELETE FROM actors")
    store.actors.clear()
    with pytest.raises(StateCorrupt):
        store.get(b"a")
    store.close()


def test_other_errors_pass_as_they_are() -> None:
    database = Database.open(MEMORY, kind="device")

    def fails(work: Callable[[], object], error: type[Exception]) -> None:
        with pytest.raises(error) as caught:
            work()
        assert not isinstance(caught.value, P2psyncError)

    fails(lambda: database.rows("SELECT nonsense"), apsw.SQLError)
    database.close()


def test_a_transaction_leaves_none_open_behind_it(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "device.db", kind="device")

    def work() -> None:
        with database.transaction(durable=False), database.transaction(durable=False):
            database.run("INSERT INTO settings VALUES ('a', x'')")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert not database.connection.in_transaction
    assert database.rows("SELECT * FROM settings") == []
    with database.snapshot(), database.snapshot():
        assert database.connection.in_transaction
    assert not database.connection.in_transaction
    database.close()
