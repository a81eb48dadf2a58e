"""Random work on two to five devices, random meetings, some of them cut: in the end all agree and nothing is lost.

An example is a list of steps, which hypothesis shrinks. Thousands of others than CI's:
`P2PSYNC_SIMULATIONS=5000 pytest tests/simulation/test_random_operations.py`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import Connection, Device
from trio.testing import MockClock

from p2psyncd.core.item import Kind
from p2psyncd.sources.folder.conflicts import parse_conflict
from p2psyncd.wire.session import REPAIRS_MAX

SIMULATIONS = int(os.environ.get("P2PSYNC_SIMULATIONS", "0"))
EXAMPLES_IN_CI = 60
STEPS_MAX = 25
QUIET_LIMIT_S = 120
# One question a descent: all items of these examples fit into one leaf of the trie.
ASKS_MAX = REPAIRS_MAX

NAMES = [b"a", b"b", b"d", b"d/a", b"d/b", b"d/e", b"d/e/a", b"f/a"]
SKEWS_S = [0, 0, -3600, 3600, 86_400 * 3650]

Claim = tuple[bytes, bytes]
"""(content, key): somebody wrote this content under this name."""


@dataclass(frozen=True)
class Edit:
    """Write a fresh content; what is in the way (a directory here, a file above) goes if `force`."""

    device: int
    key: bytes
    force: bool


@dataclass(frozen=True)
class EditAlike:
    """Write one fresh content on two devices."""

    device: int
    other: int
    key: bytes


@dataclass(frozen=True)
class MakeDirectory:
    device: int
    key: bytes
    force: bool


@dataclass(frozen=True)
class Remove:
    device: int
    key: bytes


@dataclass(frozen=True)
class Rename:
    device: int
    key: bytes
    to: bytes


@dataclass(frozen=True)
class ChangeMode:
    device: int
    key: bytes
    mode: int


@dataclass(frozen=True)
class Scan:
    device: int


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Meet:
    """Connect two devices; cut after some checkpoints, or let them come to rest if `cut` is None."""

    device: int
    other: int
    cut: int | None


Step = Edit | EditAlike | MakeDirectory | Remove | Rename | ChangeMode | Scan | Wait | Meet


@dataclass
class World:
    """The devices, and the contents that must not get lost."""

    everyone: list[Device]
    claims: set[Claim] = field(default_factory=set)
    written: int = 0

    # What users do

    def fresh(self) -> bytes:
        self.written += 1
        return b"content %d" % self.written

    def forget(self, device: Device, key: bytes) -> None:
        """Note that the user of a device knowingly takes away what is there under a key."""
        node = device.source.nodes.get(key)
        while node is not None and key:
            self.claims.discard((node.content, key))
            parsed = parse_conflict(key)
            key = parsed.key if parsed is not None else b""

    def remove(self, device: Device, key: bytes) -> None:
        for name in [n for n in device.source.nodes if n == key or n.startswith(key + b"/")]:
            self.forget(device, name)
        device.source.remove(key)

    def room(self, device: Device, key: bytes, kind: Kind, *, force: bool) -> bool:
        """Return whether a thing of a kind can be put under a key; make room if `force`."""
        nodes = device.source.nodes
        parts = key.split(b"/")
        above = [b"/".join(parts[:count]) for count in range(1, len(parts))]
        in_the_way = [p for p in above if p in nodes and nodes[p].kind is not Kind.DIRECTORY]
        if key in nodes and (nodes[key].kind is not kind or kind is Kind.DIRECTORY):
            in_the_way.append(key)
        if in_the_way and not force:
            return False
        for name in in_the_way:
            self.remove(device, name)
        return True

    def edit(self, device: Device, key: bytes, content: bytes, *, force: bool) -> None:
        if not self.room(device, key, Kind.FILE, force=force):
            return
        self.forget(device, key)
        self.claims.add((content, key))
        device.source.edit(key, content)

    def rename(self, device: Device, key: bytes, to: bytes) -> None:
        nodes = device.source.nodes
        if key not in nodes or to == key or to.startswith(key + b"/") or key.startswith(to + b"/"):
            return
        if not self.room(device, to, nodes[key].kind, force=True):
            return
        moved = {n: nodes[n] for n in nodes if n == key or n.startswith(key + b"/")}
        if not moved:
            return
        self.remove(device, key)
        parent = to.rpartition(b"/")[0]
        if parent and parent not in nodes:
            device.source.mkdir(parent)
        for name, node in moved.items():
            target = to + name[len(key) :]
            self.forget(device, target)
            device.source.place(target, node)
            if node.kind is Kind.FILE:
                self.claims.add((node.content, target))

    async def take(self, step: Step) -> None:
        """Do one step."""
        count = len(self.everyone)
        match step:
            case Edit():
                self.edit(self.everyone[step.device % count], step.key, self.fresh(), force=step.force)
            case EditAlike():
                content = self.fresh()
                for number in (step.device, step.other):
                    self.edit(self.everyone[number % count], step.key, content, force=True)
            case MakeDirectory():
                device = self.everyone[step.device % count]
                if self.room(device, step.key, Kind.DIRECTORY, force=step.force):
                    device.source.mkdir(step.key)
            case Remove():
                self.remove(self.everyone[step.device % count], step.key)
            case Rename():
                self.rename(self.everyone[step.device % count], step.key, step.to)
            case ChangeMode():
                device = self.everyone[step.device % count]
                if step.key in device.source.nodes:
                    device.source.chmod(step.key, step.mode)
            case Scan():
                await self.everyone[step.device % count].scan()
            case Wait():
                await trio.sleep(step.seconds)
            case Meet():
                a, b = self.everyone[step.device % count], self.everyone[step.other % count]
                if a is not b:
                    await meet(a, b, step.cut)


# Meetings


@asynccontextmanager
async def connected(pairs: Sequence[tuple[Device, Device]]) -> AsyncIterator[list[Connection]]:
    async with trio.open_nursery() as nursery:
        connections = [Connection(a, b) for a, b in pairs]
        for device in {id(d): d for pair in pairs for d in pair}.values():
            nursery.start_soon(device.applier.run)
        for connection in connections:
            nursery.start_soon(connection.run)
        yield connections
        nursery.cancel_scope.cancel()
    for connection in connections:
        assert (connection.a_to_b.messages + connection.b_to_a.messages).count("Ask") <= ASKS_MAX


async def meet(a: Device, b: Device, cut: int | None) -> None:
    """Connect two devices for a while: they need not come to agree, content may be with a third."""
    async with connected([(a, b)]) as (connection,):
        if cut is not None:
            for _ in range(cut):
                await trio.lowlevel.checkpoint()
            return
        for _ in range(8):
            await trio.sleep(0.5)
            if connection.agreed:
                break


def picture(everyone: Sequence[Device]) -> str:
    """Return how all stand, for a failure."""
    lines = []
    for device in everyone:
        standing, totals = device.replica.standing, device.replica.totals
        lines.append(
            f"{device.device[0]}: root={standing.root.hex()[:8]} pending={totals.pending_items}"
            f" failures={device.applier.failures}"
            f" knowledge={ {a[0]: s % 10**9 for a, s in standing.knowledge.items()} }"
        )
        lines += [
            f"   {key!r} {node.kind.name} {node.content!r} {node.mode:o}"
            for key, node in sorted(device.source.nodes.items())
        ]
        lines += [f"   pending: {p}" for p in device.store.pending(limit=100)]
    return "\n".join(lines)


def sent(connections: Sequence[Connection]) -> int:
    return sum(len(c.a_to_b.messages) + len(c.b_to_a.messages) for c in connections)


async def agree(everyone: Sequence[Device]) -> None:
    """Connect all with all until they agree and nothing is sent any more."""
    async with connected(list(combinations(everyone, 2))) as connections:
        with trio.move_on_after(QUIET_LIMIT_S) as limit:
            while True:
                before = sent(connections)
                await trio.sleep(1.5)
                roots = {device.replica.standing.root for device in everyone}
                if len(roots) == 1 and all(c.agreed for c in connections) and sent(connections) == before:
                    break
        assert not limit.cancelled_caught, f"no agreement:\n{picture(everyone)}"
        before = sent(connections)
        await trio.sleep(3)
        assert sent(connections) == before, "traffic does not end"


async def meet_once_more(everyone: Sequence[Device]) -> None:
    """Check that a further meeting is one round trip."""
    async with connected(list(combinations(everyone, 2))) as connections:
        await trio.sleep(1)
        for connection in connections:
            talk = (connection.a_to_b.messages, connection.b_to_a.messages)
            assert talk == (["Hello"], ["Hello"]), f"more than one round trip:\n{picture(everyone)}"


# The property


def check(world: World) -> None:
    """Check that all have the same and that nothing is lost."""
    everyone = world.everyone
    first = everyone[0].source.tree()
    for device in everyone:
        assert device.source.tree() == first, picture(everyone)
        assert device.store.root() == everyone[0].store.root() == device.store.rebuilt_root()
        assert device.store.totals().pending_items == 0
        assert not device.applier.failures
        stored = {row.key for row in device.store.below(b"")}
        assert stored == set(device.source.nodes), "the store and the folder differ"
    for key in first:
        parent = key.rpartition(b"/")[0]
        assert not parent or first[parent][0] is Kind.DIRECTORY
    there = {content for kind, content, _ in first.values() if kind is Kind.FILE}
    lost = sorted(claim for claim in world.claims if claim[0] not in there)
    assert not lost, f"lost {lost}:\n{picture(everyone)}"


async def live(skews_s: Sequence[int], steps: Sequence[Step]) -> None:
    """Run one example."""
    world = World([Device(number + 1, skew * 1_000_000) for number, skew in enumerate(skews_s)])
    try:
        for step in steps:
            await world.take(step)
        for device in world.everyone:
            await device.scan()
        await agree(world.everyone)
        for device in world.everyone:
            arrival = device.store.arrival()
            await device.scan()
            assert device.store.arrival() == arrival, "a scan finds what nobody changed"
        check(world)
        await meet_once_more(world.everyone)
    finally:
        for device in world.everyone:
            device.close()


numbers = st.integers(0, 4)
keys = st.sampled_from(NAMES)
deep_or_not = st.booleans()
cuts = st.one_of(st.none(), st.integers(1, 60))
some_steps = st.one_of(
    st.builds(Edit, numbers, keys, st.booleans()),
    st.builds(Edit, numbers, keys, st.booleans()),
    st.builds(Remove, numbers, keys),
    st.builds(Rename, numbers, keys, keys),
    st.builds(ChangeMode, numbers, keys, st.sampled_from([0o600, 0o644, 0o755])),
    st.builds(MakeDirectory, numbers, keys, st.booleans()),
    st.builds(EditAlike, numbers, numbers, keys),
    st.builds(Scan, numbers),
    st.builds(Scan, numbers),
    st.builds(Wait, st.sampled_from([0.001, 1.0, 7200.0])),
    st.builds(Meet, numbers, numbers, cuts),
    st.builds(Meet, numbers, numbers, cuts),
    st.builds(Meet, numbers, numbers, cuts),
)


@settings(
    max_examples=SIMULATIONS or EXAMPLES_IN_CI,
    derandomize=not SIMULATIONS,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
@given(
    skews_s=st.lists(st.sampled_from(SKEWS_S), min_size=2, max_size=5),
    steps=st.lists(some_steps, min_size=1, max_size=STEPS_MAX),
)
def test_devices_that_meet_at_random_agree_in_the_end_and_lose_nothing(
    skews_s: list[int], steps: list[Step]
) -> None:
    trio.run(live, skews_s, steps, clock=MockClock(autojump_threshold=0))
