"""The port: lets paired devices in, strangers as far as pairing, and everything else not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from p2psyncd.errors import ConfigError, PortTaken, RemoteProtocolError
from p2psyncd.net.addresses import Address, format_address, parse_address, plain_ip
from p2psyncd.net.admission import Admission, Limits, Visit
from p2psyncd.net.identity import Identity, device_of_certificate
from p2psyncd.net.interfaces import InterfaceFilter
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream, tune_socket
from p2psyncd.net.tls import CONTENT_ALPN, MAIN_ALPN, PAIRING_ALPN, ServerContexts, Trust
from p2psyncd.net.transport import GREETING

__all__ = ["Handler", "Listener"]

log = logging.getLogger(__name__)

Handler = Callable[[TlsStream], Awaitable[None]]

BACKLOG = 64
# Port 0 means any, but the same one for all addresses: discovery announces one port.
SAME_PORT_TRIES = 10
# The system is out of descriptors or memory: wait for others to finish.
EXHAUSTED_PAUSE_S = 0.2
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared, not bound)
FAMILY_MISSING = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
CLOSE_S = 3.0
# What a connection may end with without being anybody's mistake here.
NETWORK_ERRORS = (
    OSError,
    RemoteProtocolError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.EndOfChannel,
)


class Listener:
    """Listens on the device's port and hands each connection to the one it is for.

    Args:
        addresses: "ip:port", IPv6 in brackets; port 0 for any. A wildcard of a family that this machine lacks is
            skipped if another address works.
        identity: This device.
        trust: Which certificates are paired now; asked for every connection.
        policy: From where connections are taken.
        on_link: Gets main connections of paired devices; runs as long as the connection does.
        on_content: Gets content connections of paired devices.
        on_pair: Gets connections of strangers who want to pair.
        limits: How much strangers may take.
        only: On which interfaces connections are taken.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        identity: Identity,
        trust: Trust,
        policy: AddressPolicy,
        *,
        on_link: Handler,
        on_content: Handler,
        on_pair: Handler,
        limits: Limits | None = None,
        only: InterfaceFilter | None = None,
    ) -> None:
        self.addresses = [parse_address(address) for address in addresses]
        self.contexts = ServerContexts(identity, trust)
        self.policy = policy
        self.handlers = {MAIN_ALPN: on_link, CONTENT_ALPN: on_content}
        self.on_pair = on_pair
        self.limits = limits or Limits()
        self.admission = Admission(self.limits)
        self.only = only or InterfaceFilter()

    async def run(self, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; started with the bound "ip:port".

        Raises:
            PortTaken: Another program has the port.
            ConfigError: An address is not this machine's, or may not be used.
        """
        with contextlib.ExitStack() as open_sockets:
            sockets = bind_all(self.addresses)
            for bound in sockets:
                open_sockets.callback(bound.close)
                open_sockets.callback(trio.lowlevel.notify_closing, bound)
            async with trio.open_nursery() as nursery:
                for bound in sockets:
                    nursery.start_soon(self.accept_from, bound, nursery)
                task_status.started([format_address(bound.getsockname()) for bound in sockets])

    async def accept_from(self, bound: socket.socket, nursery: trio.Nursery) -> None:
        """Take connections of one address for ever."""
        while True:
            await trio.lowlevel.wait_readable(bound)
            try:
                raw, peer = bound.accept()
            except OSError as error:
                # The connection was gone before we came, or we are out of descriptors; the port itself stays.
                if error.errno in EXHAUSTED:
                    log.warning("accept_failed error=%s", error)
                    await trio.sleep(EXHAUSTED_PAUSE_S)
                continue
            visit = self.admit(raw, peer)
            if visit is None:
                raw.close()
            else:
                nursery.start_soon(self.receive_visitor, raw, visit)

    def admit(self, raw: socket.socket, peer: tuple[str, int]) -> Visit | None:
        """Return a place for a new connection, or None when it is to be closed without a word."""
        try:
            raw.setblocking(False)  # noqa: FBT003  (the library's signature)
            tune_socket(raw)
            wanted = self.policy.permits(peer[0]) and self.only.accepts_local(raw.getsockname()[0])
        except OSError:
            return None
        if not wanted:
            log.info("connection_refused remote=%s reason=address_not_allowed", peer[0])
            return None
        visit = self.admission.enter(str(plain_ip(peer[0])))
        if visit is None:
            log.info("connection_refused remote=%s reason=too_many", peer[0])
        return visit

    async def receive_visitor(self, raw: socket.socket, visit: Visit) -> None:
        """Find out who it is, and hand the connection on."""
        stream: TlsStream | None = None
        try:
            with visit.scope:
                stream = await self.greet(raw, visit)
                if stream is not None and stream.alpn == PAIRING_ALPN:
                    # A stranger keeps the place until it has gone.
                    await self.serve_stranger(stream)
                    return
            self.admission.leave(visit)
            if stream is not None and not visit.scope.cancelled_caught:
                await self.handlers[stream.alpn or ""](stream)
        except* NETWORK_ERRORS as group:
            log.info("connection_ended remote=%s errors=%r", visit.ip, group.exceptions)
        finally:
            self.admission.leave(visit)
            if stream is not None:
                with trio.move_on_after(CLOSE_S, shield=True):
                    await stream.aclose()

    async def greet(self, raw: socket.socket, visit: Visit) -> TlsStream | None:
        """Return the stream of a connection that may stay, with the greeting sent; None when it may not."""
        stream: TlsStream | None = None
        accepted = False
        try:
            with trio.move_on_after(self.limits.handshake_s) as patience:
                stream = await TlsStream.handshake(raw, self.contexts.now(), server_side=True)
                reason = self.identify(stream)
                if reason is None:
                    await stream.send_all(GREETING)
                    accepted = True
                    return stream
                log.info("connection_refused remote=%s reason=%s", stream.remote, reason)
            if patience.cancelled_caught:
                log.info("connection_refused remote=%s reason=handshake_timeout", visit.ip)
        except (OSError, trio.BrokenResourceError) as error:
            log.info("connection_refused remote=%s reason=handshake_failed error=%s", visit.ip, error)
        finally:
            if stream is not None and not accepted:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
        return None

    def identify(self, stream: TlsStream) -> str | None:
        """Note which device it is; return why the connection may not stay, or None when it may."""
        certificate = stream.peer_certificate
        if certificate is None:
            return None if stream.alpn == PAIRING_ALPN else "no_certificate"
        if stream.alpn not in self.handlers:
            return "wrong_protocol"
        # Pinned: what TLS let through must be, byte for byte, a certificate that is paired now.
        if not self.contexts.trusts(certificate):
            return "not_paired"
        try:
            stream.peer_device = device_of_certificate(certificate)
        except RemoteProtocolError:
            return "not_a_device"
        return None

    async def serve_stranger(self, stream: TlsStream) -> None:
        """Let a stranger try to pair, for a bounded time."""
        with trio.move_on_after(self.limits.pairing_s):
            await self.on_pair(stream)


def bind_all(addresses: Sequence[Address]) -> list[socket.socket]:
    """Return listening sockets for all addresses, those with port 0 on one common port."""
    if not any(address.port == 0 for address in addresses):
        return bind_each(addresses)
    for attempt in range(SAME_PORT_TRIES):
        try:
            return bind_each(addresses)
        except PortTaken:
            if attempt == SAME_PORT_TRIES - 1:
                raise
    raise AssertionError(addresses)


def bind_each(addresses: Sequence[Address]) -> list[socket.socket]:
    """Return one listening socket an address; all or none."""
    bound: list[socket.socket] = []
    shared_port = 0
    missing = ""
    with contextlib.ExitStack() as undo:
        for address in addresses:
            wanted = Address(ip=address.ip, port=address.port or shared_port)
            try:
                listening = bind(wanted)
            except OSError as error:
                missing = f"cannot listen on {wanted}: {error.strerror}"
                if address.ip in WILDCARDS and error.errno in FAMILY_MISSING:
                    log.info("address_skipped address=%s error=%s", wanted, error)
                    continue
                raise ConfigError(missing) from error
            undo.callback(listening.close)
            bound.append(listening)
            if address.port == 0:
                shared_port = listening.getsockname()[1]
        if not bound:
            raise ConfigError(missing or "no address to listen on")
        undo.pop_all()
    return bound


def bind(address: Address) -> socket.socket:
    """Return a listening non-blocking socket.

    Raises:
        PortTaken: Another program has the port.
        OSError: The address cannot be listened on.
    """
    listening = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # A restart need not wait for the last connections to be forgotten.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            # IPv4 has a socket of its own; without this, one family would take the other's port.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address.sockaddr)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(str(address)) from error
        raise
    return listening
