"""Items on the wire: compact records, checked field by field.

A record is `[key, kind, size, digest, meta, actor, seq, hlc, vector]`, where `actor` and the actors
in `vector` (a flat list actor, seq, actor, seq …) are places in the message's table of actors: an
actor and its device are named once a message, not once a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from p2psyncd.core.ids import ACTOR_ID_BYTES, DEVICE_ID_BYTES, ActorId, DeviceId
from p2psyncd.core.item import DIGEST_BYTES, HLC_MAX, Item, Kind
from p2psyncd.core.version import EMPTY_VECTOR, SEQ_MAX, Dot, pack_vector, unpack_vector
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.codec import take_bytes, take_list

__all__ = [
    "KEY_BYTES_MAX",
    "META_BYTES_MAX",
    "RECORDS_MAX",
    "ROW_BYTES_MAX",
    "pack_records",
    "unpack_records",
]

# Linux: PATH_MAX. A row's key is far shorter.
KEY_BYTES_MAX = 4096
# It is stored with every item: 16 KiB at most.
VECTOR_ACTORS_MAX = 1024
# Mode, times, a symlink's target (≤ PATH_MAX), and extended attributes (≤ 64 KiB in most file systems).
META_BYTES_MAX = 128 * 1024
# A row holds its values; with its key and vector it must fit into a frame.
ROW_BYTES_MAX = 3 * 1024 * 1024
RECORDS_MAX = 65_536
ACTORS_MAX = 65_536
RECORD_FIELDS = 9
KINDS = {int(kind): kind for kind in Kind}
# A deleted row keeps its values, for those who want it back.
WITHOUT_VALUES = frozenset({int(Kind.FILE), int(Kind.DIRECTORY), int(Kind.SYMLINK)})
NO_DEVICE = b""


def pack_records(items: Iterable[Item], devices: Mapping[ActorId, DeviceId]) -> tuple[list[Any], list[Any]]:
    """Return (table of actors, records) for a message.

    Args:
        items: What to send, in the order it is to be applied.
        devices: Which device each actor belongs to, as far as known.
    """
    places: dict[bytes, int] = {}
    records: list[Any] = []
    for item in items:
        vector: list[int] = []
        if item.vector:
            for actor, seq in unpack_vector(item.vector).items():
                vector += [places.setdefault(actor, len(places)), seq]
        actor, seq = item.dot
        place = places.setdefault(actor, len(places))
        records.append(
            [item.key, int(item.kind), item.size, item.digest, item.meta, place, seq, item.hlc, vector]
        )
    table = [[actor, devices.get(ActorId(actor), NO_DEVICE)] for actor in places]
    return table, records


def unpack_actors(table: object) -> list[tuple[ActorId, DeviceId | None]]:
    """Return the checked table of actors."""
    actors: list[tuple[ActorId, DeviceId | None]] = []
    for row in take_list(table, "actors", most=ACTORS_MAX):
        actor, device = take_list(row, "actor", least=2, most=2)
        take_bytes(actor, "actor", least=ACTOR_ID_BYTES, most=ACTOR_ID_BYTES)
        take_bytes(device, "device", most=DEVICE_ID_BYTES)
        if len(device) not in {0, DEVICE_ID_BYTES}:
            raise RemoteProtocolError("An actor's device ID has a wrong length")
        actors.append((ActorId(actor), DeviceId(device) if device else None))
    return actors


def unpack_vector_field(flat: Sequence[Any], actors: Sequence[tuple[ActorId, DeviceId | None]]) -> bytes:
    """Return the packed vector of a record's flat list of places and numbers."""
    if len(flat) % 2:
        raise RemoteProtocolError("A record's version vector is odd")
    entries: dict[ActorId, int] = {}
    for place, seq in zip(flat[::2], flat[1::2], strict=True):
        if type(place) is not int or type(seq) is not int:
            raise RemoteProtocolError("A record's version vector is broken")
        if not (0 <= place < len(actors) and 0 <= seq <= SEQ_MAX):
            raise RemoteProtocolError("A record's version vector is out of range")
        entries[actors[place][0]] = seq
    return pack_vector(entries)


def unpack_record(record: object, actors: Sequence[tuple[ActorId, DeviceId | None]]) -> Item:
    """Return one checked record as an item."""
    # One flat test, not nine calls: this runs once an item of a first sync.
    if type(record) is not list or len(record) < RECORD_FIELDS:
        raise RemoteProtocolError("A record is not a list of nine")
    key, kind, size, digest, meta, place, seq, hlc, flat = record[:RECORD_FIELDS]
    if not (
        type(key) is bytes
        and 0 < len(key) <= KEY_BYTES_MAX
        and type(kind) is int
        and kind in KINDS
        and type(size) is int
        and 0 <= size <= SEQ_MAX
        and type(digest) is bytes
        and len(digest) in {0, DIGEST_BYTES}
        and type(meta) is bytes
        and len(meta) <= (META_BYTES_MAX if kind in WITHOUT_VALUES else ROW_BYTES_MAX)
        and type(place) is int
        and 0 <= place < len(actors)
        and type(seq) is int
        and 0 <= seq <= SEQ_MAX
        and type(hlc) is int
        and 0 <= hlc <= HLC_MAX
        and type(flat) is list
        and len(flat) <= 2 * min(len(actors), VECTOR_ACTORS_MAX)
    ):
        raise RemoteProtocolError("A record has a wrong field")
    if kind == Kind.FILE and not digest:
        raise RemoteProtocolError("A file's record has no digest")
    return Item(
        key=key,
        kind=KINDS[kind],
        digest=digest,
        size=size,
        meta=meta,
        dot=Dot(actors[place][0], seq),
        vector=unpack_vector_field(flat, actors) if flat else EMPTY_VECTOR,
        hlc=hlc,
    )


def unpack_records(table: object, records: object) -> tuple[list[Item], list[tuple[ActorId, DeviceId]]]:
    """Return the checked items and the devices of the actors that the sender knows.

    Raises:
        RemoteProtocolError: Anything is not as `pack_records` makes it.
    """
    actors = unpack_actors(table)
    items = [unpack_record(record, actors) for record in take_list(records, "records", most=RECORDS_MAX)]
    # Of the others nothing is stored: a table of made-up actors is not to be remembered either.
    named = {item.dot.actor for item in items}
    return items, [(actor, device) for actor, device in actors if device is not None and actor in named]
