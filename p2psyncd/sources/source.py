"""What the engine may ask of a source, whatever it is made of.

A source captures local changes as drafts, applies remote versions, and merges two concurrent
versions of one item. It decides nothing about versions, knowledge or peers. Except for `watch`
everything here blocks, and is called in a worker thread by the replica, the one writer of its share.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import trio

from p2psyncd.core.frozen import frozen
from p2psyncd.core.item import Draft, Item
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot

__all__ = [
    "Applied",
    "ContentReader",
    "ContentWriter",
    "Dirty",
    "Failed",
    "ItemError",
    "Merged",
    "Observation",
    "Outcome",
    "Restated",
    "Side",
    "Source",
    "Surprised",
    "Unapplied",
]


@frozen
class Observation:
    """A local change that a scan found."""

    draft: Draft
    """What is there now; kind TOMBSTONE: it is gone."""
    state: bytes
    """Fingerprint of what was read; empty for TOMBSTONE."""
    base_state: bytes
    """The fingerprint that the store listed before: the replica drops the observation if the store
    says something else by the time it is recorded."""
    changed_us: int
    """When it changed, as far as the source can tell (ctime), microseconds since 1970; 0: unknown."""
    chunks: bytes = b""
    """Packed chunk list of the content (large files), else empty."""
    baseline: bool = False
    """It was there before the share was: a version of nobody's, the same on every device that has the same."""
    partial: bool = False
    """What is there lacks a part of this version, which is to be put in place over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemError:
    """Something that could not be read; what lies at and below it is unknown, not deleted."""

    key: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unapplied:
    """An item that the store lists as applied though nothing here stands for it, or something else does.

    It was ignored when it came, or had no place here, and that is not so any more: the replica makes it pending again.
    """

    key: bytes
    shown: bytes = b""
    """Fingerprint of what is there instead, of which nothing is to be kept; empty if nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirty:
    """Where local changes may be: hints for a scan."""

    keys: frozenset[bytes] = frozenset()
    """Items to look at (not below them)."""
    subtrees: frozenset[bytes] = frozenset()
    """Directories to scan with all that lies below; b"" is everything."""


class Side(Enum):
    """One of two concurrent versions."""

    OURS = "ours"
    THEIRS = "theirs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What becomes of two concurrent versions of one item: a pure function of the two."""

    winner: Side
    rewrite: Draft | None = None
    """A new write, on top of both, by this device (an edit beats a delete; chmod joins an edit)."""
    aside: Draft | None = None
    """The loser under its conflict copy's key, to be written by whoever holds the loser's bytes;
    None where nothing needs keeping (equal content, a delete, a mere change of metadata)."""


@frozen
class Applied:
    """A pending version is in place; `state` is its fingerprint (empty for a tombstone)."""

    key: bytes
    state: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Surprised:
    """Something else than the base was found: a local edit. Nothing was changed; look at `key` again."""

    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A pending version could not be applied; the reason is for the user."""

    key: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restated:
    """Another item is shown differently now, though its version did not change; `state` is its fingerprint."""

    key: bytes
    state: bytes


Outcome = Applied | Surprised | Failed | Restated


class ContentReader(Protocol):
    """Opened content of an applied item; reading checks that it is still that content's file."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes.

        Raises:
            OSError: The file is shorter now.
        """
        ...

    def unchanged(self) -> bool:
        """Return whether the file still has the fingerprint it was opened with."""
        ...

    def close(self) -> None:
        """Release the descriptor."""
        ...


class ContentWriter(Protocol):
    """Content on its way into staging, under its digest."""

    resume_at: int
    """Bytes from the start that are here from an earlier try; only what follows need come."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset."""
        ...

    def leave_zeros(self, end: int) -> None:
        """Note that from the furthest piece to `end` there are only zeros, which need not be written."""
        ...

    def commit(self) -> None:
        """Verify the whole content against its digest and size, and make it known as staged.

        Raises:
            RemoteProtocolError: The digest differs; the bytes are discarded.
        """
        ...

    def suspend(self) -> None:
        """Close, and keep what came without a gap for another try."""
        ...

    def abandon(self) -> None:
        """Close and discard."""
        ...


class Source(Protocol):
    """A folder or a database."""

    whole: bool
    """Whether what was changed together appears together: one scan's findings are recorded in one step, and what a
    peer sends is applied once it has sent all of it."""

    def check(self) -> None:
        """Raise `ShareHeld` when the root is not what it was (marker gone, other file system, swapped)."""
        ...

    def scan(self, dirty: Dirty) -> Iterator[Observation | ItemError | Unapplied]:
        """Compare what is there with what the store lists and yield the differences.

        Parents come before children; deletions come last, and after them only what took the name of a
        directory. Dirs listed once each. Equal things are not yielded. `Dirty(subtrees={b""})` is a full scan.
        """
        ...

    def confirm(self, observations: Sequence[Observation]) -> list[Observation]:
        """Return the observations that are no mere passing state of an `apply` that ran beside the scan.

        Called under the replica's lock, when nothing is being applied.
        """
        ...

    async def watch(self, notify: Callable[[Dirty], None], *, task_status: trio.TaskStatus[None]) -> None:
        """Report where changes may be, until cancelled; started once watching really works.

        `notify` is called in trio's thread. A lost event is reported as `Dirty(subtrees=…)`.
        """
        ...

    def merge(self, ours: Item, theirs: Item) -> Merged:
        """Decide about two concurrent versions of one key; pure, symmetric but for `Side`."""
        ...

    def buried(self, item: Item) -> Draft:
        """Return what an item is once it is deleted, as its tombstone; pure."""
        ...

    def knows_baseline(self, item: Item, baseline: Item) -> bool:
        """Return whether a version was written in knowledge of this one, which was there before the share was; pure.

        Others have another one under the same key, and the same dot.
        """
        ...

    def is_conflict(self, key: bytes) -> bool:
        """Return whether a key names a conflict copy; pure."""
        ...

    def copies_begin(self, key: bytes) -> bytes:
        """Return how the keys of an item's conflict copies begin, and perhaps others; empty if it has none; pure."""
        ...

    def is_copy_of(self, copy: bytes, key: bytes) -> bool:
        """Return whether a key names a conflict copy of an item; pure."""
        ...

    def deletion(self, item: Item) -> Draft:
        """Return the draft of a delete of an item, which may name what it deletes; pure."""
        ...

    def made_by(self, item: Item) -> Dot:
        """Return the write that made an item's content: of a conflict copy, the loser's; pure."""
        ...

    def lost_write(self, copy: Item) -> Dot | None:
        """Return the write whose content a conflict copy (or the tombstone of one) was made of; None if it cannot be told; pure."""
        ...

    def stamped_again(self, item: Item, dot: Dot, since: int) -> Item:
        """Return a version of our own as another write, because this replica goes on as another actor; pure.

        Args:
            item: The version, which still has the name that the old actor gave it.
            dot: Its name from now on.
            since: The last write of the old actor that is surely no other's.
        """
        ...

    def aside(self, item: Item) -> Draft:
        """Return the losing version `item` as its conflict copy: a pure function of the version, key and all.

        Whoever makes the copy, it is one content: its metadata names the write that made it, if any does.
        """
        ...

    def mend(self, changed: Collection[bytes]) -> list[Draft]:
        """Return the writes that make merged versions fit together again (a child whose parent is deleted, say).

        A function of the merged versions: whoever makes these writes, they are equal. Keys that changed are given
        from one moment of the device that changed them.
        """
        ...

    @property
    def due(self) -> bool:
        """Whether there is something to `keep`."""
        ...

    def keep(self) -> None:
        """Keep in mind what a look leaves to be kept, once all that it found is recorded; called under the replica's lock."""
        ...

    @property
    def rest_s(self) -> float:
        """How long nothing is to be put in place: apps that are at work here have a right to their turns."""
        ...

    @property
    def unsettled(self) -> Collection[bytes]:
        """What is to be shown anew, and is not yet: an edit stood in the way, which has to be looked at first."""
        ...

    @property
    def unmended(self) -> Collection[bytes]:
        """What `mend` could not look after yet: the file was locked."""
        ...

    def unsettle(self, changed: Collection[bytes]) -> None:
        """Note what local changes have consequences for; called in the step that records them."""
        ...

    def reshow(self) -> list[Outcome]:
        """Put in place what is noted, as far as that can be done now; return only what is `Restated` by it.

        Called under the replica's lock.
        """
        ...

    def noted(self, outcomes: Sequence[Outcome]) -> None:
        """Note that the store has written down what `apply` or `reshow` has done; called under the replica's lock."""
        ...

    def preserve(self, stored: Stored, key: bytes) -> bytes | None:
        """Copy an applied thing's bytes to a new name, durably, and return the copy's fingerprint.

        None: `stored` is no longer what is there (a local edit that was not captured yet).
        """
        ...

    def stage_local(self, wanted: Sequence[Pending]) -> set[bytes]:
        """Find content of pending versions on this device and return the keys that need no fetching.

        Equal digest: staged already, unchanged content, a local copy, or a move.
        """
        ...

    def writer(self, digest: bytes, size: int) -> ContentWriter:
        """Begin staging a content that comes from a peer."""
        ...

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Stage a small content in one step; same errors as `ContentWriter.commit`."""
        ...

    def reader(self, stored: Stored) -> ContentReader | None:
        """Open an applied item's content; None if it is no longer there as recorded."""
        ...

    def witness(self) -> bytes | None:
        """Return what `put_witness` left beside the data; None if nothing did, or it cannot be read."""
        ...

    def put_witness(self, witness: bytes) -> None:
        """Leave a mark of the state's last opening beside the data, durably, where that is possible.

        An older state that is put back, or older data, is known by it.
        """
        ...

    def tidy(self) -> int:
        """Throw away what was staged and is not wanted; return how many things.

        Only while nothing is being fetched or applied.
        """
        ...

    def apply(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Put pending versions in place, each either wholly or not at all, durably when this returns.

        The source orders them (directories first, deletes last). What is replaced or deleted goes
        to history. Only keys that `stage_local` returned or whose content was staged may be passed.
        """
        ...
