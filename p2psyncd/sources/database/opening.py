"""Connections to an app's database: how they are opened, how they wait for a lock, and errors in the project's words."""

from __future__ import annotations

import ctypes
import errno
import time
from pathlib import Path
from types import TracebackType

import apsw

from p2psyncd.errors import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFault,
    DatabaseNotWritable,
    NotADatabase,
    ShareHeld,
)

__all__ = ["Translation", "connect", "has_moved", "missing"]

# An app that writes without a pause leaves gaps of 0.1 ms between its transactions in a rollback journal: SQLite's own
# busy handler, which sleeps up to 100 ms, did not meet one in 5 s.
ASKED_EACH_S = 0.0005
# Never made by us, and no symlink in any part of the path: that was resolved when the share was added.
FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOFOLLOW
# What SQLite means by its extended codes; apsw has no classes for them.
CANTOPEN_SYMLINK, IOERR_DELETE = 1550, 2570


class Translation:
    """A context out of which SQLite's errors come as the project's: its callers know no others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Translate an error, if there was one."""
        code = getattr(error, "extendedresult", 0)
        match error:
            # The last two: a lock of the log could not be had, or the schema changed again and again.
            case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError() | apsw.SchemaChangeError():
                raise DatabaseBusy(f"an app keeps {self.path} locked") from error
            case apsw.NotADBError():
                raise NotADatabase(str(self.path)) from error
            case apsw.CorruptError():
                raise DatabaseDamaged(f"{self.path}: {error}") from error
            case apsw.CantOpenError() if code == CANTOPEN_SYMLINK:
                raise ShareHeld(f"{self.path} leads through a symlink now") from error
            case apsw.CantOpenError() if not self.path.exists():
                raise ShareHeld(missing(self.path)) from error
            case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError():
                raise DatabaseNotWritable(f"{self.path} ({error})") from error
            case apsw.IOError() if code == IOERR_DELETE:
                raise DatabaseNotWritable(f"{self.path} (its journal cannot be removed)") from error
            case apsw.FullError():
                raise OSError(errno.ENOSPC, "No space left for the database", str(self.path)) from error
            case apsw.IOError():
                raise OSError(
                    errno.EIO, f"The database cannot be read or written ({error})", str(self.path)
                ) from error
            case apsw.NoMemError():
                raise OSError(errno.ENOMEM, "There is no memory for the database", str(self.path)) from error
            case apsw.Error() | UnicodeDecodeError():
                raise DatabaseFault(f"{self.path}: {type(error).__name__}: {error}") from error
            case _:
                pass


class Patience:
    """A busy handler: asks for the lock again and again, but not for ever."""

    def __init__(self, tries: int) -> None:
        self.tries = tries

    def __call__(self, tried: int) -> bool:
        """Return whether to try again."""
        if tried >= self.tries:
            return False
        time.sleep(ASKED_EACH_S)  # noqa: TID251  (a worker thread waits)
        return True


def connect(path: Path, tries: int) -> apsw.Connection:
    """Return a connection to an existing file, with settings that are safe with a file of any origin."""
    connection = apsw.Connection(f"{path.as_uri()}?mode=rw", flags=FLAGS)
    connection.set_busy_handler(Patience(tries))
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
    for pragma in (
        "cell_size_check = ON",
        "recursive_triggers = OFF",
        "temp_store = MEMORY",
        "synchronous = EXTRA",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def has_moved(connection: apsw.Connection) -> bool:
    """Return whether the file that a connection has open is no longer at its path."""
    moved = ctypes.c_int(0)
    connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(moved))
    return bool(moved.value)


def missing(path: Path) -> str:
    """Return in words that there is no file."""
    return (
        f"{path} is missing: is its disk mounted? Once it is there, the share goes on by itself; if it was deleted, "
        "remove the share and add or accept it again"
    )
