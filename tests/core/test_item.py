from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import HLC_MAX, Draft, Item, Kind, dominates, supersede, wins
from p2psyncd.core.version import Dot, unpack_vector

A, B, C = (ActorId(bytes([n]) * 8) for n in (1, 2, 3))
FILE = Draft(key=b"a/file", kind=Kind.FILE, digest=b"d" * 32, size=3, meta=b"m")
GONE = Draft(key=b"a/file", kind=Kind.TOMBSTONE)


def history(steps: list[tuple[int, int, int]]) -> list[Item]:
    """Return the versions of one key as several devices write it, each seeing some earlier ones.

    Args:
        steps: (device, clock in us, a number that picks what the device has seen) for each write.
    """
    versions: list[Item] = []
    held: dict[int, list[Item]] = {}
    for seq, (device, clock_us, seen) in enumerate(steps):
        mine = held.setdefault(device, [])
        if versions:
            mine.append(versions[seen % len(versions)])
        tops = [v for v in mine if not any(w is not v and dominates(w, v) for w in mine)]
        draft = FILE if seen % 3 else GONE
        versions.append(supersede(draft, Dot(ActorId(bytes([device]) * 8), seq + 1), clock_us, *tops))
        held[device] = [versions[-1]]
    return versions


histories = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=10
).map(history)


@given(versions=histories)
def test_the_order_of_winning_is_total(versions: list[Item]) -> None:
    for a in versions:
        assert not wins(a, a)
        for b in versions:
            assert a is b or wins(a, b) != wins(b, a)


@given(versions=histories)
def test_winning_extends_causality(versions: list[Item]) -> None:
    for a in versions:
        for b in versions:
            if a is not b and dominates(a, b):
                assert wins(a, b)
                assert not dominates(b, a)


@given(versions=histories)
def test_dominating_is_transitive(versions: list[Item]) -> None:
    for a in versions:
        for b in versions:
            for c in versions:
                if dominates(a, b) and dominates(b, c):
                    assert dominates(a, c)


@given(versions=histories)
def test_a_vector_holds_only_other_actors(versions: list[Item]) -> None:
    assert all(item.dot.actor not in unpack_vector(item.vector) for item in versions)


def test_a_write_covers_itself_and_what_it_replaces() -> None:
    first = supersede(FILE, Dot(A, 5), 100)
    second = supersede(FILE, Dot(B, 7), 100, first)
    third = supersede(GONE, Dot(A, 9), 100, second)
    assert first.covers(first.dot)
    assert first.covers(Dot(A, 4))
    assert not first.covers(Dot(A, 6))
    assert dominates(third, first)
    assert dominates(third, second)
    assert not dominates(first, second)
    assert not first.covers(Dot(B, 1))


def test_a_clock_behind_does_not_lose_to_what_it_replaces() -> None:
    ahead = supersede(FILE, Dot(A, 1), 10**18)
    behind = supersede(FILE, Dot(B, 2), 1, ahead)
    assert behind.hlc == ahead.hlc + 1
    assert wins(behind, ahead)


def test_what_replaces_the_highest_hlc_that_a_peer_may_send_may_still_be_sent() -> None:
    item = replace(supersede(FILE, Dot(A, 1), 1), hlc=HLC_MAX)
    for seq in range(2, 100):
        item = supersede(FILE, Dot(B, seq), 1, item)
        assert item.hlc == HLC_MAX
    assert item.covers(Dot(A, 1))


def test_concurrent_writes_dominate_neither_way_and_a_merge_covers_both() -> None:
    base = supersede(FILE, Dot(C, 1), 1)
    ours, theirs = supersede(FILE, Dot(A, 2), 5, base), supersede(FILE, Dot(B, 3), 6, base)
    assert not dominates(ours, theirs)
    assert not dominates(theirs, ours)
    merged = theirs.knowing(ours)
    assert merged.dot == theirs.dot
    assert all(merged.covers(item.dot) for item in (base, ours, theirs))


@given(versions=histories)
def test_knowing_is_idempotent_and_never_forgets(versions: list[Item]) -> None:
    last = versions[-1]
    known = last.knowing(*versions[:-1])
    assert known.knowing(*versions[:-1]) == known
    assert known.knowing() == known
    for item in versions:
        if last.covers(item.dot) or item.dot.actor != last.dot.actor:
            assert known.covers(item.dot)


def test_values_are_compared_without_who_wrote_them() -> None:
    item = supersede(FILE, Dot(A, 1), 1)
    assert item.live
    assert item.same_value(FILE)
    assert item.same_value(supersede(FILE, Dot(B, 2), 9))
    assert not item.same_value(replace(FILE, meta=b"n"))
    assert not item.same_value(GONE)
    assert not supersede(GONE, Dot(A, 2), 1).live
