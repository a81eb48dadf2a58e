"""Watching a database file: inotify's events on its folder as hints that an app may have committed.

SQLite tells no other process of a commit, but a commit writes: to `-wal`, or to the database and its `-journal`.
The folder is watched, because a file is renamed over, deleted and made anew. Events of `-shm` and
of opening, closing, making and deleting `-wal` are none of a commit's, and our own look at the database
makes them: heeding those, it would wake itself for ever.

**A write is seen before its commit is.** An app that waits for the disk has written all of a commit to `-wal` when the
last event comes, but makes it visible only once the disk has answered, and that raises no event. So
every event is followed up: by looks at growing intervals, until no disk takes as long any more. (In the
other journal modes the app's lock is held until the commit is visible, so that a look waits for it.)

Now and then the files' status is compared as well: that finds what raised no event, on a network file system
say, and a folder that was moved with what lies above it. Where there is no inotify, it is all there is.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import trio
from watchdog.observers.inotify_c import InotifyConstants

from p2psyncd.sources.inotify import (
    INSTANCES_SETTING,
    WATCHES_SETTING,
    Event,
    add_watch,
    advice,
    open_inotify,
    read_events,
)
from p2psyncd.sources.source import Dirty

__all__ = ["Pace", "Watcher"]

log = logging.getLogger(__name__)

EVERYTHING = Dirty(subtrees=frozenset({b""}))
# The first finds what an app commits without waiting for the disk: the look at the write itself mostly comes before that is
# visible. The last ones find a commit to a disk that slept, say.
FOLLOW_UPS_S = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# The time between two looks while events go on.
SPACING_S = FOLLOW_UPS_S[1]
POLL_S = 30.0
# Where there are no events.
POLL_ONLY_S = 1.0
# How long until watching is tried again where it was not possible.
AGAIN_S = 60.0

MODIFY = int(InotifyConstants.IN_MODIFY)
ENTRIES_CHANGED = int(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
)
MOVED_TO = int(InotifyConstants.IN_MOVED_TO)
DELETE = int(InotifyConstants.IN_DELETE)
FOLDER_GONE = int(
    InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_UNMOUNT
    | InotifyConstants.IN_IGNORED
)
OVERFLOW = int(InotifyConstants.IN_Q_OVERFLOW)
MASK = (
    MODIFY
    | ENTRIES_CHANGED
    | int(InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF)
    | int(InotifyConstants.IN_ONLYDIR | InotifyConstants.IN_DONT_FOLLOW)
)


class Pace:
    """When to look: at once at an event, then at growing intervals; while events go on, every so often."""

    def __init__(self) -> None:
        self.last_s = -math.inf
        """When the last look was."""
        self.due_s = math.inf
        """When the next one is."""
        self.step = 0
        self.event_s = -math.inf
        """When the last event was."""

    def event(self, now_s: float) -> None:
        """Note that something happened."""
        if now_s > self.event_s:  # several that came together are one
            self.step = 1 if now_s < self.event_s + SPACING_S else 0
        self.event_s = now_s
        self.due_s = min(self.due_s, max(now_s, self.last_s + SPACING_S))

    def take(self, now_s: float) -> bool:
        """Return whether to look now, and plan the next look."""
        if now_s < self.due_s:
            return False
        self.last_s = now_s
        self.due_s = now_s + FOLLOW_UPS_S[self.step] if self.step < len(FOLLOW_UPS_S) else math.inf
        self.step += 1
        return True


class Watcher:
    """Watches one database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = os.fsencode(path.parent)
        name = os.fsencode(path.name)
        self.heeded = {
            name: MODIFY | ENTRIES_CHANGED,
            # What brings commits: frames, or a log that was put there with its database.
            name + b"-wal": MODIFY | MOVED_TO,
            # Ended, a commit or a rollback deletes, empties or overwrites it.
            name + b"-journal": MODIFY | MOVED_TO | DELETE,
        }
        """By name: the events that may mean a commit."""
        self.limited: str | None = None
        """Why there are no events, in words for the user; None while there are."""
        self.limited_command: str | None = None
        """The command that raises the limit."""
        self.inotify = -1
        self.watched = (0, 0)
        """Device and inode of the folder that is watched."""
        self.pace = Pace()
        self.seen: object = None
        """The files' status at the last comparison."""
        self.poll_s = 0.0
        """When the next one is."""

    async def run(self, notify: Callable[[Dirty], None], *, task_status: trio.TaskStatus[None]) -> None:
        """Watch until cancelled; see `Source.watch`.

        Raises:
            OSError: The folder is not there (any more); start again once it is.
        """
        self.pace, self.poll_s = Pace(), trio.current_time()
        try:
            self.open()
            self.seen = self.status()
            task_status.started()
            again_s = trio.current_time() + AGAIN_S
            while True:
                await self.wait()
                now_s = trio.current_time()
                if self.inotify >= 0:
                    self.take_events(now_s)
                elif now_s >= again_s:
                    again_s = now_s + AGAIN_S
                    self.open()
                if self.pace.take(now_s):
                    notify(EVERYTHING)
        except OSError:
            notify(EVERYTHING)  # a look says what is the matter
            raise
        finally:
            self.close()

    def open(self) -> None:
        """Watch the folder; where that is not possible, say why in `limited`.

        Raises:
            OSError: The folder is not there.
        """
        status = os.lstat(self.folder)
        try:
            self.inotify = open_inotify()
        except OSError as refused:
            self.limit(refused, INSTANCES_SETTING)
            return
        if add_watch(self.inotify, self.folder, MASK) < 0:
            code = ctypes.get_errno()
            self.close()
            error = OSError(code, os.strerror(code), os.fsdecode(self.folder))
            if code in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise error
            self.limit(error, WATCHES_SETTING)
            return
        self.watched = (status.st_dev, status.st_ino)
        if self.limited is not None:
            log.info("watch_complete path=%s", self.path)
            self.limited = self.limited_command = None
            self.pace.event(trio.current_time())

    def limit(self, error: OSError, setting: str) -> None:
        """Say why there are no events."""
        if self.limited is None:
            log.warning("watch_failed path=%s error=%s", self.path, error)
        at_limit = error.errno in {errno.ENOSPC, errno.EMFILE}
        self.limited = (
            f"its database cannot be watched ({error.strerror}{f': {setting}' if at_limit else ''}), "
            "so its files are looked at every second instead"
        )
        self.limited_command = advice(setting) if at_limit else None

    def close(self) -> None:
        """Stop watching."""
        if self.inotify >= 0:
            os.close(self.inotify)
            self.inotify = -1

    async def wait(self) -> None:
        """Wait for an event, for the next look, or for the time to compare the files' status; compare it then.

        Right after a look events can wait: they would not bring the next one any nearer, the kernel makes one of those that
        are alike, and what writes a large transaction, be it ourselves, raises thousands.
        """
        with trio.move_on_at(min(self.poll_s, self.pace.due_s)):
            await trio.sleep_until(self.pace.last_s + SPACING_S)
            if self.inotify < 0:
                await trio.sleep_forever()
            await trio.lowlevel.wait_readable(self.inotify)
        now_s = trio.current_time()
        if now_s >= self.poll_s:
            self.compare(now_s)
            self.poll_s = now_s + (POLL_S if self.inotify >= 0 else POLL_ONLY_S)

    def take_events(self, now_s: float) -> None:
        """Take the events that came.

        Raises:
            FileNotFoundError: The folder is gone, or was moved away.
        """
        for event in read_events(self.inotify):
            if event.mask & FOLDER_GONE:
                raise FileNotFoundError(
                    errno.ENOENT, "the database's folder is gone", os.fsdecode(self.folder)
                )
            if self.matters(event):
                self.pace.event(now_s)

    def matters(self, event: Event) -> bool:
        """Return whether an event may mean that something was committed."""
        return bool(event.mask & (OVERFLOW | self.heeded.get(event.name, 0)))

    def compare(self, now_s: float) -> None:
        """Look whether the files are as they were.

        Raises:
            OSError: Another folder, or none, has the watched one's name.
        """
        status = os.lstat(self.folder)
        if self.inotify >= 0 and (status.st_dev, status.st_ino) != self.watched:
            raise FileNotFoundError(
                errno.ENOENT, "the database's folder is another one", os.fsdecode(self.folder)
            )
        seen = self.status()
        if seen != self.seen:
            self.seen = seen
            self.pace.event(now_s)

    def status(self) -> object:
        """Return what changes when an app commits, and not by our looking."""
        return status_of(self.path, settled=True), status_of(self.path.with_name(self.path.name + "-wal"))


def status_of(path: Path, *, settled: bool = False) -> tuple[int, ...]:
    """Return a file's status; `settled`: with its ctime, which SQLite run by root sets on `-wal` at each look."""
    try:
        found = os.lstat(path)
    except OSError:
        return ()
    if not found.st_size:
        return ()  # a look makes an empty `-wal` for as long as it takes
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns if settled else 0)
