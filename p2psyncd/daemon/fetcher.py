"""Fetches what this device's shares want from one peer, and serves what the peer wants from us."""

from __future__ import annotations

import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import trio

from p2psyncd.core.blocks import RULE
from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.daemon.applier import Applier, Wanted
from p2psyncd.daemon.signal import first_of
from p2psyncd.daemon.transfer import CannotStage, Held, NoRoom, Provider, fetch_large, fetch_small
from p2psyncd.errors import P2psyncError, RemoteProtocolError
from p2psyncd.net.content import ContentClient, serve_waiting
from p2psyncd.wire.content import BLOB_BYTES_MAX

__all__ = ["Fetcher", "serve"]

log = logging.getLogger(__name__)
T = TypeVar("T")

# Content threads of all peers together: they wait for the network most of the time.
CONTENT_THREADS = trio.CapacityLimiter(32)
RETRY_S = 0.5
# What this device could not keep (its disk is full) is asked for again after this long.
STAGING_RETRY_S = 10.0
# A peer that stops in the middle of an answer is given up after this long.
STALLED_S = 60.0
# Nor may it drip: what it was asked for could come from another peer meanwhile. Slower than the worst Wi-Fi.
SLOWEST_BYTES_S = 64 * 1024


async def in_thread(sock: ssl.SSLSocket, call: Callable[[], T]) -> T:
    """Run a blocking use of a socket; when cancelled, shut the socket down so that the thread returns.

    Raises what `call` raises, and not in a group.
    """

    async def shut_down_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not finished:
                shut_down(sock)

    finished = False
    failure: Exception | None = None
    results: list[T] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shut_down_when_cancelled)
        try:
            results.append(await trio.to_thread.run_sync(call, limiter=CONTENT_THREADS))
        except (OSError, P2psyncError, CannotStage) as error:
            failure = error
        finally:
            finished = True
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return results[0]


async def within(patience_s: float, call: Callable[[], Awaitable[T]]) -> T:
    """Return what a peer does in time.

    Raises:
        RemoteProtocolError: It took longer.
    """
    with trio.move_on_after(patience_s):
        return await call()
    raise RemoteProtocolError(f"Contents did not come in {patience_s:.0f} s")


def shut_down(sock: ssl.SSLSocket) -> None:
    """Wake up a thread that waits on a socket."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


async def serve(sock: ssl.SSLSocket, provider: Provider) -> None:
    """Answer a peer's requests on one content connection until it closes."""
    sock.settimeout(STALLED_S)
    try:
        more = True
        while more:
            if not sock.pending():
                await trio.lowlevel.wait_readable(sock)
            more = await in_thread(sock, lambda: serve_waiting(sock, provider))
    except (OSError, P2psyncError) as error:
        log.info("content_connection_ended error=%r", error)
    finally:
        sock.close()


class Fetcher:
    """The task that asks one peer for what our shares want."""

    def __init__(
        self,
        peer: DeviceId,
        name: str,
        shares: Callable[[], Mapping[ShareId, tuple[Applier, Held]]],
        connect: Callable[[], Awaitable[ssl.SSLSocket]],
    ) -> None:
        """Begin.

        Args:
            peer: Whom to ask.
            name: For the log.
            shares: Returns the shares that have a session with the peer now.
            connect: Opens a content connection on which we ask; raises OSError.
        """
        self.peer = peer
        self.name = name
        self.shares = shares
        self.connect = connect
        self.sock: ssl.SSLSocket | None = None
        self.wake = trio.Event()
        self.not_before: dict[ShareId, float] = {}
        """Shares that rest until this moment of trio's clock."""
        self.resting: dict[bytes, float] = {}
        """Contents that there was no room for: they rest, and what is smaller may come."""

    def progressed(self) -> None:
        """Note that the peer (or a session with it) got further."""
        for applier, _ in self.shares().values():
            applier.progressed(self.peer)
        self.wake.set()

    async def run(self) -> None:
        """Fetch, for as long as the peer is connected."""
        try:
            while True:
                self.wake = trio.Event()
                shares = self.shares()
                events = [applier.work.event for applier, _ in shares.values()]
                busy = False
                now = trio.current_time()
                self.not_before = {share: at for share, at in self.not_before.items() if at > now}
                self.resting = {digest: at for digest, at in self.resting.items() if at > now}
                for share, (applier, held) in shares.items():
                    if share in self.not_before:
                        continue
                    batch = applier.take_batch(self.peer, large=BLOB_BYTES_MAX, resting=self.resting)
                    if batch:
                        busy = True
                        await self.fetch(share, applier, held, batch)
                if not busy:
                    until = min([*self.not_before.values(), *self.resting.values()], default=math.inf)
                    with trio.move_on_at(until):
                        await first_of([*events, self.wake])
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection: what is under way on it will not be read."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    async def fetch(self, share: ShareId, applier: Applier, held: Held, batch: list[Wanted]) -> None:
        """Fetch one batch; what does not come is given back."""
        applier.fetching += 1
        try:
            if self.sock is None:
                self.sock = await self.connect()
                self.sock.settimeout(STALLED_S)
            sock = self.sock
            missing = await within(
                STALLED_S + sum(wanted.size for wanted in batch) / SLOWEST_BYTES_S,
                lambda: in_thread(sock, lambda: self.fetch_blocking(sock, share, applier, held, batch)),
            )
        except CannotStage as trouble:
            text = str(trouble)
            if text not in applier.failures.values():
                log.warning("staging_failed share=%s error=%s", share.hex()[:8], text)
            retry_at = trio.current_time() + STAGING_RETRY_S
            if isinstance(trouble, NoRoom):
                self.resting.update((wanted.digest, retry_at) for wanted in batch)
            else:
                self.hang_up()
                self.not_before[share] = retry_at
            applier.failures.update((one.item.key, text) for wanted in batch for one in wanted.pending)
            applier.release(self.peer)
            applier.replica.signal.fire()
        except (OSError, P2psyncError) as error:
            log.info("fetch_failed peer=%s error=%r", self.name, error)
            self.hang_up()
            applier.release(self.peer)
            if isinstance(error, RemoteProtocolError):
                applier.missing(self.peer, [wanted.digest for wanted in batch])
            await trio.sleep(RETRY_S)
        except BaseException:
            # Cancelled: the session may be gone from `shares` by now, and nobody else would give it back.
            applier.release(self.peer)
            raise
        else:
            applier.missing(self.peer, missing)
        finally:
            applier.fetching -= 1
            applier.poke.set()

    def fetch_blocking(
        self, sock: ssl.SSLSocket, share: ShareId, applier: Applier, held: Held, batch: list[Wanted]
    ) -> list[bytes]:
        """Fetch a batch in a worker thread; return the digests that the peer has not got."""

        def note(digests: list[bytes], travelled: int | None = None) -> None:
            trio.from_thread.run_sync(applier.arrived, digests, travelled)

        # How much of a huge content is no hole is known, and looked at, once its block list has come.
        if not held.has_room(sum(wanted.size for wanted in batch if not RULE.applies(wanted.size))):
            raise NoRoom("The disk is nearly full; it is fetched when there is room")
        client = ContentClient(sock)
        first = batch[0]
        if first.size > BLOB_BYTES_MAX:
            if not fetch_large(
                client, share, first.digest, size=first.size, held=held, pending=first.pending
            ):
                return [first.digest]
            note([first.digest], client.large_bytes)
            return []
        return fetch_small(client, share, [wanted.digest for wanted in batch], held.source, note)
