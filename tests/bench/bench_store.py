"""Times the share's storage. Run it by hand: `python tests/bench/bench_store.py [ITEMS]`."""

# ruff: noqa: T201 - it is run for what it prints
from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from p2psyncd.core.ids import ActorId, ShareId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.store.share import ShareStore

BATCH = 10_000
ACTOR = ActorId(b"an actor")
STATE = b"s" * 40


@contextmanager
def timed(what: str, count: int = 1) -> Iterator[None]:
    """Print how long the block took, in all and for one of `count`."""
    start = perf_counter()
    yield
    took = perf_counter() - start
    print(f"{what:<58} {took:8.4f} s  {took / count * 1e6:9.2f} us each")


def items(first: int, count: int) -> list[Item]:
    """Return new files, 15 to a directory."""
    return [
        Item(
            key=b"project/directory-%d/file-%d.txt" % (at // 15, at),
            kind=Kind.FILE,
            digest=os.urandom(32),
            size=4000,
            meta=b"m" * 20,
            dot=Dot(ACTOR, 10**15 + at),
            hlc=10**15 + at,
        )
        for at in range(first, first + count)
    ]


def batches(store: ShareStore, count: int) -> None:
    """Time what works on many items, on top of those that are there."""
    fresh = items(count, BATCH)
    with timed(f"put {BATCH} new on top of {count}", BATCH):
        store.put([Stored(item=item, state=STATE) for item in fresh])
    with timed(f"put {BATCH} again", BATCH):
        store.put([Stored(item=item, state=STATE) for item in fresh])
    more = items(count + BATCH, BATCH)
    with timed(f"put_pending {BATCH} new", BATCH):
        store.put_pending([Pending(item=item, base=None) for item in more])
    with timed(f"settle {BATCH}", BATCH):
        store.settle([(item.key, item.dot, STATE) for item in more])
    with timed(f"put_pending {BATCH} with a base", BATCH):
        store.put_pending([Pending(item=item, base=Stored(item=item, state=STATE)) for item in more])
    with timed(f"pending {BATCH}", BATCH):
        assert len(store.pending(limit=BATCH)) == BATCH
    with timed(f"settle {BATCH} with a base", BATCH):
        store.settle([(item.key, item.dot, STATE) for item in more])
    with timed(f"log_above {BATCH}", BATCH):
        assert len(list(store.log_above({ACTOR: more[0].dot.seq - 1}, up_to=store.arrival()))) == BATCH
    with timed(f"log_since {BATCH}", BATCH):
        assert len(store.log_since(store.arrival() - BATCH, limit=BATCH)[0]) == BATCH
    keys = [item.key for item in more]
    with timed(f"get_many {BATCH}", BATCH):
        assert len(store.get_many(keys)) == BATCH
    with timed(f"listing {BATCH // 15} directories", BATCH // 15):
        for directory in {key.rpartition(b"/")[0] for key in keys}:
            store.listing(directory)


def single(store: ShareStore, count: int) -> None:
    """Time what works on one item."""
    fresh = items(count, 100)
    with timed("put 1, committed each", len(fresh)):
        for item in fresh:
            store.put([Stored(item=item, state=STATE)])
    with timed("next_seq + put 1, durable", len(fresh)):
        for item in fresh:
            with store.transaction(durable=True):
                store.next_seq(10**15)
                store.put([Stored(item=item, state=STATE)])
    with timed("get", len(fresh)):
        for item in fresh:
            store.get(item.key)
    with timed("root", 100):
        for _ in range(100):
            store.root()


def main() -> None:
    """Fill a share and time it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "share.db"

        def opened() -> ShareStore:
            return ShareStore.open(
                path,
                share_id=ShareId(bytes(16)),
                secret=bytes(32),
                mint_actor=lambda: ACTOR,
                is_conflict=lambda item: b".conflict-" in item.key,
                received_us=lambda: 10**15,
            )

        store = opened()
        with timed(f"fill with {count} in batches of {BATCH}", max(1, count)):
            for first in range(0, count, BATCH):
                store.put(
                    [Stored(item=item, state=STATE) for item in items(first, min(BATCH, count - first))]
                )
        batches(store, count)
        single(store, count + 2 * BATCH)
        with timed("rebuilt_root"):
            assert store.rebuilt_root() == store.root()
        store.close()
        with timed("open"):
            store = opened()
        store.close()
        print(f"{path.stat().st_size / 1e6:.1f} MB on disk")
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB of memory at most")


if __name__ == "__main__":
    main()
