"""The Merkle trie's branches in a share's file, beside the items that are its leaves."""

from __future__ import annotations

import struct

from p2psyncd.core.trie import ENTRY_BYTES, FANOUT, HASH_BYTES, Branch, bounds, branch_hash, leaf_hash
from p2psyncd.store.database import Database

__all__ = ["Nodes"]

COUNTS = struct.Struct(f">{FANOUT}I")
HASHES_BYTES = FANOUT * HASH_BYTES


class Nodes:
    """What `core.trie.refresh` needs, on SQLite; branches are written by `flush`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.unwritten: list[tuple[bytes, bytes]] = []

    def branch(self, prefix: bytes) -> Branch | None:
        """Return a stored branch; None: the node is a leaf."""
        row = self.database.found("SELECT children FROM branches WHERE prefix = ?", (prefix,))
        if row is None:
            return None
        packed: bytes = row[0]
        hashes = [packed[at : at + HASH_BYTES] for at in range(0, HASHES_BYTES, HASH_BYTES)]
        return Branch(hashes, COUNTS.unpack_from(packed, HASHES_BYTES))

    def put_branch(self, prefix: bytes, branch: Branch) -> None:
        """Note a branch for `flush`."""
        self.unwritten.append((prefix, b"".join(branch.hashes) + COUNTS.pack(*branch.counts)))

    def drop_below(self, prefix: bytes) -> None:
        """Remove the branch at a prefix and all below it."""
        self.database.run(
            "DELETE FROM branches WHERE prefix >= ? AND prefix < ?", (prefix, prefix + bytes([FANOUT]))
        )

    def entries(self, prefix: bytes) -> list[bytes]:
        """Return the entries below a prefix, ascending."""
        rows = self.database.rows(
            "SELECT mark FROM items WHERE mark >= ? AND mark < ? AND length(mark) = ? ORDER BY mark",
            (*bounds(prefix), ENTRY_BYTES),
        )
        return [mark for (mark,) in rows]

    def flush(self) -> None:
        """Write the branches that were put."""
        self.database.run_many(
            "INSERT OR REPLACE INTO branches (prefix, children) VALUES (?, ?)", self.unwritten
        )
        self.unwritten = []

    def root(self) -> bytes:
        """Return the hash of the whole trie."""
        branch = self.branch(b"")
        return leaf_hash(self.entries(b"")) if branch is None else branch_hash(branch.hashes)
