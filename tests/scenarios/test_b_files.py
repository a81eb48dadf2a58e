"""Scenarios B25 to B28: a database that changes while nobody looks, or that is suddenly another file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
from daemons import Daemon, Lab, connect, offered
from tables import Program, Tables, cells, program, query, schema_of

from p2psyncd.core.ids import BASELINE_ACTOR
from p2psyncd.daemon.replica import Phase
from p2psyncd.errors import ShareHeld, Undecided

PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, phone TEXT)"
ANN, BOB, CID, DEE, NIA = [(n, name, str(n)) for n, name in enumerate(("Ann", "Bob", "Cid", "Dee", "Nia"), 1)]
ALL = "SELECT * FROM people ORDER BY id"
ANSWERS = pytest.mark.parametrize("catch_up", [False, True], ids=["as it is now", "catch up"])


def insert(*rows: tuple[Any, ...]) -> str:
    return f"INSERT INTO people VALUES {', '.join(map(repr, rows))}"


def hints(path: Path) -> int:
    """Return how many rows a file hints at."""
    sides = query(path, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '_p2p_h[0-9]*'")
    return sum(query(path, f"SELECT count(*) FROM {name}")[0][0] for (name,) in sides)


async def test_b25_very_many_updates_of_a_hundred_rows_while_the_daemon_is_down_are_a_hundred_hints(
    book: Tables,
) -> None:
    numbers = ", ".join(f"({n}, 0)" for n in range(1, 101))
    here, _ = await book.begin_with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)", f"INSERT INTO t VALUES {numbers}"
    )
    await book.same()
    await book.stop(0)
    await book.done(1, "UPDATE t SET n = -1 WHERE id = 1")
    with program(here) as app:
        for _ in range(200):
            assert await app.run("UPDATE t SET n = n + 1") == []
    assert book.ask(0, "SELECT count(*), min(n), max(n) FROM t") == [(100, 200, 200)]
    assert hints(here) == 100
    book.do(1, "UPDATE t SET n = -2 WHERE id = 2")
    await book.noted(1)
    await book.daemons[0].start()
    await book.meet()
    # What was written meanwhile counts with its own time, not with that at which the daemon came back.
    after = [200, -2, *[200] * 98]
    assert await book.same(conflicts=2) == {"t": cells([(n, value) for n, value in enumerate(after, 1)])}
    losers = {one["losers"][0]["where"] for one in await book.conflicts()}
    assert losers == {"t 1 n: -1", "t 2 n: 200"}
    await book.until(lambda: hints(here) == 0, "the hints to be dropped")


# B26: a backup is put in the place of the file


async def copied(source: Path, target: Path, how: str = "cp") -> None:
    """Copy or move a file, in a process of its own: closing it here would drop SQLite's locks."""
    await trio.run_process([how, str(source), str(target)])


async def held(book: Tables, number: int, why: str) -> None:
    """Wait until a share is held for a reason, and check that it says what can be done about it."""
    daemon = book.daemons[number]
    replica = daemon.running("app").replica
    await daemon.until(lambda: replica.phase is Phase.HELD and why in replica.reason, why)
    row = await book.row(number)
    assert row["state"] == "held"
    assert "`p2psync share approve NAME`" in replica.reason
    assert "`p2psync share approve NAME --catch-up`" in replica.reason
    told = [one for one in (await daemon.backend.status())["attention"] if "is held" in one["message"]]
    assert [one["command"] for one in told] == ["p2psync share approve app"]


async def untouched(book: Tables, number: int, rows: list[tuple[Any, ...]]) -> None:
    """Check that nothing that another device writes is put into a file."""
    before = schema_of(book.file(number))
    book.do(1 - number, insert(DEE))
    await book.noted(1 - number)
    for _ in range(2):
        with pytest.raises(ShareHeld):
            await book.daemons[number].backend.share_rescan("app")
        assert book.ask(number, ALL) == rows
        assert schema_of(book.file(number)) == before


@ANSWERS
@pytest.mark.parametrize("made", ["while it was shared", "before that"])
@pytest.mark.parametrize(
    ("how", "journal"), [("cp", "DELETE"), ("cp", "WAL"), ("mv", "DELETE")], ids=["cp", "cp in WAL", "mv"]
)
async def test_b26_a_backup_put_over_the_file_is_what_the_app_sees_and_the_daemon_asks_about_it(
    book: Tables, how: str, journal: str, made: str, catch_up: bool
) -> None:
    here, backup = book.file(0), book.daemons[0].folder / "backup.db"
    for number in (0, 1):
        query(book.file(number), f"PRAGMA journal_mode = {journal}")
        book.do(number, PEOPLE)
    book.do(0, insert(ANN, BOB))
    if made == "before that":
        await copied(here, backup)
    await book.share()
    await book.same()
    if made == "while it was shared":
        await copied(here, backup)
    book.do(0, "UPDATE people SET phone = '11' WHERE id = 1", insert(CID))
    book.do(1, "DELETE FROM people WHERE id = 2")
    await book.same()
    inode = here.stat().st_ino
    await copied(backup, here, how)
    assert (here.stat().st_ino == inode) == (how == "cp")
    assert book.ask(0, ALL) == [ANN, BOB]
    why = "an older state of itself" if made == "while it was shared" else "another database than the one"
    await held(book, 0, why)
    await untouched(book, 0, [ANN, BOB])
    await book.daemons[0].backend.share_approve("app", catch_up=catch_up)
    newest = [(1, "Ann", "11"), CID, DEE] if catch_up else [ANN, BOB, DEE]
    # Where the backup counts, nobody who wrote it had seen what it replaces.
    conflicts = 0 if catch_up else 1
    assert await book.same(conflicts=conflicts) == {"people": cells(newest)}
    assert [one["losers"][0]["where"] for one in await book.conflicts()] == [
        "people 1 phone: '11'"
    ] * conflicts
    # The backup itself is not lost either.
    kept = list(here.parent.glob("app.db.before-catch-up-*"))
    assert [query(path, ALL) for path in kept] == ([[ANN, BOB]] if catch_up else [])
    # And both go on.
    book.do(0, "UPDATE people SET phone = 'here' WHERE id = 1")
    book.do(1, "UPDATE people SET phone = 'there' WHERE id = 4")
    found = await book.same(conflicts=conflicts)
    assert {(1, "Ann", "here"), (4, "Dee", "there")} <= set(book.ask(0, ALL))
    assert len(found["people"]) == 3


@ANSWERS
async def test_b26_a_backup_put_over_the_file_while_the_daemon_is_off_is_seen_when_it_starts(
    book: Tables, catch_up: bool
) -> None:
    here, _ = await book.begin_with(PEOPLE, insert(ANN, BOB))
    backup = book.daemons[0].folder / "backup.db"
    await copied(here, backup)
    book.do(1, "DELETE FROM people WHERE id = 2", insert(CID))
    await book.same()
    await book.stop(0)
    await copied(backup, here)
    # The app goes on with the backup.
    with program(here) as app:
        assert await app.run("UPDATE people SET phone = 'after' WHERE id = 1") == []
    await book.daemons[0].start()
    await held(book, 0, "an older state of itself")
    await untouched(book, 0, [(1, "Ann", "after"), BOB])
    await book.daemons[0].backend.share_approve("app", catch_up=catch_up)
    newest = [ANN, CID, DEE] if catch_up else [(1, "Ann", "after"), BOB, DEE]
    # Nobody can tell whether the app, or whoever made the backup, had seen what it replaces.
    assert await book.same(conflicts=0 if catch_up else 1) == {"people": cells(newest)}


async def test_b26_a_backup_of_the_file_and_of_the_daemons_state_rolls_nobody_back(book: Tables) -> None:
    here, _ = await book.begin_with(PEOPLE, insert(ANN, BOB))
    maple = book.daemons[0]
    book.do(0, "UPDATE people SET phone = '11' WHERE id = 1")
    await book.same()
    await book.stop(0)
    backup = maple.folder / "backup"
    shutil.copytree(maple.places.state_dir, backup / "state")
    await copied(here, backup / "app.db")
    await maple.start()
    await book.meet()
    actor = maple.running("app").replica.standing.actor
    book.do(0, insert(CID))
    book.do(1, "DELETE FROM people WHERE id = 2", "UPDATE people SET name = 'Anna' WHERE id = 1")
    after = await book.same()
    await book.stop(0)
    shutil.rmtree(maple.places.state_dir)
    shutil.copytree(backup / "state", maple.places.state_dir)
    await copied(backup / "app.db", here)
    await maple.start()
    await book.meet()
    assert await book.same() == after == {"people": cells([(1, "Anna", "11"), CID])}
    assert maple.running("app").replica.standing.actor != actor
    book.do(0, insert(DEE), "UPDATE people SET phone = 'new' WHERE id = 3")
    assert await book.same() == {"people": cells([(1, "Anna", "11"), (3, "Cid", "new"), DEE])}


# B27: another file has the name


@ANSWERS
@pytest.mark.parametrize("how", ["deleted and made again", "replaced by mv"])
async def test_b27_neither_the_old_file_nor_the_new_one_gets_writes_before_somebody_decides(
    book: Tables, how: str, catch_up: bool
) -> None:
    here, _ = await book.begin_with(PEOPLE, insert(ANN, BOB))
    await book.same()
    with program(here) as app:
        assert await app.run(ALL) == [list(ANN), list(BOB)]
        before = await everything(app)
        if how == "replaced by mv":
            other = here.with_name("other.db")
            query(other, f"{PEOPLE}; {insert(NIA)}")
            await copied(other, here, "mv")
        else:
            here.unlink()
            daemon = book.daemons[0]
            replica = daemon.running("app").replica
            await daemon.until(
                lambda: replica.phase is Phase.HELD and "is missing" in replica.reason, "missing"
            )
            book.do(1, insert(CID))
            await book.noted(1)
            with pytest.raises(ShareHeld):
                await daemon.backend.share_rescan("app")
            assert not here.exists()
            query(here, f"{PEOPLE}; {insert(NIA)}")
        made = schema_of(here)
        assert [(kind, name) for kind, name, *_ in made] == [("table", "people")]
        await held(book, 0, "another database than the one that was shared")
        await untouched(book, 0, [NIA])
        assert schema_of(here) == made
        # An app that has the old file open sees no ghosts in it.
        assert await everything(app) == before
    await book.daemons[0].backend.share_approve("app", catch_up=catch_up)
    newest = [ANN, BOB, DEE] if catch_up else [NIA, DEE]
    assert await book.same() == {
        "people": cells([*newest, *([CID] if how == "deleted and made again" else [])])
    }


async def everything(app: Program) -> list[Any]:
    """Return all that an app finds in the file that it has open, ours included."""
    names = [
        name for (name,) in await app.run("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    ]
    found = [await app.run("SELECT name, sql FROM sqlite_schema ORDER BY name")]
    for name in names:
        columns = await app.run("SELECT name FROM pragma_table_info(?)", name)
        quoted = ", ".join(f"quote({column})" for (column,) in columns)
        found.append(await app.run(f"SELECT {quoted} FROM {name}"))
    return found


# B28: the file of another device


@ANSWERS
async def test_b28_a_file_copied_over_another_devices_is_found_out_and_nobody_writes_as_the_other(
    book: Tables, catch_up: bool
) -> None:
    here, there = await book.begin_with(PEOPLE, insert(ANN, BOB))
    book.do(0, "UPDATE people SET phone = '11' WHERE id = 1")
    await book.same()
    maple, willow = (daemon.running("app").replica.standing.actor for daemon in book.daemons)
    assert maple != willow
    marks = [query(path, "SELECT device FROM _p2p_mark") for path in (here, there)]
    assert marks[0] != marks[1]
    old = here.with_name("copy.db")
    await copied(here, old)
    book.do(0, "DELETE FROM people WHERE id = 2", insert(CID))
    await book.same()
    await copied(old, there)
    await held(book, 1, "a copy of another device's file")
    await untouched(book, 1, [(1, "Ann", "11"), BOB])
    await book.daemons[1].backend.share_approve("app", catch_up=catch_up)
    newest = [(1, "Ann", "11"), *([CID] if catch_up else [BOB]), DEE]
    assert await book.same() == {"people": cells(newest)}
    assert [query(path, "SELECT device FROM _p2p_mark") for path in (here, there)] == marks
    # Each writes as itself, also at once.
    await book.part()
    book.do(0, "UPDATE people SET phone = 'here' WHERE id = 1")
    book.do(1, "UPDATE people SET phone = 'there' WHERE id = 4")
    await book.meet()
    found = await book.same()
    for daemon in book.daemons:
        assert set(daemon.running("app").replica.standing.knowledge) == {BASELINE_ACTOR, maple, willow}
    assert found["people"] == cells([(1, "Ann", "here"), *newest[1:-1], (4, "Dee", "there")])


async def test_b28_a_copied_file_joins_on_another_device_as_that_devices_own(book: Tables, lab: Lab) -> None:
    here, _ = await book.begin_with(PEOPLE, insert(ANN, BOB))
    # One row was there before, one came since: they have names of two kinds.
    book.do(0, "UPDATE people SET phone = '11' WHERE id = 1", insert(CID))
    await book.same()
    maple = book.daemons[0]
    birch = await lab.daemon("birch")
    await connect(maple, birch, introduce=False)
    copy = birch.folder / "app.db"
    await copied(here, copy)
    # The app there is at work before it is shared.
    with program(copy) as app:
        assert await app.run("INSERT INTO people VALUES (4, 'Dee', '4')") == []
    await offered(maple, birch, "app")
    with pytest.raises(Undecided):
        await accept(maple, birch, copy, None)
    found = await birch.backend.share_compare("app", str(copy), from_device=None)
    assert (found["only_here"], found["only_there"], found["different"]) == (1, 0, 0)
    await accept(maple, birch, copy, "merge")
    await birch.wait("app")
    book.daemons.insert(0, birch)  # a row of three, with maple in the middle
    rows = [(1, "Ann", "11"), BOB, CID, DEE]
    assert await book.same() == {"people": cells(rows)}
    assert len({daemon.running("app").replica.standing.actor for daemon in book.daemons}) == 3
    marks = [query(path, "SELECT share, device FROM _p2p_mark")[0] for path in book.files]
    assert len({share for share, _ in marks}) == 1
    assert len({device for _, device in marks}) == 3
    for number, name in enumerate(("birch", "maple", "willow")):
        rows[number + 1] = (number + 2, rows[number + 1][1], f"from {name}")
        book.do(number, f"UPDATE people SET phone = 'from {name}' WHERE id = {number + 2}")
    assert await book.same() == {"people": cells(rows)}


async def test_b28_a_device_that_lost_its_state_goes_on_with_its_file_as_a_new_actor(book: Tables) -> None:
    await book.begin_with(PEOPLE, insert(ANN, BOB))
    book.do(0, "UPDATE people SET phone = '11' WHERE id = 1", insert(CID))
    book.do(1, insert(DEE))
    await book.same()
    maple = book.daemons[0]
    actor = maple.running("app").replica.standing.actor
    await book.stop(0)
    shutil.rmtree(maple.places.state_dir / "shares")
    book.do(0, insert(NIA))
    await maple.start()
    await book.meet()
    rows = [(1, "Ann", "11"), BOB, CID, DEE, NIA]
    assert await book.same() == {"people": cells(rows)}
    assert maple.running("app").replica.standing.actor != actor
    book.do(0, "DELETE FROM people WHERE id > 3")
    assert await book.same() == {"people": cells(rows[:3])}


async def accept(owner: Daemon, taker: Daemon, path: Path, join: Any) -> None:
    """Accept the share for a file that is there already."""
    await taker.backend.share_accept("app", str(path), mode="send-receive", from_device=owner.name, join=join)


async def test_b28_a_device_that_leaves_and_joins_again_after_a_collision_has_the_same_rows(
    book: Tables,
) -> None:
    await book.begin_with(PEOPLE + "; CREATE TABLE card (id INTEGER PRIMARY KEY, person REFERENCES people)")
    await book.part()
    for number, name in enumerate(("Cid", "Dan")):
        book.do(number, f"INSERT INTO people VALUES (3, '{name}', '3')", "INSERT INTO card VALUES (1, 3)")
    await book.meet()
    before = await book.same()
    maple, willow = book.daemons
    await willow.backend.share_remove("app")
    await offered(maple, willow, "app")
    found = await willow.backend.share_compare("app", str(book.file(1)), from_device=None)
    assert (found["identical"], found["only_here"], found["only_there"], found["different"]) == (4, 0, 0, 0)
    await accept(maple, willow, book.file(1), "merge")
    assert await book.same() == before
    # Rows of its own, and of others, are edited as ever.
    book.do(1, "UPDATE people SET phone = 'new'", "DELETE FROM card WHERE id = 1")
    rows = (await book.same())["people"]
    assert len(rows) == 2
    assert all("new" in row for row in rows)
