from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio

from p2psyncd.sources import inotify as inotify_module
from p2psyncd.sources.folder import watch as watch_module
from p2psyncd.sources.folder.watch import Hints, Watcher
from p2psyncd.sources.inotify import EVENT, Event, parse_events
from p2psyncd.sources.source import Dirty

if TYPE_CHECKING:
    from conftest import Device

PATIENCE_S = 10.0


class Hearing:
    """What a watch reported so far."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.subtrees: set[bytes] = set()
        self.rounds: list[Dirty] = []
        self.news = trio.Event()

    def notify(self, dirty: Dirty) -> None:
        self.keys |= dirty.keys
        self.subtrees |= dirty.subtrees
        self.rounds.append(dirty)
        self.news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds of what was heard."""
        with trio.fail_after(PATIENCE_S):
            while not true():
                self.news = trio.Event()
                await self.news.wait()

    def forget(self) -> None:
        self.keys.clear()
        self.subtrees.clear()
        self.rounds.clear()


Watched = Callable[[], Awaitable[Hearing]]


@pytest.fixture
def watched(here: Device, nursery: trio.Nursery) -> Watched:
    """Starts a watch of the device's folder."""

    async def start() -> Hearing:
        hearing = Hearing()
        await nursery.start(here.source.watch, hearing.notify)
        return hearing

    return start


async def settled(hearing: Hearing, here: Device) -> None:
    """Wait until all events before this moment have been heard, then forget them."""
    here.write("end-of-events", os.urandom(4))
    waiting = here.source.watcher.window.waiting
    await hearing.until(lambda: b"end-of-events" in hearing.keys and not waiting)
    hearing.forget()


async def test_a_written_file_is_reported_with_its_directory(here: Device, watched: Watched) -> None:
    here.path("d").mkdir()
    hearing = await watched()
    here.write("d/f", "content")
    await hearing.until(lambda: {b"d", b"d/f"} <= hearing.keys)


def due_at_once(here: Device, *events: tuple[int, bytes, int]) -> set[bytes]:
    """What is due at the very moment of these events (mask, name, cookie) in the root."""
    watcher = Watcher(here.root, here.source.ignore)
    watcher.keys[1] = b""
    for mask, name, cookie in events:
        watcher.handle(Event(1, mask, cookie, name), Hints(), 100.0)
    return watcher.window.take_due(100.0)


def test_a_close_after_a_write_is_due_at_once(here: Device) -> None:
    modify = int(watch_module.InotifyConstants.IN_MODIFY)
    assert due_at_once(here, (watch_module.CREATE, b"f", 0), (modify, b"f", 0)) == set()
    assert due_at_once(here, (modify, b"f", 0), (watch_module.CLOSE_WRITE, b"f", 0)) == {b"f"}


def test_an_atomic_save_is_due_at_once_and_a_rename_of_an_old_file_is_not(here: Device) -> None:
    rename = ((watch_module.MOVED_FROM, b"tmp", 7), (watch_module.MOVED_TO, b"f", 7))
    assert due_at_once(here, (watch_module.CREATE, b"tmp", 0), *rename) == {b"tmp", b"f"}
    assert due_at_once(here, *rename) == set()
    assert due_at_once(here, (watch_module.MOVED_TO, b"f", 7)) == {b"f"}


async def test_an_open_file_is_reported_once_it_is_quiet(here: Device, watched: Watched) -> None:
    path = here.write("f", "one")
    hearing = await watched()
    with path.open("ab") as log:
        began = trio.current_time()
        log.write(b"line\n")
        log.flush()
        await hearing.until(lambda: b"f" in hearing.keys)
        assert trio.current_time() - began >= 0.019


async def test_changes_of_mode_symlinks_and_deletes_are_reported(here: Device, watched: Watched) -> None:
    path = here.write("f", "one")
    here.write("g", "one")
    here.path("d").mkdir()
    hearing = await watched()
    path.chmod(0o600)
    here.path("g").unlink()
    here.path("link").symlink_to("f")
    here.path("d").chmod(0o700)
    os.mkfifo(here.path("fifo"))
    await hearing.until(lambda: {b"f", b"g", b"link", b"d", b"fifo"} <= hearing.keys)


async def test_an_atomic_save_is_reported(here: Device, watched: Watched) -> None:
    here.write("f", "one")
    hearing = await watched()
    here.write("f.tmp", "two").rename(here.path("f"))
    await hearing.until(lambda: b"f" in hearing.keys)


async def test_both_names_of_a_renamed_file_are_reported_together(here: Device, watched: Watched) -> None:
    here.write("old", "one")
    here.path("d").mkdir()
    hearing = await watched()
    here.path("old").rename(here.path("d/new"))
    await hearing.until(lambda: b"d/new" in hearing.keys)
    assert {b"old", b"d/new", b"d"} <= hearing.rounds[-1].keys


async def test_a_file_from_outside_is_complete(here: Device, watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    hearing = await watched()
    (tmp_path / "outside").rename(here.path("in"))
    await hearing.until(lambda: b"in" in hearing.keys)
    here.path("in").rename(tmp_path / "outside")
    hearing.forget()
    await hearing.until(lambda: b"in" in hearing.keys)


async def test_a_new_directory_is_scanned_whole_and_watched(here: Device, watched: Watched) -> None:
    hearing = await watched()
    here.write("a/b/c/f", "x")
    await hearing.until(lambda: b"a" in hearing.subtrees)
    await settled(hearing, here)
    here.write("a/b/c/g", "x")
    await hearing.until(lambda: b"a/b/c/g" in hearing.keys)
    assert hearing.subtrees == set()


async def test_a_moved_directory_is_watched_under_its_new_name(here: Device, watched: Watched) -> None:
    here.write("old/sub/f", "x")
    hearing = await watched()
    here.path("old").rename(here.path("new"))
    await hearing.until(lambda: b"new" in hearing.subtrees and b"old" in hearing.keys)
    await settled(hearing, here)
    here.write("new/sub/f", "y")
    await hearing.until(lambda: b"new/sub/f" in hearing.keys)
    assert not any(key.startswith(b"old") for key in hearing.keys)


async def test_a_directory_that_leaves_is_no_longer_watched(
    here: Device, watched: Watched, tmp_path: Path
) -> None:
    here.write("d/sub/f", "x")
    hearing = await watched()
    here.path("d").rename(tmp_path / "outside")
    await hearing.until(lambda: b"d" in hearing.keys)
    (tmp_path / "outside/sub/f").write_text("changed")
    await settled(hearing, here)
    assert set(here.source.watcher.watches) == {b""}


async def test_a_deleted_tree_is_reported_and_forgotten(here: Device, watched: Watched) -> None:
    here.write("d/sub/f", "x")
    hearing = await watched()
    shutil.rmtree(here.path("d"))
    await hearing.until(lambda: b"d" in hearing.keys)
    await settled(hearing, here)
    assert set(here.source.watcher.watches) == {b""}
    assert set(here.source.watcher.keys.values()) == {b""}


async def test_the_programs_own_folder_raises_nothing(here: Device, watched: Watched) -> None:
    here.write("x", "x")
    hearing = await watched()
    (here.root / ".p2psync/staging/thing").write_text("x")
    (here.root / ".p2psync/new").write_text("x")
    here.path("x").write_text("y")
    await hearing.until(lambda: b"x" in hearing.keys)
    assert not any(key.startswith(b".p2psync") for key in hearing.keys)
    assert all(not key.startswith(b".p2psync") for key in here.source.watcher.watches)


async def test_what_is_ignored_raises_nothing_until_the_rules_change(here: Device, watched: Watched) -> None:
    here.write(".p2psyncignore", "build/\n*.log\n")
    here.write("build/deep/o", "x")
    hearing = await watched()
    assert set(here.source.watcher.watches) == {b""}
    here.write("build/deep/o", "y")
    here.write("a.log", "y")
    await settled(hearing, here)
    here.write(".p2psyncignore", "*.log\n")
    await hearing.until(lambda: b"" in hearing.subtrees)
    assert b"build/deep" in here.source.watcher.watches
    await settled(hearing, here)
    here.write(".p2psyncignore", "*.log\n# nothing new\n")
    await hearing.until(lambda: b".p2psyncignore" in hearing.keys)
    assert b"" not in hearing.subtrees


async def test_lost_events_mean_a_full_scan_and_new_directories_are_watched(
    here: Device, watched: Watched
) -> None:
    hearing = await watched()
    watcher = here.source.watcher
    here.path("missed").mkdir()
    hints = Hints()
    watcher.handle(Event(-1, watch_module.OVERFLOW, 0, b""), hints, trio.current_time())
    assert hints.dirty() == Dirty(subtrees=frozenset({b""}))
    assert b"missed" in watcher.watches
    await hearing.until(lambda: b"missed" in hearing.subtrees)


async def test_a_real_overflow_is_noticed(here: Device, watched: Watched) -> None:
    queued = int(await trio.Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queued > 20_000:
        pytest.skip("the kernel's queue is too long to fill it")
    here.path("d").mkdir()
    hearing = await watched()
    # No checkpoint in between: the watch cannot read while this writes.
    for number in range(queued // 3 + 10):
        name = here.root / "d" / f"{number % 7}"
        name.touch()
        name.unlink()
    await hearing.until(lambda: b"" in hearing.subtrees)


@pytest.mark.parametrize("how", ["deleted", "moved"])
async def test_a_root_that_goes_is_a_reason_to_look(here: Device, tmp_path: Path, how: str) -> None:
    hearing = Hearing()
    with pytest.RaisesGroup(FileNotFoundError):
        async with trio.open_nursery() as nursery:
            await nursery.start(here.source.watch, hearing.notify)
            if how == "deleted":
                shutil.rmtree(here.root)
            else:
                here.root.rename(tmp_path / "moved")
    assert hearing.rounds[-1] == Dirty(subtrees=frozenset({b""}))


async def test_a_root_that_is_not_there_cannot_be_watched(here: Device) -> None:
    shutil.rmtree(here.root)
    with pytest.RaisesGroup(FileNotFoundError):
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  (the nursery's own start is the subject)
            await nursery.start(here.source.watch, Hearing().notify)


async def test_a_limit_of_watches_is_told_and_the_rest_goes_on(
    here: Device, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a/f", "x")
    here.write("b/f", "x")
    real = watch_module.add_watch

    def limited(inotify: int, path: bytes, mask: int) -> int:
        if path.endswith((b"/a", b"/b")):
            ctypes.set_errno(errno.ENOSPC)
            return -1
        return real(inotify, path, mask)

    monkeypatch.setattr(watch_module, "add_watch", limited)
    hearing = await watched()
    assert here.source.limited is not None
    assert "max_user_watches" in here.source.limited
    here.write("f", "x")
    await hearing.until(lambda: b"f" in hearing.keys)
    # As soon as there are watches again, they are watched, and were scanned once more.
    monkeypatch.setattr(watch_module, "add_watch", real)
    assert here.source.watcher.try_unwatched() == Dirty(subtrees=frozenset({b"a", b"b"}))
    assert here.source.limited is None
    assert here.source.limited_command is None
    here.write("b/f", "y")
    await hearing.until(lambda: b"b/f" in hearing.keys)


async def test_what_cannot_be_watched_is_scanned_now_and_then(
    here: Device, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(inotify: int, path: bytes, mask: int) -> int:
        del inotify, path, mask
        ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr(watch_module, "add_watch", none)
    monkeypatch.setattr(watch_module, "UNWATCHED_SCAN_S", 0.01)
    hearing = await watched()
    await hearing.until(lambda: len(hearing.rounds) > 1)
    assert set(hearing.rounds) == {Dirty(subtrees=frozenset({b""}))}
    assert here.source.limited is not None


async def test_a_directory_that_cannot_be_watched_is_forgotten_once_it_is_gone(
    here: Device, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("a/b/f", "x")
    real = watch_module.add_watch

    def limited(inotify: int, path: bytes, mask: int) -> int:
        if path.endswith(b"/b"):
            ctypes.set_errno(errno.ENOSPC)
            return -1
        return real(inotify, path, mask)

    monkeypatch.setattr(watch_module, "add_watch", limited)
    hearing = await watched()
    assert here.source.watcher.unwatched == {b"a/b"}
    here.path("a").rename(here.path("c"))
    await hearing.until(lambda: b"c" in hearing.subtrees)
    assert here.source.watcher.unwatched == {b"c/b"}


async def test_without_inotify_the_caller_is_told_to_scan(
    here: Device, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> int:
        ctypes.set_errno(errno.EMFILE)
        return -1

    real = inotify_module.inotify_init
    monkeypatch.setattr(inotify_module, "inotify_init", none)
    monkeypatch.setattr(watch_module, "UNWATCHED_SCAN_S", 0.01)
    hearing = await watched()
    assert here.source.limited is not None
    assert "max_user_instances" in here.source.limited
    await hearing.until(lambda: len(hearing.rounds) > 1)
    assert set(hearing.rounds) == {Dirty(subtrees=frozenset({b""}))}
    monkeypatch.setattr(inotify_module, "inotify_init", real)
    with trio.fail_after(PATIENCE_S):
        while here.source.limited is not None or not here.source.watcher.watches:  # noqa: ASYNC110  (no event of it)
            await trio.lowlevel.checkpoint()
    here.write("f", "x")
    await hearing.until(lambda: b"f" in hearing.keys)


async def test_a_cancelled_watch_can_be_started_again(here: Device) -> None:
    for _ in range(2):
        hearing = Hearing()
        async with trio.open_nursery() as nursery:
            await nursery.start(here.source.watch, hearing.notify)
            here.write("f", os.urandom(3))
            await hearing.until(lambda h=hearing: b"f" in h.keys)  # type: ignore[misc]
            nursery.cancel_scope.cancel()
        assert here.source.watcher.inotify == -1


async def test_what_the_source_applies_itself_costs_no_look_into_the_store(
    here: Device, there: Device, watched: Watched
) -> None:
    there.write("f", "one")
    there.scan()
    here.scan()
    hearing = await watched()
    here.receive(there.items())
    here.apply(there.contents())
    await hearing.until(lambda: b"f" in hearing.keys)
    here.storage.asked = 0
    assert here.keys(*hearing.keys) == []
    assert here.storage.asked == 0


async def test_another_file_systems_folders_are_not_watched(
    here: Device, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("disk/sub/f", "x")
    real = os.lstat

    def lstat(path: bytes) -> object:
        status = real(path)
        return SimpleNamespace(st_dev=status.st_dev + path.endswith(b"/disk"))

    monkeypatch.setattr(os, "lstat", lstat)
    await watched()
    monkeypatch.undo()
    assert set(here.source.watcher.watches) == {b""}


def test_hints_below_a_scanned_directory_are_left_out() -> None:
    hints = Hints({b"a/f", b"b/f", b"a"}, {b"a", b"a/b"})
    assert hints.dirty() == Dirty(keys=frozenset({b"b/f"}), subtrees=frozenset({b"a"}))
    assert Hints({b"x"}, {b"", b"a"}).dirty() == Dirty(subtrees=frozenset({b""}))


def test_events_are_parsed_whatever_their_names() -> None:
    name = b"odd \xff\n name".ljust(16, b"\0")
    buffer = EVENT.pack(3, 8, 7, len(name)) + name + EVENT.pack(4, 2, 0, 0)
    assert list(parse_events(buffer)) == [Event(3, 8, 7, b"odd \xff\n name"), Event(4, 2, 0, b"")]


def test_events_of_unknown_watches_and_a_directorys_own_are_harmless(here: Device) -> None:
    watcher = Watcher(here.root, here.source.ignore)
    watcher.keys[5] = b"d"
    hints = Hints()
    watcher.handle(Event(99, watch_module.CREATE, 0, b"f"), hints, 0.0)
    watcher.handle(Event(5, watch_module.ROOT_GONE, 0, b""), hints, 0.0)
    assert watcher.window.waiting == {}
    watcher.handle(Event(5, int(watch_module.InotifyConstants.IN_ATTRIB), 0, b""), hints, 0.0)
    assert set(watcher.window.waiting) == {b"d"}
    watcher.handle(Event(5, watch_module.IGNORED, 0, b""), hints, 0.0)
    assert watcher.keys == {}
    watcher.forget(5)
    watcher.remove_tree(b"unknown")


def test_fresh_files_do_not_pile_up(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "FRESH_MAX", 3)
    watcher = Watcher(here.root, here.source.ignore)
    for number in range(10):
        watcher.note_fresh(b"%d" % number, number * 0.6)
    assert len(watcher.fresh) <= 3
