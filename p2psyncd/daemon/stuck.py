"""Tells of shares that are held or in error, and that they go on again, in the list of events."""

from __future__ import annotations

from p2psyncd.daemon.journal import Journal
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.report import share_state
from p2psyncd.daemon.share import RunningShare

__all__ = ["tell_of_stops"]

STOPS = frozenset({"held", "error"})


async def tell_of_stops(journal: Journal, share: RunningShare) -> None:
    """Tell whenever a share stops, with the reason, and when it goes on; for ever."""
    told: tuple[str, str | None] | None = None
    while True:
        changed = share.replica.signal.event
        now = share_state(share)
        if now[0] in STOPS and now != told:
            told = now
            journal.tell(f"share_{now[0]}", share=share.record.name, message=now[1] or now[0])
        elif told is not None and share.replica.phase is Phase.READY:
            told = None
            journal.tell("share_goes_on", share=share.record.name, message="goes on")
        await changed.wait()
