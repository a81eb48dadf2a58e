"""Scenarios B20 to B24: apps that migrate, old and strict ones, and whatever they do to their file as a whole."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from real_programs import run
from tables import PROGRAM, Program, Tables, cells, program, query

NEVER_S = 1e9
PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, phone TEXT, note TEXT)"
ANN, BOB = "INSERT INTO people VALUES (1, 'Ann', '1', 'x')", "INSERT INTO people VALUES (2, 'Bob', '2', 'y')"
MIGRATION = (
    "ALTER TABLE people ADD COLUMN town TEXT NOT NULL DEFAULT 'nowhere'",
    "ALTER TABLE people RENAME COLUMN phone TO tel",
    "ALTER TABLE people DROP COLUMN note",
    "CREATE TABLE pet (name TEXT PRIMARY KEY, person INTEGER REFERENCES people (id))",
)


# B20: the app changes its own tables, with our triggers on them


@pytest.mark.parametrize("apart", [False, True], ids=["one after the other", "apart"])
async def test_b20_an_app_adds_renames_and_drops_columns_with_sync_installed(
    book: Tables, apart: bool
) -> None:
    await book.begin_with(PEOPLE, ANN, BOB)
    if apart:
        await book.part()
    with program(book.file(0)) as app:
        for statement in MIGRATION:
            assert await app.run(statement) == []
        assert await app.run("UPDATE people SET town = 'Ulm', tel = '11' WHERE id = 1") == []
        assert await app.run("INSERT INTO people VALUES (3, 'Cid', '3', 'Bonn')") == []
        assert await app.run("INSERT INTO pet VALUES ('Rex', 3)") == []
    await book.noted(0)
    book.do(1, "UPDATE people SET name = 'Bobby', phone = '22' WHERE id = 2")
    if not apart:
        await book.settle()
        # The other device's app is the older one, and goes on with what it knows.
        assert book.ask(1, "SELECT * FROM people ORDER BY id") == [
            (1, "Ann", "1", "x"),
            (2, "Bobby", "22", "y"),
            (3, "Cid", None, None),
        ]
    with program(book.file(1)) as app:
        for statement in MIGRATION:
            assert await app.run(statement) == []
    if apart:
        await book.noted(1)
        await book.meet()
    assert await book.same() == {
        "people": cells([(1, "Ann", "11", "Ulm"), (2, "Bobby", "22", "nowhere"), (3, "Cid", "3", "Bonn")]),
        "pet": cells([("Rex", 3)]),
    }
    # Hints go on as before, on both.
    book.do(1, "UPDATE people SET tel = '33' WHERE id = 3")
    book.do(0, "DELETE FROM people WHERE id = 1", "INSERT INTO pet VALUES ('Tom', NULL)")
    assert await book.same() == {
        "people": cells([(2, "Bobby", "22", "nowhere"), (3, "Cid", "33", "Bonn")]),
        "pet": cells([("Rex", 3), ("Tom", None)]),
    }


async def test_b20_what_django_saves_right_after_it_altered_a_field_is_replicated(book: Tables) -> None:
    folders = await share_django(book)
    await django("use", folders[0])
    before = await book.same()
    assert len(before["auth_user"]) == 4
    # Altered it has lost our triggers, and the program goes on at once.
    await django("alter", folders[0])
    assert await django("save", folders[0]) == [1, 1]
    await book.settle()
    named = "SELECT username, email FROM auth_user WHERE first_name = 'Zoë'"
    assert book.ask(1, named) == [("user0", "u0@example.org")]
    # And back from a device that has not altered anything yet.
    book.do(1, "UPDATE auth_user SET last_name = 'Zorn' WHERE username = 'user0'")
    await book.settle()
    assert book.ask(0, f"{named} AND last_name = 'Zorn'") == [("user0", "u0@example.org")]
    await django("alter", folders[1])
    after = await book.same()
    assert {name: rows for name, rows in after.items() if name != "auth_user"} == {
        name: rows for name, rows in before.items() if name != "auth_user"
    }
    book.do(1, "UPDATE auth_user SET first_name = 'Zoé' WHERE username = 'user0'")
    await book.same()
    assert book.ask(0, "SELECT first_name FROM auth_user WHERE username = 'user0'") == [("Zoé",)]


async def django(step: str, folder: Path) -> Any:
    """Let Django do something in a process of its own."""
    return await trio.to_thread.run_sync(run, "django", step, folder)


async def share_django(book: Tables) -> list[Path]:
    """Set a site up, share its database with another device that has the same, and return the folders."""
    folders = [daemon.folder for daemon in book.daemons]
    await django("make", folders[0])
    for folder in folders[1:]:
        shutil.copy(folders[0] / "app.db", folder)
    await book.share(join="merge")
    return folders


# B21: one device's app is older than another's


async def test_b21_what_a_newer_version_of_django_wrote_is_there_after_the_older_one_migrates(
    book: Tables,
) -> None:
    maple, willow = await share_django(book)
    await django("use", maple)
    await book.settle()
    migrated = "SELECT id, app, name, applied FROM django_migrations ORDER BY id"
    here, there = book.ask(0, migrated), book.ask(1, migrated)
    await django("grow", maple)
    await django("enjoy", maple)
    await book.settle()
    # What the older version has no place for is not there, and does not get lost.
    assert "mood" not in {name for (name,) in book.ask(1, "SELECT name FROM pragma_table_info('auth_user')")}
    book.do(1, "UPDATE auth_user SET last_name = 'Zorn' WHERE username = 'user0'")
    await book.settle()
    asked = "SELECT username, last_name, mood, letters FROM auth_user ORDER BY id"
    users = [
        ("user0", "Zorn", "merry", 99),
        ("user2", "", "calm", 5),
        ("user4", "", "calm", 5),
        ("new", "", "calm", 3),
    ]
    assert book.ask(0, asked) == users
    # What has been migrated where is each device's own affair.
    assert book.ask(1, migrated) == there
    assert book.ask(0, migrated)[:-1] == here
    await django("grow", willow)
    book.own = frozenset({"django_migrations"})
    found = await book.same()
    assert book.ask(1, asked) == users
    assert found["auth_badge"] == cells([(1, 1)])
    assert len(book.ask(1, migrated)) == len(there) + 1
    for number in (0, 1):
        left_out = (await book.row(number))["left_out"]
        assert "migrations" in left_out["django_migrations"]


async def test_b21_a_row_that_was_deleted_or_edited_by_the_older_version_meanwhile_stays_so(
    book: Tables,
) -> None:
    await book.begin_with(PEOPLE, ANN, BOB, "INSERT INTO people VALUES (3, 'Cid', '3', 'z')")
    book.do(0, "ALTER TABLE people ADD COLUMN town TEXT", "UPDATE people SET town = name || 'ville'")
    await book.settle()
    book.do(1, "DELETE FROM people WHERE id = 1", "UPDATE people SET name = 'Bobby' WHERE id = 2")
    book.do(1, "INSERT INTO people VALUES (4, 'Dee', '4', NULL)")
    await book.settle()
    newer = [
        (2, "Bobby", "2", "y", "Bobville"),
        (3, "Cid", "3", "z", "Cidville"),
        (4, "Dee", "4", None, None),
    ]
    assert book.ask(0, "SELECT * FROM people ORDER BY id") == newer
    book.do(1, "ALTER TABLE people ADD COLUMN town TEXT", "UPDATE people SET note = 'Z' WHERE id = 3")
    newer[1] = (3, "Cid", "3", "Z", "Cidville")
    assert await book.same() == {"people": cells(newer)}


# B22: apps whose SQLite is old, or strict

OLD_SQLITE = os.environ.get("P2PSYNC_OLD_SQLITE") or ctypes.util.find_library("sqlcipher") or ""
"""A library with an old SQLite: Debian's SQLCipher is 3.15, and reads plain files."""
OLD = pytest.param(
    (Path(PROGRAM).with_name("old_app_program.py"), OLD_SQLITE),
    (),
    id="old",
    marks=pytest.mark.skipif(
        not OLD_SQLITE, reason="an old SQLite is missing: apt-get install libsqlcipher0"
    ),
)
STRICT = pytest.param((PROGRAM,), ("PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON"), id="strict")

TABLES = (
    "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT, mail TEXT UNIQUE, n INTEGER CHECK (n >= 0))",
    "CREATE UNIQUE INDEX by_text ON note (lower(text)) WHERE n > 0",
    "CREATE TABLE tag (name TEXT PRIMARY KEY COLLATE NOCASE, note INTEGER REFERENCES note (id) ON DELETE CASCADE)",
    "CREATE TABLE pair (a TEXT, b INTEGER, v, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE TRIGGER tagged AFTER INSERT ON tag BEGIN UPDATE note SET n = n + 1 WHERE id = NEW.note; END",
)
WORK = (
    "INSERT INTO note VALUES (1, 'one', 'a@x', 0), (2, 'two', 'b@x', 2), (3, 'three', NULL, 3)",
    "INSERT INTO note (text, mail, n) VALUES ('four', 'd@x', 4)",
    "INSERT INTO tag VALUES ('red', 1), ('green', 2), ('blue', 2)",
    "INSERT INTO pair VALUES ('a', 1, 1.5), ('a', 2, x'00ff'), ('b', 1, NULL)",
    "UPDATE note SET text = text || '!' WHERE id < 3",
    "UPDATE pair SET v = 'new', b = 7 WHERE a = 'b'",
    "UPDATE note SET mail = 'a@x' WHERE id = 2",  # is taken
    "UPDATE note SET n = -1",  # breaks the check
    "REPLACE INTO note VALUES (9, 'nine', 'a@x', 0)",  # evicts 1, and what belongs to it
    "REPLACE INTO note (id, text, n) VALUES (8, 'FOUR', 1)",  # evicts 4
    "INSERT OR IGNORE INTO note (text, mail) VALUES ('ignored', 'b@x')",
    "UPDATE OR REPLACE tag SET name = 'GREEN' WHERE name = 'blue'",
    "UPDATE note SET id = 5 WHERE id = 3",
    "BEGIN",
    "DELETE FROM pair WHERE b < 3",  # of all of them 3.15 counts none, unless a trigger is there
    "INSERT INTO pair VALUES ('undone', 1, 1)",
    "ROLLBACK",
    "BEGIN IMMEDIATE",
    "UPDATE pair SET v = v || ' again' WHERE a = 'b'",
    "SAVEPOINT s",
    "DELETE FROM note",
    "ROLLBACK TO s",
    "COMMIT",
    "DELETE FROM pair WHERE a = 'a' AND b = 1",
    "DELETE FROM note WHERE id = 2",
)
QUESTIONS = (
    "SELECT changes(), last_insert_rowid()",
    "SELECT * FROM note ORDER BY id",
    "SELECT * FROM tag ORDER BY name",
    "SELECT a, b, quote(v) FROM pair",
)


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
@pytest.mark.parametrize(("script", "settings"), [OLD, STRICT])
async def test_b22_an_app_with_an_old_sqlite_or_that_trusts_no_schema_reads_and_writes_as_before(
    book: Tables, script: Sequence[str | Path], settings: Sequence[str], journal: str
) -> None:
    """The same app does the same with a file that nothing of ours is in: all answers must be the same."""
    plain = book.daemons[0].folder / "plain.db"
    for statement in (f"PRAGMA journal_mode = {journal}", *TABLES):
        query(plain, statement)
    await book.begin_with(";".join(TABLES), journal=journal)
    with program(book.file(0), script=script) as app, program(plain, script=script) as unshared:
        for statement in ("PRAGMA foreign_keys = ON", *settings, *WORK):
            for question in (statement, *QUESTIONS):
                assert await app.run(question) == await unshared.run(question), (statement, question)
        rows = await app.run("SELECT id, text, mail, n FROM note ORDER BY id")
        assert rows == [[5, "three", None, 3], [8, "FOUR", None, 1], [9, "nine", "a@x", 0]]
        assert await book.same() == {
            "note": cells([(5, "three", None, 3), (8, "FOUR", None, 1), (9, "nine", "a@x", 0)]),
            "pair": cells([("a", 2, b"\x00\xff"), ("b", 7, "new again")]),
            "tag": [],
        }
        # And what comes from the other device it reads, and goes on with.
        book.do(
            1, "UPDATE note SET text = 'five', mail = 'e@x' WHERE id = 5", "DELETE FROM note WHERE id = 8"
        )
        book.do(1, "INSERT INTO tag VALUES ('there', 9)", "UPDATE pair SET b = 8 WHERE b = 7")
        await book.settle()
        assert await app.run(QUESTIONS[1]) == [[5, "five", "e@x", 3], [9, "nine", "a@x", 1]]
        assert await app.run(QUESTIONS[2]) == [["there", 9]]
        assert await app.run(QUESTIONS[3]) == [["a", 2, "X'00FF'"], ["b", 8, "'new again'"]]
        assert await app.run("UPDATE note SET text = 'from here', id = 50 WHERE id = 5") == []
        assert await app.run("DELETE FROM note WHERE id = 9") == []
        assert await app.run("PRAGMA integrity_check") == [["ok"]]
        assert await book.same() == {
            "note": cells([(50, "from here", "e@x", 3)]),
            "pair": cells([("a", 2, b"\x00\xff"), ("b", 8, "new again")]),
            "tag": [],
        }


# B23: a file written anew, and a table that cannot be synced


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
async def test_b23_a_vacuum_sends_nothing(book: Tables, journal: str) -> None:
    await book.begin_with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE word (w TEXT PRIMARY KEY, v)",
        "INSERT INTO t VALUES (1, 'one'), (5, 'five')",
        "INSERT INTO word VALUES ('a', 1), ('b', 2), ('c', 3), ('d', 4)",
        journal=journal,
    )
    for number, word in enumerate("ab"):
        book.do(number, f"DELETE FROM word WHERE w = '{word}'", "UPDATE t SET v = v || '!'")
        await book.settle()
    rows, versions = await book.same(), book.versions()
    known = [daemon.running("app").replica.standing.knowledge for daemon in book.daemons]
    for path in book.files:
        query(path, "VACUUM; PRAGMA auto_vacuum = FULL; VACUUM; REINDEX; ANALYZE")
        assert query(path, "PRAGMA auto_vacuum") == [(1,)]
        await book.noted()
    assert await book.same() == rows
    assert book.versions() == versions
    assert [daemon.running("app").replica.standing.knowledge for daemon in book.daemons] == known
    # What comes after it is seen as ever.
    book.do(1, "UPDATE word SET v = 'after' WHERE w = 'c'", "INSERT INTO t VALUES (2, 'after')")
    found = await book.same()
    assert found["word"] == cells([("c", "after"), ("d", 4)])
    assert found["t"] == cells([(1, "one!!"), (2, "after"), (5, "five!!")])


async def test_b23_a_table_without_a_primary_key_is_refused_with_the_reason_until_it_gets_one(
    book: Tables,
) -> None:
    await book.begin_with(
        "CREATE TABLE log (line TEXT); CREATE TABLE t (id INTEGER PRIMARY KEY)",
        "INSERT INTO log VALUES ('one'), ('one')",
    )
    book.do(0, "INSERT INTO t VALUES (1)", "INSERT INTO log VALUES ('two')")
    await book.settle()
    assert book.ask(1, "SELECT * FROM t") == [(1,)]
    assert (book.ask(0, "SELECT count(*) FROM log"), book.ask(1, "SELECT * FROM log")) == ([(3,)], [])
    for number in (0, 1):
        [error] = (await book.row(number))["errors"]
        assert error["item"] == "log"
        assert "no primary key" in error["error"]
        assert "leave the table out" in error["error"]
        [check] = [
            one for one in await book.daemons[number].backend.doctor() if one["name"] == "tables of app"
        ]
        assert (check["ok"], "log" in check["message"]) == ("warn", True)
    for number in (0, 1):
        book.do(
            number,
            "CREATE TABLE made (number INTEGER PRIMARY KEY, line TEXT)",
            "INSERT INTO made (line) SELECT line FROM log",
            "DROP TABLE log",
            "ALTER TABLE made RENAME TO log",
        )
    assert await book.same() == {
        "log": cells([(1, "one"), (2, "one"), (3, "two")]),
        "t": cells([(1,)]),
    }


# B24: a file with a journal, and one with a log


@pytest.fixture
def only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no daemon look at a database once more for something that it saw before."""
    monkeypatch.setattr("p2psyncd.daemon.share.BUSY_S", NEVER_S)


@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "WAL"])
async def test_b24_in_every_journal_mode_rows_are_pushed_without_anybody_asking(
    book: Tables, journal: str, only_when_told: None
) -> None:
    await book.begin_with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "INSERT INTO t VALUES (1, 'begun')"
    )
    with program(book.file(0)) as here, program(book.file(1)) as there:
        apps = [here, there]
        for app in apps:
            assert await app.run(f"PRAGMA journal_mode = {journal}") == [[journal.lower()]]
        for turn in range(6):
            await write(apps[turn % 2], f"turn {turn}")
            await seen(book, 1 - turn % 2, f"turn {turn}")
    assert await book.same() == {"t": cells([(1, "turn 5")])}


async def test_b24_an_app_can_change_the_journal_mode_while_its_database_is_shared(
    book: Tables, only_when_told: None
) -> None:
    await book.begin_with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "INSERT INTO t VALUES (1, 'begun')"
    )
    for turn, journal in enumerate(("WAL", "DELETE", "PERSIST", "WAL", "TRUNCATE", "DELETE", "WAL")):
        number = turn % 2
        with program(book.file(number)) as app:
            assert await app.run(f"PRAGMA journal_mode = {journal}") == [[journal.lower()]]
            await write(app, f"in {journal} {turn}")
            await seen(book, 1 - number, f"in {journal} {turn}")
        # The daemon leaves it as it is. (The modes without a log are a connection's own.)
        expected = "wal" if journal == "WAL" else "delete"
        assert book.ask(number, "PRAGMA journal_mode") == [(expected,)]
        book.do(1 - number, f"UPDATE t SET v = 'answer {turn}'")
        await seen(book, number, f"answer {turn}")
    assert await book.same() == {"t": cells([(1, "answer 6")])}


async def write(app: Program, text: str) -> None:
    """Let an app change the row."""
    assert await app.run("UPDATE t SET v = ?", text) == []


async def seen(book: Tables, number: int, text: str) -> None:
    """Return once a device's file holds what was written on the other."""
    await book.daemons[number].until(lambda: book.ask(number, "SELECT v FROM t") == [(text,)], text)
