"""An app's database file: opened, worked on and closed again, so that the app never notices.

- **No connection is ever left open.** An idle one keeps `-wal`, so that a backup copied over the file is
  undone by it, and an app could not leave WAL. Closing ours is what closing any program's is: where it was
  the last, SQLite checkpoints and removes `-wal`; where the app has the database open, nothing happens.
- **Nothing here opens the file other than through SQLite**, and of SQLite there is one library in this process:
  closing any descriptor of a file drops all POSIX locks that the process has on it, also those of another
  thread's transaction. What can be asked without a descriptor is asked with `stat`. (`-wal` may be opened:
  SQLite takes its locks on the database and on `-shm`, never there.)
- **The file must be the one that the share was opened with**, or nothing is read from it or written to it: a
  backup that was moved over it, or a file made anew, is for the guard to judge.
- **Journal modes are the app's.** Only WAL is recorded in the file, and nothing here changes it.
- **What is committed here is durable.** Peers are told that it is here, so that they need not keep it for
  this device. In WAL the log is synced after the commit: with `synchronous=FULL` that happens under the lock, and
  one in five of an app's deferred transactions failed. In the other modes `synchronous=EXTRA` syncs the
  journal's removal, too: without that, a power cut would roll the commit back.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Protocol

import apsw

from p2psyncd.core.guard import has_room
from p2psyncd.errors import (
    DatabaseBusy,
    DatabaseEmpty,
    DatabaseLinked,
    DatabaseNotWritable,
    FolderMissing,
    NotAFolder,
    ShareHeld,
)
from p2psyncd.sources.database.hints import check_names
from p2psyncd.sources.database.opening import Translation, connect, has_moved, missing

__all__ = ["DatabaseAccess", "DatabaseFile", "Identity", "Keeper", "check_new_database"]

# An app waits for its turn with sleeps of up to 100 ms, and nobody hands the lock over: of two transactions here, the second
# gives it half the time of the first, at most one such sleep. Back to back, an app waited for more than 5 s.
TURN, TURN_S_MAX = 0.5, 0.1
# For about a second: long enough for any transaction that does not wait for a person, and no share's thread hangs.
TRIES = 2000
# An app that kept its lock so long mostly keeps it for as long as it runs; it is asked again and again.
TRIES_LOCKED = 400
FILE_MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which file it is. Device numbers may change when the machine starts again; inodes do not."""

    device: int
    inode: int


class Keeper(Protocol):
    """Whoever looks at each transaction, to tell whether the content is what it was; see `guard.FileGuard`."""

    def expected(self) -> object:
        """Return what is expected of a transaction that begins now: while it does, another may be committed."""
        ...

    def look(self, connection: apsw.Connection, expected: object) -> None:
        """Look at what a transaction sees; raise ShareHeld if nothing is to be done with it."""
        ...

    def committing(self, connection: apsw.Connection) -> None:
        """Add to a transaction that is about to be committed."""
        ...

    def committed(self) -> None:
        """Note that it was."""
        ...


class DatabaseAccess(Protocol):
    """What the source may do with a database; the file, or something else in the simulation."""

    path: Path
    identity: Identity | None
    """The file that must be at the path, as the guard found it; None: whatever is there."""
    keeper: Keeper | None
    """Sees each transaction."""
    locked: bool
    """Whether an app kept the database locked when it was last asked for."""

    def look(self) -> Identity | None:
        """Return which file is at the path; None if there is none."""
        ...

    def reading(self) -> AbstractContextManager[apsw.Connection]:
        """Give a connection that sees one moment of the database and cannot write.

        Keep it short: unless the database is in WAL mode, no app can commit for so long.

        Raises:
            ShareHeld: Another file, or none, is at the path.
            DatabaseUnavailable: It is locked, damaged, encrypted, or not writable.
        """
        ...

    def writing(
        self, *, quiet: bool, first: Callable[[], None] | None = None
    ) -> AbstractContextManager[apsw.Connection]:
        """Give a connection that may write, and make the block one durable transaction; errors as above.

        Args:
            quiet: The app's (and our own) triggers do not run and foreign keys do nothing; TEMP triggers run.
            first: Makes durable what must be when the transaction is.
        """
        ...

    def snapshot_to(self, target: Path) -> None:
        """Write a consistent, durable copy of the whole database to a new file; errors as above.

        Raises:
            OSError: There is no room, or the target exists.
        """
        ...

    def make_durable(self) -> None:
        """Put on the disk what apps have committed so far: no peer is to be ahead of this disk."""
        ...


class DatabaseFile:
    """An SQLite file that an app uses; see `DatabaseAccess`."""

    def __init__(self, path: Path, prepare: Callable[[apsw.Connection], None] | None = None) -> None:
        """Take the path of a file, without symlinks; `prepare` sees each new connection first (collations, say)."""
        self.path = path
        self.prepare = prepare
        self.identity: Identity | None = None
        self.keeper: Keeper | None = None
        self.locked = False
        self.tries = TRIES
        self.one_writer = RLock()
        """A commit and what is noted of it are one step."""
        self.turn_s = 0.0
        """Until when it is an app's turn to write."""
        self.translated = Translation(path)

    def look(self) -> Identity | None:
        """Return which file is at the path; None if there is none."""
        try:
            found = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise DatabaseNotWritable(f"{self.path} ({error.strerror})") from error
        return Identity(device=found.st_dev, inode=found.st_ino) if stat.S_ISREG(found.st_mode) else None

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """See `DatabaseAccess`."""
        with self.connected() as connection:
            connection.execute("PRAGMA query_only = ON")
            expected = self.keeper.expected() if self.keeper is not None else None
            connection.execute("BEGIN")
            # A transaction sees the moment of its first read.
            connection.execute("PRAGMA schema_version").fetchall()
            self.locked = False
            self.check(connection)
            try:
                if self.keeper is not None:
                    self.keeper.look(connection, expected)
                yield connection
            finally:
                self.roll_back(connection)

    @contextmanager
    def writing(self, *, quiet: bool, first: Callable[[], None] | None = None) -> Iterator[apsw.Connection]:
        """See `DatabaseAccess`."""
        with self.one_writer:
            time.sleep(max(0.0, self.turn_s - time.monotonic()))  # noqa: TID251  (a worker thread waits)
            with self.connected() as connection:
                yield from self.written(connection, quiet=quiet, first=first or nothing)

    def written(
        self, connection: apsw.Connection, *, quiet: bool, first: Callable[[], None]
    ) -> Iterator[apsw.Connection]:
        """Yield the connection once, and make what is done until then one transaction."""
        if quiet:
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        if connection.readonly("main"):
            raise DatabaseNotWritable(str(self.path))
        mode = connection.pragma("journal_mode")
        if mode == "wal":
            connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        since_s = time.monotonic()
        self.locked = False
        try:
            if connection.pragma("journal_mode") != mode:
                raise DatabaseBusy(f"an app is changing how {self.path} is written")
            self.check(connection)
            if self.keeper is not None:
                self.keeper.look(connection, self.keeper.expected())
            yield connection
            if self.keeper is not None:
                self.keeper.committing(connection)
            # Once more: from here on it takes as long as the disk takes.
            self.check(connection)
            if mode != "wal":
                first()  # the commit itself waits for the disk
            connection.execute("COMMIT")
            if mode == "wal":
                first()
                self.make_durable()
            if self.keeper is not None:
                self.keeper.committed()
        finally:
            self.roll_back(connection)
            now_s = time.monotonic()
            self.turn_s = now_s + min(TURN_S_MAX, TURN * (now_s - since_s))

    def snapshot_to(self, target: Path) -> None:
        """See `DatabaseAccess`."""
        with self.connected() as connection:
            size = connection.pragma("page_count") * connection.pragma("page_size")
            self.check(connection)
            disk = os.statvfs(target.parent)
            if not has_room(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, size):
                raise OSError(errno.ENOSPC, "There is no room for a copy of the database", str(target))
            # SQLite takes an empty file for none; made here, nobody else can read it.
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE))
            try:
                connection.execute("VACUUM INTO ?", (str(target),))
                sync(target)
                sync(target.parent)
            except BaseException:
                target.unlink()
                raise

    def schema_version(self) -> int:
        """Return the number that changes with every change of the schema."""
        with self.reading() as connection:
            return int(connection.pragma("schema_version"))

    def make_durable(self) -> None:
        """See `DatabaseAccess`.

        In WAL an app with `synchronous=NORMAL` leaves commits to the disk's leisure. In the other modes it
        waits for the disk, unless it says OFF: then it takes the risk of a damaged file, and so do we.
        """
        with suppress(FileNotFoundError):
            sync(self.path.with_name(self.path.name + "-wal"))

    @contextmanager
    def connected(self) -> Iterator[apsw.Connection]:
        """Open the database, and close it in the end whatever happens."""
        with self.translated:
            if self.look() is None:
                raise ShareHeld(missing(self.path))
            try:
                connection = connect(self.path, min(self.tries, TRIES_LOCKED) if self.locked else self.tries)
                try:
                    if self.prepare is not None:
                        self.prepare(connection)
                    yield connection
                finally:
                    connection.close()
            except apsw.BusyError:
                self.locked = True
                raise

    def check(self, connection: apsw.Connection) -> None:
        """Raise ShareHeld if what is at the path is not what was expected, or not what the connection has open."""
        found = self.look()
        if found is None:
            raise ShareHeld(missing(self.path))
        if (self.identity is not None and found != self.identity) or has_moved(connection):
            raise ShareHeld(f"{self.path} is another file than before (moved over it, or made anew)")

    def roll_back(self, connection: apsw.Connection) -> None:
        """End a transaction that is still open."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def nothing() -> None:
    """Do nothing."""


def sync(path: Path) -> None:
    """Wait until a file (never a database that SQLite may have open here) or folder is on the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def check_new_database(path: Path) -> Path:
    """Return the real path of a database that is to be shared.

    Raises:
        FolderMissing: It does not exist.
        NotAFolder: It is no regular file.
        NotADatabase: It is empty, no SQLite database, or encrypted.
        DatabaseLinked: It has several names.
        NameTaken: Something in it has a name of ours.
        DatabaseUnavailable: It is locked, damaged, or not writable.
    """
    try:
        real = path.resolve(strict=True)
        status = os.lstat(real)
    except (OSError, RuntimeError) as error:
        raise FolderMissing(f"{path} does not exist") from error
    if not stat.S_ISREG(status.st_mode):
        raise NotAFolder(f"{real} is no file")
    if not status.st_size:
        raise DatabaseEmpty(f"{real} is empty")
    if status.st_nlink > 1:
        # SQLite names the journal after the name that a program opened: two names, two journals, a damaged file.
        raise DatabaseLinked(f"{real} has {status.st_nlink} names (hard links)")
    for needed, rights in ((real, os.R_OK | os.W_OK), (real.parent, os.R_OK | os.W_OK | os.X_OK)):
        if not os.access(needed, rights, effective_ids=True):
            raise DatabaseNotWritable(str(needed))
    with DatabaseFile(real).reading() as connection:
        if connection.readonly("main"):
            raise DatabaseNotWritable(str(real))
        check_names(connection)
    return real
