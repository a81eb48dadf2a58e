"""Reading huge files block by block; holes are passed over, not read. See `core.blocks` for what comes of it."""

from __future__ import annotations

import os

from blake3 import blake3

from p2psyncd.core.blocks import BlockList, BlockRule
from p2psyncd.sources.folder.beneath import next_data

__all__ = ["read_block_list"]

READ_BYTES = 1024 * 1024
ZEROS = bytes(READ_BYTES)


def read_block(descriptor: int, offset: int, length: int) -> tuple[bytes | None, int]:
    """Return a block's digest (None: it is all zeros), and how many bytes of it there were."""
    hasher = blake3()
    zeros = True
    at = 0
    while at < length:
        data = os.pread(descriptor, min(READ_BYTES, length - at), offset + at)
        if not data:
            break
        zeros = zeros and data == (ZEROS if len(data) == READ_BYTES else bytes(len(data)))
        hasher.update(data)
        at += len(data)
    return None if zeros else hasher.digest(), at


def read_block_list(descriptor: int, size: int, rule: BlockRule) -> tuple[bytes, int]:
    """Return the packed block list of an opened file, and its size: less than `size` if it shrinks meanwhile."""
    block, blocks = rule.block_bytes(size), rule.blocks(size)
    found = BlockList()
    at = 0
    while at < blocks:
        data_at = next_data(descriptor, at * block)
        # A file that grows has data beyond its end: that is not asked for.
        first = blocks if data_at is None else min(data_at // block, blocks)
        found.add_zeros(first - at)
        at = first
        if at == blocks:
            break
        length = min(block, size - at * block)
        digest, got = read_block(descriptor, at * block, length)
        if got < length:
            return found.packed(), at * block + got
        if digest is None:
            found.add_zeros(1)
        else:
            found.add_data(digest)
        at += 1
    return found.packed(), size
