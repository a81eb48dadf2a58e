"""One live connection to a paired device, and everything that goes over it.

Messages are posted to an outgoing queue that one task writes; large streams wait for room in it.
The reader hands each share's messages to that share's session, and everything else to `PeerEvents`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from p2psyncd import PROTOCOL_VERSION
from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.core.version import unpack_vector
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.daemon.signal import Signal
from p2psyncd.errors import DeviceDoubled, P2psyncError, ProtocolTooOld, RemoteProtocolError, StateRestored
from p2psyncd.net.addresses import parse_address, plain_ip
from p2psyncd.net.transport import Link
from p2psyncd.wire.messages import (
    Closed,
    Delta,
    Done,
    Greeting,
    Hello,
    Introductions,
    Know,
    Message,
    Offer,
    Offers,
    OpenContent,
    Ping,
    Pong,
    Refusal,
    Removed,
    ShareMessage,
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
# A session that failed is tried again after this long; both sides may have got further by then.
SESSION_RETRY_S = 30.0
GREETING_S = 10.0


class PeerEvents(Protocol):
    """Whoever looks after all peers."""

    def replicas_for(self, device: DeviceId) -> Sequence[Replica]:
        """Return the replicas that this device shares with a peer and that can exchange now."""
        ...

    def session_failed(self, device: DeviceId, share: ShareId, trouble: str) -> None:
        """Note that the session of a share ended by an error."""
        ...

    def member(self, share: ShareId, device: DeviceId) -> None:
        """Note that a peer holds a share."""
        ...

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """What this side says of itself in its greeting."""

    device: DeviceId
    name: str
    instance: bytes
    ports: tuple[int, ...]
    introduces: bool


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
        self.heard_s = trio.current_time()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.offers: dict[ShareId, Offer] = {}
        self.drivers: dict[ShareId, SessionDriver] = {}
        self.early: dict[ShareId, Hello] = {}
        self.greeted: set[SessionDriver] = set()
        """Sessions that have been handed the peer's hello."""
        self.failures: dict[ShareId, str] = {}
        """Why the last session of a share failed."""
        self.resting: dict[ShareId, Replica] = {}
        """Replicas whose session failed a moment ago; one that was started anew is none of them."""
        self.handing_over = False
        """Whether the reader waits for a session to take a message in."""
        self.refresh = Signal()
        self.progressed: Callable[[], None] = lambda: None
        self.scope = trio.CancelScope()
        self.closed = False

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
        said: tuple[Offers | None, Introductions | None] = (None, None)
        while True:
            event = self.refresh.event
            offers = self.events.offers_for(self.device)
            known = self.events.introductions_for(self.device)
            if said[0] is None or shape(said[0]) != shape(offers):
                self.post(offers)
            if (known.devices or known.removed) and known != said[1]:
                self.post(known)
            said = (offers, known)
            self.open_sessions(nursery)
            await event.wait()

    async def keep_alive(self) -> None:
        """Ping a silent peer; give up on one that stays silent."""
        while True:
            silent = trio.current_time() - self.heard_s
            if silent >= SILENT_S and not self.handing_over:
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
                    self.post(Pong())
                case Pong():
                    pass
                case Offers():
                    self.offers = {offer.share: offer for offer in message.offers}
                    self.open_sessions(nursery)
                    self.progressed()
                case Introductions():
                    self.events.introduced(self.device, message)
                case OpenContent():
                    self.events.content_wanted(self.device)
                case Removed():
                    self.events.removed_by(self.device)
                    return
                case Refusal():
                    raise refused_by(message)
                case Greeting():
                    raise RemoteProtocolError("A second greeting came")
                case _:
                    await self.dispatch(message, nursery)
                    # Not silent: we did not listen.
                    self.heard_s = trio.current_time()

    async def dispatch(self, message: ShareMessage, nursery: trio.Nursery) -> None:
        """Hand a message to its share's session."""
        driver = self.drivers.get(message.share)
        if driver is not None and isinstance(message, Hello) and driver.session.hello is not None:
            del self.drivers[message.share]
            driver.abandon("the peer began anew")
            driver = None
        if driver is None:
            if isinstance(message, Hello):
                # Kept until our side is ready; for what the peer does not even offer, that is never.
                if message.share in self.offers:
                    self.early[message.share] = message
                    self.open_sessions(nursery)
            elif isinstance(message, Closed):
                self.early.pop(message.share, None)
            return  # what was under way when a session ended here
        if isinstance(message, Hello):
            self.greeted.add(driver)
        elif driver not in self.greeted and not isinstance(message, Closed):
            return  # on its way since a session that ended here; the peer's hello to this one is still to come
        try:
            refuse_restored(driver.replica, message)
        except RemoteProtocolError as error:
            self.fail(driver, error, nursery)
            return
        self.handing_over = True
        try:
            await driver.outbox.send(message)
        except trio.BrokenResourceError:
            return  # the session ended while this message waited for room in its inbox
        finally:
            self.handing_over = False

    # Sessions

    def open_sessions(self, nursery: trio.Nursery) -> None:
        """Start a session for every share that both hold and none is running for; end the others."""
        replicas = self.events.replicas_for(self.device)
        shared = {replica.share: replica for replica in replicas}
        for share in self.drivers.keys() - shared:
            self.close_session(share, "not shared now")
        for share in self.failures.keys() - {s for s, r in shared.items() if self.resting.get(s, r) is r}:
            del self.failures[share]
        for replica in replicas:
            share = replica.share
            ready = replica.phase in {Phase.READY, Phase.SCANNING}
            if share in self.drivers or self.resting.get(share) is replica or not ready:
                continue
            if share in self.offers or share in self.early:
                self.events.member(share, self.device)
                driver = SessionDriver(
                    replica,
                    self,
                    ours=self.us.device,
                    peer=self.device,
                    on_progress=partial(self.advance, share),
                )
                self.drivers[share] = driver
                hello = self.early.pop(share, None)
                if hello is not None:
                    try:
                        refuse_restored(replica, hello)
                    except RemoteProtocolError as error:
                        self.fail(driver, error, nursery)
                        continue
                    self.greeted.add(driver)
                    driver.outbox.send_nowait(hello)
                nursery.start_soon(self.run_session, driver, nursery)

    async def run_session(self, driver: SessionDriver, nursery: trio.Nursery) -> None:
        """Run one session to its end; what goes wrong in it ends neither the other sessions nor the link."""
        share = driver.replica.share
        try:
            reason = await driver.run()
            log.debug("session_ended peer=%s share=%s reason=%s", self.greeting.name, share.hex()[:8], reason)
        except* (OSError, P2psyncError) as group:
            self.fail(driver, first_of_group(group), nursery)
        finally:
            self.greeted.discard(driver)
            if self.drivers.get(share) is driver:
                del self.drivers[share]
            self.progressed()

    def fail(self, driver: SessionDriver, error: Exception, nursery: trio.Nursery) -> None:
        """End a session for an error; it is tried again a little later."""
        share = driver.replica.share
        if self.drivers.get(share) is driver:
            del self.drivers[share]
        driver.close(type(error).__name__)
        self.failures[share] = str(error)
        self.resting[share] = driver.replica
        self.events.session_failed(self.device, share, str(error))
        nursery.start_soon(self.retry, driver.replica, nursery)
        self.progressed()

    async def retry(self, replica: Replica, nursery: trio.Nursery) -> None:
        """Open a session again, after a rest."""
        await trio.sleep(SESSION_RETRY_S)
        if self.resting.get(replica.share) is replica:
            del self.resting[replica.share]
        self.open_sessions(nursery)

    def advance(self, share: ShareId) -> None:
        """Tell whoever fetches from this peer that it got further."""
        driver = self.drivers.get(share)
        if share in self.failures and driver is not None and driver.session.agreed_root is not None:
            del self.failures[share]  # it went well this time
        self.progressed()

    def ask_content(self) -> None:
        """Ask the peer, who dialled, to dial a content connection on which we ask."""
        self.post(OpenContent())

    def close_session(self, share: ShareId, reason: str) -> None:
        """End the session of a share (it was paused, removed or held)."""
        driver = self.drivers.pop(share, None)
        if driver is not None:
            driver.close(reason)

    def comes_from(self, addresses: Collection[str]) -> bool:
        """Return whether this side's end of the connection is at one of these addresses (or on this machine)."""
        ip = parse_address(self.link.stream.local).ip
        return plain_ip(ip).is_loopback or str(plain_ip(ip)) in addresses

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self.scope.cancel()


def refuse_restored(replica: Replica, message: ShareMessage) -> None:
    """Refuse a peer that knows of more writes of ours than we know of ourselves.

    Taking that in would hide from everyone what this device writes next under those numbers.

    Raises:
        StateRestored: It does: an older state was put back here.
        RemoteProtocolError: Its knowledge cannot be read.
    """
    actor = replica.standing.actor
    match message:
        case Hello() | Know() | Done():
            theirs = unpack_vector(message.knowledge).get(actor, -1) if message.knowledge else -1
        case Delta():
            theirs = max((item.dot.seq for item in message.items if item.dot.actor == actor), default=-1)
        case _:
            return
    if theirs > replica.standing.knowledge.get(actor, -1):
        raise StateRestored


def first_of_group(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error in a group, however deep."""
    first = group.exceptions[0]
    return first_of_group(first) if isinstance(first, BaseExceptionGroup) else first


def shape(offers: Offers) -> list[tuple[ShareId, str, str]]:
    """Return what makes offers worth sending again: not their counts."""
    return [(offer.share, offer.name, offer.kind) for offer in offers.offers]
