"""Tells of shares that are held or in error, and that they go on again, in the list of events."""

from __future__ import annotations

import logging

import trio

from p2psyncd.core.ids import ShareId
from p2psyncd.daemon.journal import Journal
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.report import share_state
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import P2psyncError

__all__ = ["GOES_ON_S", "StopTeller"]

log = logging.getLogger(__name__)

STOPS = {Phase.HELD: "share_held", Phase.ERROR: "share_error"}
# What fails begins anew after a rest, and may fail again at once: that is one event, not two with each round.
GOES_ON_S = 30.0


class StopTeller:
    """Tells whenever a share stops, with the reason, and when it has gone on for a while."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.told: dict[ShareId, Phase] = {}
        """How the shares stand of which it was told that they stopped."""

    async def run(self, share: RunningShare) -> None:
        """Tell of one share, for ever."""
        replica, known = share.replica, share.record.id
        while True:
            changed = replica.signal.event
            phase = replica.phase
            if phase in STOPS and self.told.get(known) is not phase:
                self.told[known] = phase
                self.tell(share, STOPS[phase], share_state(share)[1] or phase.value)
            elif phase is Phase.READY and known in self.told:
                with trio.move_on_after(GOES_ON_S):
                    while replica.phase not in STOPS:
                        await replica.signal.event.wait()
                    continue
                del self.told[known]
                self.tell(share, "share_goes_on", "goes on")
                continue
            await changed.wait()

    def tell(self, share: RunningShare, kind: str, message: str) -> None:
        """Tell, as far as that can be written down: where the disk is full, that is what the share suffers from."""
        try:
            self.journal.tell(kind, share=share.record.name, message=message)
        except (OSError, P2psyncError) as error:
            log.warning("event_not_kept share=%s event=%s error=%s", share.record.name, kind, error)
