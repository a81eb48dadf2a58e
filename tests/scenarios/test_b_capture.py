"""Scenarios B13 to B19: whatever an app's statements do to rows is on the peer, once, whole, and bit by bit."""

from __future__ import annotations

import threading
from contextlib import closing

import apsw
import pytest
import trio
from tables import Program, Tables, cells, dump, opened, program

LOOK_MAX = 1_000_000


@pytest.mark.parametrize("recursive", [False, True], ids=["plain", "recursive_triggers"])
async def test_b13_a_row_that_a_replace_evicts_is_gone_everywhere(book: Tables, recursive: bool) -> None:
    await book.begin_with(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, mail TEXT UNIQUE, nick TEXT COLLATE NOCASE UNIQUE);"
        "CREATE TABLE word (a TEXT, b TEXT, n INTEGER, PRIMARY KEY (a, b), UNIQUE (n)) WITHOUT ROWID",
        "INSERT INTO account VALUES (1, 'x', 'ex'), (2, 'y', 'why'), (3, 'z', 'zed')",
        "INSERT INTO word VALUES ('a', 'b', 1), ('c', 'd', 2)",
    )
    for number, statement in enumerate(
        [
            "INSERT OR REPLACE INTO account VALUES (4, 'x', 'four')",
            "REPLACE INTO account VALUES (5, 'y', 'ZED')",  # evicts two
            "UPDATE OR REPLACE account SET nick = 'Four' WHERE id = 5",
            "REPLACE INTO word VALUES ('e', 'f', 1)",
            "REPLACE INTO word VALUES ('c', 'd', 3)",
        ]
    ):
        book.do(number % 2, statement, recursive=recursive)
        await book.settle()
    assert await book.same() == {
        "account": cells([(5, "y", "Four")]),
        "word": cells([("c", "d", 3), ("e", "f", 1)]),
    }


ODD = [
    ("integer", "1", "1.0"),
    ("zero", "0.0", "-0.0"),
    ("text to blob", "'A'", "x'41'"),
    ("nul", "'a'", "CAST(x'410042' AS TEXT)"),
    ("not utf-8", "'a'", "CAST(x'ff41fe' AS TEXT)"),
    ("empty", "''", "x''"),
    ("null", "''", "NULL"),
    ("large", "9223372036854775807", "-9223372036854775808"),
    ("inexact", "0.1", "0.1 + 0.2"),
    ("small", "5e-324", "1.7976931348623157e308"),
    ("infinite", "1e999", "-1e999"),
    ("case", "'word'", "'WORD'"),
    ("spaces", "'word'", "'word '"),
]


async def test_b14_odd_values_are_byte_identical_on_the_peer_as_are_edits_from_one_to_another(
    book: Tables,
) -> None:
    await book.begin_with(
        "CREATE TABLE thing (name TEXT PRIMARY KEY, value, folded COLLATE NOCASE, cut COLLATE RTRIM)"
    )
    put = ", ".join(f"('{name}', {old}, {old}, {old})" for name, old, _ in ODD)
    book.do(0, f"INSERT INTO thing VALUES {put}")
    await book.same()
    for number, (name, _, new) in enumerate(ODD):
        book.do(
            number % 2, f"UPDATE thing SET value = {new}, folded = {new}, cut = {new} WHERE name = '{name}'"
        )
    before = [row for number in (0, 1) for row in book.ask(number, "SELECT count(*) FROM thing")]
    found = await book.same()
    assert before == [(len(ODD),)] * 2
    with closing(apsw.Connection(":memory:")) as plain:
        for name, _, new in ODD:
            [[kind, bits]] = plain.execute(f"SELECT typeof({new}), hex(CAST({new} AS BLOB))")
            for number in (0, 1):
                shown = f"SELECT typeof(value), hex(CAST(value AS BLOB)) FROM thing WHERE name = '{name}'"
                assert book.ask(number, shown) == [(kind, bits)], name
    assert "'zero', -0.0, -0.0, -0.0" in "".join(found["thing"])


async def test_b14_a_key_that_changes_only_in_case_is_as_it_was_written(book: Tables) -> None:
    await book.begin_with(
        "CREATE TABLE word (w TEXT COLLATE NOCASE PRIMARY KEY, n INTEGER)",
        "INSERT INTO word VALUES ('one', 1)",
    )
    book.do(1, "UPDATE word SET w = 'ONE'")
    assert await book.same() == {"word": cells([("ONE", 1)])}


async def test_b15_tables_of_every_kind_come_through_and_a_new_key_is_a_move(book: Tables) -> None:
    await book.begin_with(
        "CREATE TABLE pairs (x INTEGER, y TEXT, n INTEGER, PRIMARY KEY (x, y)) WITHOUT ROWID;"
        "CREATE TABLE exact (id INTEGER PRIMARY KEY, f REAL, t ANY) STRICT;"
        "CREATE TABLE made (id INTEGER PRIMARY KEY AUTOINCREMENT, a INTEGER, b AS (a * 2), c AS (a + 1) STORED);"
        "CREATE TABLE keyed (a INTEGER, b TEXT, n INTEGER, PRIMARY KEY (b, a))",
        "INSERT INTO pairs VALUES (1, 'a', 1), (1, 'b', 2)",
        "INSERT INTO exact VALUES (1, 1.5, 'x'), (2, 2, x'00')",
        "INSERT INTO made (a) VALUES (10), (20)",
        "INSERT INTO keyed VALUES (1, 'a', 1), (2, 'a', 2)",
    )
    await book.same()
    book.do(1, "UPDATE pairs SET y = 'c' WHERE n = 1", "UPDATE made SET a = 11, id = 5 WHERE id = 1")
    book.do(0, "UPDATE exact SET id = 3 WHERE id = 2", "UPDATE keyed SET b = 'z', a = 9 WHERE n = 1")
    assert await book.same() == {
        "exact": cells([(1, 1.5, "x"), (3, 2.0, b"\0")]),
        "keyed": cells([(2, "a", 2), (9, "z", 1)]),
        "made": cells([(2, 20, 40, 21), (5, 11, 22, 12)]),
        "pairs": cells([(1, "b", 2), (1, "c", 1)]),
    }
    # All keys change at once, each to another row's.
    book.do(0, "UPDATE exact SET id = -id", "UPDATE exact SET id = CASE id WHEN -1 THEN 3 ELSE 1 END")
    assert (await book.same())["exact"] == cells([(1, 2.0, b"\0"), (3, 1.5, "x")])


async def test_b16_nothing_of_what_is_rolled_back_is_sent(book: Tables) -> None:
    await book.begin_with(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", "INSERT INTO t VALUES (1, 'one')"
    )
    book.do(0, "UPDATE t SET v = '1'")
    rows, before = await book.same(), book.versions()
    with closing(opened(book.file(0))) as connection:
        connection.execute(
            "BEGIN; UPDATE t SET v = 'no'; INSERT INTO t VALUES (2, 'no'); DELETE FROM t; ROLLBACK"
        )
        connection.execute("SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; RELEASE s")
    await book.noted()
    assert await book.same() == rows
    assert book.versions() == before
    with closing(opened(book.file(0))) as connection:
        connection.execute(
            "BEGIN; INSERT INTO t VALUES (2, 'yes'); SAVEPOINT s; INSERT INTO t VALUES (3, 'no')"
        )
        connection.execute("UPDATE t SET v = 'no'; ROLLBACK TO s; COMMIT")
    assert await book.same() == {"t": cells([(1, "1"), (2, "yes")])}
    assert book.versions()[1] == before[1]


class Reader(threading.Thread):
    """A reader that looks again and again, in a library and process of its own, and keeps what it saw."""

    def __init__(self, app: Program, sql: str) -> None:
        super().__init__()
        self.app = app
        self.sql = sql
        self.seen: set[tuple[object, ...]] = set()
        self.looks = 0
        self.over = threading.Event()
        self.begun = threading.Event()

    def run(self) -> None:
        while not self.over.is_set() and self.looks < LOOK_MAX:
            self.app.send(sql=self.sql, values=[])
            answer = self.app.answer()
            assert isinstance(answer, list), answer
            self.seen.add(tuple(answer[0]))
            self.looks += 1
            self.begun.set()


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
async def test_b17_a_reader_on_the_peer_never_sees_a_part_of_ten_thousand_rows(
    book: Tables, journal: str
) -> None:
    _, there = await book.begin_with("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", journal=journal)
    series = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
    with program(there) as app:
        reader = Reader(app, "SELECT count(*), min(v), max(v) FROM t")
        reader.start()
        await trio.to_thread.run_sync(reader.begun.wait)
        book.do(0, f"{series} INSERT INTO t SELECT i, 'first' FROM n")
        await book.settle()
        book.do(0, "UPDATE t SET v = 'second'")
        await book.settle()
        reader.over.set()
        await trio.to_thread.run_sync(reader.join)
    assert reader.seen <= {(0, None, None), (10_000, "first", "first"), (10_000, "second", "second")}
    assert (0, None, None) in reader.seen
    assert dump(book.file(0)) == dump(there)


async def test_b18_an_apps_own_trigger_makes_no_ping_pong(book: Tables) -> None:
    await book.begin_with(
        "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT, changed INTEGER DEFAULT 0, updated_at TEXT);"
        "CREATE TRIGGER touch AFTER UPDATE OF text ON note BEGIN"
        "  UPDATE note SET changed = changed + 1, updated_at = strftime('%f') WHERE id = NEW.id; END;"
        "CREATE TRIGGER count_up AFTER UPDATE ON note WHEN NEW.changed = OLD.changed BEGIN"
        "  UPDATE note SET changed = changed + 1 WHERE id = NEW.id; END",
        "INSERT INTO note (id, text) VALUES (1, 'one')",
    )
    for number in (0, 1):
        book.do(number, "UPDATE note SET text = 'first'")
        await book.same()
    after = book.versions()
    for number, text in ((0, "two"), (1, "three")):
        before = after
        book.do(number, f"UPDATE note SET text = '{text}'")
        await book.same()
        after = book.versions()
        assert after[number] > before[number]
        assert after[1 - number] == before[1 - number]
    assert book.ask(0, "SELECT text, changed FROM note") == [("three", 8)]
    # Nothing moves any more.
    for _ in range(2):
        await book.noted()
        await book.settle()
    assert book.versions() == after


FTS = """
CREATE TABLE post (id INTEGER PRIMARY KEY, body TEXT);
CREATE VIRTUAL TABLE found USING fts5 (body, content='post', content_rowid='id');
CREATE TRIGGER post_ai AFTER INSERT ON post BEGIN INSERT INTO found (rowid, body) VALUES (NEW.id, NEW.body); END;
CREATE TRIGGER post_ad AFTER DELETE ON post BEGIN
  INSERT INTO found (found, rowid, body) VALUES ('delete', OLD.id, OLD.body); END;
CREATE TRIGGER post_au AFTER UPDATE ON post BEGIN
  INSERT INTO found (found, rowid, body) VALUES ('delete', OLD.id, OLD.body);
  INSERT INTO found (rowid, body) VALUES (NEW.id, NEW.body); END;
"""


async def test_b19_a_search_on_the_peer_finds_new_rows_and_its_app_can_go_on_with_them(book: Tables) -> None:
    await book.begin_with(FTS, "INSERT INTO post VALUES (1, 'hello world'), (2, 'other')")
    search = "SELECT rowid FROM found WHERE found MATCH 'hello' ORDER BY rowid"
    assert book.ask(1, search) == [(1,)]
    book.do(0, "UPDATE post SET body = 'goodbye' WHERE id = 1", "UPDATE post SET body = 'hello' WHERE id = 2")
    await book.settle()
    assert book.ask(1, search) == [(2,)]
    # The peer's app, with the library that it comes with.
    with program(book.file(1)) as app:
        assert await app.run("UPDATE post SET body = 'hello again' WHERE id = 1") == []
        assert await app.run("DELETE FROM post WHERE id = 2") == []
        assert await app.run("INSERT INTO post VALUES (3, 'hello from there')") == []
        assert await app.run(search) == [[1], [3]]
    await book.settle()
    for number in (0, 1):
        assert book.ask(number, search) == [(1,), (3,)]
        book.do(number, "INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
    assert dump(book.file(0))["post"] == dump(book.file(1))["post"]
