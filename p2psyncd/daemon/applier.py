"""Brings pending versions into place: what this device has itself at once, the rest from its peers.

Fetching and applying overlap: while one batch is being renamed into place the next is on its way.
Each content is asked of one peer at a time; a peer that has not got it is not asked for it again
until it says that it got further.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import trio

from p2psyncd.core.ids import DeviceId
from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Pending
from p2psyncd.daemon.replica import WHOLE_ITEMS_MAX, Phase, Replica
from p2psyncd.daemon.signal import Signal, first_of
from p2psyncd.errors import DatabaseUnavailable, ShareHeld

__all__ = ["Applier", "Wanted"]

log = logging.getLogger(__name__)

PAGE_ITEMS = 2000
# A batch for one peer: enough to fill the link, little enough to be applied while the next one comes.
BATCH_ITEMS = 1000
BATCH_BYTES = 32 * 1024 * 1024
# What failed (disk full, no permission) is tried again after this long, or when anything changes there.
RETRY_S = 10.0
# An app that keeps its database locked is asked this often: what came is to be there soon after it lets go.
BUSY_S = 1.0
NEVER = float("inf")


@dataclass(slots=True)
class Wanted:
    """A content that is needed and not on this device."""

    digest: bytes
    size: int
    pending: list[Pending] = field(default_factory=list)
    asked: set[DeviceId] = field(default_factory=set)
    """Peers that had not got it."""
    with_peer: DeviceId | None = None
    refused_by: set[DeviceId] = field(default_factory=set)
    """Peers that had not got it when they were asked last, and are still connected."""


class Applier:
    """The task that applies one share's pending versions."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.wanted: dict[bytes, Wanted] = {}
        self.work = Signal()
        """Fires when something new is wanted from peers."""
        self.came: list[Pending] = []
        """Pending versions whose content has come."""
        self.poke = trio.Event()
        self.blocked: set[bytes] = set()
        """Keys that could not be applied; tried again after a while."""
        self.failures: dict[bytes, str] = {}
        """Why, by key."""
        self.advanced = False
        """Whether something came into place since all that is pending was gone through."""
        self.retry_at = NEVER
        """When what failed is tried again."""
        self.fetching = 0
        """Fetches under way."""
        self.untidy = False
        """Whether something may lie in staging that nobody wants any more."""
        self.waiting = ""
        """What all that is pending waits for, in words: an app that keeps its database locked."""
        self.received_items = 0
        self.received_bytes = 0

    # What the fetchers call

    def take_batch(
        self, peer: DeviceId, *, large: int, resting: Container[bytes] = frozenset()
    ) -> list[Wanted]:
        """Return contents for a peer to send, and mark them as asked of it.

        Args:
            peer: Who will be asked.
            large: Contents above this many bytes come one at a time.
            resting: Digests that are not to be asked for now.
        """
        batch: list[Wanted] = []
        size = 0
        for wanted in self.wanted.values():
            if wanted.with_peer is not None or peer in wanted.asked or wanted.digest in resting:
                continue
            if wanted.size > large:
                if not batch:
                    wanted.with_peer = peer
                    return [wanted]
                continue
            batch.append(wanted)
            wanted.with_peer = peer
            size += wanted.size
            if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES:
                break
        return batch

    def arrived(self, digests: Sequence[bytes], travelled: int | None = None) -> None:
        """Note contents that are staged now.

        Args:
            digests: Which.
            travelled: Bytes that came of them; None: all that they have.
        """
        for digest in digests:
            wanted = self.wanted.pop(digest, None)
            if wanted is not None:
                self.came += wanted.pending
                self.received_items += 1
                self.received_bytes += wanted.size if travelled is None else 0
        self.received_bytes += travelled or 0
        if digests:
            self.untidy = True
            self.poke.set()

    def missing(self, peer: DeviceId, digests: Sequence[bytes]) -> None:
        """Note contents that a peer has not got."""
        for digest in digests:
            wanted = self.wanted.get(digest)
            if wanted is not None:
                wanted.asked.add(peer)
                wanted.refused_by.add(peer)
                wanted.with_peer = None
        self.work.fire()

    def release(self, peer: DeviceId) -> None:
        """Give back what was asked of a peer that went away."""
        for wanted in self.wanted.values():
            wanted.refused_by.discard(peer)
            if wanted.with_peer == peer:
                wanted.with_peer = None
        self.work.fire()

    def progressed(self, peer: DeviceId) -> None:
        """Note that a peer got further: it may have now what it had not."""
        again = False
        for wanted in self.wanted.values():
            if peer in wanted.asked:
                wanted.asked.discard(peer)
                again = True
        if again:
            self.work.fire()

    def ask_again(self) -> None:
        """Let all peers be asked again for what they had not got.

        A file that a peer could not answer from at that moment (its mode was just changed, say) may be there all
        the time, and nothing that peer does later says so.
        """
        if any(wanted.asked for wanted in self.wanted.values()):
            for wanted in self.wanted.values():
                wanted.asked.clear()
            self.work.fire()

    async def give_up(self, keys: Sequence[bytes], digests: Sequence[bytes]) -> list[bytes]:
        """Stop waiting for contents that nobody has; return the keys whose version before it stays."""
        ledger = self.replica.ledger
        given_up = await self.replica.step(lambda: ledger.give_up(keys, frozenset(digests)))
        for digest in digests:
            self.wanted.pop(digest, None)
        return given_up

    # The task

    async def run(self) -> None:
        """Apply, for ever."""
        survey = True
        while True:
            changed = self.replica.signal.event
            self.poke = trio.Event()
            moved = again = False
            if self.replica.totals.pending_items:
                await trio.sleep(self.replica.source.rest_s)
            if self.replica.amid_streams:
                pass  # a part of what was changed together must not be seen
            elif self.replica.phase in {Phase.READY, Phase.SCANNING}:
                try:
                    moved = await self.round(survey=survey)
                    # What failed may have waited for just what came: a folder's delete for those of what it holds.
                    again = not moved and self.advanced and 0 < len(self.blocked) <= PAGE_ITEMS
                    survey = again
                except ShareHeld as held:
                    self.replica.enter(Phase.HELD, held.detail or held.message)
            else:
                survey = True
            if not moved and not again and not await self.wait(changed):
                survey = True

    async def wait(self, changed: trio.Event) -> bool:
        """Wait until there may be something to do; return False when it is time to try again what failed."""
        if not self.blocked:
            self.retry_at = NEVER
        elif self.retry_at == NEVER:
            self.retry_at = trio.current_time() + (BUSY_S if self.waiting else RETRY_S)
        # A moment, not a span: a share in which something changes all the time would never try again.
        with trio.move_on_at(self.retry_at):
            await first_of([changed, self.poke])
        due = trio.current_time() >= self.retry_at
        if due:
            self.retry_at = NEVER
        return not due

    async def round(self, *, survey: bool) -> bool:
        """Work on what is new; return whether there may be more already.

        Args:
            survey: Whether to go through all that is pending: at the start, and when failures are due again.
        """
        fresh = await self.replica.take_fresh()
        if survey or fresh is None:
            await self.survey()
        else:
            for at in range(0, len(fresh.rows), self.page_items):
                await self.work_on(fresh.rows[at : at + self.page_items], fresh.since)
        came, self.came = self.came, []
        if came:
            await self.work_on(await self.apply(came))
        if not self.replica.totals.pending_items:
            # What had failed may have become needless: a local change settled it.
            self.wanted.clear()
            self.blocked.clear()
            self.failures.clear()
            self.waiting = ""
            if self.untidy and not self.fetching:
                await self.tidy()
        return fresh is None or bool(fresh.rows or came)

    @property
    def page_items(self) -> int:
        """How many pending versions are worked on in one go."""
        return WHOLE_ITEMS_MAX if self.replica.source.whole else PAGE_ITEMS

    async def tidy(self) -> None:
        """Empty staging once nothing is wanted: what was fetched for a version that was overtaken lies there."""
        async with self.replica.lock:
            # Under the lock nothing becomes pending, so nobody begins to fetch.
            if self.replica.totals.pending_items == 0 and not self.fetching:
                self.untidy = False
                # What came for versions that are not wanted any more goes, too: one of them may be wanted again.
                self.came = []
                await self.replica.executor.run(self.replica.source.tidy)

    async def survey(self) -> None:
        """Go through all that is pending."""
        stuck = set(self.blocked)
        self.advanced = False
        self.blocked.clear()
        self.failures.clear()
        after = b""
        while (page := await self.replica.pending(limit=self.page_items, after=after)).rows:
            after = page.rows[-1].item.key
            await self.work_on(*page)
            if self.waiting:
                break
        # A session that was cut, or a local edit at the wrong moment, left the shape of the tree unsettled.
        again = stuck & self.blocked
        if again:
            await self.replica.unstick(again)

    async def work_on(self, page: list[Pending], since: int | None = None) -> None:
        """Apply what can be applied of a page, and of what waited for it; note the contents that are lacking."""
        # A loop: folders may lie in one another two thousand deep.
        while page:
            page, since = await self.apply(await self.ready(page), since), None

    async def ready(self, page: list[Pending]) -> list[Pending]:
        """Return what of a page can be applied, and note the contents that the rest lacks."""
        source = self.replica.source
        self.untidy = True
        local = await self.replica.executor.run(lambda: source.stage_local(page))
        ready = [p for p in page if p.item.key in local]
        news = False
        for pending in page:
            if pending.item.key in local or not pending.item.live:
                continue
            digest = pending.item.digest
            if digest not in self.wanted:
                self.wanted[digest] = Wanted(digest, pending.item.size)
                news = True
            self.wanted[digest].pending.append(pending)
        if news:
            self.work.fire()
        return ready

    async def apply(self, ready: list[Pending], since: int | None = None) -> list[Pending]:
        """Put versions in place, and remember which of them failed; return what waited for these."""
        if not ready:
            return []
        try:
            unsettled, failures = await self.replica.apply(ready, since)
            self.waiting = ""
        except DatabaseUnavailable as error:
            # Nothing was done. Whatever else is pending has to wait for the same.
            unsettled, failures = [pending.item.key for pending in ready], {}
            self.waiting = error.detail or error.message
        if self.failures:
            for pending in ready:
                self.failures.pop(pending.item.key, None)
        self.advanced |= len(ready) > len(unsettled)
        self.blocked.update(unsettled)
        self.failures.update(failures)
        directory = Kind.DIRECTORY
        return await self.waiting_for(
            {p.item.key for p in ready if p.item.kind is directory} - set(unsettled)
        )

    async def waiting_for(self, directories: set[bytes]) -> list[Pending]:
        """Return what waited for a directory: it comes late where one side deleted it and the other one filled it."""
        waiting = [key for key in self.blocked if directories and key.rpartition(b"/")[0] in directories]
        if not waiting:
            return []
        self.blocked.difference_update(waiting)
        found = await self.replica.query(lambda store: store.pending_of(sorted(waiting)))
        return [found[key] for key in sorted(found)]

    @property
    def active(self) -> bool:
        """Whether something is being fetched or applied, or could be at once."""
        waiting = sum(len(wanted.pending) for wanted in self.wanted.values() if wanted.with_peer is None)
        return self.replica.totals.pending_items > waiting + len(self.blocked)
