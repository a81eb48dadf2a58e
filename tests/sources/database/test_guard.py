from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from p2psyncd.errors import DatabaseBusy, ShareHeld
from p2psyncd.sources.database.file import DatabaseFile
from p2psyncd.sources.database.guard import FileGuard, Known, Verdict, judge, why
from p2psyncd.sources.database.hints import Mark, following_apply, install, read_mark, uninstall, write_mark
from p2psyncd.sources.database.schema import read_schema

if TYPE_CHECKING:
    from conftest import Apps

SHARE, DEVICE, OTHER = b"share" * 3, b"device" * 5, b"other" * 6
NONCE = b"this opening"
KNOWN = Known(number=7, nonce=NONCE, inode=1)
MARK = Mark(SHARE, DEVICE, 7, NONCE)


@pytest.mark.parametrize(
    ("mark", "verdict"),
    [
        (MARK, Verdict.SAME),
        # The process was killed after its commit, before the state took note.
        (MARK._replace(number=8), Verdict.SAME),
        (MARK._replace(number=6), Verdict.RESTORED),
        (MARK._replace(number=6, nonce=b"an earlier opening"), Verdict.RESTORED),
        # A backup went on as this device's file under an older state, and came back.
        (MARK._replace(nonce=b"an earlier opening"), Verdict.RESTORED),
        (MARK._replace(number=9, nonce=b"a later opening"), Verdict.AHEAD),
        (MARK._replace(device=OTHER), Verdict.COPIED),
        (MARK._replace(device=OTHER, number=99), Verdict.COPIED),
        (MARK._replace(share=OTHER), Verdict.REPLACED),
        (MARK._replace(share=OTHER, device=OTHER), Verdict.REPLACED),
        (None, Verdict.REPLACED),
    ],
)
def test_a_file_is_judged_by_its_mark(mark: Mark | None, verdict: Verdict) -> None:
    assert judge(mark, KNOWN, share=SHARE, device=DEVICE) is verdict


@pytest.mark.parametrize("mark", [None, MARK, Mark(OTHER, OTHER, 99, b"")])
def test_a_file_of_which_nothing_is_known_is_taken_as_it_is(mark: Mark | None) -> None:
    assert judge(mark, None, share=SHARE, device=DEVICE) is Verdict.SAME


def test_each_reason_says_what_can_be_done() -> None:
    path = Path("/home/anna/app.db")
    assert why(Verdict.SAME, path) == why(Verdict.AHEAD, path) == ""
    for verdict in (Verdict.RESTORED, Verdict.REPLACED, Verdict.COPIED):
        assert str(path) in why(verdict, path)
        assert "`p2psync share approve NAME`" in why(verdict, path)
        assert "`p2psync share approve NAME --catch-up`" in why(verdict, path)
    assert "is its disk mounted?" in why(Verdict.GONE, path)


# With files
class Settings:
    """The part of a share's store that keeps settings."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.writes = 0

    def setting(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def set_setting(self, name: str, value: bytes) -> None:
        self.kept[name] = value
        self.writes += 1


class Device:
    """One device's database, and what its state knows of it."""

    def __init__(self, path: Path, device: bytes = DEVICE) -> None:
        self.path = path
        self.device = device
        self.arrived = 0
        self.settings: Any = Settings()
        if not path.exists():
            make(path)
        self.start()
        self.guard.check()
        with self.file.writing(quiet=True) as connection:
            install(connection, read_schema(connection), share=SHARE, device=device)
        self.guard.save(self.settings)

    def start(self) -> None:
        """Begin as a new process does."""
        self.file = DatabaseFile(self.path)
        self.file.tries = 20
        known = Known.load(self.settings)
        self.guard = FileGuard(
            self.file, known, share=SHARE, device=self.device, arrival=lambda: self.arrived
        )
        self.file.keeper = self.guard

    def write(self) -> None:
        with self.file.writing(quiet=True) as connection:
            connection.execute("INSERT INTO t(text) VALUES ('ours')")
        self.guard.save(self.settings)

    def look(self) -> None:
        """Do what begins each scan."""
        self.guard.check()
        with self.file.reading():
            pass

    def held(self, verdict: Verdict) -> None:
        """Check that nothing is read or written, and why."""
        with pytest.raises(ShareHeld) as caught:
            self.look()
        assert caught.value.detail == why(verdict, self.path)
        with pytest.raises(ShareHeld):
            self.write()

    def approve(self) -> None:
        self.guard.accept()
        self.guard.save(self.settings)


def make(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(
        "PRAGMA journal_mode = WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)"
    ).fetchall()
    connection.close()


@pytest.fixture
def here(tmp_path: Path) -> Device:
    return Device(tmp_path / "app.db")


RESTARTS = pytest.mark.parametrize("restarted", [False, True], ids=["at once", "while it was off"])


@RESTARTS
def test_a_file_that_apps_write_to_stays_the_same(here: Device, apps: Apps, restarted: bool) -> None:
    app = apps(here.path)
    app.run("INSERT INTO t(text) VALUES ('app')")
    here.write()
    app.run("CREATE TABLE more(id INTEGER PRIMARY KEY)")
    app.run("VACUUM")
    app.close()
    if restarted:
        here.start()
    here.look()
    here.write()
    assert not here.guard.doubtful


@RESTARTS
@pytest.mark.parametrize("how", ["copied over it", "moved over it"])
def test_a_backup_in_its_place_holds_the_share(
    here: Device, tmp_path: Path, restarted: bool, how: str
) -> None:
    backup = tmp_path / "backup.db"
    shutil.copy(here.path, backup)
    here.write()
    before = backup.read_bytes()
    if how == "copied over it":
        shutil.copyfile(backup, here.path)
    else:
        backup.rename(here.path)
    if restarted:
        here.start()
    here.held(Verdict.RESTORED)
    assert here.path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir() if entry != backup] == ["app.db"]
    # It is taken as it is; and the same backup once more is told from it.
    backup = tmp_path / "again.db"
    shutil.copy(here.path, backup)
    here.approve()
    here.start()
    here.look()
    here.write()
    shutil.copyfile(backup, here.path)
    here.held(Verdict.RESTORED)


def test_a_backup_that_is_moved_over_it_in_the_middle_of_our_work_is_not_read(
    here: Device, tmp_path: Path
) -> None:
    shutil.copy(here.path, tmp_path / "backup.db")
    here.write()
    here.guard.check()
    (tmp_path / "backup.db").rename(here.path)
    with pytest.raises(ShareHeld), here.file.reading():
        raise AssertionError


@RESTARTS
def test_another_database_in_its_place_holds_the_share(here: Device, restarted: bool) -> None:
    here.path.unlink()
    make(here.path)
    if restarted:
        here.start()
    here.held(Verdict.REPLACED)
    here.approve()
    here.look()
    # Hints are installed in it, and from then on it is known.
    with here.file.writing(quiet=True) as connection:
        install(connection, read_schema(connection), share=SHARE, device=DEVICE)
    here.guard.save(here.settings)
    here.start()
    here.look()
    make(here.path.with_name("other.db"))
    here.path.with_name("other.db").rename(here.path)
    here.held(Verdict.REPLACED)


@RESTARTS
def test_another_devices_file_is_told_from_ours(here: Device, tmp_path: Path, restarted: bool) -> None:
    (tmp_path / "there").mkdir()
    there = Device(tmp_path / "there" / "app.db", OTHER)
    for _ in range(3):
        there.write()
    shutil.copyfile(there.path, here.path)
    if restarted:
        here.start()
    here.held(Verdict.COPIED)
    here.approve()
    here.start()
    here.look()
    with here.file.reading() as connection:
        mark = read_mark(connection)
    assert mark is not None
    assert (mark.share, mark.device) == (SHARE, DEVICE)


def test_a_file_that_is_gone_holds_the_share_until_it_is_back(here: Device) -> None:
    away = here.path.rename(here.path.with_name("away.db"))
    here.held(Verdict.GONE)
    with pytest.raises(ShareHeld):
        here.approve()
    away.rename(here.path)
    here.look()
    here.write()


@RESTARTS
def test_the_same_content_in_a_new_file_is_taken_and_compared(
    here: Device, tmp_path: Path, restarted: bool
) -> None:
    # As `VACUUM INTO` and a rename leave it: the number is the last one, the inode is another.
    shutil.copy(here.path, tmp_path / "compact.db").rename(here.path)
    if restarted:
        here.start()
    here.look()
    assert here.guard.doubtful
    here.write()


def test_a_new_file_is_compared_also_if_it_is_written_to_before_anybody_looks_which_it_is(
    here: Device, tmp_path: Path
) -> None:
    shutil.copy(here.path, tmp_path / "compact.db").rename(here.path)
    here.start()
    here.write()  # as a state that is opened does
    here.start()
    here.write()
    here.look()
    assert here.guard.doubtful


def test_what_was_committed_and_not_noted_is_no_backup(here: Device) -> None:
    with here.file.writing(quiet=True) as connection:
        connection.execute("INSERT INTO t(text) VALUES ('ours')")
    here.start()  # killed before the state had it
    here.look()
    here.write()
    assert not here.guard.doubtful


def test_what_was_not_committed_is_not_expected(here: Device) -> None:
    with suppress(RuntimeError), here.file.writing(quiet=True):
        raise RuntimeError
    here.look()
    here.start()
    here.look()


def test_a_state_that_is_older_than_the_file_has_every_row_compared(here: Device) -> None:
    older = dict(here.settings.kept)
    with here.file.writing(quiet=True) as connection:
        mark = read_mark(connection)
        assert mark is not None
        write_mark(connection, mark.number, b"a later opening")
    here.guard.save(here.settings)
    here.settings.kept = older
    here.start()
    here.look()
    assert here.guard.doubtful


def test_a_state_that_had_not_come_as_far_as_the_file_has_every_row_compared(here: Device) -> None:
    here.arrived = 5
    here.write()
    here.start()
    here.look()
    assert not here.guard.doubtful
    here.arrived = 4  # a backup of the state alone, made while this opening was written to
    here.start()
    here.look()
    assert here.guard.doubtful
    here.guard.doubtful = False
    here.write()
    here.start()
    here.look()
    assert not here.guard.doubtful


def test_a_transaction_that_numbers_itself_keeps_its_number(here: Device) -> None:
    with here.file.writing(quiet=True) as connection:
        mark = read_mark(connection)
        assert mark is not None
        write_mark(connection, mark.number + 1, mark.nonce)
    assert here.guard.known is not None
    assert here.guard.known.number == mark.number + 1


def test_each_of_our_transactions_has_a_greater_number(here: Device) -> None:
    numbers = []
    for _ in range(3):
        here.write()
        assert here.guard.known is not None
        numbers.append(here.guard.known.number)
    assert numbers == sorted(set(numbers))


def test_a_file_that_nothing_of_ours_is_in_is_not_known(here: Device) -> None:
    with here.file.writing(quiet=True) as connection:
        uninstall(connection)
    here.guard.save(here.settings)
    assert here.guard.known is None
    assert Known.load(here.settings) is None
    here.start()
    here.look()


def test_what_is_known_is_written_once(here: Device) -> None:
    before = here.settings.writes
    for _ in range(3):
        here.guard.save(here.settings)
    assert here.settings.writes == before
    here.write()
    assert here.settings.writes == before + 1
    assert Known.load(here.settings) == here.guard.known == replace(here.guard.known or KNOWN)


def test_a_locked_file_is_not_judged(here: Device, apps: Apps) -> None:
    app = apps(here.path)
    app.run("PRAGMA locking_mode = EXCLUSIVE")
    app.run("INSERT INTO t(text) VALUES ('app')")
    here.start()
    here.guard.check()  # there it is, and nothing speaks against it so far
    with pytest.raises(DatabaseBusy):
        here.look()
    app.close()
    here.look()
    assert here.file.identity == here.file.look()


def test_the_number_of_an_apply_that_was_not_committed_is_never_met(here: Device) -> None:
    # Killed between the note in its state and its commit, a process would take it for committed.
    with here.file.reading() as connection:
        mark = read_mark(connection)
    assert mark is not None
    noted = following_apply(mark.number)
    numbers = set()
    for turn in range(6):
        with here.file.writing(quiet=True) as connection:
            mark = read_mark(connection)
            assert mark is not None
            if turn % 3 == 2:
                write_mark(connection, following_apply(mark.number), mark.nonce)
        assert here.guard.known is not None
        numbers.add(here.guard.known.number)
        if turn == 1:
            here.start()
    assert len(numbers) == 6
    assert noted not in numbers


def test_what_is_committed_while_a_look_begins_is_no_backup_seen(here: Device) -> None:
    keeper = here.guard

    class Late:
        """Another thread commits right after the look's moment."""

        def expected(self) -> object:
            return keeper.expected()

        def look(self, connection: apsw.Connection, expected: object) -> None:
            here.file.keeper = keeper
            here.write()
            keeper.look(connection, expected)

    late: Any = Late()
    here.file.keeper = late
    with here.file.reading():
        pass
    here.look()
