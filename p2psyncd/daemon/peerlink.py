"""One live connection to a paired device, and everything that goes over it.

Messages are posted to an outgoing queue that one task writes; large streams wait for room in it.
The reader hands each share's messages to that share's session, and everything else to `PeerEvents`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import trio

from p2psyncd import PROTOCOL_VERSION
from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.daemon.sessiontable import SessionEvents, SessionTable
from p2psyncd.daemon.signal import Signal
from p2psyncd.errors import DeviceDoubled, P2psyncError, ProtocolTooOld, RemoteProtocolError
from p2psyncd.net.addresses import parse_address, plain_ip
from p2psyncd.net.transport import Link
from p2psyncd.wire.messages import (
    Greeting,
    Introductions,
    Message,
    Offer,
    Offers,
    OpenContent,
    Ping,
    Pong,
    Refusal,
    Removed,
    SnapshotMessage,
    SnapshotReady,
    SnapshotRefused,
    SnapshotWanted,
    decode_message,
    encode_message,
)

__all__ = ["PeerEvents", "PeerLink", "Self", "greet"]

log = logging.getLogger(__name__)

# A stream waits while this much is queued; a peer that reads nothing while it asks is cut off at the last.
QUEUE_BYTES = 1024 * 1024
QUEUE_BYTES_MAX = 32 * 1024 * 1024
# DESIGN: keep-alive 15 s. A peer that is silent for twice that is gone.
PING_S = 15.0
SILENT_S = 2 * PING_S
GREETING_S = 10.0


class PeerEvents(SessionEvents, Protocol):
    """Whoever looks after all peers."""

    def offers_for(self, device: DeviceId) -> Offers:
        """Return what this device offers a peer now."""
        ...

    def introductions_for(self, device: DeviceId) -> Introductions:
        """Return whom this device introduces to a peer now."""
        ...

    def introduced(self, by: DeviceId, introductions: Introductions) -> None:
        """Take in what a peer says of other devices."""
        ...

    def removed_by(self, device: DeviceId) -> None:
        """Note that a peer has removed this device."""
        ...

    def content_wanted(self, device: DeviceId) -> None:
        """Dial a content connection on which the peer asks."""
        ...

    def copy_said(self, link: PeerLink, message: SnapshotMessage) -> None:
        """Take in what a peer says of copies of databases."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """What this side says of itself in its greeting."""

    device: DeviceId
    name: str
    instance: bytes
    ports: tuple[int, ...]
    introduces: bool
    now_us: Callable[[], int]
    """The wall clock."""


async def greet(link: Link, us: Self, refuse: Callable[[Greeting], Refusal | None] | None = None) -> Greeting:
    """Exchange greetings and return the peer's.

    Args:
        link: The new connection.
        us: What we say.
        refuse: Looks at the peer's greeting before ours is sent, and may answer it with a refusal.

    Raises:
        ProtocolTooOld: There is no common version.
        DeviceDoubled: Another machine has this device's identity, says the peer.
        RemoteProtocolError: It says something else first.
        OSError, trio.Error: The connection broke.
    """
    ours = Greeting(
        versions=(PROTOCOL_VERSION,),
        name=us.name,
        instance=us.instance,
        ports=us.ports,
        introduces=us.introduces,
        clock_us=us.now_us(),
    )
    with trio.fail_after(GREETING_S):
        if refuse is None:
            await link.send(encode_message(ours))
        message = decode_message(await link.receive())
        if refuse is not None:
            refusal = refuse(message) if isinstance(message, Greeting) else None
            await link.send(encode_message(refusal or ours))
            if refusal is not None:
                raise refused_by(refusal)
    if isinstance(message, Refusal):
        raise refused_by(message)
    if not isinstance(message, Greeting):
        raise RemoteProtocolError("The other device did not greet")
    if PROTOCOL_VERSION not in message.versions:
        older = max(message.versions, default=0) < PROTOCOL_VERSION
        side = message.name if older else us.name
        raise ProtocolTooOld(f"{side} speaks an older protocol")
    return message


def refused_by(refusal: Refusal) -> P2psyncError:
    """Return the error that a peer's refusal stands for."""
    if refusal.code == DeviceDoubled.wire_code:
        return DeviceDoubled(refusal.text)
    return RemoteProtocolError(f"The other device refused: {refusal.text}")


class PeerLink:
    """See the top of the file."""

    def __init__(
        self, link: Link, greeting: Greeting, us: Self, events: PeerEvents, *, found_by: str
    ) -> None:
        self.link = link
        self.device = link.peer
        self.greeting = greeting
        self.us = us
        self.events = events
        self.found_by = found_by
        self.inbound = link.inbound
        self.address = link.remote
        self.queue: deque[bytes] = deque()
        self.queued = 0
        self.queue_signal = Signal()
        self.begun_s = self.heard_s = trio.current_time()
        self.clock_ahead_us = greeting.clock_us - us.now_us()
        """By how much the peer's clock is ahead of ours, give or take what a message takes."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self.offers: dict[ShareId, Offer] = {}
        self.copied: set[ShareId] = set()
        """Shares of which a copy may be fetched, in either direction, though there is no session of them."""
        self.said: tuple[Offers | None, Introductions | None] = (None, None)
        self.refresh = Signal()
        self.progressed: Callable[[], None] = lambda: None
        self.sessions = SessionTable(
            self,
            events,
            ours=us.device,
            peer=link.peer,
            offered=lambda share: share in self.offers,
            on_progress=self.progress,
        )
        self.drivers = self.sessions.drivers
        self.failures = self.sessions.failures
        self.scope = trio.CancelScope()
        self.closed = False

    def progress(self) -> None:
        """Tell whoever fetches from this peer that it got further."""
        self.progressed()

    # Sending

    def post(self, message: Message) -> None:
        """Queue a message; never waits."""
        payload = encode_message(message)
        self.queue.append(payload)
        self.queued += len(payload)
        self.queue_signal.fire()
        if self.queued > QUEUE_BYTES_MAX:
            log.warning("peer_reads_nothing peer=%s queued=%d", self.greeting.name, self.queued)
            self.scope.cancel()

    async def stream(self, message: Message) -> None:
        """Queue a message once less than `QUEUE_BYTES` are queued."""
        while self.queued > QUEUE_BYTES:
            await self.queue_signal.event.wait()
        self.post(message)

    async def drained(self) -> None:
        """Return once everything queued is on its way."""
        while self.queued:
            await self.queue_signal.event.wait()

    async def write(self) -> None:
        """Write what is queued, for ever."""
        while True:
            event = self.queue_signal.event
            if not self.queue:
                await event.wait()
                continue
            payloads = list(self.queue)
            self.queue.clear()
            await self.link.send_many(payloads)
            size = sum(map(len, payloads))
            self.queued -= size
            self.sent_bytes += size
            self.queue_signal.fire()

    # Running

    async def run(self) -> None:
        """Run until the connection ends.

        Raises:
            RemoteProtocolError: The peer broke the rules.
            DeviceDoubled: Another machine has this device's identity, says the peer.
            OSError, trio.Error: The connection broke.
        """
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.write)
                nursery.start_soon(self.keep_alive)
                nursery.start_soon(self.attend, nursery)
                await self.read(nursery)
                nursery.cancel_scope.cancel()

    async def attend(self, nursery: trio.Nursery) -> None:
        """Tell the peer what is offered and whom we know whenever that changes."""
        while True:
            event = self.refresh.event
            self.announce()
            self.sessions.open(nursery)
            await event.wait()

    def announce(self) -> None:
        """Tell the peer what is offered and whom we know, if that changed.

        Always before a session is opened: the peer passes over the hello of a share that it was not offered.
        """
        offers = self.events.offers_for(self.device)
        known = self.events.introductions_for(self.device)
        if self.said[0] is None or shape(self.said[0]) != shape(offers):
            self.post(offers)
        if (known.devices or known.removed) and known != self.said[1]:
            self.post(known)
        self.said = (offers, known)

    async def keep_alive(self) -> None:
        """Ping a silent peer; give up on one that stays silent."""
        while True:
            silent = trio.current_time() - self.heard_s
            if silent >= SILENT_S and not self.sessions.handing_over:
                log.info("peer_silent peer=%s", self.greeting.name)
                self.scope.cancel()
                return
            if silent >= PING_S:
                self.post(Ping())
            await trio.sleep(PING_S / 3)

    async def read(self, nursery: trio.Nursery) -> None:
        """Read messages until the peer closes."""
        while True:
            try:
                payload = await self.link.receive()
            except trio.EndOfChannel:
                return
            self.heard_s = trio.current_time()
            self.received_bytes += len(payload)
            message = decode_message(payload)
            match message:
                case Ping():
                    self.post(Pong(clock_us=self.us.now_us()))
                case Pong():
                    self.clock_ahead_us = message.clock_us - self.us.now_us()
                case Offers():
                    self.offers = {offer.share: offer for offer in message.offers}
                    self.announce()
                    self.sessions.open(nursery)
                    self.progressed()
                case Introductions():
                    self.events.introduced(self.device, message)
                case OpenContent():
                    self.events.content_wanted(self.device)
                case SnapshotWanted() | SnapshotReady() | SnapshotRefused():
                    self.events.copy_said(self, message)
                case Removed():
                    self.events.removed_by(self.device)
                    return
                case Refusal():
                    raise refused_by(message)
                case Greeting():
                    raise RemoteProtocolError("A second greeting came")
                case _:
                    if message.share not in self.drivers:
                        self.announce()  # a hello opens our session
                    await self.sessions.dispatch(message, nursery)
                    # Not silent: we did not listen.
                    self.heard_s = trio.current_time()

    def ask_content(self) -> None:
        """Ask the peer, who dialled, to dial a content connection on which we ask."""
        self.post(OpenContent())

    def comes_from(self, addresses: Collection[str]) -> bool:
        """Return whether this side's end of the connection is at one of these addresses (or on this machine)."""
        ip = parse_address(self.link.stream.local).ip
        return plain_ip(ip).is_loopback or str(plain_ip(ip)) in addresses

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self.scope.cancel()


def shape(offers: Offers) -> list[tuple[ShareId, str, str, bool, bool]]:
    """Return what makes offers worth sending again: not their counts."""
    return [(offer.share, offer.name, offer.kind, offer.held, offer.copies) for offer in offers.offers]
