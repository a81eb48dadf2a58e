"""How two versions of one item stand to each other. The functions here are pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from p2psyncd.core.item import TOMBSTONE, Draft, Item, Kind, wins
from p2psyncd.core.storage import Stored
from p2psyncd.core.version import unpack_vector
from p2psyncd.sources.source import Observation

__all__ = [
    "covers_all",
    "folders_above",
    "is_passed_over",
    "is_plainly_new",
    "is_same",
    "is_touched_directory",
    "same_content",
    "shown_as",
]

SHOWN_OTHERWISE = b"shown otherwise"


def folders_above(keys: Iterable[bytes]) -> set[bytes]:
    """Return the keys above some keys, each made once: folders may lie in one another two thousand deep."""
    found: set[bytes] = set()
    for key in keys:
        above = key.rpartition(b"/")[0]
        while above and above not in found:
            found.add(above)
            above = above.rpartition(b"/")[0]
    return found


def is_plainly_new(one: Observation) -> bool:
    """Return whether something is there that was not, and nothing more is to be noted of it."""
    return one.draft.kind is not TOMBSTONE and not (
        one.base_state or one.chunks or one.baseline or one.partial
    )


def is_passed_over(item: Item, stored: Stored | None) -> bool:
    """Return whether a version that was known here cannot have been overtaken by what is here now.

    Then it was deleted, and the tombstone is forgotten; what is here was written without knowing it, and came later. What
    says just the same is that version under another name: its writer has stamped it again, as another actor.
    """
    if stored is None:
        return True
    ours = stored.item
    concurrent = not ours.covers(item.dot) and not item.covers(ours.dot)
    return concurrent and wins(item, ours) and not ours.same_value(item)


def covers_all(item: Item, other: Item) -> bool:
    """Return whether a version knows all that another one does."""
    if not other.vector or item.vector == other.vector:
        return True
    known = {**unpack_vector(item.vector), item.dot.actor: item.dot.seq}
    return all(known.get(actor, -1) >= seq for actor, seq in unpack_vector(other.vector).items())


def is_touched_directory(draft: Draft, base: Item, waiting: Item) -> bool:
    """Return whether a directory that something else is about to replace has only other metadata now.

    It has that after half of a batch, when power was cut: nothing of a user's is in it.
    """
    kinds = (draft.kind, base.kind)
    return kinds == (Kind.DIRECTORY, Kind.DIRECTORY) and waiting.live and waiting.kind is not Kind.DIRECTORY


def is_same(a: Item, b: Item) -> bool:
    """Return whether two versions are one write, and say the same."""
    return a.dot == b.dot and a.same_value(b)


def same_content(a: Item, b: Item | Draft) -> bool:
    """Return whether two versions hold the same bytes, whatever their metadata."""
    return (a.kind, a.digest) == (b.kind, b.digest)


def shown_as(item: Item, state: bytes) -> Stored:
    """Return what is in place under a key where that is not, or not all of, the version that is known of it.

    It has a digest that nothing has: what comes, and says just what that version says, must not pass for in place already.
    """
    return Stored(item=replace(item, digest=SHOWN_OTHERWISE), state=state)
