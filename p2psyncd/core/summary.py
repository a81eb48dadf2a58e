"""What travels of a Merkle trie: the summary of some nodes, its form on the wire, and its checks.

Hashes travel cut: a child's to 8 bytes, and in a leaf, which is at most 32 entries, to 6 for the
entry and to 6 more than the prefix says for the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from p2psyncd.core.trie import DEPTH_MAX, FANOUT, HASH_BYTES, KEY_HASH_BYTES, LEAF_ENTRIES_MAX
from p2psyncd.errors import RemoteProtocolError

__all__ = [
    "NODES_MAX",
    "PREFIXES_MAX",
    "BranchNode",
    "LeafNode",
    "LeafShape",
    "Summary",
    "child_width",
    "children_of",
    "leaf_shape",
    "prefixes_from_wire",
]

PREFIXES_MAX = 1024
"""Prefixes in one question: their answer then stays under 2 MB even at full width."""
NODES_MAX = 2 * PREFIXES_MAX
EVERY_CHILD = (1 << FANOUT) - 1
CHILD_BYTES = 8
# Within one leaf 48 bits tell 32 keys, or two versions of one key, apart but for one time in 10^11;
# a quarter less to send than with 8 bytes each.
LEAF_CUT_BYTES = 6
KEY_CUT_BYTES_MIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchNode:
    """A node with more than 32 entries."""

    prefix: bytes
    bitmap: int
    """Bit n is set: child n is not empty."""
    hashes: bytes
    """One hash for each set bit, ascending; empty: all those children follow in the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafNode:
    """A node with at most 32 entries."""

    prefix: bytes
    entries: bytes
    """For each, ascending: its key hash without the whole bytes that the prefix tells, ‖ its entry hash; see `LeafShape`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one side has below some prefixes."""

    full_width: bool = False
    nodes: tuple[BranchNode | LeafNode, ...]
    """Ascending by prefix, so that a branch stands before its pre-expanded children."""

    def to_wire(self) -> list[object]:
        """Return lists of integers and bytes: [full width 0|1, [[prefix, bitmap, hashes] | [prefix, entries], …]]."""
        nodes: list[object] = [
            [node.prefix, node.bitmap, node.hashes]
            if isinstance(node, BranchNode)
            else [node.prefix, node.entries]
            for node in self.nodes
        ]
        return [int(self.full_width), nodes]

    @classmethod
    def from_wire(cls, value: object, asked: Iterable[bytes]) -> Summary:
        """Return the summary that `to_wire` wrote.

        Args:
            value: What was decoded from the peer's message.
            asked: The prefixes that were asked for: the answer must hold them and nothing above or
                beside them, so that a descent gets deeper with every answer and ends.

        Raises:
            RemoteProtocolError: It is not such a summary.
        """
        match value:
            case [0 | 1 as flag, list(found)] if len(found) <= NODES_MAX:
                full_width = bool(flag)
                nodes = tuple(node_from_wire(node, full_width=full_width) for node in found)
            case _:
                raise RemoteProtocolError("A summary has the wrong shape or too many nodes")
        if any(a.prefix >= b.prefix for a, b in pairwise(nodes)):
            raise RemoteProtocolError("A summary's nodes are out of order")
        check_coverage(nodes, asked)
        return cls(full_width=full_width, nodes=nodes)


class LeafShape(NamedTuple):
    """How many bytes of a leaf's entries travel."""

    skip: int
    """Leading bytes of the key hash that the prefix tells."""
    key_width: int
    """Bytes of the key hash that the receiver then knows, the skipped ones included."""
    entry_width: int
    """Bytes of the entry hash."""

    @property
    def step(self) -> int:
        """Bytes of one entry."""
        return self.key_width - self.skip + self.entry_width


def leaf_shape(prefix: bytes, *, full_width: bool) -> LeafShape:
    """Return the shape of the leaf at a prefix."""
    skip = len(prefix) // 2
    if full_width:
        return LeafShape(skip, KEY_HASH_BYTES, HASH_BYTES)
    return LeafShape(skip, min(KEY_HASH_BYTES, max(KEY_CUT_BYTES_MIN, skip + LEAF_CUT_BYTES)), LEAF_CUT_BYTES)


def child_width(*, full_width: bool) -> int:
    """Return how many bytes of a child's hash travel."""
    return HASH_BYTES if full_width else CHILD_BYTES


def prefixes_from_wire(value: object) -> list[bytes]:
    """Return the prefixes of a question.

    Raises:
        RemoteProtocolError: Not a list of 1 to `PREFIXES_MAX` ascending prefixes.
    """
    if not (isinstance(value, list) and 0 < len(value) <= PREFIXES_MAX):
        raise RemoteProtocolError("A question for summaries has the wrong shape")
    prefixes = [checked_prefix(prefix) for prefix in value]
    if any(a >= b for a, b in pairwise(prefixes)):
        raise RemoteProtocolError("A question's prefixes are out of order")
    return prefixes


def checked_prefix(value: object) -> bytes:
    """Return the value if it is a prefix; else raise RemoteProtocolError."""
    if not isinstance(value, bytes) or len(value) > DEPTH_MAX or (value and max(value) >= FANOUT):
        raise RemoteProtocolError("A summary's prefix is not one")
    return value


def node_from_wire(value: object, *, full_width: bool) -> BranchNode | LeafNode:
    """Return one node; RemoteProtocolError if it is none."""
    match value:
        case [prefix, bytes(entries)]:
            prefix = checked_prefix(prefix)
            step = leaf_shape(prefix, full_width=full_width).step
            parts = [entries[at : at + step] for at in range(0, len(entries), step)]
            if len(entries) % step or len(parts) > LEAF_ENTRIES_MAX:
                raise RemoteProtocolError("A leaf's entries have a wrong length")
            # An odd prefix tells half of the first byte that travels.
            misplaced = len(prefix) % 2 and any(part[0] >> 4 != prefix[-1] for part in parts)
            if misplaced or any(a > b for a, b in pairwise(parts)):
                raise RemoteProtocolError("A leaf's entries are out of place")
            return LeafNode(prefix=prefix, entries=entries)
        case [prefix, int(bitmap), bytes(hashes)]:
            prefix = checked_prefix(prefix)
            if not 0 < bitmap <= EVERY_CHILD or len(prefix) == DEPTH_MAX:
                raise RemoteProtocolError("A branch's children are impossible")
            if hashes and len(hashes) != bitmap.bit_count() * child_width(full_width=full_width):
                raise RemoteProtocolError("A branch's hashes have a wrong length")
            return BranchNode(prefix=prefix, bitmap=bitmap, hashes=hashes)
        case _:
            raise RemoteProtocolError("A summary's node has the wrong shape")


def check_coverage(nodes: Sequence[BranchNode | LeafNode], asked: Iterable[bytes]) -> None:
    """Raise RemoteProtocolError unless the nodes are those asked for and the children that branches announce."""
    expected = set(asked)
    for node in nodes:
        if node.prefix not in expected:
            raise RemoteProtocolError("A summary holds a node that was not asked for")
        expected.discard(node.prefix)
        if isinstance(node, BranchNode) and not node.hashes:
            expected.update(child for _, child in children_of(node))
    if expected:
        raise RemoteProtocolError("A summary leaves out a node")


def children_of(node: BranchNode) -> list[tuple[int, bytes]]:
    """Return (nibble, prefix) of the children that are not empty."""
    return [(nibble, node.prefix + bytes([nibble])) for nibble in range(FANOUT) if node.bitmap >> nibble & 1]
