"""What an item says about a row, and how that is packed.

A *causal length* says how often the row came and went (odd: it is there). Every column has the *stamp* of the write
that set it: `base` unless `stamps` says otherwise. None stands for the write of the very item that carries the state,
which gets its name only after the source made the draft.

Packed it is one byte (1 if there are losers, so that conflicts are counted without decoding) and a CBOR list
`[life, base, cells, stamps, flags, image, losers, resolved, sums]`, shortened by what is empty at its end. Stamps are
groups `[stamp or null, [places of columns in cells]]`. Maps are sorted by name: equal states are equal bytes.
All that is decoded is a peer's word, and is checked. The functions here are pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from math import isnan
from typing import Any, NamedTuple

import cbor2

from p2psyncd.core.cbor import decode_plain
from p2psyncd.core.frozen import frozen
from p2psyncd.core.ids import ACTOR_ID_BYTES, BASELINE_ACTOR
from p2psyncd.core.item import HLC_MAX, Draft, Item, Kind
from p2psyncd.core.version import SEQ_MAX
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.database.keys import NAME_BYTES_MAX
from p2psyncd.sources.database.sums import Sum, named, taken, wire_sums
from p2psyncd.sources.database.values import (
    INTEGER_MAX,
    INTEGER_MIN,
    Cell,
    RawText,
    Ref,
    Value,
    from_wire,
    to_wire,
)

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
    "draft",
    "has_losers",
    "is_sound",
    "own_stamp",
    "pack",
    "pack_plain",
    "plain_cells",
    "state_of",
    "stored_state",
    "unpack",
    "wire_cells",
]

ACTOR0 = BASELINE_ACTOR
"""The writer of what was there at the first sight."""
UNENFORCED = 1
"""Flag: the app that wrote this did not care for the declared references of the row."""
FLAGS_MAX = 2**16 - 1
LIFE_MAX = 2**40
COLUMNS_MAX = 2000
"""SQLite's own default limit."""
LOSERS_MAX = 32
RESOLVED_MAX = 64
# state > losers > loser > cells > reference
DEPTH_MAX = 6
FIELDS_MIN, FIELDS_MAX, LOSERS_PLACE = 3, 9, 6
KINDS: list[type] = [list, int, dict, list, list, list]
EMPTY: tuple[Any, ...] = ((), 0, {}, (), (), ())
"""What stands for the fields that may be left out: stamps, flags, image, losers, resolved, sums."""
ROW = Kind.ROW  # looking a member of an enumeration up costs 0.12 µs, and this is asked of every row
WITHOUT_LOSERS, WITH_LOSERS = b"\x00", b"\x01"
UNBOUNDED = {type(None), str, bytes}
"""Types whose values are all their own wire form."""
ONLY_TEXT = {str}
COLUMN_LISTS_CACHED, COLUMNS_CACHED_MAX = 16, 64
"""Lists of names that were looked at are remembered, so many, of so many names at most: 4 MiB, whatever a peer sends."""


class Stamp(NamedTuple):
    """The write that set a column: when, and its dot. Greater is later."""

    hlc: int
    actor: bytes
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loser:
    """Values that one write set, and that another won over without knowing them."""

    stamp: Stamp
    cells: dict[str, Cell]
    """Those of its columns that are not known to the winner; the others are the row's own cells."""
    deleted: bool = False
    """Whether they lost to a delete."""


@frozen
class RowState:
    """What an item says about a row. Its dictionaries are not to be changed."""

    life: int
    """Causal length: odd while the row is there, greater with each delete and each return."""
    base: Stamp | None = None
    """The write that set all columns that `stamps` does not name; None: the item's own."""
    stamps: dict[str, Stamp | None] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    """All values, sorted by column name; of a deleted row the last ones."""
    losers: tuple[Loser, ...] = ()
    """In the order of their stamps."""
    resolved: tuple[Stamp, ...] = ()
    """Losers that a user has settled, and rows of a first sight that are known and nowhere else named; sorted."""
    image: dict[str, Cell] = field(default_factory=dict)
    """Where the row that the newest write left differs from the joined cells: it stood in an app's file, and
    so breaks no constraint."""
    flags: int = 0
    sums: dict[str, Sum] = field(default_factory=dict)
    """What columns are made of to which devices added since they were set."""

    @property
    def live(self) -> bool:
        """Whether the row is there."""
        return self.life % 2 == 1

    @property
    def baselines(self) -> set[Stamp]:
        """The rows of a first sight that this state names: all share one dot, so that no vector tells of them."""
        named = {self.base, *self.stamps.values(), *(one.stamp for one in self.losers), *self.resolved}
        return {stamp for stamp in named if stamp is not None and stamp.actor == ACTOR0}

    def stamp(self, column: str) -> Stamp | None:
        """Return the write that set a column."""
        return self.stamps.get(column, self.base)


# Packing


def wire_cells(cells: Mapping[str, Cell]) -> Mapping[str, Any]:
    """Return cells as CBOR has them, in the same order."""
    kinds = set(map(type, cells.values()))
    if RawText in kinds or Ref in kinds:
        return {name: to_wire(cell) for name, cell in cells.items()}
    return cells


def wire_stamps(state: RowState) -> list[list[Any]]:
    """Return the sparse stamps: groups of a stamp (or None) and the places of its columns, sorted by stamp."""
    groups: dict[Stamp | None, list[int]] = {}
    for place, name in enumerate(state.cells):
        if name in state.stamps:
            groups.setdefault(state.stamps[name], []).append(place)
    order = sorted(groups, key=lambda stamp: stamp or ())
    return [[stamp and [*stamp], groups[stamp]] for stamp in order]


def pack(state: RowState) -> bytes:
    """Return a state as an item carries it: equal for equal states, on every device."""
    fields: list[Any] = [state.life, state.base and [*state.base], wire_cells(state.cells)]
    if state.stamps or state.flags or state.image or state.losers or state.resolved or state.sums:
        fields += [
            wire_stamps(state),
            state.flags,
            wire_cells(state.image),
            [[[*one.stamp], int(one.deleted), wire_cells(one.cells)] for one in state.losers],
            [[*stamp] for stamp in state.resolved],
            wire_sums(state.sums, state.cells),
        ]
        while not fields[-1]:
            fields.pop()
    return (WITH_LOSERS if state.losers else WITHOUT_LOSERS) + cbor2.dumps(fields)


def pack_plain(values: Mapping[str, Value]) -> bytes:
    """Return what `pack` returns of a row that is new: its values sorted by name, all texts valid UTF-8, no references."""
    return WITHOUT_LOSERS + cbor2.dumps([1, None, values])


def has_losers(meta: bytes) -> bool:
    """Return whether an item's metadata holds losers, without decoding it."""
    return meta[:1] == WITH_LOSERS


# Unpacking


def refuse(what: str) -> ValueError:
    """Return the error for a state that nobody would have packed."""
    return ValueError(f"a row's state is broken: {what}")


def take_stamp(packed: object) -> Stamp:
    """Return a checked stamp."""
    if type(packed) is list and len(packed) == 3:  # noqa: PLR2004
        hlc, actor, seq = packed
        if (
            type(hlc) is int
            and 0 <= hlc <= HLC_MAX
            and type(actor) is bytes
            and len(actor) == ACTOR_ID_BYTES
            and type(seq) is int
            and 0 <= seq <= SEQ_MAX
        ):
            return Stamp(hlc, actor, seq)
    raise refuse("a stamp")


@lru_cache(maxsize=COLUMN_LISTS_CACHED)
def are_names(names: tuple[str, ...]) -> bool:
    """Return whether these texts can be the names of a row's columns: sorted, none too long."""
    return all(one < following for one, following in pairwise(names)) and all(
        len(name.encode()) <= NAME_BYTES_MAX for name in names
    )


def take_cells(packed: object) -> dict[str, Cell]:
    """Return checked cells."""
    if type(packed) is not dict or len(packed) > COLUMNS_MAX:
        raise refuse("cells")
    if not packed:
        return packed
    names = tuple(packed)
    if set(map(type, names)) != ONLY_TEXT or max(map(len, names)) > NAME_BYTES_MAX:
        raise refuse("names of columns")
    # Most of what comes together are rows of one table.
    good = are_names if len(names) <= COLUMNS_CACHED_MAX else are_names.__wrapped__
    if not good(names):
        raise refuse("names of columns")
    for value in packed.values():
        kind = type(value)
        if kind is int:
            if not INTEGER_MIN <= value <= INTEGER_MAX:
                raise refuse("a number is beyond 64 bits")
        elif kind not in UNBOUNDED and (kind is not float or isnan(value)):
            return {name: from_wire(value) for name, value in packed.items()}
    return packed


def take_list(packed: object, most: int) -> list[Any]:
    """Return a checked list."""
    if type(packed) is not list or len(packed) > most:
        raise refuse("a list")
    return packed


def take_stamps(
    packed: object, names: list[str], base: Stamp | None, own: Stamp | None
) -> dict[str, Stamp | None]:
    """Return the checked sparse stamps, with `own` for those that are the item's own."""
    stamps: dict[str, Stamp | None] = {}
    last: Stamp | None = None
    count = len(names)
    for group in take_list(packed, COLUMNS_MAX):
        if type(group) is not list or len(group) != 2:  # noqa: PLR2004
            raise refuse("stamps")
        packed_stamp, places = group
        if packed_stamp is None:
            stamp = own
            if stamps or base is None:
                raise refuse("the order of stamps")
        else:
            stamp = take_stamp(packed_stamp)
            if stamp == base or (last is not None and stamp <= last):
                raise refuse("the order of stamps")
            last = stamp
        before = -1
        if not places:
            raise refuse("a stamp of no column")
        for place in take_list(places, COLUMNS_MAX):
            if type(place) is not int or not before < place < count or names[place] in stamps:
                raise refuse("the place of a stamp")
            stamps[names[place]] = stamp
            before = place
    return stamps


def take_loser(packed: object) -> Loser:
    """Return a checked loser."""
    match packed:
        case [stamp, 0 | 1 as deleted, dict(cells)] if cells and type(deleted) is int:
            return Loser(stamp=take_stamp(stamp), cells=take_cells(cells), deleted=deleted == 1)
        case _:
            raise refuse("a loser")


def take_losers(packed: object) -> tuple[Loser, ...]:
    """Return the checked losers."""
    losers = tuple(map(take_loser, take_list(packed, LOSERS_MAX)))
    if any(one.stamp > following.stamp for one, following in pairwise(losers)):
        raise refuse("the order of losers")
    return losers


def take_resolved(packed: object) -> tuple[Stamp, ...]:
    """Return the checked stamps of what is settled."""
    stamps = tuple(map(take_stamp, take_list(packed, RESOLVED_MAX)))
    if any(one >= following for one, following in pairwise(stamps)):
        raise refuse("the order of what is settled")
    return stamps


def take_sums(packed: list[Any], cells: dict[str, Cell], own: Stamp | None) -> dict[str, Sum]:
    """Return the checked sums, the item's own additions under its name."""
    sums = taken(take_list(packed, COLUMNS_MAX), cells)
    return sums if own is None else named(sums, own.actor, own.seq)


def unpack(meta: bytes) -> RowState:
    """Return the state that an item's metadata holds.

    Raises:
        ValueError: It is not as `pack` makes it.
    """
    return decode(meta, None)


def decoded(meta: bytes) -> list[Any]:
    """Return the fields of an item's metadata, each of which is still to be checked."""
    try:
        fields = decode_plain(meta[1:], depth_max=DEPTH_MAX)
    except RemoteProtocolError as error:
        raise refuse(str(error)) from error
    if type(fields) is not list or not FIELDS_MIN <= len(fields) <= FIELDS_MAX:
        raise refuse("its fields")
    return fields


def decode(meta: bytes, own: Stamp | None) -> RowState:
    """Return the state that an item's metadata holds, with `own` for the item's own stamps."""
    fields = decoded(meta)
    life, base = fields[0], fields[1]
    if type(life) is not int or not 0 < life <= LIFE_MAX:
        raise refuse("its life")
    if base is not None:
        base = take_stamp(base)
    cells = take_cells(fields[2])
    if meta[:1] != (WITH_LOSERS if len(fields) > LOSERS_PLACE and fields[LOSERS_PLACE] else WITHOUT_LOSERS):
        raise refuse("its first byte")
    if len(fields) == FIELDS_MIN:
        return RowState(life=life, base=base or own, cells=cells)
    if not fields[-1] or [type(part) for part in fields[FIELDS_MIN:]] != KINDS[: len(fields) - FIELDS_MIN]:
        raise refuse("its fields")
    stamps, flags, image, losers, settled, sums = [*fields[FIELDS_MIN:], *EMPTY[len(fields) - FIELDS_MIN :]]
    if not 0 <= flags <= FLAGS_MAX:
        raise refuse("its flags")
    if not image.keys() <= cells.keys():
        raise refuse("its image")
    return RowState(
        life=life,
        base=base or own,
        stamps=take_stamps(stamps, list(cells), base, own) if stamps else {},
        cells=cells,
        losers=take_losers(losers) if losers else (),
        resolved=take_resolved(settled) if settled else (),
        image=take_cells(image) if image else {},
        flags=flags,
        sums=take_sums(sums, cells, own) if sums else {},
    )


def own_stamp(item: Item) -> Stamp:
    """Return the stamp of an item's own write."""
    actor, seq = item.dot
    return Stamp(item.hlc, actor, seq)


def state_of(item: Item) -> RowState:
    """Return an item's state, with the stamp of its own write made explicit.

    A tombstone without metadata (the engine's, for what everybody deleted long ago) has never lived.

    Raises:
        ValueError: It is no row's.
    """
    if not item.meta and item.kind is Kind.TOMBSTONE:
        return RowState(life=0, base=own_stamp(item))
    state = decode(item.meta, own_stamp(item))
    if item.kind is not (Kind.ROW if state.life % 2 else Kind.TOMBSTONE):
        raise refuse("its kind")
    return state


def plain_cells(meta: bytes) -> tuple[int, dict[str, Any]] | None:
    """Return the causal length and the cells of a live row, if its metadata says no more, and none of them is a list; else None.

    Of what the store holds only: whatever came was looked at before it was stored, so that the plainest and most frequent
    states are not looked at twice.
    """
    try:
        fields = cbor2.loads(meta[1:])
    except cbor2.CBORDecodeError:
        return None
    if type(fields) is list and len(fields) == FIELDS_MIN and fields[1] is None:
        life, _, cells = fields
        if type(life) is int and life % 2 and type(cells) is dict and list not in map(type, cells.values()):
            return life, cells
    return None


def stored_state(item: Item) -> RowState:
    """Return what `state_of` returns, of an item of the store.

    Raises:
        ValueError: As `state_of` does.
    """
    plain = plain_cells(item.meta) if item.kind is ROW else None
    if plain is None:
        return state_of(item)
    life, cells = plain
    return RowState(life=life, base=own_stamp(item), cells=cells)


def is_sound(item: Item) -> bool:
    """Return whether an item says something about a row: of what a peer sends nothing else is taken in."""
    try:
        if item.kind is not ROW or not says_little(item.meta):
            state_of(item)
    except ValueError:
        return False
    return True


def says_little(meta: bytes) -> bool:
    """Return whether metadata says nothing but a live row's values, as most does, in a sound way.

    Raises:
        ValueError: It is unsound.
    """
    fields = decoded(meta)
    if len(fields) != FIELDS_MIN or meta[:1] != WITHOUT_LOSERS:
        return False
    life, base, cells = fields
    if type(life) is not int or not 0 < life <= LIFE_MAX or not life % 2:
        return False
    if base is not None:
        take_stamp(base)
    take_cells(cells)
    return True


def draft(key: bytes, state: RowState) -> Draft:
    """Return a state as a write."""
    return Draft(key=key, kind=Kind.ROW if state.live else Kind.TOMBSTONE, meta=pack(state))
