"""Drives one anti-entropy session: carries out its effects on the replica and the link.

The session's own task never waits for room on the link: control messages are posted, and only the
streams (the log, a repair) wait, in tasks of their own. Two peers that both send much can therefore
not block each other.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, Protocol, assert_never

import trio

from p2psyncd.core.ids import BASELINE_ACTOR, ActorId, DeviceId
from p2psyncd.core.item import Item
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.merkle import Summary, compare, find, summarize
from p2psyncd.core.storage import ShareStorage
from p2psyncd.daemon.replica import PART_ITEMS, WHOLE_ITEMS_MAX, Replica
from p2psyncd.daemon.signal import Signal
from p2psyncd.wire.effects import (
    Answer,
    Bury,
    Commit,
    Descend,
    Effect,
    Inspected,
    Recheck,
    Send,
    StreamLog,
    Summarize,
    Supply,
    Take,
)
from p2psyncd.wire.messages import Delta, Done, Gone, Message, SessionMessage, Summaries, Want
from p2psyncd.wire.session import Session

__all__ = ["ANEW", "INSPECTED_MAX", "INSPECTION_S", "Inspect", "MessageLink", "SessionDriver"]

log = logging.getLogger(__name__)

ANEW = "anew"
"""Why a session ends that begins again at once: this replica goes on as another actor, or forgot more than it said."""
INBOX_MESSAGES_MAX = 8
# About 100 KB of records: one transaction on the other side.
ITEMS_PER_DELTA = 1000
# Of long names and vectors a thousand would not fit into a frame.
BYTES_PER_DELTA = 1024 * 1024
# What was changed together is taken in together, so that no third device ever hears of a part of it: a stream of so many
# items is kept in memory until its end. A longer one, or one of so many bytes, is taken in by parts, each while the next one comes.
GATHERED_MAX = WHOLE_ITEMS_MAX
GATHERED_BYTES = 16 * 1024 * 1024
# Roots may differ for a moment because writes are under way; a descent for that would be waste.
RECHECK_S = 0.3
SUMMARY_BYTES = 4096
INSPECTION_S = 20.0
INSPECTED_MAX = 4096


class MessageLink(Protocol):
    """What a session needs of a connection."""

    def post(self, message: Message) -> None:
        """Queue a small message; never waits."""
        ...

    async def stream(self, message: Message) -> None:
        """Queue a large message once there is room."""
        ...


Inspect = Callable[[Sequence[bytes], dict[bytes, Item]], Awaitable[None]]


class Gathered(NamedTuple):
    """What came of a stream that is to be applied as a whole."""

    items: Sequence[Item]
    devices: Sequence[tuple[ActorId, DeviceId]]
    """Which device actors belong to."""
    repairs: Sequence[tuple[Delta, bool]]
    """Repair that came meanwhile, and whether the peer was stale."""
    stale: bool


class SessionDriver:
    """Runs the session of one replica with one peer."""

    def __init__(
        self,
        replica: Replica,
        link: MessageLink,
        *,
        ours: DeviceId,
        peer: DeviceId,
        on_progress: Callable[[], None],
    ) -> None:
        self.replica = replica
        self.epoch = replica.epoch
        self.link = link
        self.session = Session(
            share=replica.share,
            our_device=ours,
            peer_device=peer,
            deaf=not replica.takes,
            offered=replica.undecided,
        )
        self.peer = peer
        self.on_progress = on_progress
        self.outbox, self.inbox = trio.open_memory_channel[SessionMessage](INBOX_MESSAGES_MAX)
        self.turn = trio.Lock()
        self.cursor = 0
        self.gathered: list[Item] = []
        """What came of a stream that is to be applied as a whole."""
        self.gathered_from: dict[ActorId, DeviceId] = {}
        self.repairs: list[tuple[Delta, bool]] = []
        """Repair that came amid such a stream, and whether the peer was stale."""
        self.gathered_bytes = 0
        self.gathered_stale = False
        self.in_parts = False
        """Whether some of the stream has been taken in, or is."""
        self.written = trio.Event()
        """Set unless a part of a stream is being taken in."""
        self.written.set()
        self.unsettled: set[bytes] = set()
        """Keys that the peer changed since it last said that it has sent all."""
        self.ended = ""
        self.anew = False
        """Whether what we said in our hello is not enough by now: the peer would not believe what we have to say."""
        self.scope = trio.CancelScope()
        self.inspected: Inspected | None = None
        self.inspection = Signal()
        self.asks = 0
        """Questions of descents so far: round trips."""
        self.wanted: dict[bytes, None] = {}
        """Keys of items that the peer wants as repair, in order."""
        self.wanting = Signal()
        self.repaired: dict[bytes, Item] = {}
        """Items that came as repair during an inspection."""

    @property
    def in_sync(self) -> bool:
        """Whether the peer has said that it has the same root and all content, and we have too."""
        peer = self.session.peer
        standing = self.replica.standing
        return (
            peer is not None
            and peer.root == standing.root
            and peer.need_items == 0
            and standing.need_items == 0
        )

    @property
    def peer_is_whole(self) -> bool:
        """Whether the peer has put all in place that we have: no part of what was changed together is missing."""
        peer, standing = self.session.peer, self.replica.standing
        equal = peer is not None and peer.need_items == 0 and peer.root == standing.root
        return equal and self.session.comparable(standing)

    @property
    def at_rest(self) -> bool:
        """Whether both sides have the same, as far as is known, and nothing is under way."""
        session, standing = self.session, self.replica.standing
        return session.pushes and session.agreed_root == standing.root and session.comparable(standing)

    @property
    def known(self) -> Knowledge:
        """What the peer was last heard to know."""
        return self.session.peer.knowledge if self.session.peer is not None else {}

    def start(self, closings: int) -> None:
        """Say hello; see `Session.start`."""
        self.cursor = self.replica.standing.arrival
        for effect in self.session.start(self.replica.standing, closings=closings):
            self.link.post(effect.message)

    async def run(self) -> str:
        """Run a session that has started until it ends; return the reason.

        Raises:
            RemoteProtocolError: The peer broke the rules.
            StateForked: The peer goes on from an older state, and must become another actor first.
        """
        with self.scope, self.inbox, self.streaming():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.push, nursery)
                nursery.start_soon(self.keep_supplying)
                async for message in self.inbox:
                    async with self.turn:
                        if isinstance(message, Done):
                            await self.take_gathered()
                        await self.replica.meet(message)
                        if self.replica.epoch != self.epoch:
                            break
                        effects = self.session.receive(message, self.replica.standing)
                        if isinstance(message, Done) and self.replica.source.whole:
                            # The peer has sent all: what came fits together now, and may be seen.
                            await self.settle_structure()
                            await self.replica.stream_ended(self.peer)
                        await self.carry_out(effects, nursery)
                    if self.in_sync:
                        await self.replica.acknowledge()
                    if self.peer_is_whole:
                        await self.replica.streams_ended()
                    self.on_progress()
                    self.replica.signal.fire()
                nursery.cancel_scope.cancel()
        return ANEW if self.anew or self.replica.epoch != self.epoch else self.ended

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Note when the session ends amid a stream."""
        try:
            yield
        finally:
            self.replica.stream_cut(self.peer)

    async def carry_out(self, effects: Sequence[Effect], nursery: trio.Nursery) -> None:
        """Carry out effects in order."""
        for effect in effects:
            match effect:
                case Send(message):
                    self.link.post(message)
                case StreamLog(above):
                    nursery.start_soon(self.stream_log, above, nursery)
                case Take(delta, stale):
                    await self.take(delta, nursery, stale=stale)
                case Bury(entries):
                    self.unsettled |= await self.replica.bury(entries)
                case Commit(knowledge, forgotten):
                    await self.settle_structure()
                    hello = self.session.hello
                    await self.replica.commit(knowledge, forgotten, hello.actor if hello else None)
                case Recheck():
                    nursery.start_soon(self.recheck, nursery)
                case Summarize(prefixes, full):
                    body = await self.replica.query(summarizer(prefixes, full=full))
                    self.link.post(Summaries(share=self.replica.share, body=body))
                case Descend(body, asked):
                    self.asks += 1
                    theirs = Summary.from_wire(body, asked)
                    await self.carry_out(await self.descend(theirs), nursery)
                    if not self.session.descending:
                        self.inspection.fire()  # one that waits for its turn
                case Supply(keys):
                    self.supply(keys)
                case Answer(hashes):
                    found = await self.replica.query(lambda store, h=hashes: find(store, h))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                    self.supply([entry[2] for entry in found])
                case Inspected():
                    self.inspected = effect
                    self.inspection.fire()
                case _:
                    assert_never(effect)

    async def take(self, delta: Delta, nursery: trio.Nursery, *, stale: bool) -> None:
        """Hand items to the replica, and answer with our better versions."""
        if delta.repair and self.inspected is not None:
            self.repaired.update((item.key, item) for item in delta.items)
            self.inspection.fire()
        if not self.replica.takes:
            return
        amid = bool(self.gathered) or self.in_parts
        if not self.replica.source.whole or (
            delta.repair and not (amid and self.gathered_bytes < GATHERED_BYTES)
        ):
            await self.take_items(delta.items, delta.devices, repair=delta.repair, stale=stale)
            return
        self.gathered_bytes += sum([bulk(item) for item in delta.items])
        if delta.repair:
            # It may be of what was changed together with what is still to come.
            self.repairs.append((delta, stale))
            return
        if not amid:
            await self.replica.stream_began(self.peer)
        self.gathered += delta.items
        self.gathered_from.update(delta.devices)
        self.gathered_stale |= stale
        most = PART_ITEMS if self.in_parts else GATHERED_MAX
        if len(self.gathered) > most or self.gathered_bytes >= GATHERED_BYTES:
            self.in_parts = True
            await self.written.wait()
            self.written = trio.Event()
            nursery.start_soon(self.take_behind, self.drawn(), self.written)

    def drawn(self) -> Gathered:
        """Return what was gathered of a stream; nothing is gathered then."""
        drawn = Gathered(
            self.gathered, tuple(self.gathered_from.items()), self.repairs, stale=self.gathered_stale
        )
        self.gathered, self.repairs, self.gathered_bytes = [], [], 0
        return drawn

    async def take_gathered(self) -> None:
        """Hand the rest of what was gathered of a stream to the replica; all of it is taken in then."""
        await self.written.wait()
        self.in_parts = False
        await self.take_part(self.drawn())

    async def take_behind(self, part: Gathered, written: trio.Event) -> None:
        """Hand a part of a stream to the replica while the next one is gathered."""
        await self.take_part(part)
        written.set()

    async def take_part(self, part: Gathered) -> None:
        """Hand what was gathered to the replica."""
        if part.items:
            await self.take_items(part.items, part.devices, repair=False, stale=part.stale)
        for delta, stale in part.repairs:
            await self.take_items(delta.items, delta.devices, repair=True, stale=stale)

    async def take_items(
        self,
        items: Sequence[Item],
        devices: Sequence[tuple[ActorId, DeviceId]],
        *,
        repair: bool,
        stale: bool,
    ) -> None:
        """Hand items to the replica, and answer with our better versions."""
        received = await self.replica.receive(items, devices, repair=repair, stale=stale)
        self.unsettled |= received.changed
        if received.answers:
            await self.send_items(received.answers, repair=True)
        if received.gone and not self.session.told_forgotten:
            self.anew = True
            self.scope.cancel()
            return
        for at in range(0, len(received.gone), ITEMS_PER_DELTA):
            entries = tuple(received.gone[at : at + ITEMS_PER_DELTA])
            self.link.post(Gone(share=self.replica.share, entries=entries))

    async def settle_structure(self) -> None:
        """Look after the shape of the tree, once the peer has sent all of what it has."""
        if self.in_parts:
            return
        changed, self.unsettled = self.unsettled, set()
        await self.replica.settle_structure(changed)

    async def descend(self, theirs: Summary) -> list[Effect]:
        """Compare the peer's summaries with our trie."""
        found = await self.replica.query(lambda store: compare(store, theirs))
        lacking = [*found.theirs_only, *(entry[0] for entry in found.differing)]
        surplus = [
            entry[2]
            for entry in (*found.ours_only, *found.differing)
            if not self.session.offering or entry[3].actor == BASELINE_ACTOR
        ]
        return self.session.descended(found.ask, lacking, surplus)

    async def recheck(self, nursery: trio.Nursery) -> None:
        """Give writes under way a moment, then let the session look again."""
        await trio.sleep(RECHECK_S)
        async with self.turn:
            await self.settle_structure()
            await self.carry_out(self.session.recheck(self.replica.standing), nursery)

    async def inspect(
        self, *, most: int = INSPECTED_MAX, within_s: float = INSPECTION_S, each: Inspect | None = None
    ) -> tuple[list[bytes], dict[bytes, Item], int]:
        """Return what differs now: keys of ours, the peer's versions by key, and how many more it has of these.

        Args:
            most: How many of the peer's versions to ask for.
            within_s: How long the peer may take.
            each: Takes our keys and a part of the peer's versions, one part after the other; then none are returned.

        Raises:
            trio.TooSlowError: The peer does not answer.
        """
        try:
            with trio.fail_after(within_s):
                while self.inspected is None:
                    event = self.inspection.event
                    async with self.turn:
                        for effect in self.session.inspect():
                            assert isinstance(effect, Send)
                            self.link.post(effect.message)
                    await event.wait()
                found = self.inspected
                wanted = found.lacking[:most]
                for at in range(0, len(wanted), INSPECTED_MAX):
                    part = wanted[at : at + INSPECTED_MAX]
                    await self.link.stream(Want(share=self.replica.share, hashes=part))
                    if each is not None:
                        await self.answered(len(part))
                        versions, self.repaired = self.repaired, {}
                        await each(found.surplus, versions)
                if each is None:
                    await self.answered(len(wanted))
            return list(found.surplus), dict(self.repaired), len(found.lacking) - len(wanted)
        finally:
            self.inspected = None
            self.repaired.clear()

    async def answered(self, count: int) -> None:
        """Wait for so many versions that were asked for."""
        while len(self.repaired) < count:
            await self.inspection.event.wait()

    # Sending items

    async def send_items(self, items: Sequence[Item], *, repair: bool = False, wait: bool = False) -> None:
        """Send items, many to a message."""
        if self.replica.undecided:
            return
        devices = await self.replica.query(lambda store: store.actor_devices())
        for part in parts(items):
            delta = Delta(share=self.replica.share, items=part, devices=tuple(devices.items()), repair=repair)
            if wait:
                await self.link.stream(delta)
            else:
                self.link.post(delta)

    async def stream_log(self, above: Knowledge, nursery: trio.Nursery) -> None:
        """Send everything above the peer's knowledge, then go on with what arrives."""
        up_to = self.replica.standing.arrival
        items = await self.replica.query(lambda store: store.log_above(above, up_to=up_to))
        while True:
            part = await self.replica.query(lambda _: next_items(items, ITEMS_PER_DELTA))
            if part:
                await self.send_items(part, wait=True)
            if len(part) < ITEMS_PER_DELTA:
                break
        async with self.turn:
            self.cursor = up_to
            await self.push_news(nursery, streamed=True)

    async def push(self, nursery: trio.Nursery) -> None:
        """Push what arrives, for as long as the session lives."""
        while True:
            changed = self.replica.signal.event
            if self.replica.epoch != self.epoch:
                self.scope.cancel()  # another session found out; ours is told so too
            async with self.turn:
                if self.session.pushes:
                    await self.push_news(nursery, streamed=False)
            await changed.wait()

    async def push_news(self, nursery: trio.Nursery, *, streamed: bool) -> None:
        """Send what arrived since the last time and say how we stand; the turn is held."""
        # What the peer wrote itself is no news to it, and much of what arrives comes from it.
        own = self.session.hello.actor if self.session.hello is not None else None
        while True:
            standing = self.replica.standing
            while self.cursor < standing.arrival:
                since = self.cursor
                items, self.cursor = await self.replica.query(
                    lambda store, since=since: store.log_since(since, limit=ITEMS_PER_DELTA, without=own)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                )
                news = [item for item in items if self.session.is_news(item)]
                if news:
                    await self.send_items(news)
                    self.session.said = None  # the peer waits for the word that this was all
            if standing is not self.replica.standing:
                continue  # more arrived meanwhile: what we say must not run ahead of what we sent
            effects = self.session.streamed(standing) if streamed else self.session.noticed(standing)
            await self.carry_out(effects, nursery)
            if streamed:
                # From here on it can be inspected, and more is said of it; perhaps the peer has said all already.
                self.inspection.fire()
                self.on_progress()
                self.replica.signal.fire()
            return

    def supply(self, keys: Iterable[bytes]) -> None:
        """Have the newest versions of some items sent, as repair."""
        self.wanted.update(dict.fromkeys(keys))
        self.wanting.fire()

    async def keep_supplying(self) -> None:
        """Send what is wanted, as long as the session lives; what is wanted twice at a time is sent once."""
        while True:
            event = self.wanting.event
            part = list(islice(self.wanted, ITEMS_PER_DELTA))
            if not part:
                await event.wait()
                continue
            for key in part:
                del self.wanted[key]
            rows = await self.replica.query(lambda store, part=part: store.get_many(part))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            if rows:
                await self.send_items([row.item for row in rows.values()], repair=True, wait=True)

    def abandon(self, reason: str) -> None:
        """End this session; whoever owns it tells the peer."""
        self.ended = reason
        self.scope.cancel()


def bulk(item: Item) -> int:
    """Return about how many bytes an item takes in a message."""
    return len(item.key) + len(item.meta) + len(item.vector)


def parts(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """Yield items in parts that each fit into a message."""
    part: list[Item] = []
    size = 0
    for item in items:
        more = bulk(item)
        if part and (len(part) == ITEMS_PER_DELTA or size + more > BYTES_PER_DELTA):
            yield tuple(part)
            part, size = [], 0
        part.append(item)
        size += more
    if part:
        yield tuple(part)


def next_items(items: Iterator[Item], most: int) -> list[Item]:
    """Return the next items of a log; blocks."""
    return list(islice(items, most))


def summarizer(prefixes: tuple[bytes, ...], *, full: bool) -> Callable[[ShareStorage], object]:
    """Return the blocking read that answers `Ask`."""
    return lambda store: summarize(store, prefixes, budget_bytes=SUMMARY_BYTES, full_width=full).to_wire()
