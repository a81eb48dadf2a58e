"""Whole replicas on in-memory links: the engine end to end, without disk, clock or network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import combinations, pairwise

import pytest
import trio
import trio.testing
from memory import SECRET, Connection, Device
from trio.testing import MockClock

from p2psyncd.core.item import Draft, Kind
from p2psyncd.core.merkle import key_hash
from p2psyncd.core.storage import Pending
from p2psyncd.daemon.replica import count_lost
from p2psyncd.sources.source import Failed, Observation, Outcome


@contextmanager
def devices(count: int) -> Iterator[list[Device]]:
    made = [Device(number + 1) for number in range(count)]
    try:
        yield made
    finally:
        for device in made:
            device.close()


@asynccontextmanager
async def connected(*pairs: tuple[Device, Device]) -> AsyncIterator[list[Connection]]:
    async with trio.open_nursery() as nursery:
        connections = [Connection(a, b) for a, b in pairs]
        members = {id(d): d for pair in pairs for d in pair}.values()
        for device in members:
            nursery.start_soon(device.applier.run)
        for connection in connections:
            nursery.start_soon(connection.run)
        yield connections
        nursery.cancel_scope.cancel()


async def quiet(everyone: Sequence[Device], connections: Sequence[Connection], limit_s: float = 120) -> None:
    """Wait until all agree; fail with what each has."""
    with trio.move_on_after(limit_s):
        while True:
            await trio.sleep(1)
            roots = {device.replica.standing.root for device in everyone}
            if len(roots) == 1 and all(connection.agreed for connection in connections):
                return
    report = "\n".join(
        f"{d.device[0]}: {d.replica.standing.root.hex()[:8]} need={d.replica.totals.pending_items}"
        f" failures={d.applier.failures} {sorted(d.source.nodes)}"
        for d in everyone
    )
    raise AssertionError(f"no agreement:\n{report}")


async def meet(*pairs: tuple[Device, Device]) -> list[Connection]:
    """Connect, exchange until quiet, and cut."""
    everyone = list({id(d): d for pair in pairs for d in pair}.values())
    for device in everyone:
        await device.scan()
    async with connected(*pairs) as connections:
        await quiet(everyone, connections)
    return connections


def conflicts(device: Device) -> list[bytes]:
    return [stored.item.key for stored in device.store.conflicts()]


async def test_what_is_pending_waits_while_apps_have_a_right_to_their_turn(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"x", b"1")
        await a.scan()
        b.source.rest_s = 5.0
        async with connected((a, b)):
            await trio.sleep(4.9)
            assert b.replica.totals.pending_items == 1
            assert b.source.tree() == {}
            b.source.rest_s = 0.0
            await trio.sleep(5)
            assert b.source.tree() == a.source.tree()


async def test_an_empty_peer_gets_everything(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        for number in range(2500):
            a.source.edit(b"dir%02d/file%04d" % (number % 50, number), b"content %d" % number)
        await meet((a, b))
        assert b.source.tree() == a.source.tree()
        assert len(b.source.tree()) == 2550


async def test_a_second_meeting_is_one_round_trip(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"file", b"content")
        await meet((a, b))
        (connection,) = await meet((a, b))
        assert connection.a_to_b.messages == ["Hello"]
        assert connection.b_to_a.messages == ["Hello"]
        assert connection.bytes < 300


async def test_edits_go_both_ways_while_connected(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        async with connected((a, b)) as connections:
            a.source.edit(b"x", b"one")
            await a.scan()
            await quiet([a, b], connections)
            b.source.edit(b"x", b"two")
            b.source.edit(b"y", b"three")
            await b.scan()
            await quiet([a, b], connections)
        assert a.source.tree() == b.source.tree()
        assert a.source.nodes[b"x"].content == b"two"
        assert conflicts(a) == []


async def test_both_edit_one_file_and_both_contents_survive_everywhere(autojump_clock: MockClock) -> None:
    with devices(3) as (a, b, c):
        a.source.edit(b"notes.txt", b"base")
        await meet((a, b), (b, c))
        a.source.edit(b"notes.txt", b"from a")
        await a.scan()
        await trio.sleep(1)
        b.source.edit(b"notes.txt", b"from b")
        await meet((a, b), (b, c))
        assert a.source.tree() == b.source.tree() == c.source.tree()
        (copy,) = conflicts(a)
        assert conflicts(c) == [copy]
        contents = {a.source.nodes[b"notes.txt"].content, a.source.nodes[copy].content}
        assert contents == {b"from a", b"from b"}
        assert a.source.nodes[b"notes.txt"].content == b"from b", "the later edit has the name"


async def write_beside_a_copy(first: Device, *others: Device) -> bytes:
    """Let two devices write one file, all hear of it, and the first write it again; return the conflict copy's name.

    Whatever the first one does to the copy then has one number more than that write, and says no word about it.
    """
    first.source.edit(b"f", b"a's")
    others[0].source.edit(b"f", b"b's")
    await meet(*pairwise((first, *others)))
    [copy] = conflicts(first)
    first.source.edit(b"f", b"a's again")
    await first.scan()
    return copy


@pytest.mark.parametrize("known", [False, True])
async def test_an_edit_beside_a_conflict_copy_knows_nothing_of_what_its_editor_wrote_otherwise(
    autojump_clock: MockClock, known: bool
) -> None:
    with devices(2) as (a, b):
        copy = await write_beside_a_copy(a, b)
        a.source.edit(copy, b"edited, too")
        await a.scan()
        if known:
            # All that came of it is known, and not in place yet, when the edit is seen.
            items = [stored.item for stored in a.store.get_many([b"f", copy]).values()]
            await b.replica.receive(items, [], repair=False)
            await b.replica.commit(a.store.knowledge(), {})
        b.source.edit(b"f", b"b's again")
        await meet((a, b))
        assert a.source.tree() == b.source.tree()
        contents = {node.content for node in a.source.nodes.values()}
        assert contents == {b"a's again", b"b's again", b"edited, too"}


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_second_save_knows_no_more_than_the_first_of_what_an_edited_copy_replaced(
    autojump_clock: MockClock, deleted: bool
) -> None:
    with devices(2) as (a, b):
        copy = await write_beside_a_copy(a, b)
        a.source.edit(copy, b"edited, too")
        await a.scan()
        # b knows of both, and the link is cut when it has fetched the copy's content and not the file's.
        items = [stored.item for stored in a.store.get_many([b"f", copy]).values()]
        await b.replica.receive(items, [], repair=False)
        await b.replica.commit(a.store.knowledge(), {})
        b.source.put_content(items[1].digest, b"edited, too")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.applier.run)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert (b.source.nodes[copy].content, b.source.nodes[b"f"].content) == (b"edited, too", b"b's")
        if deleted:
            del b.source.nodes[copy]
        else:
            b.source.edit(copy, b"edited by b")
        await b.scan()
        for text in (b"b's second", b"b's third"):
            b.source.edit(b"f", text)
            await b.scan()
            await trio.sleep(1)
        await meet((a, b))
        assert {b"a's again", b"b's third"} <= {node.content for node in a.source.nodes.values()}


@pytest.mark.parametrize("touched", [False, True])
async def test_a_copy_that_a_third_device_changed_vouches_for_none_of_the_writes_that_it_knew(
    autojump_clock: MockClock, touched: bool
) -> None:
    with devices(3) as (a, b, c):
        copy = await write_beside_a_copy(a, b, c)
        a.source.chmod(copy, 0o600)
        await meet((a, c))
        if touched:
            c.source.chmod(copy, 0o640)
        else:
            c.source.edit(copy, b"edited by c")
        await c.scan()
        # A log goes actor by actor: c's own write has come when the link is cut, and a's has not.
        items = [stored.item for stored in c.store.get_many([copy]).values()]
        await b.replica.receive(items, [], repair=False)
        b.source.edit(b"f", b"b's save")
        await b.scan()
        await meet((a, b), (b, c))
        assert {b"a's again", b"b's save"} <= {node.content for node in a.source.nodes.values()}


async def test_the_identical_edit_on_both_is_no_conflict(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"f", b"same")
        b.source.edit(b"f", b"same")
        (connection,) = await meet((a, b))
        assert conflicts(a) == conflicts(b) == []
        assert a.source.tree() == b.source.tree()
        assert "Ask" not in connection.a_to_b.messages + connection.b_to_a.messages


@pytest.mark.parametrize("edit_first", [True, False])
async def test_an_edit_beats_a_concurrent_delete(autojump_clock: MockClock, edit_first: bool) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"f", b"base")
        await meet((a, b))
        first, second = (a, b) if edit_first else (b, a)
        for device in (first, second):
            await trio.sleep(1)
            if device is a:
                a.source.edit(b"f", b"edited")
            else:
                b.source.remove(b"f")
            await device.scan()
        await meet((a, b))
        assert a.source.nodes[b"f"].content == b"edited"
        assert a.source.tree() == b.source.tree()


async def test_delete_against_delete_is_gone_without_noise(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"f", b"base")
        await meet((a, b))
        a.source.remove(b"f")
        b.source.remove(b"f")
        await meet((a, b))
        assert a.source.tree() == b.source.tree() == {}


async def test_a_chmod_and_an_edit_both_take_effect(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"f", b"base")
        await meet((a, b))
        a.source.edit(b"f", b"edited")
        b.source.chmod(b"f", 0o755)
        await meet((a, b))
        assert a.source.tree() == b.source.tree() == {b"f": (Kind.FILE, b"edited", 0o755)}
        assert conflicts(a) == []


async def test_a_new_child_brings_its_deleted_directory_back(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"d/old", b"old")
        await meet((a, b))
        a.source.remove(b"d")
        b.source.edit(b"d/new", b"new")
        await meet((a, b))
        assert a.source.tree() == b.source.tree()
        assert a.source.nodes[b"d/new"].content == b"new"
        assert b"d/old" not in a.source.nodes


async def test_where_a_file_took_a_directorys_name_the_directory_keeps_it(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"d/old", b"old")
        await meet((a, b))
        a.source.remove(b"d")
        a.source.edit(b"d", b"a file now")
        b.source.edit(b"d/new", b"new")
        await meet((a, b))
        assert a.source.tree() == b.source.tree()
        assert a.source.nodes[b"d/new"].content == b"new"
        assert b"a file now" in {node.content for node in a.source.nodes.values()}


async def test_a_file_turned_into_a_directory_keeps_the_edit_aside(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"n", b"base")
        await meet((a, b))
        a.source.remove(b"n")
        a.source.edit(b"n/child", b"child")
        b.source.edit(b"n", b"edited")
        await meet((a, b))
        assert a.source.tree() == b.source.tree()
        assert a.source.nodes[b"n"].kind is Kind.DIRECTORY
        assert b"edited" in {node.content for node in a.source.nodes.values()}


async def test_a_third_device_relays_what_it_holds(autojump_clock: MockClock) -> None:
    with devices(3) as (a, b, c):
        a.source.edit(b"f", b"from a")
        await meet((a, b))
        await meet((b, c))
        assert c.source.tree() == a.source.tree()


async def test_a_lost_row_is_found_by_the_descent_and_mended(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        for number in range(300):
            a.source.edit(b"f%03d" % number, b"%d" % number)
        await meet((a, b))
        # Bit rot: the row vanishes from the store, and knowledge says that it was seen.
        with b.store.transaction():
            b.store.database.run("DELETE FROM items WHERE key = ?", (b"f123",))
            b.store.dirty.add(key_hash(SECRET, b"f123"))
        del b.source.nodes[b"f123"]
        await b.replica.step(lambda: None)
        (connection,) = await meet((a, b))
        assert b.source.tree() == a.source.tree()
        assert "Ask" in connection.a_to_b.messages
        assert connection.bytes < 5000


async def test_ten_devices_each_get_the_content_once(autojump_clock: MockClock) -> None:
    with devices(10) as everyone:
        pairs = [(a, b) for number, a in enumerate(everyone) for b in everyone[number + 1 :]]
        async with connected(*pairs) as connections:
            everyone[0].source.edit(b"f", b"content")
            await everyone[0].scan()
            await quiet(everyone, connections)
        assert all(device.source.tree() == everyone[0].source.tree() for device in everyone)
        assert [device.applier.received_items for device in everyone] == [0] + [1] * 9


async def test_a_cut_in_the_middle_of_a_first_sync_loses_nothing(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        for number in range(3000):
            a.source.edit(b"f%04d" % number, b"%d" % number)
        await a.scan()
        for steps in (5, 10, 15, 20, 25):
            async with connected((a, b)):
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            if len(b.source.tree()) < 3000 and b.replica.totals.items < 3000:
                assert b.replica.standing.knowledge == {}, "knowledge comes last"
        await meet((a, b))
        assert a.source.tree() == b.source.tree()


async def test_a_row_of_devices_converges_from_edits_everywhere(autojump_clock: MockClock) -> None:
    with devices(5) as everyone:
        for number, device in enumerate(everyone):
            device.source.edit(b"own%d" % number, b"%d" % number)
            device.source.edit(b"all", b"by %d" % number)
        await meet(*pairwise(everyone))
        trees = [device.source.tree() for device in everyone]
        assert all(tree == trees[0] for tree in trees)
        contents = {node.content for node in everyone[0].source.nodes.values()}
        assert {b"by %d" % number for number in range(5)} <= contents


async def test_a_conflict_that_is_found_while_applying_keeps_both_contents(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"f", b"from a")
        await a.scan()
        await trio.sleep(1)
        b.source.edit(b"f", b"from b")  # not scanned: the applier comes upon it
        async with connected((a, b)) as connections:
            await quiet([a, b], connections)
        assert a.source.tree() == b.source.tree()
        assert {node.content for node in a.source.nodes.values()} == {b"from a", b"from b"}


async def test_an_edit_that_beat_a_delete_and_loses_its_name_then_is_kept_aside(
    autojump_clock: MockClock,
) -> None:
    with devices(5) as everyone:
        _, b, c, _, e = everyone
        e.clock.skew_us = 10 * 365 * 86_400 * 1_000_000
        for device in (c, e):
            device.source.edit(b"d/f", b"one")
        await c.scan()
        b.source.edit(b"d/f", b"two")
        c.source.remove(b"d")
        await meet(*combinations(everyone, 2))
        for device in everyone:
            assert device.source.tree() == e.source.tree()
            assert {b"one", b"two"} <= {node.content for node in device.source.nodes.values()}


async def test_a_content_that_its_only_holder_deleted_is_not_waited_for(autojump_clock: MockClock) -> None:
    with devices(3) as (a, b, c):
        for device in (b, c):
            device.source.edit(b"d/f", b"one")
        await meet((b, c))
        await trio.sleep(1)
        a.source.edit(b"d/f", b"two")
        await a.scan()
        for device in (a, b):  # either deletes what it has; b has not heard of a's
            device.source.remove(b"d")
            device.source.edit(b"d", b"a file")
        await meet((a, b), (b, c), (a, c))
        assert a.source.tree() == b.source.tree() == c.source.tree()
        assert b"two" not in {node.content for node in a.source.nodes.values()}


async def test_a_failure_that_a_later_write_settles_is_not_reported_any_more(
    autojump_clock: MockClock,
) -> None:
    with devices(2) as (a, b):
        b.source.edit(b"d/f", b"child")
        await b.scan()
        await trio.sleep(1)
        a.source.edit(b"d", b"a file")
        await meet((a, b))
        assert a.source.tree() == b.source.tree()
        assert {b"child", b"a file"} <= {node.content for node in a.source.nodes.values()}
        assert a.applier.failures == b.applier.failures == {}


async def test_the_shape_of_the_tree_is_settled_though_the_session_was_cut(autojump_clock: MockClock) -> None:
    for steps in range(5, 60):
        with devices(2) as (a, b):
            a.source.mkdir(b"d/e")
            b.source.edit(b"d", b"a file now")
            await a.scan()
            await trio.sleep(1)
            await b.scan()
            async with connected((a, b)):
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
            await meet((a, b))
            assert a.source.tree() == b.source.tree()
            assert a.source.nodes[b"d"].kind is Kind.DIRECTORY
            assert b"a file now" in {node.content for node in a.source.nodes.values()}


async def test_a_delete_stands_against_a_change_of_mode_that_waits_to_be_applied(
    autojump_clock: MockClock,
) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"f", b"content")
        await meet((a, b))
        a.source.chmod(b"f", 0o600)
        b.source.remove(b"f")
        await a.scan()
        async with connected((a, b)) as connections:  # b scans when its applier comes upon it
            await quiet([a, b], connections)
        assert a.source.tree() == b.source.tree() == {}


async def test_a_file_that_was_only_touched_does_not_come_back_when_its_delete_waits(
    autojump_clock: MockClock,
) -> None:
    with devices(2) as (a, b):
        a.source.edit(b"f", b"content")
        await meet((a, b))
        a.source.remove(b"f")
        b.source.chmod(b"f", b.source.nodes[b"f"].mode)  # nothing but another fingerprint
        await a.scan()
        async with connected((a, b)) as connections:
            await quiet([a, b], connections)
        assert a.source.tree() == b.source.tree() == {}


async def test_what_a_peer_deleted_while_a_scan_ran_is_no_mass_deletion(autojump_clock: MockClock) -> None:
    with devices(2) as (a, b):
        for number in range(5):
            a.source.edit(b"f%d" % number, b"%d" % number)
        await meet((a, b))
        # What a scan of b finds that began before a's deletions were carried out there.
        gone = [
            Observation(
                draft=Draft(key=stored.item.key, kind=Kind.TOMBSTONE),
                state=b"",
                base_state=stored.state,
                changed_us=0,
            )
            for stored in b.store.get_many([b"f%d" % number for number in range(5)]).values()
        ]
        assert await b.replica.query(lambda store: count_lost(store, gone)) == 5
        for number in range(4):
            a.source.remove(b"f%d" % number)
        await meet((a, b))
        assert await b.replica.query(lambda store: count_lost(store, gone)) == 1


async def test_what_failed_is_tried_again_though_something_changes_all_the_time(
    autojump_clock: MockClock,
) -> None:
    with devices(2) as (a, b):
        real, broken = b.source.apply, [True]

        def apply(batch: Sequence[Pending]) -> list[Outcome]:
            if broken[0]:
                return [Failed(key=pending.item.key, reason="the disk says no") for pending in batch]
            return real(batch)

        async def change_all_the_time() -> None:
            while True:
                await trio.sleep(2)
                b.replica.signal.fire()

        b.source.apply = apply  # type: ignore[method-assign]  # a disk with moods
        a.source.edit(b"f", b"content")
        await a.scan()
        async with connected((a, b)) as connections, trio.open_nursery() as nursery:
            nursery.start_soon(change_all_the_time)
            with trio.fail_after(60):
                while not b.applier.failures:  # noqa: ASYNC110  (virtual time)
                    await trio.sleep(1)
            broken[0] = False
            await quiet([a, b], connections, limit_s=30)
            nursery.cancel_scope.cancel()
        assert b.source.tree() == a.source.tree()


async def test_a_renewal_that_a_cut_session_did_not_come_to_is_made_at_the_next_word(
    autojump_clock: MockClock,
) -> None:
    with devices(1) as (a,):
        actor = a.replica.standing.actor
        async with trio.open_nursery() as nursery, a.replica.lock:
            nursery.start_soon(a.replica.renew, "a session that is cut while it waits for its turn")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert a.replica.standing.actor == actor
        await a.replica.renew("the next one")
        assert a.replica.standing.actor != actor


@pytest.mark.parametrize("repair", [True, False])
async def test_a_forgotten_delete_does_not_come_back_by_whatever_way_a_stale_device_sends_it(
    autojump_clock: MockClock, repair: bool
) -> None:
    with devices(2) as (a, b):
        b.source.edit(b"f", b"content")
        await b.scan()
        stored = b.store.get(b"f")
        assert stored is not None
        await a.replica.commit(b.replica.standing.knowledge, {})  # a knew it, and has not got it
        received = await a.replica.receive([stored.item], [], repair=repair, stale=True)
        assert received.gone == [(b"f", stored.item.dot)]
        assert a.store.get(b"f") is None
