"""Scanning: what is on disk against what the store lists.

A scan is the truth, events are hints. Its rules, each of which keeps someone's data:

- What cannot be read is unknown, not deleted: the error is yielded and nothing below is compared.
- A file that changes while it is read is read again, then left for later; mixed bytes are never announced.
- Deletions come last, after the root was checked once more, and each is looked at once more: an
  unmounted disk and a file that was away for a moment are no deletions.
- What is ignored, and what lies on another file system, is as if it were not there, yet not deleted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable

from p2psyncd.core.item import Kind
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.catalogue import Known, known_of
from p2psyncd.sources.folder.databases import database_of, lies_beside_database
from p2psyncd.sources.folder.fingerprint import (
    DIRECTORY_STATE_BYTES,
    fingerprint,
    inode_of,
    is_directory_state,
    is_skipped,
    is_special,
)
from p2psyncd.sources.folder.ignore import holds_only_ignored
from p2psyncd.sources.folder.layout import ancestors, is_own
from p2psyncd.sources.folder.missing import Missing
from p2psyncd.sources.folder.reading import Reader
from p2psyncd.sources.folder.scanning import GONE, Found, ScanContext, known_state, reason_of
from p2psyncd.sources.source import Dirty, ItemError, Unapplied

__all__ = ["scan"]

SPECIAL_REASONS = {
    stat.S_IFIFO: "a FIFO is not synced",
    stat.S_IFSOCK: "a socket is not synced",
    stat.S_IFBLK: "a device is not synced",
    stat.S_IFCHR: "a device is not synced",
}


def scan(context: ScanContext, dirty: Dirty) -> Found:
    """Yield the differences between disk and store; see `Source.scan`.

    Raises:
        ShareHeld: The root is not what it was.
    """
    context.check()
    subtrees = dirty.subtrees
    context.ignore.refresh()
    generation = context.ignore.generation
    if generation != context.generation:
        # What was ignored may not be any more: only a full scan finds it.
        subtrees = frozenset({b""})
    with Directories(context.root) as directories:
        run = Run(context, directories)
        if b"" in subtrees:
            yield from run.walk(b"")
            run.missing.look_for_orphans(run.met)
        else:
            tops = [key for key in subtrees if not any(above in subtrees for above in ancestors(key))]
            yield from run.look({*dirty.keys, *tops}, whole=frozenset(tops))
            yield from run.look_at_other_names()
        yield from run.missing.deletions()
        yield from run.replacements()
    if b"" in subtrees:
        context.generation = generation


class Run:
    """One scan."""

    def __init__(self, context: ScanContext, directories: Directories) -> None:
        self.context = context
        self.directories = directories
        self.catalogue = context.catalogue
        self.ignore = context.ignore
        self.reader = Reader(context, directories)
        self.missing = Missing(context, directories, self.reader.linked)
        self.walked: set[bytes] = set()
        self.met = 0
        """Listed items that walking came across."""
        self.replaced: list[bytes] = []
        """Keys of directories that gave way to something else."""
        self.looked: set[bytes] = set()

    # Single keys
    def look(self, keys: Collection[bytes], *, whole: frozenset[bytes]) -> Found:
        """Compare single keys, and all below those in `whole`."""
        wanted = {key for key in keys if key and not is_own(key.split(b"/", 1)[0])}
        for key in list(wanted):
            # A directory's mtime changes with its entries, and a new entry's directories may be new too.
            wanted.update(ancestors(key))
            if database := database_of(key):
                wanted.add(database)  # what is written beside a database changes its content
        self.looked |= wanted
        looks: list[tuple[bytes, os.stat_result | None]] = []
        for key in sorted(wanted):
            try:
                status = self.directories.status(key)
            except OSError as error:
                yield ItemError(key=key, reason=reason_of(error))
                continue
            if status is not None and key not in whole:
                state = self.context.recent.get(key)
                if state is not None and state == self.reader.state_of(key, status):
                    continue
            looks.append((key, status))
        known = known_of(self.catalogue, [key for key, _ in looks])
        for key, status in looks:
            if self.walked and not self.walked.isdisjoint((key, *ancestors(key))):
                continue
            yield from self.look_at(key, status, known.get(key), whole=key in whole)

    def look_at(
        self, key: bytes, status: os.stat_result | None, known: Known | None, *, whole: bool
    ) -> Found:
        """Compare one key with what the store knows of it."""
        state = known_state(known)
        if status is None:
            if state:
                self.missing.note(key, state)
            return
        directory = stat.S_ISDIR(status.st_mode)
        if self.ignore.ignored(key, directory=directory) or lies_beside_database(self.directories, key):
            return
        if directory and status.st_dev != self.reader.device:
            yield ItemError(key=key, reason="another file system is mounted here; it is not synced")
            return
        unchanged = state == self.reader.state_of(key, status)
        if not unchanged:
            if directory and not is_directory_state(state) and self.is_kept(key, known):
                yield ItemError(key=key, reason="deleted on another device; kept, it holds ignored files")
                return
            yield from self.changed(key, status, known)
        if directory and (whole or not is_directory_state(state)):
            yield from self.walk(key)

    def look_at_other_names(self) -> Found:
        """Compare the other names of what changed under one of several; the kernel told of that one."""
        links = self.context.links
        searched = {inode for inode, count in self.reader.linked.items() if links.to_search(inode, count)}
        if searched:
            for entry in self.catalogue.below(b""):
                if inode_of(entry.state) in searched:
                    links.add(entry.key, inode_of(entry.state))
        names = {name for inode in self.reader.linked for name in links.names.get(inode, ())} - self.looked
        yield from self.look(names, whole=frozenset())

    # Directories
    def walk(self, top: bytes) -> Found:
        """Compare everything below a directory."""
        self.walked.add(top)
        waiting = [top]
        while waiting:
            below: list[bytes] = []
            yield from self.walk_one(waiting.pop(), below)
            below.reverse()
            waiting += below

    def walk_one(self, directory: bytes, below: list[bytes]) -> Found:
        """Compare the entries of one directory; append the directories among them to `below`."""
        listed = {entry.key: entry.state for entry in self.catalogue.listing(directory)}
        self.met += len(listed)
        differing: list[tuple[bytes, os.stat_result]] = []
        errors: list[ItemError] = []
        prefix = directory + b"/" if directory else b""
        pop = listed.pop
        links = self.context.links
        linked = links.inodes
        encode = os.fsencode
        print_of = fingerprint
        try:
            opened = self.directories.directory(directory)
            with os.scandir(opened) as entries:
                for entry in entries:
                    name = encode(entry.name)
                    key = prefix + name
                    state = pop(key, b"")
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        if error.errno == errno.ENOENT and state:
                            listed[key] = state
                        elif error.errno != errno.ENOENT:
                            errors.append(ItemError(key=key, reason=reason_of(error)))
                        continue
                    now = print_of(status)
                    if len(now) == DIRECTORY_STATE_BYTES and (directory or not is_own(key)):
                        now = self.reader.directory_state(opened, name, status)
                    if state == now:
                        if is_directory_state(state):
                            below.append(key)
                        elif status.st_nlink > 1 or key in linked:
                            links.note(key, status)
                    elif directory or not is_own(key):
                        differing.append((key, status))
        except OSError as error:
            yield from self.unreadable(directory, error)
            below.clear()
            return
        yield from errors
        if differing:
            yield from self.differing(differing, below)
        if below:
            below[:] = [key for key in below if not self.ignore.ignored(key, directory=True)]
        for key, state in listed.items():
            if state:
                self.missing.note(key, state)

    def unreadable(self, directory: bytes, error: OSError) -> Found:
        """Report a directory that cannot be listed; one that is gone by now is looked at again."""
        if error.errno in GONE:
            self.context.busy.add(directory)
        else:
            yield ItemError(key=directory, reason=reason_of(error))

    def differing(self, entries: Iterable[tuple[bytes, os.stat_result]], below: list[bytes]) -> Found:
        """Yield what changed among the entries of one directory."""
        ignored = self.ignore.ignored
        entries = [
            (key, status)
            for key, status in entries
            if not ignored(key, directory=status.st_mode & 0o170000 == stat.S_IFDIR)
            and not lies_beside_database(self.directories, key)
        ]
        known = known_of(self.catalogue, [key for key, _ in entries])
        for key, status in entries:
            about = known.get(key)
            if stat.S_ISDIR(status.st_mode):
                if status.st_dev != self.reader.device:
                    yield ItemError(key=key, reason="another file system is mounted here; it is not synced")
                    continue
                if not is_directory_state(known_state(about)) and self.is_kept(key, about):
                    yield ItemError(key=key, reason="deleted on another device; kept, it holds ignored files")
                    continue
                below.append(key)
            yield from self.changed(key, status, about)

    def is_kept(self, key: bytes, known: Known | None) -> bool:
        """Return whether a directory was deleted on another device and only ignored things keep it here."""
        if known is None or known.applied is not None or known.newest.kind is not Kind.TOMBSTONE:
            return False
        return holds_only_ignored(self.directories, self.ignore, key)

    # Changes
    def changed(self, key: bytes, status: os.stat_result, known: Known | None) -> Found:
        """Yield one thing whose fingerprint is not the one that the store lists."""
        mode = status.st_mode
        if is_special(mode):
            yield ItemError(
                key=key, reason=SPECIAL_REASONS.get(stat.S_IFMT(mode), "this kind of file is not synced")
            )
            return
        state = known_state(known)
        self.context.moved_away.discard(key)
        if is_skipped(state):
            yield Unapplied(key=key)
            return
        if is_directory_state(state) and not stat.S_ISDIR(mode):
            self.missing.note(key, state, itself=False)
            self.replaced.append(key)
            return
        yield from self.reader.read(key, status, known)

    def replacements(self) -> Found:
        """Yield what took the names of directories: after the deletions of what these held."""
        known = known_of(self.catalogue, self.replaced)
        for key in self.replaced:
            try:
                status = self.directories.status(key)
            except OSError as error:
                yield ItemError(key=key, reason=reason_of(error))
                continue
            if status is None or stat.S_ISDIR(status.st_mode):
                self.context.busy.add(key)  # something else again
            else:
                yield from self.reader.read(key, status, known.get(key))
