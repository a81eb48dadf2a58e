"""Sessions with hostile peers, a few of them; the long form: `python -m tests.fuzz`."""

from __future__ import annotations

import tracemalloc

import trio
from hostile_sessions import Ours, agree, run_sessions
from memory import Connection
from trio.testing import MockClock

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import Dot, pack_vector
from p2psyncd.daemon.versions import folders_above
from p2psyncd.sources.folder.attributes import Attributes, encode

SESSIONS_IN_CI = 120
SEED = 20_261_124


def test_hostile_sessions_lose_nothing_and_poison_nothing() -> None:
    totals = run_sessions(SESSIONS_IN_CI, SEED)
    assert totals.sessions == SESSIONS_IN_CI
    assert totals.folders > 0
    assert {"Hello", "Delta", "Done", "Ask", "Want", "Know", "Gone", "Summaries", "Closed"} <= set(
        totals.messages
    )


async def test_folders_as_deep_in_one_another_as_a_path_goes_are_made(autojump_clock: MockClock) -> None:
    """They come deepest first, so that each waits for the one above it."""
    del autojump_clock
    ours = Ours(1)
    keys = [b"/".join([b"x"] * depth) for depth in range(1, 2048)]
    items = [
        Item(
            key=key,
            kind=Kind.DIRECTORY,
            digest=b"",
            size=0,
            meta=encode(Attributes(mode=0o755, mtime_ns=0)),
            dot=Dot(ActorId(b"a peer's"), number),
            hlc=number,
        )
        for number, key in enumerate(reversed(keys))
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.applier.run)
        for at in range(0, len(items), 500):
            await ours.replica.receive(items[at : at + 500], (), repair=False)
            await trio.sleep(0.1)
        await trio.sleep(60)
        assert ours.replica.totals.pending_items == 0
        assert keys[-1] in ours.source.nodes
        nursery.cancel_scope.cancel()
    ours.close()


async def test_two_versions_that_each_claim_to_know_the_other_are_settled(autojump_clock: MockClock) -> None:
    """A liar gives one to each of two honest devices, which then answered each other with theirs for ever."""
    del autojump_clock
    liar, other = ActorId(b"liar...."), ActorId(b"liar too")

    def item(actor: ActorId, seq: int, knows: tuple[ActorId, int]) -> Item:
        return Item(
            key=b"k",
            kind=Kind.DIRECTORY,
            digest=b"",
            size=0,
            meta=encode(Attributes(mode=0o700 + seq, mtime_ns=seq)),
            dot=Dot(actor, seq),
            vector=pack_vector(dict([knows])),
            hlc=seq,
        )

    one, two = Ours(1), Ours(2)
    await one.replica.receive([item(liar, 5, (other, 8))], (), repair=False)
    await two.replica.receive([item(other, 7, (liar, 6))], (), repair=False)
    connection = Connection(one, two)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await trio.sleep(60)
        assert agree(one, two)
        assert len(connection.a_to_b.messages) + len(connection.b_to_a.messages) < 100
        nursery.cancel_scope.cancel()
    one.close()
    two.close()


def test_the_folders_above_two_thousand_nested_ones_are_made_once_each() -> None:
    keys = [b"/".join([b"x"] * depth) for depth in range(1, 2048)]
    tracemalloc.start()
    try:
        assert folders_above(keys) == set(keys[:-1])
        # 2 KB each on average; each key with all that is above it would be 4 GB.
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert folders_above([b"a/b/c", b"a/d", b"e"]) == {b"a/b", b"a"}
