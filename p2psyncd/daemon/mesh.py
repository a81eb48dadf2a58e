"""Keeps one connection to every paired device: dials, accepts, settles double dials, retries.

Discovery and remembered addresses only say where a device may be; who it is says its certificate.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import DeviceId, ShareId, format_device_id
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.contents import DIALLER_ANSWERS, DIALLER_ASKS, Contents
from p2psyncd.daemon.doubles import RETRY_S, Lives
from p2psyncd.daemon.fetcher import Fetcher
from p2psyncd.daemon.peerlink import PeerEvents, PeerLink, Self, greet
from p2psyncd.daemon.peerstate import BACKOFF_FIRST_S, PeerState
from p2psyncd.daemon.sessiontable import first_of_group
from p2psyncd.daemon.signal import Signal
from p2psyncd.daemon.transfer import Held
from p2psyncd.errors import (
    AddressNotAllowed,
    DeviceDoubled,
    DeviceRefused,
    P2psyncError,
    ProtocolTooOld,
    RemoteProtocolError,
)
from p2psyncd.net.identity import Identity
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.tls import MAIN_ALPN
from p2psyncd.net.transport import Link, dial
from p2psyncd.store.device import DeviceStore, PeerRecord
from p2psyncd.wire.messages import Greeting, Refusal, encode_message

__all__ = ["DIALLER_ANSWERS", "DIALLER_ASKS", "Mesh", "PeerState"]

log = logging.getLogger(__name__)

DIAL_S = 3.0
BACKOFF_MAX_S = 60.0
# A device that does not know us any more is asked rarely: somebody has to pair again.
REFUSED_BACKOFF_S = 30.0
# When both see each other at once, the device with the greater ID lets the other one dial first.
COURTESY_S = 0.3
REFUSE_S = 1.0
PAIR = "p2psync pair"


class Mesh:
    """See the top of the file."""

    def __init__(
        self,
        *,
        identity: Identity,
        name: str,
        devices: DeviceStore,
        policy: AddressPolicy,
        clock: Clock,
        events: PeerEvents,
        fetches: Callable[[DeviceId], Mapping[ShareId, tuple[Applier, Held]]],
        tell: Callable[..., None],
        introduces: bool,
    ) -> None:
        self.identity = identity
        self.name = name
        self.devices = devices
        self.policy = policy
        self.clock = clock
        self.events = events
        self.fetches = fetches
        self.tell = tell
        self.introduces = introduces
        # Not for secrets: it only tells two runs of one daemon apart.
        self.instance = random.SystemRandom().randbytes(8)
        self.ports: tuple[int, ...] = ()
        self.peers: dict[DeviceId, PeerState] = {p.device: PeerState(record=p) for p in devices.peers()}
        self.changed = Signal()
        """Fires when a device connects, disconnects, or gets further."""
        self.contents = Contents(identity, policy, self.peers, self.changed, self.fetches_from)
        self.nursery: trio.Nursery | None = None

    # The table of peers

    def trust(self) -> list[bytes]:
        """Return the certificates of the paired devices."""
        return [state.record.certificate for state in self.peers.values()]

    def us(self) -> Self:
        """Return what this device says of itself."""
        return Self(
            device=self.identity.device,
            name=self.name,
            instance=self.instance,
            ports=self.ports,
            introduces=self.introduces,
            now_us=self.clock.now_us,
        )

    def links(self) -> list[PeerLink]:
        """Return the live connections."""
        return [state.link for state in self.peers.values() if state.link is not None]

    def put(self, record: PeerRecord, *, patience_s: float = 0.0) -> PeerState:
        """Add or update a paired device, and dial it, after so long."""
        self.devices.put_peer(record)
        state = self.peers.get(record.device)
        if state is None:
            state = PeerState(record=record, patient_until=trio.current_time() + patience_s)
            self.peers[record.device] = state
            if self.nursery is not None:
                self.nursery.start_soon(self.keep, state)
        else:
            state.record = record
            state.lives = Lives()
        state.clear_trouble()
        if not patience_s:
            state.wake.fire()
        self.refresh()
        return state

    def note_paired(self, state: PeerState, paired_us: int) -> None:
        """Note that somebody paired a device by code later than we knew."""
        state.record = replace(state.record, paired_us=paired_us)
        self.devices.put_peer(state.record)
        self.refresh()

    def drop(self, device: DeviceId) -> None:
        """Forget a paired device and end its connection."""
        state = self.peers.pop(device, None)
        self.devices.remove_peer(device)
        if state is not None:
            if state.link is not None:
                state.link.close()
            if state.scope is not None:
                state.scope.cancel()
        self.refresh()

    def refresh(self) -> None:
        """Let every connection tell its peer what is offered and who is known, if that changed."""
        for link in self.links():
            link.refresh.fire()
        self.changed.fire()

    def wake(self, device: DeviceId) -> None:
        """Dial a device at once, if it is not connected."""
        state = self.peers.get(device)
        if state is not None:
            state.patient_until = 0.0
            state.wake.fire()

    def seen(self, device: DeviceId, addresses: tuple[str, ...]) -> None:
        """Note where discovery found a device."""
        state = self.peers.get(device)
        if state is not None and addresses:
            state.addresses = addresses
            if state.link is None and trio.current_time() >= state.patient_until:
                state.wake.fire()

    def lost(self, device: DeviceId) -> None:
        """Note that a device said goodbye."""
        state = self.peers.get(device)
        if state is not None:
            state.addresses = ()

    def addresses_changed(self, present: Collection[str] | None = None) -> None:
        """Dial again at once; end the connections from addresses that this device no longer has.

        Args:
            present: The addresses of this device now; None: as before.
        """
        for state in self.peers.values():
            if state.link is None:
                state.wake.fire()
            elif present is not None and not state.link.comes_from(present):
                log.info("address_gone peer=%s local=%s", state.record.name, state.link.link.stream.local)
                state.link.close()

    # Dialling

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep connections, for ever."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for state in self.peers.values():
                nursery.start_soon(self.keep, state)
            task_status.started()
            await trio.sleep_forever()

    async def keep(self, state: PeerState) -> None:
        """Keep one device connected until it is forgotten."""
        with trio.CancelScope() as state.scope:
            backoff = 0.0
            while True:
                wake = state.wake.event
                if state.link is not None or state.record.paused:
                    backoff = 0.0
                    await wake.wait()
                    continue
                if trio.current_time() < state.patient_until:
                    with trio.move_on_at(state.patient_until):
                        await wake.wait()
                    state.patient_until = 0.0
                    continue
                if backoff == 0.0 and self.identity.device > state.record.device:
                    with trio.move_on_after(COURTESY_S):
                        await wake.wait()
                        continue
                if await self.try_dial(state):
                    backoff = 0.0
                    continue
                # A double is asked at a steady pace: that is how it is noticed when only one is left.
                most = BACKOFF_MAX_S if state.retry_s != RETRY_S else RETRY_S
                backoff = min(max(backoff * 2, state.retry_s), most)
                # Jitter: devices that lost a switch together shall not come back in step.
                with trio.move_on_after(backoff * random.uniform(0.5, 1.0)):  # noqa: S311  (no secret)
                    await wake.wait()
                    backoff = BACKOFF_FIRST_S

    async def try_dial(self, state: PeerState) -> bool:
        """Try a device's addresses, what discovery says first; return whether a connection is up."""
        tried: set[str] = set()
        outside: list[str] = []
        for address in (*state.addresses, *state.record.addresses):
            if address in tried:
                continue
            tried.add(address)
            found_by = "mdns" if address in state.addresses else "address"
            try:
                stream = await dial(
                    address,
                    self.identity,
                    state.record.certificate,
                    MAIN_ALPN,
                    timeout_s=DIAL_S,
                    policy=self.policy,
                )
            except DeviceRefused as refused:
                log.debug("dial_refused peer=%s error=%s", state.record.name, refused.message)
                # It may have said itself that it removed this device: that says more.
                if state.trouble_command != PAIR:
                    self.note_trouble(state, DeviceRefused().message, command=PAIR)
                continue
            except AddressNotAllowed as refused:
                outside.append(refused.message)
                log.info("dial_refused peer=%s error=%s", state.record.name, refused.message)
                continue
            except (OSError, trio.TooSlowError, RemoteProtocolError) as error:
                log.debug("dial_failed peer=%s address=%s error=%r", state.record.name, address, error)
                continue
            assert self.nursery is not None
            if await self.nursery.start(self.attend, stream, found_by):
                return True
        if outside and len(outside) == len(tried):
            self.note_trouble(state, outside[0])  # nowhere to look for it; `doctor` says so
        return False

    def note_trouble(
        self,
        state: PeerState,
        trouble: str,
        *,
        command: str | None = None,
        retry_s: float = REFUSED_BACKOFF_S,
    ) -> None:
        """Remember why a device cannot be reached, and say so once."""
        state.trouble_command = command
        state.retry_s = retry_s
        if state.trouble != trouble:
            state.trouble = trouble
            log.warning("peer_trouble peer=%s trouble=%s", state.record.name, trouble)
            self.tell("trouble", device=state.record.name, message=trouble)

    # A connection's life

    async def accept(self, stream: TlsStream) -> None:
        """Attend to a connection that a paired device dialled."""
        await self.attend(stream, "inbound", task_status=trio.TASK_STATUS_IGNORED)

    async def attend(self, stream: TlsStream, found_by: str, *, task_status: trio.TaskStatus[bool]) -> None:
        """Greet on a new connection, keep it if it is the one to keep, and run it to its end."""
        link = Link(stream, inbound=found_by == "inbound")
        begun_s = trio.current_time()
        started = False
        try:
            state = self.peers.get(link.peer)
            if state is None or state.record.paused:
                return
            try:
                # A device that was alive twice has to say first who it is now.
                refuse = (
                    partial(self.refuse_doubled, state, link, begun_s)
                    if state.lives.overlapping(begun_s)
                    else None
                )
                greeting = await greet(link, self.us(), refuse)
            except ProtocolTooOld as old:
                self.note_trouble(state, old.message)
                return
            if self.peers.get(link.peer) is not state or state.record.paused:
                return  # removed or paused while it greeted
            refusal = self.refuse_doubled(state, link, begun_s, greeting)
            if refusal is not None:
                await self.end_doubled(state, link, refusal)
                return
            if not self.prefers(state, link, greeting.instance):
                started = state.link is not None
                return
            peer_link = PeerLink(link, greeting, self.us(), self.events, found_by=found_by)
            self.connected(state, peer_link)
            task_status.started(True)  # noqa: FBT003  (the value that trio passes on)
            started = True
            task_status = trio.TASK_STATUS_IGNORED
            try:
                await self.run_link(state, peer_link)
            finally:
                self.disconnected(state, peer_link)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel) as group:
            log.debug("connection_ended error=%r", group.exceptions)
        except* trio.TooSlowError:
            log.info("greeting_timed_out address=%s", link.remote)
        except* RemoteProtocolError as group:
            for error in group.exceptions:
                log.warning("connection_refused address=%s error=%s", link.remote, error)
        except* DeviceDoubled as group:
            state = self.peers.get(link.peer)
            if state is not None:
                self.note_trouble(state, str(first_of_group(group)), retry_s=RETRY_S)
        except* P2psyncError as group:
            log.error("connection_failed address=%s error=%r", link.remote, group.exceptions)  # noqa: TRY400  (the errors say it all)
        finally:
            task_status.started(started)
            with trio.move_on_after(1, shield=True):
                await link.aclose()

    def refuse_doubled(
        self, state: PeerState, link: Link, begun_s: float, greeting: Greeting
    ) -> Refusal | None:
        """Note a greeting; return how to refuse it if the device is alive in two daemons at once."""
        now = trio.current_time()
        if state.link is not None:
            state.lives.heard(state.link.greeting.instance, state.link.heard_s)
        host = link.remote.rpartition(":")[0]
        state.lives.greeted(greeting.instance, begun_s=begun_s, now_s=now, host=host)
        hosts = state.lives.overlapping(now)
        if not hosts:
            return None
        doubled = DeviceDoubled(
            f"{state.record.name} is alive twice, at {' and at '.join(sorted(set(hosts)))}."
        )
        return Refusal(code=doubled.wire_code, text=doubled.detail)

    async def end_doubled(self, state: PeerState, link: Link, refusal: Refusal) -> None:
        """Refuse a device on a connection that has greeted already, and on the one that is up."""
        self.note_trouble(state, DeviceDoubled(refusal.text).message, retry_s=RETRY_S)
        current = state.link
        if current is not None:
            current.post(refusal)
            with trio.move_on_after(REFUSE_S):
                await current.drained()
            current.close()
        with trio.move_on_after(REFUSE_S):
            await link.send(encode_message(refusal))

    def prefers(self, state: PeerState, link: Link, instance: bytes) -> bool:
        """Settle a double dial: keep the connection that the device with the smaller ID dialled.

        A connection of a restarted peer always replaces what was left of the earlier one.
        """
        current = state.link
        if current is None:
            return True
        if current.greeting.instance == instance and current.inbound != link.inbound:
            ours_is_smaller = self.identity.device < link.peer
            if link.inbound == ours_is_smaller:
                return False
        current.close()
        return True

    def connected(self, state: PeerState, link: PeerLink) -> None:
        """Note a new connection."""
        self.contents.close_unused(state)  # what the one before left
        state.link = link
        state.clear_trouble()
        now = self.clock.now_us()
        if link.inbound:
            host = link.address.rpartition(":")[0]
            for port in link.greeting.ports:
                self.devices.note_seen(link.device, f"{host}:{port}", link.found_by, now)
        else:
            self.devices.note_seen(link.device, link.address, link.found_by, now)
        state.record = self.devices.peer(link.device) or state.record
        log.info("connected peer=%s address=%s found_by=%s", state.record.name, link.address, link.found_by)
        self.tell(
            "connected",
            device=state.record.name,
            message=f"{state.record.name} is connected ({link.address})",
        )
        state.wake.fire()
        self.changed.fire()

    def disconnected(self, state: PeerState, link: PeerLink) -> None:
        """Note the end of a connection."""
        if state.link is not link:
            return
        state.link = None
        now_s = trio.current_time()
        state.ended(now_s - link.begun_s, now_s)
        state.lives.heard(link.greeting.instance, link.heard_s)
        self.contents.close_unused(state)
        if link.device in self.peers:
            self.devices.note_seen(link.device, None, link.found_by, self.clock.now_us())
            state.record = self.devices.peer(link.device) or state.record
        log.info("disconnected peer=%s", state.record.name)
        self.tell("disconnected", device=state.record.name, message=f"{state.record.name} is disconnected")
        state.wake.fire()
        self.changed.fire()

    async def run_link(self, state: PeerState, link: PeerLink) -> None:
        """Run a connection, and fetch over it what our shares want."""
        fetcher = Fetcher(
            link.device,
            state.record.name,
            lambda: self.fetches_from(link),
            lambda: self.contents.open(state, link),
        )

        def progressed() -> None:
            fetcher.progressed()
            self.changed.fire()

        link.progressed = progressed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.run)
            await link.run()
            nursery.cancel_scope.cancel()

    def fetches_from(self, link: PeerLink) -> dict[ShareId, tuple[Applier, Held]]:
        """Return the shares that have a session on a connection now, or are being copied over it."""
        possible = self.fetches(link.device)
        return {share: possible[share] for share in {*link.drivers, *link.copied} if share in possible}

    async def accept_content(self, stream: TlsStream) -> None:
        """Attend to a content connection that a peer dialled."""
        await self.contents.accept(stream)

    def content_wanted(self, device: DeviceId) -> None:
        """Dial a content connection on which the peer asks."""
        if self.nursery is not None:
            self.nursery.start_soon(self.contents.answer, device)

    def describe(self, device: DeviceId) -> str:
        """Return a device's name for a person: as paired, else by its ID."""
        if device == self.identity.device:
            return self.name
        state = self.peers.get(device)
        return state.record.name if state is not None else format_device_id(device)[:7]
