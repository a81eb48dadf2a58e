from __future__ import annotations

import random
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.merkle import (
    PREFIXES_MAX,
    Descent,
    Summary,
    compare,
    find,
    key_hash,
    prefixes_from_wire,
    summarize,
)
from p2psyncd.errors import RemoteProtocolError

SECRET = bytes(range(32))


class Found:
    """What a whole descent found, and what it cost."""

    def __init__(self) -> None:
        self.lacking: set[bytes] = set()
        self.differing: set[bytes] = set()
        self.theirs_only: set[bytes] = set()
        self.ours_only: set[bytes] = set()
        self.surplus: set[bytes] = set()
        self.bytes = 0
        self.round_trips = 0

    def take(self, descent: Descent) -> None:
        self.lacking.update(descent.lacking)
        self.surplus.update(descent.surplus)
        self.differing.update(entry[0] for entry in descent.differing)
        self.theirs_only.update(descent.theirs_only)
        self.ours_only.update(entry[0] for entry in descent.ours_only)


def descend(ours: Any, theirs: Any, *, full_width: bool = False) -> Found:
    """Find all differences, with every message encoded and decoded as between two devices."""
    found = Found()
    ask: list[bytes] = [b""]
    while ask:
        part, ask = ask[:PREFIXES_MAX], ask[PREFIXES_MAX:]
        question = cbor2.dumps(part)
        asked = prefixes_from_wire(cbor2.loads(question))
        answer = cbor2.dumps(summarize(theirs, asked, full_width=full_width).to_wire())
        found.bytes += len(question) + len(answer)
        found.round_trips += 1
        descent = compare(ours, Summary.from_wire(cbor2.loads(answer), part))
        found.take(descent)
        ask = sorted([*ask, *descent.ask])
    return found


def two_sides(
    seed: int, count: int, directories: int, changes: tuple[int, int, int]
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Return {key hash: entry hash} of two sides: common entries, and some changed, only ours, only theirs."""
    source = random.Random(seed)
    hashes = [
        key_hash(SECRET, b"%d/%d" % (source.randrange(directories), at))
        for at in range(count + changes[1] + changes[2])
    ]
    ours = {place: source.randbytes(32) for place in hashes}
    theirs = dict(ours)
    for place in source.sample(hashes[:count], min(changes[0], count)):
        theirs[place] = source.randbytes(32)
    for place in hashes[count : count + changes[1]]:
        del theirs[place]
    for place in hashes[count + changes[1] :]:
        del ours[place]
    return ours, theirs


def entries_of(side: dict[bytes, bytes]) -> list[bytes]:
    return [place + value for place, value in side.items()]


sides = st.builds(
    two_sides,
    st.integers(0, 10**6),
    st.integers(0, 500),
    st.integers(1, 30),
    st.tuples(st.integers(0, 40), st.integers(0, 120), st.integers(0, 120)),
)


@given(both=sides, full_width=st.booleans())
def test_a_descent_finds_exactly_the_symmetric_difference(
    memory_trie: Any, both: tuple[dict[bytes, bytes], dict[bytes, bytes]], full_width: bool
) -> None:
    ours, theirs = both
    our_trie, their_trie = memory_trie(entries_of(ours)), memory_trie(entries_of(theirs))
    found = descend(our_trie, their_trie, full_width=full_width)
    differing = {place for place in ours.keys() & theirs.keys() if ours[place] != theirs[place]}
    assert found.differing == differing
    assert found.ours_only == ours.keys() - theirs.keys()
    assert found.surplus == differing | (ours.keys() - theirs.keys())
    assert {entry[0] for entry in find(their_trie, found.theirs_only)} == theirs.keys() - ours.keys()
    assert {entry[0] for entry in find(their_trie, found.lacking)} == differing | (
        theirs.keys() - ours.keys()
    )
    assert all(8 <= len(place) <= 16 for place in found.lacking)


@given(both=sides, full_width=st.booleans(), budget_bytes=st.integers(0, 10_000))
def test_a_summary_reads_back_as_it_was_sent(
    memory_trie: Any, both: tuple[dict[bytes, bytes], dict[bytes, bytes]], full_width: bool, budget_bytes: int
) -> None:
    trie = memory_trie(entries_of(both[0]))
    asked = [b"", b"\x03\x0a", b"\x0f\x0f\x0f"] if budget_bytes % 2 else [b""]
    summary = summarize(trie, asked[:1], budget_bytes=budget_bytes, full_width=full_width)
    assert Summary.from_wire(cbor2.loads(cbor2.dumps(summary.to_wire())), asked[:1]) == summary
    if budget_bytes > 300:
        assert len(cbor2.dumps(summary.to_wire())) <= max(budget_bytes, 1600)


def test_a_trie_compared_with_itself_has_nothing_to_ask(memory_trie: Any) -> None:
    trie = memory_trie(entries_of(two_sides(1, 5000, 100, (0, 0, 0))[0]))
    found = descend(trie, trie)
    assert found.round_trips == 1
    assert not found.lacking
    assert not found.surplus


@pytest.mark.parametrize(("ours", "theirs"), [(5000, 10), (10, 5000), (5000, 0), (0, 5000)])
def test_a_leaf_against_a_branch_works_either_way(memory_trie: Any, ours: int, theirs: int) -> None:
    places = [key_hash(SECRET, b"%d/%d" % (at % 7, at)) for at in range(max(ours, theirs))]
    our_trie = memory_trie([place + place * 2 for place in places[:ours]])
    their_trie = memory_trie([place + place * 2 for place in places[:theirs]])
    found = descend(our_trie, their_trie)
    assert found.ours_only == set(places[theirs:ours])
    assert {entry[0] for entry in find(their_trie, found.theirs_only)} == set(places[ours:theirs])
    assert not found.differing


def test_what_cut_hashes_hide_is_found_at_full_width(memory_trie: Any) -> None:
    places = [key_hash(SECRET, b"%d" % at) for at in range(10)]
    # The same first bytes, as in one case of 2^48.
    ours = {place: bytes(32) for place in places}
    theirs = ours | {places[3]: bytes(31) + b"\x01"}
    our_trie, their_trie = memory_trie(entries_of(ours)), memory_trie(entries_of(theirs))
    assert not descend(our_trie, their_trie).differing
    assert descend(our_trie, their_trie, full_width=True).differing == {places[3]}


def test_keys_whose_cut_hashes_collide_are_told_apart_at_full_width(memory_trie: Any) -> None:
    first, second = bytes(15) + b"\x01", bytes(15) + b"\x02"
    our_trie, their_trie = memory_trie([first + b"o" * 32]), memory_trie([second + b"t" * 32])
    found = descend(our_trie, their_trie, full_width=True)
    assert (found.theirs_only, found.ours_only) == ({second}, {first})
    assert descend(our_trie, their_trie).differing == {first}


@pytest.fixture(scope="module")
def large(memory_trie: Any) -> tuple[list[bytes], dict[bytes, bytes], Any]:
    """100,000 entries, 15 to a directory: their places in order of the keys, and the trie."""
    source = random.Random(5)
    places = [key_hash(SECRET, b"project/directory-%d/file-%d" % (at // 15, at)) for at in range(100_000)]
    side = {place: source.randbytes(32) for place in places}
    return places, side, memory_trie(entries_of(side))


@pytest.mark.parametrize(
    ("changed", "bytes_max", "round_trips_max"),
    [
        ([50_000], 5_000, 4),
        (range(30_000, 31_000), 60_000, 6),
        (range(0, 100_000, 100), 400_000, 6),
    ],
    ids=["one", "1000 in some directories", "1000 all over"],
)
def test_differences_among_100000_entries_are_cheap_to_find(
    large: tuple[list[bytes], dict[bytes, bytes], Any], changed: Any, bytes_max: int, round_trips_max: int
) -> None:
    places, side, trie = large
    entries = set(entries_of(side))
    other = type(trie)()
    other.branches, other.all = dict(trie.branches), trie.all
    other.change(
        entries - {places[at] + side[places[at]] for at in changed}
        | {places[at] + bytes(32) for at in changed}
    )
    found = descend(trie, other)
    assert found.differing == {places[at] for at in changed}
    assert found.bytes <= bytes_max
    assert found.round_trips <= round_trips_max


def test_a_descent_gets_deeper_with_every_answer(memory_trie: Any) -> None:
    ours, theirs = two_sides(3, 2000, 10, (50, 0, 0))
    our_trie, their_trie = memory_trie(entries_of(ours)), memory_trie(entries_of(theirs))
    descent = compare(our_trie, summarize(their_trie, [b""]))
    again = summarize(their_trie, [b""])
    with pytest.raises(RemoteProtocolError):
        Summary.from_wire(again.to_wire(), descent.ask)
    assert all(len(prefix) > 0 for prefix in descent.ask)
