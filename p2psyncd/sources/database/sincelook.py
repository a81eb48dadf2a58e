"""What came in since the last look at the file began, so that its findings are not taken for newer than they are."""

from __future__ import annotations

__all__ = ["SinceLook"]


class SinceLook:
    """Rows that were put in place, and whether anything else arrived in the store."""

    def __init__(self) -> None:
        self.applied: set[bytes] = set()
        """Keys of rows that were written to the file since the look began."""
        self.known_to = -1
        """The arrival number of the last item that the look, and what it recorded, know of; -1: there was no look."""
        self.alone = False
        """Whether nothing else came in before what is being recorded."""

    def begin(self) -> None:
        """Note that a look begins, before it reads anything."""
        self.applied.clear()
        self.known_to = -1

    def is_alone(self, arrival: int) -> bool:
        """Return whether nothing came in since the look but what it found itself, as of an arrival number of the store."""
        self.alone = arrival == self.known_to and not self.applied
        return self.alone

    def recorded(self, arrival: int) -> None:
        """Note that what was found is recorded, right after `is_alone` was asked."""
        if self.alone:
            self.known_to, self.alone = arrival, False
