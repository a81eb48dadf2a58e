"""What the folder source asks of a share's storage; it only reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2psyncd.core.item import Item
from p2psyncd.core.storage import Listed, Pending, Stored

__all__ = ["Catalogue", "Known", "known_of"]


class Catalogue(Protocol):
    """The part of `core.storage.ShareStorage` that is used here; see there."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """Return the newest known versions."""
        ...

    def pending_of(self, keys: Sequence[bytes]) -> dict[bytes, Pending]:
        """Return the pending rows of these keys."""
        ...

    def base_of_pending_digest(self, digest: bytes) -> list[Stored]:
        """Return applied things with this digest that a pending version is about to replace or delete."""
        ...

    def digests_here(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return which of these contents some applied file may have."""
        ...

    def with_digest(self, digest: bytes) -> list[Stored]:
        """Return applied live files with this digest."""
        ...

    def listing(self, directory: bytes) -> list[Listed]:
        """Return the live or still applied children of a directory."""
        ...

    def below(self, prefix: bytes) -> Iterator[Listed]:
        """Yield live or still applied items at and below a key, in key order."""
        ...

    def count_listed(self) -> int:
        """Return how many live or still applied items there are."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the store says of one key."""

    newest: Item
    """The newest version; a tombstone maybe."""
    applied: Stored | None
    """What is in place; None where nothing is."""

    @property
    def state(self) -> bytes:
        """Fingerprint of what is in place; empty where nothing is."""
        return self.applied.state if self.applied is not None else b""


def known_of(catalogue: Catalogue, keys: Sequence[bytes]) -> dict[bytes, Known]:
    """Return what the store says of these keys; those it has never heard of are left out."""
    if not keys:
        return {}
    newest = catalogue.get_many(keys)
    unapplied = [key for key, stored in newest.items() if not stored.state]
    pending = catalogue.pending_of(unapplied) if unapplied else {}
    known = {}
    for key, stored in newest.items():
        if stored.state:
            applied: Stored | None = stored
        else:
            waiting = pending.get(key)
            applied = waiting.base if waiting is not None else None
        known[key] = Known(newest=stored.item, applied=applied)
    return known
