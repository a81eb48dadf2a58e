"""Messages survive the wire, and nothing hostile gets through."""

from __future__ import annotations

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.item import HLC_MAX, Item, Kind
from p2psyncd.core.version import Dot, pack_vector
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.messages import (
    CLASSES,
    Ask,
    Boot,
    Closed,
    Delta,
    Done,
    Gone,
    Greeting,
    Hello,
    Introduced,
    Introductions,
    Know,
    Offer,
    Offers,
    OpenContent,
    Ping,
    Pong,
    Refusal,
    Removed,
    SnapshotReady,
    SnapshotRefused,
    SnapshotWanted,
    Summaries,
    Want,
    decode_message,
    encode_message,
)

SHARE = ShareId(b"s" * 16)
actors = st.binary(min_size=8, max_size=8).map(ActorId)
seqs = st.integers(0, 2**63 - 1)


@st.composite
def items(draw: st.DrawFn) -> Item:
    kind = draw(st.sampled_from(list(Kind)))
    actor = draw(actors)
    others = draw(st.dictionaries(actors, seqs, max_size=4))
    others.pop(actor, None)
    digest = draw(st.binary(min_size=32, max_size=32)) if kind is Kind.FILE else b""
    return Item(
        key=draw(st.binary(min_size=1, max_size=40)),
        kind=kind,
        digest=digest,
        size=draw(seqs),
        meta=draw(st.binary(max_size=40)),
        dot=Dot(actor, draw(seqs)),
        vector=pack_vector(others),
        hlc=draw(st.integers(0, HLC_MAX)),
    )


@given(st.lists(items(), max_size=5), st.booleans())
def test_items_come_back_as_they_were_sent(sent: list[Item], repair: bool) -> None:
    devices = tuple({item.dot.actor: DeviceId(b"d" * 32) for item in sent}.items())
    delta = Delta(share=SHARE, items=tuple(sent), devices=devices, repair=repair)
    back = decode_message(encode_message(delta))
    assert isinstance(back, Delta)
    assert back.items == delta.items
    assert back.repair == repair
    assert dict(devices).items() <= dict(back.devices).items()


EXAMPLES = [
    Greeting(
        versions=(1, 2),
        name="desk",
        instance=b"i" * 8,
        ports=(22600,),
        introduces=True,
        clock_us=1_700_000_000_000_000,
    ),
    Refusal(code="full", text="too many"),
    Offers(
        offers=(
            Offer(
                share=SHARE,
                name="n",
                kind="folder",
                secret=b"k" * 32,
                items=1,
                size=2,
                held=True,
                copies=True,
            ),
        )
    ),
    Introductions(
        devices=(
            Introduced(
                device=DeviceId(b"d" * 32),
                name="x",
                certificate=b"c",
                addresses=("10.0.0.1:22600",),
                paired_us=7,
            ),
        ),
        removed=((DeviceId(b"e" * 32), 5),),
    ),
    Hello(
        share=SHARE,
        actor=ActorId(b"a" * 8),
        knowledge_hash=b"h" * 16,
        knowledge=b"",
        root=b"r" * 32,
        need_items=0,
        need_size=0,
        boot=Boot(number=3, nonce=b"n" * 8),
        forgotten=b"f",
        closings=1,
    ),
    Know(share=SHARE, knowledge=b"k", forgotten=b"f"),
    Gone(share=SHARE, entries=((b"key", Dot(ActorId(b"a" * 8), 5)),)),
    Delta(share=SHARE, items=()),
    Done(share=SHARE, knowledge=b"", root=b"r" * 32, need_items=1, need_size=2),
    Ask(share=SHARE, prefixes=(b"", b"\x01"), full=True),
    Summaries(share=SHARE, body=[1, b"x"]),
    Want(share=SHARE, hashes=(b"h" * 8,)),
    Closed(share=SHARE, reason="paused"),
    Ping(),
    Pong(clock_us=1_700_000_000_000_000),
    OpenContent(),
    Removed(),
    SnapshotWanted(share=SHARE),
    SnapshotReady(share=SHARE, digest=b"d" * 32, size=1),
    SnapshotRefused(share=SHARE, reason="not now"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_comes_back_equal(message: object) -> None:
    assert decode_message(encode_message(message)) == message  # type: ignore[arg-type]


def test_there_is_an_example_of_every_message() -> None:
    assert {type(example) for example in EXAMPLES} == set(CLASSES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_fields_of_a_later_version_are_ignored(message: object) -> None:
    longer = cbor2.dumps([*cbor2.loads(encode_message(message)), "from the future"])  # type: ignore[arg-type]
    assert decode_message(longer) == message


@pytest.mark.parametrize(
    "message",
    [m for m in EXAMPLES if len(cbor2.loads(encode_message(m))) > 1],
    ids=lambda m: type(m).__name__,
)
def test_a_message_that_lacks_fields_is_refused(message: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_message(cbor2.dumps(cbor2.loads(encode_message(message))[:-1]))  # type: ignore[arg-type]


def test_an_offer_may_say_nothing_of_counters_and_nothing_that_is_none() -> None:
    plain = [b"s" * 16, "name", "database", b"k" * 32, 1, 0, False, True]
    [offer] = Offers.parse([[plain]]).offers
    assert (offer.copies, offer.counters) == (True, None)
    assert Offers(offers=(offer,)).fields() == [[plain]]
    for counters in ([], ["item.stock", "a.b.c"]):
        [offer] = Offers.parse([[[*plain, counters]]]).offers
        assert offer.counters == tuple(counters)
        assert Offers(offers=(offer,)).fields() == [[[*plain, counters]]]
    for wrong in ("item.stock", ["stock"], [".stock"], [1], ["a.b"] * 257, ["a." + "b" * 3000]):
        with pytest.raises(RemoteProtocolError):
            Offers.parse([[[*plain, wrong]]])


def test_an_unknown_type_is_refused_by_its_number() -> None:
    with pytest.raises(RemoteProtocolError, match="4711"):
        decode_message(cbor2.dumps([4711]))


def test_a_hello_without_vectors_is_about_100_bytes() -> None:
    assert len(encode_message(EXAMPLES[4])) <= 105  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_message(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.binary(max_size=40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)


@given(st.integers(0, 19), st.lists(values, max_size=8))
def test_well_formed_nonsense_is_refused_and_nothing_else(number: int, fields: list[object]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_message(cbor2.dumps([number, *fields]))


@pytest.mark.parametrize(
    "evil",
    [
        b"\x9b\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\x81" * 1000,
        b"\x9f\x00\xff",
        cbor2.dumps([6, SHARE, False, [], [["key"] * 9]]),
        cbor2.dumps([6, SHARE, False, [[b"a" * 8, b""]], [[b"k", 1, 0, b"", b"", 0, 0, 0, []]]]),
        cbor2.dumps([6, SHARE, False, [[b"a" * 8, b""]], [[b"k", 0, 0, b"", b"", 0, 0, 0, [0]]]]),
        cbor2.dumps([6, SHARE, False, [[b"a" * 8, b""]], [[b"k", 0, 0, b"", b"", 0, 0, 0, [5, 1]]]]),
        cbor2.dumps([6, SHARE, False, [[b"a" * 8, b""]], [[b"k", 0, 0, b"", b"", 0, 0, 0, ["x", 1]]]]),
        cbor2.dumps([6, SHARE, False, [[b"a" * 8, b"short"]], []]),
        cbor2.dumps([6, SHARE, False, [[b"a" * 8, b""]], [[b"k", 0, 0, b"", b"", 7, 0, 0, []]]]),
        cbor2.dumps([6, SHARE, False, [[b"a" * 8, b""]], [[b"k" * 5000, 0, 0, b"", b"", 0, 0, 0, []]]]),
    ],
)
def test_hostile_frames_are_refused_without_allocating_what_they_claim(evil: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_message(evil)


def test_a_rename_of_a_thousand_files_is_small() -> None:
    actor = ActorId(b"a" * 8)
    at = 1_700_000_000_000_000
    moved = []
    for n in range(1000):
        name = b"folder/file%04d.bin" % n
        moved.append(
            Item(
                key=name,
                kind=Kind.TOMBSTONE,
                digest=b"",
                size=0,
                meta=b"",
                dot=Dot(actor, at + n),
                hlc=at + n,
            )
        )
        moved.append(
            Item(
                key=b"moved/" + name,
                kind=Kind.FILE,
                digest=b"d" * 32,
                size=5000,
                meta=b"m" * 16,
                dot=Dot(actor, at + 1000 + n),
                hlc=at + n,
            )
        )
    assert len(encode_message(Delta(share=SHARE, items=tuple(moved)))) < 200_000


def test_a_time_that_leaves_no_room_to_write_on_top_of_it_is_refused() -> None:
    def delta(hlc: int) -> bytes:
        item = Item(
            key=b"k",
            kind=Kind.DIRECTORY,
            digest=b"",
            size=0,
            meta=b"",
            dot=Dot(ActorId(b"a" * 8), 1),
            hlc=hlc,
        )
        return encode_message(Delta(share=ShareId(b"s" * 16), items=(item,), devices=(), repair=False))

    decode_message(delta(HLC_MAX))
    with pytest.raises(RemoteProtocolError, match="wrong field"):
        decode_message(delta(HLC_MAX + 1))
