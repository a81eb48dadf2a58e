from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.errors import (
    CodeExpired,
    PairingFailed,
    PairingIntercepted,
    ProtocolTooOld,
    RemoteProtocolError,
    WrongCode,
)
from p2psyncd.wire.pairing import Effect, Finish, Host, Joiner, Send, Side, State, Store, Unclear
from p2psyncd.wire.pairing_code import make_code
from p2psyncd.wire.pairing_keys import derive_keys
from p2psyncd.wire.pairing_messages import Card, Kind, clean_name, open_card, pack, seal_card, unpack

CODE = make_code("7", b"\x03\x60")
OTHER = make_code("7", b"\x03\x61")
HOST_CARD = Card(name="host", certificate=b"host certificate", introduce=True, port=22600)
JOINER_CARD = Card(name="joiner", certificate=b"joiner certificate", introduce=False, port=0)


@dataclass
class Pair:
    """Two machines and what went between them."""

    joiner: Joiner
    host: Host

    def opened(self) -> bytes:
        return sent(self.joiner.start())

    def answered(self) -> bytes:
        return sent(self.host.receive(self.opened()))

    def guessed(self) -> bytes:
        return sent(self.joiner.receive(self.answered()))

    def confirmed(self) -> bytes:
        return sent(self.host.receive(self.guessed()))

    def joiner_stored(self) -> bytes:
        assert self.joiner.receive(self.confirmed()) == [Store(card=HOST_CARD)]
        return sent(self.joiner.stored())

    def host_stored(self) -> bytes:
        assert self.host.receive(self.joiner_stored()) == [Store(card=JOINER_CARD)]
        return sent(self.host.stored())


def make_pair(*, joiner_code: object = CODE, seen: bytes = HOST_CARD.certificate) -> Pair:
    code = OTHER if joiner_code is OTHER else CODE
    joiner = Joiner(code=code, card=JOINER_CARD, server_certificate=seen, entropy=os.urandom)
    return Pair(joiner=joiner, host=Host(code=CODE, card=HOST_CARD, entropy=os.urandom))


def sent(effects: list[Effect]) -> bytes:
    [effect] = effects
    assert isinstance(effect, Send)
    assert len(effect.payload) <= 8192
    return effect.payload


def test_the_right_code_gives_each_the_other_s_card() -> None:
    pair = make_pair()
    last = pair.joiner.receive(pair.host_stored())
    assert last == [Send(payload=pack(Kind.DONE)), Finish(card=HOST_CARD)]
    assert pair.host.receive(pack(Kind.DONE)) == [Finish(card=JOINER_CARD)]
    assert pair.joiner.closed() is None
    assert pair.host.closed() is None


def test_names_and_certificates_never_travel_in_the_open() -> None:
    pair = make_pair()
    opening = sent(pair.joiner.start())
    answer = sent(pair.host.receive(opening))
    guess = sent(pair.joiner.receive(answer))
    confirm = sent(pair.host.receive(guess))
    for message in (opening, answer, guess, confirm):
        assert b"certificate" not in message
        assert b"joiner" not in message
        assert CODE.words[0].encode() not in message


def test_a_wrong_code_is_found_by_the_host_and_tells_the_guesser_nothing() -> None:
    pair = make_pair(joiner_code=OTHER)
    guess = pair.guessed()
    assert pair.host.guess_is_next
    with pytest.raises(WrongCode):
        pair.host.receive(guess)
    assert isinstance(pair.joiner.closed(), WrongCode)


def test_a_second_guess_on_the_same_exchange_is_not_taken() -> None:
    pair = make_pair(joiner_code=OTHER)
    with pytest.raises(WrongCode):
        pair.host.receive(pair.guessed())
    with pytest.raises(RemoteProtocolError):
        pair.host.receive(sent(make_pair().joiner.start()))


def test_an_impostor_host_that_does_not_know_the_code_is_found_by_the_joiner() -> None:
    pair = make_pair()
    pair.guessed()
    with pytest.raises(WrongCode):
        pair.joiner.receive(pack(Kind.CONFIRM, bytes(32), bytes(60)))


def test_a_certificate_other_than_the_one_on_the_connection_is_an_interception() -> None:
    pair = make_pair(seen=b"certificate of a relay")
    with pytest.raises(PairingIntercepted):
        pair.joiner.receive(pair.answered())
    with pytest.raises(PairingIntercepted):
        pair.host.receive(pair.joiner.abort())


def test_a_relay_that_puts_its_own_fingerprint_in_makes_both_sides_fail() -> None:
    relay = Host(code=CODE, card=replace(HOST_CARD, certificate=b"relay"), entropy=os.urandom)
    pair = make_pair(seen=b"relay")
    opening = pair.opened()
    answer = unpack(sent(pair.host.receive(opening)))[1]
    relayed = unpack(sent(relay.receive(opening)))[1]
    guess = pair.joiner.receive(pack(Kind.ANSWER, answer[0], relayed[1], answer[2]))
    with pytest.raises(WrongCode):
        pair.host.receive(sent(guess))
    assert isinstance(pair.joiner.closed(), WrongCode)


@given(data=st.data())
def test_any_changed_byte_makes_the_pairing_fail(data: st.DataObject) -> None:
    pair = make_pair()
    step = data.draw(st.sampled_from(["open", "answer", "guess", "confirm"]))

    def maybe(name: str, message: bytes) -> bytes:
        if name != step:
            return message
        at = data.draw(st.integers(min_value=0, max_value=len(message) - 1))
        return message[:at] + bytes([message[at] ^ data.draw(st.integers(1, 255))]) + message[at + 1 :]

    def run() -> None:
        answer = maybe("answer", sent(pair.host.receive(maybe("open", pair.opened()))))
        guess = maybe("guess", sent(pair.joiner.receive(answer)))
        pair.joiner.receive(maybe("confirm", sent(pair.host.receive(guess))))

    with pytest.raises((WrongCode, CodeExpired, PairingIntercepted, RemoteProtocolError)):
        run()


@given(garbage=st.binary(max_size=300))
def test_garbage_is_a_protocol_error_in_every_state(garbage: bytes) -> None:
    for side in (make_pair().host, make_pair().joiner):
        with pytest.raises((RemoteProtocolError, CodeExpired)):
            side.receive(garbage)
        assert side.state is State.FAILED


def test_a_message_out_of_turn_is_refused() -> None:
    for kind in (Kind.STORED, Kind.DONE, Kind.ABORT):
        with pytest.raises(RemoteProtocolError, match=kind.name):
            make_pair().host.receive(pack(kind))


def test_a_confirmation_out_of_turn_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="CONFIRM"):
        make_pair().host.receive(pack(Kind.CONFIRM, bytes(32), bytes(32)))


@pytest.mark.parametrize(
    "share", [b"A" + bytes(32), b"A" + b"\xff" * 32, b"B" + bytes(32), b"A\x01" + bytes(31)]
)
def test_a_share_that_is_no_point_of_the_curve_is_refused(share: bytes) -> None:
    opening = pack(Kind.OPEN, b"\x01", b"7", bytes(32), share)
    with pytest.raises(RemoteProtocolError, match="point"):
        make_pair().host.receive(opening)


def test_a_share_thrown_back_is_refused() -> None:
    pair = make_pair()
    opening = pair.opened()
    share = unpack(opening)[1][3]
    print_ = unpack(sent(pair.host.receive(opening)))[1][1]
    reflected = pack(Kind.ANSWER, b"\x01", print_, b"B" + share[1:])
    with pytest.raises(RemoteProtocolError, match="point"):
        pair.joiner.receive(reflected)


def test_another_nameplate_is_not_answered_and_does_not_count_as_a_guess() -> None:
    joiner = Joiner(
        code=make_code("8", b"\x03\x60"), card=JOINER_CARD, server_certificate=b"x", entropy=os.urandom
    )
    host = make_pair().host
    with pytest.raises(CodeExpired):
        host.receive(sent(joiner.start()))
    assert isinstance(joiner.closed(), CodeExpired)


@pytest.mark.parametrize(("version", "behind"), [(b"\x02", "this device"), (b"\x00", "the other device")])
def test_another_version_names_the_side_to_upgrade(version: bytes, behind: str) -> None:
    with pytest.raises(ProtocolTooOld, match=behind):
        make_pair().host.receive(pack(Kind.OPEN, version, b"7", bytes(32), bytes(33)))


def test_where_the_connection_ends_decides_what_it_means() -> None:
    pair = make_pair()
    assert isinstance(pair.joiner.closed(), CodeExpired)
    assert pair.host.closed() is None
    opening = pair.opened()
    answer = sent(pair.host.receive(opening))
    assert pair.host.closed() is None
    guess = sent(pair.joiner.receive(answer))
    confirm = sent(pair.host.receive(guess))
    assert isinstance(pair.host.closed(), PairingFailed)
    assert isinstance(pair.joiner.closed(), WrongCode)
    pair.joiner.receive(confirm)
    assert isinstance(pair.joiner.closed(), PairingFailed)
    pair.host.receive(sent(pair.joiner.stored()))
    assert pair.joiner.closed() == Unclear(card=HOST_CARD)
    assert isinstance(pair.host.closed(), PairingFailed)
    pair.host.stored()
    assert pair.host.closed() == Unclear(card=JOINER_CARD)


@pytest.mark.parametrize(
    "message",
    [b"", b"\x09", b"\x01\x00", b"\x01\x00\x05ab", b"\x01" + b"\x00\x00" * 17, b"\x01\x00\x00", bytes(8193)],
)
def test_a_malformed_message_is_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(message)


def test_fields_of_later_versions_are_ignored() -> None:
    assert unpack(pack(Kind.STORED, b"later"))[0] is Kind.STORED


KEYS = derive_keys(bytes(32), b"opening", b"answer")


def sealed(*fields: bytes) -> bytes:
    """Fields sealed as a card, whatever they are."""
    plain = pack(Kind.DONE, *fields)[1:]
    return ChaCha20Poly1305(KEYS.host_seal).encrypt(bytes(12), plain, KEYS.transcript)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (b"name", b"certificate", b"\x00"),
        (b"name", b"", b"\x00", b"\x00\x00"),
        (b"name", bytes(5000), b"\x00", b"\x00\x00"),
        (b"name", b"certificate", b"", b"\x00\x00"),
        (b"name", b"certificate", b"\x00", b"\x00"),
        (b"", b"certificate", b"\x00", b"\x00\x00"),
        (b"\xff", b"certificate", b"\x00", b"\x00\x00"),
        (b"a\x1b[2J", b"certificate", b"\x00", b"\x00\x00"),
        (b"n" * 256, b"certificate", b"\x00", b"\x00\x00"),
    ],
)
def test_a_card_that_is_none_is_refused(fields: tuple[bytes, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        open_card(KEYS.host_seal, sealed(*fields), KEYS.transcript)


@given(
    name=st.text(), certificate=st.binary(min_size=1, max_size=4096), introduce=st.booleans(), port=st.integers(0, 65535)
)  # fmt: skip
def test_a_card_survives_its_envelope(name: str, certificate: bytes, *, introduce: bool, port: int) -> None:
    card = Card(name=clean_name(name), certificate=certificate, introduce=introduce, port=port)
    envelope = seal_card(KEYS.host_seal, card, KEYS.transcript)
    assert open_card(KEYS.host_seal, envelope, KEYS.transcript) == card
    assert open_card(KEYS.joiner_seal, envelope, KEYS.transcript) is None


def test_steps_out_of_order_are_a_mistake_of_the_caller() -> None:
    side = Side(code=CODE, card=HOST_CARD, entropy=os.urandom, state=State.DONE)
    with pytest.raises(AssertionError):
        side.expect_peer()
