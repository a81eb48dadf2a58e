"""Streams of rows: what was changed together is seen together, however it is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing
from database_replicas import SHARE, NewReplica, write

from p2psyncd.core.ids import DeviceId
from p2psyncd.core.item import Item
from p2psyncd.core.knowledge import knowledge_hash
from p2psyncd.core.version import pack_vector
from p2psyncd.daemon import replica as replicas
from p2psyncd.daemon import sessions
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.sources.source import Observation
from p2psyncd.wire.messages import Delta, Done, Hello, Message, SessionMessage

DDL = "CREATE TABLE account(id INTEGER PRIMARY KEY, sum INTEGER)"


class Silent:
    """A link to a peer that only talks."""

    def post(self, message: Message) -> None:
        """Let a message go nowhere."""

    async def stream(self, message: Message) -> None:
        """Let a message go nowhere."""


class Listener:
    """A replica that hears what the test says for a peer."""

    def __init__(self, here: Replica, peer: Replica) -> None:
        self.here, self.peer = here, peer
        self.driver = SessionDriver(
            here,
            Silent(),
            ours=DeviceId(bytes([2]) * 32),
            peer=DeviceId(bytes([1]) * 32),
            on_progress=lambda: None,
        )

    async def run(self) -> None:
        """Listen, and put in place what may be seen."""
        self.here.enter(Phase.READY)
        self.driver.start(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.driver.run)
            nursery.start_soon(Applier(self.here).run)

    async def hear(self, *messages: SessionMessage) -> None:
        """Hear messages, and do all that follows from them."""
        for message in messages:
            await self.driver.outbox.send(message)
        await trio.testing.wait_all_tasks_blocked()

    def hello(self) -> Hello:
        """Return the peer's hello: it knows what we know."""
        here, peer = self.here.standing, self.peer.standing
        return Hello(
            share=SHARE,
            actor=peer.actor,
            knowledge_hash=knowledge_hash(here.knowledge),
            knowledge=pack_vector(here.knowledge),
            root=here.root,
            need_items=0,
            need_size=0,
            boot=peer.boot,
            forgotten=b"",
            closings=0,
        )

    def done(self) -> Done:
        """Return the peer's word that this was all."""
        peer = self.peer.standing
        return Done(
            share=SHARE, knowledge=pack_vector(peer.knowledge), root=peer.root, need_items=0, need_size=0
        )


def delta(*items: Item, repair: bool = False) -> Delta:
    """Return a message with some items."""
    return Delta(share=SHARE, items=items, devices=(), repair=repair)


def sums(path: Path) -> list[int]:
    """Return what an app sees."""
    with closing(apsw.Connection(str(path))) as connection:
        return [sum_ for (sum_,) in connection.execute("SELECT sum FROM account ORDER BY id")]


def rows_of(replica: Replica) -> list[Item]:
    """Return the items that are rows of the table, in the order of their keys."""
    found = [item for item in replica.store.all_items() if item.key.startswith(b"account/")]  # type: ignore[attr-defined]  # of the real store
    return sorted(found, key=lambda item: item.key)


async def listener(new_replica: NewReplica, folder: Path, count: int) -> Listener:
    """Return one whose peer has just changed so many rows together."""
    peer, here = (new_replica(folder / name, DDL) for name in ("peer.db", "here.db"))
    await peer.scan()
    await here.scan()
    write(folder / "peer.db", f"INSERT INTO account VALUES{', '.join(f'({n}, {n})' for n in range(count))}")
    await peer.scan()
    return Listener(here, peer)


@pytest.mark.parametrize("repaired", [1, 2])
async def test_of_what_was_changed_together_no_part_is_taken_in_before_all_is_told(
    new_replica: NewReplica, tmp_path: Path, nursery: trio.Nursery, repaired: int
) -> None:
    one = await listener(new_replica, tmp_path, 3)
    nursery.start_soon(one.run)
    items = rows_of(one.peer)
    await one.hear(one.hello(), delta(items[0]), delta(items[repaired], repair=True))
    assert sums(tmp_path / "here.db") == []
    assert rows_of(one.here) == []  # nobody else hears of it
    await one.hear(delta(items[3 - repaired]), one.done())
    assert sums(tmp_path / "here.db") == [0, 1, 2]
    nursery.cancel_scope.cancel()


async def test_a_long_stream_is_taken_in_by_parts_and_seen_at_its_end(
    new_replica: NewReplica, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "GATHERED_MAX", 4)
    monkeypatch.setattr(sessions, "PART_ITEMS", 2)
    one = await listener(new_replica, tmp_path, 12)
    nursery.start_soon(one.run)
    items = rows_of(one.peer)
    taken = []
    await one.hear(one.hello())
    for item in items[:-1]:
        await one.hear(delta(item))
        taken.append(len(rows_of(one.here)))
        assert sums(tmp_path / "here.db") == []
    assert taken == [0, 0, 0, 0, 5, 5, 5, 8, 8, 8, 11]
    await one.hear(delta(items[-1]), one.done())
    assert sums(tmp_path / "here.db") == list(range(12))
    nursery.cancel_scope.cancel()


async def test_a_stream_of_many_bytes_is_not_kept_in_memory(
    new_replica: NewReplica, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await listener(new_replica, tmp_path, 6)
    items = rows_of(one.peer)
    monkeypatch.setattr(sessions, "GATHERED_BYTES", sum(map(sessions.bulk, items[:3])))
    nursery.start_soon(one.run)
    await one.hear(one.hello(), delta(*items[:2]), delta(items[5], repair=True))
    assert len(rows_of(one.here)) == 0
    await one.hear(delta(items[2]))
    assert len(rows_of(one.here)) == 4
    assert sums(tmp_path / "here.db") == []
    await one.hear(delta(*items[3:5]), one.done())
    assert sums(tmp_path / "here.db") == list(range(6))
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("count", "steps"), [(40, [40]), (41, [40, 1]), (75, [40, 20, 15])])
async def test_what_is_found_together_is_recorded_together_also_among_older_hints(
    new_replica: NewReplica,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    steps: list[int],
) -> None:
    monkeypatch.setattr(replicas, "WHOLE_ITEMS_MAX", 40)
    monkeypatch.setattr(replicas, "PART_ITEMS", 20)
    monkeypatch.setattr(replicas, "OBSERVATIONS_PER_STEP", 1)
    a = new_replica(tmp_path / "a.db", DDL)
    await a.scan()
    write(tmp_path / "a.db", f"INSERT INTO account VALUES{', '.join(f'({n}, 0)' for n in range(30))}")
    await a.scan()
    recorded: list[int] = []
    record = a.record

    async def counted(observations: Sequence[Observation]) -> None:
        recorded.append(len(observations))
        await record(observations)

    monkeypatch.setattr(a, "record", counted)
    values = ", ".join(f"({n}, 0)" for n in range(100, 100 + count))
    write(tmp_path / "a.db", f"INSERT INTO account VALUES{values}")
    await a.scan()
    assert recorded == steps
