"""Counters: columns to which devices add, where a person said so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_files import Clock, Replica, exchange

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, dominates, supersede
from p2psyncd.core.version import Dot
from p2psyncd.sources.database.row import (
    RowState,
    draft,
    edited,
    inserted,
    join,
    pack,
    removed,
    stamped_again,
    state_of,
    unpack,
)
from p2psyncd.sources.database.sums import ADDITIONS_MAX, Addition, Sum, added, united
from p2psyncd.sources.database.values import INTEGER_MAX, INTEGER_MIN, Cell
from p2psyncd.sources.source import Side

A, B, C, D = (ActorId(letter * 8) for letter in (b"a", b"b", b"c", b"d"))
KEY = b"t/0/1"
STOCK = "CREATE TABLE item(id INTEGER PRIMARY KEY, stock INTEGER, name TEXT)"


def write(actor: ActorId, at: int, state: RowState, *replaced: Item) -> Item:
    return supersede(draft(KEY, state), Dot(actor, at), at, *replaced)


FIRST = write(C, 1, inserted({"n": 10, "x": 0}))


def add(actor: ActorId, at: int, base: Item, amount: int) -> Item:
    before = state_of(base).cells["n"]
    assert isinstance(before, int)
    return write(actor, at, edited(base, {"n": before + amount}, ["n"], salt=actor[0]), base)


def put(actor: ActorId, at: int, base: Item, **changes: Cell) -> Item:
    return write(actor, at, edited(base, changes), base)


def met(ours: Item, theirs: Item, actor: ActorId = D, at: int = 900) -> Item:
    """What a device has once another one's version came."""
    if dominates(theirs, ours) != dominates(ours, theirs):
        return theirs if dominates(theirs, ours) else ours
    merged = join(ours, theirs)
    if merged.rewrite is not None:
        return supersede(merged.rewrite, Dot(actor, at), at, ours, theirs)
    winner, loser = (ours, theirs) if merged.winner is Side.OURS else (theirs, ours)
    return winner.knowing(loser)


def shown(item: Item) -> tuple[Cell, list[dict[str, Cell]]]:
    """Return the counter, and what lost."""
    state = state_of(item)
    return state.cells["n"], [one.cells for one in state.losers]


def test_what_two_devices_add_at_once_adds_up_and_nothing_is_a_conflict() -> None:
    ours, theirs = add(A, 5, FIRST, 3), add(B, 6, FIRST, -4)
    assert shown(met(ours, theirs)) == shown(met(theirs, ours)) == (9, [])


def test_additions_to_what_was_joined_add_up_too() -> None:
    joined = met(add(A, 5, FIRST, 3), add(B, 6, FIRST, 4))
    assert shown(met(add(A, 20, joined, 1), add(B, 21, joined, 1)))[0] == 19
    # One side has heard of the join, the other goes on without it.
    late = add(A, 22, add(A, 5, FIRST, 3), 100)
    assert shown(met(add(B, 21, joined, 1), late))[0] == 118


def test_another_column_edited_at_once_is_joined_as_ever() -> None:
    joined = met(add(A, 5, FIRST, 3), put(B, 6, FIRST, x=7))
    assert state_of(joined).cells == {"n": 13, "x": 7}


@pytest.mark.parametrize("later", [4, 9])
def test_a_value_that_was_set_without_knowing_of_an_addition_is_a_conflict(later: int) -> None:
    set_to, added_to = put(B, later, FIRST, n=100), add(A, 5, FIRST, 3)
    # The addition is to a value that was set at 1: what was set since wins, and the sum can be put back.
    assert shown(met(set_to, added_to)) == shown(met(added_to, set_to)) == (100, [{"n": 13}])


def test_a_value_that_was_set_in_knowledge_of_the_additions_replaces_them() -> None:
    one = add(A, 5, FIRST, 3)
    assert shown(met(put(B, 6, one, n=0), one)) == (0, [])
    again = add(A, 7, one, 1)
    assert shown(met(put(B, 6, one, n=0), again)) == (0, [{"n": 14}])


def test_a_delete_wins_and_the_addition_it_did_not_know_can_be_put_back() -> None:
    gone = write(B, 6, removed(FIRST), FIRST)
    joined = state_of(met(gone, add(A, 5, FIRST, 3)))
    assert not joined.live
    assert [one.cells["n"] for one in joined.losers] == [13]


@pytest.mark.parametrize(
    ("before", "after"), [(None, 1), (1, None), (1, 2.0), ("1", 2), (INTEGER_MIN, INTEGER_MAX)]
)
def test_what_is_no_whole_number_or_too_far_away_is_set(before: Cell, after: Cell) -> None:
    assert added(before, after, None, salt=0) is None


def test_a_sum_past_what_sqlite_holds_stays_at_the_end_on_every_device() -> None:
    high = write(C, 1, inserted({"n": INTEGER_MAX - 1, "x": 0}))
    ours, theirs = add(A, 5, high, 1), add(B, 6, high, 1)
    assert shown(met(ours, theirs)) == shown(met(theirs, ours)) == (INTEGER_MAX, [])


def test_one_actors_additions_are_kept_as_two_numbers_however_many_there_are() -> None:
    item = FIRST
    for at in range(5, 500):
        item = add(A, at, item, 1)
    assert shown(item)[0] == 505
    assert len(state_of(item).sums["n"].additions) == 2


def test_past_so_many_actors_a_write_sets_the_column() -> None:
    item = FIRST
    for number in range(ADDITIONS_MAX + 2):
        item = add(ActorId(number.to_bytes(8, "big")[::-1]), 5 + number, item, 1)
    assert shown(item)[0] == 10 + ADDITIONS_MAX + 2
    assert len(state_of(item).sums["n"].additions) <= ADDITIONS_MAX


def test_of_one_actor_the_later_additions_stand_for_the_earlier_ones() -> None:
    early = Sum(0, (Addition(A, 5, 3),))
    later = Sum(0, (Addition(A, 5, 3), Addition(A, 7, 1), Addition(B, 2, 10)))
    assert united(early, later) == united(later, early) == later
    assert united(early, Sum(1, ())) is None


def test_an_addition_that_is_stamped_again_counts_once() -> None:
    """A machine that was set back goes on as another actor; its peers may have the addition under the old name."""
    one = add(A, 5, FIRST, 3)
    again = stamped_again(one, Dot(B, 7), 4)
    assert state_of(again).sums == {}
    assert shown(met(again, one)) == shown(met(one, again)) == (13, [])
    # What it added before the machines parted stays an addition.
    later = put(A, 8, one, x=1)
    assert state_of(stamped_again(later, Dot(B, 9), 6)).sums == state_of(one).sums


ADDS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 2), st.integers(-9, 9)), max_size=16
)


@given(ADDS)
@settings(max_examples=150, deadline=None)
def test_whatever_the_order_every_addition_counts_once(steps: list[tuple[int, bool, int, int]]) -> None:
    held = [FIRST] * 3
    total = 10
    at = 10
    for who, meets, other, amount in steps:
        at += 3
        if meets:
            held[who] = met(held[who], held[other], (A, B, C)[who], at)
        else:
            held[who] = add((A, B, C)[who], at, held[who], amount)
            total += amount
    for first, *others in permutations(held):
        one = first
        for number, theirs in enumerate(others):
            one = met(one, theirs, at=9000 + number)
        assert shown(one) == (total, [])


BROKEN: list[Any] = [
    [[0, 1, []]],
    [[0, 1, [[b"a" * 8, 5, 1]]]],
    [[1, 0, [[b"a" * 8, 5, 1]]]],
    [[0, 9, [[b"a" * 7, 5, 1]]]],
    [[0, 9, [[b"a" * 8, -1, 1]]]],
    [[0, 9, [[None, -1, 1]]]],
    [[0, 9, [[None, 2**32, 1]]]],
    [[0, 8, [[b"b" * 8, 5, 1], [b"a" * 8, 5, 1]]]],
    [[0, 8, [[b"a" * 8, 5, 1], [b"a" * 8, 5, 1]]]],
    [[0, 2**63, [[b"a" * 8, 5, 1]]]],
    [[0, True, [[None, 0, 9]]]],
    [[0, 9, [[None, False, 1]]]],
    [[0, 9, [[b"a" * 8, 5, 1]], 0]],
    [7],
]


@pytest.mark.parametrize("sums", BROKEN)
def test_sums_that_nobody_packs_are_refused(sums: Any) -> None:
    good = [1, None, {"n": 10, "x": "text"}, [], 0, {}, [], [], [[0, 9, [[b"a" * 8, 5, 1]]]]]
    assert unpack(b"\0" + cbor2.dumps(good)).sums == {"n": Sum(9, (Addition(A, 5, 1),))}
    with pytest.raises(ValueError, match=r"sum|addition"):
        unpack(b"\0" + cbor2.dumps([*good[:-1], sums]))


def test_a_state_with_sums_is_packed_as_it_is() -> None:
    state = state_of(met(add(A, 5, FIRST, 3), add(B, 6, FIRST, 4)))
    assert unpack(pack(state)) == state


# In files


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Callable[[], Replica]]:
    """Makes replicas whose apps add to the stock."""
    made: list[Replica] = []
    clock = Clock()

    def make() -> Replica:
        number = len(made) + 1
        made.append(Replica(number, tmp_path / f"{number}.db", STOCK, clock))
        made[-1].source.counters = {"item": ["stock"]}
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_an_app_adds_without_knowing_of_it(counting: Callable[[], Replica]) -> None:
    a, b, c = counting(), counting(), counting()
    a.run("INSERT INTO item VALUES (1, 100, 'screw')")
    exchange(a, b, c)
    a.run("UPDATE item SET stock = stock - 1")
    a.run("UPDATE item SET stock = stock - 1")
    b.run("UPDATE item SET stock = stock + 50, name = 'bolt'")
    c.run("UPDATE item SET stock = 90")
    exchange(a, b, c)
    assert a.tables() == b.tables() == c.tables() == {"item": ["(1, 138, 'bolt')"]}
    assert not a.store.conflicts()
    b.run("UPDATE item SET stock = NULL")
    exchange(a, b, c)
    assert a.tables() == c.tables() == {"item": ["(1, None, 'bolt')"]}


def test_a_device_that_was_not_told_sets_what_others_add_to(counting: Callable[[], Replica]) -> None:
    a, b = counting(), counting()
    b.source.counters = {}
    a.run("INSERT INTO item VALUES (1, 100, 'screw')")
    exchange(a, b)
    a.run("UPDATE item SET stock = stock - 1")
    a.scan()
    b.run("UPDATE item SET stock = stock + 50")
    exchange(a, b)
    assert a.tables() == b.tables() == {"item": ["(1, 150, 'screw')"]}
    assert len(a.store.conflicts()) == len(b.store.conflicts()) == 1
