"""A replica between its source and its store: what happens at one time with something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.daemon.executor import InlineExecutor
from p2psyncd.daemon.replica import Replica
from p2psyncd.main import SystemClock
from p2psyncd.sources.database.database import DatabaseSource
from p2psyncd.sources.database.row import has_losers
from p2psyncd.store.share import ShareStore

SHARE = ShareId(b"a shared database".ljust(16)[:16])


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    """The replica of a database with one table."""
    path = tmp_path / "app.db"
    write(path, "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT)")
    clock = SystemClock()
    store = ShareStore.open(
        ":memory:",
        share_id=SHARE,
        secret=bytes(32),
        mint_actor=lambda: ActorId(bytes([1]) * 8),
        is_conflict=lambda item: has_losers(item.meta),
        received_us=clock.now_us,
    )
    source = DatabaseSource.open(path, SHARE, store, store, clock, device=DeviceId(bytes(32)))
    with closing(store):
        yield Replica(
            share=SHARE,
            store=store,
            source=source,
            directory=None,
            acceptable=lambda key: True,
            clock=clock,
            executor=InlineExecutor(),
        )


def write(path: Path, statement: str) -> None:
    """Be an app for one transaction."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("first", "then", "live"),
    [
        ("INSERT INTO people VALUES(1, 'Ada')", "DELETE FROM people", []),
        ("UPDATE people SET name = 'Bob'", "UPDATE people SET name = 'Ada'", ["Ada"]),
    ],
)
async def test_an_edit_between_two_looks_at_one_time_is_recorded(
    replica: Replica, tmp_path: Path, first: str, then: str, live: list[str]
) -> None:
    path = tmp_path / "app.db"
    await replica.scan()
    if live:
        write(path, f"INSERT INTO people VALUES(1, '{live[0]}')")
        await replica.scan()
    write(path, first)
    async with trio.open_nursery() as nursery, replica.lock:
        nursery.start_soon(replica.scan)
        # What it has found is not recorded yet.
        await trio.testing.wait_all_tasks_blocked()
        write(path, then)
        nursery.start_soon(replica.scan)
        await trio.testing.wait_all_tasks_blocked()
    await replica.scan()
    found = [item for item in replica.store.all_items() if item.live and item.key.startswith(b"people")]
    assert len(found) == len(live)
    assert list(replica.source.verify()) == []
