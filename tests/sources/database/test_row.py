from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import HLC_MAX, Draft, Item, Kind, dominates, supersede
from p2psyncd.core.trie import entry_hash
from p2psyncd.core.version import SEQ_MAX, Dot, pack_vector
from p2psyncd.sources.database import rowstate
from p2psyncd.sources.database.joining import STATE_BYTES_MAX
from p2psyncd.sources.database.row import (
    ACTOR0,
    COLUMNS_MAX,
    LIFE_MAX,
    LOSERS_MAX,
    RESOLVED_MAX,
    UNENFORCED,
    Loser,
    RowState,
    Stamp,
    baseline,
    draft,
    edited,
    has_losers,
    inserted,
    join,
    pack,
    removed,
    resolved,
    revived,
    stamped_again,
    state_of,
    unpack,
)
from p2psyncd.sources.database.sums import Addition, Sum
from p2psyncd.sources.database.values import Cell, RawText, Ref
from p2psyncd.sources.source import Merged, Side

A, B, C, D = (ActorId(letter * 8) for letter in (b"a", b"b", b"c", b"d"))
KEY = b"t/0/1"
BIRTH = b"0123456789"


def write(actor: ActorId, at: int, state: RowState, *replaced: Item) -> Item:
    return supersede(draft(KEY, state), Dot(actor, at), at, *replaced)


def edit(actor: ActorId, at: int, base: Item, **changes: Cell) -> Item:
    return write(actor, at, edited(base, changes), base)


def delete(actor: ActorId, at: int, base: Item) -> Item:
    return write(actor, at, removed(base), base)


FIRST = write(C, 1, inserted({"x": 0, "y": 0, "z": 0}))


def settle(ours: Item, theirs: Item, dot: Dot, now: int) -> Item:
    """What a device that holds `ours` has after `theirs` came, as the ledger does it."""
    if ours.dot == theirs.dot and not ours.same_value(theirs):
        ours = replace(ours, dot=dot)
        dot = Dot(dot.actor, dot.seq + 1)
    elif ours.dot == theirs.dot:
        return ours
    newer, older = dominates(theirs, ours), dominates(ours, theirs)
    if newer != older:
        return theirs if newer else ours
    merged = join(ours, theirs)
    if merged.rewrite is not None:
        return supersede(merged.rewrite, dot, now, ours, theirs)
    winner, loser = (ours, theirs) if merged.winner is Side.OURS else (theirs, ours)
    return winner.knowing(loser)


def met(ours: Item, theirs: Item) -> RowState:
    """The state that two versions make; the same whoever joins them."""
    one = settle(ours, theirs, Dot(D, 1000), 1000)
    other = settle(theirs, ours, Dot(D, 1000), 1000)
    assert state_of(one) == state_of(other)
    return state_of(one)


def losers(state: RowState) -> list[tuple[dict[str, Cell], bool]]:
    return [(one.cells, one.deleted) for one in state.losers]


# What a state is on the wire

VALUES: st.SearchStrategy[Cell] = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.just(RawText(b"\xff")),
    st.builds(Ref, st.integers(-(2**63), 2**63 - 1), st.just(BIRTH)),
)
NAMES = st.text(max_size=4)
CELLS = st.dictionaries(NAMES, VALUES, max_size=5)
STAMPS = st.builds(Stamp, st.integers(0, HLC_MAX), st.sampled_from([A, B]), st.integers(0, SEQ_MAX))


def in_order(cells: dict[str, Cell]) -> dict[str, Cell]:
    return dict(sorted(cells.items()))


@st.composite
def states(draw: st.DrawFn) -> RowState:
    cells = in_order(draw(CELLS))
    base = draw(st.none() | STAMPS)
    stamped = draw(st.dictionaries(st.sampled_from([*cells, ""]), st.none() | STAMPS, max_size=4))
    image = draw(st.dictionaries(st.sampled_from([*cells, ""]), VALUES, max_size=4))
    lost = draw(st.lists(st.tuples(STAMPS, CELLS.filter(bool), st.booleans()), max_size=3))
    return RowState(
        life=draw(st.integers(1, LIFE_MAX)),
        base=base,
        stamps={name: stamp for name, stamp in stamped.items() if name in cells and stamp != base},
        cells=cells,
        losers=tuple(
            Loser(stamp=stamp, cells=in_order(values), deleted=deleted)
            for stamp, values, deleted in sorted(lost, key=lambda one: one[0])
        ),
        resolved=tuple(sorted(draw(st.sets(STAMPS, max_size=3)))),
        image=in_order({name: cell for name, cell in image.items() if name in cells}),
        flags=draw(st.sampled_from([0, UNENFORCED])),
        sums=draw_sums(draw, cells),
    )


def draw_sums(draw: st.DrawFn, cells: dict[str, Cell]) -> dict[str, Sum]:
    """Return what whole numbers among cells may be made of."""
    sums: dict[str, Sum] = {}
    for name, cell in cells.items():
        # An addition must fit, and so must the start.
        if type(cell) is int and abs(cell) < 2**60 and draw(st.booleans()):
            additions = draw(
                st.sets(
                    st.builds(Addition, st.sampled_from([A, B]), st.integers(0, 9), st.integers(-99, 99)),
                    min_size=1,
                    max_size=3,
                )
            )
            start = cell - sum(one.amount for one in additions)
            sums[name] = Sum(start, tuple(sorted(additions)))
    return sums


@given(states())
def test_what_is_packed_comes_back_exactly(state: RowState) -> None:
    meta = pack(state)
    again = unpack(meta)
    assert again == state
    assert pack(again) == meta  # the bits, too: 1 is 1.0 in Python, and not here
    assert list(again.cells) == sorted(state.cells)
    assert has_losers(meta) == bool(state.losers)


@given(st.permutations(["x", "y", "z", "é", "\U0001f600", "Z", "￿"]))
def test_the_order_in_which_an_app_names_columns_does_not_matter(order: list[str]) -> None:
    cells: dict[str, Cell] = dict.fromkeys(order, 1)
    assert pack(inserted(cells)) == pack(inserted(in_order(cells)))
    first = write(A, 1, inserted({"x": 0}))
    assert pack(edited(first, cells)) == pack(edited(first, in_order(cells)))


@given(states(), st.data())
def test_bytes_of_a_peer_are_a_state_or_a_value_error(state: RowState, data: st.DataObject) -> None:
    meta = bytearray(pack(state))
    for _ in range(data.draw(st.integers(1, 3))):
        meta[data.draw(st.integers(0, len(meta) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(meta)[: data.draw(st.integers(0, len(meta)))]
    for broken in (bytes(meta), cut):
        try:
            found = unpack(broken)
        except ValueError:
            continue
        assert unpack(pack(found)) == found


STAMP: list[Any] = [5, A, 6]
SOUND: list[Any] = [
    1,
    STAMP,
    {"a": 1, "b": 2},
    [[[9, A, 9], [0]]],
    1,
    {"a": 0},
    [[STAMP, 0, {"b": 1}]],
    [STAMP],
]


def test_the_example_that_the_next_test_breaks_is_sound() -> None:
    assert unpack(b"\x01" + cbor2.dumps(SOUND)).stamps == {"a": Stamp(9, A, 9)}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 0),
        (0, -1),
        (0, LIFE_MAX + 1),
        (0, True),
        (0, 1.0),
        (1, []),
        (1, [5, A]),
        (1, [5, A[:7], 6]),
        (1, [HLC_MAX + 1, A, 6]),
        (1, [5, A, SEQ_MAX + 1]),
        (1, [-1, A, 6]),
        (1, [5, A, True]),
        (2, [1, 2]),
        (2, {"b": 1, "a": 2}),
        (2, {b"a": 1, b"b": 2}),
        (2, {"a": 2**63, "b": 1}),
        (2, {"a": -(2**63) - 1, "b": 1}),
        (2, {"a": float("nan"), "b": 1}),
        (2, {"a": True, "b": 1}),
        (2, {"a": [b"utf-8"], "b": 1}),
        (2, {"a": [b"\xff", 1], "b": 1}),
        (2, {"a": [1, b"short"], "b": 1}),
        (2, {"a": [2**63, BIRTH], "b": 1}),
        (2, {"a": [True, BIRTH], "b": 1}),
        (2, {"a": {}, "b": 1}),
        (2, {"a" * 1025: 1, "b": 2}),
        (2, {"a": 1, "\U0001f600" * 257: 1}),
        (2, {f"{number:05}": 0 for number in range(COLUMNS_MAX + 1)}),
        (3, [[STAMP, [0]]]),  # that is the base
        (3, [[None, [0, 0]]]),
        (3, [[None, [1, 0]]]),
        (3, [[None, [2]]]),
        (3, [[None, [-1]]]),
        (3, [[None, []]]),
        (3, [[None, [0]], [None, [1]]]),
        (3, [[[9, A, 9], [0]], [None, [1]]]),
        (3, [[[9, A, 9], [0]], [[8, A, 9], [1]]]),
        (3, [[[8, A, 9], [0]], [[9, A, 9], [0]]]),
        (3, [[[9, A, 9]]]),
        (3, {}),
        (4, -1),
        (4, 2**16),
        (4, True),
        (5, {"c": 1}),
        (5, []),
        (6, [[STAMP, 0, {}]]),
        (6, [[STAMP, 2, {"b": 1}]]),
        (6, [[STAMP, False, {"b": 1}]]),
        (6, [[STAMP, {"b": 1}]]),
        (6, [[STAMP, 0, {"b": 1}]] * (LOSERS_MAX + 1)),
        (6, [[[9, A, 9], 0, {"b": 1}], [STAMP, 0, {"b": 1}]]),
        (6, []),  # the first byte says that there are some
        (7, [[number, A, 1] for number in range(RESOLVED_MAX + 1)]),
        (7, [STAMP, STAMP]),
        (7, []),
        (7, {}),
    ],
)
def test_a_state_that_nobody_would_pack_is_refused(place: int, value: object) -> None:
    fields = [*SOUND]
    fields[place] = value
    with pytest.raises(ValueError, match=r"broken|beyond|not a number|no value|marked|range"):
        unpack(b"\x01" + cbor2.dumps(fields))


@pytest.mark.parametrize(
    "meta",
    [
        b"",
        b"\x00",
        b"\x01" + cbor2.dumps(SOUND[:3]),
        b"\x00" + cbor2.dumps(SOUND),
        b"\x02" + cbor2.dumps(SOUND[:3]),
        b"\x00" + cbor2.dumps(SOUND[:2]),
        b"\x01" + cbor2.dumps([*SOUND, 1]),
        b"\x00" + cbor2.dumps("text"),
        b"\x00" + cbor2.dumps([1, None, {"a": cbor2.CBORTag(2, b"\x01")}]),
        b"\x00\x83\x01\xf6\xa2\x61a\x01\x61a\x02",  # one column twice
        b"\x00\x83\x01\xf6\xbf\x61a\x01\xff",  # an indefinite length
        b"\x00\x84\x01\xf6\xa1\x61a\x01\x81\x82\xf6\x81\x00",  # own stamps upon an own base
        b"\x00" + b"\x81" * 50,
    ],
)
def test_what_is_no_state_at_all_is_refused(meta: bytes) -> None:
    with pytest.raises(ValueError, match="a row's state is broken"):
        unpack(meta)


def test_an_item_that_says_it_is_there_and_its_state_that_it_is_not_is_no_row() -> None:
    for kind, state in (
        (Kind.TOMBSTONE, inserted({"x": 1})),
        (Kind.ROW, removed(FIRST)),
        (Kind.FILE, inserted({})),
    ):
        with pytest.raises(ValueError, match="kind"):
            state_of(replace(FIRST, kind=kind, meta=pack(state)))


def test_a_plain_new_row_costs_a_dozen_bytes_beside_its_values() -> None:
    cells: dict[str, Cell] = {"id": 1, "name": "some text"}
    assert len(pack(inserted(cells))) == len(cbor2.dumps(cells)) + 4
    assert (
        len(edit(A, 2, write(A, 1, inserted(cells)), name="other text").meta) < len(cbor2.dumps(cells)) + 24
    )


# Writes


def test_own_stamps_are_those_of_the_item_that_carries_them() -> None:
    once = write(A, 10, inserted({"x": 1, "y": 1}))
    twice = edit(B, 20, once, y=2)
    assert state_of(once).stamp("x") == Stamp(10, A, 10)
    assert state_of(twice).stamp("x") == Stamp(10, A, 10)
    assert state_of(twice).stamp("y") == Stamp(20, B, 20)
    assert unpack(twice.meta).stamps == {"y": None}


def test_a_write_sets_columns_and_leaves_the_others() -> None:
    state = edited(edit(A, 5, FIRST, x=1), {"y": 2, "a": 3})
    assert state.cells == {"a": 3, "x": 1, "y": 2, "z": 0}
    assert list(state.cells) == ["a", "x", "y", "z"]
    assert state.stamps == {"x": Stamp(5, A, 5), "y": None, "a": None}


def test_a_delete_keeps_the_last_values_and_a_return_brings_its_own() -> None:
    gone = delete(A, 9, edit(A, 5, FIRST, x=1))
    assert gone.kind is Kind.TOMBSTONE
    assert state_of(gone).cells == {"x": 1, "y": 0, "z": 0}
    again = write(A, 12, revived(gone, {"x": 7}), gone)
    assert again.kind is Kind.ROW
    state = state_of(again)
    assert (state.life, state.cells, state.stamp("x")) == (3, {"x": 7}, Stamp(12, A, 12))


def test_what_is_not_there_is_not_edited_and_what_is_there_does_not_come_back() -> None:
    gone = delete(A, 9, FIRST)
    for wrong in (lambda: edited(gone, {"x": 1}), lambda: removed(gone), lambda: revived(FIRST, {})):
        with pytest.raises(ValueError, match="row"):
            wrong()


def test_a_row_comes_and_goes_for_ever_whatever_a_peer_claims() -> None:
    last = replace(FIRST, kind=Kind.TOMBSTONE, meta=pack(RowState(life=LIFE_MAX, cells={})))
    again = write(A, 12, revived(last, {"x": 7}), last)
    assert (again.live, state_of(again).life) == (True, LIFE_MAX - 1)
    assert state_of(delete(A, 13, again)).life == LIFE_MAX


def test_the_flags_are_those_of_the_write_that_came_or_went() -> None:
    assert inserted({}, UNENFORCED).flags == UNENFORCED
    assert state_of(edit(A, 2, write(A, 1, inserted({"x": 0}, UNENFORCED)), x=1)).flags == UNENFORCED
    gone = write(A, 9, removed(FIRST, UNENFORCED), FIRST)
    assert state_of(gone).flags == UNENFORCED
    assert revived(gone, {}).flags == 0


def test_a_tombstone_of_the_engine_has_never_lived_and_loses_to_every_row() -> None:
    bare = supersede(Draft(key=KEY, kind=Kind.TOMBSTONE), Dot(A, 50), 50)
    assert state_of(bare).life == 0
    assert join(bare, FIRST) == Merged(winner=Side.THEIRS)
    assert join(FIRST, bare) == Merged(winner=Side.OURS)
    assert revived(bare, {"x": 1}).life == 1


# Two versions


def test_different_columns_of_one_row_are_both_kept_and_nothing_lost() -> None:
    state = met(edit(A, 10, FIRST, x=1), edit(B, 20, FIRST, y=2))
    assert state.cells == {"x": 1, "y": 2, "z": 0}
    assert state.losers == ()
    assert (state.stamp("x"), state.stamp("y"), state.stamp("z")) == (
        Stamp(10, A, 10),
        Stamp(20, B, 20),
        Stamp(1, C, 1),
    )


def test_of_one_column_the_later_write_wins_and_the_other_is_kept() -> None:
    state = met(edit(A, 10, FIRST, x=1, y=1), edit(B, 20, FIRST, x=2, z=2))
    assert state.cells == {"x": 2, "y": 1, "z": 2}
    assert state.losers == (Loser(stamp=Stamp(10, A, 10), cells={"x": 1}),)


def test_what_one_write_lost_in_several_columns_is_one_loser() -> None:
    state = met(edit(A, 10, FIRST, x=1, y=1), edit(B, 20, FIRST, x=2, y=2))
    assert losers(state) == [({"x": 1, "y": 1}, False)]


def test_equal_values_are_no_conflict_whoever_wrote_them() -> None:
    ours, theirs = edit(A, 10, FIRST, x=5), edit(B, 20, FIRST, x=5)
    assert join(ours, theirs) == Merged(winner=Side.THEIRS)
    assert join(theirs, ours) == Merged(winner=Side.OURS)


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (0.0, -0.0), ("a", b"a"), ("", None)])
def test_values_of_two_types_are_two_values(one: Cell, other: Cell) -> None:
    state = met(edit(A, 10, FIRST, x=one), edit(B, 20, FIRST, x=other))
    assert repr(state.cells["x"]) == repr(other)
    assert repr(losers(state)) == repr([({"x": one}, False)])


def test_who_knew_the_other_write_overrules_it_without_a_conflict() -> None:
    ours = edit(A, 10, FIRST, x=1)
    theirs = edit(B, 30, edit(B, 20, ours, x=2), y=1)
    mine = edit(A, 15, ours, z=9)
    state = met(mine, theirs)
    assert state.cells == {"x": 2, "y": 1, "z": 9}
    assert state.losers == ()


def test_a_side_that_has_it_all_wins_without_a_new_write() -> None:
    ours, theirs = edit(A, 10, FIRST, x=1), edit(B, 20, FIRST, x=2)
    joined = settle(ours, theirs, Dot(A, 30), 30)
    late = write(C, 5, edited(FIRST, {"x": 2}), FIRST)  # an older write of what won
    assert join(joined, late) == Merged(winner=Side.OURS)
    assert join(late, joined) == Merged(winner=Side.THEIRS)


def test_two_devices_that_join_the_same_two_make_one_and_the_same() -> None:
    ours, theirs = edit(A, 10, FIRST, x=1), edit(B, 20, FIRST, x=2)
    one = settle(ours, theirs, Dot(A, 30), 30)
    other = settle(theirs, ours, Dot(B, 40), 40)
    assert one.meta == other.meta
    assert join(one, other) == Merged(winner=Side.THEIRS)


def test_a_delete_beats_an_edit_that_it_did_not_know_and_the_edit_is_kept() -> None:
    gone = delete(A, 10, FIRST)
    state = met(gone, edit(B, 20, FIRST, x=2))
    assert not state.live
    assert state.cells == {"x": 0, "y": 0, "z": 0}
    assert state.losers == (Loser(stamp=Stamp(20, B, 20), cells={"x": 2}, deleted=True),)


def test_a_delete_of_what_it_knew_is_no_conflict() -> None:
    once = edit(B, 20, FIRST, x=2)
    gone = delete(A, 30, once)
    # The same edit comes once more, with a write that changed nothing.
    again = write(C, 25, state_of(once), once)
    assert join(gone, again) == Merged(winner=Side.OURS)


def test_a_new_row_under_the_key_of_a_deleted_one_loses_nothing_to_it() -> None:
    gone = delete(A, 30, FIRST)
    other = write(B, 40, inserted({"x": 7, "y": 7}))
    state = met(gone, other)
    assert losers(state) == [({"x": 7, "y": 7}, True)]


def test_two_deletes_are_one() -> None:
    assert join(delete(A, 30, FIRST), delete(B, 20, FIRST)) == Merged(winner=Side.OURS)
    edits = edit(A, 10, FIRST, x=1), edit(B, 20, FIRST, x=2)
    state = met(delete(A, 30, edits[0]), delete(B, 25, edits[1]))
    assert (state.live, state.losers, state.cells["x"]) == (False, (), 2)


def test_what_one_of_two_deletes_knew_is_lost_to_neither() -> None:
    row = edit(A, 10, FIRST, x=1)
    ours, theirs = delete(A, 30, row), delete(B, 25, edit(B, 20, FIRST, x=2))
    joined = settle(theirs, ours, Dot(B, 40), 40)
    assert state_of(joined) == state_of(theirs)
    assert joined.dot == Dot(B, 40)  # a device that has `theirs` hears that `row` was deleted knowingly
    assert dominates(joined, row)


def test_a_row_that_was_deleted_and_came_back_beats_the_edit_of_the_old_one() -> None:
    gone = delete(A, 10, FIRST)
    back = write(A, 11, revived(gone, {"x": 7, "y": 7, "z": 7}), gone)
    state = met(back, edit(B, 50, FIRST, x=2))
    assert state.cells == {"x": 7, "y": 7, "z": 7}
    assert losers(state) == [({"x": 2}, True)]


def test_losers_stay_until_they_are_settled_or_shown() -> None:
    joined = settle(edit(A, 10, FIRST, x=1, y=1), edit(B, 20, FIRST, x=2, y=2), Dot(A, 30), 30)
    assert losers(edited(joined, {"z": 5})) == [({"x": 1, "y": 1}, False)]
    assert losers(edited(joined, {"x": 1})) == [({"y": 1}, False)]
    assert losers(removed(joined)) == [({"x": 1, "y": 1}, True)]
    assert losers(revived(delete(A, 40, joined), {"x": 3, "y": 3})) == [({"x": 1, "y": 1}, True)]
    assert resolved(joined).losers == ()
    assert resolved(joined).resolved == (Stamp(10, A, 10),)
    assert resolved(joined, {"x": 1}).cells == {"x": 1, "y": 2, "z": 0}


def test_what_is_settled_does_not_come_back_with_a_device_that_was_away() -> None:
    ours, theirs = edit(A, 10, FIRST, x=1), edit(B, 20, FIRST, x=2)
    joined = settle(ours, theirs, Dot(A, 30), 30)
    settled = write(A, 40, resolved(joined), joined)
    later = edit(C, 35, joined, y=9)  # has the conflict still
    assert met(settled, later).losers == ()
    assert met(settled, edit(A, 50, ours, z=3)).losers == ()


def test_an_edit_that_lost_to_a_delete_comes_back_when_its_loser_is_settled_so() -> None:
    gone = settle(delete(A, 10, FIRST), edit(B, 20, FIRST, x=2), Dot(A, 30), 30)
    (lost,) = state_of(gone).losers
    back = resolved(gone, lost.cells)
    assert (back.life, back.cells, back.losers) == (3, {"x": 2, "y": 0, "z": 0}, ())


def test_the_image_is_the_row_that_the_newest_write_left() -> None:
    ours, theirs = edit(A, 10, FIRST, x=1), edit(B, 20, FIRST, y=2)
    joined = settle(ours, theirs, Dot(A, 30), 30)
    assert state_of(joined).image == {"x": 0}
    assert {**state_of(joined).cells, **state_of(joined).image} == state_of(theirs).cells
    assert edited(joined, {"x": 5}).image == {}
    assert edited(joined, {"z": 5}).image == {"x": 0}


def test_a_local_edit_loses_nothing_that_this_device_itself_wrote_meanwhile() -> None:
    # The version that waits was made by this device, too; the app's write did not know it.
    waiting = edit(A, 10, FIRST, x=1)
    found = edit(A, 20, FIRST, x=2)
    assert found.covers(waiting.dot)
    decided, again = join(found, waiting).rewrite, join(waiting, found).rewrite
    assert decided is not None
    assert decided == again
    assert losers(unpack(decided.meta)) == [({"x": 1}, False)]


def test_a_write_that_went_on_as_two_keeps_both_values() -> None:
    # A disk was copied, and both machines made the same number.
    ours, theirs = edit(A, 10, FIRST, x=1), edit(A, 10, FIRST, x=2)
    ours, theirs = edit(B, 20, ours, y=1), edit(C, 21, theirs, z=1)
    state = met(ours, theirs)
    assert state.cells == {"x": 2, "y": 1, "z": 1}
    assert state.losers == (Loser(stamp=Stamp(10, A, 10), cells={"x": 1}),)


def test_a_version_that_cannot_be_read_loses() -> None:
    broken = replace(FIRST, dot=Dot(D, 99), hlc=99, meta=b"nonsense")
    assert join(FIRST, broken) == Merged(winner=Side.OURS)
    assert join(broken, FIRST) == Merged(winner=Side.THEIRS)
    worse = replace(broken, dot=Dot(D, 100), meta=b"other nonsense")
    assert join(broken, worse).winner is not join(worse, broken).winner


def test_of_very_many_losers_the_newest_are_kept() -> None:
    joined = edit(A, 1000, FIRST, x=-1)
    for number in range(LOSERS_MAX + 5):
        actor = ActorId(number.to_bytes(8, "big"))
        joined = settle(joined, edit(actor, 10 + number, FIRST, x=number + 1), Dot(A, 2000 + number), 2000)
    kept = [one.stamp.hlc for one in state_of(joined).losers]
    assert kept == list(range(15, 15 + LOSERS_MAX))


def test_a_joined_row_fits_into_a_record_and_keeps_what_it_can() -> None:
    megabyte = bytes(2**20)
    ours = edit(A, 10, FIRST, x=b"1" + megabyte, y=b"1")
    theirs = edit(B, 20, FIRST, x=b"2" + megabyte, z=b"2" + megabyte)
    joined = settle(ours, theirs, Dot(A, 30), 30)
    assert len(joined.meta) <= STATE_BYTES_MAX
    assert (len(losers(state_of(joined))), state_of(joined).image) == (0, {})
    assert state_of(joined).cells["y"] == b"1"
    assert join(joined, ours) == join(joined, theirs) == Merged(winner=Side.OURS)
    smaller = settle(
        edit(A, 10, FIRST, x=b"1" + megabyte), edit(B, 20, FIRST, x=b"2" + megabyte), Dot(A, 30), 30
    )
    assert len(losers(state_of(smaller))) == 1


# Rows that were there at the first sight


def test_equal_rows_of_a_first_sight_are_one_version_and_different_ones_two_entries() -> None:
    ours, same = baseline(KEY, {"x": 1, "y": 2}), baseline(KEY, {"y": 2, "x": 1})
    assert ours == same
    assert (ours.dot, ours.hlc) == (Dot(ACTOR0, 0), 0)
    other = baseline(KEY, {"x": 1, "y": 2.0})
    assert entry_hash(ours) != entry_hash(other)


def test_of_two_different_rows_of_a_first_sight_one_wins_whole_and_the_other_is_kept_whole() -> None:
    rows: list[dict[str, Cell]] = [{"x": 1, "y": 2}, {"x": 2, "y": 1}]
    ours, theirs = (baseline(KEY, row) for row in rows)
    # The ledger gives ours a name of its own before it asks; the draft is the same with and without.
    named = join(replace(ours, dot=Dot(A, 5)), theirs).rewrite
    assert named is not None
    assert {named, join(ours, theirs).rewrite} == {join(theirs, ours).rewrite}
    assert join(replace(theirs, dot=Dot(B, 7)), ours).rewrite == named
    state = unpack(named.meta)
    assert [state.cells] + [cells for cells, _ in losers(state)] in (rows, rows[::-1])


def test_an_edit_beats_the_row_of_a_first_sight_but_not_silently() -> None:
    ours, theirs = baseline(KEY, {"x": 1, "y": 1}), baseline(KEY, {"x": 2, "y": 2})
    changed = edit(A, 10, ours, x=5)
    joined = unpack((join(changed, theirs).rewrite or changed).meta)
    assert joined.cells["x"] == 5
    known = {repr(one) for one in [joined.cells, *(one.cells for one in joined.losers)]}
    assert any("2" in one for one in known)
    # The row that was edited was known.
    assert not any(one.cells.get("x") == 1 for one in joined.losers)


def test_three_rows_of_a_first_sight_make_the_same_in_every_order() -> None:
    rows = [baseline(KEY, {"x": number, "y": -number}) for number in (1, 2, 3)]
    found = set()
    for order in permutations(rows):
        joined = order[0]
        for at, one in enumerate(order[1:]):
            decided = join(replace(joined, dot=Dot(A, 5)), one).rewrite
            assert decided is not None
            joined = supersede(decided, Dot(A, 6 + at), 6, joined, one)
        found.add(joined.meta)
    assert len(found) == 1
    assert len(unpack(found.pop()).losers) == 2


def test_a_settled_row_of_a_first_sight_does_not_come_back() -> None:
    ours, theirs = baseline(KEY, {"x": 1}), baseline(KEY, {"x": 2})
    joined = write(A, 5, unpack((join(ours, theirs).rewrite or ours).meta), ours, theirs)
    settled = write(A, 6, resolved(joined), joined)
    assert state_of(settled).losers == ()
    for one in (ours, theirs):
        assert join(settled, one) == Merged(winner=Side.OURS)


@pytest.mark.parametrize("step", ["edit", "show the loser", "come back", "settle by a return"])
def test_a_row_of_a_first_sight_that_was_known_stays_known(step: str) -> None:
    ours, theirs = baseline(KEY, {"x": 1, "y": 1}), baseline(KEY, {"x": 2, "y": 2})
    item = write(A, 5, unpack((join(ours, theirs).rewrite or ours).meta), ours, theirs)
    (lost,) = state_of(item).losers
    match step:
        case "edit":
            item = edit(A, 6, item, x=7, y=7)
        case "show the loser":
            item = edit(A, 6, edit(A, 6, item, **lost.cells), x=7, y=7)
        case "come back":
            gone = delete(A, 6, item)
            item = write(A, 7, revived(gone, {"x": 7, "y": 7}), gone)
        case _:
            gone = delete(A, 6, item)
            item = write(A, 7, resolved(gone, {"x": 7, "y": 7}), gone)
    for one in (ours, theirs):
        assert join(item, one) == Merged(winner=Side.OURS)


# Any order


@dataclass
class Replica:
    """A device: what it holds, and its next number."""

    actor: ActorId
    item: Item | None = None
    seq: int = 0
    skew: int = 0
    written: list[Item] = field(default_factory=list)

    def dot(self) -> Dot:
        self.seq += 1
        return Dot(self.actor, self.seq)

    def take(self, theirs: Item, now: int) -> None:
        if self.item is None:
            self.item = theirs
        else:
            self.item = settle(self.item, theirs, self.dot(), now + self.skew)
            self.seq += 1

    def do(self, step: str, column: str, values: dict[str, Cell], now: int) -> None:
        """One act of a user; `values` are for all columns."""
        at = now + self.skew
        item = self.item
        if item is None:
            self.item = write_as(self, inserted(values), at)
        elif step == "settle":
            self.item = write_as(self, resolved(item), at)
        elif not item.live:
            if step == "insert":
                self.item = write_as(self, revived(item, values), at)
        elif step == "delete":
            self.item = write_as(self, removed(item), at)
        elif step == "add":
            before = state_of(item).cells["n"]
            assert isinstance(before, int)
            self.item = write_as(
                self, edited(item, {"n": before + len(column) + now}, ["n"], salt=self.actor[0]), at
            )
        else:
            self.item = write_as(self, edited(item, {column: values[column]}), at)


def write_as(replica: Replica, state: RowState, at: int) -> Item:
    replaced = [replica.item] if replica.item is not None else []
    made = supersede(draft(KEY, state), replica.dot(), at, *replaced)
    replica.written.append(made)
    return made


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["edit", "edit", "edit", "add", "add", "delete", "insert", "settle", "meet", "meet"]),
        st.sampled_from(["x", "y", "n"]),
        st.integers(0, 2),
    ),
    max_size=14,
)


def run(steps: list[tuple[int, str, str, int]], skews: list[int], *, distinct: bool) -> list[Replica]:
    """Let three devices write and meet."""
    replicas = [Replica(actor, skew=skew) for actor, skew in zip((A, B, C), skews, strict=True)]
    for now, (who, step, column, value) in enumerate(steps, start=10):
        if step == "meet":
            theirs = replicas[value].item
            if theirs is not None and value != who:
                replicas[who].take(theirs, now)
        else:
            values: dict[str, Cell] = {
                name: 10 * now + place if distinct else value for place, name in enumerate("nxyz")
            }
            replicas[who].do(step, column, values, now)
    return replicas


def exchange(replicas: list[Replica], order: list[tuple[int, int]]) -> None:
    """Let all meet until nothing changes."""
    for number in range(12):
        before = [one.item for one in replicas]
        for to, of in order:
            theirs = replicas[of].item
            if theirs is not None:
                replicas[to].take(theirs, 100 + number)
        if [one.item for one in replicas] == before:
            return
    raise AssertionError("the devices go on writing for ever")


PAIRS = [(to, of) for to in range(3) for of in range(3) if to != of]
SKEWS = st.lists(st.sampled_from([0, 0, 5, -5]), min_size=3, max_size=3)


@given(STEPS, SKEWS, st.permutations(PAIRS))
@settings(max_examples=150, deadline=None)
def test_devices_that_meet_in_any_order_come_to_one_row_and_stop_writing(
    steps: list[tuple[int, str, str, int]], skews: list[int], order: list[tuple[int, int]]
) -> None:
    replicas = run(steps, skews, distinct=False)
    exchange(replicas, order)
    items = [one.item for one in replicas if one.item is not None]
    assert len({(item.dot, item.meta) for item in items}) <= 1


def without_lost_sums(state: RowState) -> RowState:
    """Return a state without what is listed of a counter: two totals that lost, or that of both, whoever met first."""
    rest = [
        replace(one, cells={n: cell for n, cell in one.cells.items() if n != "n"}) for one in state.losers
    ]
    return replace(state, losers=tuple(one for one in rest if one.cells))


@given(STEPS, SKEWS, st.permutations(PAIRS), st.permutations(PAIRS))
@example(
    [(2, "edit", "x", 0), (0, "meet", "x", 2), (0, "add", "x", 0), (1, "edit", "x", 0), (2, "add", "x", 0)],
    [0, 0, 0],
    [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)],
    [(0, 2), (0, 1), (1, 0), (1, 2), (2, 0), (2, 1)],
)
@settings(max_examples=150, deadline=None)
def test_the_outcome_does_not_depend_on_the_order_in_which_versions_meet(
    steps: list[tuple[int, str, str, int]],
    skews: list[int],
    order: list[tuple[int, int]],
    other_order: list[tuple[int, int]],
) -> None:
    # Which of two equal values stands for both depends on who meets first: then what loses later may, too.
    for distinct in (True, False):
        outcomes = []
        for one_order in (order, other_order):
            replicas = run(steps, skews, distinct=distinct)
            exchange(replicas, one_order)
            outcomes += [state_of(one.item) for one in replicas[:1] if one.item is not None]
        if not distinct:
            outcomes = [replace(state, losers=()) for state in outcomes]
        if any(step == "add" for _, step, _, _ in steps):
            outcomes = list(map(without_lost_sums, outcomes))
        assert outcomes[:1] == outcomes[1:]


@given(STEPS, SKEWS, st.data())
@settings(max_examples=150, deadline=None)
def test_the_join_is_symmetric_and_idempotent(
    steps: list[tuple[int, str, str, int]], skews: list[int], data: st.DataObject
) -> None:
    replicas = run(steps, skews, distinct=data.draw(st.booleans()))
    items = [item for one in replicas for item in [*one.written, one.item] if item is not None]
    if not items:
        return
    ours, theirs = data.draw(st.sampled_from(items)), data.draw(st.sampled_from(items))
    there, back = join(ours, theirs), join(theirs, ours)
    assert there.rewrite == back.rewrite
    if ours.dot != theirs.dot:
        assert there.winner is not back.winner
    result = met(ours, theirs)
    joined = write(D, 500, result, ours, theirs)
    for one in (ours, theirs):
        assert (join(joined, one).rewrite or joined).meta == joined.meta
    assert unpack(pack(result)) == result


@given(STEPS, SKEWS)
@settings(max_examples=150, deadline=None)
def test_no_value_is_lost_that_nobody_replaced_knowingly(
    steps: list[tuple[int, str, str, int]], skews: list[int]
) -> None:
    replicas = run([step for step in steps if step[1] != "settle"], skews, distinct=True)
    writes = [item for one in replicas for item in one.written]
    exchange(replicas, PAIRS)
    if replicas[0].item is None:
        return
    final = state_of(replicas[0].item)
    kept = {*final.cells.items(), *(pair for one in final.losers for pair in one.cells.items())}
    for item in writes:
        known = [other for other in writes if other is not item and other.covers(item.dot)]
        state = unpack(item.meta)
        own = [name for name in state.cells if state.stamp(name) is None]
        # Whoever knew it and deleted the row, or set the column, replaced it.
        replaced = {
            name
            for other in known
            for name in own
            if not other.live or state_of(other).cells[name] != state.cells[name]
        }
        if state.live:
            assert {(name, state.cells[name]) for name in own if name not in replaced} <= kept


def test_what_is_stamped_again_is_known_to_nobody_else_who_went_by_that_actor() -> None:
    first = write(A, 1, inserted({"x": "first", "y": "first"}))
    here = edit(A, 3, edit(A, 2, first, x="here"), y="here")
    there = edit(A, 9, first, x="there", y="there")  # a copy of the disk went on as the same actor
    again = stamped_again(replace(here, vector=pack_vector({A: 1})), Dot(B, 4), since=1)
    state = state_of(again)
    assert again.hlc > here.hlc
    assert dict(state.cells) == {"x": "here", "y": "here"}
    assert {state.stamp(name).actor for name in ("x", "y")} == {B}  # type: ignore[union-attr]
    joined = join(again, there)
    assert joined.rewrite is not None
    made = unpack(joined.rewrite.meta)
    assert {value for one in made.losers for value in one.cells.values()} == {"here"}
    # Who has it under its old name takes the new one over, and so does not lose it to the other.
    old = join(here, again)
    assert old == Merged(winner=Side.THEIRS)
    assert stamped_again(first, Dot(B, 4), since=1).meta == first.meta


def test_a_delete_that_is_stamped_again_needs_no_state() -> None:
    gone = Item(key=KEY, kind=Kind.TOMBSTONE, digest=b"", size=0, meta=b"", dot=Dot(A, 1), hlc=1)
    assert stamped_again(gone, Dot(B, 2), since=-1) == replace(gone, dot=Dot(B, 2), hlc=2)


def test_names_that_a_peer_makes_up_do_not_fill_the_memory() -> None:
    item = write(A, 1, inserted({"a": 1}))
    long = "\U0001f600" * 1025
    for names in ([long], [long + "a"], ["b", "a"], ["\u20ac" * 400], *([f"a{n}"] for n in range(100))):
        meta = b"\0" + cbor2.dumps([1, None, dict.fromkeys(names)])
        assert rowstate.is_sound(replace(item, meta=meta)) == (len(names) == 1 and len(names[0]) < 10)
    are_names = rowstate.are_names
    assert are_names.cache_info().currsize == are_names.cache_parameters()["maxsize"] == 16
