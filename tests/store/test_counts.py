"""Counting what a peer claims."""

from __future__ import annotations

from collections.abc import Callable

from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending
from p2psyncd.store.share import ShareStore


def test_what_is_left_after_impossible_sizes_is_not_less_than_nothing(store: ShareStore, share: type) -> None:
    """Peers would refuse a negative need: nothing could be synced with anybody any more."""
    item: Callable[..., Item] = share.item
    claimed = [
        item(b"huge", 1, size=2**63 - 1),
        item(b"huger", 2, size=2**63 - 1),
        item(b"small", 3, size=12),
    ]
    store.put_pending([Pending(item=one, base=None) for one in claimed])
    for number, one in enumerate(claimed):
        gone = item(one.key, 10 + number, kind=Kind.TOMBSTONE)
        store.put_pending([Pending(item=gone, base=None)])
        totals = store.totals()
        assert totals.size >= 0
        assert totals.pending_size >= 0
