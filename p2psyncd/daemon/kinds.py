"""What it takes to share a folder or a database on this device: the seam between the table of shares and the sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from p2psyncd.core.item import Draft, Item
from p2psyncd.core.storage import ShareStorage
from p2psyncd.daemon.copies import Copies
from p2psyncd.daemon.desk import Desk
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.transfer import Held
from p2psyncd.sources.local import LocalSource
from p2psyncd.store.device import ShareRecord
from p2psyncd.store.reading import ShareReader

__all__ = ["COUNTERS", "LOOKS_ONLY", "PROPAGATE", "WITHOUT", "Choice", "Opened", "SourceKind"]

Choice = Literal["merge", "adopt"]
"""What becomes of what is at the path of an offered share: it is united with the share, or put aside."""

# What the record of a database's share tells its source: tables to leave out; whether tables and columns of peers are
# made here; whether nothing is ever written to the file.
WITHOUT, COUNTERS, PROPAGATE, LOOKS_ONLY = "without", "counters", "propagate_schema", "looks_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A share's source, and what belongs to it."""

    source: LocalSource
    desk: Callable[[RunningShare], Desk]
    directory: Callable[[bytes, Item | None], Draft] | None
    """Makes the draft of a directory, where items lie in directories; see `Ledger.settle_structure`."""
    acceptable: Callable[[Item], bool]
    """Whether a key may name an item; pure."""
    held: Callable[[Callable[[int], None]], Held]
    """Returns what peers may fetch, given what counts it."""
    copies: Copies | None = None
    """Copies of the whole, for who has nothing yet; None: there are none."""


class SourceKind(Protocol):
    """One kind of share; everything here blocks."""

    def is_conflict(self, item: Item) -> bool:
        """Return whether an item is a conflict copy, or holds what lost a conflict; pure."""
        ...

    def directory(self, key: bytes) -> bytes:
        """Return what keys have in common that are likely to be written together; see `core.trie.key_hash`."""
        ...

    def check_new(self, path: Path) -> Path:
        """Return the real path of what is to be shared.

        Raises:
            P2psyncError: It cannot be shared; the class says why.
        """
        ...

    def check_settings(self, path: Path, settings: Mapping[str, object]) -> None:
        """See whether what a person said of how it is to be synced fits what is to be shared.

        Raises:
            BadRequest: It speaks of what is not there.
        """
        ...

    def overlaps(self, root: Path, other: ShareRecord) -> bool:
        """Return whether something cannot be shared beside another share."""
        ...

    def check_choice(self, path: Path, choice: Choice | None, settings: Mapping[str, object]) -> None:
        """See whether an offered share can be put into a path without a person's word.

        Raises:
            Undecided: Somebody has to say first what becomes of what is there.
            BadRequest: There is no such choice for this kind of share.
        """
        ...

    def make(self, path: Path, choice: Choice | None, settings: Mapping[str, object]) -> bool:
        """Make what an offered share is to be put into, if it is missing, and return whether it was; put aside what is to go.

        Raises:
            P2psyncError: It cannot be made there.
        """
        ...

    def unmake(self, path: Path) -> None:
        """Take away what was made for nothing; what holds something by now stays."""
        ...

    def mark(self, record: ShareRecord) -> None:
        """Leave the share's mark beside its data, before it is opened for the first time.

        Raises:
            P2psyncError: It cannot be left there.
        """
        ...

    def open(self, record: ShareRecord, store: ShareStorage, catalogue: ShareReader) -> Opened:
        """Open the source.

        Args:
            record: The share.
            store: Its state, for the replica's thread.
            catalogue: A view of the same for other threads.

        Raises:
            OSError, P2psyncError: It cannot be used now.
        """
        ...

    def unmark(self, record: ShareRecord, source: LocalSource | None) -> None:
        """Take everything of ours away from the data; the share is over.

        Args:
            record: The share.
            source: Its source, where it could be opened; without it, what can be done is done.

        Raises:
            OSError, P2psyncError: It cannot be done now.
        """
        ...
