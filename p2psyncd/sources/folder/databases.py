"""SQLite databases in a shared folder that a program has open.

Their file alone is not their content: part of it lies in `-wal`, or must be undone from `-journal`. So such
a database is captured as a snapshot of one moment, kept in `.p2psync/snapshots` for as long as it is in use,
and peers are served from there. What lies beside a database belongs to the program that uses it and is
never synced. Nothing is put in the place of a database in use: the program would go on in the old one.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from p2psyncd.core.guard import has_room
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.content import Content, read_content
from p2psyncd.sources.folder.layout import META

__all__ = [
    "SNAPSHOTS",
    "Snapshots",
    "database_of",
    "in_use",
    "is_beside_database",
    "is_left_over",
    "lies_beside_database",
    "mark_of_use",
]

SNAPSHOTS = META + b"/snapshots"
MAGIC = b"SQLite format 3\0"
# A page's least size: the size of a database is a multiple of it, so most files need no further look.
PAGE_BYTES_LEAST = 512
BESIDE = (b"-wal", b"-journal", b"-shm")
MARK_BYTES = 16
# The head of `-shm` counts every commit: it tells two apart that a coarse clock does not.
INDEX_HEAD_BYTES = 48
NAME_BYTES = 16
PLAIN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
PROGRAM = Path(__file__).with_name("snapshot_program.py")
SNAPSHOT_S_MAX = 3600.0


def head_of(directory: int, name: bytes, size: int) -> bytes:
    """Return a regular file's first bytes; none where it cannot be read."""
    try:
        opened = os.open(name, PLAIN_FLAGS, dir_fd=directory)
    except OSError:
        return b""
    try:
        return os.read(opened, size)
    except OSError:
        return b""
    finally:
        os.close(opened)


def status_of(directory: int, name: bytes) -> os.stat_result | None:
    """Return the status of a regular file; None if there is none."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def database_of(key: bytes) -> bytes:
    """Return the key of the database that something with this key would lie beside; empty if none."""
    for ending in BESIDE:
        if key.endswith(ending) and not key.endswith(b"/" + ending):
            return key[: -len(ending)]
    return b""


def is_beside_database(directory: int, name: bytes) -> bool:
    """Return whether something is a database's `-wal`, `-shm` or `-journal`."""
    database = database_of(name)
    return bool(database) and head_of(directory, database, len(MAGIC)) == MAGIC


def lies_beside_database(directories: Directories, key: bytes) -> bool:
    """Return whether a key is a database's `-wal`, `-shm` or `-journal` here: its program's, and never synced."""
    if not database_of(key):
        return False
    try:
        return is_beside_database(*directories.parent(key))
    except OSError:
        return False


def mark_of_use(directory: int, name: bytes) -> bytes:
    """Return what changes with the content of a database in use; empty if `name` is no such thing."""
    status = status_of(directory, name)
    if status is None or status.st_size % PAGE_BYTES_LEAST or not status.st_size:
        return b""
    wal, journal = status_of(directory, name + b"-wal"), status_of(directory, name + b"-journal")
    if wal is None and (journal is None or is_finished(directory, name + b"-journal")):
        return b""
    if head_of(directory, name, len(MAGIC)) != MAGIC:
        return b""
    # Not ctime: SQLite run by root sets the owner whenever it opens these files, and so does our own look.
    parts = [(one.st_ino, one.st_size, one.st_mtime_ns) for one in (wal, journal) if one]
    index = head_of(directory, name + b"-shm", INDEX_HEAD_BYTES)
    return blake3(repr(parts).encode() + index).digest(MARK_BYTES)


def is_finished(directory: int, journal: bytes) -> bool:
    """Return whether a rollback journal holds nothing: some programs empty it, or its head, and keep it."""
    return not head_of(directory, journal, 1).strip(b"\0")


def in_use(directory: int, name: bytes) -> bool:
    """Return whether a database is in use, or was left with work that only its program can finish."""
    return bool(mark_of_use(directory, name))


def make_durable(directory: int, name: bytes) -> None:
    """Put what a program has committed so far on the disk: it may not mind, but no peer is to be ahead of this disk."""
    for one in (name, name + b"-wal"):
        if status_of(directory, one) is None:
            continue
        opened = os.open(one, PLAIN_FLAGS, dir_fd=directory)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def is_left_over(staging: int, staged: bytes, directory: int, name: bytes) -> bool:
    """Return whether a staged database is to get a name beside which another one's work was left."""
    wal, journal = status_of(directory, name + b"-wal"), status_of(directory, name + b"-journal")
    left = (wal is not None and wal.st_size > 0) or (
        journal is not None and not is_finished(directory, name + b"-journal")
    )
    return left and head_of(staging, staged, len(MAGIC)) == MAGIC


class Snapshots:
    """The snapshots of one share's databases in use; one thread takes, others read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken: dict[bytes, bytes] = {}
        """By key: the name of the newest snapshot."""

    def take(self, directories: Directories, key: bytes) -> Content | None:
        """Take a snapshot; None where the database is locked: it is to be looked at again.

        Raises:
            OSError: It cannot be read, or there is no room for the copy.
        """
        directory, name = directories.parent(key)
        folder = directories.ensure(SNAPSHOTS)
        size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
        disk = os.fstatvfs(folder)
        if not has_room(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, size):
            raise OSError(errno.ENOSPC, "there is no room for a snapshot of this database")
        stem = blake3(key).digest(NAME_BYTES).hex().encode()
        fresh = stem + b".new"
        remove(folder, fresh)
        done = False
        try:
            done = self.run(directory, name, fresh)
        finally:
            if not done:
                remove(folder, fresh)
        if not done:
            return None
        content = read_content(folder, fresh)
        if content is None:
            raise OSError(errno.EIO, "the snapshot changed while it was read")
        final = stem + b"." + content.digest.hex().encode()
        os.rename(fresh, final, src_dir_fd=folder, dst_dir_fd=folder)
        old = self.taken.get(key)
        self.taken[key] = final
        if old is not None and old != final:
            remove(folder, old)
        return content

    def run(self, directory: int, name: bytes, fresh: bytes) -> bool:
        """Let the program copy; return False where the database is locked."""
        target = os.fsencode(self.root) + b"/" + SNAPSHOTS + b"/" + fresh
        make_durable(directory, name)
        try:
            done = self.call(directory, name, target)
        except subprocess.TimeoutExpired as error:
            raise OSError(errno.ETIMEDOUT, "a snapshot of this database takes too long") from error
        if done.returncode == 0:
            return True
        if done.returncode == os.EX_TEMPFAIL:
            return False
        why = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise OSError(errno.EIO, f"SQLite cannot read this database now: {why}")

    def call(self, directory: int, name: bytes, target: bytes) -> subprocess.CompletedProcess[bytes]:
        """Run the program in the database's folder."""
        return subprocess.run(  # noqa: S603  (this package's own program)
            [sys.executable, "-I", PROGRAM, name, target],
            cwd=f"/proc/{os.getpid()}/fd/{directory}",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=SNAPSHOT_S_MAX,
            check=False,
        )

    def path(self, key: bytes, digest: bytes) -> bytes | None:
        """Return where the snapshot with this content lies, relative to the root; None if it is not kept."""
        name = self.taken.get(key)
        return SNAPSHOTS + b"/" + name if name is not None and name.endswith(digest.hex().encode()) else None

    def drop(self, directories: Directories, key: bytes) -> None:
        """Throw a snapshot away: its database is not in use any more, or gone."""
        name = self.taken.pop(key, None)
        if name is not None:
            with suppress(OSError):
                remove(directories.directory(SNAPSHOTS), name)

    def tidy(self) -> None:
        """Throw away what an earlier run left."""
        if self.taken:
            return
        with suppress(OSError), Directories(self.root) as directories:
            folder = directories.directory(SNAPSHOTS)
            for name in os.listdir(folder):  # noqa: PTH208  (a descriptor)
                remove(folder, os.fsencode(name))


def remove(folder: int, name: bytes) -> None:
    """Delete a file, and what SQLite may have left beside it."""
    for one in (name, name + b"-journal"):
        with suppress(FileNotFoundError):
            os.unlink(one, dir_fd=folder)
