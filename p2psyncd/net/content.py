"""Content transfer: blocking, in worker threads, on connections of its own.

Blocking `ssl.SSLSocket` moved 1.3 GB/s where trio's stream reached 0.5, so bulk bytes stay out of the
event loop. A connection goes one way: the client asks, the server answers; two requests are under
way at a time so that the server never waits for the next one.
"""

from __future__ import annotations

import select
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from p2psyncd.core.blocks import BLOCK_ENTRY_BYTES, RULE
from p2psyncd.core.ids import ShareId
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.content import (
    BLOB_BYTES_MAX,
    BLOBS_ASKED_MAX,
    CHUNK_ENTRY_BYTES,
    BlobAnswer,
    BlobRequest,
    ChunkAnswer,
    ChunkRequest,
    ContentRequest,
    RangeAnswer,
    RangeRequest,
    decode_request,
)

__all__ = ["ContentClient", "ContentProvider", "Readable", "serve_waiting"]

LENGTH_BYTES = 4
# Lists of chunks are for files up to `RULE.above_bytes` and take 20 MiB at most, lists of blocks 40 MiB.
CHUNK_ANSWER_BYTES_MAX = 65 * 1024 * 1024
# Chunks are no smaller than this, but for a file's last.
CHUNK_BYTES_MIN = 16 * 1024
CHUNK_ANSWER_BYTES_LEAST = 64
REQUEST_BYTES_MAX = 4 * 1024 * 1024
# A frame of blobs is closed once it holds this much.
BLOB_FRAME_BYTES = 512 * 1024
# That, the content that closed it, and the digests of those that are not there.
BLOB_ANSWER_BYTES_MAX = 1024 * 1024
RANGE_STEP_BYTES = 1024 * 1024
REQUESTS_UNDER_WAY = 2
# A request stays small enough that the answer begins to flow at once.
BLOBS_PER_REQUEST = min(256, BLOBS_ASKED_MAX)
# A fourth of what an answering side takes; about 300 KB.
RANGES_PER_REQUEST = 16_384
# A list that is on record no more is made anew while we wait. Slower than any disk that holds huge files.
LISTED_BYTES_S = 50_000_000
LISTING_S_MAX = 86_400


class Readable(Protocol):
    """An opened content; see `sources.source.ContentReader`."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; OSError if there are fewer."""
        ...

    def unchanged(self) -> bool:
        """Return whether what was read is still the content it was opened as."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class ContentProvider(Protocol):
    """Where a server finds contents; called in worker threads."""

    def open(self, share: ShareId, digest: bytes) -> Readable | None:
        """Open a content that this device holds and may give to the asking peer."""
        ...

    def chunk_list(self, share: ShareId, digest: bytes) -> bytes | None:
        """Return the packed chunk list of a content, computing it if need be."""
        ...


def receive_exactly(sock: ssl.SSLSocket, size: int) -> bytearray:
    """Return exactly `size` bytes.

    Raises:
        ConnectionError: The peer closed in between.
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    at = 0
    while at < size:
        got = sock.recv_into(view[at:])
        if got == 0:
            raise ConnectionResetError("the content connection was closed")
        at += got
    return buffer


def send_frame(sock: ssl.SSLSocket, payload: bytes) -> None:
    """Send one framed payload."""
    sock.sendall(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)


def receive_frame(sock: ssl.SSLSocket, limit: int) -> bytes:
    """Return one framed payload.

    Raises:
        RemoteProtocolError: It would be larger than `limit` bytes.
    """
    size = int.from_bytes(receive_exactly(sock, LENGTH_BYTES), "big")
    if size > limit:
        raise RemoteProtocolError(f"A frame of {size} bytes came on a content connection")
    return bytes(receive_exactly(sock, size))


class ContentClient:
    """The asking side of one connection; used by one thread at a time."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.large_bytes = 0
        """What came of large contents, and of the lists of what they are made of."""

    def blobs(self, share: ShareId, digests: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield (digest, content) of small contents as they come; None where the peer has not got it.

        The iterator must be run to its end, or the connection closed.

        Raises:
            RemoteProtocolError: The peer answered what was not asked.
            OSError: The connection broke.
        """
        batches = [digests[at : at + BLOBS_PER_REQUEST] for at in range(0, len(digests), BLOBS_PER_REQUEST)]
        under_way: deque[set[bytes]] = deque()
        waiting = deque(batches)
        while waiting or under_way:
            while waiting and len(under_way) < REQUESTS_UNDER_WAY:
                batch = waiting.popleft()
                send_frame(self.sock, BlobRequest(share, tuple(batch)).encode())
                under_way.append(set(batch))
            asked = under_way[0]
            answer = BlobAnswer.decode(receive_frame(self.sock, BLOB_ANSWER_BYTES_MAX))
            if not answer.blobs and not answer.last:
                raise RemoteProtocolError("An answer brings nothing and does not end")
            for digest, data in answer.blobs:
                if digest not in asked:
                    raise RemoteProtocolError("A content came that was not asked for")
                asked.discard(digest)
                yield digest, data
            if answer.last:
                under_way.popleft()
                for digest in asked:
                    yield digest, None

    def chunk_list(self, share: ShareId, digest: bytes, size: int) -> bytes | None:
        """Return the packed chunk list of a large content of so many bytes; None where the peer has not got it.

        Of a huge one it is the block list, which the caller checks.

        Raises:
            RemoteProtocolError: It is none, or longer than that of such a content can be.
            OSError: The connection broke.
        """
        send_frame(self.sock, ChunkRequest(share, digest).encode())
        if RULE.applies(size):
            list_bytes_max = BLOCK_ENTRY_BYTES * RULE.blocks(size)
        else:
            list_bytes_max = CHUNK_ENTRY_BYTES * (size // CHUNK_BYTES_MIN + 1)
        most = min(CHUNK_ANSWER_BYTES_MAX, CHUNK_ANSWER_BYTES_LEAST + list_bytes_max)
        patience_s = self.sock.gettimeout()
        if patience_s is not None:
            self.sock.settimeout(patience_s + min(size / LISTED_BYTES_S, LISTING_S_MAX))
        try:
            payload = receive_frame(self.sock, most)
        finally:
            self.sock.settimeout(patience_s)
        self.large_bytes += len(payload)
        return ChunkAnswer.decode(payload).chunks

    def ranges(
        self, share: ShareId, digest: bytes, ranges: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield (offset, bytes) of parts of a large content, in order; the view is valid until the next.

        Ends early, after whole steps, where the peer has not got it (any more).
        """
        buffer = memoryview(bytearray(RANGE_STEP_BYTES))
        for number, (offset, length) in enumerate(ranges):
            if number % RANGES_PER_REQUEST == 0:
                some = tuple(ranges[number : number + RANGES_PER_REQUEST])
                send_frame(self.sock, RangeRequest(share, digest, some).encode())
            at = 0
            while at < length:
                step = min(RANGE_STEP_BYTES, length - at)
                if RangeAnswer.decode(receive_frame(self.sock, REQUEST_BYTES_MAX)).size != step:
                    return
                part = buffer[:step]
                got = 0
                while got < step:
                    more = self.sock.recv_into(part[got:])
                    if more == 0:
                        raise ConnectionResetError("the content connection was closed")
                    got += more
                self.large_bytes += step
                yield offset + at, part
                at += step


def answer_blobs(sock: ssl.SSLSocket, provider: ContentProvider, request: BlobRequest) -> None:
    """Send the small contents of a request."""
    held: list[tuple[bytes, bytes | None]] = []
    size = 0
    for digest in request.digests:
        data: bytes | None = None
        reader = provider.open(request.share, digest)
        if reader is not None:
            try:
                if reader.size <= BLOB_BYTES_MAX:
                    data = reader.read_at(0, reader.size)
                    if not reader.unchanged():
                        data = None
            except OSError:
                data = None  # shorter than a moment ago: being edited; the peer asks again or elsewhere
            finally:
                reader.close()
        held.append((digest, data))
        size += len(data or b"")
        if size >= BLOB_FRAME_BYTES:
            send_frame(sock, BlobAnswer(tuple(held), last=False).encode())
            held, size = [], 0
    send_frame(sock, BlobAnswer(tuple(held), last=True).encode())


def answer_ranges(sock: ssl.SSLSocket, provider: ContentProvider, request: RangeRequest) -> None:
    """Send the parts of a request, in steps; a step of size 0 ends the answer early."""
    reader = provider.open(request.share, request.digest)
    gone = RangeAnswer(0).encode()
    if reader is None:
        send_frame(sock, gone)
        return
    try:
        for offset, length in request.ranges:
            at = 0
            while at < length:
                step = min(RANGE_STEP_BYTES, length - at)
                try:
                    data = reader.read_at(offset + at, step)
                except OSError:
                    send_frame(sock, gone)
                    return
                header = RangeAnswer(step).encode()
                sock.sendall(len(header).to_bytes(LENGTH_BYTES, "big") + header)
                sock.sendall(data)
                at += step
    finally:
        reader.close()


def answer(sock: ssl.SSLSocket, provider: ContentProvider, request: ContentRequest) -> None:
    """Answer one request."""
    match request:
        case BlobRequest():
            answer_blobs(sock, provider, request)
        case ChunkRequest():
            chunks = provider.chunk_list(request.share, request.digest)
            send_frame(sock, ChunkAnswer(chunks).encode())
        case RangeRequest():
            answer_ranges(sock, provider, request)


def serve_waiting(sock: ssl.SSLSocket, provider: ContentProvider) -> bool:
    """Answer the requests that have come; return False once the peer has closed.

    Call it in a worker thread when the socket is readable.

    Raises:
        RemoteProtocolError: A request is not as it must be.
        OSError: The connection broke.
    """
    while True:
        first = sock.recv(LENGTH_BYTES)
        if not first:
            return False
        if len(first) < LENGTH_BYTES:
            first += receive_exactly(sock, LENGTH_BYTES - len(first))
        size = int.from_bytes(first, "big")
        if size > REQUEST_BYTES_MAX:
            raise RemoteProtocolError(f"A request of {size} bytes came on a content connection")
        answer(sock, provider, decode_request(bytes(receive_exactly(sock, size))))
        if not sock.pending() and not select.select([sock], [], [], 0)[0]:
            return True
