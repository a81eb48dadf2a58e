"""Links between devices: dialling one, and messages over the main connection.

After the TLS handshake the server sends one byte, the greeting, when it accepts the client. In TLS 1.3 a client is done
before the server has looked at its certificate; without the greeting a refusal would surface later, somewhere
else, and look like any broken connection.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from p2psyncd.core.ids import DeviceId
from p2psyncd.errors import AddressNotAllowed, DeviceRefused, P2psyncError, RemoteProtocolError
from p2psyncd.net.addresses import Address, parse_address
from p2psyncd.net.identity import Identity, device_of_certificate
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream, tune_socket
from p2psyncd.net.tls import PAIRING_ALPN, client_context, is_refusal, stranger_context
from p2psyncd.wire.frames import FRAME_BYTES_MAX, FrameDecoder, encode_frame, encode_frames

__all__ = ["GREETING", "Link", "dial", "dial_first", "dial_stranger", "first_connected"]

# ASCII "acknowledge".
GREETING = b"\x06"
# RFC 8305 (happy eyeballs): long enough for a LAN to answer.
STAGGER_S = 0.25


class Link:
    """Whole messages over one connection.

    Args:
        stream: Connected and, on the main protocol, authenticated.
        inbound: Whether the other side dialled.
        frame_bytes_max: The longest payload accepted.
    """

    def __init__(
        self, stream: TlsStream, *, inbound: bool = False, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> None:
        self.stream = stream
        self.inbound = inbound
        self.remote = stream.remote
        self.decoder = FrameDecoder(frame_bytes_max)
        self.received: deque[bytes] = deque()

    @property
    def peer(self) -> DeviceId:
        """The device at the other end.

        Raises:
            RemoteProtocolError: It is a stranger.
        """
        if self.stream.peer_device is None:
            msg = "a stranger on a connection for paired devices"
            raise RemoteProtocolError(msg)
        return self.stream.peer_device

    async def send(self, payload: bytes) -> None:
        """Send one message.

        Raises:
            trio.BrokenResourceError: The connection is gone.
            trio.ClosedResourceError: This side closed it.
        """
        await self.stream.send_all(encode_frame(payload))

    async def send_many(self, payloads: list[bytes]) -> None:
        """Send several messages in one go; raises what `send` raises."""
        await self.stream.send_all(encode_frames(payloads))

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            trio.EndOfChannel: The other side closed, between two messages.
            trio.BrokenResourceError: The connection is gone, or ended inside a message.
            trio.ClosedResourceError: This side closed it.
            RemoteProtocolError: A message is too long.
        """
        while not self.received:
            data = await self.stream.receive_some()
            if not data:
                if self.decoder.midway:
                    msg = "the connection ended inside a message"
                    raise trio.BrokenResourceError(msg)
                raise trio.EndOfChannel
            self.received.extend(self.decoder.feed(data))
        return self.received.popleft()

    async def aclose(self) -> None:
        """Close the connection."""
        await self.stream.aclose()


async def dial(
    address: str,
    identity: Identity,
    peer_certificate: bytes,
    alpn: str,
    *,
    timeout_s: float,
    policy: AddressPolicy,
) -> TlsStream:
    """Connect to a paired device and return the stream once it has accepted this one.

    Args:
        address: "ip:port"; IPv6 in brackets, link-local with `%interface`.
        identity: This device.
        peer_certificate: DER; exactly this one must answer.
        alpn: `MAIN_ALPN` or `CONTENT_ALPN`.
        timeout_s: For everything until the greeting.
        policy: Which addresses may be dialled.

    Raises:
        OSError: Nobody answers, or somebody else does (`ssl.SSLError`); `TimeoutError` after `timeout_s`.
        DeviceRefused: The other device does not know this one (any more).
        AddressNotAllowed: The address is not a local one.
    """
    context = client_context(identity, peer_certificate, alpn)
    stream = await connect(address, context, alpn, timeout_s=timeout_s, policy=policy)
    if stream.peer_certificate != peer_certificate:
        await stream.aclose()
        msg = "another certificate than the pinned one"
        raise ssl.SSLError(msg)
    stream.peer_device = device_of_certificate(peer_certificate)
    return stream


async def dial_stranger(address: str, *, timeout_s: float, policy: AddressPolicy) -> TlsStream:
    """Connect to a device that is not paired yet, for pairing; its certificate is taken as it is.

    Raises:
        OSError: Nobody answers.
        AddressNotAllowed: The address is not a local one.
    """
    return await connect(address, stranger_context(), PAIRING_ALPN, timeout_s=timeout_s, policy=policy)


async def dial_first(
    addresses: Sequence[str],
    identity: Identity,
    peer_certificate: bytes,
    alpn: str,
    *,
    timeout_s: float,
    policy: AddressPolicy,
) -> TlsStream:
    """Dial all addresses of a paired device, one shortly after the other, and return the first that answers.

    Raises what `dial` raises: `DeviceRefused` if any address refused, else the last failure.
    """

    async def one(address: str) -> TlsStream:
        return await dial(address, identity, peer_certificate, alpn, timeout_s=timeout_s, policy=policy)

    return (await first_connected(addresses, one))[1]


async def first_connected(
    addresses: Sequence[str], attempt: Callable[[str], Awaitable[TlsStream]], *, stagger_s: float = STAGGER_S
) -> tuple[str, TlsStream]:
    """Return the first address that connects, and its stream; a dead address costs `stagger_s`, not its timeout.

    Raises:
        OSError: None did, or there is none; the last failure.
        P2psyncError: One was refused on purpose, which says more than that others did not answer.
    """
    failures: list[OSError | P2psyncError] = []
    winners: list[tuple[str, TlsStream]] = []

    async def run(address: str, nursery: trio.Nursery, over: trio.Event) -> None:
        try:
            stream = await attempt(address)
        except (OSError, P2psyncError) as error:
            failures.append(error)
            over.set()
            return
        if winners:
            await stream.aclose()
            return
        winners.append((address, stream))
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for address in addresses:
            over = trio.Event()
            nursery.start_soon(run, address, nursery, over)
            with trio.move_on_after(stagger_s):
                await over.wait()
    if winners:
        return winners[0]
    raise next(
        (error for error in failures if isinstance(error, P2psyncError)),
        failures[-1] if failures else OSError(errno.EDESTADDRREQ, "no address to dial"),
    )


async def connect(
    address: str, context: ssl.SSLContext, alpn: str, *, timeout_s: float, policy: AddressPolicy
) -> TlsStream:
    """Return a stream whose server has sent its greeting."""
    try:
        target = parse_address(address)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from error
    if not policy.permits(target.ip):
        raise AddressNotAllowed(address)
    try:
        with trio.fail_after(timeout_s):
            raw = await connect_socket(target)
            stream = await TlsStream.handshake(raw, context, server_side=False)
            await expect_greeting(stream, alpn)
            return stream
    except trio.TooSlowError:
        msg = f"{address} did not answer in {timeout_s:g} s"
        raise TimeoutError(errno.ETIMEDOUT, msg) from None


async def connect_socket(target: Address) -> socket.socket:
    """Return a connected non-blocking socket."""
    raw = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        tune_socket(raw)
        check(raw.connect_ex(target.sockaddr), errno.EINPROGRESS)
        await trio.lowlevel.wait_writable(raw)
        check(raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    except BaseException:
        trio.lowlevel.notify_closing(raw)
        raw.close()
        raise
    return raw


def check(code: int, *fine: int) -> None:
    """Raise the OSError that an errno stands for."""
    if code and code not in fine:
        raise OSError(code, os.strerror(code))


async def expect_greeting(stream: TlsStream, alpn: str) -> None:
    """Return when the server has accepted this client; close the stream otherwise."""
    accepted = False
    try:
        greeting = await stream.receive_some(len(GREETING))
        accepted = greeting == GREETING and stream.alpn == alpn
    except trio.BrokenResourceError as error:
        if is_refusal(error.__cause__):
            raise DeviceRefused(stream.remote) from error
        raise ConnectionResetError(errno.ECONNRESET, f"{stream.remote} broke off: {error}") from error
    finally:
        if not accepted:
            with trio.CancelScope(shield=True):
                await stream.aclose()
    if not accepted:
        raise ConnectionResetError(errno.ECONNRESET, f"{stream.remote} closed without accepting this device")
