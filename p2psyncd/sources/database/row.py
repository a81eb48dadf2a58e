"""How writes change a row's state: inserted, edited, removed, come back, conflicts settled.

A write sets columns; its own name comes later, so their stamps are None ("own"). What a column held before is replaced
knowingly. Losers stay until a user settles them, or the row shows their value.
The names of `rowstate` and the join are to be had from here, too. The functions here are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import cbor2
from blake3 import blake3

from p2psyncd.core.item import HLC_MAX, Draft, Item, Kind, baseline_item
from p2psyncd.core.version import Dot
from p2psyncd.sources.database.joining import join, knows_baseline, newest
from p2psyncd.sources.database.migration import Changes
from p2psyncd.sources.database.rowstate import (
    ACTOR0,
    COLUMNS_MAX,
    LIFE_MAX,
    LOSERS_MAX,
    RESOLVED_MAX,
    UNENFORCED,
    Loser,
    RowState,
    Stamp,
    draft,
    has_losers,
    is_sound,
    pack,
    pack_plain,
    plain_cells,
    state_of,
    stored_state,
    unpack,
    wire_cells,
)
from p2psyncd.sources.database.sums import OWN, Sum, added
from p2psyncd.sources.database.values import Cell, same_cell

__all__ = [
    "ACTOR0",
    "COLUMNS_MAX",
    "LIFE_MAX",
    "LOSERS_MAX",
    "RESOLVED_MAX",
    "UNENFORCED",
    "Loser",
    "RowState",
    "Stamp",
    "baseline",
    "baseline_draft",
    "draft",
    "edited",
    "has_losers",
    "inserted",
    "is_sound",
    "join",
    "knows_baseline",
    "migrated",
    "pack",
    "pack_plain",
    "plain_cells",
    "removed",
    "resolved",
    "revived",
    "stamped_again",
    "state_of",
    "stored_state",
    "unpack",
]


def in_order(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return cells sorted by column name."""
    return dict(sorted(cells.items()))


def inserted(cells: Mapping[str, Cell], flags: int = 0) -> RowState:
    """Return the state of a row that is new."""
    return RowState(life=1, cells=in_order(cells), flags=flags)


def edited(
    item: Item, changes: Mapping[str, Cell], counters: Collection[str] = (), *, salt: int = 0
) -> RowState:
    """Return the state after a write that set some columns, or added to those that are counters (see `sums`).

    Raises:
        ValueError: The row is not there, or the item is no row's.
    """
    state = state_of(item)
    if not state.live:
        raise ValueError("a deleted row cannot be edited")
    sums = {
        name: found
        for name in changes.keys() & set(counters)
        if (found := added(state.cells.get(name), changes[name], state.sums.get(name), salt=salt)) is not None
    }
    return overwritten(state, changes, sums)


def overwritten(
    state: RowState, changes: Mapping[str, Cell], sums: Mapping[str, Sum] | None = None
) -> RowState:
    """Return a state with some columns set by the coming write; to those with a sum it added."""
    if not changes:
        return state
    sums = sums or {}
    cells = {**state.cells, **changes}
    if len(cells) > len(state.cells):
        cells = in_order(cells)
    return RowState(
        life=state.life,
        base=state.base,
        stamps={**state.stamps, **dict.fromkeys(name for name in changes if name not in sums)},
        cells=cells,
        losers=still_lost(state.losers, cells) if state.losers else (),
        resolved=known(state) if state.losers else state.resolved,
        image={name: cell for name, cell in state.image.items() if name not in changes}
        if state.image
        else {},
        flags=state.flags,
        sums={**without(state.sums, changes), **sums} if state.sums or sums else {},
    )


def without(sums: Mapping[str, Sum], set_anew: Collection[str]) -> dict[str, Sum]:
    """Return what is left of sums where some columns are set."""
    return {name: one for name, one in sums.items() if name not in set_anew}


def migrated(item: Item, changes: Changes, counters: Collection[str] = (), *, salt: int = 0) -> RowState:
    """Return the state after a write that found other columns than there were; see `migration`.

    Raises:
        ValueError: The row is not there, or the item is no row's.
    """
    state = edited(item, changes.written, counters, salt=salt)
    if not changes.brought and not changes.unseen:
        return state
    brought = {name: stamp for name, (_, stamp) in changes.brought.items()}
    stamps = {name: stamp for name, stamp in {**state.stamps, **brought}.items() if stamp != state.base}
    cells = in_order({**state.cells, **{name: cell for name, (cell, _) in changes.brought.items()}})
    losers = [*state.losers, *unseen(state_of(item), changes.unseen)]
    losers.sort(key=lambda one: one.stamp)
    return replace(
        state,
        stamps=stamps,
        cells=cells,
        losers=still_lost(losers[-LOSERS_MAX:], cells),
        sums=without(state.sums, changes.brought),
    )


def unseen(state: RowState, columns: Iterable[str]) -> list[Loser]:
    """Return what some columns hold as losers: whoever writes them now never saw it."""
    lost: dict[Stamp, dict[str, Cell]] = {}
    for name in columns:
        stamp = state.stamp(name)
        assert stamp is not None
        lost.setdefault(stamp, {})[name] = state.cells[name]
    return [Loser(stamp=stamp, cells=in_order(cells)) for stamp, cells in lost.items()]


def still_lost(losers: Iterable[Loser], cells: Mapping[str, Cell]) -> tuple[Loser, ...]:
    """Return the losers without what the row shows now."""
    left = []
    for one in losers:
        kept = {
            name: cell
            for name, cell in one.cells.items()
            if name not in cells or not same_cell(cell, cells[name])
        }
        if kept:
            left.append(replace(one, cells=kept))
    return tuple(left)


def removed(item: Item, flags: int = 0) -> RowState:
    """Return the state after a delete: the last values stay, for history, and for a parent that must come back.

    Raises:
        ValueError: The row is not there, or the item is no row's.
    """
    state = state_of(item)
    if not state.live:
        raise ValueError("a row is deleted once")
    return RowState(
        life=next_life(state),
        base=state.base,
        stamps=state.stamps,
        cells=state.cells,
        losers=tuple(replace(one, deleted=True) for one in state.losers),
        resolved=state.resolved,
        image=state.image,
        flags=flags,
        sums=state.sums,
    )


def revived(item: Item, cells: Mapping[str, Cell]) -> RowState:
    """Return the state of a row that is there again under the key of a deleted one.

    Raises:
        ValueError: The row is there, or the item is no row's.
    """
    state = state_of(item)
    if state.live:
        raise ValueError("a row that is there does not come back")
    return RowState(
        life=next_life(state),
        cells=in_order(cells),
        losers=still_lost(state.losers, cells),
        resolved=known(state),
    )


def known(state: RowState) -> tuple[Stamp, ...]:
    """Return what is settled for whoever replaces values: the rows of a first sight that it knew stay known."""
    return newest({*state.resolved, *state.baselines})


def next_life(state: RowState) -> int:
    """Return the causal length after a delete or a return.

    No row comes and goes so often as to reach the greatest; a peer may claim it. Then it goes on between the last two, and what
    is deleted wins against what is concurrent: a bound that raised would let a peer freeze a row.
    """
    return state.life + 1 if state.life < LIFE_MAX else LIFE_MAX - 1


def resolved(item: Item, changes: Mapping[str, Cell] | None = None) -> RowState:
    """Return the state after a user settled an item's losers, perhaps by setting columns.

    With changes a deleted row comes back: its last values, and these.

    Raises:
        ValueError: The item is no row's.
    """
    state = state_of(item)
    settled = newest({*state.resolved, *(one.stamp for one in state.losers)})
    state = replace(state, losers=(), resolved=settled)
    if not changes:
        return state
    if state.live:
        return overwritten(state, changes)
    return RowState(life=next_life(state), cells=in_order({**state.cells, **changes}), resolved=known(state))


def stamped_again(item: Item, dot: Dot, since: int) -> Item:
    """Return a version as the write of another actor, which its writer goes on as; see `Source.stamped_again`.

    What the old actor set since it may have gone on elsewhere has new stamps, too: they would pass for known to what it
    wrote there. They are a little later, so that they stand where both are joined: else all would be as before.
    A counter to which it added since is set to what it shows: who has the addition under its old name would count it twice.
    """
    again = replace(item, dot=dot, hlc=min(item.hlc + 1, HLC_MAX))
    try:
        state = unpack(item.meta)
    except ValueError:
        return again  # it never lived, or cannot be read

    def anew(stamp: Stamp) -> Stamp:
        ours = stamp.actor == item.dot.actor and stamp.seq > since
        return Stamp(min(stamp.hlc + 1, HLC_MAX), *dot) if ours else stamp

    base = state.base and anew(state.base)
    added_to = {
        name
        for name, made_of in state.sums.items()
        if any(
            one.actor == OWN or (one.actor == item.dot.actor and one.seq > since) for one in made_of.additions
        )
    }
    stamps = {name: stamp and anew(stamp) for name, stamp in state.stamps.items()} | dict.fromkeys(added_to)
    losers = sorted((replace(one, stamp=anew(one.stamp)) for one in state.losers), key=lambda one: one.stamp)
    state = replace(
        state,
        base=base,
        stamps={name: stamp for name, stamp in stamps.items() if stamp != base},
        losers=tuple(losers),
        sums=without(state.sums, added_to),
    )
    return replace(again, meta=pack(state))


def baseline(key: bytes, cells: Mapping[str, Cell]) -> Item:
    """Return the version of a row that was there at the first sight: the same on all devices that have this row."""
    return baseline_item(baseline_draft(key, cells))


def baseline_draft(key: bytes, cells: Mapping[str, Cell]) -> Draft:
    """Return what was there at the first sight.

    Its stamp is explicit, and tells the row: an own one would be another on a device that gives its version a name.
    """
    ordered = in_order(cells)
    number = int.from_bytes(blake3(cbor2.dumps(wire_cells(ordered))).digest(length=8), "big") >> 1
    meta = pack(RowState(life=1, base=Stamp(0, ACTOR0, number), cells=ordered))
    # The trie's entry covers the digest: rows that differ are seen though their dots are the same.
    return Draft(key=key, kind=Kind.ROW, digest=blake3(meta).digest(), meta=meta)
