"""What one transaction of the ledger reads and is about to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending, Stored

__all__ = ["Page"]


@dataclass(slots=True)
class Page:
    """Rows that one transaction is about to write, in order of decision."""

    stored: dict[bytes, Stored]
    pending: dict[bytes, Pending]
    unknown: set[bytes] = field(default_factory=set)
    """Keys under which nothing is stored."""
    puts: dict[bytes, Stored] = field(default_factory=dict)
    pendings: dict[bytes, Pending] = field(default_factory=dict)
    states: dict[bytes, bytes] = field(default_factory=dict)
    former: set[bytes] = field(default_factory=set)
    """Keys of directories that are none any more."""

    def note_former(self, key: bytes, item: Item) -> None:
        """Remember a directory that becomes something else: what lives in it must be looked after."""
        old = self.stored.get(key)
        if old is not None and old.item.kind is Kind.DIRECTORY and item.kind is not Kind.DIRECTORY:
            self.former.add(key)

    def put(self, row: Stored) -> None:
        """Write an applied version (or a tombstone)."""
        key = row.item.key
        self.note_former(key, row.item)
        self.puts[key] = row
        self.pendings.pop(key, None)
        self.stored[key] = row
        self.pending.pop(key, None)

    def put_new(self, items: Sequence[Item]) -> bool:
        """Write versions that are not applied yet, all of keys under which nothing is stored; return False if there are others.

        The page is not to be asked about these keys again.
        """
        if len(self.unknown) != len(items) or self.stored or not all(item.kind for item in items):
            return False
        self.pendings = {item.key: Pending(item=item, base=None) for item in items}
        return True

    def put_pending(self, row: Pending) -> None:
        """Write a version that is not applied yet; a tombstone over nothing is applied at once."""
        key = row.item.key
        if row.base is None and not row.item.live:
            self.put(Stored(item=row.item))
            return
        self.note_former(key, row.item)
        self.pendings[key] = row
        self.puts.pop(key, None)
        self.stored[key] = Stored(item=row.item)
        self.pending[key] = row

    def applied(self, key: bytes) -> Stored | None:
        """Return what is on this device under a key, as far as the store knows."""
        waiting = self.pending.get(key)
        if waiting is not None:
            return waiting.base
        stored = self.stored.get(key)
        return stored if stored is not None and stored.state else None
