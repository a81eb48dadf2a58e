"""Valid examples of everything that travels, made at random: where the mutations begin.

Each maker takes a `random.Random`; hypothesis hands in its own (`strategies.py`), so one set of makers
serves the long runs and the shrinking ones. Few actors, keys and digests, so that examples refer to one another.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from blake3 import blake3

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.knowledge import knowledge_hash
from p2psyncd.core.merkle import BranchNode, LeafNode, Summary
from p2psyncd.core.summary import child_width, leaf_shape
from p2psyncd.core.version import Dot, pack_vector, unpack_vector
from p2psyncd.sources.folder.attributes import Attributes, encode
from p2psyncd.wire import messages
from p2psyncd.wire.content import (
    BlobAnswer,
    BlobRequest,
    ChunkAnswer,
    ChunkRequest,
    RangeAnswer,
    RangeRequest,
)
from p2psyncd.wire.messages import CLASSES, Delta, Message
from p2psyncd.wire.pairing_messages import Card, join_fields, pack
from p2psyncd.wire.pairing_messages import Kind as PairingKind

__all__ = [
    "ACTORS",
    "KEYS",
    "SHARE",
    "card",
    "content_answer",
    "content_request",
    "item",
    "message",
    "message_of",
    "meta",
    "pairing_message",
    "summary",
    "vector",
]

SHARE = ShareId(b"simulated-share!")
ACTORS = [ActorId(bytes([number]) * 8) for number in range(1, 6)]
DEVICES = [DeviceId(bytes([number]) * 32) for number in range(1, 6)]
KEYS = [b"a", b"b", b"d", b"d/a", b"d/e", b"d/e/f", b"g", b"g/h", b"l", b"l/m", b"n" * 255]
HOSTILE_KEYS = [
    b"..",
    b"a/../../b",
    b"/abs",
    b"a//b",
    b".p2psync/share",
    b"nul\0",
    b"x" * 256,
    b"x/" * 2047 + b"x",
]
CONTENTS = [b"content %d" % number for number in range(12)]
NOW_US = 1_700_000_000_000_000
SEQS = (0, 1, 5, NOW_US - 10, NOW_US, NOW_US + 10, 2**62, 2**63 - 1)
HLCS = (0, 1, NOW_US - 1000, NOW_US, NOW_US + 1000, 2**62 - 1, 2**62)


def digest(rng: random.Random) -> bytes:
    """Return a digest: of a content that may be had, or of none."""
    return blake3(rng.choice(CONTENTS)).digest() if rng.random() < 0.8 else rng.randbytes(32)


def vector(rng: random.Random) -> bytes:
    """Return a packed version vector, or knowledge."""
    return pack_vector({actor: rng.choice(SEQS) for actor in rng.sample(ACTORS, rng.randrange(len(ACTORS)))})


def meta(rng: random.Random, *, target: bool = False) -> bytes:
    """Return a path's metadata."""
    return encode(
        Attributes(
            mode=rng.choice((0o644, 0o755, 0o7777, 0)),
            mtime_ns=rng.choice((0, NOW_US * 1000, -(2**63) + 1, 2**63 - 1)),
            target=rng.choice((b"/etc/passwd", b"..", b"a", b"x" * 4095)) if target else None,
            content=Dot(rng.choice(ACTORS), rng.choice(SEQS)) if rng.random() < 0.2 else None,
            chosen=Dot(rng.choice(ACTORS), rng.choice(SEQS)) if rng.random() < 0.2 else None,
        )
    )


def item(rng: random.Random, *, hostile_names: float = 0.03) -> Item:
    """Return an item."""
    kind = rng.choice(
        (
            Kind.FILE,
            Kind.FILE,
            Kind.FILE,
            Kind.TOMBSTONE,
            Kind.TOMBSTONE,
            Kind.DIRECTORY,
            Kind.SYMLINK,
            Kind.ROW,
        )
    )
    content = rng.choice(CONTENTS)
    size = len(content) if rng.random() < 0.9 else rng.choice((0, 1, 2**40, 2**62, 2**63 - 1))
    return Item(
        key=rng.choice(HOSTILE_KEYS if rng.random() < hostile_names else KEYS),
        kind=kind,
        digest=blake3(content).digest() if kind in {Kind.FILE, Kind.SYMLINK} else b"",
        size=size if kind is Kind.FILE else 0,
        meta=b"" if kind is Kind.TOMBSTONE else meta(rng, target=kind is Kind.SYMLINK),
        dot=Dot(rng.choice(ACTORS), rng.choice(SEQS)),
        vector=vector(rng),
        hlc=rng.choice(HLCS),
    )


def summary(rng: random.Random, asked: tuple[bytes, ...] = (b"",)) -> list[object]:
    """Return a summary's form on the wire that covers what was asked."""
    full = rng.random() < 0.2
    nodes: dict[bytes, BranchNode | LeafNode] = {}
    left = list(asked)
    while left:
        prefix = left.pop()
        if rng.random() < 0.5 or len(prefix) > 3:
            nodes[prefix] = leaf(rng, prefix, full=full)
            continue
        bitmap = rng.randrange(1, 1 << 16)
        hashes = rng.randbytes(bitmap.bit_count() * child_width(full_width=full))
        if rng.random() < 0.3 and len(nodes) + len(left) < 100:
            hashes = b""
            left += [prefix + bytes([nibble]) for nibble in range(16) if bitmap >> nibble & 1]
        nodes[prefix] = BranchNode(prefix=prefix, bitmap=bitmap, hashes=hashes)
    return Summary(full_width=full, nodes=tuple(nodes[prefix] for prefix in sorted(nodes))).to_wire()


def leaf(rng: random.Random, prefix: bytes, *, full: bool) -> LeafNode:
    """Return a leaf of random entries, rightly shaped."""
    step = leaf_shape(prefix, full_width=full).step
    parts = [bytearray(rng.randbytes(step)) for _ in range(rng.randrange(33))]
    if len(prefix) % 2:
        for part in parts:
            part[0] = prefix[-1] << 4 | part[0] & 0x0F
    return LeafNode(prefix=prefix, entries=b"".join(sorted(map(bytes, parts))))


def prefixes(rng: random.Random) -> tuple[bytes, ...]:
    """Return the prefixes of a question."""
    made = {bytes(rng.randrange(16) for _ in range(rng.randrange(5))) for _ in range(rng.randrange(1, 6))}
    return tuple(sorted(made))


def boot(rng: random.Random) -> Any:
    """Return the boot in a hello."""
    return messages.Boot(number=rng.choice((0, 1, 2, 2**63 - 1)), nonce=rng.randbytes(8))


def introduced(rng: random.Random) -> tuple[messages.Introduced, ...]:
    """Return introductions."""
    return tuple(
        messages.Introduced(
            device=rng.choice(DEVICES),
            name=rng.choice(("maple", "willow", "x" * 200)),
            certificate=rng.randbytes(rng.randrange(1, 300)),
            addresses=tuple(
                rng.choice(("10.0.0.1:22600", "[fe80::1%eth0]:1", "8.8.8.8:53"))
                for _ in range(rng.randrange(3))
            ),
        )
        for _ in range(rng.randrange(3))
    )


def offers(rng: random.Random) -> tuple[messages.Offer, ...]:
    """Return offers."""
    return tuple(
        messages.Offer(
            share=rng.choice((SHARE, ShareId(rng.randbytes(16)))),
            name=rng.choice(("docs", "photos")),
            kind=rng.choice(("folder", "database", "else")),
            secret=rng.randbytes(32),
            items=rng.randrange(1000),
            size=rng.randrange(10**9),
            copies=flag(rng),
        )
        for _ in range(rng.randrange(3))
    )


def sized(count: int) -> Callable[[random.Random], bytes]:
    """Return a maker of so many bytes."""
    return lambda rng: rng.randbytes(count)


def many(make: Callable[[random.Random], Any], most: int) -> Callable[[random.Random], tuple[Any, ...]]:
    """Return a maker of up to so many."""
    return lambda rng: tuple(make(rng) for _ in range(rng.randrange(most + 1)))


def number(rng: random.Random) -> int:
    """Return a count or a size."""
    return rng.choice((0, 0, 1, 1000, 2**40, 2**63 - 1))


def flag(rng: random.Random) -> bool:
    """Return one of two."""
    return rng.random() < 0.5


def text(rng: random.Random) -> str:
    """Return a short text."""
    return rng.choice(("", "maple", "paused", "x" * 200))


FIELDS: dict[str, Callable[[random.Random], Any]] = {
    "actor": lambda rng: rng.choice(ACTORS),
    "actors": many(lambda rng: rng.choice(ACTORS), 3),
    "answers": number,
    "body": summary,
    "boot": boot,
    "clock_us": number,
    "closings": number,
    "code": text,
    "devices": many(lambda rng: (rng.choice(ACTORS), rng.choice(DEVICES)), 0),
    "digest": sized(32),
    "entries": many(lambda rng: (rng.choice(KEYS), Dot(rng.choice(ACTORS), rng.choice(SEQS))), 4),
    "forgotten": vector,
    "full": flag,
    "hashes": many(sized(8), 5),
    "instance": sized(8),
    "introduces": flag,
    "items": many(item, 8),
    "knowledge": vector,
    "name": text,
    "need_items": number,
    "need_size": number,
    "offers": offers,
    "ports": many(lambda rng: rng.choice((0, 1, 22600, 65_535)), 3),
    "prefixes": prefixes,
    "reason": text,
    "removed": many(lambda rng: (rng.choice(DEVICES), number(rng)), 3),
    "repair": flag,
    "root": sized(32),
    "size": number,
    "share": lambda rng: SHARE if rng.random() < 0.97 else ShareId(rng.randbytes(16)),
    "text": text,
    "versions": many(lambda rng: rng.choice((0, 1, 2, 2**63 - 1)), 3),
}


def message_of(cls: type[Message], rng: random.Random) -> Message:
    """Return a message of a type; every field must have a maker."""
    values = {one.name: FIELDS[one.name](rng) for one in fields(cls) if one.name != "knowledge_hash"}
    if cls is messages.Introductions:
        values["devices"] = introduced(rng)
    if cls is messages.Hello:
        values["knowledge_hash"] = knowledge_hash(unpack_vector(values["knowledge"]))
    if cls is Delta:
        named = {one.dot.actor for one in values["items"]}
        values["devices"] = tuple((actor, rng.choice(DEVICES)) for actor in sorted(named) if flag(rng))
    return cls(**values)


def message(rng: random.Random) -> Message:
    """Return a message of any type."""
    return message_of(rng.choice(CLASSES), rng)


def content_request(rng: random.Random) -> bytes:
    """Return a request of a content connection."""
    match rng.randrange(3):
        case 0:
            return BlobRequest(SHARE, tuple(digest(rng) for _ in range(rng.randrange(6)))).encode()
        case 1:
            return ChunkRequest(SHARE, digest(rng)).encode()
        case _:
            ranges = tuple((number(rng) % 2**62, number(rng) % 2**62) for _ in range(rng.randrange(5)))
            return RangeRequest(SHARE, digest(rng), ranges).encode()


def content_answer(rng: random.Random) -> bytes:
    """Return an answer of a content connection."""
    match rng.randrange(3):
        case 0:
            blobs = tuple((digest(rng), rng.choice((None, b"", b"x" * 100))) for _ in range(rng.randrange(5)))
            return BlobAnswer(blobs, last=flag(rng)).encode()
        case 1:
            return ChunkAnswer(rng.choice((None, b"", rng.randbytes(20 * rng.randrange(20))))).encode()
        case _:
            return RangeAnswer(rng.choice((0, 1, 2**20, 2**63 - 1))).encode()


def pairing_message(rng: random.Random) -> bytes:
    """Return a message of pairing."""
    kind = rng.choice(list(PairingKind))
    return pack(
        kind,
        *(rng.randbytes(rng.choice((0, 1, 4, 32, 33, 300))) for _ in range(kind.fields + rng.randrange(2))),
    )


def card(rng: random.Random) -> bytes:
    """Return what is sealed in a pairing's confirmation."""
    made = Card(
        name=rng.choice(("maple", "é", "x" * 255)),
        certificate=rng.randbytes(300),
        introduce=flag(rng),
        port=22600,
    )
    return join_fields(
        made.name.encode(), made.certificate, bytes([made.introduce]), made.port.to_bytes(2, "big")
    )
