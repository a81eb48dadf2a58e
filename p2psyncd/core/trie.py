"""The Merkle trie over a share's live items: its hashes, its shape, and how it follows changes.

An *entry* is 48 bytes: key hash ‖ entry hash. A node stands for all entries whose key hash begins
with its prefix (one byte, 0..15, for each nibble from the root). With at most `LEAF_ENTRIES_MAX`
entries it is a leaf, whose hash covers them in order; else a branch, whose hash covers its 16
children's. So the shape and the root depend on the set alone, not on the order of the writes.

Only branches are stored: what a leaf holds is read from the items when it is needed.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from blake3 import blake3

from p2psyncd.core.item import Item

__all__ = [
    "DEPTH_MAX",
    "EMPTY",
    "ENTRY_BYTES",
    "FANOUT",
    "HASH_BYTES",
    "KEY_HASH_BYTES",
    "LEAF_ENTRIES_MAX",
    "Branch",
    "NodeStore",
    "bounds",
    "branch_hash",
    "build",
    "directory_hash",
    "directory_of",
    "entry_hash",
    "key_hash",
    "leaf_hash",
    "nibbles",
    "refresh",
    "root_of",
    "split",
    "whole_bytes",
]

HASH_BYTES = 32
KEY_HASH_BYTES = 16
ENTRY_BYTES = KEY_HASH_BYTES + HASH_BYTES
DIRECTORY_HASH_BYTES = 2
FANOUT = 16
LEAF_ENTRIES_MAX = 32
DEPTH_MAX = 2 * KEY_HASH_BYTES
EMPTY = bytes(HASH_BYTES)
"""The hash of a node without entries."""

# A scan or a first sync names the files of one directory after another.
DIRECTORIES_CACHED = 4096
# Reading and hashing a whole subtree costs about 0.5 µs an entry, a dirty leaf on its own about 15 µs
# and holds some 20 entries: past one changed entry in eight the whole subtree is cheaper.
WHOLE_SUBTREE_RATIO = 8
# Unless what changed lies in few directories: getting down to one costs as much as so many entries.
DIRECTORY_ENTRIES = 64

LEAF = b"\x00"
BRANCH = b"\x01"
ENTRY_HEAD = struct.Struct(">IB8sQ")


class Branch(NamedTuple):
    """A stored node: what its 16 children are."""

    hashes: Sequence[bytes]
    """32 bytes each, `EMPTY` where there is no child."""
    counts: Sequence[int]
    """Entries below each child."""


class NodeStore(Protocol):
    """Where branches are kept and entries are found."""

    def branch(self, prefix: bytes) -> Branch | None:
        """Return a stored branch; None: the node is a leaf (or nothing)."""
        ...

    def put_branch(self, prefix: bytes, branch: Branch) -> None:
        """Insert or replace a branch; never one that `drop_below` then drops in the same refresh."""
        ...

    def drop_below(self, prefix: bytes) -> None:
        """Remove the branch at a prefix and all below it."""
        ...

    def entries(self, prefix: bytes) -> Sequence[bytes]:
        """Return the entries (48 bytes each) below a prefix as they are now, ascending."""
        ...


@lru_cache(maxsize=DIRECTORIES_CACHED)
def directory_hash(secret: bytes, directory: bytes) -> bytes:
    """Return the 2 bytes with which the key hashes of a directory's items begin."""
    return blake3(directory, key=secret).digest(length=DIRECTORY_HASH_BYTES)


def directory_of(key: bytes) -> bytes:
    """Return what stands before the last slash of a key."""
    return key.rpartition(b"/")[0]


def key_hash(secret: bytes, key: bytes, directory: Callable[[bytes], bytes] = directory_of) -> bytes:
    """Return the 16 bytes that place a key in the trie.

    One directory shares a subtree, which makes clustered differences about ten times cheaper to
    find. Keyed with the share's secret, so that nobody outside can choose names that collide.

    Args:
        secret: 32 bytes, the same on all devices of the share.
        key: The item's key.
        directory: Returns a key's directory: what has one is likely to be written together.
    """
    return directory_hash(secret, directory(key)) + blake3(key, key=secret).digest(
        length=KEY_HASH_BYTES - DIRECTORY_HASH_BYTES
    )


def entry_hash(item: Item) -> bytes:
    """Return 32 bytes over key, dot, kind and digest.

    Not over the version vector: pruning it must not change a root.
    """
    key = item.key
    actor, seq = item.dot
    return blake3(ENTRY_HEAD.pack(len(key), item.kind, actor, seq) + key + item.digest).digest()


def leaf_hash(entries: Sequence[bytes]) -> bytes:
    """Return the hash of a leaf.

    Args:
        entries: At most 32 entries of 48 bytes, ascending.
    """
    return blake3(LEAF + b"".join(entries)).digest() if entries else EMPTY


def branch_hash(children: Iterable[bytes]) -> bytes:
    """Return the hash of a branch from its 16 children's hashes, 32 bytes each."""
    return blake3(BRANCH + b"".join(children)).digest()


def nibbles(data: bytes) -> bytes:
    """Return the prefix that stands for a (beginning of a) key hash: one byte a nibble."""
    return bytes(nibble for byte in data for nibble in (byte >> 4, byte & 15))


def whole_bytes(prefix: bytes) -> bytes:
    """Return the whole bytes of a key hash that a prefix tells."""
    return bytes(high << 4 | low for high, low in zip(prefix[::2], prefix[1::2], strict=False))


def bounds(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the least byte string below a prefix, and one that is above all entries below it."""
    whole = whole_bytes(prefix)
    if len(prefix) % 2:
        first, last = prefix[-1] << 4, prefix[-1] << 4 | 15
        return whole + bytes([first]), whole + bytes([last]) + b"\xff" * ENTRY_BYTES
    return whole, whole + b"\xff" * (ENTRY_BYTES + 1)


def split(ordered: Sequence[bytes], depth: int) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Yield (nibble, part) for the children that get anything.

    Args:
        ordered: Key hashes or entries below one node, ascending.
        depth: Length of the node's prefix.
    """
    at, (index, odd) = 0, divmod(depth, 2)
    while at < len(ordered):
        first = ordered[at]
        byte = first[index]
        nibble = byte & 15 if odd else byte >> 4
        above = byte + 1 if odd else (nibble + 1) << 4
        if nibble == FANOUT - 1:
            end = len(ordered)
        else:
            end = bisect_left(ordered, first[:index] + bytes([above]), at)
        yield nibble, ordered[at:end]
        at = end


def build(
    put_branch: Callable[[bytes, Branch], None], prefix: bytes, entries: Sequence[bytes]
) -> tuple[bytes, int]:
    """Hash a whole subtree and return its hash and count.

    Args:
        put_branch: Gets every branch of the subtree, children before parents.
        prefix: Of the subtree's top.
        entries: All entries below it, ascending.
    """
    depth = len(prefix)
    if len(entries) <= LEAF_ENTRIES_MAX or depth == DEPTH_MAX:
        return leaf_hash(entries), len(entries)
    hashes, counts = [EMPTY] * FANOUT, [0] * FANOUT
    for nibble, part in split(entries, depth):
        # Most children are leaves: not calling for them halves the time.
        if len(part) <= LEAF_ENTRIES_MAX:
            hashes[nibble], counts[nibble] = blake3(LEAF + b"".join(part)).digest(), len(part)
        else:
            hashes[nibble], counts[nibble] = build(put_branch, prefix + bytes([nibble]), part)
    put_branch(prefix, Branch(hashes, counts))
    return branch_hash(hashes), len(entries)


def root_of(entries: Iterable[bytes]) -> bytes:
    """Return the root of a set of entries, in any order, computed afresh.

    They are held packed: 48 MB for a million, half of what as many objects would take.
    """
    buckets = [bytearray() for _ in range(256)]
    for entry in entries:
        buckets[entry[0]] += entry
    return hash_of(buckets, b"")


def hash_of(buckets: Sequence[bytearray], prefix: bytes) -> bytes:
    """Return the hash of the node whose entries lie in these 256, 16 or 1 buckets (by first byte, high nibble)."""
    if len(buckets) == 1 or sum(map(len, buckets)) <= LEAF_ENTRIES_MAX * ENTRY_BYTES:
        packed = b"".join(buckets)
        entries = sorted(packed[at : at + ENTRY_BYTES] for at in range(0, len(packed), ENTRY_BYTES))
        return build(lambda prefix, branch: None, prefix, entries)[0]
    step = len(buckets) // FANOUT
    return branch_hash(
        hash_of(buckets[nibble * step : (nibble + 1) * step], prefix + bytes([nibble]))
        for nibble in range(FANOUT)
    )


def refresh(nodes: NodeStore, changed: Iterable[bytes]) -> None:
    """Bring the stored branches up to date after writes, hashing every dirty node once, bottom-up.

    Args:
        nodes: Where the items are already as they shall be.
        changed: Key hashes of the entries that came, went or changed; others are trusted.
    """
    dirty = sorted(set(changed))
    if dirty:
        rehash(nodes, b"", dirty)


def is_cheaper_whole(dirty: Sequence[bytes], depth: int, count: int) -> bool:
    """Return whether a subtree is better read and hashed whole than node by node.

    Args:
        dirty: The key hashes in it that changed.
        depth: Of its top.
        count: How many entries it had.
    """
    if len(dirty) * WHOLE_SUBTREE_RATIO < count:
        return False
    if depth >= 2 * DIRECTORY_HASH_BYTES:
        return True
    directories = len({place[:DIRECTORY_HASH_BYTES] for place in dirty})
    return count <= directories * DIRECTORY_ENTRIES


def rehash(nodes: NodeStore, prefix: bytes, dirty: Sequence[bytes]) -> tuple[bytes, int]:
    """Refresh one node and return its hash and count."""
    branch = nodes.branch(prefix)
    if branch is None:
        return build(nodes.put_branch, prefix, nodes.entries(prefix))
    if is_cheaper_whole(dirty, len(prefix), sum(branch.counts)):
        nodes.drop_below(prefix)
        return build(nodes.put_branch, prefix, nodes.entries(prefix))
    hashes, counts = list(branch.hashes), list(branch.counts)
    for nibble, part in split(dirty, len(prefix)):
        hashes[nibble], counts[nibble] = rehash(nodes, prefix + bytes([nibble]), part)
    count = sum(counts)
    if count <= LEAF_ENTRIES_MAX:
        # Its children became leaves before it, so there is nothing else below to drop.
        nodes.drop_below(prefix)
        return leaf_hash(nodes.entries(prefix)), count
    nodes.put_branch(prefix, Branch(hashes, counts))
    return branch_hash(hashes), count
