from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apsw
import pytest

from p2psyncd.core.merkle import compare, summarize
from p2psyncd.core.storage import Stored
from p2psyncd.errors import HomeUnusable
from p2psyncd.store.share import ShareStore


def stored(share: Any, first: int, count: int, seq: int) -> list[Stored]:
    return [Stored(item=share.item(b"d/%05d" % n, seq + n), state=b"s") for n in range(first, first + count)]


def test_a_reader_sees_what_is_committed(store: ShareStore, share: Any) -> None:
    store.put(stored(share, 0, 50, 1))
    reader = store.reader()
    root = store.root()
    with store.transaction():
        store.put(stored(share, 50, 50, 100))
        assert len(reader.listing(b"d")) == 50
        assert reader.root() == root != store.root()
    assert len(reader.listing(b"d")) == 100
    assert reader.root() == store.root() == reader.rebuilt_root()
    assert reader.get(b"d/00070") == store.get(b"d/00070")
    assert reader.actor() == store.actor()
    reader.close()


def test_a_reader_meets_actors_that_came_after_it(store: ShareStore, share: Any) -> None:
    reader = store.reader()
    item = share.item(b"a", 1, actor=b"nobody 1")
    store.put([Stored(item=item, state=b"s")])
    assert reader.get(b"a") == Stored(item=item, state=b"s")
    reader.close()


def test_a_snapshot_sees_one_moment(store: ShareStore, share: Any) -> None:
    store.put(stored(share, 0, 50, 1))
    reader = store.reader()
    with reader.snapshot():
        root = reader.root()
        store.put(stored(share, 0, 50, 100))
        assert reader.root() == root == reader.rebuilt_root()
    assert reader.root() == store.root() != root
    reader.close()


def test_a_reader_cannot_write(store: ShareStore) -> None:
    reader = store.reader()
    with pytest.raises((apsw.ReadOnlyError, HomeUnusable)):
        reader.database.run("DELETE FROM items")
    reader.close()


def test_one_share_differs_from_another_as_their_readers_say(
    store: ShareStore, share: Any, tmp_path: Any
) -> None:
    other = share.open(tmp_path / "other.db")
    rows = stored(share, 0, 2000, 1)
    store.put(rows)
    other.put(rows)
    other.put(stored(share, 700, 5, 5000))
    ours, theirs = store.reader(), other.reader()
    ask, keys = [b""], set()
    while ask:
        descent = compare(ours, summarize(theirs, ask))
        keys.update(entry[2] for entry in descent.differing)
        ask = list(descent.ask)
    assert keys == {b"d/%05d" % n for n in range(700, 705)}
    for closed in (ours, theirs, other):
        closed.close()


def test_threads_read_while_one_writes(store: ShareStore, share: Any) -> None:
    reader = store.reader()
    store.put(stored(share, 0, 300, 1))
    done = threading.Event()

    def read() -> int:
        rounds = 0
        while True:
            last = done.is_set()
            with reader.snapshot():
                assert reader.root() == reader.rebuilt_root()
            assert len(reader.listing(b"d")) == 300
            assert len(reader.get_many([b"d/00001", b"d/00002"])) == 2
            rounds += 1
            if last:
                return rounds

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read) for _ in range(3)]
        for n in range(30):
            # From one thread at a time, but not always the same one.
            with ThreadPoolExecutor(1) as writer:
                writer.submit(store.put, stored(share, 0, 300, 1000 * (n + 1))).result()
        done.set()
        assert all(future.result() > 0 for future in readers)
    reader.close()
