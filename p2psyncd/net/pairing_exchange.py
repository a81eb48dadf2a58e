"""What both sides of a pairing do with a state machine and a connection."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from p2psyncd.core.ids import DeviceId, format_device_id
from p2psyncd.errors import AddressNotAllowed, DeviceRefused
from p2psyncd.net.identity import Identity, device_of_certificate
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.tls import MAIN_ALPN
from p2psyncd.net.transport import Link, dial
from p2psyncd.wire.pairing import Effect, Finish, Host, Joiner, Send, Store
from p2psyncd.wire.pairing_messages import PAIRING_FRAME_BYTES_MAX, Card

__all__ = ["EXCHANGE_S", "NETWORK_ERRORS", "Callback", "Exchange", "PairedPeer", "ask", "ignore"]

log = logging.getLogger(__name__)

# Nobody types while it runs; this is the network and two disks.
EXCHANGE_S = 15.0
DIAL_S = 3.0
# How long to try to find out whether the other side has stored.
SETTLE_S = 10.0
SETTLE_PAUSE_S = 0.5
NETWORK_ERRORS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedPeer:
    """A device that was just paired."""

    device: DeviceId
    name: str
    certificate: bytes
    """DER; what is pinned from now on."""
    address: str
    """ "ip:port" to dial it at; empty when it did not say where it listens."""
    introduce: bool
    """Whether both sides want introductions."""


Callback = Callable[[PairedPeer], None]


def ignore(_peer: PairedPeer) -> None:
    """Do nothing: for a caller that cannot take a pairing back."""


class Exchange:
    """What both sides do with a machine and a connection."""

    def __init__(
        self, stream: TlsStream, *, introduce: bool, on_paired: Callback, on_withdrawn: Callback
    ) -> None:
        self.link = Link(stream, frame_bytes_max=PAIRING_FRAME_BYTES_MAX)
        self.introduce = introduce
        self.on_paired = on_paired
        self.on_withdrawn = on_withdrawn
        self.kept: PairedPeer | None = None

    def before_message(self) -> None:
        """Called when a message has come, before the machine gets it."""

    def address_of(self, card: Card) -> str:
        """Return where the other device listens."""
        raise NotImplementedError

    def keep(self, card: Card) -> None:
        """Store the other device."""
        peer = PairedPeer(
            device=device_of_certificate(card.certificate),
            name=card.name,
            certificate=card.certificate,
            address=self.address_of(card),
            introduce=self.introduce and card.introduce,
        )
        self.on_paired(peer)
        self.kept = peer

    def take_back(self, why: str) -> None:
        """Forget the other device again, because it does not have this one."""
        if self.kept is not None:
            log.warning("pairing_taken_back device=%s reason=%s", format_device_id(self.kept.device), why)
            self.on_withdrawn(self.kept)
            self.kept = None

    async def drive(self, machine: Host | Joiner, effects: list[Effect]) -> None:
        """Carry out effects and feed messages until the machine has finished."""
        todo = deque(effects)
        while True:
            while todo:
                match todo.popleft():
                    case Send(payload=payload):
                        await self.link.send(payload)
                    case Store(card=card):
                        self.keep(card)
                        todo.extend(machine.stored())
                    case Finish():
                        return
            message = await self.link.receive()
            self.before_message()
            todo.extend(machine.receive(message))


async def ask(peer: PairedPeer, identity: Identity, policy: AddressPolicy) -> bool | None:
    """Return whether a device knows this one, by connecting as a paired device; None when it cannot be reached."""
    with trio.move_on_after(SETTLE_S):
        while True:
            try:
                stream = await dial(
                    peer.address, identity, peer.certificate, MAIN_ALPN, timeout_s=DIAL_S, policy=policy
                )
            except DeviceRefused:
                return False
            except (OSError, AddressNotAllowed):
                await trio.sleep(SETTLE_PAUSE_S)
            else:
                await stream.aclose()
                return True
    return None
