"""The file of an offered database: made where there is none, looked into where there is one, put aside, emptied.

Who joins a share with a file that has rows of its own decides: unite both, or put the file aside and take what the
others have. For the latter a copy is put aside and the file itself stays, as apps may have it open: its rows go.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import apsw

from p2psyncd.errors import DatabaseFault, FolderMissing, NotAFolder
from p2psyncd.sources.database.file import DatabaseFile
from p2psyncd.sources.database.names import quoted
from p2psyncd.sources.database.schema import read_schema

__all__ = ["clear", "has_rows", "make_database", "put_aside"]

FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
COPIES_MAX = 100


def make_database(path: Path) -> bool:
    """Make an empty database where there is none, or an empty file; return whether there was none.

    Raises:
        FolderMissing: Its folder is missing, or it cannot be made there.
        NotAFolder: A folder is there.
    """
    if path.is_dir():
        raise NotAFolder(f"{path} is a folder, and the share is a database: give the path of a file")
    made = not path.exists()
    if not made and (not path.is_file() or path.stat().st_size):
        return False
    try:
        connection = apsw.Connection(f"{path.absolute().as_uri()}?mode=rwc", flags=FLAGS)
    except apsw.CantOpenError as error:
        raise FolderMissing(f"{path} cannot be made ({error})") from error
    try:
        # SQLite writes nothing before there is something to write.
        connection.execute("BEGIN; CREATE TABLE made (one); DROP TABLE made; COMMIT")
    finally:
        connection.close()
    return made


def has_rows(path: Path, without: Collection[str] = ()) -> bool:
    """Return whether any table that would be synced holds a row; a file that is missing or empty has none.

    Raises:
        DatabaseUnavailable: It is locked, damaged, encrypted, or no database.
    """
    if not path.is_file() or not path.stat().st_size:
        return False
    with DatabaseFile(path.resolve()).reading() as connection:
        schema = read_schema(connection, without=without)
        return any(
            connection.execute(f"SELECT 1 FROM main.{quoted(name)} LIMIT 1").fetchone() is not None  # noqa: S608  (quoted)
            for name in schema.tables
        )


def put_aside(path: Path, stamp: str) -> Path:
    """Copy a database, as it is at one moment, beside itself; return the copy's path.

    Args:
        path: The database.
        stamp: The copy's name ends so; a number is added where that is taken.

    Raises:
        OSError: There is no room.
        DatabaseUnavailable: It is locked or damaged.
    """
    real = path.resolve()
    names = [f"{real.name}.{stamp}", *(f"{real.name}.{stamp}.{number}" for number in range(2, COPIES_MAX))]
    target = next(real.with_name(name) for name in names if not os.path.lexists(real.with_name(name)))
    DatabaseFile(real).snapshot_to(target)
    return target


def clear(path: Path, without: Collection[str] = ()) -> None:
    """Delete every row that would be synced; tables, and what is left out or refused, stay.

    The app's triggers run, as they keep its search indexes; what they write in turn goes, too. Where they forbid it,
    or need functions that only the app has, they do not run.

    Raises:
        DatabaseUnavailable: It is locked or damaged.
    """
    file = DatabaseFile(path.resolve())
    with suppress(DatabaseFault):
        empty(file, without, quiet=False)
    empty(file, without, quiet=True)


def empty(file: DatabaseFile, without: Collection[str], *, quiet: bool) -> None:
    """Delete every row that would be synced, in one transaction."""
    with file.writing(quiet=quiet) as connection:
        for name in read_schema(connection, without=without).tables:
            connection.execute(f"DELETE FROM main.{quoted(name)}")  # noqa: S608  (quoted)
