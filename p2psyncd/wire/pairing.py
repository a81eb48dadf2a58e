"""Pairing without I/O: two state machines that turn a short code into two stored certificates.

The joiner (where the code is typed) and the host (which shows it) speak over a TLS connection that trusts
nobody yet. What makes it safe:

- SPAKE2 runs over the code, with the SHA-256 of both certificates as the identities. Somebody in between
  who swaps a certificate, or does not know the code, ends with another key.
- The joiner compares the certificate that its TLS connection saw with the one that the host confirms, so
  the connection itself is with the host.
- The joiner confirms first: a guesser learns nothing before its guess is checked. The driver takes the code
  out of use before it hands that message over (`Host.guess_is_next`), so there is one guess, right or wrong.
- Names and certificates travel sealed under keys derived from the SPAKE2 key and the whole transcript.

    joiner                                    host
    OPEN version, nameplate, print, share  →
                                           ←  ANSWER version, print, share
    CONFIRM mac, sealed card               →  (the guess)
                                           ←  CONFIRM mac, sealed card
    stores; STORED                         →  stores
                                           ←  STORED
    DONE                                   →

A device stores before it says STORED, the joiner first. If the connection dies after that, `closed()` says
UNCLEAR, and the driver asks the other device over the ordinary port whether it knows this one.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from spake2 import SPAKE2_A, SPAKE2_B  # type: ignore[import-untyped]

from p2psyncd.errors import (
    CodeExpired,
    PairingError,
    PairingFailed,
    PairingIntercepted,
    RemoteProtocolError,
    WrongCode,
)
from p2psyncd.wire.pairing_code import Code
from p2psyncd.wire.pairing_keys import (
    VERSION_FIELD,
    Keys,
    derive_keys,
    expect_sizes,
    expect_version,
    fingerprint,
    spake_key,
)
from p2psyncd.wire.pairing_messages import Card, Kind, open_card, pack, seal_card, unpack

__all__ = ["Effect", "Finish", "Host", "Joiner", "Send", "State", "Store", "Unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this as one frame."""

    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Store the other device durably, then call `stored()`."""

    card: Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Both devices have stored the pairing."""

    card: Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """This device has stored the pairing; whether the other one has is not known."""

    card: Card


Effect = Send | Store | Finish


class State(enum.Enum):
    """What a machine waits for."""

    NEW = "new"
    OPEN = "open"
    ANSWER = "answer"
    GUESS = "guess"
    CONFIRM = "confirm"
    STORE = "store"
    STORED = "stored"
    DONE = "done"
    FINISHED = "finished"
    FAILED = "failed"


class Side:
    """What both machines share: the table walk, and what is known of the other device."""

    # (what is waited for, what came) → the method that answers it
    transitions: ClassVar[dict[tuple[State, Kind], str]] = {}

    def __init__(self, *, code: Code, card: Card, entropy: Callable[[int], bytes], state: State) -> None:
        self.code = code
        self.card = card
        self.entropy = entropy
        self.state = state
        self.opening = b""
        self.peer_print = b""
        self.keys: Keys | None = None
        self.peer: Card | None = None

    def receive(self, message: bytes) -> list[Effect]:
        """Return what to do about one message of the other device; after an error the machine is done.

        Raises:
            WrongCode: The other device holds another code.
            CodeExpired: The other device asks for a code that is not shown here.
            PairingIntercepted: A certificate is not the one that was confirmed.
            RemoteProtocolError: The message is not allowed, or not now.
        """
        waited, self.state = self.state, State.FAILED
        kind, fields = unpack(message)
        answer = self.transitions.get((waited, kind))
        if answer is None:
            msg = f"{kind.name} is not a pairing message to send now"
            raise RemoteProtocolError(msg)
        effects: list[Effect] = getattr(self, answer)(message, fields)
        return effects

    def abort(self) -> bytes:
        """Return the message that tells the other side that this side has given up."""
        return pack(Kind.ABORT)

    def confirmation(self, keys: Keys, mac: bytes, seal: bytes) -> Send:
        """Return this side's key confirmation and card."""
        return Send(payload=pack(Kind.CONFIRM, mac, seal_card(seal, self.card, keys.transcript)))

    def confirmed_card(self, keys: Keys, fields: list[bytes], mac: bytes, seal: bytes) -> Card:
        """Return the other side's card once its key confirmation holds."""
        if not hmac.compare_digest(fields[0], mac):
            raise WrongCode
        card = open_card(seal, fields[1], keys.transcript)
        if card is None or not hmac.compare_digest(fingerprint(card.certificate), self.peer_print):
            raise PairingIntercepted
        self.peer = card
        return card

    def expect_peer(self) -> Card:
        """Return the confirmed card; the tables lead here only after it is known."""
        if self.peer is None:
            raise AssertionError(self.state)
        return self.peer


class Joiner(Side):
    """The side where the code was typed.

    Args:
        code: As typed.
        card: What this device tells of itself.
        server_certificate: The certificate (DER) that the TLS connection to the host showed.
        entropy: Returns as many random bytes as asked for.
    """

    transitions: ClassVar[dict[tuple[State, Kind], str]] = {
        (State.ANSWER, Kind.ANSWER): "on_answer",
        (State.CONFIRM, Kind.CONFIRM): "on_confirm",
        (State.STORED, Kind.STORED): "on_stored",
    }

    def __init__(
        self, *, code: Code, card: Card, server_certificate: bytes, entropy: Callable[[int], bytes]
    ) -> None:
        super().__init__(code=code, card=card, entropy=entropy, state=State.NEW)
        self.peer_print = fingerprint(server_certificate)
        self.exchange = SPAKE2_A(
            code.password, idA=fingerprint(card.certificate), idB=self.peer_print, entropy_f=entropy
        )

    def start(self) -> list[Effect]:
        """Return the opening; call it once, first."""
        self.opening = pack(
            Kind.OPEN,
            VERSION_FIELD,
            self.code.nameplate.encode("ascii"),
            fingerprint(self.card.certificate),
            self.exchange.start(),
        )
        self.state = State.ANSWER
        return [Send(payload=self.opening)]

    def on_answer(self, message: bytes, fields: list[bytes]) -> list[Effect]:
        """Check that the host is the one at the other end of the connection, then guess."""
        expect_version(fields[0])
        expect_sizes(fields[1], fields[2])
        if not hmac.compare_digest(fields[1], self.peer_print):
            raise PairingIntercepted
        keys = derive_keys(spake_key(self.exchange, fields[2]), self.opening, message)
        self.keys = keys
        self.state = State.CONFIRM
        return [self.confirmation(keys, keys.joiner_mac, keys.joiner_seal)]

    def on_confirm(self, _message: bytes, fields: list[bytes]) -> list[Effect]:
        """Know the host, and have it stored here first."""
        if self.keys is None:
            raise AssertionError(self.state)
        card = self.confirmed_card(self.keys, fields, self.keys.host_mac, self.keys.host_seal)
        self.state = State.STORE
        return [Store(card=card)]

    def stored(self) -> list[Effect]:
        """The host is stored here."""
        self.state = State.STORED
        return [Send(payload=pack(Kind.STORED))]

    def on_stored(self, _message: bytes, _fields: list[bytes]) -> list[Effect]:
        """Both have stored."""
        self.state = State.FINISHED
        return [Send(payload=pack(Kind.DONE)), Finish(card=self.expect_peer())]

    def closed(self) -> PairingError | Unclear | None:
        """Return what it means that the connection ended now; None when all is done."""
        match self.state:
            case State.NEW | State.ANSWER:
                return CodeExpired("the other device shows no such code now")
            case State.CONFIRM:
                return WrongCode()
            case State.STORED:
                return Unclear(card=self.expect_peer())
            case State.FINISHED:
                return None
            case _:
                return PairingFailed("the other device went away in the middle of it")


class Host(Side):
    """The side that shows the code.

    Args:
        code: The code shown.
        card: What this device tells of itself; its certificate is the one that the listener shows.
        entropy: Returns as many random bytes as asked for.
    """

    transitions: ClassVar[dict[tuple[State, Kind], str]] = {
        (State.OPEN, Kind.OPEN): "on_open",
        (State.GUESS, Kind.CONFIRM): "on_guess",
        (State.GUESS, Kind.ABORT): "on_abort",
        (State.STORED, Kind.STORED): "on_stored",
        (State.DONE, Kind.DONE): "on_done",
    }

    def __init__(self, *, code: Code, card: Card, entropy: Callable[[int], bytes]) -> None:
        super().__init__(code=code, card=card, entropy=entropy, state=State.OPEN)

    @property
    def guess_is_next(self) -> bool:
        """Whether the next message is the one guess: take the code out of use before handing it over."""
        return self.state is State.GUESS

    def on_open(self, message: bytes, fields: list[bytes]) -> list[Effect]:
        """Answer with a share; it tells nothing about the code."""
        expect_version(fields[0])
        if fields[1] != self.code.nameplate.encode("ascii"):
            msg = "another code is shown here"
            raise CodeExpired(msg)
        expect_sizes(fields[2], fields[3])
        self.peer_print = fields[2]
        own_print = fingerprint(self.card.certificate)
        exchange = SPAKE2_B(self.code.password, idA=self.peer_print, idB=own_print, entropy_f=self.entropy)
        answer = pack(Kind.ANSWER, VERSION_FIELD, own_print, exchange.start())
        self.keys = derive_keys(spake_key(exchange, fields[3]), message, answer)
        self.state = State.GUESS
        return [Send(payload=answer)]

    def on_guess(self, _message: bytes, fields: list[bytes]) -> list[Effect]:
        """Confirm only to who knows the code."""
        if self.keys is None:
            raise AssertionError(self.state)
        self.confirmed_card(self.keys, fields, self.keys.joiner_mac, self.keys.joiner_seal)
        self.state = State.STORED
        return [self.confirmation(self.keys, self.keys.host_mac, self.keys.host_seal)]

    def on_abort(self, _message: bytes, _fields: list[bytes]) -> list[Effect]:
        """The joiner saw another certificate than this device's."""
        raise PairingIntercepted

    def on_stored(self, _message: bytes, _fields: list[bytes]) -> list[Effect]:
        """The joiner has stored this device; store it in turn."""
        self.state = State.STORE
        return [Store(card=self.expect_peer())]

    def stored(self) -> list[Effect]:
        """The joiner is stored here."""
        self.state = State.DONE
        return [Send(payload=pack(Kind.STORED))]

    def on_done(self, _message: bytes, _fields: list[bytes]) -> list[Effect]:
        """Both have stored, and both know."""
        self.state = State.FINISHED
        return [Finish(card=self.expect_peer())]

    def closed(self) -> PairingError | Unclear | None:
        """Return what it means that the connection ended now; None when it cost nobody anything."""
        match self.state:
            case State.OPEN | State.GUESS | State.FINISHED:
                return None
            case State.DONE:
                return Unclear(card=self.expect_peer())
            case _:
                return PairingFailed("the other device went away in the middle of it")
