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
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from p2psyncd.core.clock import Clock
from p2psyncd.core.item import Draft, Kind
from p2psyncd.sources.folder.attributes import MODE_BITS, Attributes, capture, decode_or_plain
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.catalogue import Catalogue, Known, known_of
from p2psyncd.sources.folder.content import digest_of, read_content
from p2psyncd.sources.folder.databases import Snapshots, database_of, is_beside_database, mark_of_use
from p2psyncd.sources.folder.fingerprint import (
    DIRECTORY_STATE_BYTES,
    RACY_NS,
    fingerprint,
    inode_of,
    is_directory_state,
    is_skipped,
    is_special,
    live_state,
    marked,
    untrusted,
)
from p2psyncd.sources.folder.ignore import Ignore, holds_only_ignored
from p2psyncd.sources.folder.layout import ancestors, is_own, split_key
from p2psyncd.sources.folder.links import HardLinks
from p2psyncd.sources.folder.xattrs import (
    XATTRS_BYTES_MAX,
    Capacity,
    Xattrs,
    bounded,
    path_beneath,
    read_xattrs,
)
from p2psyncd.sources.source import Dirty, ItemError, Observation, Unapplied

__all__ = ["ScanContext", "scan"]

Found = Iterator[Observation | ItemError | Unapplied]

SPECIAL_REASONS = {
    stat.S_IFIFO: "a FIFO is not synced",
    stat.S_IFSOCK: "a socket is not synced",
    stat.S_IFBLK: "a device is not synced",
    stat.S_IFCHR: "a device is not synced",
}
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(slots=True, kw_only=True)
class ScanContext:
    """What a scan needs; what it shares with applying is in the last three."""

    root: Path
    catalogue: Catalogue
    ignore: Ignore
    clock: Clock
    check: Callable[[], None]
    """Raises ShareHeld when the root is not what it was."""
    fine_times: bool = True
    """Whether the file system's timestamps tell two quick changes apart."""
    recent: dict[bytes, bytes] = field(default_factory=dict)
    """Fingerprints of what was applied lately: an event about it needs no look into the store."""
    moved_away: set[bytes] = field(default_factory=set)
    """Keys whose file was moved to where a pending version wants it, before their tombstone was applied."""
    busy: set[bytes] = field(default_factory=set)
    """Keys that kept changing while they were read: to be scanned again."""
    snapshots: Snapshots
    """Contents of databases in use."""
    links: HardLinks = field(default_factory=HardLinks)
    """Which names are one file."""
    generation: int = -1
    """The ignore rules under which the last full scan ended."""


def reason_of(error: OSError) -> str:
    """Return an error in words for the user."""
    if error.errno == errno.EXDEV:
        return "another file system is mounted here; it is not synced"
    return f"cannot be read: {error.strerror or error}"


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
            run.look_for_orphans()
        else:
            tops = [key for key in subtrees if not any(above in subtrees for above in ancestors(key))]
            yield from run.look({*dirty.keys, *tops}, whole=frozenset(tops))
            yield from run.look_at_other_names()
        yield from run.deletions()
        yield from run.replacements()
    if b"" in subtrees:
        context.generation = generation


def known_state(known: Known | None) -> bytes:
    """Return the fingerprint that the store holds for a key it may not know."""
    return known.state if known is not None else b""


class Run:
    """One scan."""

    def __init__(self, context: ScanContext, directories: Directories) -> None:
        self.context = context
        self.directories = directories
        self.catalogue = context.catalogue
        self.ignore = context.ignore
        self.device = os.fstat(directories.root).st_dev
        self.now_ns = context.clock.now_us() * 1000
        self.gone: dict[bytes, bytes] = {}
        self.walked: set[bytes] = set()
        self.met = 0
        """Listed items that walking came across."""
        self.replaced: list[bytes] = []
        """Keys of directories that gave way to something else."""
        self.looked: set[bytes] = set()
        self.linked: dict[int, int] = {}
        """Files that changed and have several names: inode, and how many."""
        self.capacity = Capacity(directories)
        self.overloaded: set[bytes] = set()
        """Keys of what was read with more extended attributes than are synced."""

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
                if state is not None and state == self.state_of(key, status):
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
                self.missing(key, state)
            return
        directory = stat.S_ISDIR(status.st_mode)
        if self.ignore.ignored(key, directory=directory) or self.is_beside(key):
            return
        if directory and status.st_dev != self.device:
            yield ItemError(key=key, reason="another file system is mounted here; it is not synced")
            return
        unchanged = state == self.state_of(key, status)
        if not unchanged:
            if directory and not is_directory_state(state) and self.is_kept(key, known):
                yield ItemError(key=key, reason="deleted on another device; kept, it holds ignored files")
                return
            yield from self.changed(key, status, known)
        if directory and (whole or not is_directory_state(state)):
            yield from self.walk(key)

    def state_of(self, key: bytes, status: os.stat_result) -> bytes:
        """Return the fingerprint of what has a key."""
        state = fingerprint(status)
        if len(state) != DIRECTORY_STATE_BYTES:
            return state
        return self.directory_state(*self.directories.parent(key), status)

    def directory_state(self, above: int, name: bytes, status: os.stat_result) -> bytes:
        """Return the fingerprint of a directory, without a mark if its attributes cannot be read."""
        state = fingerprint(status)
        if status.st_dev != self.device:
            return state
        try:
            return marked(state, bounded(read_xattrs(path_beneath(above, name), follow=False)))
        except OSError:
            return state  # it says why when it is read

    def look_at_other_names(self) -> Found:
        """Compare the other names of what changed under one of several; the kernel told of that one."""
        links = self.context.links
        searched = {inode for inode, count in self.linked.items() if links.to_search(inode, count)}
        if searched:
            for entry in self.catalogue.below(b""):
                if inode_of(entry.state) in searched:
                    links.add(entry.key, inode_of(entry.state))
        names = {name for inode in self.linked for name in links.names.get(inode, ())} - self.looked
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
                        now = self.directory_state(opened, name, status)
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
                self.missing(key, state)

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
            and not self.is_beside(key)
        ]
        known = known_of(self.catalogue, [key for key, _ in entries])
        for key, status in entries:
            about = known.get(key)
            if stat.S_ISDIR(status.st_mode):
                if status.st_dev != self.device:
                    yield ItemError(key=key, reason="another file system is mounted here; it is not synced")
                    continue
                if not is_directory_state(known_state(about)) and self.is_kept(key, about):
                    yield ItemError(key=key, reason="deleted on another device; kept, it holds ignored files")
                    continue
                below.append(key)
            yield from self.changed(key, status, about)

    def is_beside(self, key: bytes) -> bool:
        """Return whether a key is a database's `-wal`, `-shm` or `-journal`: its program's, and never synced."""
        if not database_of(key):
            return False
        try:
            return is_beside_database(*self.directories.parent(key))
        except OSError:
            return False

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
            self.missing(key, state, itself=False)
            self.replaced.append(key)
            return
        yield from self.read(key, status, known)

    def read(self, key: bytes, status: os.stat_result, known: Known | None) -> Found:
        """Yield a file, link or directory as it is now."""
        mode = status.st_mode
        try:
            if stat.S_ISREG(mode):
                found = self.file(key, known)
            elif stat.S_ISLNK(mode):
                found = self.symlink(key, status, known)
            else:
                xattrs = self.read_beneath(key) if status.st_dev == self.device else ()
                found = self.observed(key, Kind.DIRECTORY, status, known, xattrs=xattrs)
        except OSError as error:
            if error.errno in GONE:
                self.context.busy.add(key)  # gone between two looks
            else:
                yield ItemError(key=key, reason=reason_of(error))
            return
        if found is not None:
            yield found
        if key in self.overloaded:
            self.overloaded.discard(key)
            reason = f"it has more extended attributes than are synced ({XATTRS_BYTES_MAX // 1024} KiB)"
            yield ItemError(key=key, reason=reason)

    def read_beneath(self, key: bytes) -> Xattrs:
        """Return the extended attributes of what has a key."""
        return read_xattrs(path_beneath(*self.directories.parent(key)), follow=False)

    def file(self, key: bytes, known: Known | None) -> Observation | None:
        """Return a regular file as it is now; None if it does not hold still."""
        directory, name = self.directories.parent(key)
        if mark := mark_of_use(directory, name):
            return self.database(key, known, mark)
        self.context.snapshots.drop(self.directories, key)
        content = read_content(directory, name)
        if mark_of_use(directory, name):
            content = None  # opened while it was read
        if content is None:
            self.context.busy.add(key)
            return None
        status = content.status
        if self.context.links.note(key, status):
            self.linked[status.st_ino] = status.st_nlink
        return self.observed(
            key,
            Kind.FILE,
            status,
            known,
            digest=content.digest,
            size=status.st_size,
            chunks=content.chunks,
            xattrs=content.xattrs,
        )

    def database(self, key: bytes, known: Known | None, mark: bytes) -> Observation | None:
        """Return a database in use as it is at one moment; None if it is known like that, or locked."""
        directory, name = self.directories.parent(key)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        state = live_state(fingerprint(status), mark)
        applied = known.applied if known is not None else None
        snapshots = self.context.snapshots
        if applied is not None and applied.state == state and snapshots.path(key, applied.item.digest):
            return None
        content = snapshots.take(self.directories, key)
        if content is None:
            self.context.busy.add(key)
            return None
        mtime_ns = None
        if applied is not None and applied.item.digest == content.digest:
            mtime_ns = decode_or_plain(applied.item.meta).mtime_ns  # moved on without a change of the content
        size = content.status.st_size
        found = self.observed(
            key,
            Kind.FILE,
            status,
            known,
            digest=content.digest,
            size=size,
            chunks=content.chunks,
            mtime_ns=mtime_ns,
            xattrs=self.read_beneath(key),
        )
        return replace(found, state=state)

    def symlink(self, key: bytes, status: os.stat_result, known: Known | None) -> Observation:
        """Return a symlink as it is now."""
        directory, name = self.directories.parent(key)
        target = os.readlink(name, dir_fd=directory)
        return self.observed(key, Kind.SYMLINK, status, known, digest=digest_of(target), target=target)

    def observed(
        self,
        key: bytes,
        kind: Kind,
        status: os.stat_result,
        known: Known | None,
        *,
        digest: bytes = b"",
        size: int = 0,
        target: bytes | None = None,
        chunks: bytes = b"",
        mtime_ns: int | None = None,
        xattrs: Xattrs = (),
    ) -> Observation:
        """Return the observation of one thing."""
        state = fingerprint(status)
        age_ns = self.now_ns - status.st_ctime_ns
        if kind is Kind.FILE and not self.context.fine_times and age_ns < RACY_NS:
            state = untrusted(state)
        seen = Attributes(
            mode=status.st_mode & MODE_BITS,
            mtime_ns=status.st_mtime_ns if mtime_ns is None else mtime_ns,
            target=target,
            xattrs=xattrs and bounded(xattrs),
        )
        if seen.xattrs != xattrs:
            self.overloaded.add(key)
        if kind is Kind.DIRECTORY:
            state = marked(state, seen.xattrs)
        applied = known.applied if known is not None else None
        meta = capture(
            kind,
            digest,
            seen,
            applied.item if applied is not None else None,
            known.newest if known is not None else None,
            self.capacity.carried,
        )
        return Observation(
            draft=Draft(key=key, kind=kind, digest=digest, size=size, meta=meta),
            state=state,
            base_state=known_state(known),
            changed_us=status.st_ctime_ns // 1000,
            chunks=chunks,
        )

    # Deletions
    def missing(self, key: bytes, state: bytes, *, itself: bool = True) -> None:
        """Note that a listed thing, and what was below it, is not there."""
        if itself:
            self.lost(key, state)
        if is_directory_state(state):
            for entry in self.catalogue.below(key):
                if entry.state and entry.key != key:
                    self.lost(entry.key, entry.state)

    def look_for_orphans(self) -> None:
        """Note what walking does not lead to and is not there: it lies below what is not listed as a directory.

        The directory's row went with a damaged disk, say, and the directory itself before the row was written again.
        """
        if self.met == self.catalogue.count_listed():
            return
        directories = {b""}
        for entry in self.catalogue.below(b""):
            if split_key(entry.key)[0] in directories:
                if is_directory_state(entry.state):
                    directories.add(entry.key)
                continue
            if not entry.state or entry.key in self.gone:
                continue
            try:
                there = self.directories.status(entry.key) is not None
            except OSError:
                continue  # unknown; who walked there has said why
            if not there:
                self.lost(entry.key, entry.state)

    def lost(self, key: bytes, state: bytes) -> None:
        """Note that one listed thing is not there."""
        self.gone[key] = state
        inode = self.context.links.forget(key)
        if inode is not None:
            self.linked.setdefault(inode, 0)

    def deletions(self) -> Found:
        """Yield what is gone, children before their directories."""
        if not self.gone:
            return
        self.context.check()
        for key in sorted(self.gone, reverse=True):
            state = self.gone[key]
            if key in self.context.moved_away:
                continue
            if self.ignore.ignored(key, directory=is_directory_state(state)) or self.is_beside(key):
                continue
            try:
                if self.directories.status(key) is not None:
                    self.context.busy.add(key)  # back again
                    continue
            except OSError as error:
                yield ItemError(key=key, reason=reason_of(error))
                continue
            if is_skipped(state):
                yield Unapplied(key=key)
                continue
            self.context.snapshots.drop(self.directories, key)
            yield Observation(
                draft=Draft(key=key, kind=Kind.TOMBSTONE),
                state=b"",
                base_state=state,
                changed_us=self.changed_us(split_key(key)[0]),
            )

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
                yield from self.read(key, status, known.get(key))

    def changed_us(self, directory: bytes) -> int:
        """Return when a directory's entries last changed, in µs: when something in it was deleted, at the latest."""
        try:
            return os.fstat(self.directories.directory(directory)).st_ctime_ns // 1000
        except OSError:
            return 0
