"""What an item says about a row, and how that is packed.

A *causal length* says how often the row came and went (odd: it is there). Every column has the *stamp* of the write
that set it: `base` unless `stamps` says otherwise. None stands for the write of the very item that carries the state,
which gets its name only after the source made the draft.

Packed it is one byte (1 if there are losers, so that conflicts are counted without decoding) and a CBOR list
`[life, base, cells, stamps, flags, image, losers, resolved]`, shortened by what is empty at its end. Stamps are
groups `[stamp or null, [places of columns in cells]]`. Maps are sorted by name: equal states are equal bytes.
All that is decoded is a peer's word, and is checked. The functions here are pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any, NamedTuple

import cbor2

from p2psyncd.core.cbor import decode_plain
from p2psyncd.core.ids import ACTOR_ID_BYTES, ActorId
from p2psyncd.core.item import HLC_MAX, Draft, Item, Kind
from p2psyncd.core.version import SEQ_MAX
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.database.keys import NAME_BYTES_MAX
from p2psyncd.sources.database.values import INTEGER_MAX, INTEGER_MIN, Cell, RawText, Ref, from_wire, to_wire

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
    "own_stamp",
    "pack",
    "state_of",
    "unpack",
    "wire_cells",
]

ACTOR0 = ActorId(bytes(ACTOR_ID_BYTES))
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
FIELDS = 8
WITHOUT_LOSERS, WITH_LOSERS = b"\x00", b"\x01"
PLAIN = {type(None), str, bytes, float}
"""Types that are their own wire form, whatever the value (but for the one float that is no number)."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """Losers that a user has settled, sorted."""
    image: dict[str, Cell] = field(default_factory=dict)
    """Where the row that the newest write left differs from the joined cells: it stood in an app's file, and
    so breaks no constraint."""
    flags: int = 0

    @property
    def live(self) -> bool:
        """Whether the row is there."""
        return self.life % 2 == 1

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
    if state.stamps or state.flags or state.image or state.losers or state.resolved:
        fields += [
            wire_stamps(state),
            state.flags,
            wire_cells(state.image),
            [[[*one.stamp], int(one.deleted), wire_cells(one.cells)] for one in state.losers],
            [[*stamp] for stamp in state.resolved],
        ]
        while not fields[-1]:
            fields.pop()
    return (WITH_LOSERS if state.losers else WITHOUT_LOSERS) + cbor2.dumps(fields)


def has_losers(meta: bytes) -> bool:
    """Return whether an item's metadata holds losers, without decoding it."""
    return meta[:1] == WITH_LOSERS


# Unpacking


def refuse(what: str) -> ValueError:
    """Return the error for a state that nobody would have packed."""
    return ValueError(f"a row's state is broken: {what}")


def take_stamp(packed: object) -> Stamp:
    """Return a checked stamp."""
    match packed:
        case [int(hlc), bytes(actor), int(seq)] if (
            type(hlc) is int
            and type(seq) is int
            and 0 <= hlc <= HLC_MAX
            and len(actor) == ACTOR_ID_BYTES
            and 0 <= seq <= SEQ_MAX
        ):
            return Stamp(hlc, actor, seq)
        case _:
            raise refuse("a stamp")


def take_cells(packed: object) -> dict[str, Cell]:
    """Return checked cells."""
    if type(packed) is not dict or len(packed) > COLUMNS_MAX:
        raise refuse("cells")
    names = list(packed)
    if not names:
        return packed
    if set(map(type, names)) != {str} or names != sorted(names):
        raise refuse("names of columns")
    # UTF-8 takes at most three times as many bytes as Python counts characters below U+10000, four above.
    if max(map(len, names)) * 4 > NAME_BYTES_MAX and any(
        len(name.encode()) > NAME_BYTES_MAX for name in names
    ):
        raise refuse("a column's name is too long")
    kinds = set(map(type, packed.values()))
    if not kinds - PLAIN_OR_INTEGER and all_in_range(packed, kinds):
        return packed
    return {name: from_wire(value) for name, value in packed.items()}


PLAIN_OR_INTEGER = PLAIN | {int}


def all_in_range(packed: dict[str, Any], kinds: set[type]) -> bool:
    """Return whether plain values are ones that SQLite has."""
    if int in kinds or float in kinds:
        for value in packed.values():
            kind = type(value)
            if (kind is int and not INTEGER_MIN <= value <= INTEGER_MAX) or (kind is float and isnan(value)):
                return False
    return True


def take_list(packed: object, most: int) -> list[Any]:
    """Return a checked list."""
    if type(packed) is not list or len(packed) > most:
        raise refuse("a list")
    return packed


def take_stamps(packed: object, names: list[str], base: Stamp | None) -> dict[str, Stamp | None]:
    """Return the checked sparse stamps."""
    stamps: dict[str, Stamp | None] = {}
    last: Stamp | None = None
    for at, group in enumerate(take_list(packed, COLUMNS_MAX)):
        if type(group) is not list or len(group) != 2:  # noqa: PLR2004
            raise refuse("stamps")
        stamp = None if group[0] is None else take_stamp(group[0])
        if stamp == base or (at and (stamp is None or (last is not None and stamp <= last))):
            raise refuse("the order of stamps")
        last = stamp
        for place in take_list(group[1], COLUMNS_MAX):
            if type(place) is not int or not 0 <= place < len(names) or names[place] in stamps:
                raise refuse("the place of a stamp")
            stamps[names[place]] = stamp
    return stamps


def take_loser(packed: object) -> Loser:
    """Return a checked loser."""
    match packed:
        case [stamp, 0 | 1 as deleted, dict(cells)] if cells and type(deleted) is int:
            return Loser(stamp=take_stamp(stamp), cells=take_cells(cells), deleted=bool(deleted))
        case _:
            raise refuse("a loser")


EMPTY: tuple[Any, ...] = ([], 0, {}, [], [])
"""What stands for the fields that are left out: stamps, flags, image, losers, resolved."""


def unpack(meta: bytes) -> RowState:
    """Return the state that an item's metadata holds.

    Raises:
        ValueError: It is not as `pack` makes it.
    """
    try:
        fields = decode_plain(meta[1:], depth_max=DEPTH_MAX)
    except RemoteProtocolError as error:
        raise refuse(str(error)) from error
    if type(fields) is not list or not 3 <= len(fields) <= FIELDS:  # noqa: PLR2004
        raise refuse("its fields")
    life, base = fields[0], fields[1]
    if type(life) is not int or not 0 < life <= LIFE_MAX:
        raise refuse("its life")
    if base is not None:
        base = take_stamp(base)
    cells = take_cells(fields[2])
    if len(fields) == 3:  # noqa: PLR2004  (no more than a row that was inserted)
        if meta[:1] != WITHOUT_LOSERS:
            raise refuse("its first byte")
        return RowState(life=life, base=base, cells=cells)
    packed_stamps, flags, image, losers, settled = [*fields[3:], *EMPTY[len(fields) - 3 :]]
    if type(flags) is not int or not 0 <= flags <= FLAGS_MAX:
        raise refuse("its flags")
    state = RowState(
        life=life,
        base=base,
        stamps=take_stamps(packed_stamps, list(cells), base),
        cells=cells,
        losers=tuple(map(take_loser, take_list(losers, LOSERS_MAX))),
        resolved=tuple(map(take_stamp, take_list(settled, RESOLVED_MAX))),
        image=take_cells(image),
        flags=flags,
    )
    if meta[:1] != (WITH_LOSERS if state.losers else WITHOUT_LOSERS):
        raise refuse("its first byte")
    return state


def own_stamp(item: Item) -> Stamp:
    """Return the stamp of an item's own write."""
    return Stamp(item.hlc, *item.dot)


def state_of(item: Item) -> RowState:
    """Return an item's state, with the stamp of its own write made explicit.

    A tombstone without metadata (the engine's, for what everybody deleted long ago) has never lived.

    Raises:
        ValueError: It is no row's.
    """
    if item.kind is Kind.TOMBSTONE and not item.meta:
        return RowState(life=0, base=own_stamp(item))
    state = unpack(item.meta)
    if item.kind is not (Kind.ROW if state.live else Kind.TOMBSTONE):
        raise refuse("its kind")
    if state.base is not None and None not in state.stamps.values():
        return state
    own = own_stamp(item)
    base = state.base or own
    return replace(state, base=base, stamps={name: stamp or own for name, stamp in state.stamps.items()})


def draft(key: bytes, state: RowState) -> Draft:
    """Return a state as a write."""
    return Draft(key=key, kind=Kind.ROW if state.live else Kind.TOMBSTONE, meta=pack(state))
