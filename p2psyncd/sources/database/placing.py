"""The file of an offered database: made where there is none, looked into where there is one, put aside, emptied.

Who joins a share with a file that has rows of its own decides: unite both, or put the file aside and take what the
others have. For the latter the file itself stays (apps may have it open); its tables go, in one transaction.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import apsw

from p2psyncd.errors import FolderMissing
from p2psyncd.sources.database.file import DatabaseFile
from p2psyncd.sources.database.names import quoted
from p2psyncd.sources.database.schema import Schema, read_schema

__all__ = ["clear", "has_rows", "make_database", "put_aside"]

FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
COPIES_MAX = 100
TYPES = ("trigger", "view", "table")
"""In this order nothing is dropped that something else still needs; indexes go with their tables."""


def make_database(path: Path) -> bool:
    """Make an empty database where there is none, or an empty file; return whether there was none.

    Raises:
        FolderMissing: Its folder is missing, or it cannot be made there.
    """
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
    if not path.exists() or not path.stat().st_size:
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
    """Drop all that would be synced: tables, views and triggers; what is left out or refused stays.

    Raises:
        DatabaseUnavailable: It is locked or damaged; nothing was changed.
    """
    with DatabaseFile(path.resolve()).writing(quiet=True) as connection:
        schema = read_schema(connection, without=without)
        for kind in TYPES:
            for name in named(schema, kind):
                connection.execute(f"DROP {kind} main.{quoted(name)}")


def named(schema: Schema, kind: str) -> list[str]:
    """Return the names of what is to be dropped of one type."""
    stays = {*schema.left_out, *schema.refused}
    return [each.name for each in schema.objects if each.type == kind and not {each.name, each.table} & stays]
