from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.item import Kind
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.storage import Listed, Pending, ShareStorage, Stored, Totals
from p2psyncd.core.trie import EMPTY, entry_hash, key_hash, nibbles
from p2psyncd.core.version import Dot, pack_vector
from p2psyncd.errors import StateCorrupt
from p2psyncd.store.share import ShareStore

US, THEM = ActorId(b"our self"), ActorId(b"another ")
NOTHING: Knowledge = {}


def stored(item: Any, state: bytes = b"state") -> Stored:
    return Stored(item=item, state=state if item.live else b"")


def pending(item: Any, base: Stored | None = None, failed: str = "") -> Pending:
    return Pending(item=item, base=base, failed=failed)


def log(store: ShareStore, knowledge: Knowledge = NOTHING) -> list[bytes]:
    return [item.key for item in store.log_above(knowledge, up_to=store.arrival())]


def test_a_share_store_is_what_the_engine_asks_for(store: ShareStore) -> None:
    storage: ShareStorage = store
    assert storage.totals() == Totals(items=0, size=0, pending_items=0, pending_size=0, conflicts=0)
    assert storage.root() == EMPTY
    assert storage.arrival() == 0
    assert storage.get(b"nothing") is None
    assert storage.get_many([]) == {}
    assert storage.trie_children(b"") is None
    assert storage.trie_entries(b"") == []
    storage.put([])
    storage.put_pending([])
    storage.settle([])


# Items


def test_an_item_reads_back_as_it_was_put(store: ShareStore, share: Any) -> None:
    item = share.item(b"a/\xff\x00name\n", 7, vector=pack_vector({US: 3}))
    store.put([stored(item)])
    assert store.get(item.key) == Stored(item=item, state=b"state")
    assert store.get_many([item.key, b"none", item.key]) == {item.key: Stored(item=item, state=b"state")}
    assert isinstance(store.get_many([item.key])[item.key].item.kind, Kind)


def test_everything_is_there_after_opening_again(share: Any) -> None:
    store = share.open()
    item, later = share.item(b"a", 1), share.item(b"b", 2)
    store.put([stored(item)])
    store.put_pending([pending(later, failed="no room")])
    store.commit_knowledge({THEM: 5})
    store.set_setting("cursor", b"x")
    before = (store.root(), store.totals(), store.arrival(), store.knowledge(), store.actor())
    store.close()
    store = share.open(mint_actor=lambda: ActorId(b"not this"))
    assert (store.root(), store.totals(), store.arrival(), store.knowledge(), store.actor()) == before
    assert store.get(b"a") == stored(item)
    assert store.pending(limit=10) == [pending(later, failed="no room")]
    assert store.setting("cursor") == b"x"
    assert store.setting("none") is None
    store.close()


def test_many_keys_are_looked_up_at_once(store: ShareStore, share: Any) -> None:
    items = {b"%d" % n: share.item(b"%d" % n, n + 1) for n in range(1200)}
    store.put([stored(item) for item in items.values()])
    assert {key: found.item for key, found in store.get_many(list(items)).items()} == items
    assert len(store.get_many([b"3", b"none", b"700"])) == 2


def test_the_last_of_two_versions_in_one_batch_counts(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"a", 1)), stored(share.item(b"a", 2, size=20))])
    assert store.totals() == Totals(items=1, size=20, pending_items=0, pending_size=0, conflicts=0)
    assert log(store) == [b"a"]


def test_totals_follow_every_write(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"a", 1, size=5)), stored(share.item(b"d", 2, kind=Kind.DIRECTORY))])
    store.put([stored(share.item(b"d/x.conflict-1", 3, size=7))])
    assert store.totals() == Totals(items=3, size=12, pending_items=0, pending_size=0, conflicts=1)
    newer = share.item(b"a", 4, size=50)
    store.put_pending([pending(newer, stored(share.item(b"a", 1, size=5)))])
    assert store.totals() == Totals(items=3, size=57, pending_items=1, pending_size=50, conflicts=1)
    store.put_pending([pending(share.item(b"d", 5, kind=Kind.TOMBSTONE))])
    assert store.totals() == Totals(items=2, size=57, pending_items=2, pending_size=50, conflicts=1)
    store.settle([(newer.key, newer.dot, b"new"), (b"d", Dot(THEM, 5), b"")])
    store.put([stored(share.item(b"d/x.conflict-1", 6, kind=Kind.TOMBSTONE))])
    assert store.totals() == Totals(items=1, size=50, pending_items=0, pending_size=0, conflicts=0)


def test_sizes_that_no_disk_has_break_no_count(store: ShareStore, share: Any) -> None:
    store.put_pending([pending(share.item(b"%d" % n, n + 1, size=2**62)) for n in range(5)])
    assert store.totals().size == 5 * 2**62
    store.put([stored(share.item(b"%d" % n, n + 9, kind=Kind.TOMBSTONE)) for n in range(5)])
    assert store.totals() == Totals(items=0, size=0, pending_items=0, pending_size=0, conflicts=0)


def test_conflicts_are_listed_in_key_order(store: ShareStore, share: Any) -> None:
    copies = [
        stored(share.item(b"%s.conflict-1" % name, seq)) for seq, name in enumerate([b"b", b"a", b"c"], 1)
    ]
    store.put(copies)
    store.put([stored(share.item(b"c.conflict-1", 9, kind=Kind.TOMBSTONE)), stored(share.item(b"d", 10))])
    assert store.conflicts() == [copies[1], copies[0]]


# Pending items


def test_a_pending_item_has_no_state_and_keeps_its_base(store: ShareStore, share: Any) -> None:
    base = stored(share.item(b"a", 1, digest=b"o" * 32))
    newer = share.item(b"a", 2, digest=b"n" * 32)
    store.put([base])
    store.put_pending([pending(newer, base)])
    assert store.get(b"a") == Stored(item=newer, state=b"")
    assert store.pending_of([b"a", b"b"]) == {b"a": pending(newer, base)}
    assert store.pending(limit=5) == [pending(newer, base)]


def test_of_pending_items_those_are_left_that_nothing_overtook_with_what_is_beneath_them_now(
    store: ShareStore, share: Any
) -> None:
    base = stored(share.item(b"base", 1))
    store.put([base])
    waiting = [
        pending(share.item(name, 2)) for name in (b"c", b"settled", b"a", b"overtaken", b"gone", b"found")
    ]
    on_base = pending(share.item(b"base", 3), base)
    store.put_pending([*waiting[:4], waiting[5], on_base])
    store.settle([(b"settled", waiting[1].item.dot, b"s")])
    store.put_pending([pending(share.item(b"overtaken", 4))])
    found = pending(waiting[5].item, stored(share.item(b"found", 1)))
    store.put_pending([found])  # what was in place was found out about since
    store.set_state([(b"base", b"touched")])
    assert store.still_pending([*waiting, on_base]) == [
        waiting[0],
        waiting[2],
        found,
        replace(on_base, base=replace(base, state=b"touched")),
    ]


def test_of_what_was_looked_at_only_what_arrived_since_is_looked_at_again(
    store: ShareStore, share: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = stored(share.item(b"base", 1))
    store.put([base])
    waiting = [pending(share.item(name, 2)) for name in (b"a", b"gone", b"overtaken", b"z")]
    on_base = pending(share.item(b"base", 3), base)
    store.put_pending([*waiting, on_base])
    since = store.arrival()
    store.put_pending([pending(share.item(b"overtaken", 4))])
    store.put([stored(share.item(b"gone", 5))])
    store.set_state([(b"base", b"touched")])
    asked: list[bytes] = []
    look = store.pending_columns
    monkeypatch.setattr(
        store, "pending_columns", lambda keys, columns: asked.extend(keys) or look(keys, columns)
    )
    left = store.still_pending([*waiting, on_base], since=since)
    assert left == [waiting[0], waiting[3], replace(on_base, base=replace(base, state=b"touched"))]
    assert asked == [b"gone", b"overtaken", b"base"]


def test_what_was_overtaken_by_a_delete_that_is_forgotten_is_not_pending(
    store: ShareStore, share: Any
) -> None:
    waiting = [pending(share.item(name, n)) for n, name in enumerate((b"a", b"b", b"c"), 2)]
    store.put_pending(waiting)
    since = store.arrival()
    store.put([stored(share.item(b"a", 5, kind=Kind.TOMBSTONE)), stored(share.item(b"z", 6))])
    assert store.forget({}, covered_before_us=0, before_us=2**60) == 1
    assert store.still_pending(waiting, since=since) == waiting[1:]


def test_what_is_pending_just_so_is_settled_without_a_look(store: ShareStore, share: Any) -> None:
    there, gone = share.item(b"a", 2), share.item(b"b", 2, kind=Kind.TOMBSTONE)
    under = stored(share.item(b"b", 1))
    store.put([under])
    rows = [pending(there), pending(gone, under)]
    store.put_pending(rows)
    store.settle_all([(rows[0], b"here"), (rows[1], b"")])
    assert store.pending(limit=5) == []
    assert store.get_many([b"a", b"b"]) == {
        b"a": Stored(item=there, state=b"here"),
        b"b": Stored(item=gone, state=b""),
    }
    assert store.totals().pending_items == 0


def test_another_content_by_the_same_dot_is_not_what_was_pending(store: ShareStore, share: Any) -> None:
    """A machine was copied, and both went on with the same number at the same time."""
    one = share.item(b"a", 1)
    other = replace(one, digest=b"\x07" * 32)
    store.put_pending([pending(one)])
    assert store.still_pending([pending(one)]) == [pending(one)]
    store.put_pending([pending(other)])
    assert store.still_pending([pending(one)]) == []


def test_a_newer_version_of_a_pending_item_replaces_it_whole(store: ShareStore, share: Any) -> None:
    base = stored(share.item(b"a", 1))
    store.put_pending([pending(share.item(b"a", 2), base, "no room")])
    store.put_pending([pending(share.item(b"a", 3))])
    assert store.pending(limit=5) == [pending(share.item(b"a", 3))]
    store.put_pending([pending(share.item(b"a", 4), base)])
    store.put([stored(share.item(b"a", 5))])
    assert store.pending(limit=5) == []
    assert store.base_of_pending_digest(b"d" * 32) == []


def test_pending_items_come_in_pages_by_key(store: ShareStore, share: Any) -> None:
    store.put_pending([pending(share.item(b"%02d" % n, n + 1)) for n in reversed(range(10))])
    store.put([stored(share.item(b"05", 20))])
    keys = [row.item.key for row in store.pending(limit=4)]
    assert keys == [b"00", b"01", b"02", b"03"]
    assert [row.item.key for row in store.pending(limit=9, after=b"03")] == [
        b"04",
        b"06",
        b"07",
        b"08",
        b"09",
    ]


def test_settling_applies_exactly_the_version_that_was_meant(store: ShareStore, share: Any) -> None:
    first, second = share.item(b"a", 1), share.item(b"b", 2)
    store.put_pending([pending(first), pending(second)])
    store.settle(
        [
            (b"a", first.dot, b"s1"),
            (b"b", Dot(THEM, 1), b"s2"),
            (b"b", Dot(US, 2), b"s2"),
            (b"c", first.dot, b""),
        ]
    )
    assert store.get(b"a") == stored(first, b"s1")
    assert store.pending(limit=5) == [pending(second)]
    store.settle([(b"a", first.dot, b"again")])
    assert store.get(b"a") == stored(first, b"s1")


def test_a_settled_tombstone_is_listed_no_more(store: ShareStore, share: Any) -> None:
    base = stored(share.item(b"d/a", 1))
    store.put([base])
    gone = share.item(b"d/a", 2, kind=Kind.TOMBSTONE)
    store.put_pending([pending(gone, base)])
    assert store.listing(b"d") == [Listed(key=b"d/a", kind=Kind.FILE, state=b"state")]
    store.settle([(b"d/a", gone.dot, b"left over")])
    assert store.listing(b"d") == []
    assert store.get(b"d/a") == Stored(item=gone, state=b"")


def test_a_failure_is_noted_and_cleared(store: ShareStore, share: Any) -> None:
    item = share.item(b"a", 1)
    store.put_pending([pending(item)])
    store.fail([(b"a", "no such \udcff"), (b"b", "nothing here")])
    assert store.pending(limit=1) == [pending(item, failed="no such \\udcff")]
    store.fail([(b"a", "")])
    assert store.pending(limit=1) == [pending(item)]
    store.fail([(b"a", "again")])
    store.settle([(b"a", item.dot, b"s")])
    store.fail([(b"a", "too late")])
    assert store.get(b"a") == stored(item, b"s")


def test_a_new_state_is_noted_of_what_is_on_disk(store: ShareStore, share: Any) -> None:
    base = stored(share.item(b"a", 1))
    store.put([base, stored(share.item(b"b", 2))])
    store.put_pending([pending(share.item(b"a", 3), base), pending(share.item(b"c", 4))])
    store.set_state([(b"a", b"touched"), (b"b", b"touched"), (b"c", b"touched"), (b"none", b"")])
    assert store.pending_of([b"a"])[b"a"].base == replace(base, state=b"touched")
    assert store.get(b"b") == stored(share.item(b"b", 2), b"touched")
    assert [row.state for row in store.below(b"c")] == [b""]


def test_digests_are_found_where_their_bytes_are_on_disk(store: ShareStore, share: Any) -> None:
    one, two = b"1" * 32, b"2" * 32
    applied = stored(share.item(b"a", 1, digest=one))
    replaced = stored(share.item(b"b", 2, digest=one))
    store.put([applied, replaced, stored(share.item(b"link", 3, kind=Kind.SYMLINK, digest=one))])
    store.put_pending(
        [pending(share.item(b"b", 4, digest=two), replaced), pending(share.item(b"c", 5, digest=one))]
    )
    assert store.with_digest(one) == [applied]
    assert store.with_digest(two) == []
    assert store.base_of_pending_digest(one) == [replaced]
    assert store.base_of_pending_digest(two) == []


def test_of_many_equal_files_some_are_found(store: ShareStore, share: Any) -> None:
    files = [stored(share.item(b"%d" % n, n + 1)) for n in range(400)]
    store.put(files)
    assert len(store.with_digest(b"d" * 32)) == 16
    store.put_pending([pending(share.item(f.item.key, 1000, kind=Kind.TOMBSTONE), f) for f in files])
    assert len(store.base_of_pending_digest(b"d" * 32)) == 256


# Listings


def listed(rows: Any) -> dict[bytes, tuple[int, bytes]]:
    return {row.key: (row.kind, row.state) for row in rows}


def test_a_listing_holds_the_children_and_nothing_else(store: ShareStore, share: Any) -> None:
    store.put(
        [
            stored(share.item(b"d", 1, kind=Kind.DIRECTORY)),
            stored(share.item(b"top", 2)),
            stored(share.item(b"d/one", 3)),
            stored(share.item(b"d/sub", 4, kind=Kind.DIRECTORY)),
            stored(share.item(b"d/sub/two", 5)),
            stored(share.item(b"dd/three", 6)),
            stored(share.item(b"d/gone", 7, kind=Kind.TOMBSTONE)),
        ]
    )
    assert listed(store.listing(b"")) == {b"d": (Kind.DIRECTORY, b"state"), b"top": (Kind.FILE, b"state")}
    assert listed(store.listing(b"d")) == {
        b"d/one": (Kind.FILE, b"state"),
        b"d/sub": (Kind.DIRECTORY, b"state"),
    }
    assert listed(store.listing(b"d/sub")) == {b"d/sub/two": (Kind.FILE, b"state")}
    assert store.listing(b"none") == []


def test_a_listing_tells_what_is_on_disk_now(store: ShareStore, share: Any) -> None:
    file = stored(share.item(b"d/was-file", 1))
    store.put([file, stored(share.item(b"d/gone", 2))])
    store.put_pending(
        [
            pending(share.item(b"d/was-file", 3, kind=Kind.DIRECTORY), file),
            pending(share.item(b"d/gone", 4, kind=Kind.TOMBSTONE), stored(share.item(b"d/gone", 2))),
            pending(share.item(b"d/new", 5, kind=Kind.SYMLINK)),
            pending(share.item(b"d/back", 6), stored(share.item(b"d/back", 1, kind=Kind.TOMBSTONE))),
            pending(share.item(b"d/never-was", 7, kind=Kind.TOMBSTONE)),
        ]
    )
    expected = {
        b"d/was-file": (Kind.FILE, b"state"),
        b"d/gone": (Kind.FILE, b"state"),
        b"d/new": (Kind.SYMLINK, b""),
        b"d/back": (Kind.FILE, b""),
    }
    assert listed(store.listing(b"d")) == expected
    assert listed(store.below(b"d")) == expected


def test_below_takes_a_key_and_what_lies_under_it(store: ShareStore, share: Any) -> None:
    keys = [b"d", b"d/a", b"d/a/b", b"d-e", b"d.txt", b"d0", b"e"]
    store.put([stored(share.item(key, n + 1)) for n, key in enumerate(keys)])
    store.put([stored(share.item(b"d/gone", 20, kind=Kind.TOMBSTONE))])
    assert [row.key for row in store.below(b"d")] == [b"d", b"d/a", b"d/a/b"]
    assert {row.key for row in store.below(b"")} == set(keys)
    assert list(store.below(b"d/x")) == []


def test_below_comes_in_pages_and_takes_writes_in_between(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"d/%04d" % n, n + 1)) for n in range(2500)])
    rows = store.below(b"d")
    first = [row.key for row in islice(rows, 10)]
    store.put([stored(share.item(b"d/%04d" % n, n + 5000)) for n in range(2500)])
    assert len({*first, *(row.key for row in rows)}) == 2500


def test_only_live_items_count_as_live_below(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"d", 1)), stored(share.item(b"d0", 2))])
    assert not store.live_below(b"d")
    store.put([stored(share.item(b"d/gone", 3, kind=Kind.TOMBSTONE))])
    assert not store.live_below(b"d")
    store.put_pending([pending(share.item(b"d/e/f", 4))])
    assert store.live_below(b"d")
    assert store.live_below(b"d/e")
    assert store.live_below(b"")
    assert not store.live_below(b"d/e/f")


def test_items_are_found_by_how_their_keys_begin(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(key, 1)) for key in (b"a", b"ab", b"abc", b"ac")])
    store.put([stored(share.item(b"abd", 2, kind=Kind.TOMBSTONE))])
    assert [row.item.key for row in store.beginning(b"ab")] == [b"ab", b"abc", b"abd"]


# Forgetting


def test_a_tombstone_stays_until_what_it_deleted_is_known_to_have_been_seen(
    store: ShareStore, share: Any
) -> None:
    # Of a device that only sends nothing is committed as known: what was deleted would come from it as new.
    deleted = pack_vector({US: 7})
    store.put([stored(share.item(b"gone", 5, kind=Kind.TOMBSTONE, vector=deleted))])
    store.put([stored(share.item(b"newest", 6))])
    later_us = share.now_us + 1
    assert store.forget({}, covered_before_us=later_us, before_us=later_us) == 0
    assert store.forgotten() == {}
    store.commit_knowledge({US: 7})
    assert store.forget({}, covered_before_us=later_us, before_us=later_us) == 1
    assert store.forgotten() == {THEM: 5}
    assert store.get(b"gone") is None


# The delta log


def test_the_log_gives_what_knowledge_does_not_cover(store: ShareStore, share: Any) -> None:
    ours, theirs = share.item(b"ours", 5, actor=US), share.item(b"theirs", 3)
    store.put([stored(ours), stored(share.item(b"gone", 9, kind=Kind.TOMBSTONE))])
    store.put_pending([pending(theirs)])
    assert sorted(log(store)) == [b"gone", b"ours", b"theirs"]
    assert log(store, {US: 5, THEM: 3}) == [b"gone"]
    assert log(store, {US: 4, THEM: 9}) == [b"ours"]
    assert log(store, {US: 5, THEM: 9, ActorId(b"somebody"): 1}) == []
    assert list(store.log_above({THEM: 9}, up_to=store.arrival())) == [ours]


def test_the_log_forgets_superseded_writes(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"a", 1)), stored(share.item(b"b", 2))])
    store.put([stored(share.item(b"a", 3))])
    assert log(store) == [b"b", b"a"]
    assert log(store, {THEM: 2}) == [b"a"]


def test_the_log_leaves_out_what_arrived_later(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"a", 1)), stored(share.item(b"b", 2))])
    up_to = store.arrival()
    store.put([stored(share.item(b"c", 3)), stored(share.item(b"a", 4))])
    assert [item.key for item in store.log_above({}, up_to=up_to)] == [b"b"]


def test_the_log_takes_writes_between_two_items(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"%04d" % n, n + 1)) for n in range(2500)])
    up_to = store.arrival()
    items = store.log_above({}, up_to=up_to)
    seen = [item.key for item in islice(items, 100)]
    store.put([stored(share.item(b"%04d" % n, n + 9000)) for n in range(1200, 1300)])
    seen += [item.key for item in items]
    assert len(seen) == len(set(seen)) == 2400


def test_writes_that_claim_one_dot_are_all_in_the_log(store: ShareStore, share: Any) -> None:
    # Only a broken peer does that; more of them than a page holds must not end the log early or for ever.
    store.put([stored(share.item(b"%04d" % n, 7)) for n in range(2100)])
    assert len(log(store)) == 2100
    assert log(store, {THEM: 7}) == []


def test_arrivals_are_listed_oldest_first(store: ShareStore, share: Any) -> None:
    for n in range(5):
        store.put([stored(share.item(b"%d" % n, 100 - n))])
    items, last = store.log_since(0, limit=3)
    assert [item.key for item in items] == [b"0", b"1", b"2"]
    items, last = store.log_since(last, limit=3)
    assert [item.key for item in items] == [b"3", b"4"]
    assert last == store.arrival()
    assert store.log_since(last, limit=3) == ([], last)
    store.put([stored(share.item(b"1", 200))])
    assert [item.key for item in store.log_since(last, limit=3)[0]] == [b"1"]


def test_keys_that_an_actor_wrote_last_are_listed_up_to_a_number(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"%d" % n, n + 1)) for n in range(3)])
    store.put([stored(share.item(b"0", 9, actor=US))])
    assert sorted(store.keys_written_by(THEM, most=9)) == [b"1", b"2"]
    assert len(store.keys_written_by(THEM, most=1)) == 1
    assert store.keys_written_by(US, most=9) == [b"0"]
    assert store.keys_written_by(ActorId(b"nobody's"), most=9) == []


# Knowledge, actors, settings


def test_knowledge_only_grows(store: ShareStore) -> None:
    store.commit_knowledge({THEM: 5, US: 3})
    store.commit_knowledge({THEM: 4, US: 8})
    assert store.knowledge() == {THEM: 5, US: 8}


def test_sequence_numbers_follow_the_clock_and_never_repeat(store: ShareStore) -> None:
    assert store.next_seq(1000) == 1000
    assert store.next_seq(500, count=10) == 1001
    assert store.next_seq(500) == 1011
    assert store.next_seq(5000) == 5000
    assert store.knowledge() == {US: 5000}


def test_a_new_actor_counts_from_the_clock(store: ShareStore) -> None:
    store.next_seq(9000)
    renewed = ActorId(b"new self")
    store.renew_actor(renewed)
    assert store.actor() == renewed
    assert store.next_seq(10) == 10
    assert store.knowledge() == {US: 9000, renewed: 10}


def test_actors_are_known_to_belong_to_devices(store: ShareStore) -> None:
    device = DeviceId(b"d" * 32)
    store.commit_knowledge({THEM: 1})
    store.learn_actors([(THEM, device), (US, DeviceId(b"e" * 32))])
    assert store.actor_devices() == {THEM: device, US: b"e" * 32}
    assert store.knowledge() == {THEM: 1}


def test_chunk_lists_are_kept_for_the_newest_contents(store: ShareStore) -> None:
    with store.transaction():
        for n in range(2010):
            store.put_chunk_list(b"%032d" % n, b"chunks of %d" % n)
    store.put_chunk_list(b"%032d" % 10, b"again")
    assert store.chunk_list(b"%032d" % 0) is None
    assert store.chunk_list(b"%032d" % 10) == b"again"
    assert store.chunk_list(b"%032d" % 2009) == b"chunks of 2009"
    assert store.database.row("SELECT count(*) FROM chunks")[0] <= 2000


# The trie


def test_only_live_items_are_in_the_trie(store: ShareStore, share: Any) -> None:
    item = share.item(b"a/b", 1)
    store.put([stored(item), stored(share.item(b"gone", 2, kind=Kind.TOMBSTONE))])
    store.put_pending([pending(share.item(b"c", 3, kind=Kind.TOMBSTONE), stored(share.item(b"c", 1)))])
    place = key_hash(share.SECRET, b"a/b")
    assert store.trie_entries(b"") == [(place, entry_hash(item), b"a/b", item.dot)]
    assert store.trie_entries(nibbles(place[:8])) == store.trie_entries(b"")
    assert store.trie_entries(nibbles(key_hash(share.SECRET, b"x/y"))) == []


def test_pending_or_applied_makes_no_difference_to_the_root(store: ShareStore, share: Any) -> None:
    items = [share.item(b"%d/%d" % (n % 7, n), n + 1) for n in range(300)]
    store.put_pending([pending(item) for item in items])
    root = store.root()
    store.settle([(item.key, item.dot, b"s") for item in items])
    assert store.root() == root == store.rebuilt_root()
    children = store.trie_children(b"")
    assert children is not None
    assert sum(count for _, count in children) == 300


def test_the_trie_is_up_to_date_inside_a_transaction(store: ShareStore, share: Any) -> None:
    with store.transaction():
        store.put([stored(share.item(b"%d" % n, n + 1)) for n in range(100)])
        assert store.trie_children(b"") is not None
        assert len(store.trie_entries(b"")) == 100
        assert store.root() == store.rebuilt_root()
        store.put([stored(share.item(b"%d" % n, n + 200, kind=Kind.TOMBSTONE)) for n in range(100)])
        assert store.root() == EMPTY


def test_bit_rot_shows_in_the_rebuilt_root(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"%d" % n, n + 1)) for n in range(100)])
    store.database.run("UPDATE items SET digest = ? WHERE key = ?", (b"x" * 32, b"7"))
    assert store.rebuilt_root() != store.root()


# Transactions


def undone(store: ShareStore, work: Callable[[], None]) -> None:
    """Do some work in a transaction that raises at its end."""
    with contextlib.suppress(KeyError), store.transaction():
        work()
        raise KeyError


def test_a_transaction_that_raises_leaves_nothing(store: ShareStore, share: Any) -> None:
    store.put([stored(share.item(b"%d" % n, n + 1)) for n in range(50)])
    before = (store.root(), store.totals(), store.arrival(), store.knowledge(), log(store))

    def work() -> None:
        items = [share.item(b"%d" % n, n + 100, actor=b"new act%d" % (n % 5)) for n in range(40, 90)]
        store.put([stored(item) for item in items])
        store.next_seq(10**6)
        assert store.root() != before[0]

    undone(store, work)
    assert (store.root(), store.totals(), store.arrival(), store.knowledge(), log(store)) == before
    store.put([stored(share.item(b"x", 1, actor=b"new act1"))])
    assert store.root() == store.rebuilt_root()


def test_after_an_inner_transaction_that_raised_nothing_of_the_outer_is_written(
    store: ShareStore, share: Any
) -> None:
    store.put([stored(share.item(b"before", 1))])

    def work() -> None:
        store.put([stored(share.item(b"inner%d" % n, n + 100)) for n in range(50)])
        store.root()  # Refreshes the trie, which the rollback undoes.

    def both() -> None:
        with store.transaction():
            store.put([stored(share.item(b"outer%d" % n, n + 2)) for n in range(50)])
            undone(store, work)

    with pytest.raises(RuntimeError, match="none of it"):
        both()
    assert store.totals().items == 1
    assert store.root() == store.rebuilt_root()
    assert len(log(store)) == 1
    store.put([stored(share.item(b"after", 500))])
    assert store.root() == store.rebuilt_root()


def test_a_durable_transaction_is_one_like_any_other(store: ShareStore) -> None:
    with store.transaction(durable=True):
        store.set_setting("x", b"1")
        assert store.database.row("PRAGMA synchronous") == (2,)
    with store.transaction():
        assert store.database.row("PRAGMA synchronous") == (1,)


def test_a_setting_by_itself_waits_for_no_disk_whatever_was_written_before(store: ShareStore) -> None:
    with store.transaction(durable=True):
        store.set_setting("x", b"1")
    store.set_setting("x", b"2")
    assert store.database.row("PRAGMA synchronous") == (1,)
    assert store.setting("x") == b"2"


def test_knowledge_is_committed_durably(store: ShareStore) -> None:
    store.commit_knowledge({THEM: 1})
    assert store.database.row("PRAGMA synchronous") == (2,)


# Whose file it is


def test_another_shares_file_is_refused(share: Any) -> None:
    share.open().close()
    with pytest.raises(StateCorrupt, match=r"share\.db belongs to another share"):
        share.open(share_id=ShareId(bytes(16)))
    with pytest.raises(StateCorrupt, match=r"share\.db belongs to another share"):
        share.open(secret=bytes(32))
    share.open().close()


def test_a_store_in_memory_works_the_same(share: Any) -> None:
    store = share.open(":memory:")
    store.put([stored(share.item(b"a", 1))])
    reader = store.reader()
    assert reader.get(b"a") == stored(share.item(b"a", 1))
    reader.close()
    assert store.root() == store.rebuilt_root()
    store.close()


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_many_items_are_put_and_settled_as_few_are(store: ShareStore, share: Any, count: int) -> None:
    items = [share.item(b"%d" % n, n + 1) for n in range(count)]
    store.put_pending([pending(item, base=stored(item) if item.dot.seq % 2 else None) for item in items])
    waiting = store.pending(limit=1000)
    assert {row.item.key: (row.item, row.base) for row in waiting} == {
        item.key: (item, stored(item) if item.dot.seq % 2 else None) for item in items
    }
    store.settle_all([(row, b"state of " + row.item.key) for row in waiting])
    assert store.pending(limit=1000) == []
    assert store.get_many([item.key for item in items]) == {
        item.key: stored(item, b"state of " + item.key) for item in items
    }
    again = [share.item(b"%d" % n, n + 1000) for n in range(count)]
    store.put(map(stored, again))
    assert [store.get(item.key) for item in again] == list(map(stored, again))
    assert store.totals().items == count
