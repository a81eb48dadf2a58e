"""A program of its own: copies an SQLite database, in use or not, as it is at one moment.

`python snapshot_program.py SOURCE TARGET` in the database's folder. It is a process of its own because
closing any descriptor of a file drops all POSIX locks that the process holds on it: beside threads that
read the same file plainly, SQLite's lock would vanish in the middle of the copy. Its connection only reads:
it neither rolls back, nor checkpoints, nor removes what belongs to the program that uses the database.
"""

from __future__ import annotations

import os
import sys

import apsw

__all__ = ["copy"]

BUSY_MS = 2000
PAGES_AT_ONCE = -1  # All of them under one read lock: several steps would begin again with every write.
BUSY_EXIT = 75
# Up to this size the copy goes through memory, and is the very file that the program leaves when it closes
# the database; the backup interface counts a change of its own, so that closing it would look like an edit.
WHOLE_BYTES_MAX = 1024 * 1024 * 1024
NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def copy(source: str, target: str) -> None:
    """Copy a database into a new file.

    Raises:
        apsw.Error: It is locked for long, damaged, or its journal waits for its own program.
    """
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW
    ours = apsw.Connection(source, flags=flags)
    try:
        ours.set_busy_timeout(BUSY_MS)
        if size_of(ours) <= WHOLE_BYTES_MAX:
            with os.fdopen(os.open(target, NEW_FLAGS, 0o600), "wb") as file:
                file.write(ours.serialize("main"))
            return
        copied = apsw.Connection(target)
        try:
            with copied.backup("main", ours, "main") as backup:
                while not backup.done:
                    backup.step(PAGES_AT_ONCE)
        finally:
            copied.close()
    finally:
        ours.close()


def size_of(connection: apsw.Connection) -> int:
    """Return a database's size in bytes."""
    return int(connection.pragma("page_count")) * int(connection.pragma("page_size"))


if __name__ == "__main__":
    try:
        copy(os.path.join(".", sys.argv[1]), sys.argv[2])  # noqa: PTH118  (a name that must stay as it is)
    except (apsw.BusyError, apsw.LockedError):
        sys.exit(BUSY_EXIT)
    except apsw.Error as error:
        sys.stderr.write(str(error))
        sys.exit(1)
