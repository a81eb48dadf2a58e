"""A replica between its source and its store: what happens at one time with something else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw
import pytest
import trio
import trio.testing
from database_replicas import NewReplica, write

from p2psyncd.core.ids import DeviceId
from p2psyncd.daemon.replica import EVERYTHING, Replica, Waiting
from p2psyncd.sources.source import Observation, Outcome


@pytest.mark.parametrize(
    ("first", "then", "live"),
    [
        ("INSERT INTO people VALUES(1, 'Ada')", "DELETE FROM people", []),
        ("UPDATE people SET name = 'Bob'", "UPDATE people SET name = 'Ada'", ["Ada"]),
    ],
)
async def test_an_edit_between_two_looks_at_one_time_is_recorded(
    new_replica: NewReplica, tmp_path: Path, first: str, then: str, live: list[str]
) -> None:
    path = tmp_path / "app.db"
    replica = new_replica(path, "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT)")
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


async def test_a_parent_does_not_go_before_the_child_that_the_app_has_changed(
    new_replica: NewReplica, tmp_path: Path
) -> None:
    ddl = """
        CREATE TABLE orders(id INTEGER PRIMARY KEY, what);
        CREATE TABLE lines(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES orders ON DELETE CASCADE, what)
    """
    files = tmp_path / "a.db", tmp_path / "b.db"
    a, b = (new_replica(file, ddl) for file in files)
    write(files[0], "INSERT INTO orders VALUES(1, 'of a'); INSERT INTO lines VALUES(1, 1, 'of a')")
    await a.scan()
    await b.scan()
    await b.receive(list(a.store.all_items()), [], repair=False)
    assert await b.apply(*await b.pending(limit=10)) == ([], {})
    write(files[0], "DELETE FROM lines; DELETE FROM orders")
    await a.scan()
    await b.receive(list(a.store.all_items()), [], repair=False)
    batch = (await b.pending(limit=10)).rows
    write(files[1], "UPDATE lines SET what = 'of b'")
    await b.scan()
    assert await b.apply(batch) == ([], {})
    with closing(apsw.Connection(str(files[1]))) as connection:
        assert connection.execute("SELECT * FROM orders").fetchall() == []
        assert connection.execute("SELECT * FROM lines").fetchall() == []


async def two_replicas(new_replica: NewReplica, folder: Path, rows: str) -> tuple[Replica, Replica]:
    """Return two replicas, the first of which has some people."""
    files = folder / "a.db", folder / "b.db"
    a, b = (new_replica(file, "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT)") for file in files)
    write(files[0], f"INSERT INTO people VALUES{rows}")
    await a.scan()
    await b.scan()
    return a, b


async def test_what_was_put_in_place_meanwhile_is_not_put_there_again(
    new_replica: NewReplica, tmp_path: Path
) -> None:
    a, b = await two_replicas(new_replica, tmp_path, "(1, 'Ada'), (2, 'Bob')")
    await b.receive(list(a.store.all_items()), [], repair=False)
    assert await b.apply(*await b.pending(limit=1)) == ([], {})  # who goes through all that is pending
    fresh = await b.take_fresh()
    assert fresh is not None
    assert await b.apply(fresh.rows[:1], fresh.since) == ([], {})
    assert b.totals.pending_items == 1
    assert await b.apply(fresh.rows[1:], fresh.since) == ([], {})
    assert b.totals.pending_items == 0


async def test_nothing_is_put_in_place_while_a_part_of_a_stream_may_be_pending(
    new_replica: NewReplica, tmp_path: Path
) -> None:
    """A stream begins after what is pending was read, and before that is put in place."""
    a, b = await two_replicas(new_replica, tmp_path, "(1, 'Ada'), (2, 'Bob')")
    await b.receive(list(a.store.all_items()), [], repair=False)
    fresh = await b.take_fresh()
    assert fresh is not None
    write(tmp_path / "a.db", "UPDATE people SET name = 'both'")
    await a.scan()
    _, both = sorted(a.store.all_items(), key=lambda item: item.hlc)[-2:]
    sender = DeviceId(bytes([1]) * 32)
    await b.stream_began(sender)
    await b.receive([both], [], repair=False)  # the other one is still to come

    async def shown() -> list[tuple[str]]:
        with closing(apsw.Connection(str(tmp_path / "b.db"))) as connection:
            return connection.execute("SELECT name FROM people ORDER BY id").fetchall()

    assert await b.apply(*fresh) == ([], {})
    assert await b.take_fresh() == Waiting([])
    assert await b.pending(limit=9) == Waiting([])
    assert await shown() == []
    await b.receive(list(a.store.all_items()), [], repair=False)
    await b.stream_ended(sender)
    assert await b.take_fresh() is None  # what was to be put in place is among all that is pending
    assert await b.apply(*await b.pending(limit=9)) == ([], {})
    assert await shown() == [("both",), ("both",)]


async def test_what_came_in_a_step_that_failed_is_not_put_in_place(
    new_replica: NewReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await two_replicas(new_replica, tmp_path, "(1, 'Ada')")

    def full() -> None:
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(b.store, "refresh_trie", full)  # the last thing before the end
        with pytest.raises(OSError, match="no room"):
            await b.receive(list(a.store.all_items()), [], repair=False)
    fresh = await b.take_fresh()
    assert fresh is not None
    assert await b.apply(*fresh) == ([], {})
    with closing(apsw.Connection(str(tmp_path / "b.db"))) as connection:
        assert connection.execute("SELECT name FROM people").fetchall() == []


@pytest.mark.parametrize("full", [True, False])
async def test_a_look_between_the_file_and_the_store_records_nothing_as_new(
    new_replica: NewReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    """What was put in place is in the file by then, and the store's word of it not yet to be seen."""
    ddl = "PRAGMA journal_mode = WAL; CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT)"
    files = tmp_path / "a.db", tmp_path / "b.db"
    a, b = (new_replica(file, ddl) for file in files)
    await a.scan()
    await b.scan()
    write(files[0], "INSERT INTO people VALUES(1, 'Ada'), (2, 'Bob')")
    await a.scan()
    await b.receive(list(a.store.all_items()), [], repair=False)
    fresh = await b.take_fresh()
    assert fresh is not None
    seen: list[Observation] = []
    restate = b.restate

    def look_first(outcomes: Sequence[Outcome]) -> None:
        if full:
            b.source.full = True  # type: ignore[attr-defined]  # of a database, not of every source
        else:
            write(files[1], "UPDATE people SET name = 'Bobby' WHERE id = 2")
        seen.extend(one for one in b.source.scan(EVERYTHING) if isinstance(one, Observation))
        restate(outcomes)

    with monkeypatch.context() as patched:
        patched.setattr(b, "restate", look_first)
        assert await b.apply(*fresh) == ([], {})
    assert seen
    await b.record(seen)
    await b.scan()
    names = [item.key for item in b.store.all_items() if item.live and item.key.startswith(b"people")]
    assert sorted(names) == sorted(row.item.key for row in fresh.rows)
