"""LAN only, by construction: with which addresses this device speaks at all.

Asked before every dial, on every accepted connection and for every address that discovery brings, so nothing
that a peer or a stranger says can make the daemon reach out of the local network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence

from p2psyncd.net.addresses import plain_ip
from p2psyncd.net.interfaces import list_interfaces

__all__ = ["AddressPolicy", "attached_networks"]

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# Loopback, private (RFC 1918, RFC 4193) and link-local. Not 100.64/10: that is a carrier's or a VPN's network,
# and whoever wants it says so with `[network] allow`.
LOCAL_NETWORKS: tuple[IPNetwork, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fe80::/10",
        "fc00::/7",
    )
)


def attached_networks() -> list[IPNetwork]:
    """Return the networks that this machine's interfaces are on, as they are at this moment."""
    networks = [address.network for interface in list_interfaces() for address in interface.addresses]
    # A prefix of 0 would mean the whole internet; some tunnels are set up so.
    return [network for network in networks if network.prefixlen > 0]


class AddressPolicy:
    """Says which addresses are local.

    Args:
        allow: Further networks in CIDR notation, from `[network] allow`.
        attached: Returns the directly attached networks; read when it matters, so roaming needs no notice.

    Raises:
        ValueError: An entry of `allow` is not a network; the text names it.
    """

    def __init__(
        self, allow: Sequence[str] = (), *, attached: Callable[[], Iterable[IPNetwork]] = attached_networks
    ) -> None:
        self.fixed: tuple[IPNetwork, ...] = ()
        self.attached = attached
        self.allow(allow)

    def allow(self, networks: Sequence[str]) -> None:
        """Replace the further networks, as after a reload of the configuration.

        Raises:
            ValueError: An entry is not a network; the text names it, and nothing is changed.
        """
        self.fixed = (*LOCAL_NETWORKS, *(ipaddress.ip_network(text, strict=False) for text in networks))

    def permits(self, ip: str) -> bool:
        """Return whether this device may speak with that address.

        Args:
            ip: Numeric; `%interface` is ignored; an IPv4 address mapped into IPv6 counts as the IPv4 one.
        """
        try:
            value = plain_ip(ip)
        except ValueError:
            return False
        # 0.0.0.0 and :: would reach this very machine; broadcast and multicast are no peers.
        if value.is_unspecified or value.is_multicast or value == ipaddress.IPv4Address("255.255.255.255"):
            return False
        if any(value in network for network in self.fixed):
            return True
        return any(value in network for network in self.attached())
