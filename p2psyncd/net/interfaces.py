"""This machine's network interfaces: which there are, which are used, and when they change."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import ifaddr
import trio

__all__ = ["Interface", "InterfaceFilter", "list_interfaces", "watch_interfaces"]

log = logging.getLogger(__name__)

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

# linux/if.h and linux/sockios.h
SIOCGIFFLAGS = 0x8913
IFREQ = struct.Struct("16sH22x")
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_RUNNING = 0x40
IFF_MULTICAST = 0x1000

# linux/rtnetlink.h: links, IPv4 addresses, IPv6 addresses
NETLINK_GROUPS = 0x1 | 0x10 | 0x100
NETLINK_READ_BYTES = 65536
# Changes come in bursts (link, then each address): one report for all.
SETTLE_S = 0.2
POLL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface and its addresses at one moment."""

    name: str
    index: int
    addresses: tuple[IPInterface, ...]
    """With their networks; IPv6 addresses that are still being checked for duplicates are left out."""
    running: bool
    """Up, and the cable is in."""
    multicast: bool
    loopback: bool


def list_interfaces() -> list[Interface]:
    """Return the interfaces that have addresses, in the system's order; about 0.3 ms."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return [describe(adapter, probe) for adapter in ifaddr.get_adapters()]


def describe(adapter: ifaddr.Adapter, probe: socket.socket) -> Interface:
    """Return one adapter as a value."""
    flags = interface_flags(adapter.name, probe)
    index = adapter.index or 0
    addresses = [usable_address(ip, index) for ip in adapter.ips]
    return Interface(
        name=adapter.name,
        index=index,
        addresses=tuple(address for address in addresses if address is not None),
        running=flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING,
        multicast=bool(flags & IFF_MULTICAST),
        loopback=bool(flags & IFF_LOOPBACK),
    )


def interface_flags(name: str, probe: socket.socket) -> int:
    """Return the kernel's flags of an interface; 0 when it has just gone."""
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFFLAGS, IFREQ.pack(name.encode()[:15], 0))
    except OSError:
        return 0
    flags: int = IFREQ.unpack(answer)[1]
    return flags


def usable_address(ip: ifaddr.IP, index: int) -> IPInterface | None:
    """Return an address that sockets can be bound to, else None."""
    if isinstance(ip.ip, str):
        return ipaddress.IPv4Interface(f"{ip.ip}/{ip.network_prefix}")
    text = ip.ip[0].partition("%")[0]
    # A new IPv6 address is tentative for a second or two; binding to it is the one portable way to know.
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((text, 0, 0, index))
    except OSError:
        return None
    return ipaddress.IPv6Interface(f"{text}/{ip.network_prefix}")


class InterfaceFilter:
    """Which interfaces to use: all but loopback, or those named with `--interface`.

    Args:
        wanted: Interface names and addresses; empty for all.
    """

    def __init__(self, wanted: Sequence[str] = ()) -> None:
        self.names = {entry for entry in wanted if not is_ip(entry)}
        self.ips = {ipaddress.ip_address(entry) for entry in wanted if is_ip(entry)}

    @property
    def everything(self) -> bool:
        """Whether nothing was named."""
        return not self.names and not self.ips

    def keep(self, interfaces: Iterable[Interface]) -> list[Interface]:
        """Return the interfaces to announce on, each with the addresses that are wanted of it."""
        kept = [self.cut(interface) for interface in interfaces if interface.running]
        return [
            interface
            for interface in kept
            if interface.addresses
            and (not self.everything or (interface.multicast and not interface.loopback))
        ]

    def cut(self, interface: Interface) -> Interface:
        """Return the interface with only the addresses that are wanted."""
        if self.everything or interface.name in self.names:
            return interface
        wanted = tuple(address for address in interface.addresses if address.ip in self.ips)
        return Interface(
            name=interface.name,
            index=interface.index,
            addresses=wanted,
            running=interface.running,
            multicast=interface.multicast,
            loopback=interface.loopback,
        )

    def accepts_local(self, ip: str) -> bool:
        """Return whether a connection that came in on this local address is wanted; loopback always is."""
        value = ipaddress.ip_address(ip.partition("%")[0])
        if self.everything or value.is_loopback or value in self.ips:
            return True
        return any(
            value == address.ip
            for interface in list_interfaces()
            if interface.name in self.names
            for address in interface.addresses
        )


def is_ip(text: str) -> bool:
    """Return whether the text is a numeric address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def watch_interfaces(
    on_change: Callable[[list[Interface]], Awaitable[None]],
    *,
    poll_s: float = POLL_S,
    settle_s: float = SETTLE_S,
    task_status: trio.TaskStatus[list[Interface]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call `on_change` whenever interfaces, their links or their addresses changed; runs until cancelled.

    The kernel tells (netlink); it is also asked every `poll_s`, because IPv6 addresses become usable silently
    and because a hardened unit may forbid netlink.
    """
    known = list_interfaces()
    listener = open_netlink()
    try:
        task_status.started(known)
        while True:
            await wait_for_news(listener, poll_s=poll_s, settle_s=settle_s)
            now = list_interfaces()
            if now != known:
                known = now
                log.info("interfaces_changed now=%s", describe_all(now))
                await on_change(now)
    finally:
        if listener is not None:
            trio.lowlevel.notify_closing(listener)
            listener.close()


def describe_all(interfaces: Iterable[Interface]) -> str:
    """Return interfaces as one short text for the log."""
    return " ".join(
        f"{interface.name}={','.join(str(address.ip) for address in interface.addresses)}"
        for interface in interfaces
        if interface.running
    )


def open_netlink() -> socket.socket | None:
    """Return a socket that becomes readable when the kernel changes links or addresses."""
    try:
        listener = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
    except OSError as error:
        log.info("netlink_unavailable error=%s", error)
        return None
    try:
        listener.bind((0, NETLINK_GROUPS))
    except OSError as error:
        log.info("netlink_unavailable error=%s", error)
        listener.close()
        return None
    return listener


async def wait_for_news(listener: socket.socket | None, *, poll_s: float, settle_s: float) -> None:
    """Return when the kernel told something and fell silent again, or after `poll_s`."""
    if listener is None:
        await trio.sleep(poll_s)
        return
    with trio.move_on_after(poll_s) as waiting:
        await trio.lowlevel.wait_readable(listener)
    if waiting.cancelled_caught:
        return
    await trio.sleep(settle_s)
    drain(listener)


def drain(listener: socket.socket) -> None:
    """Throw away what the kernel told; the interfaces are read afresh."""
    while True:
        try:
            listener.recv(NETLINK_READ_BYTES)
        except OSError as error:
            # ENOBUFS: more was told than fits, and the rest may still be waiting.
            if error.errno != errno.ENOBUFS:
                return
