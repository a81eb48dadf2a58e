"""Content connections with peers: dialled by whoever dialled the main one, whoever asks on them."""

from __future__ import annotations

import errno
import logging
import ssl
from collections.abc import Callable, Mapping

import trio

from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.daemon import fetcher
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.peerlink import PeerLink
from p2psyncd.daemon.peerstate import PeerState
from p2psyncd.daemon.signal import Signal, first_of
from p2psyncd.daemon.transfer import Held, Provider
from p2psyncd.errors import P2psyncError
from p2psyncd.net import transport
from p2psyncd.net.identity import Identity
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.tls import CONTENT_ALPN

__all__ = ["CONTENTS_WAITING_MAX", "DIALLER_ANSWERS", "DIALLER_ASKS", "Contents"]

log = logging.getLogger(__name__)

DIAL_S = 3.0
CONTENT_DIAL_S = 10.0
# Content connections that a peer has dialled and nobody has taken yet: it dials one when it is asked to.
CONTENTS_WAITING_MAX = 4
# First byte of a content connection, sent by the side that dialled: who will ask on it.
DIALLER_ASKS, DIALLER_ANSWERS = b"A", b"B"


class Contents:
    """See the top of the file.

    Args:
        identity: This device.
        policy: Which addresses may be dialled.
        peers: The paired devices.
        changed: Fires when a device connects or disconnects.
        fetches_from: The shares that have a session on a connection now.
    """

    def __init__(
        self,
        identity: Identity,
        policy: AddressPolicy,
        peers: Mapping[DeviceId, PeerState],
        changed: Signal,
        fetches_from: Callable[[PeerLink], Mapping[ShareId, tuple[Applier, Held]]],
    ) -> None:
        self.identity = identity
        self.policy = policy
        self.peers = peers
        self.changed = changed
        self.fetches_from = fetches_from

    async def open(self, state: PeerState, link: PeerLink) -> ssl.SSLSocket:
        """Open a content connection on which we ask; the side that dialled the link dials it.

        Raises:
            OSError: There is none to be had.
        """
        if not link.inbound:
            return (await self.dial(state, link, DIALLER_ASKS)).detach_blocking()
        link.ask_content()
        with trio.move_on_after(CONTENT_DIAL_S):
            while not state.contents:
                event = state.content_came.event
                await event.wait()
            return state.contents.pop(0)
        raise OSError("the peer opened no content connection")

    async def dial(self, state: PeerState, link: PeerLink, role: bytes) -> TlsStream:
        """Dial a content connection to where the link goes, and say who will ask on it.

        Raises:
            OSError: Nobody answers there, or the peer refuses (it has removed this device just now).
        """
        try:
            stream = await transport.dial(
                link.address,
                self.identity,
                state.record.certificate,
                CONTENT_ALPN,
                timeout_s=DIAL_S,
                policy=self.policy,
            )
        except P2psyncError as refused:
            raise ConnectionRefusedError(errno.ECONNREFUSED, refused.message) from refused
        opened = False
        try:
            await stream.send_all(role)
            opened = True
        except trio.BrokenResourceError as error:
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        finally:
            if not opened:
                with trio.move_on_after(1, shield=True):
                    await stream.aclose()
        return stream

    async def answer(self, device: DeviceId) -> None:
        """Dial a content connection and answer on it."""
        state = self.peers.get(device)
        if state is None or state.link is None:
            return
        try:
            stream = await self.dial(state, state.link, DIALLER_ANSWERS)
        except OSError as error:
            log.info("content_dial_failed peer=%s error=%r", state.record.name, error)
            return
        await self.serve(state, stream)

    async def accept(self, stream: TlsStream) -> None:
        """Attend to a content connection that a peer dialled."""
        state = self.peers.get(stream.peer_device) if stream.peer_device is not None else None
        role = b""
        with trio.move_on_after(CONTENT_DIAL_S):
            role = await stream.receive_some(1)
        full = state is not None and len(state.contents) >= CONTENTS_WAITING_MAX
        if state is None or state.link is None or role not in {DIALLER_ASKS, DIALLER_ANSWERS} or full:
            await stream.aclose()
        elif role == DIALLER_ASKS:
            await self.serve(state, stream)
        else:
            state.contents.append(stream.detach_blocking())
            state.content_came.fire()

    async def serve(self, state: PeerState, stream: TlsStream) -> None:
        """Answer a peer's requests until it, or its link, goes away."""
        link = state.link
        if link is None:
            await stream.aclose()
            return
        sock = stream.detach_blocking()
        provider = Provider(lambda: {s: held for s, (_, held) in self.fetches_from(link).items()})
        async with trio.open_nursery() as nursery:

            async def until_gone() -> None:
                while state.link is link:
                    changed = self.changed.event
                    if state.link is link:
                        await first_of([changed])
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_gone)
            await fetcher.serve(sock, provider)
            nursery.cancel_scope.cancel()

    def close_unused(self, state: PeerState) -> None:
        """Close content connections that nobody took."""
        while state.contents:
            state.contents.pop().close()
