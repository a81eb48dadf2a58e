"""Fetching contents from one peer and giving ours to it; everything here blocks, in worker threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from p2psyncd.core.blocks import RULE, BlockRule, check_block_list, data_blocks
from p2psyncd.core.ids import ShareId
from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.net.content import ContentClient, Readable
from p2psyncd.sources.source import ContentReader, ContentWriter
from p2psyncd.wire.content import CHUNK_ENTRY_BYTES

__all__ = ["CannotStage", "Contents", "Held", "NoRoom", "Provider", "Sent", "fetch_large", "fetch_small"]

CHUNK_HASH_BYTES = 16
# Tell the applier after this many small contents, so that applying overlaps with fetching.
STAGED_PER_NOTE = 250
# A block of ours is compared in memory. Those of files above 64 TiB are larger: these are fetched whole.
COMPARED_BYTES_MAX = 64 * 1024 * 1024


class CannotStage(Exception):
    """What came cannot be kept on this device (its disk is full, say): no peer is to blame."""


class NoRoom(CannotStage):
    """What was to come is larger than what is left of the disk; what is smaller may still fit."""


class Contents(Protocol):
    """Where contents are staged and read; a `Source` is one."""

    def reader(self, stored: Stored) -> ContentReader | None: ...  # noqa: D102  (see `sources.source.Source`)

    def writer(self, digest: bytes, size: int) -> ContentWriter: ...  # noqa: D102

    def put_content(self, digest: bytes, data: bytes) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Held:
    """What a peer may be given of one share, and how to find it; the calls block."""

    with_digest: Callable[[bytes], list[Stored]]
    chunk_list: Callable[[bytes], bytes | None]
    source: Contents
    chunker: Callable[[ContentReader], bytes]
    sent: Callable[[int], None]
    """Counts a content that was given away, by the bytes that were read of it."""
    has_room: Callable[[int], bool]
    """Whether the disk has room for so many bytes more."""


class Sent:
    """Counts what peers were given; several threads count."""

    def __init__(self) -> None:
        self.items = 0
        self.size = 0
        self.lock = threading.Lock()

    def count(self, size: int) -> None:
        """Add one content of so many bytes."""
        with self.lock:
            self.items += 1
            self.size += size


class Given:
    """A content that is being given to a peer, and how much of it was."""

    def __init__(self, reader: ContentReader, sent: Callable[[int], None]) -> None:
        self.reader = reader
        self.size = reader.size
        self.unchanged = reader.unchanged
        self.sent = sent
        self.read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; OSError if there are fewer."""
        self.read += length
        return self.reader.read_at(offset, length)

    def close(self) -> None:
        """Release it, and count it."""
        self.reader.close()
        self.sent(self.read)


class Provider:
    """Finds the contents that a peer asks for: only in shares that it is a member of."""

    def __init__(self, shares: Callable[[], Mapping[ShareId, Held]]) -> None:
        self.shares = shares

    def open(self, share: ShareId, digest: bytes) -> Readable | None:
        """Open a content; None if the share is none of the peer's or holds no such content now."""
        held = self.shares().get(share)
        reader = None if held is None else self.reader(held, digest)
        return None if held is None or reader is None else Given(reader, held.sent)

    def reader(self, held: Held, digest: bytes) -> ContentReader | None:
        """Open a content of a share."""
        for stored in held.with_digest(digest):
            reader = held.source.reader(stored)
            if reader is not None:
                return reader
        return None

    def chunk_list(self, share: ShareId, digest: bytes) -> bytes | None:
        """Return a content's packed chunk list, computed now if it is not on record."""
        held = self.shares().get(share)
        if held is None:
            return None
        known = held.chunk_list(digest)
        if known is not None:
            return known
        reader = self.reader(held, digest)
        if reader is None:
            return None
        try:
            chunks = held.chunker(reader)
            return chunks if reader.unchanged() else None
        except OSError:
            return None  # shorter than a moment ago: being edited
        finally:
            reader.close()


class KeptWriter:
    """A writer whose troubles are told from the connection's."""

    def __init__(self, writer: ContentWriter) -> None:
        self.writer = writer
        self.resume_at = writer.resume_at
        self.suspend = writer.suspend
        self.abandon = writer.abandon

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset; CannotStage if that fails."""
        try:
            self.writer.write_at(offset, data)
        except OSError as error:
            raise CannotStage(error.strerror or str(error)) from error

    def leave_zeros(self, end: int) -> None:
        """Note that there are only zeros up to `end`."""
        self.writer.leave_zeros(end)

    def commit(self) -> None:
        """Verify the whole and stage it; CannotStage if that fails."""
        try:
            self.writer.commit()
        except OSError as error:
            raise CannotStage(error.strerror or str(error)) from error


def fetch_small(
    client: ContentClient,
    share: ShareId,
    digests: Sequence[bytes],
    source: Contents,
    note: Callable[[list[bytes]], None],
) -> list[bytes]:
    """Fetch small contents into staging; return the digests that the peer has not got.

    Args:
        client: The connection.
        share: Whose contents.
        digests: Which.
        source: Where they go.
        note: Told now and then which are staged.

    Raises:
        CannotStage: They cannot be written here.
        RemoteProtocolError, OSError: The peer, or the connection to it, failed.
    """
    missing: list[bytes] = []
    staged: list[bytes] = []
    for digest, data in client.blobs(share, digests):
        if data is None:
            missing.append(digest)
            continue
        try:
            source.put_content(digest, data)
        except OSError as error:
            raise CannotStage(error.strerror or str(error)) from error
        staged.append(digest)
        if len(staged) >= STAGED_PER_NOTE:
            note(staged)
            staged = []
    if staged:
        note(staged)
    return missing


def unpack_chunks(packed: bytes) -> list[tuple[bytes, int]]:
    """Return (hash, length) of each chunk of a packed list."""
    return [
        (
            packed[at : at + CHUNK_HASH_BYTES],
            int.from_bytes(packed[at + CHUNK_HASH_BYTES : at + CHUNK_ENTRY_BYTES], "big"),
        )
        for at in range(0, len(packed), CHUNK_ENTRY_BYTES)
    ]


def base_of(pending: Sequence[Pending]) -> Stored | None:
    """Return an applied file that a wanted content is about to replace: likely much like it."""
    for one in pending:
        if one.base is not None and one.base.item.kind is Kind.FILE and one.base.state:
            return one.base
    return None


def copy_known_chunks(
    chunks: Sequence[tuple[bytes, int]],
    base_chunks: Sequence[tuple[bytes, int]],
    reader: ContentReader,
    writer: ContentWriter,
) -> list[tuple[int, int]]:
    """Copy the chunks that the base has; return the ranges (offset, length) that must be fetched."""
    places: dict[bytes, tuple[int, int]] = {}
    at = 0
    for digest, length in base_chunks:
        places.setdefault(digest, (at, length))
        at += length
    ranges: list[tuple[int, int]] = []
    at = 0
    for digest, length in chunks:
        place = places.get(digest)
        copied = False
        if place is not None and place[1] == length:
            try:
                data = reader.read_at(place[0], length)
            except OSError:
                data = b""  # the base shrank under our hands: fetch the chunk
            if blake3(data).digest(length=CHUNK_HASH_BYTES) == digest:
                writer.write_at(at, data)
                copied = True
        if not copied:
            if ranges and sum(ranges[-1]) == at:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
            else:
                ranges.append((at, length))
        at += length
    return ranges


def chunks_here(held: Held, base: Stored, reader: ContentReader) -> bytes | None:
    """Return the packed chunk list of a file of ours; None if it is being edited."""
    known = held.chunk_list(base.item.digest)
    if known is not None:
        return known
    try:
        return held.chunker(reader)
    except OSError:
        return None


def plan_ranges(
    client: ContentClient,
    share: ShareId,
    digest: bytes,
    *,
    size: int,
    held: Held,
    base: Stored | None,
    writer: ContentWriter,
) -> list[tuple[int, int]] | None:
    """Take what this device has; return the ranges to fetch, or None if the peer has not got the content."""
    whole = [(0, size)]
    if base is None:
        return whole
    reader = held.source.reader(base)
    if reader is None:
        return whole
    try:
        known = chunks_here(held, base, reader)
        if known is None:
            return whole
        packed = client.chunk_list(share, digest, size)
        if packed is None:
            return None
        chunks = unpack_chunks(packed)
        if sum(length for _, length in chunks) != size:
            raise RemoteProtocolError("A chunk list does not add up to its file")
        return copy_known_chunks(chunks, unpack_chunks(known), reader, writer)
    finally:
        reader.close()


def same_block(reader: ContentReader, offset: int, length: int, digest: bytes) -> bytes | None:
    """Return a block of our base that is the wanted one; None if it is another."""
    if length > COMPARED_BYTES_MAX or offset + length > reader.size:
        return None
    try:
        data = reader.read_at(offset, length)
    except OSError:
        return None  # the base shrank under our hands
    return data if blake3(data).digest() == digest else None


def plan_blocks(
    client: ContentClient,
    share: ShareId,
    digest: bytes,
    *,
    size: int,
    held: Held,
    base: Stored | None,
    writer: ContentWriter,
    rule: BlockRule,
) -> list[tuple[int, int]] | None:
    """Take what this device has of a huge content; return the ranges to fetch, none of them zeros.

    A block is looked for where it will be, in the file that is to be replaced. None: the peer has not got the content.
    """
    packed = client.chunk_list(share, digest, size)
    if packed is None:
        return None
    check_block_list(size, packed, digest, rule)
    begun = writer.resume_at
    # What is written, not the size: a terabyte of holes needs no room. Blocks of our base are copied, and do.
    lacking = sum(
        min(length, at + length - begun)
        for at, length, _ in data_blocks(size, packed, rule)
        if at + length > begun
    )
    if not held.has_room(lacking):
        raise NoRoom("The disk is nearly full; it is fetched when there is room")
    reader = held.source.reader(base) if base is not None and not begun else None
    ranges: list[tuple[int, int]] = []
    try:
        for at, length, block_digest in data_blocks(size, packed, rule):
            first, end = max(at, begun), at + length
            if first >= end:
                continue
            data = None if reader is None else same_block(reader, at, length, block_digest)
            if data is not None:
                writer.write_at(at, data)
            elif ranges and sum(ranges[-1]) == first:
                ranges[-1] = (ranges[-1][0], end - ranges[-1][0])
            else:
                ranges.append((first, end - first))
    finally:
        if reader is not None:
            reader.close()
    return ranges


def fetch_large(
    client: ContentClient,
    share: ShareId,
    digest: bytes,
    *,
    size: int,
    held: Held,
    pending: Sequence[Pending],
    rule: BlockRule = RULE,
) -> bool:
    """Fetch one large content into staging; return whether the peer has got it.

    Only chunks travel that the file to be replaced has not, and of a transfer that broke off only the
    rest. The whole is verified before it counts. Of a huge one, no zeros travel.

    Raises:
        CannotStage: It cannot be written here.
        RemoteProtocolError, OSError: The peer, or the connection to it, failed.
    """
    try:
        writer = KeptWriter(held.source.writer(digest, size))
    except OSError as error:
        raise CannotStage(error.strerror or str(error)) from error
    done = False
    try:
        base = base_of(pending)
        ranges: list[tuple[int, int]] | None = [(writer.resume_at, size - writer.resume_at)]
        huge = rule.applies(size)
        if huge:
            ranges = plan_blocks(
                client, share, digest, size=size, held=held, base=base, writer=writer, rule=rule
            )
        elif not writer.resume_at:
            ranges = plan_ranges(client, share, digest, size=size, held=held, base=base, writer=writer)
        if ranges is not None:
            missing = sum(length for _, length in ranges)
            for offset, data in client.ranges(share, digest, ranges):
                if huge:
                    writer.leave_zeros(offset)
                writer.write_at(offset, data)
                missing -= len(data)
            if missing == 0:
                if huge:
                    writer.leave_zeros(size)
                writer.commit()
                done = True
    except RemoteProtocolError:
        writer.abandon()
        raise
    finally:
        if not done:
            writer.suspend()
    return done
