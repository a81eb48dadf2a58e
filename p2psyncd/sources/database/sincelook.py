"""What came in since the last look at the file began, so that its findings are not taken for newer than they are."""

from __future__ import annotations

from collections.abc import Sequence

from p2psyncd.core.item import Kind
from p2psyncd.sources.database.keys import identities, unpack_key
from p2psyncd.sources.database.show import HELD, Catalogue, Places, natural
from p2psyncd.sources.source import Observation

__all__ = ["SinceLook", "known_by_now"]


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


def known_by_now(store: Catalogue, places: Places, seen: Sequence[Observation]) -> set[bytes]:
    """Return the keys of rows that were seen as new ones and have been recorded since, with another birth.

    Another scan ran at the same time, and the app touched the rows in between.
    """
    born: dict[tuple[str, int], bytes] = {}
    for one in seen:
        if one.base_state or one.draft.kind is Kind.TOMBSTONE:
            continue
        at = unpack_key(one.draft.key)
        number = natural(at)[0] if at.birth else None
        if type(number) is int:
            born[at.table, number] = one.draft.key
    known = {
        key for (table, number), key in born.items() if places.occupants.get((table, (number,)), key) != key
    }
    for row in store.below_each([identities(table, number) for table, number in born]):
        at = unpack_key(row.key)
        key = born.get((at.table, natural(at)[0])) if at.pk else None  # type: ignore[arg-type]  # or no number of a row
        if (
            key is not None
            and row.key != key
            and row.state not in {b"", HELD}
            and row.key not in places.moved
        ):
            known.add(key)
    return known
