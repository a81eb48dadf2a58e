"""Finding wanted content on this device, so that it need not travel.

In this order: staged already; what is in place already (only its metadata changed); a file that a
pending version deletes, which is then moved; a file that was put away into history lately; a copy
of another file of the share.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.errors import PathUnsafe
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.catalogue import Catalogue
from p2psyncd.sources.folder.content import OPEN_FLAGS
from p2psyncd.sources.folder.fingerprint import is_skipped, is_trusted, matches
from p2psyncd.sources.folder.history import History
from p2psyncd.sources.folder.ignore import Ignore
from p2psyncd.sources.folder.layout import check_key
from p2psyncd.sources.folder.staging import Staging

__all__ = ["LocalContent", "content_is_in_place"]


def content_is_in_place(pending: Pending) -> bool:
    """Return whether only metadata differs from what is applied."""
    base = pending.base
    return (
        base is not None
        and base.item.kind is pending.item.kind
        and base.item.digest == pending.item.digest
        and bool(base.state)
        and not is_skipped(base.state)
    )


@dataclass(slots=True, kw_only=True)
class LocalContent:
    """What this device has already."""

    root: Path
    catalogue: Catalogue
    staging: Staging
    history: History
    ignore: Ignore
    moves: dict[bytes, Stored] = field(default_factory=dict)
    """For a pending key: the file that becomes it."""
    claimed: set[bytes] = field(default_factory=set)
    """Keys of the files in `moves`."""

    def stage(self, wanted: Sequence[Pending]) -> set[bytes]:
        """Return the keys that need no fetching; see `Source.stage_local`."""
        ready = set()
        movable: dict[bytes, list[Stored]] = {}
        for pending in wanted:
            self.moves.pop(pending.item.key, None)
        self.claimed = {stored.item.key for stored in self.moves.values()}
        # One question for all: at a first sync nothing is here, and asking item by item costs most.
        here = self.catalogue.digests_here([p.item.digest for p in wanted if p.item.kind is Kind.FILE])
        with Directories(self.root) as directories:
            for pending in wanted:
                item = pending.item
                digest = item.digest
                if (
                    item.kind is not Kind.FILE
                    or self.staging.has(digest)
                    or self.is_refused(item.key)
                    or content_is_in_place(pending)
                    or digest in self.history.departed
                    or (
                        digest in here
                        and (self.plan_move(pending, movable) or self.copy(directories, digest))
                    )
                ):
                    ready.add(item.key)
        return ready

    def is_refused(self, key: bytes) -> bool:
        """Return whether a key will not be written: fetching for it would be in vain."""
        try:
            check_key(key)
        except PathUnsafe:
            return True
        return self.ignore.ignored(key)

    def plan_move(self, pending: Pending, movable: dict[bytes, list[Stored]]) -> bool:
        """Find a file that is about to be deleted, or to make room for a directory, for this content."""
        key, digest = pending.item.key, pending.item.digest
        sources = movable.get(digest)
        if sources is None:
            sources = movable[digest] = self.movable_sources(digest)
        if not sources:
            return False
        source = sources.pop()
        self.moves[key] = source
        self.claimed.add(source.item.key)
        return True

    def movable_sources(self, digest: bytes) -> list[Stored]:
        """Return applied files with this content whose pending versions hold no file."""
        found = [
            stored
            for stored in self.catalogue.base_of_pending_digest(digest)
            if is_trusted(stored.state) and stored.item.key not in self.claimed
        ]
        if not found:
            return []
        waiting = self.catalogue.pending_of([stored.item.key for stored in found])
        return [
            stored
            for stored in found
            if stored.item.key in waiting and waiting[stored.item.key].item.kind is not Kind.FILE
        ]

    def copy(self, directories: Directories, digest: bytes) -> bool:
        """Stage a copy of another file with this content; False if there is none that still has it."""
        for stored in [*self.catalogue.with_digest(digest), *self.catalogue.base_of_pending_digest(digest)]:
            try:
                directory, name = directories.parent(stored.item.key)
                source = os.open(name, OPEN_FLAGS, dir_fd=directory)
            except OSError:
                continue
            try:
                if not matches(stored.state, os.fstat(source)):
                    continue
                copied = self.staging.copy_in(digest, source)
            except OSError:
                continue  # the disk is full, say: fetching will meet the same, and report it
            finally:
                os.close(source)
            if copied is not None:
                self.staging.adopt(copied, digest)
                return True
        return False
