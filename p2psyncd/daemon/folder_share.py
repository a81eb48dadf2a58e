"""Sharing folders: which can be shared, their marker, and the folder source."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from p2psyncd.core.clock import Clock
from p2psyncd.core.guard import has_room
from p2psyncd.core.item import Item
from p2psyncd.core.storage import ShareStorage
from p2psyncd.core.trie import directory_of
from p2psyncd.daemon.folder_desk import FolderDesk
from p2psyncd.daemon.kinds import COUNTERS, PROPAGATE, WITHOUT, Choice, Opened
from p2psyncd.daemon.share import FILESYSTEM
from p2psyncd.daemon.transfer import Held
from p2psyncd.errors import BadRequest, FolderMissing, ShareHeld
from p2psyncd.sources.folder.conflicts import is_conflict_copy
from p2psyncd.sources.folder.folder import FolderSource
from p2psyncd.sources.folder.guard import check_new_root, create_marker, remove_marker
from p2psyncd.sources.folder.history import HistoryLimits
from p2psyncd.sources.folder.layout import META
from p2psyncd.sources.folder.structure import acceptable, chunks_of, directory_draft
from p2psyncd.sources.local import LocalSource
from p2psyncd.store.device import ShareRecord
from p2psyncd.store.reading import ShareReader

__all__ = ["FolderKind"]

log = logging.getLogger(__name__)


class FolderKind:
    """See `SourceKind`."""

    def __init__(self, clock: Clock, limits: HistoryLimits) -> None:
        self.clock = clock
        self.limits = limits

    def is_conflict(self, item: Item) -> bool:
        """Return whether an item is a conflict copy."""
        return is_conflict_copy(item)

    def directory(self, key: bytes) -> bytes:
        """Return the directory that a file lies in."""
        return directory_of(key)

    def check_new(self, path: Path) -> Path:
        """Return the real path of a folder that can be shared."""
        return check_new_root(path)

    def check_settings(self, path: Path, settings: Mapping[str, object]) -> None:
        """Raise BadRequest where something is said that only a database can be told."""
        if settings.keys() & {WITHOUT, COUNTERS, PROPAGATE}:
            raise BadRequest(
                f"{path} is a folder: --without, --counter and --propagate-schema are for databases"
            )

    def overlaps(self, root: Path, other: ShareRecord) -> bool:
        """Return whether one lies in the other.

        Also a shared database in a folder: its rows would travel twice, and reading it as a file drops the locks that
        this process has on it as a database (POSIX locks go with any descriptor of the file that is closed).
        """
        there = Path(other.path)
        return root == there or there in root.parents or root in there.parents

    def check_choice(self, path: Path, choice: Choice | None, settings: Mapping[str, object]) -> None:
        """See that nobody wants a folder's files put aside: what differs is kept as conflict copies."""
        self.check_settings(path, settings)
        if choice == "adopt":
            raise BadRequest("--adopt is for databases; of a folder's files both versions are kept")

    def make(self, path: Path, choice: Choice | None, settings: Mapping[str, object]) -> bool:
        """Make a folder if it is missing; return whether it was.

        Raises:
            FolderMissing: Its parent is missing too, or it cannot be made there.
        """
        if path.exists():
            return False
        try:
            path.mkdir()
        except OSError as error:
            raise FolderMissing(f"{path} cannot be made: {error.strerror}") from error
        return True

    def unmake(self, path: Path) -> None:
        """Take away a folder that was made for nothing; one that holds something by now stays."""
        shutil.rmtree(path / os.fsdecode(META), ignore_errors=True)
        with suppress(OSError):
            path.rmdir()

    def mark(self, record: ShareRecord) -> None:
        """Make the marker."""
        create_marker(Path(record.path), record.id)

    def open(self, record: ShareRecord, store: ShareStorage, catalogue: ShareReader) -> Opened:
        """Open the folder source."""
        noted = store.setting(FILESYSTEM)
        source = FolderSource(
            Path(record.path),
            record.id,
            catalogue,
            self.clock,
            limits=self.limits,
            filesystem=int(noted) if noted else None,
        )

        def held(sent: Callable[[int], None]) -> Held:
            return Held(
                with_digest=catalogue.with_digest,
                chunk_list=catalogue.chunk_list,
                source=source,
                chunker=chunks_of,
                sent=sent,
                has_room=lambda size: has_room(*source.free_bytes(), size),
            )

        return Opened(
            source=source,
            desk=lambda share: FolderDesk(share, source),
            directory=directory_draft,
            acceptable=lambda item: acceptable(item.key),
            held=held,
        )

    def unmark(self, record: ShareRecord, source: LocalSource | None) -> None:
        """Take the marker away; a folder that is gone or held needs nothing."""
        try:
            if source is not None:
                source.check()
            remove_marker(Path(record.path))
        except (OSError, ShareHeld) as error:
            log.info("marker_left share=%s error=%s", record.name, error)
