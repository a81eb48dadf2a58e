"""Dots and version vectors: which write an item is, and which other writes it knew of.

A vector is kept packed (16 bytes an actor: actor, then sequence number, sorted by actor), because
it is stored and sent far more often than it is looked into. An item's vector holds only *other*
actors; its own dot stands for itself and for all earlier writes of that actor to the item.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from p2psyncd.core.ids import ACTOR_ID_BYTES, ActorId
from p2psyncd.errors import RemoteProtocolError

__all__ = ["EMPTY_VECTOR", "SEQ_MAX", "Dot", "join_vectors", "pack_vector", "unpack_vector"]

ENTRY = struct.Struct(">8sQ")
EMPTY_VECTOR = b""
# SQLite's integers are signed; microseconds since 1970 reach this in the year 294,000.
SEQ_MAX = 2**63 - 1


class Dot(NamedTuple):
    """The name of one write: the actor that made it and the actor's sequence number (µs-like)."""

    actor: ActorId
    seq: int


def pack_vector(entries: Mapping[ActorId, int]) -> bytes:
    """Return the packed form of a mapping from actor to sequence number."""
    return b"".join(ENTRY.pack(actor, entries[actor]) for actor in sorted(entries))


def unpack_vector(packed: bytes) -> dict[ActorId, int]:
    """Return the mapping of a packed vector.

    Raises:
        RemoteProtocolError: Not a whole number of entries, not sorted, or a number too large.
    """
    if len(packed) % ENTRY.size:
        raise RemoteProtocolError("A version vector has a broken length")
    entries = {ActorId(actor): seq for actor, seq in ENTRY.iter_unpack(packed)}
    if packed and (pack_vector(entries) != packed or max(entries.values()) > SEQ_MAX):
        raise RemoteProtocolError("A version vector is not in canonical form")
    return entries


def join_vectors(*parts: Mapping[ActorId, int]) -> dict[ActorId, int]:
    """Return the least vector that covers all parts."""
    joined: dict[ActorId, int] = {}
    for part in parts:
        for actor, seq in part.items():
            if seq > joined.get(actor, -1):
                joined[actor] = seq
    return joined


assert ENTRY.size == ACTOR_ID_BYTES + 8
