"""What is fed: every decoder of what a peer or a stranger sends, and what is done with its outcome first.

A target takes bytes and may raise `RemoteProtocolError`; anything else that comes out of it is a bug. What a
decoder accepts must be safe to use, so the pure functions that meet an accepted value at once are called too.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cbor2
import corpus
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from mutations import mutate_bytes, mutate_value, nonsense

from p2psyncd.core.ids import ActorId, parse_device_id
from p2psyncd.core.item import Draft, Item, Kind, dominates, supersede, wins
from p2psyncd.core.knowledge import join, knowledge_hash
from p2psyncd.core.merkle import compare
from p2psyncd.core.summary import Summary
from p2psyncd.core.version import Dot, unpack_vector
from p2psyncd.daemon.transfer import unpack_chunks
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.net.addresses import parse_address
from p2psyncd.net.identity import certificate_of, device_of_certificate
from p2psyncd.sources.database.row import (
    LIFE_MAX,
    Loser,
    RowState,
    Stamp,
    draft,
    edited,
    inserted,
    is_sound,
    knows_baseline,
    pack,
    removed,
    revived,
)
from p2psyncd.sources.database.row import join as join_rows
from p2psyncd.sources.database.values import Ref
from p2psyncd.sources.folder.attributes import decode, encode
from p2psyncd.sources.folder.conflicts import aside_key, is_conflict, parse_conflict
from p2psyncd.sources.folder.layout import check_key
from p2psyncd.sources.folder.merge import merge
from p2psyncd.sources.folder.structure import acceptable
from p2psyncd.wire.codec import decode as decode_cbor
from p2psyncd.wire.content import BlobAnswer, ChunkAnswer, RangeAnswer, decode_request
from p2psyncd.wire.frames import FrameDecoder, encode_frames
from p2psyncd.wire.messages import Delta, Message, Summaries, decode_message, encode_message
from p2psyncd.wire.pairing_messages import NONCE, open_card, seal_card, split_fields, unpack
from p2psyncd.wire.pairing_messages import Kind as PairingKind
from p2psyncd.wire.records import unpack_records

__all__ = ["TARGETS", "Target", "feed"]

FRAME_LIMIT = 8 * 1024
NOW_US = corpus.NOW_US
OURS = Item(
    key=b"a",
    kind=Kind.FILE,
    digest=b"d" * 32,
    size=1,
    meta=b"",
    dot=Dot(ActorId(b"\x09" * 8), 5),
    hlc=NOW_US,
)


ROW = replace(
    OURS, key=b"t/0/1", kind=Kind.ROW, digest=b"", size=0, meta=pack(inserted({"id": 1, "x": "ours"}))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One decoder."""

    make: Callable[[random.Random], bytes]
    """Returns a valid input."""
    accept: Callable[[bytes], object]
    """Decodes, and uses what came out; RemoteProtocolError says no."""
    cbor: bool = True
    """Whether inputs are CBOR, whose values can be changed one by one."""


def feed(target: Target, rng: random.Random) -> bytes:
    """Return one input for a target: valid, changed a little, changed within, or nothing like it."""
    valid = target.make(rng)
    match rng.randrange(20):
        case 0:
            return valid
        case 1:
            return rng.randbytes(rng.choice((0, 1, 4, 40, 400)))
        case 2 if target.cbor:
            return dumps(nonsense(rng))
        case 3 | 4 | 5 | 6 | 7:
            return mutate_bytes(rng, valid)
        case _ if target.cbor:
            value = cbor2.loads(valid)
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                value = mutate_value(rng, value)
            return dumps(value)
        case _:
            return mutate_bytes(rng, valid)


def dumps(value: object) -> bytes:
    """Return CBOR; a value that cannot be encoded is left out."""
    try:
        return cbor2.dumps(value)
    except (cbor2.CBOREncodeError, RecursionError, UnicodeEncodeError):
        return b""


# The decoders


def frames(data: bytes) -> None:
    """Frames, however they are split: nothing longer than the limit is kept."""
    decoder = FrameDecoder(FRAME_LIMIT)
    # Byte by byte where it is short; a long one in some hundred pieces, for the runs' sake.
    step = len(data) // 128 + len(data) % 7 + 1
    for at in range(0, len(data), step):
        for payload in decoder.feed(data[at : at + step]):
            assert len(payload) <= FRAME_LIMIT
        assert len(decoder.buffer) <= FRAME_LIMIT + 4


def whole_message(data: bytes) -> None:
    """A message of the main connection; what is accepted says the same once more."""
    message = decode_message(data)
    again = encode_message(message)
    # As bytes: a summary's body is not looked at yet, and may hold a NaN, which equals nothing.
    assert encode_message(decode_message(again)) == again
    use_message(message)


def use_message(message: Message) -> None:
    """Do with a message what a session does before anything else."""
    for name in ("knowledge", "forgotten"):
        packed = getattr(message, name, b"")
        if packed:
            knowledge = unpack_vector(packed)
            knowledge_hash(join(knowledge, {OURS.dot.actor: 5}))
    match message:
        case Delta():
            for one in message.items:
                use_item(one)
        case Summaries():
            use_summary(message.body)
        case _:
            pass


def use_item(item: Item) -> None:
    """Do with a version what the ledger and the folder do."""
    acceptable(item.key)
    is_conflict(item.key)
    parse_conflict(item.key)
    dominates(item, OURS)
    dominates(OURS, item)
    wins(item, OURS)
    try:
        check_key(item.key)
    except Exception as error:
        if type(error).__name__ != "PathUnsafe":
            raise
    else:
        aside = aside_key(item)
        check_key(aside)
    ours = Item(**{name: getattr(OURS, name) for name in OURS.__slots__} | {"key": item.key})
    for one, other in ((ours, item), (item, ours)):
        merged = merge(one, other)
        if merged.rewrite is not None:
            supersede(merged.rewrite, OURS.dot, NOW_US, ours, item)
    supersede(Draft(key=item.key, kind=Kind.TOMBSTONE), OURS.dot, NOW_US, item).knowing(ours)


class NoTrie:
    """A trie of an empty share."""

    def trie_children(self, prefix: bytes) -> None:
        del prefix

    def trie_entries(self, prefix: bytes) -> list[Any]:
        del prefix
        return []


def use_summary(body: object) -> None:
    """Compare a summary with an empty share."""
    theirs = Summary.from_wire(body, (b"",))
    found = compare(NoTrie(), theirs)  # type: ignore[arg-type]
    assert all(8 <= len(one) <= 16 for one in found.theirs_only)
    assert all(len(prefix) <= 32 for prefix in found.ask)


def records(data: bytes) -> None:
    """A table of actors and the records that point into it."""
    match decode_cbor(data):
        case [table, rows, *_]:
            items, _ = unpack_records(table, rows)
            for one in items:
                use_item(one)
        case _:
            raise RemoteProtocolError("not two lists")


def summary(data: bytes) -> None:
    """A summary on its own."""
    use_summary(decode_cbor(data))


def metadata(data: bytes) -> None:
    """A path's metadata; what is accepted can be written again."""
    attributes = decode(data)
    assert decode(encode(attributes)) == attributes


def row(data: bytes) -> None:
    """What an item says about a row: whatever is taken in can be merged, edited, deleted and brought back."""
    given = [replace(ROW, kind=kind, meta=data) for kind in (Kind.ROW, Kind.TOMBSTONE)]
    sound = [item for item in given if is_sound(item)]
    if not sound:
        raise RemoteProtocolError("no row")
    for theirs in sound:
        knows_baseline(theirs, ROW)
        for one, other in ((ROW, theirs), (theirs, ROW)):
            merged = join_rows(one, other)
            if merged.rewrite is not None:
                assert is_sound(supersede(merged.rewrite, OURS.dot, NOW_US, one, other))
        state = removed(theirs) if theirs.live else revived(theirs, {"id": 1, "x": 2})
        again = supersede(draft(ROW.key, state), OURS.dot, NOW_US, theirs)
        assert is_sound(again)
        state = revived(again, {"id": 1}) if theirs.live else edited(again, {"x": 3})
        assert is_sound(supersede(draft(ROW.key, state), OURS.dot, NOW_US, again))


def row_example(rng: random.Random) -> bytes:
    """Return the state of a row."""
    cells = {
        "id": rng.choice((1, 2**63 - 1)),
        "x": rng.choice((None, 1.5, "text", b"blob", Ref(3, b"b" * 10))),
    }
    stamps = [
        Stamp(rng.choice(corpus.HLCS), rng.choice(corpus.ACTORS), rng.choice(corpus.SEQS)) for _ in range(3)
    ]
    return pack(
        RowState(
            life=rng.choice((1, 2, 3, LIFE_MAX - 1, LIFE_MAX)),
            base=stamps[0],
            stamps={"x": stamps[1]} if stamps[1] != stamps[0] and rng.random() < 0.5 else {},
            cells=cells,
            losers=(Loser(stamp=stamps[2], cells={"x": 0}),) if rng.random() < 0.5 else (),
            flags=rng.randrange(2),
        )
    )


def vector(data: bytes) -> None:
    """A packed version vector: canonical or refused."""
    unpack_vector(data)


def content_answer(data: bytes) -> None:
    """An answer, read as each of the three."""
    failures = 0
    for read in (BlobAnswer.decode, ChunkAnswer.decode, RangeAnswer.decode):
        try:
            answer = read(data)
        except RemoteProtocolError:
            failures += 1
        else:
            if isinstance(answer, ChunkAnswer) and answer.chunks is not None:
                sum(length for _, length in unpack_chunks(answer.chunks))
    if failures == 3:
        raise RemoteProtocolError("none of the three")


def pairing(data: bytes) -> None:
    """A message of pairing."""
    kind, fields = unpack(data)
    assert len(fields) >= kind.fields
    assert kind in PairingKind


def card(data: bytes) -> None:
    """What a rightly sealed card holds: the sender knows the key, and lies."""
    sealed = ChaCha20Poly1305(bytes(32)).encrypt(NONCE, data, b"transcript")
    opened = open_card(bytes(32), sealed, b"transcript")
    assert opened is not None
    assert seal_card(bytes(32), opened, b"transcript")
    assert split_fields(data, 0)


@cache
def certificate_example() -> bytes:
    """Return a device's certificate."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    made: x509.Certificate = certificate_of(key)
    return made.public_bytes(serialization.Encoding.DER)


def texts(data: bytes) -> None:
    """What mDNS and introductions bring as text: ValueError is their word for no."""
    shown = data.decode("utf-8", "replace")
    failures = 0
    for read in (parse_device_id, parse_address):
        try:
            read(shown)
        except ValueError:
            failures += 1
    if failures == 2:
        raise RemoteProtocolError("neither")


def text_example(rng: random.Random) -> bytes:
    """Return a device ID or an address."""
    return rng.choice(
        (
            b"AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA",
            b"10.0.0.1:22600",
            b"[fe80::1%eth0]:22600",
            b"[fd00::1]:1",
        )
    )


TARGETS: dict[str, Target] = {
    "frames": Target(
        make=lambda rng: encode_frames(
            [rng.randbytes(rng.choice((0, 1, 100, FRAME_LIMIT))) for _ in range(3)]
        ),
        accept=frames,
        cbor=False,
    ),
    "message": Target(make=lambda rng: encode_message(corpus.message(rng)), accept=whole_message),
    "records": Target(
        make=lambda rng: dumps(
            Delta(share=corpus.SHARE, items=(corpus.item(rng), corpus.item(rng))).fields()[2:]
        ),
        accept=records,
    ),
    "summary": Target(make=lambda rng: dumps(corpus.summary(rng)), accept=summary),
    "metadata": Target(make=lambda rng: corpus.meta(rng, target=rng.random() < 0.3), accept=metadata),
    "row": Target(make=row_example, accept=row, cbor=False),
    "vector": Target(make=corpus.vector, accept=vector, cbor=False),
    "content_request": Target(make=corpus.content_request, accept=decode_request),
    "content_answer": Target(make=corpus.content_answer, accept=content_answer),
    "pairing": Target(make=corpus.pairing_message, accept=pairing, cbor=False),
    "card": Target(make=corpus.card, accept=card, cbor=False),
    "certificate": Target(make=lambda _: certificate_example(), accept=device_of_certificate, cbor=False),
    "texts": Target(make=text_example, accept=texts, cbor=False),
}
