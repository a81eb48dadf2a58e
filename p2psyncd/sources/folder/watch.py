"""Watching a folder: inotify's events as hints where a scan should look.

This uses inotify and not watchdog's observers: those watch every directory below a
path, so `.p2psync` too, where each fetched file would raise a handful of events; and they do not
say when the kernel dropped events. Here directories are watched one by one, without `.p2psync` and
without what is ignored, and whatever is lost (an overflow, a directory that could not be watched,
one that came with things in it) becomes a scan of that subtree: for those that cannot be watched
because the kernel's limit is reached, once a minute, until they can be.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from watchdog.observers.inotify_c import InotifyConstants

from p2psyncd.sources.folder.ignore import Ignore
from p2psyncd.sources.folder.layout import IGNORE_FILE, ancestors, is_own
from p2psyncd.sources.folder.quiet import QuietWindow
from p2psyncd.sources.inotify import (
    INSTANCES_SETTING,
    WATCHES_SETTING,
    Event,
    add_watch,
    advice,
    open_inotify,
    read_events,
    remove_watch,
)
from p2psyncd.sources.source import Dirty

__all__ = ["Watcher"]

log = logging.getLogger(__name__)

MASK = (
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MODIFY
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
    | InotifyConstants.IN_EXCL_UNLINK
)
CREATE = int(InotifyConstants.IN_CREATE)
CLOSE_WRITE = int(InotifyConstants.IN_CLOSE_WRITE)
MOVED_FROM = int(InotifyConstants.IN_MOVED_FROM)
MOVED_TO = int(InotifyConstants.IN_MOVED_TO)
DELETE = int(InotifyConstants.IN_DELETE)
ROOT_GONE = int(InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_UNMOUNT)
IGNORED = int(InotifyConstants.IN_IGNORED)
OVERFLOW = int(InotifyConstants.IN_Q_OVERFLOW)
IS_DIRECTORY = int(InotifyConstants.IN_ISDIR)
ENTRIES_CHANGED = CREATE | DELETE | MOVED_FROM | MOVED_TO
# A file younger than this that is renamed was an editor's or a download's temporary file.
FRESH_S = 10.0
# What cannot be watched is scanned so often; by then watches may be free again, or the limit raised.
UNWATCHED_SCAN_S = 60.0
# More of them are scanned with everything.
UNWATCHED_NAMED_MAX = 1000
FRESH_MAX = 4096


@dataclass(slots=True)
class Hints:
    """What one round of events says."""

    keys: set[bytes] = field(default_factory=set)
    subtrees: set[bytes] = field(default_factory=set)

    def dirty(self) -> Dirty:
        """Return the hints without what lies in a subtree anyway."""
        trees = self.subtrees
        if b"" in trees:
            return Dirty(subtrees=frozenset({b""}))
        tops = {tree for tree in trees if trees.isdisjoint(ancestors(tree))}
        keys = (
            {key for key in self.keys if key not in tops and tops.isdisjoint(ancestors(key))}
            if tops
            else self.keys
        )
        return Dirty(keys=frozenset(keys), subtrees=frozenset(tops))


class Watcher:
    """Watches one share's folder."""

    def __init__(self, root: Path, ignore: Ignore) -> None:
        self.root = os.fsencode(root)
        self.ignore = ignore
        self.limited: str | None = None
        """Why not everything is watched, in words for the user; None while everything is."""
        self.limited_command: str | None = None
        """The command that raises the limit."""
        self.unwatched: set[bytes] = set()
        """Directories that could not be watched for want of watches; nothing below them is, either."""
        self.again_s = 0.0
        """When these are tried again, and scanned."""
        self.inotify = -1
        self.keys: dict[int, bytes] = {}
        self.watches: dict[bytes, int] = {}
        self.window = QuietWindow()
        self.trees: set[bytes] = set()
        """Keys in the window that are to be scanned with all below."""
        self.fresh: dict[bytes, float] = {}
        self.moved: dict[int, tuple[bytes, bool]] = {}
        """Cookies of moves whose first half came: what moved, and whether it was fresh."""
        self.generation = -1
        self.device = -1

    async def run(self, notify: Callable[[Dirty], None], *, task_status: trio.TaskStatus[None]) -> None:
        """Watch until cancelled; see `Source.watch`.

        Raises:
            OSError: The root is not there (any more); start again once it is.
        """
        self.no_limit()
        self.unwatched.clear()
        late = not self.open()
        if late:
            task_status.started()
            await self.wait_for_instance(notify)
        try:
            await trio.to_thread.run_sync(self.add_tree, b"")
            self.check_root()
            self.generation = self.ignore.generation
            self.again_s = trio.current_time() + UNWATCHED_SCAN_S
            if late:
                notify(Dirty(subtrees=frozenset({b""})))
            else:
                task_status.started()
            while True:
                await self.wait_readable()
                now_s = trio.current_time()
                dirty = self.round(now_s)
                if self.unwatched and now_s >= self.again_s:
                    self.again_s = now_s + UNWATCHED_SCAN_S
                    notify(self.try_unwatched())
                if dirty.keys or dirty.subtrees:
                    notify(dirty)
                self.check_root()
        finally:
            os.close(self.inotify)
            self.inotify = -1
            self.keys.clear()
            self.watches.clear()

    def open(self) -> bool:
        """Make the inotify instance; where that fails, say why in `limited`."""
        try:
            self.inotify = open_inotify()
        except OSError as error:
            if self.limited is None:
                self.limit(
                    f"its folder cannot be watched ({error.strerror}: {INSTANCES_SETTING}), "
                    "so changes are found by a scan every minute only",
                    INSTANCES_SETTING,
                )
            log.warning("watch_failed root=%r errno=%d", self.root, error.errno)
            return False
        return True

    async def wait_for_instance(self, notify: Callable[[Dirty], None]) -> None:
        """Have everything scanned now and then until there is an inotify instance."""
        while True:
            await trio.sleep(UNWATCHED_SCAN_S)
            if self.open():
                self.no_limit()
                return
            notify(Dirty(subtrees=frozenset({b""})))

    def limit(self, reason: str, setting: str) -> None:
        """Say why not everything is watched, and which setting of the kernel is in the way."""
        self.limited = reason
        self.limited_command = advice(setting)

    def no_limit(self) -> None:
        """Note that everything is watched."""
        self.limited = self.limited_command = None

    def try_unwatched(self) -> Dirty:
        """Watch what could not be watched before, as far as that is possible now; return what is to be scanned."""
        dirty = Hints(subtrees=set(self.unwatched)).dirty()
        for key in sorted(self.unwatched):
            self.unwatched.discard(key)
            self.add_tree(key)
            if key in self.unwatched:
                break  # still no watches: asking for each of a hundred thousand takes a second
        if not self.unwatched:
            self.no_limit()
            log.info("watch_complete root=%r watched=%d", self.root, len(self.watches))
        return dirty if len(dirty.subtrees) <= UNWATCHED_NAMED_MAX else Dirty(subtrees=frozenset({b""}))

    def check_root(self) -> None:
        """Raise if the root itself is not watched, other than for want of watches."""
        if b"" not in self.watches and b"" not in self.unwatched:
            raise FileNotFoundError(errno.ENOENT, "the shared folder is gone", os.fsdecode(self.root))

    async def wait_readable(self) -> None:
        """Wait for an event, or until something in the window is due, or what cannot be watched."""
        with trio.move_on_at(min(self.window.wake_s, self.again_s if self.unwatched else math.inf)):
            await trio.lowlevel.wait_readable(self.inotify)

    def round(self, now_s: float) -> Dirty:
        """Take the events that came and return what is due."""
        hints = Hints()
        for event in read_events(self.inotify):
            self.handle(event, hints, now_s)
        self.moved.clear()
        for key in self.window.take_due(now_s):
            if key in self.trees:
                self.trees.discard(key)
                hints.subtrees.add(key)
            else:
                hints.keys.add(key)
        if IGNORE_FILE in hints.keys:
            self.rules_changed(hints)
        return hints.dirty()

    def told(self, now_s: float) -> Dirty:
        """Return at once all that events have told of so far, also what is not quiet yet (that stays due)."""
        if self.inotify < 0:
            return Dirty()
        due = self.round(now_s)
        return Dirty(keys=due.keys | frozenset(self.window.waiting), subtrees=due.subtrees)

    def handle(self, event: Event, hints: Hints, now_s: float) -> None:
        """Turn one event into what is to be looked at, and when."""
        mask = event.mask
        if mask & OVERFLOW:
            log.warning("watch_overflow root=%r", self.root)
            self.watch_again(hints)
            return
        directory = self.keys.get(event.watch)
        if mask & IGNORED:
            self.forget(event.watch)
            return
        if directory is None:
            return
        if mask & ROOT_GONE:
            if not directory:
                hints.subtrees.add(b"")
                self.forget(event.watch)
            return
        if not event.name:
            self.window.changed(directory, now_s)  # the directory's own mode, say
            return
        key = directory + b"/" + event.name if directory else event.name
        if not directory and is_own(event.name):
            return
        is_directory = bool(mask & IS_DIRECTORY)
        if self.ignore.ignored(key, directory=is_directory):
            return
        if is_directory:
            self.directory_changed(key, mask, now_s)
        else:
            self.file_changed(key, event, now_s)
        if directory and mask & ENTRIES_CHANGED:
            self.window.changed(directory, now_s)  # its mtime

    def file_changed(self, key: bytes, event: Event, now_s: float) -> None:
        """Note a change of anything but a directory."""
        mask = event.mask
        window = self.window
        if mask & CLOSE_WRITE:
            window.complete(key, now_s)
        elif mask & MOVED_FROM:
            self.moved[event.cookie] = (key, now_s - self.fresh.pop(key, -FRESH_S) < FRESH_S)
            window.changed(key, now_s)
        elif mask & MOVED_TO:
            source, fresh = self.moved.pop(event.cookie, (b"", True))
            if fresh:
                # An atomic save: what has the name now is complete, what had been there is no loss.
                window.complete(key, now_s)
                if source:
                    window.complete(source, now_s)
            else:
                # A rename of a file that has been here: both halves together, so that peers see a move.
                window.changed(key, now_s)
        else:
            if mask & CREATE:
                self.note_fresh(key, now_s)
            window.changed(key, now_s)

    def note_fresh(self, key: bytes, now_s: float) -> None:
        """Remember a file that was made just now."""
        if len(self.fresh) >= FRESH_MAX:
            self.fresh = {old: at_s for old, at_s in self.fresh.items() if now_s - at_s < 1}
        if len(self.fresh) < FRESH_MAX:
            self.fresh[key] = now_s

    def directory_changed(self, key: bytes, mask: int, now_s: float) -> None:
        """Note a change of a directory."""
        if mask & (DELETE | MOVED_FROM):
            self.remove_tree(key)
        elif mask & (CREATE | MOVED_TO):
            # Watched first, scanned then: what came into it before the watch is found by the scan.
            self.add_tree(key)
            self.trees.add(key)
            if mask & CREATE:
                self.window.complete(key, now_s)
                return
        self.window.changed(key, now_s)

    # Watches
    def add_tree(self, top: bytes) -> None:
        """Watch a directory and all directories below it."""
        waiting = [top]
        while waiting:
            key = waiting.pop()
            path = self.root + b"/" + key if key else self.root
            try:
                device = os.lstat(path).st_dev
                if not key:
                    self.device = device
                if device != self.device or not self.add(key, path):
                    continue  # another file system's changes are none of the share's
                with os.scandir(path) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue  # gone, or not to be read: the scan says so
            for name in names:
                if not key and is_own(name):
                    continue
                below = key + b"/" + name if key else name
                if not self.ignore.ignored(below, directory=True):
                    waiting.append(below)

    def add(self, key: bytes, path: bytes) -> bool:
        """Watch one directory; False where that is not possible."""
        watch = add_watch(self.inotify, path, MASK)
        if watch >= 0:
            old = self.keys.get(watch)
            if old is not None and old != key and self.watches.get(old) == watch:
                del self.watches[old]  # moved, and the events of that are still to come
            self.keys[watch] = key
            self.watches[key] = watch
            return True
        code = ctypes.get_errno()
        if code != errno.ENOSPC:
            return False
        self.unwatched.add(key)
        if self.limited is None:
            self.limit(
                f"only some of its folders can be watched (the limit {WATCHES_SETTING} is reached), "
                "so changes in the others are found by a scan every minute only",
                WATCHES_SETTING,
            )
            log.warning("watch_limit root=%r watched=%d", self.root, len(self.watches))
        return False

    def remove_tree(self, top: bytes) -> None:
        """Stop watching a directory that is gone from its name, and all below it."""
        below = top + b"/"
        if self.unwatched:
            self.unwatched = {key for key in self.unwatched if key != top and not key.startswith(below)}
        if top not in self.watches:
            return
        for key in [key for key in self.watches if key == top or key.startswith(below)]:
            watch = self.watches.pop(key)
            if self.keys.get(watch) == key:
                del self.keys[watch]
                remove_watch(self.inotify, watch)

    def forget(self, watch: int) -> None:
        """Drop a watch that the kernel took away."""
        key = self.keys.pop(watch, None)
        if key is not None and self.watches.get(key) == watch:
            del self.watches[key]

    def watch_again(self, hints: Hints) -> None:
        """Look for directories that came while events were lost, and have everything scanned."""
        hints.subtrees.add(b"")
        self.add_tree(b"")

    def rules_changed(self, hints: Hints) -> None:
        """Watch what is no longer ignored, and have everything scanned."""
        self.ignore.refresh()
        if self.ignore.generation != self.generation:
            self.generation = self.ignore.generation
            self.watch_again(hints)
