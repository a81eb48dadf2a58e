from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import pytest

from p2psyncd.core.ids import ActorId
from p2psyncd.core.trie import KEY_HASH_BYTES, Branch, bounds, refresh
from p2psyncd.core.version import Dot


class MemoryTrie:
    """A trie in memory: what `refresh` writes and what a descent reads."""

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        self.branches: dict[bytes, Branch] = {}
        self.all: list[bytes] = []
        self.written: list[bytes] = []
        self.change(set(entries))

    def change(self, entries: set[bytes]) -> None:
        """Hold other entries from now on."""
        changed = entries.symmetric_difference(self.all)
        self.all = sorted(entries)
        refresh(self, [entry[:KEY_HASH_BYTES] for entry in changed])

    def branch(self, prefix: bytes) -> Branch | None:
        return self.branches.get(prefix)

    def put_branch(self, prefix: bytes, branch: Branch) -> None:
        self.branches[prefix] = branch
        self.written.append(prefix)

    def drop_below(self, prefix: bytes) -> None:
        for below in [other for other in self.branches if other.startswith(prefix)]:
            del self.branches[below]

    def entries(self, prefix: bytes) -> list[bytes]:
        low, high = bounds(prefix)
        return self.all[bisect_left(self.all, low) : bisect_left(self.all, high)]

    def trie_children(self, prefix: bytes) -> list[tuple[bytes, int]] | None:
        branch = self.branches.get(prefix)
        return None if branch is None else list(zip(branch.hashes, branch.counts, strict=True))

    def trie_entries(self, prefix: bytes) -> list[tuple[bytes, bytes, bytes, Dot]]:
        dot = Dot(ActorId(b"an actor"), 1)
        return [
            (entry[:KEY_HASH_BYTES], entry[KEY_HASH_BYTES:], b"key of " + entry, dot)
            for entry in self.entries(prefix)
        ]


@pytest.fixture(scope="session")
def memory_trie() -> type[MemoryTrie]:
    """The class of tries in memory."""
    return MemoryTrie
