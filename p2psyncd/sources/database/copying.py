"""A copy of a shared database for a device that has nothing yet: far quicker than each row by itself.

What was there before the share was is the same on every device that has it: such a row is its own proof. So the copy
holds exactly those rows, as they were recorded, and nothing that anybody wrote since: that comes with the ordinary log,
and nothing counts twice. What the copy lacks of the others, for whatever reason, is found missing by the Merkle
summaries, and comes too.

The file is copied first and the store is read second. A row that anybody wrote is named by a hint in the copy, or by
the store, which knows it by then; one that is in the copy and in neither is what the store says it is.
"""

# ruff: noqa: S608 - names are quoted, values are bound.
from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import apsw

from p2psyncd.core.guard import has_room
from p2psyncd.core.ids import BASELINE_ACTOR, ActorId
from p2psyncd.core.item import Item
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.storage import Stored
from p2psyncd.sources.database.file import DatabaseAccess
from p2psyncd.sources.database.hints import installed, read_hints, uninstall
from p2psyncd.sources.database.keyless import drop_keyless
from p2psyncd.sources.database.keys import pack_key, unpack_key
from p2psyncd.sources.database.notes import Notes
from p2psyncd.sources.database.opening import connect
from p2psyncd.sources.database.row import state_of
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import WITHOUT, Schema, Table, quoted, read_schema, schema_version
from p2psyncd.sources.database.schemalook import object_cells, object_key
from p2psyncd.sources.database.search import SearchIndexes
from p2psyncd.sources.database.show import (
    Catalogue,
    Place,
    Places,
    as_value,
    natural,
    place_of,
    reference_roots,
)
from p2psyncd.sources.database.values import row_hash

__all__ = ["Listing", "NoCopy", "write_copy"]

T = TypeVar("T")
FILE_MODE = 0o600
# Fewer rows come as quickly by themselves.
ROWS_MIN = 5_000
# Unless it is in WAL mode an app cannot write while its file is read: a second or two.
LOCKED_BYTES_MAX = 1024**3
# A copy with so much that is not used (one part in so many) is written anew: it is to travel.
UNUSED_PART = 4
PAGE_ROWS = 500
TRIES = 1


class NoCopy(Exception):
    """There is no copy to be had, or not now; the text says why."""


class Listing(Catalogue, Protocol):
    """What is asked of the share's store."""

    def snapshot(self) -> AbstractContextManager[None]: ...  # noqa: D102  (see `store.reading`)

    def log_above(self, knowledge: Knowledge, *, up_to: int) -> Iterator[Item]: ...  # noqa: D102

    def count_written_by(self, actor: ActorId) -> int: ...  # noqa: D102


def write_copy(access: DatabaseAccess, store: Listing, target: Path, *, without: Collection[str]) -> None:
    """Write a copy for a device that has nothing yet to a new file, which nobody else can read.

    Args:
        access: The app's file.
        store: What is committed in the share's store.
        target: Where the copy is to be; it does not exist.
        without: Tables that are left out.

    Raises:
        NoCopy: There is none to be had.
        OSError: There is no room.
        DatabaseUnavailable, ShareHeld: The app's file cannot be read.
    """
    if store.count_written_by(BASELINE_ACTOR) < ROWS_MIN:
        raise NoCopy("too few rows are as they were before the share was")
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE))
    try:
        read_pages(access, store, target)
        with closing(connect(target, TRIES)) as copy:
            reduce(copy, store, without)
    except apsw.Error as error:
        target.unlink()
        raise NoCopy(f"it cannot be copied: {error}") from error
    except BaseException:
        target.unlink()
        raise


def read_pages(access: DatabaseAccess, store: Catalogue, target: Path) -> None:
    """Copy the file as it is at one moment, page by page."""
    with access.reading() as connection:
        size = connection.pragma("page_count") * connection.pragma("page_size")
        disk = os.statvfs(target.parent)
        if not has_room(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, size):
            raise OSError(errno.ENOSPC, "There is no room for a copy of the database", str(target))
        if size > LOCKED_BYTES_MAX and connection.pragma("journal_mode") != "wal":
            raise NoCopy("its app could not write to it for too long: it is not in WAL mode")
        notes = Notes.load(store)
        if not notes.baselined or notes.version != schema_version(connection):
            raise NoCopy("it is still being compared")
        with closing(apsw.Connection(str(target))) as copy:
            # Nobody needs it after a power cut.
            copy.execute("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF").fetchall()
            with copy.backup("main", connection, "main") as backup:
                backup.step(-1)
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()


def reduce(copy: apsw.Connection, store: Listing, without: Collection[str]) -> None:
    """Take out of a copy what is not to travel with it."""
    copy.execute("PRAGMA synchronous = OFF").fetchall()
    copy.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    schema = read_schema(copy, without=without)
    if not installed(copy, schema):
        raise NoCopy("its schema has changed this moment")
    private = [name for name, reason in schema.left_out.items() if reason == WITHOUT] + [*schema.refused]
    with store.snapshot():
        places = Places.load(store)
        if places.unsettled:
            raise NoCopy("its app is writing just what would be copied")
        search = SearchIndexes(schema)
        with copy, search.kept(copy):
            if search.unkept:
                raise NoCopy("a search index in it can only be kept by its app")
            rows = Rows(copy)
            delete(rows, schema, written(store, schema, places))
            delete(rows, schema, ((hint.table, hint.pk) for hint in read_hints(copy, schema)))
            stand_ins(copy, schema, places)
            drop_keyless(copy, schema)
            for table in odd_tables(store, schema):
                delete(rows, schema, otherwise(store, table))
    for name in private:
        copy.execute(f"DELETE FROM main.{quoted(name)}")
    uninstall(copy)
    # What was deleted is not given away with the pages that it was on.
    if private or copy.pragma("freelist_count") * UNUSED_PART > copy.pragma("page_count"):
        copy.execute("VACUUM")


def delete(rows: Rows, schema: Schema, found: Iterable[tuple[str, Place]]) -> None:
    """Delete rows, named by table and key values."""
    for part in pages(found):
        by_table: dict[str, list[Place]] = {}
        for name, place in part:
            by_table.setdefault(name, []).append(place)
        for name, places in by_table.items():
            rows.delete(schema.tables[name], places)


def written(store: Listing, schema: Schema, places: Places) -> Iterator[tuple[str, Place]]:
    """Yield where the rows are, or were, that anybody wrote since the share was."""
    for item in store.log_above({BASELINE_ACTOR: 0}, up_to=2**62):
        at = unpack_key(item.key)
        table = schema.tables.get(at.table)
        if table is None or len(at.pk) not in {0, len(table.pk)}:
            continue
        place = places.moved.get(item.key) or natural(at)
        if not place:  # its key is too long to be in the item's
            place = place_of(places, table, item.key, state_of(item).cells) or ()
        if place:
            yield at.table, place


def stand_ins(copy: apsw.Connection, schema: Schema, places: Places) -> None:
    """Delete what refers to a row that stands for another one here: its own values say something else."""
    roots = reference_roots(schema)
    for winner in places.stand_ins:
        at = unpack_key(winner)
        place = places.moved.get(winner) or natural(at)
        for (child, column), parent in roots.items():
            if parent == at.table:
                copy.execute(f"DELETE FROM main.{quoted(child)} WHERE {quoted(column)} IS ?", (place[0],))


def odd_tables(store: Catalogue, schema: Schema) -> list[Table]:
    """Return the tables that were not always, and for everybody, as they are: their rows may lack columns."""
    tables = {object_key(each): each for each in schema.objects if each.name in schema.tables}
    known = store.get_many(list(tables))
    odd = []
    for key, each in tables.items():
        stored = known.get(key)
        if each.type == "table" and not (
            stored is not None
            and stored.item.dot.actor == BASELINE_ACTOR
            and stored.state == row_hash(object_cells(each))
        ):
            odd.append(schema.tables[each.name])
    return odd


def otherwise(store: Catalogue, table: Table) -> Iterator[tuple[str, Place]]:
    """Yield the rows of a table that are shown otherwise than they were recorded."""
    prefix = pack_key(table.name, (0,)).partition(b"/")[0]
    for part in pages(store.below(prefix)):
        for stored in store.get_many([listed.key for listed in part]).values():
            if stored.item.dot.actor == BASELINE_ACTOR and not is_plain(stored):
                cells = state_of(stored.item).cells
                yield table.name, tuple(as_value(cells[column]) for column in table.pk if column in cells)


def is_plain(stored: Stored) -> bool:
    """Return whether a row is shown as it was recorded."""
    cells = state_of(stored.item).cells
    return stored.state == row_hash({name: as_value(cell) for name, cell in cells.items()})


def pages(found: Iterable[T]) -> Iterator[list[T]]:
    """Yield what there is, some at a time."""
    rest = iter(found)
    while page := list(islice(rest, PAGE_ROWS)):
        yield page
