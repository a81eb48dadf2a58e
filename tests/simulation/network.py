"""Connections between devices: real frames, in pieces, late, and cut in the midst of one.

A link is the cable between two machines; while it is whole and both devices run, they keep one
connection. What a connection carries is real: framed messages, cut into pieces anywhere, in order,
each piece after the link's latency. When it is cut, what was under way is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

import trio
from kinds import SHARE

from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.core.version import Dot, unpack_vector
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.daemon.sessiontable import SessionTable
from p2psyncd.daemon.signal import first_of
from p2psyncd.wire.frames import FrameDecoder, encode_frame
from p2psyncd.wire.messages import Closed, Delta, Done, Gone, Hello, Message, decode_message, encode_message

if TYPE_CHECKING:
    from world import Process

__all__ = ["Connection", "Link"]

LARGE_BYTES = 1 << 60
QUEUED_MAX = 100_000


class Link:
    """The cable between two machines."""

    def __init__(self) -> None:
        self.whole = False
        self.latency_s = 0.0
        self.changed = trio.Event()
        self.connection: Connection | None = None

    def join(self, latency_s: float) -> None:
        self.whole, self.latency_s = True, latency_s
        self.tell()

    def cut(self) -> None:
        self.whole = False
        self.drop()
        self.tell()

    def drop(self) -> None:
        """End the connection; another follows if the link is whole."""
        if self.connection is not None:
            self.connection.scope.cancel()

    def tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class Wire:
    """One direction of a connection."""

    def __init__(
        self,
        sender: Process,
        receiver: Process,
        latency_s: float,
        random: Random,
        log: Callable[[str], None],
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.latency_s = latency_s
        self.random = random
        self.log = log
        self.messages: list[str] = []
        self.under_way = 0
        """Messages that were sent and have not come."""
        self.outbox, self.inbox = trio.open_memory_channel[bytes](QUEUED_MAX)

    def post(self, message: Message) -> None:
        if not self.sender.machine.hazard.dead:
            self.messages.append(type(message).__name__)
            self.under_way += 1
            self.outbox.send_nowait(encode_frame(encode_message(message)))

    async def stream(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        self.post(message)

    async def carry(self, table: SessionTable, nursery: trio.Nursery) -> None:
        """Bring what was sent to the other side, piece by piece."""
        decoder = FrameDecoder()
        async for frame in self.inbox:
            await trio.sleep(self.latency_s)
            cut = self.random.randrange(len(frame) + 1)
            for piece in (frame[:cut], frame[cut:]):
                for payload in decoder.feed(piece):
                    message = decode_message(payload)
                    ends = f"{self.sender.machine.number} to {self.receiver.machine.number}"
                    self.log(f"{ends}: {describe(message)}")
                    await table.dispatch(message, nursery)  # type: ignore[arg-type]
                await trio.lowlevel.checkpoint()
            self.under_way -= 1


def describe(message: Message) -> str:
    """Return a message as a trace shows it."""
    name = type(message).__name__
    match message:
        case Delta():
            items = " ".join(
                f"{i.key!r}:{i.kind.name}:{i.digest.hex()[:4]}:{shown(i.dot)}" for i in message.items
            )
            return f"{name} {'repair ' if message.repair else ''}{items}"
        case Gone():
            return f"{name} {' '.join(f'{key!r}:{shown(dot)}' for key, dot in message.entries)}"
        case Hello():
            return f"{name} root={message.root.hex()[:8]} boot={message.boot.number} K={known(message.knowledge)}"
        case Done():
            return (
                f"{name} root={message.root.hex()[:8]} need={message.need_items} K={known(message.knowledge)}"
            )
        case Closed():
            return f"{name} {message.reason}"
        case _:
            return name


def shown(dot: Dot) -> str:
    return f"{dot.actor.hex()[:4]}.{dot.seq % 10**12}"


def known(packed: bytes) -> str:
    return " ".join(shown(Dot(*entry)) for entry in unpack_vector(packed).items())


class Connection:
    """One connection, for as long as it lasts."""

    def __init__(
        self, a: Process, b: Process, latency_s: float, random: Random, log: Callable[[str], None]
    ) -> None:
        self.a, self.b = a, b
        self.latency_s = latency_s
        self.scope = trio.CancelScope()
        self.a_to_b = Wire(a, b, latency_s, random, log)
        self.b_to_a = Wire(b, a, latency_s, random, log)
        self.table_a = Side(a, b, self.a_to_b).table
        self.table_b = Side(b, a, self.b_to_a).table

    async def run(self) -> None:
        a, b = self.a, self.b
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    self.table_a.open(nursery)
                    self.table_b.open(nursery)
                    nursery.start_soon(self.a_to_b.carry, self.table_b, nursery)
                    nursery.start_soon(self.b_to_a.carry, self.table_a, nursery)
                    nursery.start_soon(fetch, a, b, self.latency_s)
                    nursery.start_soon(fetch, b, a, self.latency_s)
                    nursery.start_soon(self.follow_phases, nursery)
        finally:
            a.device.applier.release(b.key)
            b.device.applier.release(a.key)

    async def follow_phases(self, nursery: trio.Nursery) -> None:
        """Begin and end sessions as the replicas become able to exchange, or unable."""
        while True:
            events = [self.a.phase_changed.event, self.b.phase_changed.event]
            self.table_a.open(nursery)
            self.table_b.open(nursery)
            await first_of(events)

    @property
    def talk(self) -> tuple[list[str], list[str]]:
        return self.a_to_b.messages, self.b_to_a.messages

    @property
    def at_rest(self) -> bool:
        """Whether both sides have a session that has got as far as pushing what arrives, and nothing is under way.

        A session that failed begins again only after a while, and what is late comes later still.
        """
        drivers = [table.drivers.get(SHARE) for table in (self.table_a, self.table_b)]
        begun = all(driver is not None and driver.session.pushes for driver in drivers)
        return begun and not self.a_to_b.under_way and not self.b_to_a.under_way

    def driver_of(self, process: Process) -> SessionDriver | None:
        """Return one side's session."""
        table = self.table_a if process is self.a else self.table_b
        return table.drivers.get(SHARE)


class Side:
    """What one side's sessions ask of the daemon around them."""

    def __init__(self, ours: Process, peer: Process, wire: Wire) -> None:
        self.ours, self.peer = ours, peer
        self.table = SessionTable(
            wire,
            self,
            ours=ours.key,
            peer=peer.key,
            offered=lambda share: share == SHARE and is_able(peer.device.replica),
            on_progress=lambda: ours.device.applier.progressed(peer.key),
        )

    def replicas_for(self, device: DeviceId) -> Sequence[Replica]:
        return [self.ours.device.replica] if is_able(self.ours.device.replica) else []

    def session_failed(self, device: DeviceId, share: ShareId, trouble: str) -> None:
        self.ours.note_trouble(trouble)

    def member(self, share: ShareId, device: DeviceId) -> None:
        pass


def is_able(replica: Replica) -> bool:
    """Return whether a replica can exchange now."""
    return replica.phase in {Phase.READY, Phase.SCANNING}


async def fetch(to: Process, source: Process, latency_s: float) -> None:
    """Give a device the contents it wants that a peer has: the content connection of this world."""
    applier = to.device.applier
    while True:
        wanted = applier.work.event
        batch = applier.take_batch(source.key, large=LARGE_BYTES)
        if not batch:
            await wanted.wait()
            continue
        applier.fetching += 1
        try:
            await trio.sleep(latency_s)
            found = {one.digest: source.device.content(one.digest) for one in batch}
            await trio.sleep(latency_s)
            await bring(to, source, found)
        finally:
            applier.fetching -= 1
            applier.poke.set()


async def bring(to: Process, source: Process, found: dict[bytes, bytes | None]) -> None:
    """Stage what a peer sent; give back what it has not got."""
    applier = to.device.applier
    try:
        for digest, data in found.items():
            if data is not None:
                to.device.put_content(digest, data)
                applier.arrived([digest])
                await trio.lowlevel.checkpoint()
    except OSError:
        applier.release(source.key)
        await trio.sleep(STAGING_RETRY_S)
        return
    applier.missing(source.key, [digest for digest, data in found.items() if data is None])
    if any(data is None for data in found.values()):
        await trio.lowlevel.checkpoint()


STAGING_RETRY_S = 5.0
