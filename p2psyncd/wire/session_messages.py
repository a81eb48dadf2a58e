"""The messages of a share's session: what two replicas say to each other.

They look as `wire.messages` says; docs/protocol.md lists them in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from p2psyncd.core.ids import ACTOR_ID_BYTES, SHARE_ID_BYTES, ActorId, DeviceId, ShareId
from p2psyncd.core.item import Item
from p2psyncd.core.knowledge import KNOWLEDGE_HASH_BYTES
from p2psyncd.core.merkle import prefixes_from_wire
from p2psyncd.core.version import SEQ_MAX, Dot
from p2psyncd.wire.codec import take_bool, take_bytes, take_int, take_list, take_text
from p2psyncd.wire.records import KEY_BYTES_MAX, pack_records, unpack_records

__all__ = [
    "Ask",
    "Boot",
    "Closed",
    "Delta",
    "Done",
    "Gone",
    "Hello",
    "Know",
    "SessionMessage",
    "ShareMessage",
    "Summaries",
    "Want",
    "take_share",
]

TEXT_MAX = 4096
ROOT_BYTES = 32
NONCE_BYTES = 8
KNOWLEDGE_BYTES_MAX = 16 * 65_536
# A hello holds short vectors only, and may have to be kept until the receiver is ready.
SHORT_BYTES_MAX = 16 * 64
HASHES_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One opening of a replica's state: a copy or an older state that is put back cannot tell the same twice."""

    number: int
    """Grows with every opening."""
    nonce: bytes
    """8 random bytes of this opening."""
    started: int = 0
    """One more than the actor's last write before this opening; 0: there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Opens the session of one share: how far the sender is."""

    TYPE: ClassVar[int] = 4
    share: ShareId
    actor: ActorId
    knowledge_hash: bytes
    knowledge: bytes
    """Packed; empty when it is long: then `Know` follows if the hashes differ."""
    root: bytes
    need_items: int
    need_size: int
    boot: Boot
    forgotten: bytes = b""
    """Packed G: up to where the sender forgot tombstones; empty when `knowledge` is for its length."""
    closings: int = 0
    """How many `Closed` of the receiver for this share the sender has seen on this connection."""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [
            self.share,
            self.actor,
            self.knowledge_hash,
            self.knowledge,
            self.root,
            self.need_items,
            self.need_size,
            self.boot.number,
            self.boot.nonce,
            self.forgotten,
            self.closings,
            self.boot.started,
        ]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Hello:
        """Return the checked message."""
        return cls(
            share=take_share(fields[0]),
            actor=ActorId(take_bytes(fields[1], "actor", least=ACTOR_ID_BYTES, most=ACTOR_ID_BYTES)),
            knowledge_hash=take_bytes(
                fields[2], "knowledge hash", least=KNOWLEDGE_HASH_BYTES, most=KNOWLEDGE_HASH_BYTES
            ),
            knowledge=take_bytes(fields[3], "knowledge", most=SHORT_BYTES_MAX),
            root=take_bytes(fields[4], "root", least=ROOT_BYTES, most=ROOT_BYTES),
            need_items=take_int(fields[5], "need"),
            need_size=take_int(fields[6], "need"),
            boot=Boot(
                number=take_int(fields[7], "boot"),
                nonce=take_bytes(fields[8], "boot", least=NONCE_BYTES, most=NONCE_BYTES),
                started=take_int(fields[11], "boot"),
            ),
            forgotten=take_bytes(fields[9], "forgotten", most=SHORT_BYTES_MAX),
            closings=take_int(fields[10], "closings"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Know:
    """The sender's whole knowledge, and up to where it forgot tombstones, packed."""

    TYPE: ClassVar[int] = 5
    share: ShareId
    knowledge: bytes
    forgotten: bytes = b""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, self.knowledge, self.forgotten]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Know:
        """Return the checked message."""
        return cls(
            share=take_share(fields[0]),
            knowledge=take_bytes(fields[1], "knowledge", most=KNOWLEDGE_BYTES_MAX),
            forgotten=take_bytes(fields[2], "forgotten", most=KNOWLEDGE_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Versions that the receiver may lack."""

    TYPE: ClassVar[int] = 6
    share: ShareId
    items: tuple[Item, ...]
    devices: tuple[tuple[ActorId, DeviceId], ...] = ()
    """Which device each actor belongs to, as far as the sender knows."""
    repair: bool = False
    """Sent because of the Merkle descent, not from the log."""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        table, records = pack_records(self.items, dict(self.devices))
        return [self.share, self.repair, table, records]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Delta:
        """Return the checked message."""
        items, devices = unpack_records(fields[2], fields[3])
        return cls(
            share=take_share(fields[0]),
            repair=take_bool(fields[1], "repair"),
            items=tuple(items),
            devices=tuple(devices),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The sender has sent all it has, up to this knowledge; and how it stands now."""

    TYPE: ClassVar[int] = 7
    share: ShareId
    knowledge: bytes
    """Packed: the sender's, joined with what it was told by the receiver and has taken in."""
    root: bytes
    need_items: int
    need_size: int

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, self.knowledge, self.root, self.need_items, self.need_size]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Done:
        """Return the checked message."""
        return cls(
            share=take_share(fields[0]),
            knowledge=take_bytes(fields[1], "knowledge", most=KNOWLEDGE_BYTES_MAX),
            root=take_bytes(fields[2], "root", least=ROOT_BYTES, most=ROOT_BYTES),
            need_items=take_int(fields[3], "need"),
            need_size=take_int(fields[4], "need"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Asks for the summaries of some nodes of the trie."""

    TYPE: ClassVar[int] = 8
    share: ShareId
    prefixes: tuple[bytes, ...]
    full: bool = False
    """Whether hashes shall come at full width (32 bytes, not 8)."""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, list(self.prefixes), self.full]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Ask:
        """Return the checked message."""
        return cls(
            share=take_share(fields[0]),
            prefixes=tuple(prefixes_from_wire(fields[1])),
            full=take_bool(fields[2], "full"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summaries:
    """Answers `Ask`; `body` is a summary in the form of `core.merkle`, checked there."""

    TYPE: ClassVar[int] = 9
    share: ShareId
    body: Any = field(default=None)

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, self.body]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Summaries:
        """Return the message; its body is checked by `core.merkle`."""
        return cls(share=take_share(fields[0]), body=fields[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Asks for the live items whose key hashes begin so (8 bytes each)."""

    TYPE: ClassVar[int] = 10
    share: ShareId
    hashes: tuple[bytes, ...]

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, list(self.hashes)]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Want:
        """Return the checked message."""
        return cls(
            share=take_share(fields[0]),
            hashes=tuple(
                take_bytes(h, "key hash", least=8, most=16)
                for h in take_list(fields[1], "key hashes", most=HASHES_MAX)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The sender ends the session of one share (paused, removed, held)."""

    TYPE: ClassVar[int] = 11
    share: ShareId
    reason: str

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, self.reason]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Closed:
        """Return the checked message."""
        return cls(share=take_share(fields[0]), reason=take_text(fields[1], "reason", most=TEXT_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Answers repaired versions that the sender saw deleted, and whose tombstones it has forgotten."""

    TYPE: ClassVar[int] = 16
    share: ShareId
    entries: tuple[tuple[bytes, Dot], ...]
    """Key of an item, and the dot of the version that was deleted."""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, [[key, dot.actor, dot.seq] for key, dot in self.entries]]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Gone:
        """Return the checked message."""
        entries = []
        for row in take_list(fields[1], "entries", most=HASHES_MAX):
            key, actor, seq = take_list(row, "entry", least=3, most=64)[:3]
            name = take_bytes(key, "key", most=KEY_BYTES_MAX)
            writer = take_bytes(actor, "actor", least=ACTOR_ID_BYTES, most=ACTOR_ID_BYTES)
            entries.append((name, Dot(ActorId(writer), take_int(seq, "sequence number", most=SEQ_MAX))))
        return cls(share=take_share(fields[0]), entries=tuple(entries))


SessionMessage = Hello | Know | Delta | Done | Ask | Summaries | Want | Gone
"""What a session takes in; `Closed` is for whoever keeps the sessions."""
ShareMessage = SessionMessage | Closed


def take_share(value: object) -> ShareId:
    """Return a checked share ID."""
    return ShareId(take_bytes(value, "share", least=SHARE_ID_BYTES, most=SHARE_ID_BYTES))
