"""A replica: this device's copy of one share, and the one writer of its store.

Scanning, hashing, staging and fetching run beside each other; whatever changes the store, or a file
that the store speaks of, happens under one lock. After every change `standing` is the new picture,
and `signal` tells the sessions, the applier and those who wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from enum import Enum
from itertools import islice
from typing import NamedTuple, TypeVar

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.guard import is_mass_delete
from p2psyncd.core.ids import DEVICE_ID_BYTES, ActorId, DeviceId, ShareId
from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.storage import Pending, ShareStorage, Totals
from p2psyncd.core.version import Dot, unpack_vector
from p2psyncd.daemon.executor import Executor
from p2psyncd.daemon.incarnation import Incarnation
from p2psyncd.daemon.ledger import Ledger, Received
from p2psyncd.daemon.signal import Signal
from p2psyncd.daemon.versions import folders_above
from p2psyncd.errors import BadRequest, RemoteProtocolError, ShareHeld, StateForked
from p2psyncd.sources.faults import Faults
from p2psyncd.sources.source import (
    Applied,
    Dirty,
    Failed,
    ItemError,
    Observation,
    Outcome,
    Restated,
    Source,
    Surprised,
    Unapplied,
)
from p2psyncd.wire.codec import INT_MAX
from p2psyncd.wire.effects import FIRST_BOOT, Standing
from p2psyncd.wire.messages import Delta, Done, Hello, Know, SessionMessage

__all__ = ["EVERYTHING", "WHOLE_ITEMS_MAX", "Phase", "Replica", "Waiting"]

log = logging.getLogger(__name__)
T = TypeVar("T")
Finding = Observation | ItemError | Unapplied

EVERYTHING = Dirty(subtrees=frozenset({b""}))
# One transaction's worth: large enough to pay for itself, small enough to let others in (~20 ms).
OBSERVATIONS_PER_STEP = 1000
# A key whose content changes under our hands is looked at again; after this many times it waits.
LOOKS_MAX = 3
# A peer's word makes this replica go on as another actor; a peer that lies shall not do so all the time.
RENEWAL_S = 600.0
# What was changed together is recorded, sent and applied together, up to so many items.
WHOLE_ITEMS_MAX = 20_000
# What turns out to be more than that is told in parts anyway: the rest in smaller ones, so that a peer has something to do
# while they are found.
PART_ITEMS = 10_000
# The dot keeps it apart from the settings that a source keeps in the state.
MIDSTREAM = ".midstream"


class Phase(Enum):
    """What a replica is doing, apart from what its applier does."""

    STARTING = "starting"
    READY = "ready"
    SCANNING = "scanning"
    HELD = "held"
    PAUSED = "paused"
    ERROR = "error"


class Waiting(NamedTuple):
    """Some pending versions, in key order."""

    rows: list[Pending]
    since: int | None = None
    """As of which arrival number they were pending, if nothing settles any of them before they are applied.

    None in folders, where a directory that comes into place takes along what waited for it, in whatever page that is.
    """


class Replica:
    """See the top of the file."""

    def __init__(
        self,
        *,
        share: ShareId,
        store: ShareStorage,
        source: Source,
        directory: Callable[[bytes, Item | None], Draft] | None,
        acceptable: Callable[[Item], bool],
        clock: Clock,
        executor: Executor,
        mode: str = "send-receive",
        incarnation: Incarnation | None = None,
    ) -> None:
        self.share = share
        self.store = store
        self.source = source
        self.directory = directory
        self.acceptable = acceptable
        self.executor = executor
        self.mode = mode
        self.ledger = Ledger(store, source, clock, announces=mode != "receive-only")
        self.incarnation = incarnation
        self.undecided = False
        """Whether a person is still to decide if what is here joins the share: nothing is taken in, and nothing sent."""
        self.epoch = 0
        """Grows when this replica goes on as another actor: what was said in its sessions is not true then."""
        self.patient_until_s = 0.0
        """No other actor is minted before this moment, on a peer's word."""
        self.lock = trio.Lock()
        self.looking = trio.Lock()
        """Held from a look at a source that is one whole until what it found is recorded. Another look in between would
        hold what is there against what is about to be outdated, and take an edit for seen that nobody records."""
        self.signal = Signal()
        self.faults = Faults()
        """Tells of errors that nobody foresaw."""
        self.phase = Phase.STARTING
        self.reason = ""
        self.errors: dict[bytes, str] = {}
        """What could not be read, by key; what could not be applied is in the store."""
        self.held_deletions: list[Observation] = []
        self.midstream: set[DeviceId] = set()
        """Peers in the midst of a stream that is to be applied as a whole."""
        noted = store.setting(MIDSTREAM) or b""
        self.cut = {
            DeviceId(noted[at : at + DEVICE_ID_BYTES]) for at in range(0, len(noted), DEVICE_ID_BYTES)
        }
        """Peers whose session ended in the midst of one."""
        self.torn = bool(self.cut)
        """Whether a part of a stream is here that nobody has made fit together with the rest: it is not told again."""
        self.totals = Totals(items=0, size=0, pending_items=0, pending_size=0, conflicts=0)
        self.standing, self.totals = self.measure()

    @property
    def takes(self) -> bool:
        """Whether remote versions are taken in at all."""
        return self.mode != "send-only" and not self.undecided

    # The lock and the picture

    def measure(self) -> tuple[Standing, Totals]:
        """Return the picture of this moment; blocks."""
        totals = self.store.totals()
        standing = Standing(
            actor=self.store.actor(),
            knowledge=self.store.knowledge(),
            root=self.store.root(),
            need_items=totals.pending_items,
            # Sizes are a peer's claim: what they add up to must still fit into a message.
            need_size=min(totals.pending_size, INT_MAX),
            arrival=self.store.arrival(),
            forgotten=self.store.forgotten(),
            boot=self.incarnation.boot if self.incarnation is not None else FIRST_BOOT,
        )
        return standing, totals

    async def step(self, call: Callable[[], T]) -> T:
        """Run one blocking step that may change the store, under the lock, and tell everyone."""

        def transact() -> tuple[T, tuple[Standing, Totals]]:
            try:
                result = call()
            except BaseException:
                # What was written is undone, and what the ledger keeps in mind of it is not.
                self.ledger.overtaken = True
                raise
            return result, self.measure()

        async with self.lock:
            result, (self.standing, self.totals) = await self.executor.run(transact)
        self.signal.fire()
        return result

    # Local changes

    async def scan(self, dirty: Dirty = EVERYTHING) -> None:
        """Find local changes and make them versions.

        Raises:
            ShareHeld: The root is not what it was, or very much is gone; nothing was recorded as deleted.
        """
        await self.executor.run(self.source.check)
        whole = b"" in dirty.subtrees
        # Of a source whose changes are one whole this is every scan, most of them over in a moment.
        if whole and not self.source.whole and self.phase is Phase.READY:
            self.enter(Phase.SCANNING)
        try:
            await self.capture(dirty, whole=whole)
            if self.source.unsettled:
                # What was recorded just now is in the way until it is looked at again.
                await self.capture(Dirty(keys=frozenset(self.source.unsettled)), whole=False)
                await self.step(self.reshow)
            if self.source.unmended:
                await self.step(lambda: self.settle_now(set(self.source.unmended)))
        finally:
            if self.phase is Phase.SCANNING:
                self.enter(Phase.READY)

    async def capture(self, dirty: Dirty, *, whole: bool) -> None:
        """Look, and record what is found; where it is one whole, only one at a time."""
        async with self.looking if self.source.whole else nullcontext():
            await self.find(dirty, whole=whole)

    async def find(self, dirty: Dirty, *, whole: bool) -> None:
        """Run a scan and record what it finds, step by step."""
        found = self.source.scan(dirty)
        errors: dict[bytes, str] = {}
        gone: list[Observation] = []
        seen: list[Observation] = []
        together = WHOLE_ITEMS_MAX
        more = True
        while more:
            step = await self.executor.run(lambda: take(found, OBSERVATIONS_PER_STEP))
            more = len(step) == OBSERVATIONS_PER_STEP
            reopened: dict[bytes, bytes] = {}
            for one in step:
                if isinstance(one, ItemError):
                    errors[one.key] = one.reason
                elif isinstance(one, Unapplied):
                    reopened[one.key] = one.shown
                elif not self.source.whole and (gone or one.draft.kind is Kind.TOMBSTONE):
                    # What comes after deletions has taken the name of a directory: recorded before what that held
                    # is deleted, it would have to make way for it, as a conflict copy.
                    gone.append(one)
                else:
                    seen.append(one)
            # What was changed together is told together.
            if len(seen) > (together - OBSERVATIONS_PER_STEP if self.source.whole and more else 0):
                await self.record(seen)
                seen, together = [], PART_ITEMS
            if reopened:
                await self.reopen(reopened)
        if gone and whole:
            await self.hold_mass_delete(gone, dirty)
        if gone:
            await self.record(gone)
        if self.source.due:
            await self.step(self.source.keep)
        if whole:
            self.errors = errors
        else:
            for key in dirty.keys:
                self.errors.pop(key, None)
            self.errors.update(errors)

    async def hold_mass_delete(self, gone: list[Observation], dirty: Dirty) -> None:
        """Look whether a full scan was deceived, by a disk that is not mounted say; events told of single deletions.

        Raises:
            ShareHeld: Very much is gone.
        """
        missing = {one.draft.key for one in gone}
        deleted = [
            one
            for one in gone
            if one.draft.kind is Kind.TOMBSTONE and not was_told(one.draft.key, dirty.keys & missing)
        ]
        lost = len(deleted)
        unwatched = self.phase in {Phase.STARTING, Phase.HELD, Phase.ERROR}
        if is_mass_delete(lost, self.totals.items, unwatched=unwatched):
            lost = await self.query(lambda store: count_lost(store, deleted))
        if is_mass_delete(lost, self.totals.items, unwatched=unwatched):
            self.held_deletions = gone
            reason = f"{lost} of {self.totals.items} items are gone from this device"
            raise ShareHeld(f"{reason}; nothing was deleted elsewhere")

    async def record(self, observations: Sequence[Observation]) -> None:
        """Make observations versions."""

        def note() -> None:
            changed = self.ledger.record(self.source.confirm(observations))
            self.settle_now(changed)
            self.source.unsettle(changed)

        def write() -> None:
            if self.source.whole:
                # What the source notes of a look, what it found, and what follows from that are one step.
                with self.store.transaction(durable=True):
                    note()
            else:
                note()
            if self.source.unsettled:
                self.reshow()

        await self.step(write)

    def reshow(self) -> None:
        """Show anew what local changes have consequences for; blocks."""
        outcomes = self.source.reshow()
        self.restate(outcomes)
        self.source.noted(outcomes)

    async def reopen(self, shown: Mapping[bytes, bytes]) -> None:
        """Make items pending again that are not here though the store says so; see `Unapplied`."""
        await self.step(lambda: self.ledger.reopen(shown))

    async def look(self, keys: Sequence[bytes]) -> None:
        """Look at some items again."""
        await self.scan(Dirty(keys=frozenset(keys)))

    def enter(self, phase: Phase, reason: str = "") -> None:
        """Change the phase."""
        self.phase = phase
        self.reason = reason
        self.signal.fire()

    async def approve(self) -> None:
        """Carry out the deletions that were held."""
        gone, self.held_deletions = self.held_deletions, []
        if gone:
            await self.record(gone)
        self.enter(Phase.READY)

    async def write(self, decide: Callable[[ShareStorage], Sequence[Draft]]) -> None:
        """Write what a person decided over the newest versions; the applier puts it in place here, too.

        Args:
            decide: Returns the drafts, given the store; blocks. What it raises changes nothing.

        Raises:
            BadRequest: What is written here is no version of the share's: it only receives.
        """
        if not self.ledger.announces:
            raise BadRequest("This share only receives: decide on a device that sends")
        await self.step(lambda: self.ledger.overwrite(decide(self.store)))

    # Remote versions

    async def receive(
        self,
        items: Sequence[Item],
        devices: Sequence[tuple[ActorId, DeviceId]],
        *,
        repair: bool,
        stale: bool = False,
    ) -> Received:
        """Take in versions that a peer sent; see `Ledger.receive`.

        Raises:
            RemoteProtocolError: An item can never be held here (its name leads out of the share, or it says nothing).
        """
        await self.executor.run(lambda: self.refuse_impossible(items))
        whole = Received()
        for _ in range(LOOKS_MAX):
            batch = items
            received = await self.step(
                lambda b=batch: self.ledger.receive(b, devices, repair=repair, stale=stale)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            )
            whole.answers += received.answers
            whole.gone += received.gone
            whole.changed |= received.changed
            items = received.deferred
            if not items:
                return whole
            await self.look([item.key for item in items])
        # They keep changing under our hands. Knowledge is not committed unless the roots agree, so the
        # peer sends them again.
        log.info("items_keep_changing share=%s count=%d", self.share.hex()[:8], len(items))
        return whole

    def refuse_impossible(self, items: Sequence[Item]) -> None:
        """Raise RemoteProtocolError if some items can never be held here; blocks."""
        for item in items:
            if not self.acceptable(item):
                raise RemoteProtocolError(f"An item is impossible: {item.key[:80]!r}")

    async def bury(self, entries: Sequence[tuple[bytes, Dot]]) -> set[bytes]:
        """Delete what everybody else saw deleted long ago; return the keys that changed."""
        log.info("deleted_while_away share=%s count=%d", self.share.hex()[:8], len(entries))
        return await self.step(lambda: self.ledger.bury(entries))

    async def commit(
        self, knowledge: Knowledge, forgotten: Knowledge, contact: ActorId | None = None
    ) -> None:
        """Join knowledge into ours, and the peer's G; `contact` is the peer's actor."""

        def write() -> None:
            with self.store.transaction(durable=True):
                if self.cut:
                    # The peer has what we have, and all of it fits together there.
                    self.cut.clear()
                    self.note_midstream()
                self.store.commit_knowledge(knowledge, forgotten)
                if contact is not None:
                    self.store.note_contact(contact)

        await self.step(write)

    # Older states and copies

    async def meet(self, message: SessionMessage) -> None:
        """Look for a sign that this state, or the peer's, is an older one that was put back, or a copy.

        Raises:
            StateForked: The peer's is; it has to go on as another actor first.
        """
        actor = self.standing.actor
        match message:
            case Hello():
                if message.actor == actor:
                    await self.renew("another device goes by the same actor")
                    return
                theirs = [unpack_vector(message.knowledge).get(actor, -1)]
                await self.step(lambda: self.greet(message))
            case Know() | Done():
                theirs = [unpack_vector(message.knowledge).get(actor, -1)]
            case Delta():
                theirs = [item.dot.seq for item in message.items if item.dot.actor == actor]
            case _:
                return
        if any(map(self.is_foreign, theirs)):
            await self.renew("another device knows more of this one's writes than it does itself")

    def is_foreign(self, seq: int) -> bool:
        """Return whether a write that goes by our actor is none of this state's.

        It is above all that is known here, or was written after what the state knew when it was opened, and before what
        this process wrote first: a state that was put back hides with its next write that it lacks some.
        """
        if seq > self.standing.knowledge.get(self.standing.actor, -1):
            return True
        first = self.ledger.first
        return self.incarnation is not None and first is not None and self.incarnation.written < seq < first

    def greet(self, hello: Hello) -> None:
        """Note a peer's opening of its state, and that it has met ours; blocks.

        Raises:
            StateForked: The peer's is an older one, or a copy.
        """
        self.note_boot(hello)
        if self.incarnation is not None:
            self.incarnation.meet()

    def note_boot(self, hello: Hello) -> None:
        """Hold a peer's opening of its state against the last one that was met, and remember it; blocks.

        Raises:
            StateForked: It is an earlier one, another with the same number, or one that began with
                less than we had from the one before.
        """
        boot = hello.boot
        last = self.store.last_boot(hello.actor)
        forked = last is not None and (
            boot.number < last[0]
            or (boot.number == last[0] and boot.nonce != last[1])
            or (boot.number > last[0] and boot.started <= last[2])
        )
        if forked:
            log.warning("peer_forked share=%s actor=%s", self.share.hex()[:8], hello.actor.hex())
            raise StateForked
        if last is None or last[0] != boot.number:
            self.store.note_boot(hello.actor, boot.number, boot.nonce)

    async def renew(self, why: str) -> None:
        """Go on as another actor, and stamp again what may collide with writes of the old one elsewhere."""
        incarnation = self.incarnation
        now_s = self.ledger.clock.monotonic_s()
        if incarnation is None or now_s < self.patient_until_s:
            raise StateForked  # again and again: the other device's word is not to be trusted
        epoch = self.epoch

        def write() -> None:
            if self.epoch != epoch:
                return  # another session found out at the same time
            log.warning("actor_renewed share=%s reason=%s", self.share.hex()[:8], why)
            # Not before: a session that is cut while it waits for its turn has renewed nothing.
            self.patient_until_s = now_s + RENEWAL_S
            with self.store.transaction(durable=True):
                self.ledger.renew(incarnation.mint(), since=incarnation.base)
                incarnation.renewed()
            self.epoch += 1

        await self.step(write)

    async def acknowledge(self) -> None:
        """Note that a peer has met this opening of the state and agreed: what was written before it is safe."""
        incarnation = self.incarnation
        if incarnation is not None and not incarnation.acknowledged:
            await self.step(incarnation.acknowledge)

    # Forgetting

    async def forget(self, covered: Knowledge, *, covered_before_us: int, before_us: int) -> int:
        """Forget tombstones that every member knows, and old ones; only while all sessions are at rest."""
        return await self.step(
            lambda: self.store.forget(covered, covered_before_us=covered_before_us, before_us=before_us)
        )

    async def settle_structure(self, changed: set[bytes]) -> None:
        """Look after the shape of the tree where a peer changed it, once its stream is whole."""
        if changed:
            await self.step(lambda: self.settle_now(changed))

    async def unstick(self, stuck: Collection[bytes]) -> None:
        """Look after what lies around items that wait in vain: only folders have others above them."""
        around = set(stuck) if self.directory is None else folders_above(stuck)
        await self.step(lambda: self.settle_now(around, stuck))

    def settle_now(self, changed: set[bytes], stuck: Collection[bytes] = ()) -> None:
        """Make what changed fit together with the rest; blocks."""
        if self.directory is None:
            self.ledger.mend(changed)
        else:
            self.ledger.settle_structure(changed, self.directory, stuck=stuck)

    # Streams of which a part must not be seen

    @property
    def amid_streams(self) -> bool:
        """Whether a part of what was changed together may be pending, and is not to be seen."""
        return bool(self.midstream or self.cut)

    async def stream_began(self, sender: DeviceId) -> None:
        """Note that a peer has sent a part of what was changed together: nothing is applied before the rest."""
        if self.source.whole and sender not in self.midstream:
            self.midstream.add(sender)
            await self.step(self.note_midstream)

    async def stream_ended(self, sender: DeviceId) -> None:
        """Note that a peer has sent all there was."""
        if sender in self.midstream or sender in self.cut:
            self.midstream.discard(sender)
            self.cut.discard(sender)
            await self.step(self.note_midstream)

    async def streams_ended(self) -> None:
        """Note that some peer has all that we have, and all of it in place: nothing is missing of streams that were cut."""
        if self.cut:
            self.cut.clear()
            await self.step(self.note_midstream)

    def stream_cut(self, sender: DeviceId) -> None:
        """Note that a session ended amid a stream: the rest comes with another one, from whomever."""
        if sender in self.midstream:
            self.torn = True
            self.midstream.discard(sender)
            self.cut.add(sender)

    def note_midstream(self) -> None:
        """Write down from whom the rest of a stream is still to come; once all is there, look after it; blocks."""
        streams = self.midstream | self.cut
        if self.torn and not streams:
            self.settle_now({pending.item.key for pending in self.all_pending()})
            self.torn = False
        self.store.set_setting(MIDSTREAM, b"".join(sorted(streams)))

    def all_pending(self) -> Iterator[Pending]:
        """Yield all that is pending; blocks."""
        after = b""
        while page := self.store.pending(limit=WHOLE_ITEMS_MAX, after=after):
            after = page[-1].item.key
            yield from page

    # Applying

    async def take_fresh(self) -> Waiting | None:
        """Return what became pending since the last call, in key order; None: too much to be kept in mind."""
        if not self.ledger.fresh and not self.ledger.overflowed:
            return Waiting([])
        async with self.lock:
            if self.amid_streams:
                return Waiting([])
            fresh, self.ledger.fresh = self.ledger.fresh, {}
            overflowed, self.ledger.overflowed = self.ledger.overflowed, False
            since = None if self.ledger.overtaken or not self.source.whole else self.store.arrival()
            self.ledger.overtaken = False
        if overflowed:
            return None
        return Waiting([fresh[key] for key in sorted(fresh)], since)

    async def apply(
        self, batch: Sequence[Pending], since: int | None = None
    ) -> tuple[list[bytes], dict[bytes, str]]:
        """Put pending versions in place; return the keys that are not, for now, and why they failed.

        Args:
            batch: They.
            since: See `Waiting`.
        """
        outcomes = await self.step(lambda: self.apply_now(batch, since))
        surprised = [o.key for o in outcomes if isinstance(o, Surprised)]
        if surprised:
            await self.look(surprised)
            if self.source.whole:
                # Most were touched and recorded a moment ago. Now that they were looked at, nothing is in the way.
                waiting = set(surprised)
                again = [pending for pending in batch if pending.item.key in waiting]
                outcomes = [o for o in outcomes if not isinstance(o, Surprised)]
                outcomes += await self.step(lambda: self.apply_now(again))
        unsettled = [o.key for o in outcomes if isinstance(o, Surprised | Failed)]
        return unsettled, {o.key: o.reason for o in outcomes if isinstance(o, Failed)}

    def apply_now(self, batch: Sequence[Pending], since: int | None = None) -> list[Outcome]:
        """Apply what is still pending of a batch, and note the outcomes; blocks."""
        self.source.check()
        still = self.store.still_pending(batch, since=since)
        if self.source.whole and len(still) < len(batch):
            if self.amid_streams:
                # What overtook them may be a part of a stream: all of this waits for the rest.
                self.ledger.overflowed = True
                return []
            # What an edit was merged with goes along: a parent must not go before a child that the app has just changed.
            overtaken = {p.item.key for p in batch} - {p.item.key for p in still}
            still += self.store.pending_of(sorted(overtaken)).values()
        outcomes = self.source.apply(still)
        asked = {p.item.key: p for p in still}
        with self.store.transaction(durable=self.source.whole):
            self.restate(outcomes)
            applied = {o.key: o.state for o in outcomes if isinstance(o, Applied)}
            self.store.settle_all([(asked[key], state) for key, state in applied.items()])
            self.ledger.settled(applied)
            self.store.fail([(o.key, o.reason) for o in outcomes if isinstance(o, Failed)])
        self.source.noted(outcomes)
        return outcomes

    def restate(self, outcomes: Sequence[Outcome]) -> None:
        """Note what is shown differently now; blocks.

        Of a source that is one whole this is on the disk before anything else is written to it, which is all that tells
        whether what it noted itself was done: a row that is shown no more would pass for one that an app deleted.
        """
        restated = [(o.key, o.state) for o in outcomes if isinstance(o, Restated)]
        with self.store.transaction(durable=self.source.whole):
            self.store.set_state(restated)

    # Reading

    async def pending(self, *, limit: int, after: bytes = b"") -> Waiting:
        """Return pending versions in key order."""
        async with self.lock:
            if self.amid_streams:
                # A part of one is pending by now.
                self.ledger.overflowed = True
                return Waiting([])
            rows = await self.executor.run(lambda: self.store.pending(limit=limit, after=after))
            return Waiting(rows, self.store.arrival() if self.source.whole else None)

    async def query(self, call: Callable[[ShareStorage], T]) -> T:
        """Run a blocking read on the store."""
        async with self.lock:
            return await self.executor.run(lambda: call(self.store))


def count_lost(store: ShareStorage, gone: Sequence[Observation]) -> int:
    """Return how many of the items that are gone were neither deleted by a peer nor merely moved; blocks.

    What a peer deleted may have been carried out while the scan ran: then the store knows by now. A file
    is moved if its content is here under a name that is not gone. Directories and links count
    only where nothing was moved: they go along with their files.
    """
    keys = {one.draft.key for one in gone}
    live = [row.item for row in store.get_many(sorted(keys)).values() if row.item.live]
    files = [item for item in live if item.kind is Kind.FILE]
    moved = sum(any(other.item.key not in keys for other in store.with_digest(item.digest)) for item in files)
    return len(files) - moved if moved else len(live)


def was_told(key: bytes, told: frozenset[bytes]) -> bool:
    """Return whether the deletion of a key, or of a folder that it was in, was told of."""
    while key and key not in told:
        key = key.rpartition(b"/")[0]
    return bool(key)


def take(found: Iterator[Finding], most: int) -> list[Finding]:
    """Return the next findings of a scan; blocks while it reads."""
    return list(islice(found, most))
