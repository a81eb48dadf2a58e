"""Pairing where the code is typed: find the device that shows it, and go through the exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from p2psyncd.errors import CodeExpired, P2psyncError, PairingFailed, PairingIntercepted
from p2psyncd.net.addresses import resolve
from p2psyncd.net.identity import Identity, device_of_certificate
from p2psyncd.net.pairing_exchange import (
    EXCHANGE_S,
    NETWORK_ERRORS,
    Callback,
    Exchange,
    PairedPeer,
    ask,
    ignore,
)
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.transport import dial_stranger, first_connected
from p2psyncd.wire.pairing import Joiner, Unclear
from p2psyncd.wire.pairing_code import Code
from p2psyncd.wire.pairing_messages import Card, clean_name

__all__ = ["join"]

DIAL_S = 3.0


async def join(
    code: Code,
    addresses: Sequence[str],
    *,
    identity: Identity,
    name: str,
    introduce: bool,
    policy: AddressPolicy,
    entropy: Callable[[int], bytes],
    on_paired: Callback,
    on_withdrawn: Callback = ignore,
    port: int = 0,
) -> PairedPeer:
    """Join the device that shows `code`.

    Args:
        code: As typed; one address gets to see a guess at it, the others only whether they show that nameplate.
        addresses: Where that device may be: "ip:port" or "host:port".
        identity: This device.
        name: What it is called.
        introduce: Whether this side wants introductions.
        policy: Which addresses may be dialled.
        entropy: Returns as many random bytes as asked for.
        on_paired: Stores the other device, durably, before it returns.
        on_withdrawn: Takes back what `on_paired` has just stored, unless the device was paired before.
        port: Where this device listens; 0 when it does not say.

    Raises:
        WrongCode: The other device shows another code; its code is burnt.
        CodeExpired: It shows no such code (any more).
        PairingIntercepted: Somebody is in between.
        PairingFailed: It was not reached, or broke off.
        AddressNotAllowed: Every address is outside the local networks.
    """
    card = Card(name=clean_name(name), certificate=identity.certificate, introduce=introduce, port=port)
    untried = await resolve_all(addresses)

    async def connect(address: str) -> TlsStream:
        return await dial_stranger(address, timeout_s=DIAL_S, policy=policy)

    not_shown: CodeExpired | None = None
    while untried:
        try:
            address, stream = await first_connected(untried, connect)
        except OSError as error:
            msg = f"{', '.join(untried)}: {error.strerror or error}"
            raise not_shown or PairingFailed(msg) from error
        except P2psyncError as error:
            raise not_shown or error from error
        untried.remove(address)
        try:
            exchange = JoinerExchange(
                stream, address=address, code=code, card=card, identity=identity, policy=policy,
                entropy=entropy, on_paired=on_paired, on_withdrawn=on_withdrawn,
            )  # fmt: skip
            return await exchange.run()
        except CodeExpired as error:
            not_shown = error
        finally:
            with trio.move_on_after(1, shield=True):
                await stream.aclose()
    raise not_shown or PairingFailed("no address to look at")


async def resolve_all(addresses: Sequence[str]) -> list[str]:
    """Return the numeric addresses behind what discovery found or a person typed."""
    found: list[str] = []
    for address in addresses:
        try:
            found += await resolve(address)
        except ValueError as error:
            raise PairingFailed(str(error)) from error
        except OSError as error:
            msg = f"{address}: {error.strerror or error}"
            raise PairingFailed(msg) from error
    return list(dict.fromkeys(found))


class JoinerExchange(Exchange):
    """The side where the code was typed, on one connection."""

    def __init__(
        self,
        stream: TlsStream,
        *,
        address: str,
        code: Code,
        card: Card,
        identity: Identity,
        policy: AddressPolicy,
        entropy: Callable[[int], bytes],
        on_paired: Callback,
        on_withdrawn: Callback,
    ) -> None:
        super().__init__(stream, introduce=card.introduce, on_paired=on_paired, on_withdrawn=on_withdrawn)
        self.address = address
        self.identity = identity
        self.policy = policy
        seen = stream.peer_certificate or b""
        # Nothing is said to what cannot be a device.
        if device_of_certificate(seen) == identity.device:
            msg = "the code is shown by this very device"
            raise PairingFailed(msg)
        self.machine = Joiner(code=code, card=card, server_certificate=seen, entropy=entropy)

    def address_of(self, card: Card) -> str:
        """The host is where it was found."""
        del card
        return self.address

    async def run(self) -> PairedPeer:
        """Return the host once both sides have stored.

        Raises:
            PairingError: They have not; nothing is stored here.
        """
        finished = False
        try:
            peer = await self.join()
            finished = True
        except PairingIntercepted:
            # So that the host's user hears of it as well, if this gets through.
            with suppress(*NETWORK_ERRORS), trio.move_on_after(1, shield=True):
                await self.link.send(self.machine.abort())
            raise
        finally:
            if not finished:
                self.take_back("pairing failed")
        return peer

    async def join(self) -> PairedPeer:
        """Go through the exchange, and clear up how it ended."""
        with suppress(*NETWORK_ERRORS), trio.move_on_after(EXCHANGE_S):
            await self.drive(self.machine, self.machine.start())
        verdict = self.machine.closed()
        if isinstance(verdict, P2psyncError):
            raise verdict
        if self.kept is None:
            raise AssertionError(verdict)
        if isinstance(verdict, Unclear) and await ask(self.kept, self.identity, self.policy) is not True:
            msg = "the other device broke off at the last moment"
            raise PairingFailed(msg)
        return self.kept
