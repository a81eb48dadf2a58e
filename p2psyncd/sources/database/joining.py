"""Two concurrent versions of a row become one: a pure decision that every device makes alike.

The greater causal length wins whole: a delete beats edits of what it deletes. Equal lives are joined column by column:
the later stamp wins; of two that are equal (two disks that went on as one actor) the greater value. What loses is kept
as a *loser* if the winning side did not know of it, and so is what a row held that lost to a delete.

A column's values, the one that won and those that lost, are a multi-value register: the join keeps what both
sides hold, and what the other side does not know. A value that one side holds and the other knows, but holds no more, was
replaced or settled knowingly. So the outcome does not depend on the order in which versions meet, and devices that join the
same two make equal drafts. Equal values are no conflict, whoever wrote them.

Of a counter (`sums`) both sides' additions count where they were made to the same value. What was added is then no value that lost.

Rows of a first sight share one dot, so that no vector tells whether a version knows them: it does if it names their stamp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Item, wins
from p2psyncd.core.version import Dot
from p2psyncd.sources.database.rowstate import (
    ACTOR0,
    COLUMNS_MAX,
    LOSERS_MAX,
    RESOLVED_MAX,
    Loser,
    RowState,
    Stamp,
    draft,
    own_stamp,
    pack,
    state_of,
)
from p2psyncd.sources.database.sums import Sum, united
from p2psyncd.sources.database.values import Cell, canonical_bytes, same_cell
from p2psyncd.sources.source import Merged, Side
from p2psyncd.wire.records import ROW_BYTES_MAX

__all__ = ["STATE_BYTES_MAX", "join", "knows_baseline", "newest"]

NEVER = Stamp(0, ACTOR0, 0)
# What a record may hold, less room for some later edits: a row that no peer takes would be stuck for ever.
STATE_BYTES_MAX = ROW_BYTES_MAX - 128 * 1024


class Element(NamedTuple):
    """A value of a column and the write that set it; the greater wins."""

    stamp: Stamp
    wire: bytes
    """The value on the wire: tells 1 from 1.0."""
    cell: Cell


@dataclass(frozen=True)
class Version:
    """One of two versions that are joined."""

    item: Item
    state: RowState
    """Its own stamps are explicit."""
    rival: Item

    @cached_property
    def current(self) -> dict[str, Element]:
        """What the columns show; of a deleted row: showed."""
        own = own_stamp(self.item)
        return {
            name: Element(self.state.stamp(name) or own, canonical_bytes(cell), cell)
            for name, cell in self.state.cells.items()
        }

    @cached_property
    def held(self) -> dict[str, list[tuple[Element, bool]]]:
        """All values that the columns hold, won or lost, and whether they lost to a delete."""
        held: dict[str, list[tuple[Element, bool]]] = {}
        if self.state.live:
            held = {name: [(self.last(name), False)] for name in self.current}
        for one in self.state.losers:
            for name, cell in one.cells.items():
                element = Element(one.stamp, canonical_bytes(cell), cell)
                held.setdefault(name, []).append((element, one.deleted))
        return held

    def last(self, column: str) -> Element:
        """Return what a column shows with the last write that had to do with it: it may have been added to since it was set."""
        element, made_of = self.current[column], self.state.sums.get(column)
        if made_of is None:
            return element
        addition = max(made_of.additions, key=lambda one: (one.seq, one.actor))
        return element._replace(stamp=Stamp(element.stamp.hlc, addition.actor, addition.seq))

    def sum_of(self, column: str) -> Sum | None:
        """Return what a column's value is made of; None if it is no integer."""
        cell = self.state.cells[column]
        return self.state.sums.get(column) or (Sum(cell, ()) if type(cell) is int else None)

    @cached_property
    def baselines(self) -> set[Stamp]:
        """The rows of a first sight that this version knows."""
        return self.state.baselines

    @cached_property
    def newest(self) -> Stamp:
        """The last write that this version is made of."""
        return max((element.stamp for element in self.current.values()), default=NEVER)

    @property
    def row(self) -> dict[str, Cell]:
        """The row as that write left it."""
        return {**self.state.cells, **self.state.image}

    def knows(self, stamp: Stamp) -> bool:
        """Return whether this version was written in knowledge of a write."""
        if stamp.actor == ACTOR0:
            return stamp in self.baselines
        dot, mine, other = Dot(ActorId(stamp.actor), stamp.seq), self.item.dot, self.rival.dot
        if dot == other and mine.actor == other.actor and mine != other:
            # A later write of one actor stands for knowing its earlier ones, and here it did not: the two are
            # concurrent. (A local edit was found while a version that this device itself wrote again waits.)
            return False
        return self.item.covers(dot)

    def has_replaced(self, column: str, element: Element) -> bool:
        """Return whether this version was written in knowledge of another one's value, and holds it no more."""
        if not self.knows(element.stamp):
            return False
        return all(own.stamp != element.stamp for own, _ in self.held.get(column, ()))


def knows_baseline(item: Item, baseline: Item) -> bool:
    """Return whether a version knows this row of a first sight; see `Source.knows_baseline`."""
    try:
        return state_of(baseline).baselines <= state_of(item).baselines
    except ValueError:
        return True


def join(ours: Item, theirs: Item) -> Merged:
    """Decide about two concurrent versions of one row; see `Source.merge`."""
    order = wins(ours, theirs) or (not wins(theirs, ours) and ours.meta > theirs.meta)
    side = Side.OURS if order else Side.THEIRS
    if ours.same_value(theirs):
        return Merged(winner=side)
    a, b = read(ours, theirs), read(theirs, ours)
    if a is None or b is None:
        # What cannot be read is never shown, and loses to what can.
        return Merged(winner=side if a is b else Side.THEIRS if a is None else Side.OURS)
    joined = fitting(ours.key, join_states(a, b))
    is_ours, is_theirs = pack(a.state) == joined.meta, pack(b.state) == joined.meta
    if is_ours and is_theirs:
        return Merged(winner=side)
    if is_ours and not knew_more(b, a):
        return Merged(winner=Side.OURS)
    if is_theirs and not knew_more(a, b):
        return Merged(winner=Side.THEIRS)
    return Merged(winner=side, rewrite=joined)


def knew_more(loser: Version, winner: Version) -> bool:
    """Return whether a loser deleted values that the winner does not know.

    That they are gone must be said by a new write: who has the winner from elsewhere would take them for lost.
    """
    return not loser.state.live and any(
        element.stamp.actor != ACTOR0 and not winner.knows(element.stamp)
        for element in map(loser.last, loser.current)
    )


def read(item: Item, rival: Item) -> Version | None:
    """Return an item with its state; None if it is no row's."""
    try:
        return Version(item, state_of(item), rival)
    except ValueError:
        return None


def join_states(a: Version, b: Version) -> RowState:
    """Return the state that two versions make."""
    if a.state.life == b.state.life:
        joined = join_columns(a, b)
    else:
        joined = max(a, b, key=lambda version: version.state.life).state
    joined = replace(joined, losers=join_losers(a, b, joined), resolved=())
    forgotten = (a.baselines | b.baselines) - joined.baselines
    return replace(joined, resolved=newest({*a.state.resolved, *b.state.resolved, *forgotten}))


def fitting(key: bytes, joined: RowState) -> Draft:
    """Return a joined state as a write that fits into a record: without the image, then without the oldest losers."""
    made = draft(key, joined)
    if len(made.meta) > STATE_BYTES_MAX:
        joined = replace(joined, image={})
        made = draft(key, joined)
    while joined.losers and len(made.meta) > STATE_BYTES_MAX:
        joined = replace(joined, losers=joined.losers[1:])
        made = draft(key, joined)
    return made


def newest(stamps: Iterable[Stamp]) -> tuple[Stamp, ...]:
    """Return as many settled stamps as are kept, sorted."""
    return tuple(sorted(stamps)[-RESOLVED_MAX:])


def join_columns(a: Version, b: Version) -> RowState:
    """Return the state of two equal lives, without the losers."""
    base = max(a.state.base or NEVER, b.state.base or NEVER)
    names = sorted({*a.current, *b.current})[:COLUMNS_MAX]
    won = {
        name: max(version.current[name] for version in (a, b) if name in version.current) for name in names
    }
    sums = join_sums(a, b, won)
    won |= {name: one_of(won[name].stamp, made_of.total) for name, made_of in sums.items()}
    cells = {name: element.cell for name, element in won.items()}
    row = newest_row(a, b)
    return RowState(
        life=a.state.life,
        base=base,
        stamps={name: element.stamp for name, element in won.items() if element.stamp != base},
        cells=cells,
        image={name: row[name] for name in names if name in row and not same_cell(row[name], cells[name])},
        flags=a.state.flags | b.state.flags,
        sums=sums,
    )


def one_of(stamp: Stamp, cell: Cell) -> Element:
    """Return a value with the write that set it."""
    return Element(stamp, canonical_bytes(cell), cell)


def join_sums(a: Version, b: Version, won: Mapping[str, Element]) -> dict[str, Sum]:
    """Return what the joined columns are made of that were added to."""
    found: dict[str, Sum] = {}
    for name in sorted({*a.state.sums, *b.state.sums} & won.keys()):
        made_of = united_sum(a, b, name)
        if made_of is None:
            side = a if a.current.get(name) == won[name] else b
            made_of = side.state.sums.get(name)
        if made_of is not None and made_of.additions:
            found[name] = made_of
    return found


def united_sum(a: Version, b: Version, column: str) -> Sum | None:
    """Return what a column is made of to which both sides may have added; None if one side set it anew."""
    if not (column in a.current and column in b.current) or (
        a.current[column].stamp != b.current[column].stamp
        or not (column in a.state.sums or column in b.state.sums)
    ):
        return None
    ours, theirs = a.sum_of(column), b.sum_of(column)
    return united(ours, theirs) if ours is not None and theirs is not None else None


def newest_row(a: Version, b: Version) -> dict[str, Cell]:
    """Return the row as the newest write left it."""
    if a.newest != b.newest:
        return max(a, b, key=lambda version: version.newest).row
    # Both are made of the same newest write, and hold one image of it, unless someone lies.
    return max(a.row, b.row, key=lambda row: pack(RowState(life=1, cells=row)))


def join_losers(a: Version, b: Version, joined: RowState) -> tuple[Loser, ...]:
    """Return what both versions hold, or one holds and the other does not know, but the joined row does not show."""
    shown = {name: canonical_bytes(cell) for name, cell in joined.cells.items()} if joined.live else {}
    lost: dict[str, dict[bytes, tuple[Element, bool]]] = {}
    united_here = a.state.live and a.state.life == b.state.life
    for version, other in ((a, b), (b, a)):
        gone = version.state.life < joined.life
        for name, elements in version.held.items():
            in_sum = united_here and united_sum(a, b, name) is not None
            for place, (element, deleted) in enumerate(elements):
                if element.wire == shown.get(name) or other.has_replaced(name, element):
                    continue
                if in_sum and not place:
                    continue  # what it shows is a part of what is shown now
                same = lost.setdefault(name, {})
                one = (element, gone or deleted)
                # Of equal values the latest stands for all.
                same[element.wire] = max(one, same.get(element.wire, one))
    return group(lost)


def group(lost: Mapping[str, Mapping[bytes, tuple[Element, bool]]]) -> tuple[Loser, ...]:
    """Return lost values as losers: those that one write set are one.

    A write that went on as two sets a column twice: its greatest values are one loser, the next greatest another.
    """
    groups: dict[tuple[Stamp, int], tuple[dict[str, Cell], bool]] = {}
    for name in sorted(lost):
        rank: Counter[Stamp] = Counter()
        for element, deleted in sorted(lost[name].values(), reverse=True):
            place = (element.stamp, -rank[element.stamp])
            rank[element.stamp] += 1
            cells, before = groups.get(place, ({}, False))
            groups[place] = ({**cells, name: element.cell}, before or deleted)
    kept = sorted(groups)[-LOSERS_MAX:]
    return tuple(Loser(stamp=place[0], cells=groups[place][0], deleted=groups[place][1]) for place in kept)
