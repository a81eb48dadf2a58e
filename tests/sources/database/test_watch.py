from __future__ import annotations

import ctypes
import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest
import trio
from trio.testing import MockClock

from p2psyncd.sources import inotify as inotify_module
from p2psyncd.sources.database import watch as watch_module
from p2psyncd.sources.database.file import DatabaseFile
from p2psyncd.sources.database.watch import FOLLOW_UPS_S, OVERFLOW, POLL_S, SPACING_S, Pace, Watcher
from p2psyncd.sources.inotify import Event, read_events
from p2psyncd.sources.source import Dirty

if TYPE_CHECKING:
    from conftest import App, Apps

PATIENCE_S = 10.0
EVERYTHING = Dirty(subtrees=frozenset({b""}))
MODES = ["wal", "delete", "truncate", "persist"]


# When to look
def test_the_first_event_is_looked_at_at_once_and_followed_up_at_growing_intervals() -> None:
    pace = Pace()
    assert not pace.take(5.0)
    pace.event(5.0)
    looks = []
    while pace.due_s < math.inf:
        now_s = pace.due_s
        assert pace.take(now_s)
        looks.append(now_s)
    assert looks[0] == 5.0
    assert [after - before for before, after in pairwise(looks)] == pytest.approx(FOLLOW_UPS_S)
    assert not pace.take(1e9)


def test_events_that_go_on_are_looked_at_once_in_a_while_and_the_last_one_too() -> None:
    pace = Pace()
    looks = []
    for millisecond in range(1000):
        now_s = millisecond / 1000
        pace.event(now_s)
        if pace.take(now_s):
            looks.append(now_s)
    assert len(looks) == pytest.approx(100, abs=10)
    assert pace.due_s > looks[-1]
    assert pace.due_s <= looks[-1] + SPACING_S


def test_an_event_between_follow_ups_is_looked_at_at_once() -> None:
    pace = Pace()
    pace.event(0.0)
    for _ in range(6):
        assert pace.take(pace.due_s)
    assert pace.due_s > 1.0
    pace.event(1.0)
    assert pace.take(1.0)
    assert pace.due_s == 1.0 + FOLLOW_UPS_S[0]


def test_an_event_right_after_a_look_does_not_put_the_next_one_off() -> None:
    pace = Pace()
    pace.event(0.0)
    assert pace.take(0.0)
    pace.event(0.001)
    assert pace.due_s == FOLLOW_UPS_S[0]
    assert pace.take(0.003)
    assert pace.due_s == 0.003 + SPACING_S


# Which events matter
@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "app.db"
    path.parent.mkdir()
    return path


@pytest.fixture
def watcher(path: Path) -> Iterator[Watcher]:
    watcher = Watcher(path)
    watcher.open()
    yield watcher
    watcher.close()


def mattered(watcher: Watcher) -> bool:
    """Return whether anything that happened since the last call may have been a commit."""
    events = list(read_events(watcher.inotify))
    return any(watcher.matters(event) for event in events)


@pytest.fixture(params=MODES)
def app(request: pytest.FixtureRequest, apps: Apps, path: Path) -> App:
    """An app in each of the journal modes."""
    app = apps(path)
    app.run(f"PRAGMA journal_mode = {request.param}")
    app.run("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)")
    app.run("INSERT INTO t(text) VALUES ('first')")
    return app


def test_each_commit_is_told_of(app: App, watcher: Watcher) -> None:
    for _ in range(3):
        mattered(watcher)
        app.run("UPDATE t SET text = text || '.'")
        assert mattered(watcher)
    app.run("BEGIN")
    app.run("UPDATE t SET text = 'in a transaction'")
    mattered(watcher)
    app.run("COMMIT")
    assert mattered(watcher)


def test_a_log_that_begins_again_after_a_checkpoint_is_told_of(app: App, watcher: Watcher) -> None:
    app.run("PRAGMA wal_checkpoint(RESTART)")
    mattered(watcher)
    app.run("UPDATE t SET text = 'after it'")
    assert mattered(watcher)
    app.run("PRAGMA wal_checkpoint(TRUNCATE)")
    mattered(watcher)
    app.run("UPDATE t SET text = 'after that'")
    assert mattered(watcher)


def test_our_own_look_is_not_told_of(app: App, path: Path, watcher: Watcher) -> None:
    file = DatabaseFile(path)
    for opened in (True, False):
        if not opened:
            app.close()
        mattered(watcher)
        with file.reading() as connection:
            connection.execute("SELECT * FROM t").fetchall()
        file.look()
        file.make_durable()
        assert not mattered(watcher), opened


def test_reading_apps_are_not_told_of(app: App, path: Path, watcher: Watcher, apps: Apps) -> None:
    mattered(watcher)
    other = apps(path)
    app.run("SELECT * FROM t")
    other.run("SELECT * FROM t")
    other.close()
    assert not mattered(watcher)


@pytest.mark.parametrize("how", ["moved over", "copied over", "deleted", "made anew"])
def test_another_file_in_its_place_is_told_of(app: App, path: Path, watcher: Watcher, how: str) -> None:
    app.close()
    other = shutil.copy(path, path.with_name("other.db"))
    mattered(watcher)
    match how:
        case "moved over":
            other.rename(path)
        case "copied over":
            shutil.copyfile(other, path)
        case _:
            path.unlink()
    assert mattered(watcher)
    if how == "made anew":
        path.touch()
        assert mattered(watcher)


def test_what_lies_beside_it_is_not_told_of(path: Path, watcher: Watcher) -> None:
    for name in ("app.db.bak", "app.db-shm", "app.db-wal.x", "other.db-wal", "\udcff"):
        path.with_name(name).write_text("x")
        path.with_name(name).unlink()
    assert not mattered(watcher)


def test_lost_events_are_a_reason_to_look(watcher: Watcher) -> None:
    assert watcher.matters(Event(-1, OVERFLOW, 0, b""))


# The watch itself
class Hearing:
    """What a watch reported so far."""

    def __init__(self) -> None:
        self.count = 0
        self.times: list[float] = []
        self.news = trio.Event()

    def notify(self, dirty: Dirty) -> None:
        assert dirty == EVERYTHING
        self.count += 1
        self.times.append(trio.current_time())
        self.news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds, looking whenever the watch says so."""
        with trio.fail_after(PATIENCE_S):
            while not true():
                self.news = trio.Event()
                await self.news.wait()


def touch(path: Path) -> None:
    """Write to the file."""
    path.write_text("x")


async def test_a_commit_is_found_by_looking_when_told(app: App, path: Path, nursery: trio.Nursery) -> None:
    hearing, file = Hearing(), DatabaseFile(path)
    await nursery.start(Watcher(path).run, hearing.notify)

    def found(text: str) -> bool:
        with file.reading() as connection:
            return connection.execute("SELECT text FROM t").fetchall() == [(text,)]

    assert hearing.count == 0
    for number in range(20):
        app.run(f"UPDATE t SET text = 'number {number}'")
        await hearing.until(lambda text=f"number {number}": found(text))  # type: ignore[misc]


async def test_the_looks_have_an_end(path: Path, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    hearing = Hearing()
    await nursery.start(Watcher(path).run, hearing.notify)
    began_s = trio.current_time()
    touch(path)
    await trio.sleep(1000)
    after = [at_s - began_s for at_s in hearing.times]
    assert after[: len(FOLLOW_UPS_S)] == pytest.approx(
        [sum(FOLLOW_UPS_S[:step]) for step in range(len(FOLLOW_UPS_S))]
    )
    # The events, and the comparison of the status that comes to the same.
    assert hearing.count <= 2 * (1 + len(FOLLOW_UPS_S))


async def test_what_raised_no_event_is_found_by_comparison(
    path: Path, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hearing = Hearing()
    monkeypatch.setattr(Watcher, "matters", lambda *_: False)
    await nursery.start(Watcher(path).run, hearing.notify)
    touch(path)
    await trio.sleep(POLL_S + 1)
    assert hearing.count > 0


@pytest.mark.parametrize("how", ["deleted", "moved"])
async def test_a_folder_that_goes_is_a_reason_to_look(path: Path, tmp_path: Path, how: str) -> None:
    hearing = Hearing()
    with pytest.RaisesGroup(FileNotFoundError):
        async with trio.open_nursery() as nursery:
            await nursery.start(Watcher(path).run, hearing.notify)
            if how == "deleted":
                shutil.rmtree(path.parent)
            else:
                path.parent.rename(tmp_path / "moved")
    assert hearing.count == 1


async def test_a_folder_that_goes_with_what_lies_above_it_is_missed(
    path: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    with pytest.RaisesGroup(FileNotFoundError):
        async with trio.open_nursery() as nursery:
            await nursery.start(Watcher(folder / "app.db").run, Hearing().notify)
            (tmp_path / "a").rename(tmp_path / "moved")
            folder.mkdir(parents=True)


async def test_a_folder_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.RaisesGroup(FileNotFoundError):
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  (the nursery's own start is the subject)
            await nursery.start(Watcher(tmp_path / "none" / "app.db").run, Hearing().notify)


async def test_a_watch_can_be_started_again(path: Path) -> None:
    watcher, hearing = Watcher(path), Hearing()
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run, hearing.notify)
            hearing.count = 0
            touch(path)
            await hearing.until(lambda: hearing.count > 0)
            nursery.cancel_scope.cancel()
        assert watcher.inotify == -1


def no_instance() -> int:
    ctypes.set_errno(errno.EMFILE)
    return -1


def no_watch(inotify: int, path: bytes, mask: int) -> int:
    del inotify, path, mask
    ctypes.set_errno(errno.ENOSPC)
    return -1


@pytest.mark.parametrize("setting", ["max_user_instances", "max_user_watches"])
async def test_without_inotify_the_files_are_looked_at_and_the_user_is_told(
    app: App, path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    module, name, none = {
        "max_user_instances": (inotify_module, "inotify_init", no_instance),
        "max_user_watches": (watch_module, "add_watch", no_watch),
    }[setting]
    real = getattr(module, name)
    monkeypatch.setattr(module, name, none)
    monkeypatch.setattr(watch_module, "POLL_ONLY_S", 0.01)
    monkeypatch.setattr(watch_module, "AGAIN_S", 0.1)
    hearing, watcher = Hearing(), Watcher(path)
    await nursery.start(watcher.run, hearing.notify)
    assert watcher.limited is not None
    assert setting in watcher.limited
    assert watcher.limited_command is not None
    assert setting in watcher.limited_command
    assert hearing.count == 0
    app.run("UPDATE t SET text = 'polled'")
    await hearing.until(lambda: hearing.count > 0)
    # As soon as there is an inotify instance again, it is used, and looked once.
    monkeypatch.setattr(module, name, real)
    await hearing.until(lambda: watcher.limited is None)
    assert watcher.limited_command is None
    assert watcher.inotify >= 0


def test_our_own_look_does_not_change_the_status(app: App, path: Path) -> None:
    watcher, file = Watcher(path), DatabaseFile(path)
    for opened in (True, False):
        if not opened:
            app.close()
        before = watcher.status()
        with file.reading():
            assert opened or watcher.status() == before
        assert watcher.status() == before
    with apsw.Connection(os.fsdecode(path)) as connection:
        connection.execute("INSERT INTO t(text) VALUES ('more')")
    connection.close()
    assert watcher.status() != before
