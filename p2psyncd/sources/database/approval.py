"""What a person has decided about a file that was held: kept until it is carried out, which may take more than one process.

The number that the file has from then on tells whether it came so far that the file was changed. If it did not, the file is as it
was, or the right one is back: then nothing was decided about it.
"""

from __future__ import annotations

from typing import Protocol

import cbor2

from p2psyncd.core.storage import ShareStorage
from p2psyncd.sources.database.show import Settings

__all__ = ["Approval"]

NAME = "database-approval"


class Store(ShareStorage, Settings, Protocol):
    """Where it is kept."""


class Approval:
    """See the top of the file."""

    def __init__(self, store: Store) -> None:
        self.store = store
        packed = store.setting(NAME)
        self.left: tuple[int, bool] | None = tuple(cbor2.loads(packed)) if packed else None
        """What the last process left to be done: the file's number, and whether it is to catch up."""
        self.done = False
        """Whether nothing is left of it, or of what was decided since."""
        self.counts = False
        """Whether the file is to count as it is, and not every row was looked at since."""

    def begin(self, number: int, *, catch_up: bool) -> None:
        """Note a decision, right before the file gets a number that says so."""
        with self.store.transaction(durable=True):
            self.store.set_setting(NAME, cbor2.dumps([number, catch_up]))
        self.left, self.done = None, False

    def take_up(self, first: int) -> bool | None:
        """Return whether the file is to catch up; None if nothing is left to be done.

        Args:
            first: The number that the file had when it was first looked at.
        """
        if self.left is None:
            return None
        (number, catch_up), self.left = self.left, None
        self.done = first < number
        return None if self.done else catch_up

    def forget(self) -> None:
        """Keep it no longer."""
        if self.done and self.store.setting(NAME):
            self.store.set_setting(NAME, b"")
        self.done = False
