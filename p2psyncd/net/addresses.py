"""Addresses as text: "ip:port", IPv6 in brackets, link-local ones with the interface they belong to."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

import trio

__all__ = [
    "DEFAULT_PORT",
    "Address",
    "format_address",
    "interface_name",
    "parse_address",
    "plain_ip",
    "resolve",
]

DEFAULT_PORT = 22600
PORT_MAX = 65535
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A numeric address and a port; `ip` carries `%interface` where it is link-local."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if ":" in self.ip else socket.AF_INET

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """What the socket module wants.

        Raises:
            OSError: The interface of a link-local address is not there (any more).
        """
        if ":" not in self.ip:
            return (self.ip, self.port)
        ip, _, scope = self.ip.partition("%")
        if not scope:
            return (ip, self.port, 0, 0)
        index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
        return (ip, self.port, 0, index)


def parse_address(text: str) -> Address:
    """Return the parts of "ip:port" or "[ip]:port".

    Raises:
        ValueError: Not a numeric address and a port.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > PORT_MAX:
        msg = f"not an address and a port: {text!r}"
        raise ValueError(msg)
    ipaddress.ip_address(host)
    return Address(ip=host, port=int(port))


def plain_ip(ip: str) -> IPAddress:
    """Return an address as a value, without its interface; an IPv4 address inside IPv6 as the IPv4 one it is.

    Raises:
        ValueError: Not a numeric address.
    """
    value = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(value, ipaddress.IPv6Address) and value.ipv4_mapped is not None:
        return value.ipv4_mapped
    return value


def format_address(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Return what the socket module gave as "ip:port", "[ip]:port" or "[ip%interface]:port"."""
    ip, port = sockaddr[0].partition("%")[0], sockaddr[1]
    value = plain_ip(ip)
    scope = sockaddr[3] if len(sockaddr) > 2 and value.is_link_local else 0  # noqa: PLR2004
    return str(Address(ip=f"{value}%{interface_name(scope)}" if scope else str(value), port=port))


def interface_name(index: int) -> str:
    """Return an interface's name, or its number when it has gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


async def resolve(text: str, *, default_port: int = DEFAULT_PORT) -> list[str]:
    """Return the "ip:port" of what a person typed: "host", "host:port", "ip:port" or "[ip]:port".

    Raises:
        OSError: The name is not known.
        ValueError: Not a host and a port.
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or port.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text.strip(), str(default_port)
    if not host or not port.isascii() or not port.isdecimal() or int(port) > PORT_MAX:
        msg = f"not a host and a port: {text!r}"
        raise ValueError(msg)
    found = await trio.socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    addresses = [format_address(entry[4]) for entry in found]  # type: ignore[arg-type]
    return list(dict.fromkeys(addresses))
