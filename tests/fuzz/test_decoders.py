"""Every decoder of what comes from outside: it decodes, or says `RemoteProtocolError`, and takes little memory.

The long form: `python -m tests.fuzz`.
"""

from __future__ import annotations

import contextlib
import random

import corpus
import pytest
from decoding import run_decoders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import inputs, items, messages
from targets import TARGETS, use_item, whole_message

from p2psyncd.core.item import Item
from p2psyncd.errors import PairingError, RemoteProtocolError
from p2psyncd.wire.messages import CLASSES, Message, decode_message, encode_message
from p2psyncd.wire.pairing import Host, Joiner
from p2psyncd.wire.pairing_code import make_code
from p2psyncd.wire.pairing_messages import Card

INPUTS_IN_CI = 15_000
SEED = 20_261_124


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_message_survives_the_wire(cls: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(cls))
    again = decode_message(encode_message(message))
    assert type(again) is cls
    # Some numbers are held to what they can mean, once.
    assert decode_message(encode_message(again)) == again
    whole_message(encode_message(message))


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_decoder_decodes_or_refuses(name: str, data: st.DataObject) -> None:
    given_bytes = data.draw(inputs(name))
    with contextlib.suppress(RemoteProtocolError):
        TARGETS[name].accept(given_bytes)


@given(items)
@settings(deadline=None)
def test_any_version_that_may_come_can_be_merged_and_named(item: Item) -> None:
    use_item(item)


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs_are_accepted(name: str) -> None:
    """Else the others would test nothing but refusals."""
    rng = random.Random(SEED)
    for _ in range(50):
        TARGETS[name].accept(TARGETS[name].make(rng))


def test_a_short_run_of_the_fuzzer_finds_nothing() -> None:
    totals = run_decoders(INPUTS_IN_CI, SEED)
    assert totals.inputs == INPUTS_IN_CI
    assert set(totals.accepted) == set(totals.refused) == set(TARGETS)


@given(st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_machines_of_pairing_end_or_refuse(rng: random.Random, joins: bool) -> None:
    code = make_code("7", bytes(2))
    card = Card(name="maple", certificate=b"c" * 300, introduce=True, port=1)
    machine = (
        Joiner(code=code, card=card, server_certificate=b"s" * 300, entropy=rng.randbytes)
        if joins
        else Host(code=code, card=card, entropy=rng.randbytes)
    )
    if isinstance(machine, Joiner):
        machine.start()
    for _ in range(4):
        with contextlib.suppress(PairingError, RemoteProtocolError):
            machine.receive(corpus.pairing_message(rng))
    machine.closed()
