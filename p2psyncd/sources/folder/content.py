"""Reading content: digest and chunk list in one pass, never of a file that changes meanwhile."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from blake3 import blake3
from pyfastcdc import FastCDC

from p2psyncd.core.blocks import RULE, BlockRule, digest_of_block_list
from p2psyncd.sources.folder.blocks import read_block_list
from p2psyncd.sources.folder.xattrs import Xattrs, read_xattrs

__all__ = [
    "CHUNKED_BYTES_MIN",
    "EMPTY_DIGEST",
    "Content",
    "digest_of",
    "digest_of_descriptor",
    "pack_chunk",
    "read_content",
]

# Files up to this size travel whole (wire.content: BLOB_BYTES_MAX), larger ones in chunks.
CHUNKED_BYTES_MIN = 256 * 1024
CHUNK_AVERAGE_BYTES = 64 * 1024
CHUNK_LEAST_BYTES = 16 * 1024
CHUNK_MOST_BYTES = 256 * 1024
CHUNK_DIGEST_BYTES = 16
CHUNK = struct.Struct(">16sI")
READ_BYTES = 1024 * 1024
# A file that changed while it was read: a save takes milliseconds, so the third reading mostly succeeds.
READINGS_MAX = 3
OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
REGULAR = 0o100000
TYPE_BITS = 0o170000


@dataclass(slots=True)
class Content:
    """What was read of one file."""

    digest: bytes
    chunks: bytes
    """Packed chunk list, of a huge file its block list; empty for files up to `CHUNKED_BYTES_MIN`."""
    status: os.stat_result
    """The file's status before and after reading."""
    xattrs: Xattrs = ()
    """Its extended attributes."""


class DescriptorStream:
    """A descriptor as the stream that the chunker reads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.offset = 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer with what comes next; return how many bytes that was."""
        got = os.preadv(self.descriptor, [buffer], self.offset)
        self.offset += got
        return got


def digest_of(data: bytes) -> bytes:
    """Return the BLAKE3 digest of bytes."""
    return blake3(data).digest()


EMPTY_DIGEST = digest_of(b"")


def digest_of_descriptor(
    descriptor: int, offset: int = 0, hasher: blake3 | None = None, *, rule: BlockRule = RULE
) -> tuple[bytes, int]:
    """Return the digest of a file, and its size as far as it was read.

    Args:
        descriptor: The opened file.
        offset: Where to begin; a huge file is read from its start all the same.
        hasher: Holds what came before `offset`.
        rule: Which files are huge.
    """
    size = os.fstat(descriptor).st_size
    if rule.applies(size):
        packed, size = read_block_list(descriptor, size, rule)
        return digest_of_block_list(size, packed), size
    hasher = hasher or blake3()
    while data := os.pread(descriptor, READ_BYTES, offset):
        hasher.update(data)
        offset += len(data)
    return hasher.digest(), offset


def pack_chunk(data: memoryview | bytes) -> bytes:
    """Return the chunk list's entry for one chunk: 16 bytes of its BLAKE3, 4 bytes of its length."""
    return CHUNK.pack(blake3(data).digest(CHUNK_DIGEST_BYTES), len(data))


def digest_and_chunks(descriptor: int, rule: BlockRule = RULE) -> tuple[bytes, bytes, int]:
    """Return digest, packed chunk list (or block list) and size of a large file, reading it once."""
    size = os.fstat(descriptor).st_size
    if rule.applies(size):
        packed, size = read_block_list(descriptor, size, rule)
        return digest_of_block_list(size, packed), packed, size
    hasher = blake3()
    entries = []
    size = 0
    cutter = FastCDC(CHUNK_AVERAGE_BYTES, min_size=CHUNK_LEAST_BYTES, max_size=CHUNK_MOST_BYTES)
    for chunk in cutter.cut_stream(DescriptorStream(descriptor)):
        hasher.update(chunk.data)
        entries.append(pack_chunk(chunk.data))
        size += chunk.length
    return hasher.digest(), b"".join(entries), size


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether a file was left alone between two looks at its descriptor."""
    return (before.st_ctime_ns, before.st_mtime_ns, before.st_size) == (
        after.st_ctime_ns,
        after.st_mtime_ns,
        after.st_size,
    )


def read_content(directory: int, name: bytes, rule: BlockRule = RULE) -> Content | None:
    """Read a regular file.

    Args:
        directory: Descriptor of its directory.
        name: Its name there.
        rule: Which files are huge.

    Returns:
        None where it kept changing, or is no regular file any more: it is to be looked at again.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(name, OPEN_FLAGS, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if status.st_mode & TYPE_BITS != REGULAR:
            return None
        for _ in range(READINGS_MAX):
            size = status.st_size
            if size <= CHUNKED_BYTES_MIN:
                data = os.read(descriptor, size + 1)
                digest, chunks, got = blake3(data).digest(), b"", len(data)
            else:
                digest, chunks, got = digest_and_chunks(descriptor, rule)
            xattrs = read_xattrs(descriptor)
            after = os.fstat(descriptor)
            if got == size and unchanged(status, after):
                return Content(digest, chunks, after, xattrs)
            os.lseek(descriptor, 0, os.SEEK_SET)
            status = after
        return None
    finally:
        os.close(descriptor)
