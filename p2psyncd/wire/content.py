"""The messages of a content connection, `p2psync-content/1`: one side asks, the other answers.

Requests are framed CBOR lists. An answer to `Blobs` is a run of framed lists, the last one flagged;
an answer to `Ranges` is one framed list and then the bytes themselves, unframed: nothing is copied
for their sake. docs/protocol.md lists the same in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from p2psyncd.core.ids import SHARE_ID_BYTES, ShareId
from p2psyncd.core.item import DIGEST_BYTES
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.codec import decode, encode, take_bool, take_bytes, take_int, take_list

__all__ = [
    "BLOBS_ASKED_MAX",
    "BLOB_BYTES_MAX",
    "CHUNK_ENTRY_BYTES",
    "BlobAnswer",
    "BlobRequest",
    "ChunkAnswer",
    "ChunkRequest",
    "ContentRequest",
    "RangeAnswer",
    "RangeRequest",
    "decode_request",
]

# Contents up to this size travel many to a frame; above it, in ranges and with chunk lists.
BLOB_BYTES_MAX = 256 * 1024
BLOBS_ASKED_MAX = 1024
RANGES_MAX = 65_536
# 16 bytes of BLAKE3 and a length of 4 bytes; chunks are at least 16 KiB but for a file's last.
CHUNK_ENTRY_BYTES = 20
OFFSET_MAX = 2**62


def take_digest(value: object) -> bytes:
    """Return a checked content digest."""
    return take_bytes(value, "digest", least=DIGEST_BYTES, most=DIGEST_BYTES)


def take_share(value: object) -> ShareId:
    """Return a checked share ID."""
    return ShareId(take_bytes(value, "share", least=SHARE_ID_BYTES, most=SHARE_ID_BYTES))


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """Asks for whole small contents."""

    TYPE: ClassVar[int] = 0
    share: ShareId
    digests: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the payload."""
        return encode([self.TYPE, self.share, list(self.digests)])

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> BlobRequest:
        """Return the checked request."""
        digests = take_list(fields[1], "digests", most=BLOBS_ASKED_MAX)
        return cls(take_share(fields[0]), tuple(take_digest(d) for d in digests))


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """Asks for the chunk list of a large content."""

    TYPE: ClassVar[int] = 1
    share: ShareId
    digest: bytes

    def encode(self) -> bytes:
        """Return the payload."""
        return encode([self.TYPE, self.share, self.digest])

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> ChunkRequest:
        """Return the checked request."""
        return cls(take_share(fields[0]), take_digest(fields[1]))


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """Asks for parts of a large content: (offset, length), in order."""

    TYPE: ClassVar[int] = 2
    share: ShareId
    digest: bytes
    ranges: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        """Return the payload."""
        return encode([self.TYPE, self.share, self.digest, [list(r) for r in self.ranges]])

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> RangeRequest:
        """Return the checked request."""
        ranges = []
        for row in take_list(fields[2], "ranges", most=RANGES_MAX):
            offset, length = take_list(row, "range", least=2, most=2)
            ranges.append(
                (take_int(offset, "offset", most=OFFSET_MAX), take_int(length, "length", most=OFFSET_MAX))
            )
        return cls(take_share(fields[0]), take_digest(fields[1]), tuple(ranges))


ContentRequest = BlobRequest | ChunkRequest | RangeRequest


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """Some of the contents asked for; None: not here."""

    blobs: tuple[tuple[bytes, bytes | None], ...]
    last: bool

    def encode(self) -> bytes:
        """Return the payload."""
        return encode([[list(blob) for blob in self.blobs], self.last])

    @classmethod
    def decode(cls, payload: bytes) -> BlobAnswer:
        """Return the checked answer."""
        rows, last = take_list(decode(payload), "blobs", least=2, most=8)[:2]
        blobs = []
        for row in take_list(rows, "blobs", most=BLOBS_ASKED_MAX):
            digest, data = take_list(row, "blob", least=2, most=2)
            if data is not None:
                take_bytes(data, "blob", most=BLOB_BYTES_MAX)
            blobs.append((take_digest(digest), data))
        return cls(tuple(blobs), take_bool(last, "last"))


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """A packed chunk list; None: the content is not here."""

    chunks: bytes | None

    def encode(self) -> bytes:
        """Return the payload."""
        return encode([self.chunks])

    @classmethod
    def decode(cls, payload: bytes) -> ChunkAnswer:
        """Return the checked answer."""
        (chunks,) = take_list(decode(payload), "chunks", least=1, most=8)[:1]
        if chunks is not None:
            take_bytes(chunks, "chunks", most=64 * 1024 * 1024)
            if len(chunks) % CHUNK_ENTRY_BYTES:
                raise RemoteProtocolError("A chunk list has a broken length")
        return cls(chunks)


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """How many bytes follow; fewer than were asked for: the content changed or is not here."""

    size: int

    def encode(self) -> bytes:
        """Return the payload."""
        return encode([self.size])

    @classmethod
    def decode(cls, payload: bytes) -> RangeAnswer:
        """Return the checked answer."""
        (size,) = take_list(decode(payload), "size", least=1, most=8)[:1]
        return cls(take_int(size, "size"))


PARSERS = {cls.TYPE: cls.parse for cls in (BlobRequest, ChunkRequest, RangeRequest)}


def decode_request(payload: bytes) -> ContentRequest:
    """Return the checked request of a payload.

    Raises:
        RemoteProtocolError: It is none that this version knows.
    """
    fields = take_list(decode(payload), "request", least=1, most=64)
    parse = PARSERS.get(take_int(fields[0], "type"))
    if parse is None:
        raise RemoteProtocolError(f"A content request has an unknown type ({fields[0]})")
    try:
        request: ContentRequest = parse(fields[1:])
    except IndexError as error:
        raise RemoteProtocolError("A content request lacks fields") from error
    return request
