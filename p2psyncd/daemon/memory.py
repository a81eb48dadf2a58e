"""Giving memory back: after a large sync most of what was used is free, but still the process's."""

from __future__ import annotations

import ctypes
from functools import cache

import trio

from p2psyncd.daemon.executor import Executor
from p2psyncd.daemon.replica import Replica

__all__ = ["give_back", "give_back_after_work"]

# Below this many items the heap hardly grows; `malloc_trim` costs some milliseconds.
ITEMS_WORTH_IT = 1000
QUIET_S = 1.0


@cache
def trimmer() -> ctypes.CDLL | None:
    """Return the C library if it can trim its heap (glibc can)."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def give_back() -> None:
    """Return free memory to the system; blocks for some milliseconds."""
    library = trimmer()
    if library is not None:
        library.malloc_trim(0)


async def give_back_after_work(replica: Replica, executor: Executor) -> None:
    """Give memory back whenever a replica falls quiet after much work, for ever."""
    worked_at = -1
    while True:
        changed = replica.signal.event
        arrival = replica.standing.arrival
        if worked_at < 0 or arrival - worked_at >= ITEMS_WORTH_IT:
            with trio.move_on_after(QUIET_S) as quiet:
                await changed.wait()
            if quiet.cancelled_caught and replica.totals.pending_items == 0:
                worked_at = arrival
                await executor.run(give_back)
        else:
            await changed.wait()
