"""The running daemon: opens every nursery, and is where its parts meet.

Order of start: device store, shares, mesh, port, discovery, control socket, then `ready`. What stops,
stops in the opposite order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import trio

from p2psyncd import PROTOCOL_VERSION
from p2psyncd.control.places import Places
from p2psyncd.control.server import serve
from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import DeviceId, ShareId, format_device_id, parse_device_id
from p2psyncd.daemon.admission import Admission
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.backend import DaemonBackend
from p2psyncd.daemon.bootstrap import Bootstrap
from p2psyncd.daemon.config import Config
from p2psyncd.daemon.conflicts import Teller
from p2psyncd.daemon.database_share import DatabaseKind
from p2psyncd.daemon.executor import Executor
from p2psyncd.daemon.folder_share import FolderKind
from p2psyncd.daemon.journal import Journal
from p2psyncd.daemon.membership import offers
from p2psyncd.daemon.mesh import Mesh
from p2psyncd.daemon.notify import Notifier
from p2psyncd.daemon.peerlink import PeerLink
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.report import drivers_of
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.shares import Shares
from p2psyncd.daemon.stuck import StopTeller
from p2psyncd.daemon.transfer import Held
from p2psyncd.errors import P2psyncError, RemoteProtocolError
from p2psyncd.net.addresses import plain_ip
from p2psyncd.net.discovery import Discovery, Lost, Seen
from p2psyncd.net.identity import Identity, device_of_certificate
from p2psyncd.net.interfaces import Interface, InterfaceFilter, watch_interfaces
from p2psyncd.net.listener import Listener
from p2psyncd.net.pairing import PairedPeer, PairingHost
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.sources.folder.history import HistoryLimits
from p2psyncd.store.device import ADDRESSES_MAX, DeviceStore, PeerRecord
from p2psyncd.wire.messages import Introduced, Introductions, Offers, SnapshotMessage
from p2psyncd.wire.pairing_messages import clean_name

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

# Both sides store before either says so: whoever dials at once meets a device that does not know it yet.
PAIRING_ENDS_S = 2.0
# What introductions may bring: every peer is dialled, and every removal is kept and passed on.
PEERS_MAX = 256
REMOVALS_MAX = 1024
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  (who may connect is decided by the address policy)


class Supervisor:
    """See the top of the file."""

    def __init__(
        self,
        *,
        config: Config,
        load_config: Callable[[], Config],
        places: Places,
        name: str,
        clock: Clock,
        executor: Executor,
        entropy: Callable[[int], bytes],
        notifier: Notifier,
    ) -> None:
        self.config = config
        self.load_config = load_config
        self.places = places
        self.name = name
        self.clock = clock
        self.executor = executor
        self.entropy = entropy
        self.notifier = notifier
        self.identity = Identity.load_or_create(places.identity_dir, clock.now_us())
        self.devices = DeviceStore.open(places.state_dir / "device.db")
        self.journal = Journal(self.devices, clock)
        self.policy = AddressPolicy([str(network) for network in config.network_allow])
        self.listening: list[str] = []
        self.stopping = trio.Event()
        self.started_s = clock.monotonic_s()
        self.shares = Shares(
            state_dir=places.state_dir,
            device=self.identity.device,
            devices=self.devices,
            config=config,
            clock=clock,
            executor=executor,
            entropy=entropy,
            kinds={
                "folder": FolderKind(clock, history_limits(config)),
                "database": DatabaseKind(clock, self.identity.device, places.state_dir / "shares"),
            },
            on_change=self.shares_changed,
        )
        self.admission = Admission(
            self.shares,
            entropy=entropy,
            private=(places.state_dir, places.identity_dir, places.socket_path.parent),
        )
        self.mesh = Mesh(
            identity=self.identity,
            name=name,
            devices=self.devices,
            policy=self.policy,
            clock=clock,
            events=self,
            fetches=self.fetches_for,
            tell=self.journal.tell,
            introduces=config.pairing_introduce,
        )
        self.pairing = PairingHost(
            identity=self.identity,
            name=name,
            clock=clock,
            entropy=entropy,
            on_paired=self.paired,
            on_withdrawn=self.unpaired,
            policy=self.policy,
            port=lambda: self.mesh.ports[0] if self.mesh.ports else 0,
        )
        self.shares.sessions_of = lambda share: [driver for _, driver in drivers_of(self.mesh, share)]
        self.shares.tell_lost = self.content_lost
        self.bootstrap = Bootstrap(self.mesh, executor, lambda state: self.shares.for_device(state.record))
        self.shares.get_copy = self.bootstrap.run
        self.shares.tell_conflicts = Teller(self.journal).run
        self.shares.tell_stops = StopTeller(self.journal).run
        self.before_pairing: dict[DeviceId, PeerRecord | None] = {}
        self.session_troubles: dict[tuple[DeviceId, ShareId], str] = {}
        """What was said last about a peer's session of a share."""
        self.discovery: Discovery | None = None
        self.config_trouble = ""
        """Why the configuration could not be read again; empty if it could."""

    # Running

    async def run(self) -> None:
        """Run until `stopping` is set."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.shares.run)
                await nursery.start(self.mesh.run)
                listener = Listener(
                    self.listen_addresses(),
                    self.identity,
                    self.mesh.trust,
                    self.policy,
                    on_link=self.mesh.accept,
                    on_content=self.mesh.accept_content,
                    on_pair=self.pairing.serve,
                    only=InterfaceFilter(self.config.interfaces),
                )
                self.listening = await nursery.start(listener.run)
                self.mesh.ports = tuple(sorted({port_of(address) for address in self.listening}))
                await nursery.start(watch_interfaces, self.interfaces_changed)
                if self.config.mdns:
                    self.discovery = self.make_discovery()
                    nursery.start_soon(self.discovery.run, self.discovered)
                await nursery.start(serve, DaemonBackend(self), self.places.socket_path)
                self.announce_ready()
                nursery.start_soon(self.notifier.keep_watchdog)
                await self.stopping.wait()
                self.notifier.stopping()
                nursery.cancel_scope.cancel()
        finally:
            self.devices.close()

    def make_discovery(self) -> Discovery:
        """Return discovery for the port that was bound."""
        return Discovery(
            device=format_device_id(self.identity.device),
            name=self.name,
            port=self.mesh.ports[0],
            version=PROTOCOL_VERSION,
            policy=self.policy,
            only=InterfaceFilter(self.config.interfaces),
        )

    def listen_addresses(self) -> list[str]:
        """Return the "ip:port" texts to listen on; an empty host means both families."""
        return [
            f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
            for address in self.config.listen
            for host in ([address.host] if address.host else EVERYWHERE)
        ]

    def announce_ready(self) -> None:
        """Say that everything works now: to the log, to systemd, to the journal."""
        device = format_device_id(self.identity.device)
        log.info("ready name=%s id=%s listen=%s", self.name, device, ",".join(self.listening))
        self.notifier.ready()
        self.journal.tell("ready", message=f"listening on {', '.join(self.listening)}")

    def reload(self) -> None:
        """Read the configuration again; what cannot change while running needs a restart.

        Raises:
            ConfigError: It cannot be used; the old one stays in force.
        """
        try:
            fresh = self.load_config()
        except P2psyncError as error:
            self.config_trouble = error.message
            raise
        self.config_trouble = ""
        self.config = replace(self.config, log_level=fresh.log_level, network_allow=fresh.network_allow)
        self.policy.allow([str(network) for network in fresh.network_allow])
        logging.getLogger("p2psyncd").setLevel(fresh.log_level.upper())
        log.info("reloaded")

    # Discovery

    async def interfaces_changed(self, interfaces: list[Interface]) -> None:
        """Roam: connections from an address that went away are over, and others may be possible."""
        await trio.lowlevel.checkpoint()
        self.mesh.addresses_changed(
            {str(plain_ip(str(address.ip))) for interface in interfaces for address in interface.addresses}
        )

    def discovered(self, found: Seen | Lost) -> None:
        """Take in what discovery found."""
        try:
            device = parse_device_id(found.device)
        except ValueError:
            log.debug("discovery_nonsense id=%r", found.device[:80])
            return
        if isinstance(found, Seen):
            self.mesh.seen(device, found.addresses)
        else:
            self.mesh.lost(device)

    # Pairing

    def paired(self, peer: PairedPeer) -> None:
        """Store a device that was just paired by code, and connect to it."""
        earlier = self.mesh.peers.get(peer.device)
        self.before_pairing[peer.device] = earlier.record if earlier is not None else None
        removal = self.devices.removed(peer.device)
        self.devices.forget_removal(peer.device)
        # Later than the removal whatever the clocks say: so others take it in again when we introduce it.
        paired_us = max(self.clock.now_us(), removal.removed_us + 1 if removal is not None else 0)
        record = PeerRecord(
            device=peer.device,
            name=self.free_name(peer.name, peer.device),
            certificate=peer.certificate,
            introduced_by=None,
            addresses=(peer.address,) if peer.address else (),
            paused=False,
            paired_us=paired_us,
            last_seen_us=self.clock.now_us(),
            found_by="address",
        )
        self.mesh.put(record, patience_s=PAIRING_ENDS_S)
        self.devices.set_setting(f"introduce:{peer.device.hex()}", b"1" if peer.introduce else b"0")
        self.journal.tell("paired", device=record.name, message=f"paired with {record.name}")
        log.info("paired peer=%s id=%s", record.name, format_device_id(peer.device))
        if self.discovery is not None:
            self.discovery.refresh()

    def unpaired(self, peer: PairedPeer) -> None:
        """Take a pairing back that the other side does not have; an earlier one stays."""
        before = self.before_pairing.pop(peer.device, None)
        if before is not None:
            self.mesh.put(before)
        else:
            self.mesh.drop(peer.device)

    def free_name(self, name: str, device: DeviceId) -> str:
        """Return a name that no other paired device has."""
        taken = {s.record.name for s in self.mesh.peers.values() if s.record.device != device} | {self.name}
        if name not in taken:
            return name
        return next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)

    # What the mesh asks (PeerEvents)

    def shares_changed(self) -> None:
        """Let every connection see that shares came, went or changed their phase."""
        self.mesh.refresh()

    def replicas_for(self, device: DeviceId) -> Sequence[Replica]:
        """Return the replicas that this device shares with a peer and that can exchange now."""
        state = self.mesh.peers.get(device)
        if state is None:
            return []
        return [
            share.replica
            for share in self.shares.for_device(state.record)
            if share.replica.phase in {Phase.READY, Phase.SCANNING}
        ]

    def fetches_for(self, device: DeviceId) -> Mapping[ShareId, tuple[Applier, Held]]:
        """Return who wants contents, for each share that a peer is a member of."""
        state = self.mesh.peers.get(device)
        if state is None:
            return {}
        shares = self.shares.for_device(state.record)
        return {share.replica.share: (share.applier, share.held) for share in shares}

    def session_failed(self, device: DeviceId, share: ShareId, trouble: str) -> None:
        """Say once that a session ended by an error."""
        if self.session_troubles.get((device, share)) == trouble:
            return
        self.session_troubles[device, share] = trouble
        running = self.shares.running.get(share)
        name = running.record.name if running is not None else share.hex()[:8]
        peer = self.mesh.describe(device)
        log.warning("session_failed peer=%s share=%s error=%s", peer, name, trouble)
        self.journal.tell("session_failed", share=name, device=peer, message=trouble)

    def member(self, share: ShareId, device: DeviceId) -> None:
        """Note that a peer holds a share: then devices that it introduced may have it too."""
        if self.shares.note_member(share, device):
            self.mesh.refresh()

    def offers_for(self, device: DeviceId) -> Offers:
        """Return what this device offers a peer now."""
        state = self.mesh.peers.get(device)
        return offers(self.shares.for_device(state.record)) if state is not None else Offers(offers=())

    def introductions_for(self, device: DeviceId) -> Introductions:
        """Return whom this device introduces to a peer now."""
        removals = [r for r in self.devices.removals() if r.everywhere]
        removed = tuple((r.device, r.removed_us) for r in removals[-2 * REMOVALS_MAX :])
        if not self.may_introduce(device):
            return Introductions(devices=(), removed=removed)
        return Introductions(
            devices=tuple(
                Introduced(
                    device=state.record.device,
                    name=state.record.name,
                    certificate=state.record.certificate,
                    addresses=state.record.addresses,
                    paired_us=state.record.paired_us,
                )
                for state in self.mesh.peers.values()
                if state.record.device != device and self.may_introduce(state.record.device)
            ),
            removed=removed,
        )

    def may_introduce(self, device: DeviceId) -> bool:
        """Return whether a device takes part in introductions."""
        return self.config.pairing_introduce and self.devices.setting(f"introduce:{device.hex()}") != b"0"

    def introduced(self, by: DeviceId, introductions: Introductions) -> None:
        """Take in what a peer says of other devices.

        Of a removal everywhere and a pairing by code the later one counts. Each is stamped later than whatever its
        device knew of the other, so that wrong clocks cannot undo what a person did last.
        """
        for device, when_us in introductions.removed:
            self.take_removal(by, device, when_us)
        if self.may_introduce(by):
            for one in introductions.devices:
                if one.device != self.identity.device:
                    self.take_introduction(by, one)

    def take_removal(self, by: DeviceId, device: DeviceId, when_us: int) -> None:
        """Believe a peer that a device was removed everywhere, unless it was paired since then."""
        state = self.mesh.peers.get(device)
        if state is not None and state.record.paired_us > when_us:
            return
        removal = self.devices.removed(device)
        if state is None and removal is None and self.devices.count_removals() >= REMOVALS_MAX:
            return  # nobody that we ever met; a liar could go on for ever
        if removal is None or not removal.everywhere or removal.removed_us < when_us:
            self.devices.put_removal(device, when_us, by, everywhere=True)
            self.mesh.refresh()  # others hear of it
        if state is not None and state.record.introduced_by is not None:
            name = state.record.name
            self.mesh.drop(device)
            self.journal.tell(
                "removed", device=name, message=f"{self.mesh.describe(by)} removed {name} everywhere"
            )

    def take_introduction(self, by: DeviceId, one: Introduced) -> None:
        """Come to know a device that a peer introduces, unless it was removed since it was paired."""
        state = self.mesh.peers.get(one.device)
        if state is not None:
            if one.paired_us > state.record.paired_us:
                # Heard of now, so that a removal on this device is stamped later.
                self.mesh.note_paired(state, one.paired_us)
            return
        removal = self.devices.removed(one.device)
        if removal is not None and not (removal.everywhere and one.paired_us > removal.removed_us):
            return
        if device_of_certificate(one.certificate) != one.device:
            raise RemoteProtocolError("An introduced device's certificate is not its own")
        if len(self.mesh.peers) >= PEERS_MAX:
            log.warning("introduction_passed_over by=%s reason=too_many", self.mesh.describe(by))
            return
        self.devices.forget_removal(one.device)
        name = self.free_name(clean_name(one.name), one.device)
        self.mesh.put(
            PeerRecord(
                device=one.device,
                name=name,
                certificate=one.certificate,
                introduced_by=by,
                addresses=one.addresses[:ADDRESSES_MAX],
                paused=False,
                paired_us=one.paired_us,
                last_seen_us=0,
                found_by="mdns",
            )
        )
        self.journal.tell("introduced", device=name, message=f"{self.mesh.describe(by)} introduced {name}")
        if self.discovery is not None:
            self.discovery.refresh()

    def removed_by(self, device: DeviceId) -> None:
        """Note that a peer has removed this device: it has to be paired again."""
        state = self.mesh.peers.get(device)
        if state is not None:
            self.mesh.note_trouble(
                state,
                f"{state.record.name} has removed this device. Pair them again with `p2psync pair`.",
                command="p2psync pair",
            )

    def content_lost(self, share: RunningShare, key: bytes) -> None:
        """Tell the user that a version was given up."""
        name = share.desk.name_of(key)
        self.journal.tell(
            "content_lost",
            share=share.record.name,
            message=f"no device has the last content of {name} any more; what was there before stays",
        )

    def content_wanted(self, device: DeviceId) -> None:
        """Dial a content connection on which the peer asks."""
        self.mesh.content_wanted(device)

    def copy_said(self, link: PeerLink, message: SnapshotMessage) -> None:
        """Take in what a peer says of copies of databases."""
        self.bootstrap.said(link, message)


def history_limits(config: Config) -> HistoryLimits:
    """Return how much of what peers replace or delete is kept."""
    return HistoryLimits(
        days=config.history_days,
        share_percent=config.history_share_percent,
        bytes_min=config.history_min_mb * 1_000_000,
    )


def port_of(address: str) -> int:
    """Return the port of "ip:port"."""
    return int(address.rpartition(":")[2])
