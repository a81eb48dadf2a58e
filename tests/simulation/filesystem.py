"""A disk in memory that can lose power: inodes, directories, and what of them survives a crash.

Every change goes into two places. The *volatile* state is what programs see. The *journal* holds
what is not on the disk yet: changes of names and metadata in their order, and for each file the
writes that nobody synced. `sync` of a file, a directory or everything brings them to the disk.

A process that is killed loses nothing: what it did stays in the page cache (and may still be lost
with the power later). A power cut keeps

- everything that was synced, and names and metadata older than `COMMIT_S`, data older than `WRITEBACK_S`,
  as kernels write these out by themselves;
- of other changes to names and metadata, with `ordered=True`, those up to a random moment (the journal of
  ext4 or XFS, where any fsync commits all that came before it), else a random choice that is in order within each
  directory and each inode (the least that journaling and copy-on-write file systems promise: a rename is
  whole or not at all, and syncing a file or a directory brings along what it needs to be found);
- of each file's unsynced writes, if its new times or name were kept: all, none, the first few with the last
  one torn, or only its length (zeros). (Kernels commit times within 5 s and write data after 30 s.)

Files hold their bytes as one immutable value, so that snapshots share them: fine for files up to some
MB; sparse files keep account of their holes by blocks but store zeros.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any

from p2psyncd.core.clock import Clock

__all__ = ["BLOCK_BYTES", "Disk", "DiskState", "Inode", "fail"]

BLOCK_BYTES = 4096
NAME_BYTES_MAX = 255
LINKS_MAX = 65_000
FILE_BYTES_MAX = 1 << 28
# What Linux's defaults are: ext4 commits every 5 s, dirty pages are written after 30 s.
COMMIT_S = 5.0
WRITEBACK_S = 30.0
ROOT = 1
NO_HOLES: frozenset[int] = frozenset()

NEW, LINK, UNLINK, SET, WRITE, TRUNCATE = range(6)
Step = tuple[Any, ...]


def fail(code: int, name: bytes = b"") -> OSError:
    """Return the error of an errno."""
    return OSError(code, os.strerror(code), os.fsdecode(name))


@dataclass(slots=True)
class Inode:
    """A file, directory, symlink or anything else that has names."""

    serial: int
    """Identity within this disk, never used again."""
    number: int
    """`st_ino`: used again as soon as the inode is gone, as on ext4."""
    mode: int
    data: bytes = b""
    """A file's content, or a symlink's target."""
    holes: frozenset[int] = NO_HOLES
    """Blocks that were never written."""
    entries: dict[bytes, int] | None = None
    """A directory's names, to serials."""
    parent: int = 0
    """A directory's own directory."""
    links: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    opened: int = 0
    """Descriptors that hold it."""

    def copy(self) -> Inode:
        """Return an inode of its own with the same state, opened by nobody."""
        entries = None if self.entries is None else dict(self.entries)
        return Inode(
            self.serial,
            self.number,
            self.mode,
            self.data,
            self.holes,
            entries,
            self.parent,
            self.links,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
            self.xattrs,
        )

    @property
    def blocks(self) -> int:
        """Blocks that it takes on the disk."""
        return (1 if self.entries is not None else -(-len(self.data) // BLOCK_BYTES)) - len(self.holes)


Table = dict[int, Inode]


@dataclass(slots=True)
class Change:
    """One step of the journal that survives as a whole or not at all."""

    steps: tuple[Step, ...]
    touches: frozenset[object]
    """Directories (their serials), inodes and inode numbers: changes that share one are in order."""
    at_s: float


@dataclass(slots=True)
class Unsynced:
    """What was written to a file and is not on the disk."""

    writes: list[Step] = field(default_factory=list)
    since_s: float = 0.0


@dataclass(slots=True)
class DiskState:
    """A snapshot of a disk; see `Disk.snapshot`."""

    volatile: Table
    durable: Table
    journal: list[Change]
    unsynced: dict[int, Unsynced]
    serial: int
    number: int
    free_numbers: list[int]


def perform(table: Table, step: Step) -> None:
    """Carry out one step on a table of inodes."""
    match step:
        case (0, serial, number, mode, data, stamp):  # NEW
            entries: dict[bytes, int] | None = {} if stat.S_ISDIR(mode) else None
            links = 1 if entries is not None else 0
            table[serial] = Inode(
                serial, number, mode, data, NO_HOLES, entries, 0, links, stamp, stamp, stamp
            )
        case (1, directory, name, serial):  # LINK
            above, child = table[directory], table[serial]
            assert above.entries is not None
            above.entries[name] = serial
            child.links += 1
            if child.entries is not None:
                child.parent = directory
                above.links += 1
        case (2, directory, name):  # UNLINK
            above = table[directory]
            assert above.entries is not None
            child = table[above.entries.pop(name)]
            child.links -= 1
            if child.entries is not None:
                above.links -= 1
        case (3, serial, name, value):  # SET
            setattr(table[serial], name, value)
        case (4, serial, offset, data):  # WRITE
            write_into(table[serial], offset, data)
        case (5, serial, size):  # TRUNCATE
            truncate(table[serial], size)


def write_into(inode: Inode, offset: int, data: bytes) -> None:
    """Put bytes at an offset; what is skipped becomes a hole."""
    old = inode.data
    end = offset + len(data)
    if offset > len(old):
        truncate(inode, offset)
        old = inode.data
    inode.data = old[:offset] + data + old[end:]
    if inode.holes:
        inode.holes -= frozenset(range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)))


def truncate(inode: Inode, size: int) -> None:
    """Cut a file, or lengthen it by a hole."""
    before, after = -(-len(inode.data) // BLOCK_BYTES), -(-size // BLOCK_BYTES)
    if size < len(inode.data):
        inode.data = inode.data[:size]
        if inode.holes:
            inode.holes = frozenset(block for block in inode.holes if block < after)
    else:
        inode.data += bytes(size - len(inode.data))
        if after > before:
            inode.holes |= frozenset(range(before, after))


class Disk:
    """One file system."""

    def __init__(
        self,
        clock: Clock,
        *,
        number: int = 1,
        ordered: bool = True,
        reuse: bool = True,
        granularity_ns: int = 1,
        capacity: int = 1 << 40,
        reflinks: bool = False,
        root_mode: int = 0o755,
    ) -> None:
        """Make an empty file system.

        Args:
            clock: Stamps inodes (wall time) and ages what is not synced (monotonic time).
            number: `st_dev`, and the file system's id.
            ordered: Which changes a power cut may keep; see the top of the file.
            reuse: Whether numbers of inodes are used again.
            granularity_ns: Times are rounded down to a multiple of this.
            capacity: Bytes, in blocks, that fit onto it; may be changed at any time.
            reflinks: Whether FICLONE works.
            root_mode: Permissions of the root directory.
        """
        self.clock = clock
        self.number = number
        self.ordered = ordered
        self.reuse = reuse
        self.granularity_ns = granularity_ns
        self.capacity = capacity
        self.reflinks = reflinks
        self.serial = ROOT
        self.next_number = 2
        self.free_numbers: list[int] = []
        self.used = 0
        self.fault: Callable[[str], None] | None = None
        """Called before each operation of the program under test, with its name: it may count, and raise."""
        self.volatile: Table = {}
        self.durable: Table = {}
        self.journal: list[Change] = []
        self.unsynced: dict[int, Unsynced] = {}
        root = (NEW, ROOT, 2, stat.S_IFDIR | root_mode, b"", self.stamp())
        for table in (self.volatile, self.durable):
            perform(table, root)
            table[ROOT].links += 1
            table[ROOT].parent = ROOT
        self.next_number = 3

    # Faults
    def enter(self, name: str) -> None:
        """Begin an operation of the program under test, which may fail or end here."""
        if self.fault is not None:
            self.fault(name)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Let somebody else than the program under test work: no faults."""
        fault, self.fault = self.fault, None
        try:
            yield
        finally:
            self.fault = fault

    # The journal
    def stamp(self) -> int:
        """Return the time that goes into inodes now."""
        now_ns = self.clock.now_us() * 1000
        return now_ns - now_ns % self.granularity_ns

    def change(self, steps: tuple[Step, ...], touches: frozenset[object]) -> None:
        """Do something to names or metadata, as one."""
        for step in steps:
            perform(self.volatile, step)
        self.journal.append(Change(steps, touches, self.clock.monotonic_s()))

    def write(self, inode: Inode, step: Step) -> None:
        """Do something to a file's data."""
        before = inode.blocks
        perform(self.volatile, step)
        self.used += inode.blocks - before
        unsynced = self.unsynced.get(inode.serial)
        if unsynced is None:
            unsynced = self.unsynced[inode.serial] = Unsynced(since_s=self.clock.monotonic_s())
        unsynced.writes.append(step)

    def commit(self, changes: list[Change]) -> None:
        """Bring changes to the disk."""
        for change in changes:
            for step in change.steps:
                perform(self.durable, step)

    def commit_data(self, serial: int) -> None:
        """Bring a file's data to the disk."""
        unsynced = self.unsynced.pop(serial, None)
        if unsynced is not None and serial in self.durable:
            for step in unsynced.writes:
                perform(self.durable, step)

    def sync(self, inode: Inode | None) -> None:
        """Make a file or directory durable, or everything."""
        if inode is None or self.ordered:
            self.commit(self.journal)
            self.journal = []
        else:
            chosen, left = self.needed({inode.serial})
            self.commit(chosen)
            self.journal = left
        for serial in list(self.unsynced) if inode is None else [inode.serial]:
            self.commit_data(serial)

    def needed(self, wanted: set[object]) -> tuple[list[Change], list[Change]]:
        """Return the changes without which some things would not be as they are, and the others."""
        chosen: list[Change] = []
        left: list[Change] = []
        for change in reversed(self.journal):
            if wanted.isdisjoint(change.touches):
                left.append(change)
            else:
                wanted |= change.touches
                chosen.append(change)
        return chosen[::-1], left[::-1]

    # Crashes
    def crash(self, random: Random, *, power: bool) -> None:
        """Stop: nothing is open any more, and without power what was not synced may be gone."""
        if power:
            self.lose(random)
        for inode in self.volatile.values():
            inode.opened = 0
        self.collect()

    def lose(self, random: Random) -> None:
        """Choose what survives a power cut."""
        before = {serial: self.durable[serial].ctime_ns for serial in self.unsynced if serial in self.durable}
        now_s = self.clock.monotonic_s()
        old = [change for change in self.journal if change.at_s < now_s - COMMIT_S]
        self.commit(old)
        young = self.journal[len(old) :]
        self.commit(self.prefix(young, random) if self.ordered else self.choice(young, random))
        for serial, unsynced in list(self.unsynced.items()):
            inode = self.durable.get(serial)
            if unsynced.since_s < now_s - WRITEBACK_S:
                self.commit_data(serial)
            elif inode is not None and before.get(serial) != inode.ctime_ns:
                lose_data(self.durable[serial], unsynced.writes, random)
        self.journal, self.unsynced = [], {}
        self.volatile = {serial: inode.copy() for serial, inode in self.durable.items()}
        self.used = sum(inode.blocks for inode in self.volatile.values())

    def prefix(self, changes: list[Change], random: Random) -> list[Change]:
        """Return the changes up to some moment."""
        return changes[: random.randint(0, len(changes))]

    def choice(self, changes: list[Change], random: Random) -> list[Change]:
        """Return some of the changes, in order within each directory and inode."""
        chance = random.random()
        lost: set[object] = set()
        kept = []
        for change in changes:
            if random.random() < chance and lost.isdisjoint(change.touches):
                kept.append(change)
            else:
                lost |= change.touches
        return kept

    def collect(self) -> None:
        """Free the inodes that have no name and are open nowhere."""
        for serial in [s for s, inode in self.volatile.items() if self.is_garbage(inode)]:
            self.used -= self.volatile.pop(serial).blocks
        if not self.journal:
            for serial in self.durable.keys() - self.volatile.keys():
                del self.durable[serial]
        taken = {inode.number for inode in self.volatile.values()}
        self.free_numbers = sorted(set(range(3, self.next_number)) - taken)

    def is_garbage(self, inode: Inode) -> bool:
        """Return whether nobody can reach an inode any more (a directory without names has one link, its own)."""
        return not inode.opened and inode.links <= (1 if inode.entries is not None else 0)

    def release(self, inode: Inode) -> None:
        """Free an inode if that was its last name or descriptor."""
        if self.is_garbage(inode) and self.volatile.get(inode.serial) is inode:
            self.used -= inode.blocks
            del self.volatile[inode.serial]
            if self.reuse:
                heappush(self.free_numbers, inode.number)

    # Snapshots
    def snapshot(self) -> DiskState:
        """Return all that is on it, what is not synced included; nothing may be open."""
        if not self.journal:
            for serial in self.durable.keys() - self.volatile.keys():
                del self.durable[serial]
        return DiskState(
            {serial: inode.copy() for serial, inode in self.volatile.items()},
            {serial: inode.copy() for serial, inode in self.durable.items()},
            list(self.journal),
            {s: Unsynced(list(one.writes), one.since_s) for s, one in self.unsynced.items()},
            self.serial,
            self.next_number,
            list(self.free_numbers),
        )

    def restore(self, state: DiskState) -> None:
        """Go back to a snapshot (of this disk or of one that this is to be a copy of)."""
        self.volatile = {serial: inode.copy() for serial, inode in state.volatile.items()}
        self.durable = {serial: inode.copy() for serial, inode in state.durable.items()}
        self.journal = list(state.journal)
        self.unsynced = {s: Unsynced(list(one.writes), one.since_s) for s, one in state.unsynced.items()}
        self.serial, self.next_number = state.serial, state.number
        self.free_numbers = list(state.free_numbers)
        self.used = sum(inode.blocks for inode in self.volatile.values())
        self.collect()

    # Operations on inodes; paths, descriptors and permissions are the system's (see `system`)
    def entry(self, directory: Inode, name: bytes) -> Inode | None:
        """Return what has a name in a directory."""
        if directory.entries is None:
            raise fail(errno.ENOTDIR, name)
        if len(name) > NAME_BYTES_MAX:
            raise fail(errno.ENAMETOOLONG, name)
        if name == b".":
            return directory
        if name == b"..":
            return self.volatile[directory.parent]
        serial = directory.entries.get(name)
        return None if serial is None else self.volatile[serial]

    def need_room(self, blocks: int, name: bytes = b"") -> None:
        """Raise ENOSPC if so many more blocks do not fit."""
        if blocks > 0 and (self.used + blocks) * BLOCK_BYTES > self.capacity:
            raise fail(errno.ENOSPC, name)

    def create(self, directory: Inode, name: bytes, mode: int, data: bytes = b"") -> Inode:
        """Make a new inode with a name that is free."""
        if directory.links <= (1 if directory is not self.volatile[ROOT] else 0):
            raise fail(errno.ENOENT, name)  # removed while it was open
        is_directory = stat.S_ISDIR(mode)
        self.need_room(1 if is_directory or data else 0, name)
        self.serial += 1
        if self.free_numbers:
            number = heappop(self.free_numbers)
        else:
            number, self.next_number = self.next_number, self.next_number + 1
        serial, stamp = self.serial, self.stamp()
        self.change(
            (
                (NEW, serial, number, mode, data, stamp),
                (LINK, directory.serial, name, serial),
                *self.stamped(directory, stamp),
            ),
            frozenset({directory.serial, serial, ("number", number)}),
        )
        inode = self.volatile[serial]
        self.used += inode.blocks
        return inode

    def stamped(self, directory: Inode, stamp: int) -> tuple[Step, Step]:
        """Return the steps that note a change of a directory's entries."""
        return (SET, directory.serial, "mtime_ns", stamp), (SET, directory.serial, "ctime_ns", stamp)

    def link(self, inode: Inode, directory: Inode, name: bytes) -> None:
        """Give an inode one more name."""
        stamp = self.stamp()
        self.change(
            (
                (LINK, directory.serial, name, inode.serial),
                (SET, inode.serial, "ctime_ns", stamp),
                *self.stamped(directory, stamp),
            ),
            frozenset({directory.serial, inode.serial}),
        )

    def unlink(self, directory: Inode, name: bytes) -> None:
        """Take a name away: of a file, or of an empty directory."""
        inode = self.entry(directory, name)
        assert inode is not None
        stamp = self.stamp()
        self.change(
            (
                (UNLINK, directory.serial, name),
                (SET, inode.serial, "ctime_ns", stamp),
                *self.stamped(directory, stamp),
            ),
            frozenset({directory.serial, inode.serial, ("number", inode.number)}),
        )
        self.release(inode)

    def rename(self, source: Inode, old: bytes, target: Inode, new: bytes, *, exchange: bool) -> None:
        """Rename, replacing what has the new name; or let the two trade names."""
        moved, other = self.entry(source, old), self.entry(target, new)
        assert moved is not None
        stamp = self.stamp()
        steps: list[Step] = [(UNLINK, source.serial, old)]
        touches: set[object] = {source.serial, target.serial, moved.serial}
        if other is not None:
            steps.append((UNLINK, target.serial, new))
            touches |= {other.serial, ("number", other.number)}
        steps.append((LINK, target.serial, new, moved.serial))
        if exchange and other is not None:
            steps.append((LINK, source.serial, old, other.serial))
        if other is not None:
            steps.append((SET, other.serial, "ctime_ns", stamp))
        steps.append((SET, moved.serial, "ctime_ns", stamp))
        steps += [*self.stamped(source, stamp), *self.stamped(target, stamp)]
        self.change(tuple(steps), frozenset(touches))
        if other is not None:
            self.release(other)

    def set(self, inode: Inode, **values: object) -> None:
        """Change metadata of an inode."""
        steps = tuple((SET, inode.serial, name, value) for name, value in values.items())
        self.change((*steps, (SET, inode.serial, "ctime_ns", self.stamp())), frozenset({inode.serial}))

    def write_data(self, inode: Inode, offset: int, data: bytes) -> int:
        """Write bytes to a file, as many as fit; return how many."""
        if not data:
            return 0
        if offset + len(data) > FILE_BYTES_MAX:
            raise fail(errno.EFBIG)
        first, last = offset // BLOCK_BYTES, (offset + len(data) - 1) // BLOCK_BYTES
        here = -(-len(inode.data) // BLOCK_BYTES)
        free = self.capacity // BLOCK_BYTES - self.used
        for block in range(first, last + 1):
            if block >= here or block in inode.holes:
                free -= 1
                if free < 0:
                    data = data[: max(block * BLOCK_BYTES - offset, 0)]
                    break
        if not data:
            raise fail(errno.ENOSPC)
        self.write(inode, (WRITE, inode.serial, offset, data))
        self.touch(inode)
        return len(data)

    def truncate(self, inode: Inode, size: int) -> None:
        """Set a file's length."""
        if size > FILE_BYTES_MAX:
            raise fail(errno.EFBIG)
        self.write(inode, (TRUNCATE, inode.serial, size))
        self.touch(inode)

    def touch(self, inode: Inode) -> None:
        """Stamp a file that was written to."""
        stamp = self.stamp()
        if inode.mtime_ns != stamp or inode.ctime_ns != stamp:
            self.set(inode, mtime_ns=stamp)

    def clone_data(self, source: Inode, target: Inode) -> None:
        """Let a file share the blocks of another, as FICLONE does."""
        self.truncate(target, 0)
        self.write_data(target, 0, source.data)
        target.holes = source.holes


def lose_data(inode: Inode, writes: list[Step], random: Random) -> None:
    """Do to a file on the disk what a power cut leaves of its unsynced writes."""
    match random.choice(("all", "none", "zeros", "torn", "torn")):
        case "none":
            return
        case "torn":
            whole = random.randint(0, len(writes) - 1)
            for step in writes[:whole]:
                perform({inode.serial: inode}, step)
            last = writes[whole]
            if last[0] == WRITE:
                write_into(inode, last[2], last[3][: random.randint(0, len(last[3]))])
        case "zeros":
            before, length = inode.data, len(inode.data)
            for step in writes:
                perform({inode.serial: inode}, step)
            # What was there before keeps its bytes, where anything is left of it; new blocks are empty.
            kept = min(length, len(inode.data))
            inode.data = before[:kept] + bytes(len(inode.data) - kept)
        case _:
            for step in writes:
                perform({inode.serial: inode}, step)
