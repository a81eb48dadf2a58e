"""A share while the daemon runs: its replica, its applier, and the tasks that feed them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.copies import Copies
from p2psyncd.daemon.desk import Desk
from p2psyncd.daemon.executor import Executor
from p2psyncd.daemon.memory import give_back_after_work
from p2psyncd.daemon.replica import EVERYTHING, Phase, Replica
from p2psyncd.daemon.signal import Signal
from p2psyncd.daemon.transfer import Held, Sent
from p2psyncd.errors import (
    DatabaseBusy,
    DatabaseFault,
    DatabaseUnavailable,
    NotApprovable,
    P2psyncError,
    ShareHeld,
)
from p2psyncd.sources.local import LocalSource
from p2psyncd.sources.source import Dirty
from p2psyncd.store.device import ShareRecord
from p2psyncd.store.reading import ShareReader
from p2psyncd.store.share import ShareStore

__all__ = ["FILESYSTEM", "Arriving", "RunningShare"]

log = logging.getLogger(__name__)

# What failed or was held is looked at again after this long.
RETRY_S = 10.0
# What nobody foresaw comes again mostly, and each attempt looks at everything: the rest is doubled each time.
FAULT_REST_S_MAX = 640.0
# A file that is being written all the time is read again this often.
BUSY_S = 1.0
# History is held to its limits so often, and for the first time soon: a laptop may never be on for ten minutes.
HISTORY_FIRST_S = 20.0
HISTORY_S = 600.0
FILESYSTEM = "filesystem"


@dataclass(slots=True)
class Hints:
    """Where local changes may be, gathered until somebody looks."""

    keys: set[bytes]
    subtrees: set[bytes]

    def add(self, dirty: Dirty) -> None:
        """Add hints."""
        self.keys |= dirty.keys
        self.subtrees |= dirty.subtrees

    def take(self) -> Dirty:
        """Return what was gathered and begin anew."""
        dirty = Dirty(keys=frozenset(self.keys), subtrees=frozenset(self.subtrees))
        self.keys, self.subtrees = set(), set()
        return dirty


@dataclass(frozen=True, slots=True, kw_only=True)
class Arriving:
    """A whole copy of the share's data is on its way from a peer."""

    missing: int = 0
    """Bytes that are still to come, as far as is known."""


class RunningShare:
    """One share; `run` is its life."""

    def __init__(
        self,
        *,
        record: ShareRecord,
        store: ShareStore,
        catalogue: ShareReader,
        replica: Replica,
        source: LocalSource,
        desk: Callable[[RunningShare], Desk],
        held: Held,
        sent: Sent,
        clock: Clock,
        executor: Executor,
        scan_interval_s: float,
        keep_house: Callable[[RunningShare], Awaitable[None]],
        on_change: Callable[[], None],
        copies: Copies | None = None,
    ) -> None:
        self.record = record
        self.store = store
        self.catalogue = catalogue
        self.replica = replica
        self.applier = Applier(replica)
        self.source = source
        self.desk = desk(self)
        self.held = held
        self.sent = sent
        self.clock = clock
        self.executor = executor
        self.scan_interval_s = scan_interval_s
        self.keep_house = keep_house
        self.on_change = on_change
        self.copies = copies
        self.arriving: Arriving | None = None
        self.hints = Hints(set(), set())
        self.hinted = Signal()
        self.later = Hints(set(), set())
        self.later_came = Signal()
        self.noted_filesystem: int | None = None
        self.busy = trio.Lock()
        """Held while hints are being worked on: whoever has it knows that none are half done."""
        self.watched = trio.Event()
        """Set once the watch is up, or is known to be impossible for now."""
        self.locked = ""
        """Why the last scan could not read at all."""
        self.fault_rest_s = RETRY_S
        """How long the share rests after the next error that nobody foresaw."""
        self.scope = trio.CancelScope()
        self.done = trio.Event()

    async def run(self) -> None:
        """Scan, watch and apply until cancelled; then close the store."""
        try:
            with self.scope:
                if self.replica.phase is Phase.PAUSED:
                    await trio.sleep_forever()
                while True:
                    await self.live_on()
        finally:
            with trio.CancelScope(shield=True):
                async with self.replica.lock:
                    await self.executor.run(self.close_files)
            self.done.set()

    def close_files(self) -> None:
        """Close the store and its reader; blocks."""
        if self.replica.incarnation is not None:
            self.replica.incarnation.close()
        self.catalogue.close()
        self.store.close()

    async def live_on(self) -> None:
        """Live until something fails that is not one item's (the disk under the state, say); then rest.

        One share's trouble must not end the others'.
        """
        began_s, rest_s = trio.current_time(), RETRY_S
        try:
            await self.live()
        except* (OSError, P2psyncError) as group:
            self.hold(Phase.ERROR, "; ".join(str(error) for error in leaves(group)))
        # The edge of the share: what nobody foresaw in it must end neither the others nor the daemon, nor begin again
        # with each start of the daemon. It is logged in full, and `status` shows it.
        except* Exception as group:  # noqa: BLE001
            self.hold(Phase.ERROR, str(self.replica.faults.tell(f"share {self.record.name}", group)))
            rest_s = self.fault_rest_s
            self.fault_rest_s = min(2 * rest_s, FAULT_REST_S_MAX)
        if trio.current_time() - began_s > FAULT_REST_S_MAX:
            self.fault_rest_s = RETRY_S
        await trio.sleep(rest_s)

    async def live(self) -> None:
        """Watch, scan once in full, then follow the hints."""
        async with trio.open_nursery() as nursery:
            self.hints.add(EVERYTHING)
            self.watched = trio.Event()
            nursery.start_soon(self.watch)
            # A change between the scan of a folder and its watch would be seen by neither.
            await self.watched.wait()
            nursery.start_soon(self.capture)
            nursery.start_soon(self.come_back)
            nursery.start_soon(give_back_after_work, self.replica, self.executor)
            nursery.start_soon(self.applier.run)
            nursery.start_soon(self.keep_history)
            nursery.start_soon(self.keep_house, self)
            nursery.start_soon(self.rescan_now_and_then)
            nursery.start_soon(self.tell_phases)

    async def watch(self) -> None:
        """Gather hints; where watching is impossible, say so and rely on scans."""
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.watching)
                    self.watched.set()
            except* (OSError, P2psyncError) as group:
                log.warning("watch_failed share=%s error=%r", self.record.name, group.exceptions)
            self.watched.set()
            await trio.sleep(RETRY_S)
            self.notice(EVERYTHING)

    async def watching(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the source's watch."""
        await self.replica.source.watch(self.notice, task_status=task_status)

    @property
    def gives_copies(self) -> bool:
        """Whether peers may ask for copies of the whole now."""
        return (
            self.copies is not None
            and not self.copies.source.awaiting
            and self.replica.phase in {Phase.READY, Phase.SCANNING}
            and not self.replica.undecided
        )

    def notice(self, dirty: Dirty) -> None:
        """Take a hint."""
        self.hints.add(dirty)
        self.hinted.fire()

    async def capture(self) -> None:
        """Look wherever a hint points to."""
        while True:
            hinted = self.hinted.event
            if self.hints.keys or self.hints.subtrees:
                await self.work_off()
            else:
                await hinted.wait()

    async def work_off(self) -> None:
        """Work off the hints gathered so far."""
        async with self.busy:
            dirty = self.hints.take()
            if self.replica.phase is Phase.PAUSED or (not dirty.keys and not dirty.subtrees):
                return
            if self.replica.phase in {Phase.HELD, Phase.ERROR}:
                dirty = EVERYTHING
            if b"" in dirty.subtrees:
                # This scan decides anew; what an earlier one found gone may be back.
                self.replica.held_deletions = []
            try:
                await self.replica.scan(dirty)
                await self.note_filesystem()
            except ShareHeld as held:
                self.hold(Phase.HELD, held.detail or held.message)
            except DatabaseBusy as busy:
                self.wait_for(busy, dirty)
            except (OSError, P2psyncError) as error:
                self.hold(Phase.ERROR, str(error))
            except BaseException:
                # Who asked went away in the middle, or nobody foresaw this; what was to be looked at still is.
                self.notice(dirty)
                raise
            else:
                self.locked = ""
                if self.replica.phase is not Phase.READY:
                    self.replica.enter(Phase.READY)
                    self.on_change()
            self.look_again(self.source.take_busy())

    @property
    def waiting(self) -> str:
        """What the share waits for that somebody else has to let go of, in words; empty if for nothing."""
        return self.locked or self.applier.waiting or self.source.waiting

    def wait_for(self, busy: DatabaseBusy, dirty: Dirty) -> None:
        """Come back a little later to what an app keeps locked; exchanging goes on."""
        reason = busy.detail or busy.message
        if self.locked != reason:
            log.info("share_waits share=%s reason=%s", self.record.name, reason)
            self.locked = reason
            self.replica.signal.fire()
        self.look_again(dirty)

    def look_again(self, busy: Dirty) -> None:
        """Come back a little later to what would not hold still while it was read."""
        if busy.keys or busy.subtrees:
            self.later.add(busy)
            self.later_came.fire()

    async def come_back(self) -> None:
        """Turn what was busy into hints, after a pause."""
        while True:
            came = self.later_came.event
            if not (self.later.keys or self.later.subtrees):
                await came.wait()
            await trio.sleep(BUSY_S)
            self.notice(self.later.take())

    async def note_filesystem(self) -> None:
        """Remember which file system the root is on: after a restart another one holds the share."""
        now = self.source.filesystem
        if now is not None and now != self.noted_filesystem:
            self.noted_filesystem = now
            await self.replica.step(lambda: self.store.set_setting(FILESYSTEM, str(now).encode()))

    def hold(self, phase: Phase, reason: str) -> None:
        """Stop exchanging until the cause is gone."""
        if (self.replica.phase, self.replica.reason) != (phase, reason):
            log.warning("share_%s share=%s reason=%s", phase.value, self.record.name, reason)
            self.replica.enter(phase, reason)
            self.on_change()

    async def rescan_now_and_then(self) -> None:
        """Scan in full at intervals: what no event told, and what held the share, is seen then.

        The root is looked at more often: the kernel tells nobody of a disk that is unmounted here and in use elsewhere.
        """
        last = trio.current_time()
        while True:
            await trio.sleep(min(RETRY_S, self.scan_interval_s or RETRY_S))
            stuck = self.replica.phase in {Phase.HELD, Phase.ERROR} or not await self.root_is_there()
            due = self.scan_interval_s > 0 and trio.current_time() - last >= self.scan_interval_s
            if stuck or due:
                last = trio.current_time()
                self.notice(EVERYTHING)

    async def root_is_there(self) -> bool:
        """Return whether the root is what it was; where it is not, a scan holds the share and says why."""
        try:
            await self.executor.run(self.source.check)
        except ShareHeld:
            return False
        except (DatabaseUnavailable, DatabaseFault):
            return True  # a scan says why
        return True

    async def tell_phases(self) -> None:
        """Let peers see when the applier holds the share: sessions end while it is held."""
        phase = self.replica.phase
        while True:
            changed = self.replica.signal.event
            if self.replica.phase is not phase:
                phase = self.replica.phase
                if phase is Phase.HELD:
                    self.on_change()
            await changed.wait()

    async def keep_history(self) -> None:
        """Hold history to its limits, now and then."""
        pause_s = HISTORY_FIRST_S
        while True:
            await trio.sleep(pause_s)
            if self.replica.phase is Phase.READY:
                pause_s = HISTORY_S
                try:
                    await self.prune_history()
                except OSError as error:
                    log.warning("prune_failed share=%s error=%s", self.record.name, error)

    async def prune_history(self) -> None:
        """Hold history to its limits once."""
        size = self.replica.totals.size
        async with self.replica.lock:
            await self.executor.run(lambda: self.source.prune(size))

    async def detect(self) -> None:
        """Return once every local change made before the call is recorded; at once if the share is paused.

        Raises:
            ShareHeld: The share is held, so nothing is recorded.
        """
        # What was told of is no mass deletion that nobody made; it need not be quiet yet.
        self.hints.add(self.source.told())
        self.hints.add(EVERYTHING)
        try:
            await self.work_off()
        except trio.Cancelled:
            self.hinted.fire()  # who asked went away; what was told of is still to be looked at
            raise
        if self.replica.phase is Phase.HELD:
            raise ShareHeld(f"{self.record.name}: {self.replica.reason}")

    async def approve(self, *, catch_up: bool = False) -> None:
        """Carry out what held the share: what is gone now is deleted, or the source is taken as it is now.

        Args:
            catch_up: See `LocalSource.approve`.

        Raises:
            ShareHeld: It is held for a reason that approving cannot mend.
        """
        if not self.replica.held_deletions:
            async with (
                self.busy
            ):  # a look in the middle of that would find the file accepted, and not what for
                try:
                    await self.replica.step(lambda: self.source.approve(catch_up=catch_up))
                except ShareHeld as held:
                    raise NotApprovable(held.detail) from held
        # Looked at again first: what had been gone may have come back since.
        self.hints.add(EVERYTHING)
        await self.work_off()
        async with self.busy:
            if self.replica.phase is not Phase.HELD:
                return
            if not self.replica.held_deletions:
                raise NotApprovable(f"{self.record.name}: {self.replica.reason}")
            await self.replica.approve()
        self.on_change()

    async def stop(self) -> None:
        """End the share's life and wait until its store is closed."""
        self.scope.cancel()
        await self.done.wait()


def leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    """Return the errors in a group, however deep."""
    found: list[Exception] = []
    for one in group.exceptions:
        found += leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found
