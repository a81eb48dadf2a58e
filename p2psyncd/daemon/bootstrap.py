"""A whole copy of a database for a device that has nothing yet, before its first session.

Whoever accepted a database and has nothing at its path asks a connected member for a copy (`SnapshotWanted`), fetches it
like any content, and begins with it. Whatever goes wrong on the way, the rows come by themselves, with the session.
The other side is here too: what a member does when it is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from p2psyncd.core.ids import ShareId
from p2psyncd.daemon.applier import Wanted
from p2psyncd.daemon.copies import Copies
from p2psyncd.daemon.executor import Executor
from p2psyncd.daemon.mesh import Mesh
from p2psyncd.daemon.peerlink import PeerLink
from p2psyncd.daemon.peerstate import PeerState
from p2psyncd.daemon.replica import EVERYTHING
from p2psyncd.daemon.share import Arriving, RunningShare
from p2psyncd.daemon.signal import Signal, first_of
from p2psyncd.errors import P2psyncError
from p2psyncd.sources.database.arriving import NotEmpty
from p2psyncd.sources.database.copying import NoCopy
from p2psyncd.wire.messages import SnapshotMessage, SnapshotReady, SnapshotRefused, SnapshotWanted

__all__ = ["Bootstrap"]

log = logging.getLogger(__name__)

# A member that offers a copy is waited for so long: mostly it is the one that made the offer.
PATIENCE_S = 5.0
# One that went away in the middle may come back, and nobody else has the rows meanwhile.
CUT_S = 60.0
# It reads its whole file before it answers.
ANSWER_S, ANSWER_ITEMS_S = 30.0, 20_000
# Nothing came for so long, whoever is to blame.
STALLED_S = 60.0
LOOK_S = 1.0
EXPIRE_S = 60.0
TRIES_MAX = 10

Troubles = (NoCopy, NotEmpty, OSError, P2psyncError)


class Bootstrap:
    """See the top of the file."""

    def __init__(
        self,
        mesh: Mesh,
        executor: Executor,
        shares_for: Callable[[PeerState], list[RunningShare]],
    ) -> None:
        """Begin.

        Args:
            mesh: The paired devices.
            executor: Runs what blocks.
            shares_for: Returns the shares that a paired device may have.
        """
        self.mesh = mesh
        self.executor = executor
        self.shares_for = shares_for
        self.answers: dict[tuple[PeerLink, ShareId], SnapshotReady | SnapshotRefused | None] = {}
        """What was asked of whom, and what it said."""
        self.answered = Signal()
        self.giving: set[tuple[PeerLink, ShareId]] = set()
        """Who waits for a copy from here."""
        self.one_at_a_time = trio.Lock()

    def said(self, link: PeerLink, message: SnapshotMessage) -> None:
        """Take in what a peer says of a copy."""
        asked = (link, message.share)
        if isinstance(message, SnapshotWanted):
            if asked not in self.giving and self.mesh.nursery is not None:
                self.giving.add(asked)
                self.mesh.nursery.start_soon(self.give, link, message.share)
        elif asked in self.answers:  # nobody else is listened to
            self.answers[asked] = message
            self.answered.fire()

    # Giving

    async def give(self, link: PeerLink, share: ShareId) -> None:
        """Answer a peer that wants a copy."""
        answer: SnapshotReady | SnapshotRefused
        try:
            digest, size = await self.copy_for(link, share)
            answer = SnapshotReady(share=share, digest=digest, size=size)
            link.copied.add(share)
            log.info("copy_given share=%s peer=%s bytes=%d", share.hex()[:8], link.greeting.name, size)
        except Troubles as trouble:
            answer = SnapshotRefused(share=share, reason=str(trouble)[:200])
            log.info("copy_refused share=%s reason=%s", share.hex()[:8], trouble)
        finally:
            self.giving.discard((link, share))
        if not link.closed:
            link.post(answer)

    async def copy_for(self, link: PeerLink, share: ShareId) -> tuple[bytes, int]:
        """Return digest and size of a copy for a peer.

        Raises:
            NoCopy: It can have none now.
            OSError, P2psyncError: The database cannot be read.
        """
        state = self.mesh.peers.get(link.device)
        found = [one for one in self.shares_for(state) if one.record.id == share] if state is not None else []
        if not found or not found[0].gives_copies:
            raise NoCopy("it is not to be had here")
        copies = found[0].copies
        assert copies is not None
        async with self.one_at_a_time:
            return await self.executor.run(copies.give)

    # Getting

    async def run(self, share: RunningShare) -> None:
        """Get a copy for a share if it waits for one; then look after those that are given, for ever."""
        copies = share.copies
        if copies is None:
            return
        if copies.source.awaiting:
            share.arriving = Arriving()
            share.replica.signal.fire()
            try:
                await self.get(share, copies)
            except Troubles as trouble:
                log.info(
                    "copy_failed share=%s reason=%s", share.record.name, str(trouble) or "it is not empty"
                )
                await self.executor.run(copies.give_up)
            finally:
                share.arriving = None
            share.notice(EVERYTHING)
            share.replica.signal.fire()
        while True:
            await trio.sleep(EXPIRE_S)
            await self.executor.run(copies.expire)

    async def get(self, share: RunningShare, copies: Copies) -> None:
        """Fetch a copy and begin with it.

        Raises:
            NoCopy: Nobody has one.
            NotEmpty, OSError, P2psyncError: It cannot be used.
        """
        refused: dict[PeerLink, str] = {}
        tries = 0
        until = trio.current_time() + PATIENCE_S
        while tries < TRIES_MAX:
            changed = self.mesh.changed.event
            links = [one for one in self.offering(share.record.id) if one not in refused]
            if not links:
                if refused or trio.current_time() >= until:
                    break
                with trio.move_on_at(until):
                    await changed.wait()
                continue
            tries += 1
            reason = await self.get_from(links[0], share, copies)
            if not reason:
                await self.executor.run(copies.take)
                log.info("copy_in_place share=%s", share.record.name)
                return
            if links[0] in self.mesh.links():
                refused[links[0]] = reason
            until = trio.current_time() + CUT_S
        raise NoCopy("; ".join(refused.values()) or "nobody offers one")

    def offering(self, share: ShareId) -> list[PeerLink]:
        """Return the connections with members that give copies of a share."""
        return [
            link
            for link in self.mesh.links()
            if (offer := link.offers.get(share)) is not None and offer.copies and not offer.held
        ]

    async def get_from(self, link: PeerLink, share: RunningShare, copies: Copies) -> str:
        """Ask one member for a copy, and fetch it; return why it did not come, or nothing."""
        asked = (link, share.record.id)
        patience_s = ANSWER_S + link.offers[share.record.id].items / ANSWER_ITEMS_S
        self.answers[asked] = None
        try:
            link.post(SnapshotWanted(share=share.record.id))
            with trio.move_on_after(patience_s):
                while self.answers[asked] is None and link in self.mesh.links():
                    events = [self.answered.event, self.mesh.changed.event]
                    if self.answers[asked] is None:
                        await first_of(events)
        finally:
            answer = self.answers.pop(asked)
        match answer:
            case SnapshotReady():
                return await self.fetch(link, share, copies, answer)
            case SnapshotRefused():
                return answer.reason
            case None:
                return "it did not answer"

    async def fetch(self, link: PeerLink, share: RunningShare, copies: Copies, answer: SnapshotReady) -> str:
        """Fetch a copy; return why it did not come, or nothing."""
        digest, applier = answer.digest, share.applier
        target = Path(share.record.path)
        if not await self.executor.run(partial(copies.expect, digest, answer.size, target)):
            return "there is no room for it"
        applier.wanted[digest] = wanted = Wanted(digest, answer.size)
        link.copied.add(share.record.id)
        link.progress()  # its fetcher looks for work
        last, moved_at = 0, trio.current_time()
        try:
            while not copies.staged():
                events = [applier.poke, applier.work.event, self.mesh.changed.event]
                if copies.come != last:
                    last, moved_at = copies.come, trio.current_time()
                share.arriving = Arriving(missing=answer.size - last)
                if link not in self.mesh.links() or link.device in wanted.refused_by:
                    return "it went away"
                if trio.current_time() - moved_at > STALLED_S:
                    return "it does not come"
                with trio.move_on_after(LOOK_S):
                    await first_of(events)
            share.arriving = Arriving()
            return ""
        finally:
            applier.wanted.pop(digest, None)
            link.copied.discard(share.record.id)
