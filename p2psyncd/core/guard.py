"""Rules that stop a share before something is lost."""

from __future__ import annotations

__all__ = ["EMPTIED_ITEMS_MIN", "FREE_BYTES_MIN", "MASS_DELETE_ITEMS_MIN", "has_room", "is_mass_delete"]

MASS_DELETE_ITEMS_MIN = 100
# So many that were all deleted while nobody looked are more likely a disk that lost them.
EMPTIED_ITEMS_MIN = 10
FREE_BYTES_MIN = 256 * 1024 * 1024


def is_mass_delete(deleted: int, known: int, *, unwatched: bool = False) -> bool:
    """Return whether a scan found so much gone that a person should approve it.

    Args:
        deleted: Items that one scan found gone.
        known: Live items before that scan.
        unwatched: Nobody watched the share until that scan, so that no deletion can have been told of.
    """
    if unwatched and deleted >= known and deleted >= EMPTIED_ITEMS_MIN:
        return True
    return deleted >= MASS_DELETE_ITEMS_MIN and 2 * deleted >= known


def has_room(free_bytes: int, total_bytes: int, wanted_bytes: int = 0) -> bool:
    """Return whether content may be fetched: 1 % and 256 MiB of the disk stay free afterwards.

    Args:
        free_bytes: What is free for this user now.
        total_bytes: Size of the file system.
        wanted_bytes: What is about to be written.
    """
    left = free_bytes - wanted_bytes
    return left >= FREE_BYTES_MIN and 100 * left >= total_bytes
