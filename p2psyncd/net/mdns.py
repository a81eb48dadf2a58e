"""The blocking side of discovery: one zeroconf instance with its own thread, announcing and browsing.

Everything here is called in worker threads. zeroconf does not probe for its name before it announces: the name holds a part
of the device's ID, so it is unique already, and probing would cost a second at every start and change of network.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from zeroconf import DNSQuestionType, Error, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from p2psyncd.net.interfaces import Interface
from p2psyncd.wire.pairing_messages import clean_name

__all__ = ["SERVICE_TYPE", "Announcement", "Found", "Mdns", "instance_name", "multicast_addresses"]

log = logging.getLogger(__name__)

SERVICE_TYPE = "_p2psync._tcp.local."
LABEL_BYTES_MAX = 63
# A TXT string has at most 255 bytes, "name=" included.
TXT_NAME_BYTES_MAX = 200
RESOLVE_MS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What this device says of itself on the network."""

    device: str
    """The device ID as text."""
    short_device: str
    name: str
    port: int
    version: int
    addresses: tuple[str, ...]
    nameplate: str | None = None
    revision: int = 0
    """Counts changes: a browser that gets back within a second to what it knew would not notice the change."""
    suffix: str = ""
    """Tells two devices of one ID apart; empty unless that was seen."""

    @property
    def instance(self) -> str:
        """The service's name, as browsers list it."""
        return f"{instance_name(self.name, self.short_device, self.suffix)}.{SERVICE_TYPE}"

    def service(self) -> ServiceInfo:
        """Return it as zeroconf wants it."""
        properties = {"id": self.device, "name": cut(self.name, TXT_NAME_BYTES_MAX), "v": str(self.version)}
        if self.nameplate is not None:
            properties["pair"] = self.nameplate
        if self.revision:
            properties["rev"] = str(self.revision)
        return ServiceInfo(
            SERVICE_TYPE,
            self.instance,
            port=self.port,
            properties=properties,
            # Not the host's name: that one belongs to the system's own mDNS responder.
            server=f"p2psync-{self.short_device.lower()}{self.suffix}.local.",
            parsed_addresses=list(self.addresses),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A service somebody announces; nothing in it is to be believed."""

    instance: str
    properties: dict[str, str]
    port: int
    addresses: tuple[str, ...]
    """Numeric; link-local IPv6 with `%interface`."""


def cut(text: str, bytes_max: int) -> str:
    """Return as much of a text as fits into so many bytes of UTF-8."""
    return text.encode("utf-8")[:bytes_max].decode("utf-8", "ignore").strip()


def instance_name(name: str, short_device: str, suffix: str = "") -> str:
    """Return "<device name> <short ID>" as one DNS label: at most 63 bytes, no dots."""
    tail = f" {short_device}{suffix}"
    # A dot would begin another label; escaping it is not something that zeroconf does.
    plain = clean_name(name).replace(".", "-")
    return cut(plain, LABEL_BYTES_MAX - len(tail)) + tail


def multicast_addresses(interfaces: Iterable[Interface]) -> list[str]:
    """Return the addresses that zeroconf is to use: for each interface one of each family."""
    chosen: dict[str, None] = {}
    for interface in interfaces:
        ips = [address.ip for address in interface.addresses]
        v4 = [str(ip) for ip in ips if isinstance(ip, ipaddress.IPv4Address)]
        v6 = [ip for ip in ips if isinstance(ip, ipaddress.IPv6Address) and not ip.is_loopback]
        # From a link-local address, as other responders do.
        v6.sort(key=lambda ip: not ip.is_link_local)
        for text in v4[:1] + [str(ip) for ip in v6[:1]]:
            chosen[text] = None
    return list(chosen)


class Mdns:
    """One zeroconf instance on fixed interfaces; browses at once, announces with `announce`.

    Args:
        interfaces: Addresses from `multicast_addresses`.
        on_change: Called in zeroconf's thread with a service's name and whether it is there.

    Raises:
        OSError: No socket could be opened.
    """

    def __init__(self, interfaces: Sequence[str], on_change: Callable[[str, bool], None]) -> None:
        self.on_change = on_change
        self.browser: ServiceBrowser | None = None
        # One at a time: the repetitions of an earlier announcement would take back what a later one says.
        self.announcing = threading.Lock()
        try:
            self.zeroconf = Zeroconf(interfaces=list(interfaces))
        except (Error, RuntimeError) as error:
            raise OSError(str(error)) from error
        try:
            self.expect_senders()
            self.browse()
        except BaseException:
            self.close()
            raise

    def expect_senders(self) -> None:
        """Raise OSError when zeroconf could use none of the interfaces; it would be silent about that."""
        if not self.zeroconf.engine.senders:
            msg = "no interface takes multicast"
            raise OSError(msg)

    def announce(self, announcement: Announcement) -> None:
        """Announce this device, three times within half a second.

        Raises:
            OSError: zeroconf would not.
        """
        try:
            with self.announcing:
                self.zeroconf.register_service(announcement.service(), cooperating_responders=True)
        except Error as error:
            msg = f"cannot announce: {error!r}"
            raise OSError(msg) from error

    def browse(self) -> None:
        """Ask who is there; what is known already is reported again."""
        self.stop_browsing()
        self.browser = ServiceBrowser(
            self.zeroconf,
            SERVICE_TYPE,
            handlers=[self.changed],
            # Answers by multicast: a unicast one reaches only one of several programs on port 5353.
            question_type=DNSQuestionType.QM,
        )

    def stop_browsing(self) -> None:
        """End the browser's thread; callbacks after this are late ones."""
        browser, self.browser = self.browser, None
        if browser is not None:
            browser.cancel()

    def changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """Take zeroconf's callback; the names of its arguments are zeroconf's."""
        del zeroconf, service_type
        self.on_change(name, state_change is not ServiceStateChange.Removed)

    def update(self, announcement: Announcement) -> None:
        """Announce something else under the same instance name."""
        with contextlib.suppress(Error), self.announcing:
            self.zeroconf.update_service(announcement.service())

    def resolve(self, instance: str) -> Found | None:
        """Return what a service says, asking the network for what is not known; None when it does not answer."""
        try:
            info = ServiceInfo(SERVICE_TYPE, instance)
            if not info.request(self.zeroconf, RESOLVE_MS):
                return None
            properties = {key: value for key, value in info.decoded_properties.items() if value is not None}
            addresses = tuple(info.parsed_scoped_addresses())
        except (Error, ValueError) as error:
            log.debug("discovery_unreadable instance=%r error=%r", instance, error)
            return None
        return Found(instance=instance, properties=properties, port=info.port or 0, addresses=addresses)

    def close(self) -> None:
        """Say goodbye and stop; about 0.3 s."""
        # The browser first: it must not call back into a loop that has ended.
        self.stop_browsing()
        with contextlib.suppress(Error, OSError):
            self.zeroconf.close()
