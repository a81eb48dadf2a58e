"""Databases between whole daemons: apps write on both sides, and people ask the daemon about it.

The apps are in this process with the daemons, so they use the same SQLite library: a process does not lock itself out,
and two libraries in it know nothing of each other. `tests/lan` has apps of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from daemons import WAIT_S, Daemon, Lab, connect, offered

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import Dot
from p2psyncd.daemon import sessions
from p2psyncd.daemon.replica import Phase
from p2psyncd.errors import (
    BadRequest,
    DatabaseInUse,
    HoldsOurState,
    NestedShare,
    NoSuchConflict,
    NoSuchItem,
    NotApprovable,
    P2psyncError,
    RemoteProtocolError,
    ShareHeld,
    Undecided,
)
from p2psyncd.sources.source import Dirty

SCHEMA = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, phone TEXT, email TEXT UNIQUE);
CREATE INDEX by_name ON people (name);
CREATE TABLE log (line TEXT);
"""
ANN, BOB = (1, "Ann", "1", "ann@x"), (2, "Bob", "2", "bob@x")
PEOPLE = "SELECT id, name, phone, email FROM people ORDER BY id"


def app(path: Path) -> apsw.Connection:
    """Open a database as an app does, each statement a transaction of its own."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(int(WAIT_S * 1000))
    return connection


def write(path: Path, *statements: str) -> None:
    with closing(app(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def read(path: Path, query: str = PEOPLE) -> list[tuple[Any, ...]]:
    with closing(app(path)) as connection:
        return connection.execute(query).fetchall()


def make(daemon: Daemon, *rows: tuple[Any, ...], name: str = "app.db") -> Path:
    path = daemon.folder / name
    with closing(app(path)) as connection:
        connection.execute(SCHEMA)
        connection.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", rows)
    return path


async def add(daemon: Daemon, path: Path, **more: Any) -> Any:
    given = {"name": "app", "kind": None, "mode": "send-receive", "with_devices": []} | more
    return await daemon.backend.share_add(str(path), **given)


async def accept(owner: Daemon, taker: Daemon, path: Path, **more: Any) -> Any:
    await offered(owner, taker, "app")
    given = {"mode": "send-receive", "from_device": None} | more
    return await taker.backend.share_accept("app", str(path), **given)


async def settle(*daemons: Daemon) -> None:
    """Wait until what was written anywhere is everywhere."""
    for _ in range(2):
        for daemon in daemons:
            await daemon.wait("app", peers=len(daemons) - 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be an app that keeps its database locked, as Anki does."""
    with closing(app(path)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        yield


@pytest.fixture
async def shared(two: tuple[Daemon, Daemon]) -> tuple[Daemon, Daemon, Path, Path]:
    """Two devices with one database of two people."""
    maple, willow = two
    here, there = make(maple, ANN, BOB), make(willow)
    await add(maple, here)
    await accept(maple, willow, there)
    await settle(maple, willow)
    assert read(here) == read(there) == [ANN, BOB]
    return maple, willow, here, there


Shared = tuple[Daemon, Daemon, Path, Path]


async def apart(first: Daemon, second: Daemon) -> None:
    """Cut two devices off from each other."""
    await first.backend.device_pause(second.name)


async def together(first: Daemon, second: Daemon) -> None:
    """Let them meet again, and wait until both have the same."""
    await first.backend.device_resume(second.name)
    await first.until(lambda: first.connected_to(second), "connected again")
    await settle(first, second)


async def test_what_an_app_writes_is_in_the_other_devices_database(shared: Shared) -> None:
    maple, willow, here, there = shared
    write(here, "UPDATE people SET phone = '11' WHERE id = 1", "DELETE FROM people WHERE id = 2")
    write(there, "INSERT INTO people VALUES (3, 'Cid', '3', NULL)")
    await settle(maple, willow)
    assert read(here) == read(there) == [(1, "Ann", "11", "ann@x"), (3, "Cid", "3", None)]
    [ours], [theirs] = await maple.backend.share_list(), await willow.backend.share_list()
    assert ours["root"] == theirs["root"]
    assert (ours["kind"], ours["state"], ours["reason"]) == ("database", "idle", None)
    assert ours["path"] == str(here)


async def test_a_row_is_pushed_without_anybody_asking(shared: Shared) -> None:
    _maple, willow, here, there = shared
    write(here, "UPDATE people SET name = 'Anna' WHERE id = 1")
    await willow.until(lambda: read(there)[0][1] == "Anna", "the new name")


async def test_tables_that_cannot_be_synced_are_named_and_others_are_synced(shared: Shared) -> None:
    maple, willow, here, there = shared
    write(here, "INSERT INTO log VALUES ('only here')")
    await settle(maple, willow)
    assert read(there, "SELECT * FROM log") == []
    [row] = await maple.backend.share_list()
    [error] = row["errors"]
    assert error["item"] == "log"
    assert "primary key" in error["error"]
    [check] = [one for one in await maple.backend.doctor() if one["name"] == "tables of app"]
    assert check["ok"] == "warn"
    assert "log" in check["message"]


async def test_a_search_index_that_only_the_app_can_keep_is_named_and_its_rows_come(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    here, there = make(maple, ANN), make(willow, ANN)
    for path in (here, there):
        write(
            path,
            "CREATE VIRTUAL TABLE search USING fts5(name, content='people', content_rowid='id')",
            "CREATE TRIGGER keep AFTER INSERT ON people BEGIN"
            " INSERT INTO search(rowid, name) VALUES (new.id, unaccent(new.name)); END",
        )
    await add(maple, here)
    await accept(maple, willow, there, join="merge")
    with closing(app(here)) as connection:
        connection.create_scalar_function("unaccent", lambda text: text)
        connection.execute("INSERT INTO people VALUES (2, 'Bob', '2', 'bob@x')")
    await settle(maple, willow)
    assert read(there) == [ANN, BOB]
    [row] = await willow.backend.share_list()
    [error] = [one for one in row["errors"] if one["item"] == "people"]
    assert "unaccent" in error["error"]
    assert "'rebuild'" in error["error"]
    [check] = [one for one in await willow.backend.doctor() if one["name"] == "search in app"]
    assert check["ok"] == "warn"
    assert "people" in check["message"]


async def test_different_columns_of_one_row_both_survive(shared: Shared) -> None:
    maple, willow, here, there = shared
    await apart(maple, willow)
    write(here, "UPDATE people SET name = 'Anna' WHERE id = 1")
    write(there, "UPDATE people SET phone = '111' WHERE id = 1")
    await together(maple, willow)
    assert read(here) == read(there) == [(1, "Anna", "111", "ann@x"), BOB]
    assert await maple.backend.conflicts(include_resolved=False) == []


async def in_conflict(shared: Shared) -> Any:
    """Have one column changed on both, first on maple; return the conflict as willow lists it."""
    maple, willow, here, there = shared
    await apart(maple, willow)
    write(here, "UPDATE people SET phone = 'loses' WHERE id = 1")
    await maple.running("app").detect()
    write(there, "UPDATE people SET phone = 'wins' WHERE id = 1")
    await willow.running("app").detect()
    await together(maple, willow)
    assert read(here) == read(there) == [(1, "Ann", "wins", "ann@x"), BOB]
    [conflict] = await willow.backend.conflicts(include_resolved=False)
    return conflict


async def test_one_column_changed_on_both_is_a_conflict_with_the_loser_kept(shared: Shared) -> None:
    maple, willow, _here, _there = shared
    conflict = await in_conflict(shared)
    assert conflict["kind"] == "database"
    assert conflict["item"] == "people 1 phone"
    assert conflict["winner"] == "willow"
    [loser] = conflict["losers"]
    assert (loser["device"], loser["where"]) == ("maple", "people 1 phone: 'loses'")
    [same] = await maple.backend.conflicts(include_resolved=False)
    assert same == conflict
    shown = await maple.backend.conflict_show(conflict["id"])
    assert [side["where"] for side in shown["sides"]] == ["phone: 'wins'", "phone: 'loses'"]
    event = await willow.event("conflict")
    assert event["item"] == "people 1 phone"
    [row] = await maple.backend.share_list()
    assert row["conflicts"] == 1


async def test_a_loser_can_be_put_back_as_a_new_write(shared: Shared) -> None:
    maple, willow, here, there = shared
    conflict = await in_conflict(shared)
    done = await willow.backend.conflict_resolve(conflict["id"], keep="loser", loser=0)
    assert done["resolved"]
    await settle(willow, maple)
    assert read(here) == read(there) == [(1, "Ann", "loses", "ann@x"), BOB]
    for daemon in (maple, willow):
        assert await daemon.backend.conflicts(include_resolved=False) == []


async def test_keeping_the_winner_settles_it_on_all_devices(shared: Shared) -> None:
    maple, willow, here, there = shared
    conflict = await in_conflict(shared)
    with pytest.raises(BadRequest):
        await willow.backend.conflict_resolve(conflict["id"], keep="both", loser=0)
    await maple.backend.conflict_resolve(conflict["id"], keep="winner", loser=0)
    await settle(maple, willow)
    assert read(here) == read(there) == [(1, "Ann", "wins", "ann@x"), BOB]
    for daemon in (maple, willow):
        assert await daemon.backend.conflicts(include_resolved=False) == []
    with pytest.raises(NoSuchConflict):
        await willow.backend.conflict_resolve(conflict["id"], keep="winner", loser=0)


async def test_a_unique_value_taken_on_both_shows_one_row_and_lists_the_other(shared: Shared) -> None:
    maple, willow, here, there = shared
    await apart(maple, willow)
    write(here, "INSERT INTO people VALUES (7, 'Eve', '7', 'e@x')")
    await maple.running("app").detect()
    write(there, "INSERT INTO people VALUES (8, 'Eva', '8', 'e@x')")
    await willow.running("app").detect()
    await together(maple, willow)
    assert read(here) == read(there) == [ANN, BOB, (7, "Eve", "7", "e@x")]
    for daemon in (maple, willow):
        [conflict] = await daemon.backend.conflicts(include_resolved=False)
        assert conflict["item"] == "people 8 email"
        assert conflict["losers"][0]["where"] == "people 8 email: 'e@x'"
        assert (conflict["winner"], conflict["losers"][0]["device"]) == ("maple", "willow")
    await willow.backend.conflict_resolve(conflict["id"], keep="loser", loser=0)
    await settle(willow, maple)
    assert read(here) == read(there) == [ANN, BOB, (8, "Eva", "8", "e@x")]
    assert await maple.backend.conflicts(include_resolved=False) == []


async def test_a_held_row_is_shown_though_its_value_went_to_a_new_one_at_once(shared: Shared) -> None:
    maple, willow, here, there = shared
    await apart(maple, willow)
    write(here, "INSERT INTO people VALUES (7, 'Eve', '7', 'e@x')")
    await maple.running("app").detect()
    write(there, "INSERT INTO people VALUES (8, 'Eva', '8', 'e@x')")
    await willow.running("app").detect()
    await together(maple, willow)
    write(
        here,
        "BEGIN; DELETE FROM people WHERE id = 7; INSERT INTO people VALUES (9, 'Ed', '9', 'e@x'); COMMIT",
    )
    await settle(maple, willow)
    assert read(here) == read(there) == [ANN, BOB, (8, "Eva", "8", "e@x")]


async def test_a_deleted_row_is_in_the_history_and_comes_back(shared: Shared) -> None:
    maple, willow, here, there = shared
    write(there, "DELETE FROM people WHERE id = 2")
    await settle(willow, maple)
    assert read(here) == [ANN]
    [version] = await maple.backend.history(str(here))
    assert version["reason"] == "deleted"
    assert version["item"] == "people 2 email: 'bob@x', id: 2, name: 'Bob', phone: '2'"
    with pytest.raises(NoSuchItem):
        await maple.backend.restore(str(here), version="nonesuch")
    await maple.backend.restore(str(here), version=version["version"])
    await settle(maple, willow)
    assert read(here) == read(there) == [ANN, BOB]
    assert await maple.backend.history(str(here)) == []


async def test_an_edit_that_lost_to_a_delete_can_be_restored(shared: Shared) -> None:
    maple, willow, here, there = shared
    await apart(maple, willow)
    write(here, "UPDATE people SET phone = '22' WHERE id = 2")
    await maple.running("app").detect()
    write(there, "DELETE FROM people WHERE id = 2")
    await willow.running("app").detect()
    await together(maple, willow)
    assert read(here) == read(there) == [ANN]
    [conflict] = await maple.backend.conflicts(include_resolved=False)
    assert conflict["item"] == "people 2"
    await maple.backend.conflict_resolve(conflict["id"], keep="loser", loser=0)
    await settle(maple, willow)
    assert read(here) == read(there) == [ANN, (2, "Bob", "22", "bob@x")]


def keys_of(daemon: Daemon, begin: bytes) -> list[bytes]:
    """Return the keys that begin so, in order."""
    return [listed.key for listed in daemon.running("app").store.below(begin.rstrip(b"/"))]


async def test_rows_that_one_side_knows_by_another_name_are_found_however_many_they_are(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written while the share was there they have births; where they were there before, they have none."""
    monkeypatch.setattr(sessions, "INSPECTED_MAX", 3)
    maple, willow = two
    here, there = make(maple, ANN), make(willow, ANN)
    await add(maple, here)
    await maple.running("app").detect()
    people = ", ".join(f"({n}, 'P{n}', '{n}', NULL)" for n in range(10, 30))
    for path in (here, there):
        write(path, f"INSERT INTO people VALUES {people}")
    write(there, "UPDATE people SET phone = 'other' WHERE id = 29")
    await maple.running("app").detect()
    assert [key.count(b"/") for key in keys_of(maple, b"people/")] == [2] + 20 * [3]
    found = await willow.backend.share_compare("app", str(there), from_device=None)
    differing = {"table": "people", "identical": 20, "only_here": 1, "only_there": 1, "different": 0}
    assert found["tables"] == [differing]
    assert found["complete"]


async def test_rows_on_both_sides_are_compared_before_anything_happens(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = make(maple, ANN, BOB, (3, "Cid", "3", None))
    there = make(willow, ANN, (2, "Bobby", "2", "bob@x"), (4, "Dee", "4", None), (5, "Eve", "5", None))
    await add(maple, here)
    before = read(there, "SELECT name, sql FROM sqlite_schema")
    with pytest.raises(Undecided) as refused:
        await accept(maple, willow, there)
    assert refused.value.exit_code == 5
    found = await willow.backend.share_compare("app", str(there), from_device=None)
    assert (found["device"], found["complete"]) == ("maple", True)
    people = {"table": "people", "identical": 1, "only_here": 2, "only_there": 1, "different": 1}
    assert found["tables"] == [people]
    assert found["identical"] == 1
    assert (found["only_here"], found["only_there"], found["different"]) == (2, 1, 1)
    assert read(there, "SELECT name, sql FROM sqlite_schema") == before
    assert await willow.backend.share_list() == []
    assert len(read(here)) == 3
    [offer] = await willow.backend.share_offers()
    assert offer["kind"] == "database"


async def test_merging_unites_the_rows_of_both(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, ANN, BOB), make(willow, ANN, (3, "Cid", "3", None))
    await add(maple, here)
    await accept(maple, willow, there, join="merge")
    await settle(maple, willow)
    assert read(here) == read(there) == [ANN, BOB, (3, "Cid", "3", None)]


async def test_adopting_puts_the_file_aside_and_takes_the_peers_rows(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, ANN), make(willow, BOB)
    await add(maple, here)
    with closing(app(there)) as open_in_an_app:
        open_in_an_app.execute("SELECT * FROM people").fetchall()
        await accept(maple, willow, there, join="adopt")
        await settle(maple, willow)
        assert open_in_an_app.execute(PEOPLE).fetchall() == [ANN]
    [aside] = willow.folder.glob("app.db.before-adopt-*")
    assert read(aside) == [BOB]


async def test_a_share_is_joined_where_no_database_was(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, ANN, BOB), willow.folder / "new.db"
    await add(maple, here)
    await accept(maple, willow, there)
    await settle(maple, willow)
    assert read(there) == [ANN, BOB]


async def test_the_same_file_cannot_be_shared_twice(shared: Shared) -> None:
    maple, _willow, here, _there = shared
    (maple.folder / "link.db").symlink_to(here)
    for path in (here, maple.folder / "link.db"):
        with pytest.raises(NestedShare):
            await add(maple, path, name="again")


async def test_a_database_and_the_folder_it_lies_in_cannot_both_be_shared(shared: Shared) -> None:
    maple, _willow, here, _there = shared
    with pytest.raises(NestedShare):
        await add(maple, here.parent, name="around")
    folder = maple.folder / "folder"
    folder.mkdir()
    await add(maple, folder, name="folder")
    with pytest.raises(NestedShare):
        await add(maple, make(maple, ANN, name="folder/inside.db"), name="inside")


async def test_the_daemons_own_database_is_never_made_a_share(
    shared: Shared, two: tuple[Daemon, Daemon]
) -> None:
    maple, willow = two
    await willow.backend.share_remove("app")
    await offered(maple, willow, "app")
    own = willow.places.state_dir / "device.db"
    for path in (own, willow.places.state_dir / "new.db"):
        for join in (None, "merge", "adopt"):
            with pytest.raises(HoldsOurState):
                await accept(maple, willow, path, join=join)
    assert not (willow.places.state_dir / "new.db").exists()
    assert [one["name"] for one in await willow.backend.devices()] == ["maple"]


async def test_removing_a_share_leaves_the_schema_as_it_was(two: tuple[Daemon, Daemon]) -> None:
    maple, _willow = two
    here = make(maple, ANN)
    everything = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid"
    before = read(here, everything)
    await add(maple, here)
    await maple.running("app").detect()
    assert read(here, everything) != before
    await maple.backend.share_remove("app")
    assert read(here, everything) == before
    assert read(here) == [ANN]


async def test_a_database_that_an_app_keeps_locked_waits_and_goes_on_by_itself(shared: Shared) -> None:
    maple, willow, here, there = shared
    with locked(here):
        write(there, "UPDATE people SET phone = '22' WHERE id = 2")
        await maple.until(lambda: bool(maple.running("app").waiting), "waiting")
        [row] = await maple.backend.share_list()
        assert row["state"] in {"idle", "syncing"}
        assert row["reason"].startswith("waiting: ")
        with pytest.raises(DatabaseInUse):
            await maple.backend.share_remove("app")
        await maple.until(lambda: bool(maple.running("app").waiting), "waiting again")
        [row] = await maple.backend.share_list()
        assert row["state"] == "starting"
        assert (row["reason"] or "").startswith("waiting: ")
    await settle(maple, willow)
    assert read(here) == [ANN, (2, "Bob", "22", "bob@x")]
    [row] = await maple.backend.share_list()
    assert (row["state"], row["reason"]) == ("idle", None)


async def test_an_app_that_writes_for_long_delays_what_came_and_harms_nothing(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    maple, willow, here, there = shared
    replica = maple.running("app").replica
    again: list[Collection[bytes]] = []
    unstick = replica.unstick

    async def noted(stuck: Collection[bytes]) -> None:
        await unstick(stuck)
        again.append(stuck)

    monkeypatch.setattr(replica, "unstick", noted)
    with closing(app(here)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        write(there, "UPDATE people SET phone = '22' WHERE id = 2")
        await maple.until(lambda: bool(again), "two tries in vain")
        connection.execute("ROLLBACK")
    await settle(maple, willow)
    assert read(here) == [ANN, (2, "Bob", "22", "bob@x")]
    [row] = await maple.backend.share_list()
    assert (row["state"], row["reason"]) == ("idle", None)


async def test_verify_reads_every_row(shared: Shared) -> None:
    maple, _willow, here, _there = shared
    found = await maple.backend.verify("app")
    assert found["problems"] == []
    assert found["items"] >= 2
    del here


async def test_a_diff_names_rows(shared: Shared) -> None:
    maple, willow, _here, there = shared
    await apart(maple, willow)
    write(there, "INSERT INTO people VALUES (9, 'Ida', '9', NULL)")
    await willow.running("app").detect()
    await maple.backend.device_resume("willow")
    await settle(maple, willow)
    [device] = (await maple.backend.diff("app", None))["devices"]
    assert device["connected"]
    assert device["differences"] == []


async def test_tables_can_be_left_out(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, ANN), make(willow)
    write(here, "CREATE TABLE secret (id INTEGER PRIMARY KEY)", "INSERT INTO secret VALUES (1)")
    write(there, "CREATE TABLE secret (id INTEGER PRIMARY KEY)")
    await add(maple, here, without=["secret"])
    await accept(maple, willow, there, without=["secret"])
    await settle(maple, willow)
    assert read(there, "SELECT * FROM secret") == []
    [row] = await maple.backend.share_list()
    assert "secret" in row["left_out"]


async def test_what_two_devices_add_to_a_counter_at_once_adds_up(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple), make(willow)
    for path in (here, there):
        write(path, "CREATE TABLE item (id INTEGER PRIMARY KEY, stock INTEGER, sold INTEGER)")
    write(here, "INSERT INTO item VALUES (1, 100, 0)")
    await add(maple, here, counters=["item.stock"])
    # What adds up on one device does on the other.
    await accept(maple, willow, there)
    await settle(maple, willow)
    await apart(maple, willow)
    write(here, "UPDATE item SET stock = stock - 1")
    write(there, "UPDATE item SET stock = stock - 1")
    await together(maple, willow)
    assert read(here, "SELECT stock FROM item") == read(there, "SELECT stock FROM item") == [(98,)]
    assert await maple.backend.conflicts(include_resolved=False) == []
    for daemon in (maple, willow):
        [row] = await daemon.backend.share_list()
        assert row["counters"] == ["item.stock"]
        assert [one["item"] for one in row["errors"]] == ["log"]  # it has no key
    write(here, "ALTER TABLE item DROP COLUMN stock")
    await maple.until(
        lambda: any("no such column" in one["error"] for one in maple.running("app").desk.errors()),
        "the column is missed",
    )


async def test_a_counter_that_one_device_does_not_know_is_told_on_both(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple), make(willow)
    for path in (here, there):
        write(path, "CREATE TABLE item (id INTEGER PRIMARY KEY, stock INTEGER, sold INTEGER)")
    await add(maple, here, counters=["item.stock"])
    await accept(maple, willow, there, counters=["item.sold"])
    await settle(maple, willow)

    async def told(daemon: Daemon) -> dict[str, str]:
        [row] = await daemon.backend.share_list()
        return {one["item"]: one["error"] for one in row["errors"] if one["item"] != "log"}

    [(item, error)] = (await told(willow)).items()
    assert item == "item.sold"
    assert "here, and none on maple" in error
    with trio.fail_after(WAIT_S):  # the offer says so, which the session does not wait for
        while not (seen := await told(maple)):
            await maple.supervisor.mesh.changed.event.wait()
    assert "on willow, and none here" in seen["item.sold"]


async def test_what_is_said_of_tables_that_are_not_there_is_refused(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    here = make(maple)
    write(here, "CREATE TABLE item (id INTEGER PRIMARY KEY, stock INTEGER)")
    for counter in ("stock", ".stock", "item."):
        with pytest.raises(BadRequest, match=r"TABLE\.COLUMN"):
            await add(maple, here, counters=[counter])
    with pytest.raises(BadRequest, match=r"no column item\.stok .*perhaps item\.stock"):
        await add(maple, here, counters=["item.stok"])
    with pytest.raises(BadRequest, match=r"no table items \(perhaps item\)"):
        await add(maple, here, without=["items"])
    for known in ("item", "ITEM"):
        await add(maple, here, without=[known])
        await maple.backend.share_remove("app")
    with pytest.raises(BadRequest, match="for databases"):
        await add(maple, maple.make("f"), without=["item"])
    assert await maple.backend.share_list() == []


async def test_a_database_is_as_it_was_after_a_restart(shared: Shared) -> None:
    maple, willow, here, there = shared
    await maple.stop()
    write(here, "UPDATE people SET phone = 'while away' WHERE id = 1")
    await maple.start()
    await maple.until(lambda: maple.connected_to(willow), "connected again")
    await settle(maple, willow)
    assert read(there)[0] == (1, "Ann", "while away", "ann@x")


async def test_folder_words_do_not_apply_to_databases_and_the_other_way_round(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    folder = maple.make("f")
    await add(maple, folder, name="f")
    with pytest.raises(P2psyncError):
        await maple.backend.share_approve("f", catch_up=True)


async def gone_back(shared: Shared) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Put a backup in the place of maple's database, and wait until that is seen; return the rows of Ann."""
    maple, willow, here, there = shared
    old, new = (1, "Ann", "old", "ann@x"), (1, "Ann", "new", "ann@x")
    write(here, "UPDATE people SET phone = 'old' WHERE id = 1")
    await settle(maple, willow)
    backup = maple.folder / "backup.db"
    with closing(app(here)) as connection:
        connection.execute("VACUUM INTO ?", (str(backup),))
    write(there, "UPDATE people SET phone = 'new' WHERE id = 1", "DELETE FROM people WHERE id = 2")
    await settle(willow, maple)
    assert read(here) == [new]
    backup.rename(here)
    await maple.until(lambda: maple.running("app").replica.phase is Phase.HELD, "held")
    return old, new


async def test_a_backup_in_the_place_of_a_database_holds_the_share_until_somebody_decides(
    shared: Shared,
) -> None:
    maple, willow, here, there = shared
    old, new = await gone_back(shared)
    assert read(here) == [old, BOB]
    assert read(there) == [new]
    [row] = await maple.backend.share_list()
    assert row["state"] == "held"
    assert "p2psync share approve app" in (row["reason"] or "")
    assert "--catch-up" in (row["reason"] or "")
    status = await maple.backend.status()
    [command] = [one["command"] for one in status["attention"] if "is held" in one["message"]]
    assert command == "p2psync share approve app"
    with pytest.raises(ShareHeld):
        await maple.wait("app")
    await maple.backend.share_approve("app", catch_up=False)
    await settle(maple, willow)
    assert read(here) == read(there) == [old, BOB]
    # Whoever made the backup had not seen what it replaces.
    for daemon in (maple, willow):
        [conflict] = await daemon.backend.conflicts(include_resolved=False)
        assert conflict["losers"][0]["where"] == "people 1 phone: 'new'"


async def test_a_database_that_went_back_can_catch_up(shared: Shared) -> None:
    maple, willow, here, there = shared
    _old, new = await gone_back(shared)
    await maple.backend.share_approve("app", catch_up=True)
    await settle(maple, willow)
    assert read(here) == read(there) == [new]


async def test_a_share_that_is_held_can_be_removed_and_leaves_the_schema_as_it_was(shared: Shared) -> None:
    maple, _willow, here, _there = shared
    old, _new = await gone_back(shared)
    await maple.backend.share_remove("app")
    assert await maple.backend.share_list() == []
    assert read(here, "SELECT name FROM sqlite_schema WHERE name LIKE '\\_p2p%' ESCAPE '\\'") == []
    assert read(here) == [old, BOB]


async def test_a_database_catches_up_also_when_it_is_looked_at_while_somebody_says_so(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    maple, willow, here, there = shared
    _old, new = await gone_back(shared)
    share = maple.running("app")
    guard, accept, scan = share.source.guard, share.source.guard.accept, share.source.scan  # type: ignore[attr-defined]
    looked = threading.Event()

    def looked_at(dirty: Dirty) -> Any:
        looked.set()
        return scan(dirty)

    def accepted(note: Any) -> None:
        """Accept, and go on only once a look has begun, or waits for its turn."""
        accept(note)
        trio.from_thread.run_sync(share.notice, Dirty(subtrees=frozenset({b""})))
        while not looked.is_set() and not trio.from_thread.run_sync(share.busy.statistics).tasks_waiting:
            trio.from_thread.run(trio.sleep, 0.01)

    monkeypatch.setattr(guard, "accept", accepted)
    monkeypatch.setattr(share.source, "scan", looked_at)
    await maple.backend.share_approve("app", catch_up=True)
    await settle(maple, willow)
    assert read(here) == read(there) == [new]


async def test_a_database_that_is_gone_holds_the_share_and_goes_on_when_it_is_back(shared: Shared) -> None:
    maple, willow, here, there = shared
    here.rename(maple.folder / "elsewhere.db")
    await maple.until(lambda: maple.running("app").replica.phase is Phase.HELD, "held")
    with pytest.raises(NotApprovable, match="Put what is missing back"):
        await maple.backend.share_approve("app", catch_up=False)
    (maple.folder / "elsewhere.db").rename(here)
    write(there, "UPDATE people SET phone = '1234' WHERE id = 1")
    await maple.until(lambda: maple.running("app").replica.phase is Phase.READY, "goes on")
    await settle(willow, maple)
    assert read(here) == read(there) == [(1, "Ann", "1234", "ann@x"), BOB]


async def test_devices_with_different_versions_of_an_app_lose_nothing(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, ANN), make(willow)
    write(there, "ALTER TABLE people ADD COLUMN born INTEGER")
    await add(maple, here)
    await accept(maple, willow, there)
    await settle(maple, willow)
    everything = "SELECT * FROM people"
    assert read(there, everything) == [(*ANN, None)]
    write(there, "UPDATE people SET born = 1970 WHERE id = 1")
    await settle(willow, maple)
    assert read(here, everything) == [ANN]

    def ahead() -> list[str]:
        return [
            one["item"] for one in maple.running("app").desk.errors() if "another version" in one["error"]
        ]

    assert ahead() == ["people.born"]
    await maple.restart()
    await maple.until(lambda: maple.connected_to(willow), "connected again")
    assert ahead() == ["people.born"]
    write(here, "UPDATE people SET phone = '11' WHERE id = 1")
    await settle(maple, willow)
    newer = (1, "Ann", "11", "ann@x", 1970)
    assert read(there, everything) == [newer]
    assert await maple.backend.conflicts(include_resolved=False) == []
    write(here, "ALTER TABLE people ADD COLUMN born INTEGER")
    await maple.until(lambda: read(here, everything) == [newer], "the column of the newer version")
    assert ahead() == []


async def test_a_receive_only_device_takes_and_does_not_give(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, ANN), make(willow)
    await add(maple, here)
    await accept(maple, willow, there, mode="receive-only")
    await settle(maple, willow)
    assert read(there) == [ANN]
    write(
        there, "INSERT INTO people VALUES (9, 'Ida', '9', NULL)", "UPDATE people SET phone = 'x' WHERE id = 1"
    )
    write(here, "UPDATE people SET name = 'Anna' WHERE id = 1")
    await settle(maple, willow)
    assert read(here) == [(1, "Anna", "1", "ann@x")]
    assert read(there)[0][1] == "Anna"


async def test_a_send_only_device_gives_and_does_not_take(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = make(maple, ANN), make(willow)
    await add(maple, here, mode="send-only")
    await accept(maple, willow, there)
    await willow.wait("app")
    assert read(there) == [ANN]
    write(there, "INSERT INTO people VALUES (9, 'Ida', '9', NULL)")
    await willow.running("app").detect()
    write(here, "UPDATE people SET name = 'Anna' WHERE id = 1")
    await willow.until(lambda: read(there)[0][1] == "Anna", "the new name")
    assert read(here) == [(1, "Anna", "1", "ann@x")]


async def test_a_database_rests_while_its_share_is_paused(shared: Shared) -> None:
    maple, willow, here, there = shared
    await maple.backend.share_pause("app")
    write(here, "UPDATE people SET phone = '11' WHERE id = 1")
    write(there, "UPDATE people SET phone = '22' WHERE id = 2")
    await willow.running("app").detect()
    assert (read(here)[1][2], read(there)[0][2]) == ("2", "1")
    await maple.backend.share_resume("app")
    await settle(maple, willow)
    assert read(here) == read(there) == [(1, "Ann", "11", "ann@x"), (2, "Bob", "22", "bob@x")]


async def test_a_row_that_says_nothing_is_refused_and_one_that_was_taken_in_before_harms_nothing(
    shared: Shared,
) -> None:
    maple, willow, here, _there = shared
    replica = maple.running("app").replica
    await apart(maple, willow)  # which would refuse them, too
    broken = [
        Item(
            key=b"people/0/%d" % number,
            kind=kind,
            digest=b"",
            size=0,
            meta=b"\x01garbage",
            dot=Dot(ActorId(b"a stranger"[:8]), number),
            hlc=number,
        )
        for number, kind in ((7, Kind.ROW), (8, Kind.TOMBSTONE))
    ]
    with pytest.raises(RemoteProtocolError, match="people/0/7"):
        await replica.receive(broken, [], repair=False)
    before = replica.totals.items
    await replica.step(lambda: replica.ledger.receive(broken, [], repair=False))
    write(here, "INSERT INTO people VALUES (8, 'Eve', NULL, NULL), (9, 'Fay', NULL, NULL)")
    await maple.running("app").detect()
    assert replica.totals.items == before + 3
    assert await maple.backend.conflicts(include_resolved=False) == []
    await maple.backend.history(str(here))
    [row] = await maple.backend.share_list()
    assert any("no row" in one["error"] for one in row["errors"])


async def test_three_devices_hold_the_same_rows(two: tuple[Daemon, Daemon], lab: Lab) -> None:
    maple, willow = two
    oak = await lab.daemon("oak")
    await connect(maple, oak)
    await oak.until(lambda: oak.connected_to(willow), "introduced")
    paths = [make(maple, ANN), willow.folder / "w.db", oak.folder / "o.db"]
    await add(maple, paths[0])
    await accept(maple, willow, paths[1])
    await accept(maple, oak, paths[2], from_device="maple")
    await settle(maple, willow, oak)
    for at, path in enumerate(paths):
        write(path, f"INSERT INTO people VALUES (10, 'Person {at}', '{at}', NULL)")
    await settle(maple, willow, oak)
    rows = [read(path) for path in paths]
    assert rows[0] == rows[1] == rows[2]
    assert [row[1] for row in rows[0] if row[0] != 1] in [
        [f"Person {at}" for at in order] for order in permutations(range(3))
    ]
    assert len({row[0] for row in rows[0]}) == 4


async def test_a_locked_database_can_be_forgotten_by_force(shared: Shared) -> None:
    maple, _willow, here, _there = shared
    with locked(here):
        await maple.backend.share_remove("app", force=True)
    assert await maple.backend.share_list() == []
    assert read(here) == [ANN, BOB]
    # What was left in the file goes when it is shared and removed again.
    await add(maple, here, name="again")
    await maple.running("again").detect()
    await maple.backend.share_remove("again")
    assert read(here, "SELECT name FROM sqlite_schema WHERE name LIKE '\\_p2p%' ESCAPE '\\'") == []


async def test_a_database_in_a_shared_folder_is_refused_and_the_other_way_round(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    folder = maple.make("f")
    here = make(maple, ANN, name="f/app.db")
    await add(maple, folder, name="f")
    with pytest.raises(NestedShare):
        await add(maple, here)
    await maple.backend.share_remove("f")
    await add(maple, here)
    with pytest.raises(NestedShare):
        await add(maple, folder, name="f")
