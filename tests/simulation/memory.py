"""A source in memory, and whole replicas joined by in-memory links: the engine without disk, clock or network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import trio
from blake3 import blake3
from kinds import SECRET, SHARE, Clock

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.executor import InlineExecutor
from p2psyncd.daemon.incarnation import Place, begin
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.daemon.sessiontable import SessionTable
from p2psyncd.sources.folder.attributes import (
    Attributes,
    capture,
    content_dot,
    decode,
    decode_or_plain,
    encode,
)
from p2psyncd.sources.folder.conflicts import (
    copies_begin,
    is_conflict,
    is_conflict_copy,
    is_copy_of,
    lost_write,
)
from p2psyncd.sources.folder.merge import aside, deletion, merge
from p2psyncd.sources.source import (
    Applied,
    Dirty,
    Failed,
    ItemError,
    Merged,
    Observation,
    Outcome,
    Surprised,
)
from p2psyncd.store.share import ShareStore
from p2psyncd.wire.messages import Message, decode_message, encode_message


@dataclass
class Node:
    kind: Kind
    content: bytes = b""
    mode: int = 0o644
    mtime_ns: int = 0
    stamp: int = 0
    """Grows with every change: the fingerprint."""

    @property
    def digest(self) -> bytes:
        return b"" if self.kind is Kind.DIRECTORY else blake3(self.content).digest()

    @property
    def state(self) -> bytes:
        return self.stamp.to_bytes(8, "big")


@dataclass
class MemorySource:
    """A folder that is a dictionary; files and directories only."""

    whole = False
    rest_s = 0.0
    due = False

    store: ShareStore
    now_us: Callable[[], int]
    nodes: dict[bytes, Node] = field(default_factory=dict)
    staged: dict[bytes, bytes] = field(default_factory=dict)
    discarded: list[tuple[bytes, bytes]] = field(default_factory=list)
    """History: (key, content) of what was replaced or deleted."""
    stamps: int = 0
    limited: str | None = None
    mark: bytes | None = None
    """The mark of the state's last opening."""

    # What a user does

    def edit(self, key: bytes, content: bytes, *, mode: int = 0o644) -> None:
        parent = key.rpartition(b"/")[0]
        if parent and parent not in self.nodes:
            self.mkdir(parent)
        self.place(key, Node(Kind.FILE, content, mode, mtime_ns=self.now_us() * 1000))

    def mkdir(self, key: bytes) -> None:
        parent = key.rpartition(b"/")[0]
        if parent and parent not in self.nodes:
            self.mkdir(parent)
        self.place(key, Node(Kind.DIRECTORY, mode=0o755))

    def remove(self, key: bytes) -> None:
        for name in [n for n in self.nodes if n == key or n.startswith(key + b"/")]:
            del self.nodes[name]

    def chmod(self, key: bytes, mode: int) -> None:
        old = self.nodes[key]
        self.place(key, Node(old.kind, old.content, mode, old.mtime_ns))

    def place(self, key: bytes, node: Node) -> bytes:
        self.stamps += 1
        node.stamp = self.stamps
        self.nodes[key] = node
        return node.state

    def tree(self) -> dict[bytes, tuple[Kind, bytes, int]]:
        return {key: (node.kind, node.content, node.mode) for key, node in self.nodes.items()}

    # What the engine asks

    def check(self) -> None:
        pass

    def scan(self, dirty: Dirty) -> Iterator[Observation | ItemError]:
        whole = b"" in dirty.subtrees
        known = {row.key: row for row in self.store.below(b"")}
        keys = sorted(set(self.nodes) | known.keys()) if whole else sorted(dirty.keys | dirty.subtrees)
        gone = []
        for key in keys:
            node, row = self.nodes.get(key), known.get(key)
            before = row.state if row is not None else b""
            if node is None:
                if before:
                    gone.append(
                        Observation(
                            draft=Draft(key=key, kind=Kind.TOMBSTONE),
                            state=b"",
                            base_state=before,
                            changed_us=0,
                        )
                    )
            elif node.state != before:
                yield self.observation(key, node, before)
        yield from reversed(gone)

    def observation(self, key: bytes, node: Node, before: bytes) -> Observation:
        stored = self.store.get(key)
        pending = self.store.pending_of([key]).get(key)
        base = pending.base if pending is not None else stored
        meta = capture(
            node.kind,
            node.digest,
            Attributes(mode=node.mode, mtime_ns=node.mtime_ns),
            base.item if base is not None else None,
            stored.item if stored is not None else None,
        )
        draft = Draft(key=key, kind=node.kind, digest=node.digest, size=len(node.content), meta=meta)
        return Observation(draft=draft, state=node.state, base_state=before, changed_us=0)

    def confirm(self, observations: Sequence[Observation]) -> list[Observation]:
        return list(observations)

    async def watch(
        self,
        notify: Callable[[Dirty], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()
        await trio.sleep_forever()

    def merge(self, ours: Item, theirs: Item) -> Merged:
        return merge(ours, theirs)

    def buried(self, item: Item) -> Draft:
        return Draft(key=item.key, kind=Kind.TOMBSTONE)

    def knows_baseline(self, item: Item, baseline: Item) -> bool:
        return True

    def mend(self, changed: Collection[bytes]) -> list[Draft]:
        return []

    def keep(self) -> None:
        """Keep nothing."""

    @property
    def unsettled(self) -> Collection[bytes]:
        return ()

    @property
    def unmended(self) -> Collection[bytes]:
        return ()

    def unsettle(self, changed: Collection[bytes]) -> None:
        """Note nothing: nothing here has consequences for others."""

    def noted(self, outcomes: Sequence[Outcome]) -> None:
        """Note nothing."""

    def reshow(self) -> list[Outcome]:
        return []

    def is_conflict(self, key: bytes) -> bool:
        return is_conflict(key)

    def copies_begin(self, key: bytes) -> bytes:
        return copies_begin(key)

    def is_copy_of(self, copy: bytes, key: bytes) -> bool:
        return is_copy_of(copy, key)

    def deletion(self, item: Item) -> Draft:
        return deletion(item)

    def made_by(self, item: Item) -> Dot:
        return content_dot(item, decode_or_plain(item.meta))

    def lost_write(self, copy: Item) -> Dot | None:
        return lost_write(copy)

    def stamped_again(self, item: Item, dot: Dot, since: int) -> Item:
        return replace(item, dot=dot)

    def aside(self, item: Item) -> Draft:
        return aside(item)

    def preserve(self, stored: Stored, key: bytes) -> bytes | None:
        node = self.nodes.get(stored.item.key)
        if node is None or node.state != stored.state:
            return None
        return self.place(key, Node(node.kind, node.content, node.mode, node.mtime_ns))

    def stage_local(self, wanted: Sequence[Pending]) -> set[bytes]:
        here = {node.digest: node.content for node in self.nodes.values() if node.kind is Kind.FILE}
        ready = set()
        for pending in wanted:
            item = pending.item
            if item.kind is not Kind.FILE or item.digest in self.staged:
                ready.add(item.key)
            elif item.digest in here:
                self.staged[item.digest] = here[item.digest]
                ready.add(item.key)
        return ready

    def witness(self) -> bytes | None:
        return self.mark

    def put_witness(self, witness: bytes) -> None:
        self.mark = witness

    def tidy(self) -> int:
        count = len(self.staged)
        self.staged.clear()
        return count

    def put_content(self, digest: bytes, data: bytes) -> None:
        self.staged[digest] = data

    def apply(self, batch: Sequence[Pending]) -> list[Outcome]:
        over = {
            p.item.key
            for p in batch
            if p.item.live
            and p.item.kind is not Kind.DIRECTORY
            and p.base is not None
            and p.base.item.kind is Kind.DIRECTORY
        }
        live = sorted((p for p in batch if p.item.live), key=lambda p: p.item.key)
        gone = sorted((p for p in batch if not p.item.live), key=lambda p: p.item.key, reverse=True)
        first = [p for p in live if p.item.key not in over]
        last = [p for p in live if p.item.key in over]
        return [self.apply_one(pending) for pending in (*first, *gone, *last)]

    def apply_one(self, pending: Pending) -> Outcome:
        item, key = pending.item, pending.item.key
        node = self.nodes.get(key)
        if (node.state if node is not None else b"") != (
            pending.base.state if pending.base is not None else b""
        ):
            return Surprised(key=key)
        below = [name for name in self.nodes if name.startswith(key + b"/")]
        if not item.live:
            if below:
                return Failed(key=key, reason="not empty")
            if node is not None:
                self.discarded.append((key, node.content))
                del self.nodes[key]
            return Applied(key=key, state=b"")
        parent = key.rpartition(b"/")[0]
        if parent and (parent not in self.nodes or self.nodes[parent].kind is not Kind.DIRECTORY):
            return Failed(key=key, reason="no directory to put it in")
        if item.kind is not Kind.DIRECTORY and below:
            return Failed(key=key, reason="a directory with children is there")
        if node is not None and node.content != self.staged.get(item.digest):
            self.discarded.append((key, node.content))
        content = self.staged[item.digest] if item.kind is Kind.FILE else b""
        attributes = decode(item.meta)
        return Applied(
            key=key, state=self.place(key, Node(item.kind, content, attributes.mode, attributes.mtime_ns))
        )


def directory(key: bytes, old: Item | None) -> Draft:
    if old is not None and old.kind is Kind.DIRECTORY:
        return Draft(key=key, kind=Kind.DIRECTORY, meta=old.meta)
    return Draft(key=key, kind=Kind.DIRECTORY, meta=encode(Attributes(mode=0o755, mtime_ns=0)))


class Device:
    """A whole replica without a daemon around it."""

    def __init__(
        self,
        number: int,
        skew_us: int = 0,
        *,
        path: Path | str = ":memory:",
        nodes: dict[bytes, Node] | None = None,
        mark: bytes | None = None,
        disk: bytes = b"",
    ) -> None:
        """Boot a device.

        Args:
            number: Its ID.
            skew_us: The error of its clock.
            path: Where its state is.
            nodes: What is in its folder.
            mark: The mark of the state's last opening beside the folder.
            disk: What disk the state is on, so that a copy can be on another.
        """
        self.device = DeviceId(bytes([number]) * 32)
        self.clock = Clock(skew_us)
        self.store = ShareStore.open(
            path,
            share_id=SHARE,
            secret=SECRET,
            mint_actor=lambda: ActorId(bytes([number]) * 8),
            is_conflict=is_conflict_copy,
            received_us=self.clock.now_us,
        )
        self.source = MemorySource(self.store, self.clock.now_us, nodes=nodes if nodes is not None else {})
        self.source.stamps = max((node.stamp for node in self.source.nodes.values()), default=0)
        self.source.mark = mark
        random = Random(f"{number} {disk!r} {self.clock.now_us()}")
        place = Place(identity=disk or b"disk %d" % number, kernel_boot=b"on")
        self.incarnation = begin(self.store, self.source, place, entropy=random.randbytes)  # type: ignore[arg-type]
        self.replica = Replica(
            share=SHARE,
            store=self.store,
            source=self.source,  # type: ignore[arg-type]
            directory=directory,
            acceptable=lambda key: True,
            clock=self.clock,
            executor=InlineExecutor(),
            incarnation=self.incarnation,
        )
        self.replica.enter(Phase.READY)
        self.applier = Applier(self.replica)
        self.sessions: dict[DeviceId, SessionTable] = {}

    async def scan(self) -> None:
        await self.replica.scan()

    def close(self) -> None:
        self.incarnation.close()
        self.store.close()


class MemoryLink:
    """One direction of an in-memory connection; counts what crosses it."""

    def __init__(self) -> None:
        self.target: SessionTable | None = None
        self.send, self.receive = trio.open_memory_channel[bytes](100_000)
        self.bytes = 0
        self.messages: list[str] = []

    def post(self, message: Message) -> None:
        payload = encode_message(message)
        self.bytes += len(payload) + 4
        self.messages.append(type(message).__name__)
        self.send.send_nowait(payload)

    async def stream(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        self.post(message)

    async def carry(self, nursery: trio.Nursery) -> None:
        async for payload in self.receive:
            assert self.target is not None
            await self.target.dispatch(decode_message(payload), nursery)  # type: ignore[arg-type]


class Events:
    """What a session table asks of the daemon around it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.failed: list[str] = []

    def replicas_for(self, device: DeviceId) -> list[Replica]:
        return [self.device.replica]

    def session_failed(self, device: DeviceId, share: ShareId, trouble: str) -> None:
        self.failed.append(trouble)

    def member(self, share: ShareId, device: DeviceId) -> None:
        pass


class Connection:
    """A session between two devices, for as long as its block lasts; begun again whenever it ended."""

    def __init__(self, a: Device, b: Device) -> None:
        self.a, self.b = a, b
        self.a_to_b, self.b_to_a = MemoryLink(), MemoryLink()
        self.table_a, self.table_b = table(a, b, self.a_to_b), table(b, a, self.b_to_a)
        self.a_to_b.target, self.b_to_a.target = self.table_b, self.table_a

    async def run(self) -> None:
        a, b = self.a, self.b
        a.sessions[b.device], b.sessions[a.device] = self.table_a, self.table_b
        try:
            async with trio.open_nursery() as nursery:
                self.table_a.open(nursery)
                self.table_b.open(nursery)
                nursery.start_soon(self.a_to_b.carry, nursery)
                nursery.start_soon(self.b_to_a.carry, nursery)
                nursery.start_soon(fetch, a, b)
                nursery.start_soon(fetch, b, a)
        finally:
            a.sessions.pop(b.device, None)
            b.sessions.pop(a.device, None)
            a.applier.release(b.device)
            b.applier.release(a.device)

    @property
    def driver_a(self) -> SessionDriver | None:
        return self.table_a.drivers.get(SHARE)

    @property
    def driver_b(self) -> SessionDriver | None:
        return self.table_b.drivers.get(SHARE)

    @property
    def bytes(self) -> int:
        return self.a_to_b.bytes + self.b_to_a.bytes

    @property
    def agreed(self) -> bool:
        drivers = (self.driver_a, self.driver_b)
        return all(driver is not None and driver.in_sync for driver in drivers)


def table(device: Device, peer: Device, link: MemoryLink) -> SessionTable:
    """Return one side's sessions."""
    return SessionTable(
        link,
        Events(device),
        ours=device.device,
        peer=peer.device,
        offered=lambda share: share == SHARE,
        on_progress=lambda: None,
    )


async def fetch(to: Device, source: Device) -> None:
    """Give `to` the contents it wants that `source` has: the content connection of this world."""
    while True:
        event = to.applier.work.event
        batch = to.applier.take_batch(source.device, large=1 << 60)
        if not batch:
            with trio.move_on_after(0.05) as scope:
                await event.wait()
            if scope.cancelled_caught:
                to.applier.progressed(source.device)
            continue
        await trio.lowlevel.checkpoint()
        there = {n.digest: n.content for n in source.source.nodes.values() if n.kind is Kind.FILE}
        found = [w.digest for w in batch if w.digest in there]
        for digest in found:
            to.source.put_content(digest, there[digest])
        to.applier.arrived(found)
        to.applier.missing(source.device, [w.digest for w in batch if w.digest not in there])
