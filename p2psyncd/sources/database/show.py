"""Which row of the app's file stands for which item here, and where a row is not what its key says.

A row's key names the number that it was born with. Shown it may have another one: two devices gave one number to
two rows, and the later has a fresh one here. Or it is not shown at all: another row has its UNIQUE value, and what
refers to it refers to that one here. Such rows are few; `Places` remembers them. It is made of what the
resolution said (`resolve`), and stored with what was applied, so that it is never ahead of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import cbor2

from p2psyncd.core.ids import ActorId
from p2psyncd.core.storage import Listed, Pending, Stored
from p2psyncd.sources.database.keys import RowKey, identities, pack_key, unpack_key
from p2psyncd.sources.database.schema import Schema, Table
from p2psyncd.sources.database.values import Cell, Ref, Value, from_wire, to_wire

__all__ = [
    "HELD",
    "Catalogue",
    "Identities",
    "Places",
    "Settings",
    "View",
    "key_values",
    "natural",
    "pack",
    "place_of",
    "reference_roots",
]

HELD = b"\0"
"""The state of what is known and settled, and deliberately not shown."""

PLACES = "database-places"
# About 30 MB. A scan looks a parent up for each reference to it, several times.
FOUND_MAX = 100_000

Place = tuple[Value, ...]
"""The values of a shown row's key columns."""


class Catalogue(Protocol):
    """What the source asks of the share's store."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Stored]: ...  # noqa: D102  (see `core.storage`)

    def pending_of(self, keys: Sequence[bytes]) -> dict[bytes, Pending]: ...  # noqa: D102

    def pending(self, *, limit: int, after: bytes = b"") -> list[Pending]: ...  # noqa: D102

    def below(self, prefix: bytes) -> Iterator[Listed]: ...  # noqa: D102

    def states(self, keys: Sequence[bytes]) -> dict[bytes, bytes]: ...  # noqa: D102

    def below_each(self, prefixes: Iterable[bytes]) -> list[Listed]: ...  # noqa: D102

    def beginning(self, prefix: bytes) -> list[Stored]: ...  # noqa: D102

    def keys_written_by(self, actor: ActorId, *, most: int) -> list[bytes]: ...  # noqa: D102

    def arrival(self) -> int: ...  # noqa: D102

    def withheld(self) -> list[Stored]: ...  # noqa: D102

    def setting(self, name: str) -> bytes | None: ...  # noqa: D102

    def actor(self) -> ActorId: ...  # noqa: D102


class Settings(Catalogue, Protocol):
    """The same with a place to remember things in."""

    def set_setting(self, name: str, value: bytes) -> None: ...  # noqa: D102

    def transaction(self, *, durable: bool = False) -> AbstractContextManager[None]: ...  # noqa: D102


@dataclass(slots=True)
class Places:
    """The rows that are not where, or not as, their keys say."""

    moved: dict[bytes, Place] = field(default_factory=dict)
    """By key: the key values under which a row is shown."""
    held: dict[bytes, bytes] = field(default_factory=dict)
    """Rows that are not shown, and which row stands for each (empty: none does)."""
    unsettled: set[bytes] = field(default_factory=set)
    """Rows whose showing is to be decided again: something was being edited when it was."""
    occupants: dict[tuple[str, Place], bytes] = field(default_factory=dict)
    """Which moved row is at a place."""
    stand_ins: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Which rows are held for another."""
    births: dict[tuple[str, Place], set[bytes]] = field(default_factory=dict)
    """The exceptions among the rows that were born with a number."""

    def __bool__(self) -> bool:
        return bool(self.moved or self.held or self.unsettled)

    def forget(self, key: bytes) -> None:
        """Note that a row is as its key says, or gone."""
        at = unpack_key(key)
        place = self.moved.pop(key, None)
        if place is not None:
            self.occupants.pop((at.table, place), None)
        winner = self.held.pop(key, None)
        if winner:
            self.stand_ins[winner].discard(key)
            if not self.stand_ins[winner]:
                del self.stand_ins[winner]
        born = self.births.get((at.table, natural(at)))
        if born is not None:
            born.discard(key)
            if not born:
                del self.births[at.table, natural(at)]

    def move(self, key: bytes, place: Place) -> None:
        """Note that a row is shown under another key."""
        at = unpack_key(key)
        self.moved[key] = place
        self.occupants[at.table, place] = key
        self.births.setdefault((at.table, natural(at)), set()).add(key)

    def hold(self, key: bytes, winner: bytes) -> None:
        """Note that a row is not shown."""
        at = unpack_key(key)
        self.held[key] = winner
        if winner:
            self.stand_ins.setdefault(winner, set()).add(key)
        self.births.setdefault((at.table, natural(at)), set()).add(key)

    def number(self, key: bytes) -> Value:
        """Return the number under which a row of a table with births is shown, or the row that it is held for."""
        key = self.held.get(key) or key
        return (self.moved.get(key) or natural(unpack_key(key)))[0]

    def update(self, changes: Mapping[bytes, Place | bytes | None]) -> None:
        """Note changes: a place, a winner (held), or None (nothing to remember)."""
        for key in changes:
            self.forget(key)
        for key, change in changes.items():
            if isinstance(change, tuple):
                self.move(key, change)
            elif change is not None:
                self.hold(key, change)

    @classmethod
    def load(cls, store: Catalogue) -> Places:
        """Return what the store has."""
        places = cls()
        packed = store.setting(PLACES)
        if packed:
            stored: dict[str, Any] = cbor2.loads(packed)
            for key, place in stored["moved"].items():
                places.move(key, tuple(as_value(from_wire(part)) for part in place))
            for key, winner in stored["held"].items():
                places.hold(key, winner)
            places.unsettled = set(stored["unsettled"])
        return places

    def save(self, store: Settings) -> None:
        """Store it."""
        stored = {
            "moved": {key: [to_wire(part) for part in place] for key, place in self.moved.items()},
            "held": self.held,
            "unsettled": sorted(self.unsettled),
        }
        store.set_setting(PLACES, cbor2.dumps(stored))


class View:
    """What is applied on this device, whatever else waits; asked once for each key while one plan is made."""

    def __init__(self, store: Catalogue) -> None:
        self.store = store
        self.known: dict[bytes, Stored | None] = {}

    def applied(self, key: bytes) -> Stored | None:
        """Return the version of a row that is applied here, shown or held; None if there is none."""
        self.read([key])
        return self.known[key]

    def read(self, keys: Iterable[bytes]) -> None:
        """Ask for several keys at once."""
        wanted = [key for key in keys if key not in self.known]
        if not wanted:
            return
        found = self.store.get_many(wanted)
        self.known.update(dict.fromkeys(wanted))
        waiting = [key for key, stored in found.items() if not stored.state]
        bases = self.store.pending_of(waiting) if waiting else {}
        for key, stored in found.items():
            if stored.state:
                self.known[key] = stored
            elif key in bases:
                base = bases[key].base
                self.known[key] = base if base is not None and base.state else None

    def note(self, key: bytes, base: Stored | None) -> None:
        """Take what is known already."""
        self.known[key] = base if base is not None and base.state else None


class Identities:
    """Finds the item that a shown row stands for."""

    def __init__(self, schema: Schema, places: Places, view: View) -> None:
        self.schema = schema
        self.places = places
        self.view = view
        self.roots = reference_roots(schema)
        self.births = {name for name, table in schema.tables.items() if table.has_births(schema)}
        """The tables whose rows have births."""
        self.found: dict[tuple[str, int], Listed | None] = {}
        """What was looked up before: many rows refer to one."""

    def prefetch(self, table: Table, places: Iterable[Place]) -> None:
        """Look many places of a table up at once."""
        if table.name not in self.births:
            self.view.read(pack(table, place) for place in places)
            return
        numbers = [number for (number,) in places if type(number) is int]
        self.found.update(dict.fromkeys((table.name, number) for number in numbers))
        for listed in self.view.store.below_each([identities(table.name, number) for number in numbers]):
            (number,) = unpack_key(listed.key).pk
            if type(number) is int and self.has_number(listed):
                self.found[table.name, number] = listed

    def has_number(self, listed: Listed) -> bool:
        """Return whether a row that was born with a number is shown under it."""
        return listed.state not in {b"", HELD} and listed.key not in self.places.moved

    def at(self, table: Table, place: Place) -> bytes | None:
        """Return the key of the row that is shown under some key values, as far as the store knows."""
        canonical = canonical_place(table, place)
        moved = self.places.occupants.get((table.name, canonical))
        if moved is not None:
            return moved
        if table.name in self.births and type(canonical[0]) is int:
            return self.born(table, canonical[0])
        plain = pack(table, place)
        candidates = [plain]
        parts: list[Cell] = list(place)
        for index, column in enumerate(table.pk):
            meant = self.reference(table, column, place[index])
            if meant is not None:
                parts[index] = meant
        if parts != list(place):
            candidates.insert(0, pack(table, tuple(parts)))
        for key in candidates:
            if self.is_shown(key):
                return key
        return self.dangling(table, canonical)

    def reference(self, table: Table, column: str, value: Value) -> Ref | None:
        """Return the row with a birth that a column's value means here; None if it means none."""
        root = self.roots.get((table.name, column))
        if root is None or type(value) is not int:
            return None
        for foreign in table.foreign_keys:
            parent = self.schema.tables.get(foreign.parent)
            if foreign.columns == (column,) and parent is not None and parent.name not in {root, table.name}:
                # A table that extends another: a row of it may be shown with the number of a row that its own
                # is held for.
                key = self.at(parent, (value,)) if foreign.parent_columns == parent.pk else None
                part = next(iter(unpack_key(key).pk), None) if key is not None else None
                if isinstance(part, Ref):
                    return part
        key = self.at(self.schema.tables[root], (value,))
        at = unpack_key(key) if key is not None else None
        if at is None or not at.birth or not isinstance(at.pk[0], int):
            return None
        return Ref(at.pk[0], at.birth)

    def born(self, table: Table, number: int) -> bytes | None:
        """Return which of the rows that were born with a number has it."""
        if (table.name, number) in self.found:
            found = self.found[table.name, number]
        else:
            if len(self.found) >= FOUND_MAX:
                self.found.clear()
            born = self.view.store.below(identities(table.name, number))
            found = self.found[table.name, number] = next(filter(self.has_number, born), None)
        return found.key if found is not None else None

    def dangling(self, table: Table, place: Place) -> bytes | None:
        """Return the row whose key refers to parents that are not here (any more)."""
        first = self.roots.get((table.name, table.pk[0])) if table.pk else None
        if first is None or not isinstance(place[0], int):
            return None
        prefix = pack_key(table.name, (Ref(place[0], b"\0" * 10), *place[1:]))
        begin = prefix[: prefix.index(b"@") + 1] + b"%d." % place[0]
        for stored in self.view.store.beginning(begin):
            key = stored.item.key
            if natural(unpack_key(key)) == place and self.is_shown(key):
                return key
        return None

    def is_shown(self, key: bytes) -> bool:
        """Return whether a row is applied and shown, and where its key says."""
        stored = self.view.applied(key)
        return stored is not None and stored.state != HELD and key not in self.places.moved


def reference_roots(schema: Schema) -> dict[tuple[str, str], str]:
    """Return for each column of a declared foreign key the table with births that its numbers come from.

    A key may refer to a column that is itself a reference: a table that extends another one shares its key.
    """
    direct: dict[tuple[str, str], tuple[str, str]] = {}
    for table in schema.tables.values():
        for foreign in table.foreign_keys:
            parent = schema.tables.get(foreign.parent)
            if parent is not None:
                for column, there in zip(foreign.columns, foreign.parent_columns, strict=False):
                    direct.setdefault((table.name, column), (parent.name, there))
    roots: dict[tuple[str, str], str] = {}
    for start, first in direct.items():
        at, steps = first, 0
        while steps <= len(direct):
            parent = schema.tables[at[0]]
            if parent.has_births(schema) and parent.pk == (at[1],):
                roots[start] = parent.name
                break
            if at not in direct:
                break
            at, steps = direct[at], steps + 1
    return roots


def natural(at: RowKey) -> Place:
    """Return the key values that a row's key names, numbers of parents as they were born."""
    return tuple(part.pk if isinstance(part, Ref) else part for part in at.pk)


def key_values(table: Table, cells: Mapping[str, Cell]) -> Place | None:
    """Return the values of the key columns, numbers of parents as they were born; None if one is missing."""
    if any(column not in cells for column in table.pk):
        return None
    return tuple(as_value(cells[column]) for column in table.pk)


def as_value(cell: Cell) -> Value:
    """Return a cell as a value; a reference as the number that its row was born with."""
    return cell.pk if isinstance(cell, Ref) else cell


def pack(table: Table, cells: tuple[Cell, ...]) -> bytes:
    """Return the key of a row without a birth."""
    return pack_key(table.name, cells, collations=collations(table))


def collations(table: Table) -> tuple[str, ...]:
    """Return the collations of a table's key columns."""
    by_name = {column.name: column.collation for column in table.columns}
    return tuple(by_name[column] for column in table.pk)


def canonical_place(table: Table, place: Place) -> Place:
    """Return key values as they stand in keys, where equal ones are equal under the columns' collations."""
    if len(place) == 1 and type(place[0]) is int:
        return place
    found = unpack_key(pack(table, place))
    return natural(found) if found.pk else place


def place_of(places: Places, table: Table, key: bytes, cells: Mapping[str, Cell]) -> Place | None:
    """Return the key values under which an applied row is shown (not whether it is)."""
    place = places.moved.get(key) or key_values(table, cells)
    if place is None or key in places.moved:
        return place
    return tuple(
        shown_part(places, table, column, cells[column], value)
        for column, value in zip(table.pk, place, strict=True)
    )


def shown_part(places: Places, table: Table, column: str, cell: Cell, value: Value) -> Value:
    """Return what a part of a key is shown as: a reference has the number that its row has."""
    if isinstance(cell, Ref):
        for foreign in table.foreign_keys:
            parent = pack_key(foreign.parent, (cell.pk,), cell.birth)
            parent = places.held.get(parent) or parent
            if column in foreign.columns and parent in places.moved:
                return places.moved[parent][0]
    return value
