"""Pairing over the network: the device that shows a code.

The rules are in `wire.pairing`; here they get connections, time and a place to store. Both sides store before they
say so. When the connection dies in between, the side that has stored asks the other one over the ordinary port
whether it knows this device, and takes the pairing back if it does not: both are paired or neither is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.errors import CodeExpired, P2psyncError, PairingFailed
from p2psyncd.net.addresses import Address, parse_address
from p2psyncd.net.identity import Identity
from p2psyncd.net.pairing_exchange import (
    EXCHANGE_S,
    NETWORK_ERRORS,
    Callback,
    Exchange,
    PairedPeer,
    ask,
    ignore,
)
from p2psyncd.net.pairing_join import join
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.wire.pairing import Host, Unclear
from p2psyncd.wire.pairing_code import CODE_ENTROPY_BYTES, Code, free_nameplate, make_code
from p2psyncd.wire.pairing_messages import Card, clean_name

__all__ = ["CODE_LIFETIME_S", "PairedPeer", "PairingHost", "ShownCode", "join"]

log = logging.getLogger(__name__)

CODE_LIFETIME_S = 300.0
# Strangers who are in the middle of an exchange; each costs some 10 ms of computing.
EXCHANGES_MAX = 8
NAMEPLATE_ENTROPY_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCode:
    """A code for a person to read."""

    code: str
    nameplate: str
    expires_us: int


@dataclass(slots=True, kw_only=True, eq=False)
class Offer:
    """A code while it is shown, and what became of it."""

    code: Code
    introduce: bool
    expires_s: float
    usable: bool = True
    """Whether the one guess is still to be had."""
    outcome: PairedPeer | P2psyncError | None = None
    settled: trio.Event = field(default_factory=trio.Event)

    def settle(self, outcome: PairedPeer | P2psyncError) -> None:
        """Note the outcome; the first one counts."""
        self.usable = False
        if self.outcome is None:
            self.outcome = outcome
            self.settled.set()


class PairingHost:
    """Shows codes, one at a time, and serves those who want to join with them.

    Args:
        identity: This device; its certificate is the one that the listener shows.
        name: What it is called.
        clock: For the code's end.
        entropy: Returns as many random bytes as asked for.
        on_paired: Stores the other device, durably, before it returns.
        on_withdrawn: Takes back what `on_paired` has just stored, unless the device was paired before.
        policy: Which addresses may be dialled, to ask a joiner that went away in the middle; None: do not ask.
        port: Where this device listens, for the joiner to remember.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        name: str,
        clock: Clock,
        entropy: Callable[[int], bytes],
        on_paired: Callback,
        on_withdrawn: Callback = ignore,
        policy: AddressPolicy | None = None,
        port: Callable[[], int] = lambda: 0,
    ) -> None:
        self.identity = identity
        self.name = name
        self.clock = clock
        self.entropy = entropy
        self.on_paired = on_paired
        self.on_withdrawn = on_withdrawn
        self.policy = policy
        self.port = port
        self.offer: Offer | None = None
        self.exchanges = 0

    # For the one who shows

    def show(
        self, *, introduce: bool = True, taken: Collection[str] = (), lifetime_s: float = CODE_LIFETIME_S
    ) -> ShownCode:
        """Begin to show a code; one that was shown before is not valid any more.

        Args:
            introduce: Whether this side wants introductions.
            taken: Nameplates that other devices show now.
            lifetime_s: How long the code is valid.
        """
        if self.offer is not None:
            self.offer.settle(CodeExpired("another code was asked for since"))
        nameplate = free_nameplate(taken, self.entropy(NAMEPLATE_ENTROPY_BYTES))
        code = make_code(nameplate, self.entropy(CODE_ENTROPY_BYTES))
        self.offer = Offer(code=code, introduce=introduce, expires_s=self.clock.monotonic_s() + lifetime_s)
        expires_us = self.clock.now_us() + int(lifetime_s * 1_000_000)
        log.info("pairing_code_shown nameplate=%s", nameplate)
        return ShownCode(code=code.text, nameplate=nameplate, expires_us=expires_us)

    async def wait(self, code: str) -> PairedPeer:
        """Return the device that joined with this code.

        Raises:
            WrongCode: Somebody tried another code; this one is burnt.
            CodeExpired: Its time is over, or it was withdrawn or replaced.
            PairingError: It failed in another way.
        """
        offer = self.offer
        if offer is None or offer.code.text != code:
            raise CodeExpired
        while offer.outcome is None:
            left_s = offer.expires_s - self.clock.monotonic_s()
            if left_s <= 0 and offer.usable:
                offer.settle(CodeExpired())
                break
            # Once somebody has used the code in time, the exchange's own deadline holds.
            with trio.move_on_after(left_s if left_s > 0 else EXCHANGE_S):
                await offer.settled.wait()
        if isinstance(offer.outcome, PairedPeer):
            return offer.outcome
        raise offer.outcome or CodeExpired()

    def withdraw(self, code: str) -> bool:
        """Stop showing a code; return whether it was the one shown (or just used)."""
        if self.offer is None or self.offer.code.text != code:
            return False
        self.offer.settle(CodeExpired("the code was withdrawn"))
        self.offer = None
        return True

    # For the one who joins

    def active(self) -> Offer | None:
        """Return the code that may be guessed at this moment."""
        offer = self.offer
        if offer is None or not offer.usable or self.clock.monotonic_s() >= offer.expires_s:
            return None
        return offer

    async def serve(self, stream: TlsStream) -> None:
        """Serve one stranger; no code is shown, or too many are at it: just close."""
        offer = self.active()
        if offer is None or self.exchanges >= EXCHANGES_MAX:
            log.info("pairing_refused remote=%s reason=%s", stream.remote, "busy" if offer else "no_code")
            await stream.aclose()
            return
        self.exchanges += 1
        try:
            await HostExchange(self, offer, stream).run()
        finally:
            self.exchanges -= 1
            with trio.move_on_after(1, shield=True):
                await stream.aclose()


class HostExchange(Exchange):
    """One stranger's try at the code."""

    def __init__(self, host: PairingHost, offer: Offer, stream: TlsStream) -> None:
        super().__init__(
            stream, introduce=offer.introduce, on_paired=host.on_paired, on_withdrawn=host.on_withdrawn
        )
        self.host = host
        self.offer = offer
        card = Card(
            name=clean_name(host.name),
            certificate=host.identity.certificate,
            introduce=offer.introduce,
            port=host.port(),
        )
        self.machine = Host(code=offer.code, card=card, entropy=host.entropy)
        self.guessed = False

    def before_message(self) -> None:
        """Take the code out of use before the guess is looked at: there is no second one."""
        if self.machine.guess_is_next:
            if self.host.active() is not self.offer:
                raise CodeExpired
            self.offer.usable = False
            self.guessed = True

    def address_of(self, card: Card) -> str:
        """The joiner's address is where it came from, at the port that it told."""
        ip = parse_address(self.link.remote).ip
        return str(Address(ip=ip, port=card.port)) if card.port else ""

    async def run(self) -> None:
        """Serve, and tell the one who waits for the code what became of it."""
        outcome: PairedPeer | P2psyncError | None = PairingFailed("it was interrupted")
        try:
            outcome = await self.serve()
        except P2psyncError as error:
            outcome = error
        finally:
            # Before the guess nothing has happened that the user must know.
            if self.guessed and outcome is not None:
                self.offer.settle(outcome)
            log.info(
                "pairing_ended remote=%s guessed=%s outcome=%s",
                self.link.remote,
                self.guessed,
                summary(outcome),
            )

    async def serve(self) -> PairedPeer | P2psyncError | None:
        """Return the peer, or what went wrong; None when nothing has happened."""
        with suppress(*NETWORK_ERRORS), trio.move_on_after(EXCHANGE_S):
            await self.drive(self.machine, [])
        verdict = self.machine.closed()
        if isinstance(verdict, Unclear) and self.kept is not None and await self.joiner_forgot(self.kept):
            self.take_back("the joiner does not know this device")
            return PairingFailed("the other device broke off at the last moment")
        return verdict if isinstance(verdict, P2psyncError) else self.kept

    async def joiner_forgot(self, peer: PairedPeer) -> bool:
        """Ask a joiner that did not say goodbye; one that cannot be reached had stored when it was last heard."""
        if self.host.policy is None or not peer.address:
            return False
        return await ask(peer, self.host.identity, self.host.policy) is False


def summary(outcome: PairedPeer | P2psyncError | None) -> str:
    """Return an outcome as one word for the log."""
    if isinstance(outcome, PairedPeer):
        return "paired"
    return "nothing" if outcome is None else outcome.wire_code
