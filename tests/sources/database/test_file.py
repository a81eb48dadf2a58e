from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from p2psyncd.errors import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFault,
    DatabaseLinked,
    DatabaseNotWritable,
    FolderMissing,
    NameTaken,
    NotADatabase,
    NotAFolder,
    ShareHeld,
)
from p2psyncd.sources.database import file as file_module
from p2psyncd.sources.database.file import DatabaseFile, check_new_database

if TYPE_CHECKING:
    from conftest import Apps

WAL, DELETE, TRUNCATE, PERSIST = "wal", "delete", "truncate", "persist"
MODES = [WAL, DELETE, TRUNCATE, PERSIST]
NOBODY = 65534


def make(path: Path, mode: str = WAL) -> Path:
    """Make a database with one table and one row."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO t(text) VALUES ('first')")
    return path


def texts(path: Path) -> list[str]:
    """Return what a program that opens the database finds."""
    with closing(apsw.Connection(str(path))) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM t ORDER BY id")]


def add(file: DatabaseFile, text: str) -> None:
    with file.writing(quiet=True) as connection:
        connection.execute("INSERT INTO t(text) VALUES (?)", (text,))


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path, mode: str) -> Path:
    return make(tmp_path / "app.db", mode)


@pytest.fixture
def wal_file(tmp_path: Path) -> DatabaseFile:
    return DatabaseFile(make(tmp_path / "app.db"))


def opened_here(path: Path) -> list[str]:
    """Return which files of a database this process has open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = entry.readlink()
            if target.name.startswith(path.name):
                found.append(str(target))
    return found


# Opening and closing
def test_nothing_stays_open_or_behind(path: Path) -> None:
    file = DatabaseFile(path)
    with file.reading() as connection:
        assert connection.execute("SELECT text FROM t").fetchall() == [("first",)]
        assert opened_here(path)
    add(file, "second")
    assert opened_here(path) == []
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert texts(path) == ["first", "second"]


def test_an_app_that_has_the_database_open_works_on_in_its_transactions(
    path: Path, mode: str, apps: Apps
) -> None:
    app, file = apps(path), DatabaseFile(path)
    app.run(f"PRAGMA journal_mode = {mode}")
    app.run("BEGIN IMMEDIATE")
    app.run("INSERT INTO t(text) VALUES ('app')")
    with file.reading() as connection:
        assert connection.execute("SELECT text FROM t").fetchall() == [("first",)]
    app.run("COMMIT")
    add(file, "ours")
    app.run("INSERT INTO t(text) VALUES ('app again')")
    assert app.run("SELECT text FROM t") == [["first"], ["app"], ["ours"], ["app again"]]
    assert app.run("PRAGMA journal_mode") == [[mode]]
    app.close()
    assert texts(path) == ["first", "app", "ours", "app again"]


def test_a_log_that_an_app_has_open_stays(wal_file: DatabaseFile, apps: Apps) -> None:
    app = apps(wal_file.path)
    app.run("INSERT INTO t(text) VALUES ('app')")
    add(wal_file, "ours")
    with wal_file.reading():
        pass
    assert wal_file.path.with_name("app.db-wal").stat().st_size
    assert app.run("SELECT count(*) FROM t") == [[3]]


def test_an_app_can_leave_and_enter_wal_while_nothing_is_done_here(
    wal_file: DatabaseFile, apps: Apps
) -> None:
    app = apps(wal_file.path, timeout_s=0)
    with wal_file.reading():
        assert "locked" in app.try_to("PRAGMA journal_mode = DELETE")
    assert app.run("PRAGMA journal_mode = DELETE") == [["delete"]]
    add(wal_file, "ours")
    assert app.run("PRAGMA journal_mode = WAL") == [["wal"]]
    add(wal_file, "ours")
    assert app.run("PRAGMA journal_mode") == [["wal"]]


def test_a_plain_copy_of_the_file_has_all_that_was_committed_here(path: Path, tmp_path: Path) -> None:
    add(DatabaseFile(path), "ours")
    shutil.copy(path, tmp_path / "backup.db")
    assert texts(tmp_path / "backup.db") == ["first", "ours"]


def test_a_backup_copied_over_the_file_is_what_the_app_finds(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "backup.db")
    add(DatabaseFile(path), "ours")
    shutil.copyfile(tmp_path / "backup.db", path)
    assert texts(path) == ["first"]


def test_what_a_killed_app_committed_is_found(path: Path, apps: Apps) -> None:
    app = apps(path)
    app.run("INSERT INTO t(text) VALUES ('app')")
    app.run("BEGIN")
    app.run("INSERT INTO t(text) VALUES ('never committed')")
    app.kill()
    with DatabaseFile(path).reading() as connection:
        assert connection.execute("SELECT text FROM t").fetchall() == [("first",), ("app",)]


def test_any_name_will_do(tmp_path: Path) -> None:
    for name in (b"100% #1?mode=memory&x.db", b"l\xe4nder\xff.db", b" 'quoted\".db"):
        path = make(tmp_path / "plain.db").rename(tmp_path / os.fsdecode(name))
        file = DatabaseFile(path)
        add(file, "ours")
        with file.reading() as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchall() == [(2,)]
    assert len(list(tmp_path.iterdir())) == 3


def test_each_connection_is_prepared(tmp_path: Path) -> None:
    def prepare(connection: apsw.Connection) -> None:
        connection.create_scalar_function("answer", lambda: 42)

    file = DatabaseFile(make(tmp_path / "app.db"), prepare)
    with file.reading() as connection:
        assert connection.execute("SELECT answer()").fetchall() == [(42,)]


# Transactions
def test_a_reader_sees_one_moment_and_cannot_write(wal_file: DatabaseFile, apps: Apps) -> None:
    app = apps(wal_file.path)
    with wal_file.reading() as connection:
        app.run("INSERT INTO t(text) VALUES ('app')")
        assert connection.execute("SELECT count(*) FROM t").fetchall() == [(1,)]
        with pytest.raises(apsw.ReadOnlyError):
            connection.execute("DELETE FROM t")
    with wal_file.reading() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchall() == [(2,)]


def test_what_fails_is_rolled_back(path: Path) -> None:
    file = DatabaseFile(path)
    with pytest.raises(RuntimeError), file.writing(quiet=True) as connection:  # noqa: PT012  (what is in the block is the subject)
        connection.execute("DELETE FROM t")
        raise RuntimeError
    with pytest.raises(DatabaseFault, match="UNIQUE"), file.writing(quiet=True) as connection:  # noqa: PT012  (what is in the block is the subject)
        connection.execute("DELETE FROM t")
        connection.execute("INSERT INTO t(id) VALUES (1), (1)")
    assert texts(path) == ["first"]
    assert opened_here(path) == []


def test_a_commit_waits_for_the_disk(path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def sync(one: Path) -> None:
        assert texts(path) == ["first", "ours"]  # no app waits for it
        synced.append(one.name)

    monkeypatch.setattr(file_module, "sync", sync)
    with DatabaseFile(path).writing(quiet=True) as connection:
        level = connection.pragma("synchronous")
        connection.execute("INSERT INTO t(text) VALUES ('ours')")
        assert synced == []
    # EXTRA: also for the removal of the journal. NORMAL: for nothing, so the log is synced here.
    assert (level, synced) == ((1, ["app.db-wal"]) if mode == WAL else (3, []))


SCHEMA = """
    CREATE TABLE noted(what);
    CREATE TRIGGER note AFTER INSERT ON t BEGIN INSERT INTO noted VALUES (new.text); END;
    CREATE TABLE child(parent INTEGER REFERENCES t ON DELETE CASCADE);
    INSERT INTO child VALUES (1);
"""


@pytest.mark.parametrize(("quiet", "noted"), [(True, []), (False, [("ours",)])])
def test_quietly_no_trigger_of_the_app_runs(
    wal_file: DatabaseFile, quiet: bool, noted: list[tuple[str]]
) -> None:
    with wal_file.writing(quiet=True) as connection:
        connection.execute(SCHEMA).fetchall()
    with wal_file.writing(quiet=quiet) as connection:
        connection.execute("CREATE TEMP TABLE ours(what)")
        connection.execute(
            "CREATE TEMP TRIGGER our AFTER INSERT ON main.t BEGIN INSERT INTO ours VALUES (new.text); END"
        )
        connection.execute("INSERT INTO t(text) VALUES ('ours')")
        assert connection.execute("SELECT what FROM ours").fetchall() == [("ours",)]
        assert connection.execute("SELECT what FROM noted").fetchall() == noted


def test_quietly_foreign_keys_do_nothing(wal_file: DatabaseFile) -> None:
    with wal_file.writing(quiet=True) as connection:
        connection.execute(SCHEMA).fetchall()
        connection.execute("DELETE FROM t")
        assert connection.execute("SELECT parent FROM child").fetchall() == [(1,)]


def test_a_hostile_schema_can_neither_be_rewritten_nor_call_what_is_unsafe(wal_file: DatabaseFile) -> None:
    with wal_file.writing(quiet=False) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        with pytest.raises(apsw.SQLError, match="may not be modified"):
            connection.execute("UPDATE sqlite_schema SET sql = 'x'")
        connection.execute("CREATE VIEW v AS SELECT fts3_tokenizer('simple')")
        with pytest.raises(apsw.SQLError, match="unsafe use"):
            connection.execute("SELECT * FROM v")


def test_the_schemas_number_changes_with_the_schema(wal_file: DatabaseFile, apps: Apps) -> None:
    before = wal_file.schema_version()
    add(wal_file, "ours")
    assert wal_file.schema_version() == before
    apps(wal_file.path).run("ALTER TABLE t ADD COLUMN more")
    assert wal_file.schema_version() != before


# Locks
def impatient(path: Path) -> DatabaseFile:
    """Where it is clear that the app keeps its lock."""
    file = DatabaseFile(path)
    file.tries = 20
    return file


def test_an_app_that_holds_its_lock_is_waited_for_and_then_told_of(path: Path, apps: Apps) -> None:
    app, file = apps(path), impatient(path)
    app.run("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy, match="locked"), file.writing(quiet=True):
        raise AssertionError
    assert file.locked
    app.run("COMMIT")
    add(file, "ours")
    assert not file.locked


def test_an_app_that_locks_its_database_for_as_long_as_it_runs(path: Path, mode: str, apps: Apps) -> None:
    app, file = apps(path), impatient(path)
    app.run("PRAGMA locking_mode = EXCLUSIVE")
    app.run(f"PRAGMA journal_mode = {mode}")
    app.run("INSERT INTO t(text) VALUES ('app')")
    assert not path.with_name("app.db-shm").exists()
    for _ in range(2):
        with pytest.raises(DatabaseBusy), file.reading():
            raise AssertionError
        assert file.locked
    app.run("INSERT INTO t(text) VALUES ('app again')")
    app.close()
    with file.reading() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchall() == [(3,)]
    assert not file.locked


def test_a_reader_in_an_app_makes_a_commit_wait_only_without_a_log(path: Path, mode: str, apps: Apps) -> None:
    app, file = apps(path), impatient(path)
    app.run("BEGIN")
    app.run("SELECT * FROM t")
    if mode == WAL:
        add(file, "ours")
    else:
        with pytest.raises(DatabaseBusy):
            add(file, "ours")
    assert app.run("SELECT count(*) FROM t") == [[1]]
    app.run("COMMIT")
    assert texts(path) == ["first"] + ["ours"] * (mode == WAL)


@contextmanager
def ours_locked(file: DatabaseFile) -> Iterator[None]:
    with file.writing(quiet=True) as connection:
        connection.execute("INSERT INTO t(text) VALUES ('ours')")
        yield


@pytest.mark.parametrize("mode", [WAL, DELETE])
def test_what_must_be_on_the_disk_first_is_before_the_disk_has_what_is_committed(
    path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, done = DatabaseFile(path), list[str]()
    monkeypatch.setattr(file, "make_durable", lambda: done.append("synced"))

    def first() -> None:
        # A log holds the lock for no longer than the commit takes: what is waited for comes after it.
        done.append(f"first, {len(texts(path)) - 1} committed")

    with file.writing(quiet=True, first=first) as connection:
        connection.execute("INSERT INTO t(text) VALUES ('ours')")
    assert done == (["first, 1 committed", "synced"] if mode == WAL else ["first, 0 committed"])


@pytest.mark.parametrize("mode", [WAL, DELETE])
def test_opening_and_closing_beside_a_transaction_drops_no_lock(path: Path, apps: Apps) -> None:
    app, file = apps(path, timeout_s=0), impatient(path)
    with ours_locked(file):
        with file.reading() as connection:
            assert connection.execute("SELECT text FROM t").fetchall() == [("first",)]
        assert check_new_database(path) == path
        file.look()
        file.make_durable()
        assert "locked" in app.try_to("BEGIN IMMEDIATE")
    app.run("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(DatabaseBusy):
            add(file, "ours")
    app.run("COMMIT")


def test_a_plain_descriptor_would_drop_it(tmp_path: Path, apps: Apps) -> None:
    # What the test above would find if the file were opened here other than through SQLite.
    path = make(tmp_path / "app.db", DELETE)
    app = apps(path, timeout_s=0)
    with pytest.raises(RuntimeError), ours_locked(DatabaseFile(path)):  # noqa: PT012  (what is in the block is the subject)
        path.read_bytes()
        assert app.try_to("BEGIN IMMEDIATE") == []
        app.run("ROLLBACK")
        raise RuntimeError


@pytest.mark.parametrize("mode", [WAL, DELETE])
def test_an_app_that_takes_its_lock_first_has_no_error_under_load(path: Path, apps: Apps) -> None:
    app, file = apps(path), DatabaseFile(path)
    transactions, ours = 100, 0
    app.send(load=transactions)
    assert app.receive() == "loading"
    finished = False
    while not finished:
        with suppress(DatabaseBusy):
            with file.writing(quiet=True) as connection:
                connection.execute("INSERT INTO t(text) SELECT 'ours' FROM json_each('[1,2,3,4,5]')")
            ours += 5
        with suppress(DatabaseBusy), file.reading() as connection:
            finished = ("app 99",) in connection.execute(
                "SELECT text FROM t WHERE text GLOB 'app *'"
            ).fetchall()
    assert app.receive() == []
    assert ours
    assert len(texts(path)) == 1 + transactions + ours


IN_THE_MIDDLE = """
    import os, sys
    from pathlib import Path
    from p2psyncd.sources.database.file import DatabaseFile

    with DatabaseFile(Path(sys.argv[1])).writing(quiet=True) as connection:
        connection.execute("PRAGMA cache_size = 10")
        connection.execute("UPDATE t SET text = 'ours'")
        # More than the cache holds: pages of the transaction are in the files by now.
        for number in range(200):
            connection.execute("INSERT INTO t(text) VALUES (?)", ("ours" * 1000,))
        print("in the middle", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("mode", [WAL, DELETE])
def test_killed_in_the_middle_of_a_transaction_it_leaves_what_was_there(
    path: Path, mode: str, apps: Apps
) -> None:
    app = apps(path)
    app.run(f"PRAGMA journal_mode = {mode}")
    app.run("INSERT INTO t(text) VALUES ('app')")
    ours = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(IN_THE_MIDDLE), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert ours.stdout is not None
    assert ours.stdout.readline() == b"in the middle\n"
    ours.kill()
    ours.communicate()
    assert ours.returncode == -signal.SIGKILL
    assert app.run("SELECT text FROM t") == [["first"], ["app"]]
    app.run("INSERT INTO t(text) VALUES ('app again')")
    assert app.run("PRAGMA integrity_check") == [["ok"]]
    add(DatabaseFile(path), "ours")
    assert app.run("SELECT count(*) FROM t") == [[4]]


# The file must be the one that was shared
def shared(path: Path) -> DatabaseFile:
    file = DatabaseFile(path)
    file.identity = file.look()
    assert file.identity is not None
    return file


def refuse_all(file: DatabaseFile, match: str) -> None:
    """Check that neither reading nor writing nor copying begins."""
    with pytest.raises(ShareHeld, match=match), file.reading():
        raise AssertionError
    with pytest.raises(ShareHeld, match=match), file.writing(quiet=True):
        raise AssertionError
    with pytest.raises(ShareHeld, match=match):
        file.snapshot_to(file.path.with_name("copy.db"))
    assert not file.path.with_name("copy.db").exists()


def test_a_file_moved_over_the_shared_one_is_not_touched(path: Path, tmp_path: Path) -> None:
    file = shared(path)
    make(tmp_path / "other.db").rename(path)
    refuse_all(file, "another file")
    assert texts(path) == ["first"]
    file.identity = file.look()
    add(file, "ours")


def test_a_file_deleted_and_made_again_is_not_touched(path: Path, apps: Apps) -> None:
    file = shared(path)
    app = apps(path)
    app.run("SELECT 1 FROM t")  # keeps the inode, as any program that still has it open
    path.unlink()
    make(path)
    refuse_all(file, "another file")


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = make(folder / "app.db")
    file = shared(path)
    path.unlink()
    refuse_all(file, "missing")
    assert not path.exists()
    folder.rename(tmp_path / "away")
    refuse_all(file, "missing")


def test_a_symlink_in_the_place_of_the_file_or_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = shared(make(folder / "app.db"))
    file.path.rename(tmp_path / "elsewhere.db")
    file.path.symlink_to(tmp_path / "elsewhere.db")
    refuse_all(file, "missing")
    file.path.unlink()
    (tmp_path / "elsewhere.db").rename(file.path)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    refuse_all(file, "symlink")


@pytest.mark.parametrize("mode", [WAL, DELETE])
def test_a_file_that_is_moved_away_during_a_transaction_keeps_none_of_it(path: Path, tmp_path: Path) -> None:
    file = shared(path)
    with pytest.raises(ShareHeld, match="another file"), file.writing(quiet=True) as connection:  # noqa: PT012  (what is in the block is the subject)
        connection.execute("DELETE FROM t")
        make(tmp_path / "other.db")
        path.rename(tmp_path / "old.db")
        (tmp_path / "other.db").rename(path)
    assert texts(path) == ["first"]
    # SQLite goes by names: what it kept of the old file's transaction is deleted or harmless.
    assert texts(tmp_path / "old.db") == ["first"]


# Files that will not do
@contextmanager
def as_somebody() -> Iterator[None]:
    """Be a user whom permissions concern."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(short_folder: Path) -> Path:
    """A folder whose owner permissions concern."""
    if not os.geteuid():
        os.chown(short_folder, NOBODY, NOBODY)
    return short_folder


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_refused_with_what_to_do(open_folder: Path, what: str, mode: str) -> None:
    with as_somebody():
        path = make(open_folder / "app.db", mode)
        file = shared(path)
        (path if what == "file" else open_folder).chmod(0o500)
        try:
            with pytest.raises(DatabaseNotWritable, match="Make the file and its folder writable"):
                check_new_database(path)
            with pytest.raises(DatabaseNotWritable):
                add(file, "ours")
        finally:
            (path if what == "file" else open_folder).chmod(0o700)
        assert texts(path) == ["first"]


def test_a_folder_that_may_not_be_entered_is_no_missing_file(open_folder: Path) -> None:
    with as_somebody():
        file = shared(make(open_folder / "app.db"))
        open_folder.chmod(0o000)
        try:
            with pytest.raises(DatabaseNotWritable), file.reading():
                raise AssertionError
        finally:
            open_folder.chmod(0o700)


def test_only_a_database_is_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(FolderMissing):
        check_new_database(path)
    with pytest.raises(NotAFolder, match="no file"):
        check_new_database(tmp_path)
    path.touch()
    with pytest.raises(NotADatabase, match="Let its app make its tables first"):
        check_new_database(path)
    path.write_bytes(os.urandom(8192))  # an encrypted one looks the same
    with pytest.raises(NotADatabase, match="encrypted"):
        check_new_database(path)
    path.write_text("a letter")
    with pytest.raises(NotADatabase):
        check_new_database(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAFolder, match="no file"):
        check_new_database(tmp_path / "pipe")
    made = make(tmp_path / "app.db")
    assert check_new_database(made) == made
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["app.db", "pipe", "x"]


def test_a_database_with_something_of_our_name_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "app.db")
    with closing(apsw.Connection(str(path))) as app:
        app.execute("CREATE TABLE _p2p_Mark(a)")
    with pytest.raises(NameTaken, match="Rename it"):
        check_new_database(path)


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (apsw.ProtocolError(), DatabaseBusy),
        (apsw.SchemaChangeError(), DatabaseBusy),
        (apsw.NoMemError(), OSError),
        (apsw.SQLError("malformed JSON"), DatabaseFault),
        (apsw.BindingsError("one too many"), DatabaseFault),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), DatabaseFault),
    ],
)
def test_no_error_of_sqlites_own_comes_out(path: Path, error: Exception, known: type[Exception]) -> None:
    with pytest.raises(known), DatabaseFile(path).reading():
        raise error


def test_a_symlink_is_resolved_when_a_database_is_added(tmp_path: Path) -> None:
    path = make(tmp_path / "app.db")
    (tmp_path / "link").symlink_to(path)
    assert check_new_database(tmp_path / "link") == path
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FolderMissing):
        check_new_database(tmp_path / "loop")


def test_a_database_with_two_names_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "app.db")
    os.link(path, tmp_path / "again.db")
    with pytest.raises(DatabaseLinked, match="2 names"):
        check_new_database(path)


def test_a_damaged_database_is_told_of_and_not_written(tmp_path: Path) -> None:
    path = make(tmp_path / "app.db", DELETE)
    with path.open("r+b") as raw:
        raw.seek(100)
        raw.write(b"\xff" * 3000)
    before = path.read_bytes()
    file = DatabaseFile(path)
    with pytest.raises(DatabaseDamaged, match="put a backup back"), file.reading() as connection:
        connection.execute("SELECT * FROM t").fetchall()
    with pytest.raises(DatabaseDamaged), file.writing(quiet=True) as connection:
        connection.execute("DELETE FROM t")
    assert path.read_bytes() == before


# Copies
def test_a_snapshot_is_a_private_copy_of_what_is_committed(path: Path, tmp_path: Path, apps: Apps) -> None:
    app = apps(path)
    app.run("INSERT INTO t(text) VALUES ('app')")
    app.run("BEGIN IMMEDIATE")
    app.run("INSERT INTO t(text) VALUES ('not committed')")
    target = tmp_path / "copy's.db"
    DatabaseFile(path).snapshot_to(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert texts(target) == ["first", "app"]
    app.run("COMMIT")


def test_a_snapshot_neither_replaces_a_file_nor_leaves_half_a_one(
    wal_file: DatabaseFile, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    target.write_text("a letter")
    with pytest.raises(FileExistsError):
        wal_file.snapshot_to(target)
    assert target.read_text() == "a letter"
    target.unlink()
    with wal_file.writing(quiet=True) as connection:
        connection.execute("INSERT INTO t(text) VALUES (hex(zeroblob(100000)))")
    damage_second_page(wal_file.path)
    with pytest.raises(DatabaseDamaged):
        wal_file.snapshot_to(target)
    assert not target.exists()


def damage_second_page(path: Path) -> None:
    with path.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * 4096)


def test_a_snapshot_is_not_begun_without_room_for_it(
    wal_file: DatabaseFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "has_room", lambda *_: False)
    with pytest.raises(OSError, match="no room"):
        wal_file.snapshot_to(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
