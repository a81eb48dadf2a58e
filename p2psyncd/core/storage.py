"""What the engine and the sources may ask of a share's storage.

The store room implements it on SQLite; tests may use the same on `:memory:`. All calls block and
belong to one thread at a time: the replica, the one writer of its share, sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from p2psyncd.core.frozen import frozen
from p2psyncd.core.ids import ActorId, DeviceId
from p2psyncd.core.item import Item
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.version import Dot

__all__ = ["NOTHING", "Listed", "Pending", "ShareStorage", "Stored", "Totals"]

NOTHING: Knowledge = MappingProxyType({})


@frozen
class Stored:
    """An item and what the source noted about the thing on this device that it stands for."""

    item: Item
    state: bytes = b""
    """The source's fingerprint of the applied thing (folder: inode, size, mtime, ctime); empty while
    the version is known but not applied here (then it is pending), and for tombstones."""


@frozen
class Pending:
    """A version that is known but not yet applied on this device."""

    item: Item
    base: Stored | None
    """What is applied here instead, under the same key; None where there is nothing."""
    failed: str = ""
    """Why the last try failed, in words for the user; empty if none did."""


@frozen
class Listed:
    """What a scan needs to know of one item in a directory."""

    key: bytes
    kind: int
    state: bytes
    """Fingerprint of what is applied *now* (for a pending item: of its base); empty: nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts of a share."""

    items: int
    """Live items."""
    size: int
    """Bytes of live files."""
    pending_items: int
    pending_size: int
    conflicts: int
    """Live items whose key names a conflict copy."""


class ShareStorage(Protocol):
    """Everything of one share that must survive a restart."""

    def transaction(self, *, durable: bool = False) -> AbstractContextManager[None]:
        """Make all writes inside the block one step: written as a whole or not at all, also with those around it.

        Args:
            durable: Do not return before not even a power cut can undo it.
        """
        ...

    # Items
    def get(self, key: bytes) -> Stored | None:
        """Return the newest known version of an item, tombstones included."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """Return what `get` returns, for the keys that exist."""
        ...

    def put(self, rows: Iterable[Stored], *, new: bool = False) -> None:
        """Insert or replace items as *applied* (live with a state, or tombstones) and drop their pending rows.

        Each gets a new arrival number; the trie follows.

        Args:
            rows: They.
            new: Whether the caller knows that nothing is stored under any of their keys.
        """
        ...

    def put_pending(self, rows: Iterable[Pending], *, new: bool = False) -> None:
        """Insert or replace items that are known but not applied; `base` says what is applied instead; `new` as in `put`."""
        ...

    def set_state(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Note new states (key, state) of applied items whose version did not change."""
        ...

    def settle(self, rows: Iterable[tuple[bytes, Dot, bytes]]) -> None:
        """Mark pending items (key, dot, state) as applied; rows whose dot is no longer the newest are left alone."""
        ...

    def settle_all(self, rows: Sequence[tuple[Pending, bytes]]) -> None:
        """Mark rows that are pending now, just so, as applied with these states."""
        ...

    def fail(self, rows: Iterable[tuple[bytes, str]]) -> None:
        """Note why applying pending items (key, reason) failed; an empty reason clears it."""
        ...

    def pending(self, *, limit: int, after: bytes = b"") -> list[Pending]:
        """Return pending items in key order, with key > `after`."""
        ...

    def pending_of(self, keys: Sequence[bytes]) -> dict[bytes, Pending]:
        """Return the pending rows of these keys."""
        ...

    def still_pending(self, rows: Sequence[Pending], *, since: int | None = None) -> list[Pending]:
        """Return what of some pending rows is pending still, in their order, each as it is now.

        Args:
            rows: As they were pending once.
            since: The arrival number when they were, if `settle_all` has settled none of them since: spares looking at
                most of them again.
        """
        ...

    def base_of_pending_digest(self, digest: bytes) -> list[Stored]:
        """Return applied things with this digest that a pending version is about to replace or delete."""
        ...

    def digests_here(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return which of these contents some applied file may have: asked once for many items."""
        ...

    def with_digest(self, digest: bytes) -> list[Stored]:
        """Return applied live files with this content digest (at most 16)."""
        ...

    def listing(self, directory: bytes) -> list[Listed]:
        """Return the live or still applied children of a directory (b"" is the root), in no order."""
        ...

    def below(self, prefix: bytes) -> Iterator[Listed]:
        """Yield every live or still applied item whose key is `prefix` or lies under `prefix + b"/"`, in key order."""
        ...

    def count_listed(self) -> int:
        """Return how many live or still applied items there are: what `below(b"")` yields."""
        ...

    def states(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the fingerprints of what is applied now, for the keys that exist."""
        ...

    def below_each(self, prefixes: Iterable[bytes]) -> list[Listed]:
        """Return what `below` yields, for many prefixes at once, and perhaps their siblings."""
        ...

    def live_below(self, directory: bytes) -> bool:
        """Return whether any live item lies under `directory + b"/"`."""
        ...

    def beginning(self, prefix: bytes) -> list[Stored]:
        """Return the items whose keys begin so (and not with 0xff at the end), tombstones included (at most 256)."""
        ...

    def conflicts(self) -> list[Stored]:
        """Return the items that are or hold conflicts, in key order."""
        ...

    def withheld(self) -> list[Stored]:
        """Return the items whose state is one zero byte: settled, and on purpose not shown."""
        ...

    def deleted(self, *, limit: int) -> list[Stored]:
        """Return the tombstones that still say what they deleted, newest first."""
        ...

    def totals(self) -> Totals:
        """Return the counts; cheap (kept up to date)."""
        ...

    # Delta log
    def arrival(self) -> int:
        """Return the highest arrival number so far."""
        ...

    def log_above(self, knowledge: Knowledge, *, up_to: int) -> Iterator[Item]:
        """Yield items with dot.seq > knowledge[dot.actor] and arrival ≤ `up_to`, tombstones included.

        Must tolerate writes between two items (the caller reads it in slices).
        """
        ...

    def written_by(self, actor: ActorId, *, above: int) -> list[Item]:
        """Return the items whose newest version is an actor's, above a sequence number."""
        ...

    def keys_written_by(self, actor: ActorId, *, most: int) -> list[bytes]:
        """Return the keys of items whose newest version is an actor's: at most so many, in no order."""
        ...

    def log_since(
        self, arrival: int, *, limit: int, without: ActorId | None = None
    ) -> tuple[list[Item], int]:
        """Return items that arrived after `arrival`, oldest first, and the arrival number up to which that is all.

        Args:
            arrival: Where to go on.
            limit: How many at most.
            without: An actor whose writes are left out.
        """
        ...

    # Knowledge and actors
    def knowledge(self) -> dict[ActorId, int]:
        """Return K."""
        ...

    def commit_knowledge(self, knowledge: Knowledge, forgotten: Knowledge = NOTHING) -> None:
        """Join `knowledge` into K and `forgotten` into G, durably."""
        ...

    def forgotten(self) -> dict[ActorId, int]:
        """Return G: up to which write of an actor tombstones may have been forgotten."""
        ...

    def forget(self, covered: Knowledge, *, covered_before_us: int, before_us: int) -> int:
        """Forget applied tombstones and note them in G; return how many.

        One that knows of a write which K does not cover stays: what it deleted would come as new.

        Args:
            covered: What every member knows.
            covered_before_us: Tombstones of such writes go if they came before this moment of the local clock.
            before_us: So do all that came before this one.
        """
        ...

    def note_member(self, device: DeviceId, knowledge: Knowledge) -> None:
        """Remember what a member of the share knows."""
        ...

    def members(self) -> dict[DeviceId, dict[ActorId, int]]:
        """Return what the members of the share were last known to know."""
        ...

    def actor(self) -> ActorId:
        """Return this replica's actor."""
        ...

    def renew_actor(self, actor: ActorId) -> None:
        """Go on as another actor; the old one stays known."""
        ...

    def lower_knowledge(self, actor: ActorId, seq: int) -> None:
        """Set what K says of an actor back (-1: to nothing): what it claimed above that is not true."""
        ...

    def last_boot(self, actor: ActorId) -> tuple[int, bytes, int] | None:
        """Return number and nonce of the last opening of an actor's state that was met, and what was known then."""
        ...

    def note_boot(self, actor: ActorId, number: int, nonce: bytes) -> None:
        """Remember an opening of an actor's state, and what is known of the actor now."""
        ...

    def note_contact(self, actor: ActorId) -> None:
        """Remember what is known now of an actor that this replica is in contact with."""
        ...

    def next_seq(self, now_us: int, count: int = 1) -> int:
        """Return the first of `count` fresh sequence numbers of this actor: max(last + 1, now); K follows."""
        ...

    def actor_devices(self) -> dict[ActorId, DeviceId]:
        """Return which device each actor belongs to, as far as known."""
        ...

    def learn_actors(self, actors: Iterable[tuple[ActorId, DeviceId]]) -> None:
        """Remember which device actors belong to."""
        ...

    # Merkle summary
    def root(self) -> bytes:
        """Return the 32-byte root of the live items."""
        ...

    def trie_children(self, prefix: bytes) -> list[tuple[bytes, int]] | None:
        """Return (32-byte hash, count) of the 16 children of a node, or None if the node is a leaf.

        Args:
            prefix: One byte (0..15) for each nibble from the root; b"" is the root itself.
        """
        ...

    def trie_entries(self, prefix: bytes) -> list[tuple[bytes, bytes, bytes, Dot]]:
        """Return (key hash, entry hash, key, dot) of the live items below a node, in key-hash order."""
        ...

    def rebuilt_root(self) -> bytes:
        """Return the root computed from the items alone: differs from `root` only after bit rot."""
        ...

    # Settings and content
    def setting(self, name: str) -> bytes | None:
        """Return a stored value of this share."""
        ...

    def set_setting(self, name: str, value: bytes) -> None:
        """Store a value of this share."""
        ...

    def chunk_list(self, digest: bytes) -> bytes | None:
        """Return the packed chunk list of a content, if known."""
        ...

    def put_chunk_list(self, digest: bytes, chunks: bytes) -> None:
        """Remember the packed chunk list of a content."""
        ...
