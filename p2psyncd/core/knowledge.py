"""Knowledge: up to which write of every actor a replica has seen everything."""

from __future__ import annotations

from collections.abc import Mapping

from blake3 import blake3

from p2psyncd.core.ids import ActorId
from p2psyncd.core.version import Dot, join_vectors, pack_vector

__all__ = ["KNOWLEDGE_HASH_BYTES", "Knowledge", "covers", "includes", "join", "knowledge_hash"]

Knowledge = Mapping[ActorId, int]
"""actor → sequence number: "I have seen everything of that actor up to that write"."""

KNOWLEDGE_HASH_BYTES = 16


def covers(knowledge: Knowledge, dot: Dot) -> bool:
    """Return whether the write `dot` has been seen."""
    return knowledge.get(dot.actor, -1) >= dot.seq


def includes(greater: Knowledge, lesser: Knowledge) -> bool:
    """Return whether `greater` covers all that `lesser` covers."""
    return all(greater.get(actor, -1) >= seq for actor, seq in lesser.items())


def join(*parts: Knowledge) -> dict[ActorId, int]:
    """Return the least knowledge that includes all parts."""
    return join_vectors(*parts)


def knowledge_hash(knowledge: Knowledge) -> bytes:
    """Return 16 bytes that are equal exactly when the knowledge is."""
    return blake3(pack_vector(knowledge)).digest(length=KNOWLEDGE_HASH_BYTES)
