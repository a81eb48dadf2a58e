"""What goes into a session and comes out of it, beside messages: how a replica stands, and effects.

An effect is a value: whoever drives the session carries it out. See `wire.session` for the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2psyncd.core.ids import ActorId
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.version import Dot
from p2psyncd.wire.messages import Message
from p2psyncd.wire.session_messages import Boot, Delta

__all__ = [
    "FIRST_BOOT",
    "Answer",
    "Bury",
    "Commit",
    "Descend",
    "Effect",
    "Inspected",
    "PeerStanding",
    "Recheck",
    "Send",
    "Standing",
    "StreamLog",
    "Summarize",
    "Supply",
    "Take",
]

FIRST_BOOT = Boot(number=0, nonce=bytes(8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the replica stands at one moment; all fields belong to the same moment."""

    actor: ActorId
    knowledge: Knowledge
    root: bytes
    need_items: int
    need_size: int
    arrival: int
    forgotten: Knowledge = field(default_factory=dict)
    """G: tombstones of an actor may have been forgotten up to that write."""
    boot: Boot = FIRST_BOOT


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStanding:
    """How the peer said it stands."""

    knowledge: Knowledge
    root: bytes
    need_items: int
    need_size: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message."""

    message: Message


@dataclass(frozen=True, slots=True)
class StreamLog:
    """Send the log above this knowledge, then call `streamed`."""

    above: Knowledge


@dataclass(frozen=True, slots=True)
class Take:
    """Hand items to the replica; answer with its better versions, then call `noticed`."""

    delta: Delta
    stale: bool
    """Whether the sender missed deletes that were forgotten here."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Join this knowledge (K) and the peer's G into the replica's, durably."""

    knowledge: Knowledge
    forgotten: Knowledge


@dataclass(frozen=True, slots=True)
class Bury:
    """Delete these versions (they go to history): everybody else saw them deleted long ago."""

    entries: tuple[tuple[bytes, Dot], ...]


@dataclass(frozen=True, slots=True)
class Recheck:
    """Call `recheck` after a short while."""


@dataclass(frozen=True, slots=True)
class Summarize:
    """Answer with `Summaries` of these nodes."""

    prefixes: tuple[bytes, ...]
    full: bool


@dataclass(frozen=True, slots=True)
class Descend:
    """Compare the peer's summaries with our trie, then call `descended`."""

    body: Any
    asked: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Supply:
    """Send the live items with these keys, as repair."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Send the live items whose key hashes begin so, as repair."""

    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Inspected:
    """An inspection is over."""

    lacking: tuple[bytes, ...]
    """Key hashes of what the peer has and we have not, or differently."""
    surplus: tuple[bytes, ...]
    """Keys of what we have and the peer has not, or differently."""


Effect = Send | StreamLog | Take | Bury | Commit | Recheck | Summarize | Descend | Supply | Answer | Inspected
