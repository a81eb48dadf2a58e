"""Sharing databases: which can be shared, what becomes of a file that is there already, and the database source."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import DeviceId
from p2psyncd.core.item import Item
from p2psyncd.core.storage import ShareStorage
from p2psyncd.daemon.copies import Copies, copies_of
from p2psyncd.daemon.database_desk import DatabaseDesk
from p2psyncd.daemon.kinds import COUNTERS, LOOKS_ONLY, PROPAGATE, WITHOUT, Choice, Opened
from p2psyncd.daemon.membership import members
from p2psyncd.daemon.report import time_text
from p2psyncd.daemon.transfer import Held
from p2psyncd.errors import BadRequest, DatabaseFault, DatabaseUnavailable, ShareHeld, Undecided
from p2psyncd.sources.database.database import DatabaseSource
from p2psyncd.sources.database.file import DatabaseFile, check_new_database
from p2psyncd.sources.database.hints import uninstall
from p2psyncd.sources.database.keys import SCHEMA_TABLE, bucket_of, is_acceptable
from p2psyncd.sources.database.placing import clear, has_rows, make_database, put_aside
from p2psyncd.sources.database.row import has_losers, is_sound
from p2psyncd.sources.database.schema import read_schema
from p2psyncd.sources.local import LocalSource
from p2psyncd.sources.source import ContentReader
from p2psyncd.store.device import ShareRecord
from p2psyncd.store.reading import ShareReader

__all__ = ["DatabaseKind"]

log = logging.getLogger(__name__)

MICROSECONDS = 1_000_000

SCHEMA_KEYS = SCHEMA_TABLE.encode() + b"/"


class DatabaseKind:
    """See `SourceKind`."""

    def __init__(self, clock: Clock, device: DeviceId, folder: Path | None = None) -> None:
        """Begin.

        Args:
            clock: The wall clock.
            device: This device.
            folder: Where shares keep their state, and copies of databases lie; None: there are none.
        """
        self.clock = clock
        self.device = device
        self.folder = folder

    def is_conflict(self, item: Item) -> bool:
        """Return whether a row keeps what lost a conflict; that schemas differ is none: apps migrate their own."""
        return has_losers(item.meta) and not item.key.startswith(SCHEMA_KEYS)

    def directory(self, key: bytes) -> bytes:
        """Return the part of its table that a row belongs to."""
        return bucket_of(key)

    def check_new(self, path: Path) -> Path:
        """Return the real path of a database that can be shared."""
        return check_new_database(path)

    def check_settings(self, path: Path, settings: Mapping[str, object]) -> None:
        """Raise BadRequest where a table that is to be left out, or a column that is to be a counter, is not there."""
        with DatabaseFile(path).reading() as connection:
            schema = read_schema(connection)
        tables = [*schema.tables, *schema.refused, *schema.left_out]
        columns = {
            f"{table.name}.{column.name}" for table in schema.tables.values() for column in table.columns
        }
        any_case = {table.lower() for table in tables}
        for name in without_of(settings):
            if name.lower() not in any_case:
                raise BadRequest(f"{path} has no table {name}{meant(name, tables)}")
        for table, names in counters_of(settings).items():
            for name in (f"{table}.{column}" for column in names):
                if name not in columns:
                    raise BadRequest(f"{path} has no column {name} that is synced{meant(name, columns)}")

    def overlaps(self, root: Path, other: ShareRecord) -> bool:
        """Return whether both are one file, or it lies in a shared folder; see `FolderKind.overlaps`."""
        if other.kind != "database":
            return Path(other.path) in root.parents
        try:
            return root == Path(other.path) or root.samefile(other.path)
        except OSError:
            return False

    def check_choice(self, path: Path, choice: Choice | None, settings: Mapping[str, object]) -> None:
        """Raise Undecided where rows are in the file and nobody said what is to become of them."""
        if choice is None and has_rows(path, without_of(settings)):
            raise Undecided(f"{path} holds rows of its own")

    def make(self, path: Path, choice: Choice | None, settings: Mapping[str, object]) -> bool:
        """Make an empty database where there is none, and return whether there was none; put one aside that is not wanted."""
        without = without_of(settings)
        made = make_database(path)
        if choice == "adopt" and has_rows(path, without):
            stamp = time_text(self.clock.now_us())[: len("2026-11-24T04:00")].replace(":", "-")
            kept = put_aside(path, f"before-adopt-{stamp}")
            log.info("database_put_aside path=%s kept=%s", path, kept)
            clear(path, without)
        return made

    def unmake(self, path: Path) -> None:
        """Take away a database that was made for nothing; one that holds something by now stays."""
        with suppress(OSError, DatabaseUnavailable, DatabaseFault, ShareHeld):
            if not has_rows(path):
                for name in (
                    path,
                    *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")),
                ):
                    name.unlink(missing_ok=True)

    def mark(self, record: ShareRecord) -> None:
        """Leave nothing: the source puts its mark into the file with the first look."""

    def open(self, record: ShareRecord, store: ShareStorage, catalogue: ShareReader) -> Opened:
        """Open the database source."""
        settings = record.settings
        path = Path(record.path)
        source = DatabaseSource.open(
            path,
            record.id,
            store,
            catalogue,
            self.clock,
            device=self.device,
            without=without_of(settings),
            counters=counters_of(settings),
            propagate_schema=bool(settings.get(PROPAGATE)),
            looks_only=bool(settings.get(LOOKS_ONLY)),
            copy=self.arriving(record),
        )
        copies = self.copies(record, source, catalogue)

        def held(sent: Callable[[int], None]) -> Held:
            return Held(
                with_digest=copies.with_digest if copies is not None else lambda _: [],
                chunk_list=lambda _: None,
                source=copies if copies is not None else source,
                chunker=no_chunks,
                sent=sent,
                has_room=lambda size: size <= free_bytes(path),
            )

        return Opened(
            source=source,
            desk=lambda share: DatabaseDesk(share, source, catalogue),
            directory=None,
            acceptable=lambda item: is_acceptable(item.key) and is_sound(item),
            held=held,
            copies=copies,
        )

    def arriving(self, record: ShareRecord) -> Path | None:
        """Return where the copy lies that a share begins with, or will lie; None if it is to begin with none."""
        if self.folder is None or not members(record) or record.mode == "send-only":
            return None
        return copies_of(self.folder, record.id) / "first.db"

    def copies(self, record: ShareRecord, source: DatabaseSource, catalogue: ShareReader) -> Copies | None:
        """Return the copies of a share."""
        if self.folder is None or source.looks_only:
            return None
        copies = Copies(
            source, catalogue, copies_of(self.folder, record.id), lambda: self.clock.now_us() / MICROSECONDS
        )
        copies.tidy()
        return copies

    def unmark(self, record: ShareRecord, source: LocalSource | None) -> None:
        """Take triggers, side tables and the mark out of the file; see `SourceKind`."""
        if isinstance(source, DatabaseSource):
            if not source.looks_only:
                source.uninstall()
            return
        with (
            suppress(DatabaseUnavailable, DatabaseFault, OSError, ShareHeld),
            DatabaseFile(Path(record.path)).writing(quiet=True) as one,
        ):
            uninstall(one)


def meant(name: str, names: Collection[str]) -> str:
    """Return the name that somebody may have meant, in brackets."""
    close = get_close_matches(name, names, 1)
    return f" (perhaps {close[0]})" if close else ""


def without_of(settings: Mapping[str, object]) -> Collection[str]:
    """Return the tables that a person wants left out."""
    names = settings.get(WITHOUT, [])
    return [str(name) for name in names] if isinstance(names, list) else []


def counters_of(settings: Mapping[str, object]) -> Mapping[str, Collection[str]]:
    """Return the columns that a person wants added up, by table."""
    found: dict[str, list[str]] = {}
    names = settings.get(COUNTERS, [])
    for name in names if isinstance(names, list) else []:
        table, _, column = str(name).rpartition(".")
        found.setdefault(table, []).append(column)
    return found


def no_chunks(reader: ContentReader) -> bytes:
    """Say that there are none: copies are fetched whole."""
    raise OSError(f"{reader.size} bytes without chunks")


def free_bytes(path: Path) -> int:
    """Return what is free for this user on a file's disk."""
    status = os.statvfs(path.parent)
    return status.f_bavail * status.f_frsize
