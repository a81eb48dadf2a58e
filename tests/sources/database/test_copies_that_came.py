"""A copy from a peer is looked at before it is used, and goes into an empty file only."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from p2psyncd.errors import DatabaseBusy, RemoteProtocolError
from p2psyncd.sources.database.arriving import NotEmpty, belongs_to, install_copy, prepare_copy
from p2psyncd.sources.database.placing import make_database

SHARE, DEVICE = b"s" * 16, b"d" * 32


def make(
    path: Path, sql: str = "CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT)", rows: int = 1000
) -> Path:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(sql).fetchall()
        if rows:
            connection.executemany("INSERT INTO t VALUES (?, ?)", ((n, "word" * 9) for n in range(rows)))
    return path


def prepare(path: Path) -> None:
    prepare_copy(path, share=SHARE, device=DEVICE, without=())


def count(path: Path) -> int:
    with closing(apsw.Connection(str(path))) as connection:
        [(found,)] = connection.execute("SELECT count(*) FROM t")
        return int(found)


def test_a_sound_copy_becomes_the_content_of_an_empty_file(tmp_path: Path) -> None:
    copy, target = make(tmp_path / "copy"), tmp_path / "app.db"
    make_database(target)
    inode = target.stat().st_ino
    prepare(copy)
    install_copy(copy, target)
    assert count(target) == 1000
    assert target.stat().st_ino == inode
    assert belongs_to(target, share=SHARE, device=DEVICE)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(RemoteProtocolError):
        prepare(path)


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "copy")
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 4] = b"\x0d\xff" * 2048
    path.write_bytes(data)
    with pytest.raises(RemoteProtocolError):
        prepare(path)


def test_a_copy_with_triggers_and_a_mark_of_ours_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "copy")
    prepare(path)
    with pytest.raises(RemoteProtocolError):
        prepare(path)


def test_a_copy_in_wal_mode_is_refused(tmp_path: Path) -> None:
    path = make(
        tmp_path / "copy", "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT)"
    )
    with pytest.raises(RemoteProtocolError):
        prepare(path)


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT)", "CREATE VIEW v AS SELECT 1"]
)
def test_a_file_in_which_anything_was_made_stays_as_it_is(tmp_path: Path, sql: str) -> None:
    copy, target = make(tmp_path / "copy"), make(tmp_path / "app.db", sql, 0)
    before = target.read_bytes()
    prepare(copy)
    with pytest.raises(NotEmpty):
        install_copy(copy, target)
    assert target.read_bytes() == before


def test_a_file_that_an_app_keeps_locked_stays_as_it_is(tmp_path: Path) -> None:
    copy, target = make(tmp_path / "copy"), tmp_path / "app.db"
    make_database(target)
    prepare(copy)
    with closing(apsw.Connection(str(target))) as app:
        app.execute("BEGIN IMMEDIATE; CREATE TABLE mine (id INTEGER PRIMARY KEY)").fetchall()
        with pytest.raises(DatabaseBusy):
            install_copy(copy, target)
        app.execute("COMMIT")
    with closing(apsw.Connection(str(target))) as app:
        assert app.table_exists("main", "mine")
        assert not app.table_exists("main", "t")


@pytest.mark.parametrize("size", [512, 16384])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_the_pages_of_the_file_may_be_of_another_size(tmp_path: Path, size: int, mode: str) -> None:
    copy, target = make(tmp_path / "copy"), tmp_path / "app.db"
    with closing(apsw.Connection(str(target))) as connection:
        connection.execute(f"PRAGMA page_size = {size}").fetchall()
        connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        connection.execute("CREATE TABLE made (one); DROP TABLE made")
    prepare(copy)
    install_copy(copy, target)
    assert count(target) == 1000
    with closing(apsw.Connection(str(target))) as connection:
        assert connection.pragma("journal_mode") == mode
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
