"""Finding devices on the local network: announces this one by mDNS and reports the others.

What discovery says is a hint about where a device may be, never who it is. Zeroconf is built anew whenever the
machine's addresses change; that is what makes a device known again within a second of joining another network.
"""

from __future__ import annotations

import ipaddress
import logging
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from p2psyncd.core.ids import parse_device_id, short_device_id
from p2psyncd.net.addresses import Address, interface_name, plain_ip
from p2psyncd.net.interfaces import Interface, InterfaceFilter, list_interfaces, watch_interfaces
from p2psyncd.net.mdns import Announcement, Found, Mdns, multicast_addresses
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.wire.pairing_code import NAMEPLATE
from p2psyncd.wire.pairing_messages import clean_name

__all__ = ["Discovery", "Lost", "Seen"]

log = logging.getLogger(__name__)

RETRY_S = 5.0
CLOSE_S = 3.0
CONFIRM_S = 5.0
# Somebody waits for a pairing code's number, who has thirty seconds.
ASK_AGAIN_S = 4.0
# Bounds against a network full of invented services.
SERVICES_MAX = 512
ADDRESSES_MAX = 16
RESOLVERS_MAX = 4
NO_INTERFACE = "no network interface with multicast is up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A device is announced on the network."""

    device: str
    """The device ID as text, as announced."""
    name: str
    addresses: tuple[str, ...]
    """ "ip:port" to dial, the likeliest first; only such as the policy permits."""
    nameplate: str | None
    """The number of the pairing code that it shows."""
    version: int
    """Its protocol version; 0 when it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A device is not announced any more."""

    device: str


class Discovery:
    """Announces this device and looks for others, until cancelled.

    Args:
        device: This device's ID as text.
        name: What it is called.
        port: Where it listens.
        version: Of the protocol.
        policy: Which addresses are announced and reported.
        only: On which interfaces.
    """

    def __init__(
        self,
        *,
        device: str,
        name: str,
        port: int,
        version: int,
        policy: AddressPolicy,
        only: InterfaceFilter | None = None,
    ) -> None:
        self.policy = policy
        self.only = only or InterfaceFilter()
        self.state = "starting"
        """ "starting", "running", "off" or "failed: <why>"."""
        self.announcement = Announcement(
            device=device,
            short_device=short_device_id(parse_device_id(device)),
            name=clean_name(name),
            port=port,
            version=version,
            addresses=(),
        )
        self.interfaces: list[Interface] = []
        """What it runs on now."""
        self.seen: dict[str, Seen] = {}
        """By the service's instance name."""
        self.confirmed: set[str] = set()
        """Instance names heard of since zeroconf was built last."""
        self.doubles: set[str] = set()
        """Addresses at which another machine announced this device's own ID: a clone."""
        # Instance names that zeroconf has news of, and whether they are there. Coalesced: a flood costs one entry a name.
        self.dirty: dict[str, bool] = {}
        self.news = trio.Event()
        self.rebuild = trio.Event()
        self.table_changed = trio.Event()
        self.refreshing = False
        self.reannouncing = False
        self.resolvers = trio.CapacityLimiter(RESOLVERS_MAX)

    # What the daemon asks for

    def refresh(self) -> None:
        """Ask the network again at once, and report again what is known."""
        self.refreshing = True
        self.news.set()

    async def set_nameplate(self, nameplate: str | None) -> None:
        """Announce that this device shows the pairing code of that number, or none any more."""
        if nameplate != self.announcement.nameplate:
            revision = self.announcement.revision + 1
            self.announcement = replace(self.announcement, nameplate=nameplate, revision=revision)
            self.reannouncing = True
            self.news.set()
        await trio.lowlevel.checkpoint()

    def nameplates(self) -> set[str]:
        """Return the nameplates that other devices show now."""
        return {seen.nameplate for seen in self.seen.values() if seen.nameplate is not None}

    async def find_nameplate(self, nameplate: str) -> list[str]:
        """Return the addresses of whoever shows this nameplate; waits until somebody does."""
        while True:
            changed = self.table_changed
            showing = [seen for seen in self.seen.values() if seen.nameplate == nameplate]
            if showing:
                return [address for seen in showing for address in seen.addresses]
            with trio.move_on_after(ASK_AGAIN_S) as waited:
                await changed.wait()
            if waited.cancelled_caught:
                # Who shows it says so three times within a second and then only when asked: all of that may be lost, and
                # of what was asked on hearing it the answer.
                self.refresh()

    # Running

    async def run(
        self,
        on_seen: Callable[[Seen | Lost], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Announce and browse until cancelled; started after the first attempt, whether or not it worked.

        Failures (no interface, no multicast) are told by `state` and tried again; they are never raised.
        """
        # It logs tracebacks whenever a network goes away; our state and log say it in one line.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(watch_interfaces, self.interfaces_changed)
                while True:
                    self.rebuild = trio.Event()
                    self.interfaces = self.only.keep(list_interfaces())
                    await self.run_once(on_seen, task_status)
                    task_status = trio.TASK_STATUS_IGNORED
        finally:
            self.state = "off"

    async def interfaces_changed(self, interfaces: list[Interface]) -> None:
        """Begin anew if this changes anything for us; a container's interfaces come and go all the time."""
        if self.only.keep(interfaces) != self.interfaces:
            self.rebuild.set()

    def fail(self, why: str) -> None:
        """Say once that there is no discovery, and why."""
        state = f"failed: {why}"
        if state != self.state:
            self.state = state
            log.warning("discovery_failed reason=%s", why)

    async def run_once(
        self, on_seen: Callable[[Seen | Lost], None], task_status: trio.TaskStatus[None]
    ) -> None:
        """Announce and browse on the interfaces of this moment until they change."""
        self.announcement = replace(self.announcement, addresses=self.own_addresses())
        mdns = await self.open()
        task_status.started()
        if mdns is None:
            with trio.move_on_after(RETRY_S):
                await self.rebuild.wait()
            return
        try:
            self.state = "running"
            log.info("discovery_running addresses=%s", ",".join(self.announcement.addresses))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.announce, mdns)
                nursery.start_soon(self.attend, mdns, on_seen, nursery)
                nursery.start_soon(self.forget_unconfirmed, on_seen)
                await self.rebuild.wait()
                nursery.cancel_scope.cancel()
        finally:
            # Shielded but bounded: peers should hear the goodbye, but a dead network must not hold up the end.
            with trio.move_on_after(CLOSE_S, shield=True):
                await trio.to_thread.run_sync(mdns.close, abandon_on_cancel=True)

    async def announce(self, mdns: Mdns) -> None:
        """Announce this device; if that fails, try again with a new zeroconf."""
        self.reannouncing = False
        try:
            await trio.to_thread.run_sync(mdns.announce, self.announcement)
        except OSError as error:
            self.fail(str(error))
            await trio.sleep(RETRY_S)
            self.rebuild.set()

    async def open(self) -> Mdns | None:
        """Return a running zeroconf, or None when it cannot be."""
        chosen = multicast_addresses(self.interfaces)
        if not chosen:
            self.fail(NO_INTERFACE)
            return None
        token = trio.lowlevel.current_trio_token()

        def on_change(instance: str, there: bool) -> None:  # noqa: FBT001  (what zeroconf tells)
            # The daemon may have ended while zeroconf's thread was on its way here.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self.note, instance, there)

        self.dirty.clear()
        self.confirmed.clear()
        try:
            return await trio.to_thread.run_sync(Mdns, chosen, on_change)
        except OSError as error:
            self.fail(error.strerror or str(error))
            return None

    def own_addresses(self) -> tuple[str, ...]:
        """Return the addresses to announce."""
        ips = [str(address.ip) for interface in self.interfaces for address in interface.addresses]
        return tuple(ip for ip in dict.fromkeys(ips) if ip != "::1" and self.policy.permits(ip))[
            :ADDRESSES_MAX
        ]

    def note(self, instance: str, there: bool) -> None:  # noqa: FBT001  (what zeroconf tells)
        """Remember that there is news of a service; runs in trio's thread."""
        if instance in self.dirty or len(self.dirty) < SERVICES_MAX:
            self.dirty[instance] = there
            self.news.set()

    async def attend(self, mdns: Mdns, on_seen: Callable[[Seen | Lost], None], nursery: trio.Nursery) -> None:
        """Work through what zeroconf and the daemon have noted."""
        while True:
            await self.news.wait()
            self.news = trio.Event()
            if self.refreshing:
                self.refreshing = False
                await trio.to_thread.run_sync(mdns.browse)
            if self.reannouncing:
                self.reannouncing = False
                # Takes half a second for its repetitions; nobody waits for them.
                nursery.start_soon(trio.to_thread.run_sync, mdns.update, self.announcement)
            dirty, self.dirty = self.dirty, {}
            for instance, there in dirty.items():
                if there:
                    nursery.start_soon(self.look_at, mdns, instance, on_seen)
                else:
                    self.forget(instance, on_seen)

    async def forget_unconfirmed(self, on_seen: Callable[[Seen | Lost], None]) -> None:
        """After a change of network, forget who is not heard of on the new one."""
        await trio.sleep(CONFIRM_S)
        for instance in set(self.seen) - self.confirmed:
            self.forget(instance, on_seen)

    async def look_at(self, mdns: Mdns, instance: str, on_seen: Callable[[Seen | Lost], None]) -> None:
        """Find out what a service says, and report it if it is another device."""
        # Abandoned on cancel: it only reads.
        found = await trio.to_thread.run_sync(
            mdns.resolve, instance, limiter=self.resolvers, abandon_on_cancel=True
        )
        if found is None:
            return
        if found.properties.get("id") == self.announcement.device:
            self.look_at_double(found)
            return
        seen = self.understand(found)
        if seen is not None and (instance in self.seen or len(self.seen) < SERVICES_MAX):
            self.seen[instance] = seen
            self.confirmed.add(instance)
            self.tell_waiting()
            on_seen(seen)

    def forget(self, instance: str, on_seen: Callable[[Seen | Lost], None]) -> None:
        """A service has gone; report its device if it has no other."""
        gone = self.seen.pop(instance, None)
        if gone is not None:
            self.tell_waiting()
            if all(seen.device != gone.device for seen in self.seen.values()):
                on_seen(Lost(device=gone.device))

    def tell_waiting(self) -> None:
        """Wake those who wait for something to appear in the table."""
        self.table_changed.set()
        self.table_changed = trio.Event()

    def understand(self, found: Found) -> Seen | None:
        """Return what a service says as far as it makes sense; None when it is no device to speak with."""
        device = found.properties.get("id", "")
        permitted = [ip for ip in found.addresses if self.policy.permits(ip)]
        ips = list(dict.fromkeys(filter(None, map(self.dialable, permitted))))
        if not device or not found.port or not ips:
            log.debug("discovery_ignored instance=%r addresses=%s", found.instance, found.addresses)
            return None
        version = found.properties.get("v", "")
        nameplate = found.properties.get("pair", "")
        return Seen(
            device=device,
            name=clean_name(found.properties.get("name", "")),
            addresses=tuple(str(Address(ip=ip, port=found.port)) for ip in self.likeliest_first(ips))[
                :ADDRESSES_MAX
            ],
            nameplate=nameplate if NAMEPLATE.fullmatch(nameplate) else None,
            version=int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else 0,  # noqa: PLR2004
        )

    def dialable(self, ip: str) -> str | None:
        """Return an address as it can be dialled: a link-local one with its interface, by name."""
        plain, _, scope = ip.partition("%")
        if not plain.startswith("fe80:"):
            return plain
        if scope:
            return f"{plain}%{interface_name(int(scope)) if scope.isdecimal() else scope}"
        # What came over IPv4 does not say on which interface; with a single one there is no doubt.
        return f"{plain}%{self.interfaces[0].name}" if len(self.interfaces) == 1 else None

    def likeliest_first(self, ips: list[str]) -> list[str]:
        """Sort addresses: on a network of ours before elsewhere, IPv4 before IPv6, link-local last."""
        attached = list(self.policy.attached())

        def rank(ip: str) -> tuple[bool, bool, bool]:
            value = plain_ip(ip)
            return (
                not any(value in network for network in attached),
                value.is_link_local,
                isinstance(value, ipaddress.IPv6Address),
            )

        return sorted(ips, key=rank)

    def look_at_double(self, found: Found) -> None:
        """Our own ID was announced: by us, or by a clone of this device under the same name."""
        ours = set(self.announcement.addresses)
        foreign = {ip for ip in found.addresses if str(plain_ip(ip)) not in ours}
        if not foreign and found.port == self.announcement.port:
            return
        fresh = {str(Address(ip=ip, port=found.port)) for ip in foreign or found.addresses} - self.doubles
        if not fresh:
            return
        self.doubles |= fresh
        log.warning("device_doubled addresses=%s", ",".join(sorted(fresh)))
        if not self.announcement.suffix:
            # Two machines must not answer for one name. Derived from what differs between them.
            what_differs = f"{sorted(ours)} {self.announcement.port}"
            self.announcement = replace(
                self.announcement, suffix=f"-{zlib.crc32(what_differs.encode()) & 0xFFFF:04x}"
            )
            self.rebuild.set()
