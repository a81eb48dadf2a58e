"""A copy of a database that came from a peer, on its way into the file that is still empty here.

A copy is looked at before it is used: SQLite reads it from end to end, under the settings for files of any origin. Then it
gets our hint triggers, so that there is no moment in which an app could write to the file unseen, and is
written into the empty file in one transaction: whoever has that open sees all of it, or nothing yet.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import apsw

from p2psyncd.errors import NameTaken, RemoteProtocolError
from p2psyncd.sources.database.file import DatabaseFile
from p2psyncd.sources.database.hints import install, read_mark
from p2psyncd.sources.database.names import MARK_TABLE
from p2psyncd.sources.database.opening import Translation, connect
from p2psyncd.sources.database.schema import read_schema

__all__ = ["NotEmpty", "belongs_to", "install_copy", "is_empty", "prepare_copy"]

# A copy is read at 500 MB/s; one that is made to be read for ever is none.
CHECK_S, CHECK_BYTES_S = 60.0, 5 * 1024 * 1024
CHECK_STEPS = 1_000_000
TRIES = 2000


class NotEmpty(Exception):
    """Something is in the file by now: it is no place for a copy."""


def prepare_copy(copy: Path, *, share: bytes, device: bytes, without: Collection[str]) -> None:
    """Look at a copy that came, and make it this device's.

    Raises:
        RemoteProtocolError: It is no sound database, or not what a copy is to be.
        OSError: It cannot be written.
    """
    deadline_s = time.monotonic() + CHECK_S + copy.stat().st_size / CHECK_BYTES_S
    try:
        with closing(connect(copy, 1)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline_s, CHECK_STEPS)
            connection.execute("PRAGMA synchronous = OFF").fetchall()
            if connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]:
                raise RemoteProtocolError("A copy of a database came that is damaged")
            if connection.pragma("journal_mode") != "delete" or has_ours(connection):
                raise RemoteProtocolError("A copy of a database came that is none")
            install(connection, read_schema(connection, without=without), share=share, device=device)
    except apsw.FullError as error:
        raise OSError(str(error)) from error
    except (apsw.Error, UnicodeDecodeError, NameTaken) as error:
        raise RemoteProtocolError(f"A copy of a database came that is none ({error})") from error


def install_copy(copy: Path, target: Path) -> None:
    """Write a copy into an empty database, in one durable transaction.

    Raises:
        NotEmpty: Somebody has made something in it by now.
        DatabaseUnavailable: It is locked, or cannot be written.
        OSError: There is no room.
    """
    with Translation(target), closing(connect(target, TRIES)) as there, closing(connect(copy, 1)) as here:
        # From the look at it to the end of the copying nobody else is to get in between.
        there.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        there.execute("BEGIN EXCLUSIVE")
        if not is_bare(there):
            raise NotEmpty
        there.execute("COMMIT")
        if there.pragma("journal_mode") == "wal":
            size = there.pragma("page_size")
            if size != here.pragma("page_size"):
                here.execute(f"PRAGMA page_size = {size}; VACUUM").fetchall()
        with there.backup("main", here, "main") as backup:
            while not backup.done:
                backup.step(-1)


def is_bare(connection: apsw.Connection) -> bool:
    """Return whether nothing is in a database: not even what is left out, or empty tables."""
    found = connection.execute("SELECT 1 FROM main.sqlite_schema WHERE name NOT GLOB 'sqlite_*' LIMIT 1")
    return found.fetchone() is None


def has_ours(connection: apsw.Connection) -> bool:
    """Return whether a database has something of ours in it."""
    return connection.table_exists("main", MARK_TABLE)


def belongs_to(path: Path, *, share: bytes, device: bytes) -> bool:
    """Return whether the file at a path is this device's part of a share: then a copy was written into it."""
    with DatabaseFile(path).reading() as connection:
        mark = read_mark(connection)
    return mark is not None and (mark.share, mark.device) == (share, device)


def is_empty(path: Path) -> bool:
    """Return whether a database has nothing in it.

    Raises:
        DatabaseUnavailable, ShareHeld: It cannot be read.
    """
    with DatabaseFile(path).reading() as connection:
        return is_bare(connection)
