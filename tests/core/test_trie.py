from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Kind, supersede
from p2psyncd.core.trie import (
    DEPTH_MAX,
    EMPTY,
    ENTRY_BYTES,
    LEAF_ENTRIES_MAX,
    bounds,
    branch_hash,
    directory_hash,
    entry_hash,
    key_hash,
    leaf_hash,
    nibbles,
    refresh,
    root_of,
    split,
)
from p2psyncd.core.version import Dot

SECRET = bytes(range(32))
ITEM = supersede(
    Draft(key=b"a/file", kind=Kind.FILE, digest=b"d" * 32, size=3, meta=b"m"), Dot(ActorId(b"an actor"), 7), 1
)
keys = st.binary(min_size=1, max_size=40)
prefixes = st.binary(max_size=DEPTH_MAX).map(lambda data: bytes(byte & 15 for byte in data))


def some_entries(seed: int, count: int, directories: int) -> set[bytes]:
    """Return entries of random keys, all in so many directories."""
    source = random.Random(seed)
    return {
        key_hash(SECRET, b"%d/%d" % (source.randrange(directories), source.randrange(10**9)))
        + source.randbytes(32)
        for _ in range(count)
    }


sets = st.builds(some_entries, st.integers(0, 10**6), st.integers(0, 400), st.integers(1, 20))


# Hashes


@given(key=keys)
def test_a_key_hash_begins_with_its_directory(key: bytes) -> None:
    hashed = key_hash(SECRET, key)
    assert len(hashed) == 16
    assert hashed[:2] == directory_hash(SECRET, key.rpartition(b"/")[0])


@given(a=keys, b=keys)
def test_different_keys_hash_differently(a: bytes, b: bytes) -> None:
    assert (key_hash(SECRET, a) == key_hash(SECRET, b)) == (a == b)


def test_another_secret_places_keys_elsewhere() -> None:
    assert key_hash(SECRET, b"a/b") != key_hash(bytes(32), b"a/b")


def test_an_entry_hash_covers_key_dot_kind_and_digest_but_not_the_vector() -> None:
    expected = entry_hash(ITEM)
    assert len(expected) == 32
    changes = [
        {"key": b"a/fil"},
        {"key": b"a/other"},
        {"dot": Dot(ITEM.dot.actor, 8)},
        {"dot": Dot(ActorId(b"another "), 7)},
        {"kind": Kind.SYMLINK},
        {"digest": b"e" * 32},
        {"digest": b""},
    ]
    assert len({entry_hash(replace(ITEM, **change)) for change in changes} | {expected}) == len(changes) + 1
    assert entry_hash(ITEM.knowing(replace(ITEM, dot=Dot(ActorId(b"another "), 3)))) == expected


def test_the_end_of_a_key_cannot_pass_for_the_beginning_of_a_digest() -> None:
    moved = replace(ITEM, key=ITEM.key + ITEM.digest[:1], digest=ITEM.digest[1:])
    assert entry_hash(moved) != entry_hash(ITEM)


def test_a_leaf_cannot_pass_for_a_branch() -> None:
    # 16 children of 32 bytes are as long as 32 / 3 entries; whatever the bytes, the hashes differ.
    data = bytes(ENTRY_BYTES * 32)
    as_entries = [data[at : at + ENTRY_BYTES] for at in range(0, len(data), ENTRY_BYTES)]
    as_children = [data[at : at + 32] for at in range(0, len(data), 32)]
    assert leaf_hash(as_entries) != branch_hash(as_children)
    assert leaf_hash([]) == EMPTY


# Prefixes


@given(prefix=prefixes, entry=st.binary(min_size=ENTRY_BYTES, max_size=ENTRY_BYTES))
def test_bounds_hold_exactly_the_entries_below_a_prefix(prefix: bytes, entry: bytes) -> None:
    low, high = bounds(prefix)
    assert (low <= entry < high) == nibbles(entry).startswith(prefix)


@given(prefix=prefixes)
def test_the_last_entry_below_a_prefix_is_within_its_bounds(prefix: bytes) -> None:
    low, high = bounds(prefix)
    packed = bytearray(b"\xff" * ENTRY_BYTES)
    for at, nibble in enumerate(prefix):
        shift = 0 if at % 2 else 4
        packed[at // 2] = packed[at // 2] & ~(15 << shift) | nibble << shift
    assert low <= bytes(packed) < high


@given(entries=sets, depth=st.integers(0, 1))
def test_splitting_sorts_entries_by_their_nibble(entries: set[bytes], depth: int) -> None:
    ordered = sorted(entries)
    if depth:
        ordered = [entry for entry in ordered if entry[0] >> 4 == 3]
    parts = list(split(ordered, depth))
    assert [entry for _, part in parts for entry in part] == ordered
    assert all(a < b for (a, _), (b, _) in pairwise(parts))
    assert all(nibbles(entry)[depth] == nibble for nibble, part in parts for entry in part)


# The shape


@given(entries=sets, rest=st.randoms(use_true_random=False))
def test_equal_sets_have_equal_roots_whatever_the_order(entries: set[bytes], rest: random.Random) -> None:
    shuffled = list(entries)
    rest.shuffle(shuffled)
    assert root_of(shuffled) == root_of(sorted(entries))


@given(entries=sets)
def test_one_entry_more_or_less_changes_the_root(entries: set[bytes]) -> None:
    extra = key_hash(SECRET, b"one more") + bytes(32)
    assert root_of(entries | {extra}) != root_of(entries)


def test_a_node_is_a_leaf_up_to_32_entries(memory_trie: Any) -> None:
    entries = sorted(some_entries(1, LEAF_ENTRIES_MAX + 1, 20))
    assert memory_trie(entries[1:]).branches == {}
    assert root_of(entries[1:]) == leaf_hash(entries[1:])
    branches = memory_trie(entries).branches
    assert list(branches) == [b""]
    assert root_of(entries) == branch_hash(branches[b""].hashes)
    assert sum(branches[b""].counts) == LEAF_ENTRIES_MAX + 1


def test_more_than_32_equal_key_hashes_end_in_a_leaf(memory_trie: Any) -> None:
    # It takes a broken hash, but it must end.
    entries = {bytes(16) + bytes([n]) * 32 for n in range(40)}
    trie = memory_trie(entries)
    assert max(map(len, trie.branches)) == DEPTH_MAX - 1
    assert trie.branches[b""].hashes[0] != EMPTY


# Following changes


@given(steps=st.lists(sets, min_size=1, max_size=5), keep=st.integers(0, 3))
def test_a_refreshed_trie_equals_a_fresh_one(memory_trie: Any, steps: list[set[bytes]], keep: int) -> None:
    trie = memory_trie()
    held: set[bytes] = set()
    for entries in steps:
        # Keep most, some or none of what was there: small changes to large sets, and the other way round.
        held = entries | {entry for entry in held if entry[-1] % 4 < keep}
        trie.change(held)
        assert trie.branches == memory_trie(held).branches


@given(entries=sets, count=st.integers(1, 5))
def test_small_changes_to_a_large_trie_give_a_fresh_one(
    memory_trie: Any, entries: set[bytes], count: int
) -> None:
    trie = memory_trie(entries)
    gone = set(sorted(entries)[:count])
    changed = {entry[:16] + bytes(32) for entry in sorted(entries)[-count:]}
    held = {
        entry for entry in entries - gone if entry[:16] not in {other[:16] for other in changed}
    } | changed
    trie.change(held)
    assert trie.branches == memory_trie(held).branches


def test_a_batch_hashes_every_dirty_branch_once(memory_trie: Any) -> None:
    entries = some_entries(2, 5000, 400)
    trie = memory_trie(entries)
    trie.written.clear()
    gone = set(random.Random(1).sample(sorted(entries), 50))
    trie.change(entries - gone)
    assert len(trie.written) == len(set(trie.written))
    expected = {
        prefix for prefix in trie.branches if any(nibbles(entry[:16]).startswith(prefix) for entry in gone)
    }
    assert expected <= set(trie.written)
    assert len(trie.written) < len(trie.branches)


def test_of_a_large_trie_only_the_directory_is_read_in_which_much_is_new(memory_trie: Any) -> None:
    entries = some_entries(4, 5000, 20)
    trie = memory_trie(entries)
    new = {key_hash(SECRET, b"another/%d" % n) + bytes(32) for n in range(1000)}  # a fifth
    read = []
    below = trie.entries

    def counted(prefix: bytes) -> list[bytes]:
        found: list[bytes] = below(prefix)
        read.append(len(found))
        return found

    trie.entries = counted
    trie.change(entries | new)
    assert sum(read) < 1000 + 300  # beside it perhaps another directory that begins alike
    del trie.entries
    assert trie.branches == memory_trie(entries | new).branches


def test_removing_all_leaves_nothing(memory_trie: Any) -> None:
    trie = memory_trie(some_entries(3, 1000, 5))
    trie.change(set())
    assert trie.branches == {}
    refresh(trie, [])
    assert root_of([]) == EMPTY


def test_branches_collapse_one_by_one(memory_trie: Any) -> None:
    entries = sorted(some_entries(4, 200, 1))
    trie = memory_trie(entries)
    deepest = max(map(len, trie.branches))
    # All in one directory: four levels with a single child each, which must go together.
    assert deepest >= 4
    for count in range(len(entries) - 1, 0, -1):
        trie.change(set(entries[:count]))
        assert trie.branches == memory_trie(entries[:count]).branches
    assert trie.branches == {}
