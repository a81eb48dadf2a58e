"""Counting a share's items, all of them or some."""

from __future__ import annotations

from typing import NamedTuple

from p2psyncd.store.database import Row

__all__ = ["COUNTS", "Counts"]

# total() rather than sum(): sizes are a peer's claim, and sum() raises when they overflow.
COUNTS = (
    "SELECT count(*), total(kind <> 0), total(iif(kind = 1, size, 0)), total(pending),"
    " total(iif(kind = 1 AND pending, size, 0)), total(conflict) FROM items"
)


class Counts(NamedTuple):
    """What `COUNTS` finds in some rows of the items."""

    rows: int = 0
    items: int = 0
    size: int = 0
    pending_items: int = 0
    pending_size: int = 0
    conflicts: int = 0

    @classmethod
    def of(cls, row: Row) -> Counts:
        """Return the counts that a query found."""
        return cls(*map(int, row))

    def changed(self, *, plus: Counts, minus: Counts) -> Counts:
        """Return these counts after some rows came and some went.

        total() is exact below 2**53 only: what a peer claims may be more, and what is left must not be less than nothing.
        """
        return Counts(*(max(now + more - less, 0) for now, more, less in zip(self, plus, minus, strict=True)))
