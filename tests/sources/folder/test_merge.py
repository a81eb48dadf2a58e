from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Item, Kind, dominates, supersede, wins
from p2psyncd.core.version import Dot
from p2psyncd.sources.folder.attributes import Attributes, capture, decode, encode
from p2psyncd.sources.folder.conflicts import aside_key
from p2psyncd.sources.folder.merge import merge
from p2psyncd.sources.source import Merged, Side

A, B, C = ActorId(b"a" * 8), ActorId(b"b" * 8), ActorId(b"c" * 8)
KEY = b"d/f.txt"


def value(
    kind: Kind, content: bytes = b"", *, mode: int = 0o644, mtime_ns: int = 1, base: Item | None = None
) -> Draft:
    """What a scan would capture of such a thing over `base`."""
    if kind is Kind.TOMBSTONE:
        return Draft(key=KEY, kind=kind)
    digest = b"" if kind is Kind.DIRECTORY else blake3(content).digest()
    target = content if kind is Kind.SYMLINK else None
    meta = capture(kind, digest, Attributes(mode=mode, mtime_ns=mtime_ns, target=target), base, base)
    return Draft(key=KEY, kind=kind, digest=digest, size=len(content) if kind is Kind.FILE else 0, meta=meta)


def write(actor: ActorId, seq: int, draft: Draft, *replaced: Item, at_us: int | None = None) -> Item:
    return supersede(draft, Dot(actor, seq), seq if at_us is None else at_us, *replaced)


BASE = write(C, 1, value(Kind.FILE, b"base"))


def file(
    actor: ActorId,
    seq: int,
    content: bytes,
    base: Item | None = BASE,
    *,
    mode: int = 0o644,
    mtime_ns: int = 1,
) -> Item:
    draft = value(Kind.FILE, content, mode=mode, mtime_ns=mtime_ns, base=base)
    return write(actor, seq, draft, *([base] if base is not None else []))


def result(ours: Item, theirs: Item) -> Draft | Item:
    """The value that the key has after a merge."""
    merged = merge(ours, theirs)
    return merged.rewrite or (ours if merged.winner is Side.OURS else theirs)


def test_two_edits_keep_both_the_loser_aside() -> None:
    ours, theirs = file(A, 10, b"ours"), file(B, 20, b"theirs")
    merged = merge(ours, theirs)
    assert (merged.winner, merged.rewrite) == (Side.THEIRS, None)
    assert merged.aside is not None
    assert merged.aside.key == aside_key(ours)
    assert merged.aside.digest == ours.digest
    assert decode(merged.aside.meta).mtime_ns == 1


def test_the_same_edit_on_both_sides_is_no_conflict() -> None:
    merged = merge(file(A, 10, b"same"), file(B, 20, b"same", mtime_ns=9))
    assert merged == Merged(winner=Side.THEIRS)
    assert merge(file(A, 10, b"same"), file(B, 20, b"same")) == Merged(winner=Side.THEIRS)


@pytest.mark.parametrize("later", ["edit", "delete"])
def test_an_edit_survives_a_delete(later: str) -> None:
    edit = file(A, 20 if later == "edit" else 10, b"edited")
    delete = write(B, 15, value(Kind.TOMBSTONE), BASE)
    merged = merge(edit, delete)
    assert merged.aside is None
    if later == "edit":
        assert merged == Merged(winner=Side.OURS)
    else:
        assert merged.winner is Side.THEIRS
        assert merged.rewrite is not None
        assert merged.rewrite.digest == edit.digest


def test_two_deletes_are_one() -> None:
    ours, theirs = (
        write(A, 10, value(Kind.TOMBSTONE), BASE),
        write(B, 9, value(Kind.TOMBSTONE), BASE),
    )
    assert merge(ours, theirs) == Merged(winner=Side.OURS)


@pytest.mark.parametrize("seq", [10, 30])
def test_an_edit_wins_over_a_mere_touch_without_a_copy(seq: int) -> None:
    touched, edited = file(A, seq, b"base", mtime_ns=99), file(B, 20, b"edited", mtime_ns=50)
    assert merge(touched, edited).aside is None
    final = result(touched, edited)
    assert final.digest == edited.digest
    assert decode(final.meta).mtime_ns == 50


@pytest.mark.parametrize("seq", [10, 30])
def test_a_chmod_and_an_edit_both_take_effect(seq: int) -> None:
    changed, edited = file(A, seq, b"base", mode=0o755), file(B, 20, b"edited", mtime_ns=50)
    assert merge(changed, edited).aside is None
    final = result(changed, edited)
    assert final.digest == edited.digest
    assert (decode(final.meta).mode, decode(final.meta).mtime_ns) == (0o755, 50)


def test_a_chmod_joins_an_edit_that_was_edited_again() -> None:
    once = file(B, 20, b"once")
    twice = file(B, 25, b"twice", once)
    changed = file(A, 30, b"base", mode=0o600)
    final = result(changed, twice)
    assert (final.digest, decode(final.meta).mode) == (twice.digest, 0o600)
    assert merge(changed, twice).aside is None


def test_a_chmod_joins_a_touch() -> None:
    final = result(file(A, 10, b"base", mode=0o755), file(B, 20, b"base", mtime_ns=50))
    assert (decode(final.meta).mode, decode(final.meta).mtime_ns) == (0o755, 50)


def test_two_chmods_end_in_the_later_one() -> None:
    final = result(file(A, 10, b"base", mode=0o755), file(B, 20, b"base", mode=0o600))
    assert decode(final.meta).mode == 0o600


def test_the_same_chmod_on_both_sides_stays_with_the_later_edit() -> None:
    final = result(file(A, 10, b"one", mode=0o755), file(B, 20, b"two", mode=0o755))
    assert decode(final.meta).mode == 0o755


def test_a_new_file_on_both_sides_conflicts() -> None:
    merged = merge(file(A, 10, b"one", None), file(B, 20, b"two", None))
    assert merged.aside is not None


@pytest.mark.parametrize("seq", [10, 30])
def test_two_targets_of_one_symlink_are_both_kept(seq: int) -> None:
    ours = write(A, seq, value(Kind.SYMLINK, b"one"))
    theirs = write(B, 20, value(Kind.SYMLINK, b"two"))
    merged = merge(ours, theirs)
    assert merged.aside is not None
    assert merged.aside.kind is Kind.SYMLINK
    assert {decode(result(ours, theirs).meta).target, decode(merged.aside.meta).target} == {b"one", b"two"}


@pytest.mark.parametrize("seq", [10, 30])
def test_a_file_against_a_symlink_keeps_both(seq: int) -> None:
    ours, theirs = (
        file(A, seq, b"edited", mode=0o755),
        write(B, 20, value(Kind.SYMLINK, b"t", mode=0o777), BASE),
    )
    merged = merge(ours, theirs)
    assert merged.aside is not None
    assert merged.rewrite is None
    assert {merged.aside.kind, result(ours, theirs).kind} == {Kind.FILE, Kind.SYMLINK}


def test_a_directory_keeps_the_name_and_the_edited_file_goes_aside() -> None:
    directory = write(A, 30, value(Kind.DIRECTORY, mode=0o755), BASE)
    edited = file(B, 20, b"edited")
    merged = merge(directory, edited)
    assert (merged.winner, merged.rewrite) == (Side.OURS, None)
    assert merged.aside is not None
    assert merged.aside.digest == edited.digest
    assert merged.aside.key == aside_key(edited)


def test_a_directory_that_comes_first_is_left_to_what_lives_in_it() -> None:
    directory = write(A, 10, value(Kind.DIRECTORY, mode=0o755), BASE)
    assert merge(directory, file(B, 20, b"edited")) == Merged(winner=Side.THEIRS)


def test_a_directory_over_a_file_that_was_only_touched_needs_no_copy() -> None:
    directory = write(A, 30, value(Kind.DIRECTORY, mode=0o755), BASE)
    assert merge(directory, file(B, 20, b"base", mtime_ns=7)) == Merged(winner=Side.OURS)


@pytest.mark.parametrize("seq", [10, 30])
def test_a_conflict_copy_comes_without_a_write_that_would_hide_it(seq: int) -> None:
    merged = merge(file(A, seq, b"one", mode=0o755), file(B, 20, b"two"))
    assert merged.aside is not None
    assert merged.rewrite is None


def test_two_directories_join_their_metadata() -> None:
    base = write(C, 1, value(Kind.DIRECTORY, mode=0o755))
    changed = write(A, 10, value(Kind.DIRECTORY, mode=0o700, base=base), base)
    touched = write(B, 20, value(Kind.DIRECTORY, mode=0o755, mtime_ns=8, base=base), base)
    final = result(changed, touched)
    assert (decode(final.meta).mode, decode(final.meta).mtime_ns) == (0o700, 8)
    assert merge(changed, touched).aside is None


@pytest.mark.parametrize("seq", [10, 30])
def test_a_directory_against_its_delete_goes_by_order(seq: int) -> None:
    base = write(C, 1, value(Kind.DIRECTORY, mode=0o755))
    touched = write(A, seq, value(Kind.DIRECTORY, mode=0o755, mtime_ns=8, base=base), base)
    deleted = write(B, 20, value(Kind.TOMBSTONE), base)
    assert merge(touched, deleted) == Merged(winner=Side.OURS if seq > 20 else Side.THEIRS)


def test_contents_that_each_knew_the_other_are_kept_both() -> None:
    # This cannot come about by this program's own decisions; a peer may say it nevertheless.
    one = replace(
        BASE, dot=Dot(A, 50), digest=b"1" * 32, meta=encode(Attributes(mode=0, mtime_ns=0, content=Dot(B, 5)))
    )
    two = replace(
        BASE, dot=Dot(B, 60), digest=b"2" * 32, meta=encode(Attributes(mode=0, mtime_ns=0, content=Dot(A, 5)))
    )
    assert merge(one, two).aside is not None


def test_nonsense_in_place_of_metadata_does_not_stop_a_merge() -> None:
    merged = merge(replace(file(A, 10, b"one"), meta=b"\xff"), file(B, 20, b"two"))
    assert merged.winner is Side.THEIRS


KINDS = (Kind.FILE, Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.TOMBSTONE)


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    """Versions of one key: each replaces some earlier ones, with contents, modes and times that repeat."""
    versions: list[Item] = []
    clocks = dict.fromkeys((A, B, C), 0)
    for _ in range(draw(st.integers(2, 8))):
        actor = draw(st.sampled_from((A, B, C)))
        known = draw(st.lists(st.sampled_from(versions), max_size=2)) if versions else []
        # An actor knows its own earlier writes.
        known += [one for one in versions if one.dot.actor == actor]
        base = max(known, key=lambda one: (one.hlc, one.dot)) if known else None
        draft = value(
            draw(st.sampled_from(KINDS)),
            draw(st.sampled_from((b"one", b"two", b"three"))),
            mode=draw(st.sampled_from((0o644, 0o755))),
            mtime_ns=draw(st.integers(0, 2)),
            base=base,
        )
        clocks[actor] += 1
        versions.append(write(actor, clocks[actor], draft, *known, at_us=draw(st.integers(0, 20))))
    return versions


@given(histories())
def test_both_sides_decide_alike(versions: list[Item]) -> None:
    for one in versions:
        for other in versions:
            if dominates(one, other) or dominates(other, one):
                continue
            ours, theirs = merge(one, other), merge(other, one)
            assert (ours.rewrite, ours.aside) == (theirs.rewrite, theirs.aside)
            assert ours.winner is not theirs.winner
            assert (ours.winner is Side.OURS) is wins(one, other)


@given(histories())
def test_no_content_goes_that_nobody_replaced_knowingly(versions: list[Item]) -> None:
    for one in versions:
        for other in versions:
            if dominates(one, other) or dominates(other, one):
                continue
            merged = merge(one, other)
            kept = {result(one, other).digest} | ({merged.aside.digest} if merged.aside else set())
            for side, opposite in ((one, other), (other, one)):
                if side.kind in {Kind.FILE, Kind.SYMLINK} and side.digest not in kept:
                    made = decode(side.meta).content or side.dot
                    assert opposite.covers(made)


@dataclass
class Place:
    """One key on one device, as a replica keeps it."""

    actor: ActorId
    seq: int = 100
    item: Item | None = None
    asides: set[tuple[bytes, bytes]] = field(default_factory=set)

    def take(self, theirs: Item) -> None:
        ours = self.item
        if ours is None or (theirs.dot != ours.dot and dominates(theirs, ours)):
            self.item = theirs
            return
        if theirs.dot == ours.dot or dominates(ours, theirs):
            return
        merged = merge(ours, theirs)
        if merged.aside is not None:
            self.asides.add((merged.aside.key, merged.aside.digest))
        if merged.rewrite is not None:
            self.seq += 1
            self.item = supersede(merged.rewrite, Dot(self.actor, self.seq), 0, ours, theirs)
        elif merged.winner is Side.OURS:
            self.item = ours.knowing(theirs)
        else:
            self.item = theirs.knowing(ours)


@settings(deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_devices_that_learn_in_any_order_end_alike(versions: list[Item], order: random.Random) -> None:
    places = [Place(ActorId(bytes([200 + number]) * 8)) for number in range(3)]
    for place in places:
        shuffled = list(versions)
        order.shuffle(shuffled)
        for version in shuffled:
            place.take(version)
    for _ in range(12):
        items = [place.item for place in places]
        for place in places:
            for item in items:
                assert item is not None
                place.take(item)
        if len({(place.item.dot, place.item.digest, place.item.meta) for place in places if place.item}) == 1:
            break
    final = [place.item for place in places]
    assert len({(item.dot, item.kind, item.digest, item.meta) for item in final if item}) == 1
