"""What people ask of one share beside its state: conflicts, earlier versions, problems; a desk for each kind of share.

Whatever the kind, a conflict is a winner and its losers. A folder's losers are files beside the winner, a
database's are cells that lost; only the desk of that kind knows where they are and how one is put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from p2psyncd.control.messages import Check, ItemError, Keep, Restored, ShareStatus, Version
from p2psyncd.core.ids import ActorId
from p2psyncd.core.storage import ShareStorage

__all__ = ["Desk", "FoundConflict", "Side", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One version of a conflict."""

    actor: ActorId | None
    """Whose write it is; None where nobody knows."""
    time: str
    """When it was written, RFC 3339."""
    where: str
    """As `conflict list` shows it: a conflict copy's path below the share; table, key, column and value."""
    place: str
    """As `conflict show` does: the absolute path; the value."""
    by: str = ""
    """Instead of a device's name: whose it is in words."""
    written_us: int = 0
    size: int = 0
    digest: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConflict:
    """One conflict as the store has it."""

    id: str
    key: bytes
    item: str
    winner: Side | None
    losers: tuple[Side, ...]
    handles: tuple[bytes, ...]
    """What names each loser in the store; a conflict with a new one is news."""
    since_us: int


class Desk(Protocol):
    """What people ask of one share; what blocks says so."""

    def name_of(self, key: bytes) -> str:
        """Return an item's key as people know it."""
        ...

    @property
    def conflicts(self) -> int:
        """How many items have conflicts."""
        ...

    def find_conflicts(self, store: ShareStorage) -> list[FoundConflict]:
        """Return the share's conflicts; blocks, in the replica's thread."""
        ...

    async def resolve(self, found: FoundConflict, *, keep: Keep, loser: int) -> None:
        """Do what a person chose, as local changes, which travel like any other.

        Raises:
            BadRequest: This conflict cannot be resolved so.
        """
        ...

    async def versions(self, key: bytes) -> list[Version]:
        """Return the earlier versions of an item, or of all below it (of all for b""), newest first."""
        ...

    async def restore(self, key: bytes, version: str | None) -> Restored:
        """Put an earlier version back in place, as a new write.

        Raises:
            NoSuchItem: Nothing (or not that version) is kept.
        """
        ...

    def errors(self) -> Iterator[ItemError]:
        """Give what is wrong beside what could not be read or applied."""
        ...

    def describe(self, row: ShareStatus) -> None:
        """Add to a share's status what only this kind of share has."""
        ...

    def checks(self) -> list[Check]:
        """Return the lines of `doctor` that only this kind of share has; blocks."""
        ...


def check(name: str, problem: str, advice: str, *, fine: str, fatal: bool = False) -> Check:
    """Return one line of `doctor`: fine, or the problem with what to do."""
    if not problem:
        return Check(name=name, ok="ok", message=fine, advice="")
    return Check(name=name, ok="fail" if fatal else "warn", message=problem, advice=advice)
