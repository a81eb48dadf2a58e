"""When rows that break a constraint of the app's file are tried again.

Whether a row breaks one is found by writing it (`writing`), and what stands in its way may go: a new version of the app has no such CHECK any
more, or another row has let go of a value. A row that breaks a constraint by itself is tried again once the schema is
another one, any other also once a row of its table goes or changes.
"""

from __future__ import annotations

from collections.abc import Collection

from p2psyncd.sources.database.keys import unpack_key
from p2psyncd.sources.database.show import Places

__all__ = ["Retries"]


class Retries:
    """What is known of the rows that are held without another row in their place."""

    def __init__(self) -> None:
        self.all = True
        """Whether all are to be tried: the schema is another one, or this process has just begun."""
        self.alone: set[bytes] = set()
        """Rows that break a constraint whatever other rows hold."""

    def due(self, places: Places, tables: Collection[str]) -> set[bytes]:
        """Return what to try again.

        Args:
            places: Which rows are held.
            tables: Those of which rows went or changed.
        """
        broken = {key for key, winner in places.held.items() if not winner}
        self.alone &= broken
        return {key for key in broken - self.alone if unpack_key(key).table in tables}

    def start(self, places: Places) -> set[bytes]:
        """Return what to try again now that everything may be another; nothing if it is not."""
        due = {key for key, winner in places.held.items() if not winner} if self.all else set()
        self.all = False
        return due
