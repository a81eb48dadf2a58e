"""What rows are like as items, whatever file they are in: they are merged, bring their values along, and have no copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.sources.database.row import (
    draft,
    join,
    knows_baseline,
    removed,
    stamped_again,
)
from p2psyncd.sources.source import ContentReader, ContentWriter, Merged

__all__ = ["RowRules"]


class RowRules:
    """The part of `sources.source.Source` that needs neither the file nor the store."""

    whole = True

    def merge(self, ours: Item, theirs: Item) -> Merged:
        """Merge two rows, column by column."""
        return join(ours, theirs)

    def buried(self, item: Item) -> Draft:
        """Return the tombstone of a row, which says how often it came and went."""
        try:
            return draft(item.key, removed(item))
        except ValueError:  # it cannot be read, so nobody shows it
            return Draft(key=item.key, kind=Kind.TOMBSTONE)

    def knows_baseline(self, item: Item, baseline: Item) -> bool:
        """Return whether a row was written in knowledge of one that was there at a first sight."""
        return knows_baseline(item, baseline)

    def deletion(self, item: Item) -> Draft:
        """Return a plain delete: a row's own says what it deleted."""
        return Draft(key=item.key, kind=Kind.TOMBSTONE)

    def made_by(self, item: Item) -> Dot:
        """Return the write of an item: there are no copies of others."""
        return item.dot

    def stamped_again(self, item: Item, dot: Dot, since: int) -> Item:
        """Return a version of our own as another write, with all that it set."""
        return stamped_again(item, dot, since)

    def is_conflict(self, key: bytes) -> bool:
        """Return False: what lost a conflict is in the row itself."""
        return False

    def copies_begin(self, key: bytes) -> bytes:
        """Return nothing: there are no copies."""
        return b""

    def is_copy_of(self, copy: bytes, key: bytes) -> bool:
        """Return False: there are no copies."""
        return False

    def aside(self, item: Item) -> NoReturn:
        """Never called: rows are merged."""
        raise AssertionError(item.key)

    def lost_write(self, copy: Item) -> NoReturn:
        """Never called: there are no copies."""
        raise AssertionError(copy.key)

    def preserve(self, stored: Stored, key: bytes) -> NoReturn:
        """Never called: rows are merged."""
        raise AssertionError(stored.item.key, key)

    def stage_local(self, wanted: Sequence[Pending]) -> set[bytes]:
        """Return all: a row brings its values along."""
        return {pending.item.key for pending in wanted}

    def writer(self, digest: bytes, size: int) -> ContentWriter:
        """Never called: rows have no content apart."""
        raise AssertionError(digest, size)

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Never called: rows have no content apart."""
        raise AssertionError(digest, len(data))

    def reader(self, stored: Stored) -> ContentReader | None:
        """Return None: rows have no content apart."""
        return None

    def tidy(self) -> int:
        """Return 0: nothing is staged."""
        return 0

    def prune(self, share_bytes: int) -> int:
        """Return 0: what rows held before is in the items."""
        return 0
