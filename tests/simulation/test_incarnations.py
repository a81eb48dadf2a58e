"""Older states put back, copied disks, and tombstones that were forgotten: whole replicas that must not be fooled."""

from __future__ import annotations

import copy
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import trio
from memory import SECRET, Connection, Device, Node
from trio.testing import MockClock

from p2psyncd.core.merkle import key_hash
from p2psyncd.daemon.lost import give_up_lost_contents

FOREVER_US = 2**62


class Machine:
    """A device with a disk: its state file and its folder, which can be saved, put back and copied."""

    def __init__(self, number: int, folder: Path, disk: bytes = b"") -> None:
        self.number = number
        self.path = folder / f"{number}{disk.decode()}.db"
        self.disk = disk
        self.nodes: dict[bytes, Node] = {}
        self.mark: bytes | None = None
        self.device = self.boot()

    def boot(self) -> Device:
        self.device = Device(
            self.number,
            path=self.path,
            nodes=self.nodes,
            mark=self.mark,
            disk=self.disk or b"disk %d" % self.number,
        )
        self.mark = self.device.source.mark
        return self.device

    def stop(self) -> None:
        self.device.close()

    def save(self) -> tuple[bytes, dict[bytes, Node], bytes | None]:
        self.stop()
        saved = self.path.read_bytes(), copy.deepcopy(self.nodes), self.mark
        self.boot()
        return saved

    def put_back(self, saved: tuple[bytes, dict[bytes, Node], bytes | None], *, folder: bool) -> None:
        self.stop()
        self.path.write_bytes(saved[0])
        if folder:
            self.nodes, self.mark = copy.deepcopy(saved[1]), saved[2]
        self.boot()

    @property
    def actor(self) -> bytes:
        return self.device.store.actor()

    def contents(self) -> dict[bytes, bytes]:
        return {key: node.content for key, node in sorted(self.nodes.items())}


Maker = Callable[..., Machine]


@asynccontextmanager
async def meeting(machines: Sequence[Machine]) -> AsyncIterator[list[Connection]]:
    async with trio.open_nursery() as nursery:
        devices = [machine.device for machine in machines]
        connections = [Connection(a, b) for a, b in combinations(devices, 2)]
        for device in devices:
            nursery.start_soon(device.applier.run)
        for connection in connections:
            nursery.start_soon(connection.run)
        yield connections
        nursery.cancel_scope.cancel()


async def meet(*machines: Machine, limit_s: float = 120) -> None:
    for machine in machines:
        await machine.device.scan()
    async with meeting(machines) as connections:
        with trio.move_on_after(limit_s):
            while True:
                await trio.sleep(1)
                roots = {machine.device.replica.standing.root for machine in machines}
                if len(roots) == 1 and all(c.agreed for c in connections):
                    return
    failed = [table.events.failed for c in connections for table in (c.table_a, c.table_b)]
    raise AssertionError(f"no agreement: {[m.contents() for m in machines]} {failed}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Maker]:
    with ExitStack() as stack:

        def machine(number: int, disk: bytes = b"") -> Machine:
            made = Machine(number, tmp_path, disk)
            stack.callback(made.stop)
            return made

        yield machine


async def forget(*machines: Machine) -> None:
    for machine in machines:
        assert await machine.device.replica.forget({}, covered_before_us=0, before_us=FOREVER_US) > 0


async def test_a_restart_keeps_the_actor(autojump_clock: MockClock, folder: Maker) -> None:
    a = folder(1)
    actor = a.actor
    a.stop()
    a.boot()
    assert a.actor == actor


async def test_an_older_state_is_known_by_the_mark_beside_the_data_before_the_first_write(
    autojump_clock: MockClock,
    folder: Maker,
) -> None:
    a, b = folder(1), folder(2)
    a.device.source.edit(b"f", b"one")
    await meet(a, b)
    saved = a.save()
    a.device.source.edit(b"f", b"two")
    a.device.source.edit(b"g", b"new")
    await meet(a, b)
    actor = a.actor
    a.put_back(saved, folder=False)
    assert a.actor != actor
    await meet(a, b)
    assert a.contents() == b.contents() == {b"f": b"two", b"g": b"new"}
    assert a.device.store.conflicts() == []


async def test_a_machine_set_back_as_a_whole_is_told_by_its_peer_and_rolls_nobody_back(
    autojump_clock: MockClock,
    folder: Maker,
) -> None:
    a, b = folder(1), folder(2)
    a.device.source.edit(b"f", b"one")
    a.device.source.edit(b"gone", b"old")
    await meet(a, b)
    saved = a.save()
    a.device.source.edit(b"f", b"two")
    a.device.source.remove(b"gone")
    await meet(a, b)
    actor = a.actor
    a.put_back(saved, folder=True)
    a.device.source.edit(b"h", b"written after it was set back")
    await trio.sleep(5)
    await meet(a, b)
    assert a.actor != actor
    assert a.contents() == b.contents() == {b"f": b"two", b"h": b"written after it was set back"}
    await meet(a, b)
    assert a.device.store.knowledge() == b.device.store.knowledge()


async def test_a_machine_set_back_as_a_whole_is_told_by_who_has_its_undone_writes_from_others_only(
    autojump_clock: MockClock,
    folder: Maker,
) -> None:
    a, b, c = folder(1), folder(2), folder(3)
    a.device.source.edit(b"f", b"one")
    await meet(a, b, c)
    saved = a.save()
    a.device.source.edit(b"f", b"two")
    await meet(a, b)
    await meet(b, c)
    actor = a.actor
    a.put_back(saved, folder=True)
    await trio.sleep(5)
    a.device.source.edit(b"f", b"three")
    await meet(a, c)
    assert a.actor != actor
    assert a.contents() == c.contents()
    assert set(a.contents().values()) == {b"two", b"three"}
    await meet(a, b, c)
    assert a.contents() == b.contents() == c.contents()


async def test_two_machines_from_one_disk_become_two_actors_and_lose_nothing(
    autojump_clock: MockClock,
    folder: Maker,
    tmp_path: Path,
) -> None:
    a, b = folder(1), folder(2)
    a.device.source.edit(b"f", b"one")
    await meet(a, b)
    a.stop()
    clone = Machine.__new__(Machine)
    clone.number, clone.path, clone.disk = 1, tmp_path / "clone.db", b""
    shutil.copy(a.path, clone.path)
    clone.nodes, clone.mark = copy.deepcopy(a.nodes), a.mark
    a.boot()
    clone.boot()
    a.device.source.edit(b"a", b"from the original")
    clone.device.source.edit(b"c", b"from the copy")
    await meet(a, b)
    await meet(clone, b)
    await meet(a, b)
    clone.stop()
    everything = {b"f": b"one", b"a": b"from the original", b"c": b"from the copy"}
    assert a.contents() == b.contents() == dict(sorted(everything.items()))


async def test_a_device_away_longer_than_tombstones_are_kept_brings_nothing_back_and_its_work_arrives(
    autojump_clock: MockClock,
    folder: Maker,
) -> None:
    a, b, away = folder(1), folder(2), folder(3)
    for name in (b"kept", b"deleted", b"edited"):
        a.device.source.edit(name, name)
    await meet(a, b, away)
    a.device.source.remove(b"deleted")
    a.device.source.remove(b"edited")
    await meet(a, b)
    await forget(a, b)
    away.device.source.edit(b"edited", b"edited while away")
    away.device.source.edit(b"new", b"new while away")
    await meet(a, away)
    expected = {b"kept": b"kept", b"edited": b"edited while away", b"new": b"new while away"}
    assert a.contents() == away.contents() == dict(sorted(expected.items()))
    assert (b"deleted", b"deleted") in away.device.source.discarded, "it is in history"
    await meet(a, b, away)
    assert b.contents() == a.contents()
    await meet(b, away)


async def test_who_only_heard_that_tombstones_are_forgotten_keeps_deleted_files_away_too(
    autojump_clock: MockClock,
    folder: Maker,
) -> None:
    a, b, away = folder(1), folder(2), folder(3)
    a.device.source.edit(b"deleted", b"x")
    a.device.source.edit(b"kept", b"y")
    await meet(a, away)
    a.device.source.remove(b"deleted")
    await a.device.scan()
    await trio.sleep(1)
    a.device.source.edit(b"kept", b"z")
    await a.device.scan()
    await forget(a)
    await meet(a, b)
    assert b.device.store.forgotten() == a.device.store.forgotten() != {}
    await meet(b, away)
    assert away.contents() == b.contents() == {b"kept": b"z"}


async def test_a_lost_row_is_not_taken_for_a_deleted_one(autojump_clock: MockClock, folder: Maker) -> None:
    a, b = folder(1), folder(2)
    for name in (b"f", b"g", b"h"):
        a.device.source.edit(name, name)
    await meet(a, b)
    a.device.source.remove(b"h")
    await meet(a, b)
    a.device.source.edit(b"g", b"again")
    await meet(a, b)
    await forget(a, b)
    store = b.device.store
    with store.transaction():
        store.database.run("DELETE FROM items WHERE key = ?", (b"f",))
        store.dirty.add(key_hash(SECRET, b"f"))
    del b.nodes[b"f"]
    await b.device.replica.step(lambda: None)
    await meet(a, b)
    assert a.contents() == b.contents() == {b"f": b"f", b"g": b"again"}


async def test_a_content_that_went_with_its_only_disk_is_given_up_when_all_have_said_so(
    autojump_clock: MockClock, folder: Maker
) -> None:
    a, b, c = folder(1), folder(2), folder(3)
    a.device.source.edit(b"f", b"one")
    await meet(a, b, c)
    saved = a.save()
    a.device.source.edit(b"f", b"two")
    a.device.source.edit(b"g", b"new")
    await a.device.scan()
    # Its log gets through, its contents do not.
    a.device.source.nodes.clear()
    async with meeting((a, b)):
        await trio.sleep(5)
    assert b.device.replica.totals.pending_items == 2
    a.put_back(saved, folder=True)
    told: list[bytes] = []
    everyone = (a, b, c)
    for machine in everyone:
        await machine.device.scan()
    async with meeting(everyone), trio.open_nursery() as nursery:
        for machine in everyone:
            others = {other.device.device for other in everyone if other is not machine}
            nursery.start_soon(
                partial(
                    give_up_lost_contents,
                    machine.device.applier,
                    ours=machine.device.device,
                    members=lambda others=others: others,
                    tell=told.append,
                )
            )
        await trio.sleep(3600)
        assert not any(machine.device.replica.totals.pending_items for machine in everyone)
        nursery.cancel_scope.cancel()
    await meet(*everyone)
    assert sorted(told) == [b"f", b"g"]
    assert a.contents() == b.contents() == c.contents() == {b"f": b"one"}


async def test_a_content_is_not_given_up_while_a_member_is_away(
    autojump_clock: MockClock, folder: Maker
) -> None:
    a, b, c = folder(1), folder(2), folder(3)
    a.device.source.edit(b"f", b"one")
    await meet(a, b, c)
    a.device.source.edit(b"f", b"two")
    await a.device.scan()
    a.device.source.nodes.clear()
    told: list[bytes] = []
    async with meeting((a, b)), trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                give_up_lost_contents,
                b.device.applier,
                ours=b.device.device,
                members=lambda: {a.device.device, c.device.device},
                tell=told.append,
            )
        )
        await trio.sleep(7200)
        nursery.cancel_scope.cancel()
    assert told == []
    assert b.device.replica.totals.pending_items == 1


async def test_a_machine_set_back_within_one_opening_is_found_out_though_its_number_grew(
    autojump_clock: MockClock, folder: Maker
) -> None:
    a, b = folder(1), folder(2)
    # Saved while it runs: what it writes afterwards belongs to the same opening.
    saved = a.path.read_bytes(), copy.deepcopy(a.nodes), a.mark
    wal = a.path.with_name(a.path.name + "-wal")
    log = wal.read_bytes()
    a.device.source.edit(b"f", b"written, passed on, and set back")
    await meet(a, b)
    a.stop()
    a.path.write_bytes(saved[0])
    wal.write_bytes(log)
    a.nodes, a.mark = saved[1], saved[2]
    a.boot()
    a.device.source.edit(b"f", b"written again, in ignorance")
    await trio.sleep(5)
    await meet(a, b)
    assert a.contents() == b.contents()
    assert set(b.contents().values()) == {b"written, passed on, and set back", b"written again, in ignorance"}
