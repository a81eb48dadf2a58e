"""Earlier versions: what a remote change replaced or deleted, kept for a while.

A version lies at `.p2psync/history/<directory>/<name>~<UTC time>~<tag>`: the time when it was
replaced, the tag of its write. Putting it there is a rename within the file system, so nothing is
copied and nothing can be lost between two steps.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blake3 import blake3

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import ACTOR_ID_BYTES, ActorId
from p2psyncd.core.version import Dot
from p2psyncd.errors import NoSuchItem
from p2psyncd.sources.folder.beneath import Directories, copy_content, exchange, rename_new
from p2psyncd.sources.folder.conflicts import tag_of
from p2psyncd.sources.folder.layout import HISTORY, NAME_BYTES_MAX, STAGING, check_key, split_key
from p2psyncd.sources.folder.xattrs import put_xattrs, read_xattrs

__all__ = ["History", "HistoryLimits", "Version"]

TIME_FORMAT = "%Y%m%dT%H%M%SZ"
VERSION = re.compile(r"(?P<time>\d{8}T\d{6}Z)~[0-9a-f]{12}(\.\d{1,3})?")
# ~20261123T044712Z~3f9a2c1b07d1.999
SUFFIX_BYTES_MAX = 34
NAME_DIGEST_BYTES = 4
SAME_NAMES_MAX = 1000
DEPARTED_MAX = 20_000
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLimits:
    """How much history is kept."""

    days: int = 30
    share_percent: int = 10
    """Of the share's bytes."""
    bytes_min: int = 100 * 1024 * 1024
    """Kept whatever the share's size; older than `days` goes nevertheless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One earlier version of a path."""

    key: bytes
    version: str
    """Names it to `restore`: time of replacement and tag."""
    replaced_us: int
    """When it was replaced or deleted, microseconds since 1970."""
    size: int
    mtime_ns: int


def stem_of(name: bytes) -> bytes:
    """Return what a name's versions begin with: the name, shortened where the suffix would not fit."""
    room = NAME_BYTES_MAX - SUFFIX_BYTES_MAX
    if len(name) <= room:
        return name
    mark = b"~" + blake3(name).digest(NAME_DIGEST_BYTES).hex().encode()
    return name[: room - len(mark)] + mark


def parse_version(version: str) -> int | None:
    """Return the time, in µs, of a version's name; None if it is none."""
    found = VERSION.fullmatch(version)
    if found is None:
        return None
    try:
        return int(datetime.strptime(found["time"], TIME_FORMAT).replace(tzinfo=UTC).timestamp()) * 1_000_000
    except ValueError:
        return None


def place_of(key: bytes) -> tuple[bytes, bytes]:
    """Return (history's directory, stem) of a key's versions."""
    directory, name = split_key(key)
    return HISTORY + b"/" + directory if directory else HISTORY, stem_of(name)


class History:
    """The earlier versions of a folder share."""

    def __init__(self, root: Path, clock: Clock, limits: HistoryLimits) -> None:
        self.root = root
        self.clock = clock
        self.limits = limits
        self.departed: OrderedDict[bytes, bytes] = OrderedDict()
        """Where content (by digest) lies that was put away lately: a move's other half may want it."""
        self.used: set[bytes] = set()
        """History's directories that something was taken out of again: they may be empty."""

    def move_in(self, directories: Directories, directory: bytes, name: bytes, key: bytes, dot: Dot) -> bytes:
        """Rename a thing into history.

        Args:
            directories: Opened at the share's root.
            directory: Where the thing is; may be staging.
            name: Its name there.
            key: The path whose version it is.
            dot: The write that it was.

        Returns:
            The path where it lies now, relative to the root.
        """
        place, stem = place_of(key)
        time = datetime.fromtimestamp(self.clock.now_us() // 1_000_000, UTC).strftime(TIME_FORMAT)
        slot = b"%s~%s~%s" % (stem, time.encode(), tag_of(dot).encode())
        into = directories.ensure(place)
        source = directories.directory(directory)
        for number in range(SAME_NAMES_MAX):
            try_name = slot if number == 0 else b"%s.%d" % (slot, number)
            try:
                rename_new(source, name, into, try_name)
            except FileExistsError:
                continue
            return place + b"/" + try_name
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(slot))

    def note_departed(self, digest: bytes, slot: bytes) -> None:
        """Remember where content was put away."""
        self.departed[digest] = slot
        if len(self.departed) > DEPARTED_MAX:
            self.departed.popitem(last=False)

    def sweep(self, directories: Directories) -> None:
        """Remove history's directories that were left empty by moves."""
        for place in sorted(self.used, reverse=True):
            while place != HISTORY:
                above, name = split_key(place)
                try:
                    directories.forget(place)
                    os.rmdir(name, dir_fd=directories.directory(above))
                except OSError:
                    break
                place = above  # noqa: PLW2901  (upwards, as far as it is empty)
        self.used.clear()

    # For people
    def list(self, key: bytes) -> list[Version]:
        """Return the versions of a path, newest first."""
        check_key(key)
        place, stem = place_of(key)
        found = []
        with Directories(self.root) as directories:
            try:
                opened = directories.directory(place)
            except OSError:
                return []
            for name, status in entries_of(opened):
                if not name.startswith(stem + b"~"):
                    continue
                version = os.fsdecode(name[len(stem) + 1 :])
                replaced_us = parse_version(version)
                if replaced_us is not None:
                    found.append(
                        Version(
                            key=key,
                            version=version,
                            # The name tells the second; within it, the move into history told the inode.
                            replaced_us=replaced_us
                            + min(max(status.st_ctime_ns // 1000 - replaced_us, 0), 999_999),
                            size=status.st_size,
                            mtime_ns=status.st_mtime_ns,
                        )
                    )
        return sorted(found, key=lambda one: (one.replaced_us, one.version), reverse=True)

    def restore(self, key: bytes, version: str) -> None:
        """Put a copy of an earlier version back at its path; what is there now goes to history.

        Raises:
            NoSuchItem: There is no such version.
            OSError: It cannot be written (a directory has the name, the disk is full …).
        """
        check_key(key)
        place, stem = place_of(key)
        if parse_version(version) is None:
            raise NoSuchItem(f"{version!r} names no version")
        old = stem + b"~" + os.fsencode(version)
        with Directories(self.root) as directories:
            try:
                status = directories.status(place + b"/" + old)
            except OSError:
                status = None
            if status is None:
                raise NoSuchItem(f"There is no version {version} of {os.fsdecode(key)!r}")
            new = b"%d.restore" % self.clock.now_us()
            copy_version(directories, place, old, new, status)
            try:
                self.put_live(directories, new, key)
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(new, dir_fd=directories.directory(STAGING))
                raise
            os.fsync(directories.parent(key)[0])

    def put_live(self, directories: Directories, staged: bytes, key: bytes) -> None:
        """Put a staged thing at a path; what was there goes to history."""
        directory, name = split_key(key)
        for above in reversed([directory, *directories_above(directory)]):
            if above:
                make_plain_directory(directories, above)
        try:
            rename_new(directories.directory(STAGING), staged, directories.directory(directory), name)
        except FileExistsError:
            status = directories.status(key)
            if status is not None and stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(key)) from None
            dot = Dot(LOCAL_ACTOR, self.clock.now_us())
            slot = self.move_in(directories, STAGING, staged, key, dot)
            into = directories.parent(slot)
            exchange(into[0], into[1], directories.directory(directory), name)

    # Limits
    def prune(self, share_bytes: int) -> int:
        """Delete what is too old, and the oldest of what is too much; return the bytes that are left.

        Args:
            share_bytes: Bytes of the share's live files.
        """
        most = max(self.limits.bytes_min, share_bytes * self.limits.share_percent // 100)
        oldest_us = self.clock.now_us() - self.limits.days * DAY_US
        kept: list[tuple[int, bytes, int]] = []
        with Directories(self.root) as directories:
            for path, status in walk(directories, HISTORY):
                version = os.fsdecode(path).rsplit("~", 2)
                replaced_us = parse_version("~".join(version[-2:])) or status.st_ctime_ns // 1000
                # Of a sparse file, what it takes: an image of a terabyte would push out all else.
                kept.append((replaced_us, path, min(status.st_size, status.st_blocks * STAT_BLOCK_BYTES)))
            kept.sort(reverse=True)
            total = 0
            left = 0
            for replaced_us, path, size in kept:
                total += size
                if replaced_us >= oldest_us and total <= most:
                    left += size
                    continue
                directory, name = directories.parent(path)
                os.unlink(name, dir_fd=directory)
                self.used.add(split_key(path)[0])
            self.sweep(directories)
        return left


LOCAL_ACTOR = ActorId(b"\0" * ACTOR_ID_BYTES)
# What `st_blocks` counts, whatever a file system's own blocks are.
STAT_BLOCK_BYTES = 512


def entries_of(directory: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield (name, status) of a directory's entries."""
    with os.scandir(directory) as entries:
        for entry in entries:
            yield os.fsencode(entry.name), entry.stat(follow_symlinks=False)


def walk(directories: Directories, top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield (path, status) of everything but directories below a directory of this program's own."""
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            entries = list(entries_of(directories.directory(directory)))
        except OSError:
            continue
        for name, status in entries:
            path = directory + b"/" + name
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
            else:
                yield path, status


def directories_above(directory: bytes) -> list[bytes]:
    """Return the directories above a directory, nearest first."""
    above = []
    while directory:
        directory = split_key(directory)[0]
        above.append(directory)
    return above


def make_plain_directory(directories: Directories, key: bytes) -> None:
    """Make a directory of the share if it is missing, as `mkdir` would."""
    above, name = split_key(key)
    with suppress(FileExistsError):
        os.mkdir(name, 0o777, dir_fd=directories.directory(above))


def copy_version(
    directories: Directories, place: bytes, old: bytes, new: bytes, status: os.stat_result
) -> None:
    """Copy an earlier version into staging, with its mode and mtime."""
    source_directory = directories.directory(place)
    staging = directories.ensure(STAGING)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(old, dir_fd=source_directory), new, dir_fd=staging)
        return
    source = os.open(old, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source_directory)
    try:
        target = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=staging)
        try:
            copy_content(source, target)
            put_xattrs(target, read_xattrs(source), ())
            os.fchmod(target, status.st_mode & 0o7777)
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
            os.fsync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)
