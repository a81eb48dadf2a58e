"""Block lists: what the content of a huge file is, run by run.

A plain digest of a terabyte of holes takes minutes, and its chunk list names a million chunks of zeros. So the
content of a file above `BlockRule.above_bytes` is described by blocks of one size, and its digest is that of
its size and this description. Which files these are, and how large a block is, follows from a file's size alone, so
every device decides alike (docs/decisions/0012-digest-of-huge-files.md). Each entry of the list is 40 bytes:

- a block that is not all zeros: its BLAKE3 digest, and 1;
- a run of blocks that are all zeros: 32 zero bytes, and how many blocks, as many as there are in a row.

Whether zeros are a hole on the disk or were written makes no difference. The last block may be shorter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from p2psyncd.errors import RemoteProtocolError

__all__ = [
    "BLOCK_ENTRY_BYTES",
    "RULE",
    "BlockList",
    "BlockRule",
    "check_block_list",
    "data_blocks",
    "digest_of_block_list",
]

ENTRY = struct.Struct(">32sQ")
BLOCK_ENTRY_BYTES = ENTRY.size
ZERO_RUN = bytes(32)
SIZE = struct.Struct(">Q")
# Keeps these digests apart from those of contents: no file can be made whose plain digest is that of a list.
CONTEXT = "p2psyncd 2026-11 size and block list of a huge file"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRule:
    """Which files are described by blocks, and how large these are; tests use smaller ones."""

    # 16 GiB: below, reading all takes a minute or two, and content-defined chunks find what was moved inside a file.
    above_bytes: int = 16 * 1024**3
    # 1 MiB: an edit of a megabyte costs two; a terabyte of data has a list of 40 MB.
    block_bytes_min: int = 1024**2
    blocks_max: int = 2**20

    def applies(self, size: int) -> bool:
        """Return whether a file of so many bytes is described by blocks."""
        return size > self.above_bytes

    def block_bytes(self, size: int) -> int:
        """Return how large the blocks of a file of so many bytes are: a power of two times the least."""
        block = self.block_bytes_min
        while block * self.blocks_max < size:
            block *= 2
        return block

    def blocks(self, size: int) -> int:
        """Return how many blocks a file of so many bytes has; at most `blocks_max`."""
        return -(-size // self.block_bytes(size))


RULE = BlockRule()


class BlockList:
    """A list in the making, block after block."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.zeros = 0

    def add_zeros(self, blocks: int) -> None:
        """Add blocks that are all zeros; none is fine."""
        self.zeros += blocks

    def add_data(self, digest: bytes) -> None:
        """Add a block that is not all zeros."""
        self.end_run()
        self.entries.append(ENTRY.pack(digest, 1))

    def end_run(self) -> None:
        """Note the zeros that came last."""
        if self.zeros:
            self.entries.append(ENTRY.pack(ZERO_RUN, self.zeros))
            self.zeros = 0

    def packed(self) -> bytes:
        """Return the list."""
        self.end_run()
        return b"".join(self.entries)


def digest_of_block_list(size: int, packed: bytes) -> bytes:
    """Return the content digest of a huge file of so many bytes."""
    return blake3(SIZE.pack(size) + packed, derive_key_context=CONTEXT).digest()


def check_block_list(size: int, packed: bytes, digest: bytes, rule: BlockRule = RULE) -> None:
    """Hold a list that came from a peer against the content it is said to describe.

    Nothing in it is expanded: a run costs what an entry costs, whatever it says.

    Raises:
        RemoteProtocolError: It is not that content's, or none that a device makes.
    """
    if len(packed) % BLOCK_ENTRY_BYTES or digest_of_block_list(size, packed) != digest:
        raise RemoteProtocolError("A block list came that is not what its digest says")
    blocks = 0
    after_zeros = False
    for block_digest, count in ENTRY.iter_unpack(packed):
        is_zeros = block_digest == ZERO_RUN
        if not count or (after_zeros if is_zeros else count != 1):
            raise RemoteProtocolError("A block list has an entry that no device makes")
        blocks += count
        after_zeros = is_zeros
    if blocks != rule.blocks(size):
        raise RemoteProtocolError("A block list does not add up to its file")


def data_blocks(size: int, packed: bytes, rule: BlockRule = RULE) -> Iterator[tuple[int, int, bytes]]:
    """Yield (offset, length, digest) of the blocks that are not all zeros; the list has been checked."""
    block = rule.block_bytes(size)
    offset = 0
    for digest, count in ENTRY.iter_unpack(packed):
        if digest != ZERO_RUN:
            yield offset, min(block, size - offset), digest
        offset += count * block
