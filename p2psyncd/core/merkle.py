"""The Merkle summary: how two devices find what differs without sending what is equal.

One side (the asker) names prefixes, the other answers with a `Summary` of those nodes, and the
asker's `compare` says which prefixes to ask for next, until only leaves are left. Only the asker
learns the differences; it then sends what the other lacks and asks for what it lacks itself.

Hashes travel cut, so two different things may look equal: whoever still has another root after the
descent repeats it with `full_width`.

This module also passes on the names of `core.trie` and `core.summary` that belong to the subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from p2psyncd.core.summary import (
    NODES_MAX,
    PREFIXES_MAX,
    BranchNode,
    LeafNode,
    LeafShape,
    Summary,
    child_width,
    children_of,
    leaf_shape,
    prefixes_from_wire,
)
from p2psyncd.core.trie import (
    EMPTY,
    FANOUT,
    LEAF_ENTRIES_MAX,
    branch_hash,
    entry_hash,
    key_hash,
    leaf_hash,
    nibbles,
    refresh,
    root_of,
    split,
    whole_bytes,
)
from p2psyncd.core.version import Dot

__all__ = [
    "EMPTY",
    "PREFIXES_MAX",
    "BranchNode",
    "Descent",
    "Entry",
    "LeafNode",
    "Summary",
    "TrieReader",
    "branch_hash",
    "compare",
    "entry_hash",
    "find",
    "key_hash",
    "leaf_hash",
    "prefixes_from_wire",
    "refresh",
    "root_of",
    "summarize",
]

# Room for one expanded level of cut hashes: a single difference among a million entries then costs
# under 5 KB and three round trips; with 4 KB it was up to 6.7 KB and saved no round trip.
BUDGET_BYTES = 2400
# CBOR heads of a node's list, prefix, bitmap and hashes; the prefix itself comes on top.
NODE_BYTES = 8

Entry: TypeAlias = tuple[bytes, bytes, bytes, Dot]
"""(key hash 16 B, entry hash 32 B, key, dot)"""


class TrieReader(Protocol):
    """What a descent reads; `core.storage.ShareStorage` offers it."""

    def trie_children(self, prefix: bytes) -> list[tuple[bytes, int]] | None:
        """Return (32-byte hash, count) of the 16 children of a node, or None if the node is a leaf."""
        ...

    def trie_entries(self, prefix: bytes) -> list[Entry]:
        """Return the live items below a node, in key-hash order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """What comparing one summary brought to light."""

    ask: tuple[bytes, ...]
    """Prefixes to ask for next, ascending; at most `PREFIXES_MAX` of them fit in one question."""
    theirs_only: tuple[bytes, ...]
    """Key hashes, whole or the first 8 bytes or more, of what they have and we lack."""
    differing: tuple[Entry, ...]
    """Our entries where both have the key, in different versions."""
    ours_only: tuple[Entry, ...]
    """Our entries that they lack."""

    @property
    def lacking(self) -> list[bytes]:
        """Key hashes (8 to 16 bytes) of what to ask them for."""
        return [*self.theirs_only, *(entry[0] for entry in self.differing)]

    @property
    def surplus(self) -> list[bytes]:
        """Key hashes (16 bytes) of what to send them."""
        return [entry[0] for entry in (*self.differing, *self.ours_only)]


def find(read: TrieReader, key_hashes: Iterable[bytes]) -> list[Entry]:
    """Return our entries with these (whole or cut) key hashes, as a peer's descent names them."""
    return [entry for key_hash in key_hashes for entry in read.trie_entries(nibbles(key_hash))]


def summarize(
    read: TrieReader, prefixes: Iterable[bytes], *, budget_bytes: int = BUDGET_BYTES, full_width: bool = False
) -> Summary:
    """Answer a question: describe the nodes at some prefixes, and whole levels below while they fit.

    Args:
        read: Our trie.
        prefixes: What was asked for.
        budget_bytes: A level is expanded only while the encoded answer stays below this; the nodes
            that were asked for are there in any case.
        full_width: Send hashes whole instead of cut to 8 bytes.
    """
    width = child_width(full_width=full_width)
    nodes: dict[bytes, BranchNode | LeafNode] = {}
    level: Iterable[bytes] = prefixes
    size = 0
    while True:
        branches: dict[bytes, BranchNode] = {}
        below: dict[bytes, int] = {}
        for prefix in level:
            children = read.trie_children(prefix)
            if children is None:
                leaf = leaf_node(read, prefix, full_width=full_width)
                nodes[prefix] = leaf
                size += NODE_BYTES + len(prefix) + len(leaf.entries)
            else:
                nodes[prefix] = branches[prefix] = branch_node(prefix, children, width)
                size += NODE_BYTES + len(prefix) + len(branches[prefix].hashes)
                below |= {
                    prefix + bytes([nibble]): count for nibble, (_, count) in enumerate(children) if count
                }
        if not below or len(nodes) + len(below) > NODES_MAX:
            break
        # What the next level costs instead of the hashes that it replaces: leaves exactly, branches at most.
        growth = -sum(len(branch.hashes) for branch in branches.values())
        for prefix, count in below.items():
            leaf_bytes = count * leaf_shape(prefix, full_width=full_width).step
            growth += NODE_BYTES + len(prefix) + (leaf_bytes if count <= LEAF_ENTRIES_MAX else FANOUT * width)
        if size + growth > budget_bytes:
            break
        size -= sum(len(branch.hashes) for branch in branches.values())
        nodes |= {prefix: replace(branch, hashes=b"") for prefix, branch in branches.items()}
        level = below
    return Summary(full_width=full_width, nodes=tuple(nodes[prefix] for prefix in sorted(nodes)))


def leaf_node(read: TrieReader, prefix: bytes, *, full_width: bool) -> LeafNode:
    """Return what travels of a leaf."""
    skip, key_width, entry_width = leaf_shape(prefix, full_width=full_width)
    parts = sorted(
        key[skip:key_width] + value[:entry_width] for key, value, _, _ in read.trie_entries(prefix)
    )
    return LeafNode(prefix=prefix, entries=b"".join(parts))


def branch_node(prefix: bytes, children: Sequence[tuple[bytes, int]], width: int) -> BranchNode:
    """Return what travels of a branch."""
    bitmap = sum(1 << nibble for nibble, (_, count) in enumerate(children) if count)
    hashes = b"".join(value[:width] for value, count in children if count)
    return BranchNode(prefix=prefix, bitmap=bitmap, hashes=hashes)


def compare(ours: TrieReader, theirs: Summary) -> Descent:
    """Hold a peer's summary against our trie.

    Either side may have a leaf where the other has a branch: ours is then split into children, and
    theirs is held against all that lies below our branch.
    """
    ask: list[bytes] = []
    theirs_only: list[bytes] = []
    differing: list[Entry] = []
    ours_only: list[Entry] = []
    for node in theirs.nodes:
        if isinstance(node, LeafNode):
            shape = leaf_shape(node.prefix, full_width=theirs.full_width)
            missing, changed, extra = compare_leaf(ours.trie_entries(node.prefix), node, shape)
            theirs_only += missing
            differing += changed
            ours_only += extra
        else:
            deeper, empty = compare_branch(our_children(ours, node.prefix), node)
            ask += deeper
            for prefix in empty:
                ours_only += ours.trie_entries(prefix)
    return Descent(
        ask=tuple(ask),
        theirs_only=tuple(theirs_only),
        differing=tuple(differing),
        ours_only=tuple(ours_only),
    )


def our_children(ours: TrieReader, prefix: bytes) -> list[tuple[bytes, int]]:
    """Return (hash, count) of a node's 16 children, also where our node is a leaf."""
    children = ours.trie_children(prefix)
    if children is not None:
        return children
    children = [(EMPTY, 0)] * FANOUT
    entries = [key + value for key, value, _, _ in ours.trie_entries(prefix)]
    for nibble, part in split(entries, len(prefix)):
        children[nibble] = leaf_hash(part), len(part)
    return children


def compare_branch(ours: Sequence[tuple[bytes, int]], theirs: BranchNode) -> tuple[list[bytes], list[bytes]]:
    """Return (prefixes of children to ask for, prefixes of children that only we have)."""
    there = children_of(theirs)
    absent = [
        theirs.prefix + bytes([nibble])
        for nibble, (_, count) in enumerate(ours)
        if count and not theirs.bitmap >> nibble & 1
    ]
    if not theirs.hashes:
        return [], absent  # Its children follow in the summary themselves.
    width = len(theirs.hashes) // len(there)
    differ = [
        prefix
        for at, (nibble, prefix) in enumerate(there)
        if theirs.hashes[at * width : (at + 1) * width] != ours[nibble][0][:width]
    ]
    return differ, absent


def compare_leaf(
    entries: Iterable[Entry], theirs: LeafNode, shape: LeafShape
) -> tuple[list[bytes], list[Entry], list[Entry]]:
    """Return (key hashes that only they have, our entries that differ, our entries that they lack)."""
    skip, key_width, entry_width = shape
    tail = key_width - skip
    there = {theirs.entries[at : at + shape.step] for at in range(0, len(theirs.entries), shape.step)}
    here = {entry[0][skip:key_width] + entry[1][:entry_width]: entry for entry in entries}
    keys_there = {part[:tail] for part in there - here.keys()}
    ours = [part for part in here if part not in there]
    known = whole_bytes(theirs.prefix)
    return (
        sorted(known + key for key in keys_there - {part[:tail] for part in ours}),
        [here[part] for part in ours if part[:tail] in keys_there],
        [here[part] for part in ours if part[:tail] not in keys_there],
    )
