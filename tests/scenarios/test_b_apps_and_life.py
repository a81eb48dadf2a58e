"""Scenarios B30 to B34: apps beside the daemon, and how a share begins, goes on after a long time, and ends."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from daemons import offered
from music_shop import ROWS, make_shop
from tables import Program, Tables, cells, dump, opened, program, query, schema_of

from p2psyncd.control.messages import Comparison
from p2psyncd.errors import Undecided
from p2psyncd.sources.database.keys import pack_key, unpack_key
from p2psyncd.sources.database.names import quoted

PROGRAMS = Path(__file__).parent.parent / "sources" / "database" / "real_programs.py"
LOAD = Path(__file__).with_name("load_program.py")
# A record has more than a hundred bytes: what was exchanged has no room for a thousandth of the rows.
NO_ROWS_BYTES = 4_000
FEW_ROWS_BYTES = 40_000
# Of each table, how many rows it has more when both are united.
NEW = {"Artist": 2, "Genre": 1, "InvoiceLine": 1, "Playlist": 1, "PlaylistTrack": 1}


BUSY = """
CREATE TABLE mine (id INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE stream (id INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE setting (id INTEGER PRIMARY KEY, text TEXT);
"""
SETTINGS_ROWS = "INSERT INTO setting (text) VALUES ('one'), ('two'), ('three')"
# The peer's app, for a moment: two thousand rows a second, if the machine can do that.
STREAM = {"how": "immediate", "table": "stream", "count": 8, "rate": 40, "rows": 50}
# An app's transactions a second; with a rollback journal each of them waits for the disk.
RATES = {"WAL": 350, "DELETE": 50}
LOCKED = "database is locked"
ROUNDS_MAX = 20
# Far above what is measured (tests/bench/rows.py has the figure): on a loaded machine a lock is kept longer.
FAILED_MAX = 0.25


class Worked(NamedTuple):
    """What came of an app's work."""

    count: int
    """How many transactions it tried."""
    errors: list[str]
    came: int
    """How many of the peer's rows came meanwhile."""


@asynccontextmanager
async def app_under_load(
    book: Tables, how: str, journal: str
) -> AsyncIterator[Callable[[int], Awaitable[Worked]]]:
    """Let the first device's app send rows without end, and be an app on the second one, which has five seconds of patience.

    Yields:
        Makes as many transactions as an app does in some seconds, if the machine is fast enough.
    """
    here, there = await book.begin_with(BUSY, SETTINGS_ROWS, journal=journal)
    over = trio.Event()

    async def send(peer: Program) -> None:
        while not over.is_set():
            peer.send(**STREAM)
            assert await trio.to_thread.run_sync(peer.answer) == []

    async def work(seconds: int) -> Worked:
        before = arrived(there)
        count = seconds * RATES[journal]
        app.send(how=how, table="mine", count=count, rate=RATES[journal], rows=1)
        errors = await trio.to_thread.run_sync(app.answer)
        return Worked(count, errors, arrived(there) - before)

    with program(there, 5.0, script=[LOAD]) as app, program(here, 30.0, script=[LOAD]) as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, peer)
            await book.until(lambda: arrived(there) > 0, "the first rows")
            yield work
            over.set()


def arrived(there: Path) -> int:
    """Return how many of the peer's rows are in a file."""
    [[count]] = query(there, "SELECT count(*) FROM stream")
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("journal", RATES)
async def test_b30_an_app_that_takes_its_lock_first_has_no_errors_while_rows_come_without_end(
    book: Tables, journal: str
) -> None:
    async with app_under_load(book, "immediate", journal) as work:
        count, errors, came = await work(3)
        assert errors == []
        assert came
    found = await book.same()
    assert len(found["mine"]) == count


@pytest.mark.parametrize("journal", RATES)
async def test_b30_an_app_that_writes_after_it_has_read_seldom_finds_the_file_locked(
    book: Tables, journal: str
) -> None:
    """It is locked out for a share of the time; other work on the machine makes some rounds worse, never all."""
    done, least = 0, 1.0
    async with app_under_load(book, "deferred", journal) as work:
        for _ in range(ROUNDS_MAX):
            count, errors, came = await work(1)
            assert set(errors) <= {LOCKED}
            done += count - len(errors)
            if came:
                least = min(least, len(errors) / count)
            if least < FAILED_MAX:
                break
    assert least < FAILED_MAX
    found = await book.same()
    assert len(found["mine"]) == done


async def two_shops(book: Tables, here: str = "", there: str = "") -> Comparison:
    """Put one shop on both devices, change it on each, share the first one's, and compare."""
    for number, changes in enumerate((here, there)):
        make_shop(book.file(number))
        book.do(number, changes)
    owner, taker = book.daemons
    given: dict[str, Any] = {"kind": None, "mode": "send-receive", "with_devices": []}
    await owner.backend.share_add(str(book.file(0)), name=book.name, **given)
    await offered(owner, taker, book.name)
    with pytest.raises(Undecided):
        await accept(book)
    return await taker.backend.share_compare(book.name, str(book.file(1)), from_device=owner.name)


async def accept(book: Tables, **options: Any) -> None:
    """Let the second device join the first one's share with the file that it has."""
    owner, taker = book.daemons
    await taker.backend.share_accept(
        book.name, str(book.file(1)), mode="send-receive", from_device=owner.name, **options
    )


def key_of(table: str, row: str) -> tuple[object, ...]:
    """Return the key of a row of the shop, as `dump` gives it: each value after its type."""
    values = ast.literal_eval(row)
    return tuple(values[: 2 if table == "PlaylistTrack" else 1])


def bytes_exchanged(book: Tables) -> int:
    """Return how much two devices have said to each other since they connected."""
    owner, taker = book.daemons
    state = owner.peer(taker)
    assert state is not None
    assert state.link is not None
    return state.link.sent_bytes + state.link.received_bytes


async def test_b31_two_copies_of_one_database_join_and_no_rows_travel(book: Tables) -> None:
    found = await two_shops(book)
    assert (found["only_here"], found["only_there"], found["different"]) == (0, 0, 0)
    assert {one["table"]: one["identical"] for one in found["tables"] if one["table"] in ROWS} == ROWS
    await accept(book, join="merge")
    await book.settle()
    assert dump(book.file(0)) == dump(book.file(1))
    assert book.versions() == [-1, -1]
    assert bytes_exchanged(book) < NO_ROWS_BYTES


# Seven rows that both have and that differ, and four that only one of them has, each.
MAPLE = """
UPDATE Artist SET Name = 'one' WHERE ArtistId = 7;
UPDATE Track SET UnitPrice = 0.5 WHERE TrackId = 1000;
UPDATE Track SET Composer = 'Ωδή' WHERE TrackId = 3000;
INSERT INTO Artist VALUES (9001, 'Neue'), (9002, 'Hier');
INSERT INTO Genre VALUES (1001, 'Schlager');
INSERT INTO InvoiceLine VALUES (5001, 1, 1, 0.99, 1);
DELETE FROM InvoiceLine WHERE InvoiceLineId = 2;
DELETE FROM PlaylistTrack WHERE rowid = (SELECT min(rowid) FROM PlaylistTrack);
"""
WILLOW = """
UPDATE Artist SET Name = 'other' WHERE ArtistId IN (7, 8);
UPDATE Track SET UnitPrice = 1.5 WHERE TrackId = 1000;
UPDATE Invoice SET Total = -1.5 WHERE InvoiceId = 5;
UPDATE Customer SET Email = 'new@example.org' WHERE CustomerId = 3;
INSERT INTO Artist VALUES (9001, 'Andere');
INSERT INTO Playlist VALUES (77, 'Там');
INSERT INTO PlaylistTrack VALUES (77, 1);
DELETE FROM InvoiceLine WHERE InvoiceLineId = 1;
"""
# As willow sees it: only here, only there, different.
DIFFERENCES = {
    "Artist": (0, 1, 3),
    "Customer": (0, 0, 1),
    "Genre": (0, 1, 0),
    "Invoice": (0, 0, 1),
    "InvoiceLine": (1, 2, 0),
    "Playlist": (1, 0, 0),
    "PlaylistTrack": (2, 0, 0),
    "Track": (0, 0, 2),
}


async def test_b31_fifteen_differences_are_named_and_merged_and_nothing_else_travels(book: Tables) -> None:
    found = await two_shops(book, MAPLE, WILLOW)
    counts = {
        one["table"]: (one["only_here"], one["only_there"], one["different"]) for one in found["tables"]
    }
    assert {table: one for table, one in counts.items() if any(one)} == DIFFERENCES
    assert (found["only_here"], found["only_there"], found["different"], found["complete"]) == (4, 4, 7, True)
    before = [dump(file) for file in book.files]
    await accept(book, join="merge")
    after = await book.same(conflicts=7)
    assert bytes_exchanged(book) < FEW_ROWS_BYTES
    # A row that one of them had is there; of those that differ there is one, made of both.
    for table, rows in after.items():
        here, there = (set(one[table]) for one in before)
        assert here & there <= set(rows)
        assert len(rows) == ROWS[table] + NEW.get(table, 0)
        keys = [key_of(table, row) for row in rows]
        assert sorted(keys) == sorted({key_of(table, row) for row in here | there})
    listed = {one["item"]: one for one in await book.conflicts()}
    assert sorted(listed) == [
        "Artist 7 Name",
        "Artist 8 Name",
        "Artist 9001 Name",
        "Customer 3 Email",
        "Invoice 5 Total",
        "Track 1000 UnitPrice",
        "Track 3000 Composer",
    ]
    # Whichever of the two won, the other one is kept.
    for item, values in {
        "Artist 7 Name": ("'one'", "'other'"),
        "Track 1000 UnitPrice": ("0.5", "1.5"),
    }.items():
        conflict = await book.daemons[0].backend.conflict_show(listed[item]["id"])
        shown = [side["where"].partition(": ")[2] for side in conflict["sides"]]
        assert sorted(shown) == sorted(values)


CARDS = "CREATE TABLE card (id INTEGER PRIMARY KEY, front TEXT, back TEXT)"
FIRST_CARDS = "INSERT INTO card VALUES (1, 'eins', 'one'), (2, 'zwei', 'two'), (3, 'drei', 'three')"


@asynccontextmanager
async def kept_locked(book: Tables, *statements: str) -> AsyncIterator[None]:
    """Be an app that locks the first device's database for as long as it runs, as Anki does, and writes to it."""
    with program(book.file(0)) as app:
        for statement in ("PRAGMA locking_mode = EXCLUSIVE", *statements):
            answer = await app.run(statement)
            assert not isinstance(answer, str), answer
        yield


async def status_of(book: Tables) -> tuple[str, str]:
    """Return in which state the first device says the share is, and why."""
    row = await book.row(0)
    return row["state"], row["reason"] or ""


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
async def test_b32_a_database_that_its_app_keeps_locked_waits_and_is_synced_when_the_app_is_closed(
    book: Tables, journal: str
) -> None:
    await book.begin_with(CARDS, FIRST_CARDS, journal=journal)
    maple, willow = book.daemons
    async with kept_locked(
        book,
        "UPDATE card SET front = 'EINS' WHERE id = 1",
        "INSERT INTO card VALUES (4, 'vier', 'four')",
    ):
        await book.done(1, "UPDATE card SET back = 'TWO' WHERE id = 2", "DELETE FROM card WHERE id = 3")
        await maple.until(lambda: bool(maple.running(book.name).waiting), "waiting")
        state, reason = await status_of(book)
        assert state in {"idle", "syncing"}
        assert reason.startswith("waiting: ")
        [check] = [one for one in await maple.backend.doctor() if one["name"] == f"database of {book.name}"]
        assert check["ok"] == "warn"
        # It has come, and waits; nobody calls that an error, and the other device says that this one is behind.
        await maple.until(lambda: maple.running(book.name).replica.totals.pending_items == 2, "both rows")
        assert (await book.row(0))["errors"] == []
        assert not any(peer["in_sync"] for peer in (await book.row(1))["peers"])
        assert book.ask(1, "SELECT front FROM card ORDER BY id") == [("eins",), ("zwei",)]
    # Closed, it is synced, both ways, without anybody asking for it.
    await maple.until(lambda: not maple.running(book.name).waiting, "going on")
    assert await book.same() == {
        "card": cells([(1, "EINS", "one"), (2, "zwei", "TWO"), (4, "vier", "four")]),
    }
    assert willow.running(book.name).waiting == ""


async def test_b32_a_daemon_that_starts_while_an_app_keeps_the_database_locked_waits_too(
    book: Tables,
) -> None:
    await book.begin_with(CARDS, FIRST_CARDS)
    maple, willow = book.daemons
    await book.stop(0)
    async with kept_locked(book, "UPDATE card SET front = 'EINS' WHERE id = 1"):
        await maple.start()
        await maple.until(lambda: bool(maple.running(book.name).waiting), "waiting")
        state, reason = await status_of(book)
        assert state == "starting"
        assert reason.startswith("waiting: ")
        await maple.until(lambda: maple.connected_to(willow), "connected")
        await book.done(1, "UPDATE card SET back = 'TWO' WHERE id = 2")
    await book.meet()
    assert await book.same() == {
        "card": cells([(1, "EINS", "one"), (2, "zwei", "TWO"), (3, "drei", "three")]),
    }


# Whatever a schema may hold, written as people write it.
EVERYTHING = """
CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, mail TEXT UNIQUE, boss INTEGER REFERENCES person (id));
create table  [order]( "from" text , 'to' text, `select` INT, /* a remark */ primary key("from",'to') ) -- and another
without rowid;
CREATE TABLE "it""s a ""table"" with spaces" ("a ""fine"" column" TEXT PRIMARY KEY, [b c] , "d
e" NUMERIC DEFAULT (1 + 1));
CREATE TABLE IF NOT EXISTS "Grüße 日本" ("ключ" INTEGER PRIMARY KEY, "значение" TEXT COLLATE NOCASE CHECK (length("значение") > 0));
CREATE TABLE exact (id INTEGER PRIMARY KEY, amount REAL, what ANY) STRICT;
CREATE TABLE made (id INTEGER PRIMARY KEY, a INTEGER, twice AS (a * 2), kept AS (a + 1) STORED);
CREATE TABLE loose (a, b);
CREATE TABLE _p2p_mine (id INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE django_migrations (id INTEGER PRIMARY KEY, app TEXT);
CREATE INDEX by_name ON person (name COLLATE NOCASE DESC);
CREATE UNIQUE INDEX "some of them" ON made (a) WHERE a > 100;
CREATE INDEX computed ON person (lower(name) || ifnull(mail, ''));
CREATE VIEW names AS SELECT name FROM person;
CREATE VIEW "odd view" ("x y") AS SELECT "b c" FROM "it""s a ""table"" with spaces";
CREATE TRIGGER renamed AFTER UPDATE OF name ON person WHEN NEW.name <> OLD.name BEGIN
  INSERT INTO made (a) SELECT ifnull(max(a), 0) + 1 FROM made; END;
CREATE TRIGGER through_a_view INSTEAD OF INSERT ON names BEGIN INSERT INTO person (name) VALUES (NEW.name); END;
CREATE TABLE post (id INTEGER PRIMARY KEY, body TEXT);
CREATE VIRTUAL TABLE found USING fts5 (body, content='post', content_rowid='id');
CREATE VIRTUAL TABLE notes USING fts5 (text);
CREATE TRIGGER post_ai AFTER INSERT ON post BEGIN INSERT INTO found (rowid, body) VALUES (NEW.id, NEW.body); END;
CREATE TRIGGER post_ad AFTER DELETE ON post BEGIN
  INSERT INTO found (found, rowid, body) VALUES ('delete', OLD.id, OLD.body); END;
CREATE TABLE goes (id INTEGER PRIMARY KEY, old TEXT);
CREATE TABLE gone (id INTEGER PRIMARY KEY);
ALTER TABLE goes ADD COLUMN added TEXT DEFAULT 'x';
PRAGMA user_version = 4711;
PRAGMA application_id = 1234567;
INSERT INTO person (name, mail) VALUES ('Ann', 'ann@x'), ('Bob', NULL);
INSERT INTO [order] VALUES ('a', 'b', 1);
INSERT INTO "it""s a ""table"" with spaces" VALUES ('k', 1, 2);
INSERT INTO "Grüße 日本" VALUES (1, 'wert');
INSERT INTO made (a) VALUES (1), (200);
INSERT INTO loose VALUES (1, 2);
INSERT INTO post VALUES (1, 'hello');
INSERT INTO notes VALUES ('remember');
INSERT INTO goes (id, old) VALUES (1, 'old');
"""
FORMATS = {
    "rollback": "PRAGMA journal_mode = DELETE",
    "WAL, UTF-16, small pages": "PRAGMA page_size = 1024; PRAGMA encoding = 'UTF-16le'; PRAGMA auto_vacuum = INCREMENTAL;"
    " PRAGMA journal_mode = WAL",
}
# What an app goes on to do with its own file: it neither knows nor asks whether that is shared.
APP_GOES_ON = [
    "INSERT INTO person (name, mail) VALUES ('Cid', 'cid@x')",
    "UPDATE person SET name = 'Anna' WHERE id = 1",
    "INSERT INTO names VALUES ('Dee')",
    "DELETE FROM post",
    "CREATE TABLE later (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT UNIQUE)",
    "CREATE INDEX later_by_text ON later (text)",
    "INSERT INTO later (text) VALUES ('one'), ('two')",
    "ALTER TABLE goes RENAME TO went",
    "ALTER TABLE went RENAME COLUMN old TO new",
    "ALTER TABLE went ADD COLUMN third INTEGER",
    "ALTER TABLE person RENAME TO human",
    "DROP TABLE gone",
    "CREATE TRIGGER later_too AFTER INSERT ON later BEGIN SELECT 1; END",
    "PRAGMA user_version = 4712",
    "ANALYZE",
]
SETTINGS = ("user_version", "application_id", "encoding", "page_size", "auto_vacuum", "journal_mode")


def nature(path: Path) -> dict[str, Any]:
    """Return all that a file is beside its rows: its schema in its order, its settings, what SQLite keeps for itself."""
    found: dict[str, Any] = {"schema": schema_of(path)}
    found |= {name: query(path, f"PRAGMA {name}") for name in SETTINGS}
    names = {name for _, name, _, _ in found["schema"]}
    if "sqlite_sequence" in names:
        found["sequence"] = query(path, "SELECT name, seq FROM sqlite_sequence ORDER BY name")
    if "sqlite_stat1" in names:
        found["statistics"] = query(path, "SELECT tbl, idx, stat FROM sqlite_stat1 ORDER BY tbl, idx")
    return found


def rows_in(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables that the schema tells of, whatever they are called."""
    names = [name for kind, name, _, _ in schema_of(path) if kind == "table"]
    return {name: sorted(query(path, f"SELECT * FROM {quoted(name)}"), key=repr) for name in names}


def leftovers_in(path: Path) -> list[str]:
    """Return what of ours is left in a file, in any of its bytes; nothing may have it open."""
    query(path, "VACUUM")
    query(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    return [
        name
        for name in ("_p2p_h", "_p2p_mark", "p2psyncd")
        for text in (name.encode(), name.encode("utf-16-le"))
        if text in data
    ]


async def removed_everywhere(book: Tables) -> None:
    """Take the sync out of all devices."""
    for daemon in book.daemons:
        await daemon.backend.share_remove(book.name)


def make(path: Path, *statements: str) -> None:
    """Be an app that makes its database, or goes on with it: each statement by itself."""
    with closing(opened(path)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)
async def test_b33_a_file_is_byte_for_byte_what_it_would_be_without_the_sync_once_that_is_taken_out(
    book: Tables, settings: str
) -> None:
    here, there = book.files
    twin = book.daemons[0].folder / "never shared.db"
    for path in (here, there, twin):
        make(path, settings, EVERYTHING)
    before = nature(there)
    assert nature(here) == nature(twin) == before
    await book.share(join="merge")
    for path in (here, there):
        assert nature(path)["schema"] != before["schema"]
    for statement in APP_GOES_ON:
        for path in (here, twin):
            make(path, statement)
        await book.settle()
    await removed_everywhere(book)
    assert nature(here) == nature(twin)
    assert rows_in(here) == rows_in(twin)
    # There nobody changed the schema; what came counts for what SQLite gives numbers from.
    assert nature(there) == before | {"sequence": [("person", 4)]}
    assert query(there, "SELECT name FROM person ORDER BY id") == [("Anna",), ("Bob",), ("Cid",), ("Dee",)]
    assert leftovers_in(here) == leftovers_in(there) == []


async def test_b33_a_file_that_was_made_by_joining_holds_nothing_of_the_sync_once_that_is_taken_out(
    book: Tables,
) -> None:
    here, there = book.files
    make(here, EVERYTHING)
    first = {row for row in schema_of(here) if row[1] not in {"_p2p_mine", "django_migrations"}}
    await book.share()
    for statement in APP_GOES_ON:
        make(here, statement)
        await book.settle()
    await removed_everywhere(book)
    made = set(schema_of(there))
    assert first <= made
    # And what the app made later: names that changed are new ones, and nothing is dropped by a peer.
    assert {name for kind, name, _, sql in made - first if sql} == {
        "human",
        "later",
        "later_by_text",
        "later_too",
        "went",
    }
    assert query(there, "SELECT name FROM human ORDER BY id") == [("Anna",), ("Bob",), ("Cid",), ("Dee",)]
    assert leftovers_in(there) == []


async def test_b33_a_database_without_any_rows_of_sqlites_own_gets_none(book: Tables) -> None:
    await book.begin_with(CARDS, FIRST_CARDS)
    plain = [("table", "card", "card", CARDS)]
    assert schema_of(book.file(0)) != plain
    await book.done(1, "DELETE FROM card WHERE id = 1")
    await book.same()
    await removed_everywhere(book)
    for file in book.files:
        assert schema_of(file) == plain
        assert leftovers_in(file) == []
        assert query(file, "SELECT id FROM card") == [(2,), (3,)]


FILES = {"django": "app.db", "huey": "app.db", "diskcache": "cache.db"}


def run(program: str, step: str, folder: Path) -> None:
    """Have a real program do a step in a process of its own; see `real_programs.py`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-I", PROGRAMS, program, step, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@dataclass
class ProgramsFiles(Tables):
    """Devices that share the database of a program, which has its own name for it."""

    at: str = "app.db"

    def file(self, number: int) -> Path:
        """Return one device's database."""
        return self.daemons[number].folder / "program" / self.at


@pytest.mark.parametrize("program", FILES)
async def test_b33_a_real_programs_database_is_what_it_would_be_without_the_sync(
    book: Tables, program: str
) -> None:
    shared = ProgramsFiles(book.daemons, at=FILES[program])
    here, twin = shared.file(0).parent, book.daemons[0].folder / "never shared"
    for folder in (here, shared.file(1).parent, twin):
        folder.mkdir()

    async def both(step: str) -> None:
        for folder in (here, twin):
            await trio.to_thread.run_sync(run, program, step, folder)

    await both("make")
    before = nature(shared.file(0))
    await shared.share()
    assert nature(shared.file(0))["schema"] != before["schema"]
    for step in ("use", "alter", "save") if program == "django" else ("use",):
        # Django reads before it writes in one transaction, and gives up where somebody else writes meanwhile (B30):
        # what is compared here must not depend on the moment.
        await shared.daemons[0].backend.share_pause(shared.name)
        await both(step)
        await shared.daemons[0].backend.share_resume(shared.name)
        await shared.settle()
    await removed_everywhere(shared)
    assert nature(shared.file(0)) == nature(twin / FILES[program])
    assert leftovers_in(shared.file(0)) == leftovers_in(shared.file(1)) == []


DAY_S = 86_400.0
LIVES = """
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE word (w TEXT PRIMARY KEY, n INTEGER);
CREATE TABLE card (id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE, place TEXT);
"""


async def test_b34_who_was_away_longer_than_tombstones_are_kept_brings_no_deleted_rows_back(
    book: Tables,
) -> None:
    maple, willow = book.daemons
    await book.begin_with(
        LIVES,
        "INSERT INTO person VALUES (1, 'Ann'), (2, 'Bob'), (3, 'Cid')",
        "INSERT INTO word VALUES ('first', 1), ('kept', 1)",
    )
    await book.done(
        0,
        "INSERT INTO person VALUES (4, 'Dee'), (5, 'Eve'), (6, 'Fay')",
        "INSERT INTO word VALUES ('a', 1), ('b', 1), ('c', 1)",
        "INSERT INTO card VALUES (1, 4, 'of Dee'), (2, 6, 'of Fay')",
    )
    await book.same()
    await book.stop(1)
    await book.done(
        0,
        "DELETE FROM person WHERE id IN (1, 2, 4, 5)",
        "DELETE FROM word WHERE w IN ('first', 'a', 'b')",
    )
    await book.done(0, "INSERT INTO person VALUES (7, 'Gus')", "INSERT INTO word VALUES ('later', 1)")
    # More than a year later the deletions are forgotten here, but for those of what was there before the share.
    await book.stop(0)
    maple.clock.ahead_s += 400 * DAY_S
    willow.clock.ahead_s += 400 * DAY_S
    await maple.start()
    store = maple.running(book.name).store
    await book.until(lambda: store.get(pack_key("word", ("a",))) is None, "the tombstones to be forgotten")
    assert [unpack_key(item.key).pk for item in store.all_items() if not item.live] == [
        (1,),
        (2,),
        ("first",),
    ]
    # New work was done on the other side meanwhile, also on some of the deleted rows.
    book.do(
        1,
        "INSERT INTO person VALUES (8, 'Hal')",
        "INSERT INTO word VALUES ('offline', 1)",
        "INSERT INTO card VALUES (3, 6, 'offline'), (4, 4, 'of Dee, offline')",
        "UPDATE person SET name = 'Ann, edited' WHERE id = 1",
        "UPDATE person SET name = 'Eve, edited' WHERE id = 5",
        "UPDATE person SET name = 'Cid, edited' WHERE id = 3",
        "UPDATE word SET n = 2 WHERE w IN ('b', 'c')",
    )
    await willow.start()
    await book.meet()
    # An edit of a row whose deletion nobody knows of any more brings that back: it would be lost otherwise. Where the
    # deletion is known it wins, and the edit is listed; so it does where a child goes with its parent.
    assert await book.same(conflicts=1) == {
        "card": cells([(2, 6, "of Fay"), (3, 6, "offline")]),
        "person": cells([(3, "Cid, edited"), (5, "Eve, edited"), (6, "Fay"), (7, "Gus"), (8, "Hal")]),
        "word": cells([("b", 2), ("c", 2), ("kept", 1), ("later", 1), ("offline", 1)]),
    }
    [conflict] = await book.conflicts()
    assert (conflict["item"], conflict["losers"][0]["where"]) == ("person 1", "person 1 name: 'Ann, edited'")
