"""What a running share asks of its source, beyond what the engine asks: the same of a folder and of a database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from p2psyncd.sources.source import Dirty, Source

__all__ = ["Difference", "LocalSource"]


class Difference(Protocol):
    """Something that is not as recorded; `ItemError` is one."""

    @property
    def key(self) -> bytes:
        """Which item."""
        ...

    @property
    def reason(self) -> str:
        """What is wrong with it, in words for the user."""
        ...


class LocalSource(Source, Protocol):
    """A source with what it takes to live with on this device."""

    @property
    def filesystem(self) -> int | None:
        """Identity of the file system it lies on, to be known again after a restart; None where that is no matter."""
        ...

    @property
    def limited(self) -> str | None:
        """Why changes may be found late, in words for the user; None while nothing is wrong."""
        ...

    @property
    def limited_command(self) -> str | None:
        """The command against that."""
        ...

    @property
    def waiting(self) -> str:
        """What it waits for that somebody else has to let go of, in words for the user; empty if for nothing."""
        ...

    def told(self) -> Dirty:
        """Return at once what the watch has been told of so far."""
        ...

    def take_busy(self) -> Dirty:
        """Return what earlier scans have to look at again, and forget it."""
        ...

    def approve(self, *, catch_up: bool) -> None:
        """Take what held the share as it is now: the user approved it.

        Args:
            catch_up: Of data that went back to an earlier state: take the peers' newer versions again, where
                the default is that what is here now counts.

        Raises:
            ShareHeld: That does not mend it.
        """
        ...

    def prune(self, share_bytes: int) -> int:
        """Hold what is kept of earlier versions to its limits; return the bytes that it takes then."""
        ...

    def verify(self) -> Iterator[Difference]:
        """Read everything again and yield what is not as recorded."""
        ...
