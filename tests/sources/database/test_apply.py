"""Rows of one device come into the other's file: two stores and two files, without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import Dot
from p2psyncd.errors import DatabaseBusy
from p2psyncd.sources.database.plan import Planner
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.values import Value, row_hash
from p2psyncd.sources.source import Dirty, Failed, Surprised

Pair = Callable[[str], tuple[Replica, Replica]]

PEOPLE = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER)"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Makes two replicas with the same schema."""
    made: list[Replica] = []

    def make(ddl: str) -> tuple[Replica, Replica]:
        clock = Clock()
        made.extend(Replica(number, tmp_path / f"{number}.db", ddl, clock) for number in (1, 2))
        return made[0], made[1]

    yield make
    for replica in made:
        replica.close()


def test_a_row_comes_changes_and_goes(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36), (2, 'Bob', NULL)")
    exchange(a, b)
    assert b.tables() == a.tables() == {"people": ["(1, 'Ada', 36)", "(2, 'Bob', None)"]}
    b.run("UPDATE people SET age = 37 WHERE id = 1", "DELETE FROM people WHERE id = 2")
    exchange(a, b)
    assert b.tables() == a.tables() == {"people": ["(1, 'Ada', 37)"]}


def test_what_was_applied_is_not_taken_for_the_apps_own_writing(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    assert b.scan() == 0


def test_different_columns_of_a_row_edited_on_both_sides_both_survive(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    a.run("UPDATE people SET name = 'Ada L.'")
    b.run("UPDATE people SET age = 37")
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada L.', 37)"]}


def test_one_number_for_two_people_gives_two_people_everywhere(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    b.run("INSERT INTO people VALUES (1, 'Bob', 40)")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert sorted(a.run("SELECT name FROM people")) == [("Ada",), ("Bob",)]


def test_one_mail_address_for_two_is_held_for_the_later_and_given_when_the_earlier_goes(pair: Pair) -> None:
    a, b = pair("CREATE TABLE account(id INTEGER PRIMARY KEY, mail TEXT UNIQUE)")
    a.run("INSERT INTO account VALUES (1, 'x@example.org')")
    b.run("INSERT INTO account VALUES (2, 'x@example.org')")
    exchange(a, b)
    assert a.tables() == b.tables() == {"account": ["(1, 'x@example.org')"]}
    b.run("DELETE FROM account WHERE id = 1")
    exchange(a, b)
    assert a.tables() == b.tables() == {"account": ["(2, 'x@example.org')"]}


def test_a_held_row_that_could_not_be_shown_because_of_a_lock_is_shown_by_the_next_process(
    pair: Pair,
) -> None:
    a, b = pair("CREATE TABLE account(id INTEGER PRIMARY KEY, mail TEXT UNIQUE)")
    a.run("INSERT INTO account VALUES (1, 'x@example.org')")
    b.run("INSERT INTO account VALUES (2, 'x@example.org')")
    exchange(a, b)
    b.run("DELETE FROM account WHERE id = 1")
    with closing(apsw.Connection(str(b.path))) as app:
        app.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            b.scan()
    b.open()
    assert b.source.unsettled
    assert b.scan() == 0
    assert b.tables() == {"account": ["(2, 'x@example.org')"]}
    assert not b.source.unsettled


def test_a_row_that_is_to_be_put_in_place_again_is_so_also_if_the_same_comes_once_more(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    [item] = [item for item in b.items() if item.kind is Kind.ROW and item.dot.actor == a.store.actor()]
    with closing(apsw.Connection(str(b.path))) as older:
        older.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        older.execute("UPDATE people SET age = 35")
    b.ledger.reopen({item.key: row_hash({"id": 1, "name": "Ada", "age": 35})})
    # Two devices make one write of what they unite, each under a name of its own.
    again = replace(item, dot=Dot(ActorId(b"somebody"), 1), hlc=item.hlc + 1).knowing(item)
    b.receive([again])
    b.apply()
    assert b.tables() == a.tables()


ACCOUNTS = """
CREATE TABLE account(id INTEGER PRIMARY KEY, mail TEXT UNIQUE);
CREATE TABLE card(id INTEGER PRIMARY KEY, account INTEGER REFERENCES account(id));
"""


def test_a_row_that_an_app_lets_refer_to_one_that_is_held_refers_to_the_one_it_is_held_for(
    pair: Pair,
) -> None:
    a, b = pair(ACCOUNTS + "INSERT INTO account VALUES (2, NULL);")
    a.run("INSERT INTO account VALUES (1, 'x@example.org')")
    b.run("UPDATE account SET mail = 'x@example.org'")
    exchange(a, b)
    b.run("INSERT INTO card VALUES (1, 2)", foreign_keys=False)
    exchange(a, b)
    assert a.tables() == b.tables() == {"account": ["(1, 'x@example.org')"], "card": ["(1, 1)"]}


def test_a_row_that_says_the_same_and_was_written_later_gives_way_to_one_that_was_held_for_it(
    pair: Pair,
) -> None:
    a, b = pair(ACCOUNTS)
    a.run("INSERT INTO account VALUES (1, 'x@example.org')")
    b.run("INSERT INTO account VALUES (2, 'x@example.org')")
    exchange(a, b)
    [first] = [item for item in b.items() if item.kind is Kind.ROW and item.dot.actor == a.store.actor()]
    again = replace(first, dot=Dot(ActorId(b"somebody"), 1), hlc=first.hlc + 10**12).knowing(first)
    for replica in (a, b):
        replica.receive([again])
        replica.apply()
        assert replica.tables()["account"] == ["(2, 'x@example.org')"]


def test_children_follow_a_parent_that_gets_another_number(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE card(id INTEGER PRIMARY KEY, person INTEGER REFERENCES person(id), place TEXT);"
        "CREATE TABLE profile(person INTEGER PRIMARY KEY REFERENCES person(id), motto TEXT)"
    )
    for replica, name in ((a, "Ada"), (b, "Bob")):
        replica.run(
            f"INSERT INTO person VALUES (1, '{name}')",
            f"INSERT INTO card VALUES ({replica.number}, 1, 'of {name}')",
            f"INSERT INTO profile VALUES (1, '{name} was here')",
        )
    exchange(a, b)
    whose = "SELECT name, place, motto FROM person JOIN card ON card.person = person.id JOIN profile ON profile.person = person.id"
    assert a.tables() == b.tables()
    assert sorted(a.run(whose)) == [("Ada", "of Ada", "Ada was here"), ("Bob", "of Bob", "Bob was here")]
    # And the app can go on with it.
    b.run("UPDATE profile SET motto = 'still here' WHERE person = (SELECT id FROM person WHERE name = 'Bob')")
    exchange(a, b)
    assert sorted(a.run(whose))[1] == ("Bob", "of Bob", "still here")


def test_a_row_that_shares_the_key_of_a_parent_with_another_number_can_be_changed_everywhere(
    pair: Pair,
) -> None:
    a, b = pair(
        "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE profile(person INTEGER PRIMARY KEY REFERENCES person(id), motto TEXT)"
    )
    a.run("INSERT INTO person VALUES (1, 'Ada')", "INSERT INTO profile VALUES (1, 'of Ada')")
    b.run("INSERT INTO person VALUES (1, 'Bob')")
    exchange(a, b)
    a.run("INSERT INTO profile SELECT id, 'of Bob' FROM person WHERE name = 'Bob'")
    exchange(a, b)
    b.run("UPDATE profile SET motto = 'still of Bob' WHERE motto = 'of Bob'")
    exchange(a, b)
    a.run("DELETE FROM profile WHERE motto = 'of Ada'")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.run("SELECT name, motto FROM person JOIN profile ON person = id") == [("Bob", "still of Bob")]


def test_a_reference_to_a_row_that_is_held_shows_the_row_it_is_held_for(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE tag(id INTEGER PRIMARY KEY, name TEXT UNIQUE);"
        "CREATE TABLE note(id INTEGER PRIMARY KEY, tag INTEGER REFERENCES tag(id), text TEXT)"
    )
    a.run("INSERT INTO tag VALUES (1, 'red')", "INSERT INTO note VALUES (1, 1, 'a')")
    b.run("INSERT INTO tag VALUES (2, 'red')", "INSERT INTO note VALUES (2, 2, 'b')")
    exchange(a, b)
    assert a.tables() == b.tables() == {"note": ["(1, 1, 'a')", "(2, 1, 'b')"], "tag": ["(1, 'red')"]}
    a.run("UPDATE tag SET name = 'blue'")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.tables()["note"] == ["(1, 1, 'a')", "(2, 2, 'b')"]
    assert a.tables()["tag"] == ["(1, 'blue')", "(2, 'red')"]


def test_a_merge_that_breaks_a_check_shows_the_newest_writers_whole_row_everywhere(pair: Pair) -> None:
    a, b = pair("CREATE TABLE span(id INTEGER PRIMARY KEY, low INTEGER, high INTEGER, CHECK(low <= high))")
    a.run("INSERT INTO span VALUES (1, 3, 5)")
    exchange(a, b)
    a.run("UPDATE span SET low = 5")
    a.scan()
    b.run("UPDATE span SET high = 4")
    exchange(a, b)
    assert a.tables() == b.tables() == {"span": ["(1, 3, 4)"]}


def test_values_arrive_bit_by_bit(pair: Pair) -> None:
    a, b = pair("CREATE TABLE thing(id TEXT PRIMARY KEY COLLATE NOCASE, value, word TEXT COLLATE NOCASE)")
    a.run(
        "INSERT INTO thing VALUES ('one', 1, 'word'), ('float', 1.0, NULL), ('zero', -0.0, char(65,0,66)),"
        " ('blob', x'41', ''), ('text', 'A', CAST(x'ff41' AS TEXT)), ('pi', 3.141592653589793, 'x'),"
        " (CAST(x'fe' AS TEXT), 9223372036854775807, NULL)"
    )
    exchange(a, b)
    exact = "SELECT quote(CAST(id AS BLOB)), typeof(value), quote(value), hex(word), typeof(word) FROM thing ORDER BY 1"
    assert a.run(exact) == b.run(exact)
    a.run("UPDATE thing SET word = 'WORD' WHERE id = 'one'", "UPDATE thing SET value = 1.0 WHERE id = 'one'")
    a.run("UPDATE thing SET value = x'41' WHERE id = 'text'", "UPDATE thing SET id = 'ONE' WHERE id = 'one'")
    exchange(a, b)
    assert a.run(exact) == b.run(exact)


def test_tables_of_all_kinds_come_through(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE pairs(x INTEGER, y TEXT, n INTEGER, PRIMARY KEY(x, y)) WITHOUT ROWID;"
        "CREATE TABLE exact(id INTEGER PRIMARY KEY, f REAL, t ANY) STRICT;"
        "CREATE TABLE made(id INTEGER PRIMARY KEY AUTOINCREMENT, a INTEGER, b AS (a * 2), c AS (a + 1) STORED);"
    )
    a.run(
        "INSERT INTO pairs VALUES (1, 'a', 1), (1, 'b', 2)",
        "INSERT INTO exact VALUES (1, 1.5, 'x'), (2, 2, 3)",
    )
    a.run("INSERT INTO made(a) VALUES (10), (20)")
    exchange(a, b)
    assert a.tables() == b.tables()
    b.run("UPDATE pairs SET y = 'c' WHERE n = 1", "DELETE FROM made WHERE id = 2", "UPDATE made SET a = 11")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.tables()["made"] == ["(1, 11, 22, 12)"]
    a.run("INSERT INTO made(a) VALUES (30)")
    assert a.run("SELECT max(id) FROM made") == [(3,)]  # the number of what was deleted is not used again


def test_rows_that_swap_a_unique_value_arrive(pair: Pair) -> None:
    a, b = pair("CREATE TABLE seat(id INTEGER PRIMARY KEY, number INTEGER UNIQUE)")
    a.run("INSERT INTO seat VALUES (1, 10), (2, 20), (3, 30)")
    exchange(a, b)
    a.run(
        "UPDATE seat SET number = -number",
        "UPDATE seat SET number = CASE id WHEN 1 THEN 20 WHEN 2 THEN 30 ELSE 10 END",
    )
    exchange(a, b)
    assert b.tables() == a.tables() == {"seat": ["(1, 20)", "(2, 30)", "(3, 10)"]}


def test_the_row_that_a_replace_evicts_is_deleted_everywhere(pair: Pair) -> None:
    a, b = pair("CREATE TABLE account(id INTEGER PRIMARY KEY, mail TEXT UNIQUE)")
    a.run("INSERT INTO account VALUES (1, 'x'), (2, 'y')")
    exchange(a, b)
    for recursive, number in ((False, 3), (True, 4)):
        a.run(f"INSERT OR REPLACE INTO account VALUES ({number}, 'x')", recursive=recursive)
        exchange(a, b)
        assert a.tables() == b.tables() == {"account": sorted([f"({number}, 'x')", "(2, 'y')"])}


def test_an_apps_own_trigger_does_not_answer_what_a_peer_wrote(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT, touched INTEGER DEFAULT 0);"
        "CREATE TRIGGER touch AFTER UPDATE OF text ON note BEGIN"
        "  UPDATE note SET touched = touched + 1 WHERE id = NEW.id; END"
    )
    a.run("INSERT INTO note(id, text) VALUES (1, 'one')")
    exchange(a, b)
    a.run("UPDATE note SET text = 'two'")
    exchange(a, b)
    assert a.tables() == b.tables() == {"note": ["(1, 'two', 1)"]}
    assert a.scan() == b.scan() == 0


FTS = """
CREATE TABLE post(id INTEGER PRIMARY KEY, body TEXT);
CREATE VIRTUAL TABLE found USING fts5(body, content='post', content_rowid='id');
CREATE TRIGGER post_ai AFTER INSERT ON post BEGIN INSERT INTO found(rowid, body) VALUES (NEW.id, NEW.body); END;
CREATE TRIGGER post_ad AFTER DELETE ON post BEGIN
  INSERT INTO found(found, rowid, body) VALUES ('delete', OLD.id, OLD.body); END;
CREATE TRIGGER post_au AFTER UPDATE ON post BEGIN
  INSERT INTO found(found, rowid, body) VALUES ('delete', OLD.id, OLD.body);
  INSERT INTO found(rowid, body) VALUES (NEW.id, NEW.body); END;
"""


def test_a_search_on_the_peer_finds_the_new_row_and_its_app_can_still_change_it(pair: Pair) -> None:
    a, b = pair(FTS)
    a.run("INSERT INTO post VALUES (1, 'hello world'), (2, 'other')")
    exchange(a, b)
    search = "SELECT rowid FROM found WHERE found MATCH 'hello'"
    assert b.run(search) == [(1,)]
    a.run("UPDATE post SET body = 'goodbye' WHERE id = 1", "UPDATE post SET body = 'hello' WHERE id = 2")
    exchange(a, b)
    assert b.run(search) == [(2,)]
    b.run("UPDATE post SET body = 'nothing' WHERE id = 2", "DELETE FROM post WHERE id = 1")
    exchange(a, b)
    for replica in (a, b):
        assert replica.run(search) == []
        replica.run("INSERT INTO found(found, rank) VALUES ('integrity-check', 1)")


COUNTED = """
CREATE TABLE post(id INTEGER PRIMARY KEY, "begin" TEXT, body TEXT);
CREATE TABLE count(k TEXT PRIMARY KEY, n INT);
CREATE VIRTUAL TABLE found USING fts5(body, content='post', content_rowid='id');
CREATE TRIGGER post_ai AFTER INSERT ON post WHEN NEW.begin IS NOT 'END' BEGIN -- counts; and finds
  SELECT RAISE(ABORT, 'empty; INSERT INTO found') WHERE NEW.body = '';
  INSERT INTO count VALUES ('posts', 1) ON CONFLICT(k) DO UPDATE SET n = n + 1;
  INSERT INTO "found"(rowid, body) VALUES (NEW.id, NEW.body) /* ; */; END;
CREATE TRIGGER post_ad AFTER DELETE ON post BEGIN UPDATE count SET n = n - 1;
  INSERT INTO found(found, rowid, body) VALUES ('delete', OLD.id, OLD.body); END;
"""


def test_a_trigger_that_does_more_than_to_keep_a_search_index_keeps_that(pair: Pair) -> None:
    a, b = pair(COUNTED)
    a.run("INSERT INTO post VALUES (1, '', 'hello world'), (2, '', 'other')")
    exchange(a, b)
    assert b.run("SELECT rowid FROM found WHERE found MATCH 'hello'") == [(1,)]
    assert b.run("SELECT * FROM count") == [("posts", 2)]
    b.run("DELETE FROM post WHERE id = 1")
    exchange(a, b)
    for replica in (a, b):
        assert replica.run("SELECT rowid FROM found WHERE found MATCH 'hello'") == []
        assert replica.run("SELECT * FROM count") == [("posts", 1)]
        replica.run("INSERT INTO found(found, rank) VALUES ('integrity-check', 1)")


def test_an_index_that_its_trigger_may_refuse_to_write_is_named(pair: Pair) -> None:
    a, b = pair(
        COUNTED.replace("VALUES (NEW.id,", "SELECT NEW.id, iif(NEW.id < 0, RAISE(ABORT, 'no'),").replace(
            ") /*", ") /*"
        )
    )
    a.run("INSERT INTO post VALUES (1, '', 'hello')")
    exchange(a, b)
    assert b.run("SELECT * FROM post") == [(1, "", "hello")]
    assert set(b.source.unkept_searches) == {"post"}


def test_an_empty_device_gets_tables_rows_indexes_and_triggers(tmp_path: Path) -> None:
    clock = Clock()
    a = Replica(1, tmp_path / "a.db", FTS + PEOPLE + "; CREATE UNIQUE INDEX named ON people(name)", clock)
    b = Replica(2, tmp_path / "b.db", "PRAGMA user_version = 1", clock)
    a.run("INSERT INTO post VALUES (1, 'hello world')", "INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    schema = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT GLOB '_p2p_*' ORDER BY type, name"
    assert a.run(schema) == b.run(schema)
    assert b.run("SELECT rowid FROM found WHERE found MATCH 'hello'") == [(1,)]
    assert a.run("SELECT * FROM people") == b.run("SELECT * FROM people")
    b.run("UPDATE people SET age = 37")
    exchange(a, b)
    assert a.run("SELECT age FROM people") == [(37,)]
    for replica in (a, b):
        replica.close()


class Killed(BaseException):
    """The process is killed here."""


FAMILY = (
    "CREATE TABLE person(id INTEGER PRIMARY KEY, mail TEXT UNIQUE);"
    "CREATE TABLE card(id INTEGER PRIMARY KEY, person INTEGER REFERENCES person(id), place TEXT)"
)


def kill_at(replica: Replica, step: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill a replica at a step of its next apply; return the steps that it got to."""
    passed: list[str] = []

    def reach(name: str) -> None:
        passed.append(name)
        if len(passed) > step:
            raise Killed

    set_setting, writing, settle = (
        replica.store.set_setting,
        replica.source.access.writing,
        replica.store.settle,
    )

    def note(name: str, value: bytes) -> None:
        reach(f"before {name}")
        set_setting(name, value)
        reach(f"after {name}")

    @contextmanager
    def write(*, quiet: bool, first: Callable[[], None] | None = None) -> Iterator[apsw.Connection]:
        with writing(quiet=quiet, first=first) as connection:
            reach("locked")
            yield connection
            reach("written")
        reach("committed")

    def end(rows: Iterable[tuple[bytes, Dot, bytes]]) -> None:
        reach("before the store knows")
        settle(rows)

    monkeypatch.setattr(replica.store, "set_setting", note)
    monkeypatch.setattr(replica.source.access, "writing", write)
    monkeypatch.setattr(replica.store, "settle", end)
    return passed


@pytest.mark.parametrize("step", range(12))
def test_a_kill_at_any_step_of_an_apply_loses_nothing_doubles_nothing_and_echoes_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    a, b = pair(FAMILY)
    a.run("INSERT INTO person VALUES (1, 'x'), (2, 'y')", "INSERT INTO card VALUES (1, 1, 'a'), (2, 2, 'a')")
    b.run("INSERT INTO person VALUES (1, 'z'), (3, 'y')", "INSERT INTO card VALUES (3, 1, 'b'), (4, 3, 'b')")
    a.scan()
    b.scan()
    b.scan()  # which finds that all is recorded: no edit is in the way any more
    b.receive(a.items())
    waiting = b.store.pending(limit=100)
    passed = kill_at(b, step, monkeypatch)
    with pytest.raises(Killed):
        b.apply_once(waiting)
    assert len(passed) == step + 1
    monkeypatch.undo()
    b.open()
    assert b.scan() == 0
    exchange(a, b)
    assert a.tables() == b.tables()
    assert sorted(a.run("SELECT mail FROM person")) == [("x",), ("y",), ("z",)]
    assert len(a.run("SELECT 1 FROM card JOIN person ON card.person = person.id")) == 4
    assert a.source.applier.places.held == b.source.applier.places.held


def test_a_newer_version_that_came_before_a_kill_is_not_taken_for_the_one_that_was_applied(
    pair: Pair,
) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    a.run("UPDATE people SET age = 37")
    a.scan()
    b.receive(a.items())
    b.open()
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada', 37)"]}


def test_a_local_edit_that_is_not_captured_yet_is_not_overwritten(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    a.run("UPDATE people SET name = 'Ada L.'")
    a.scan()
    b.receive(a.items())
    b.run("UPDATE people SET age = 37")
    (outcome,) = b.apply_once(b.store.pending(limit=10))
    assert isinstance(outcome, Surprised)
    assert b.run("SELECT name, age FROM people") == [("Ada", 37)]
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada L.', 37)"]}


def test_a_row_waits_for_the_capture_of_one_that_has_its_unique_value(pair: Pair) -> None:
    a, b = pair("CREATE TABLE account(id INTEGER PRIMARY KEY, mail TEXT UNIQUE)")
    a.run("INSERT INTO account VALUES (1, 'x')")
    a.scan()
    b.receive(a.items())
    b.run("INSERT INTO account VALUES (2, 'x')")
    outcomes = b.apply_once(b.store.pending(limit=10))
    assert [type(one) for one in outcomes] == [Surprised]
    exchange(a, b)
    assert a.tables() == b.tables() == {"account": ["(1, 'x')"]}


def test_ten_thousand_rows_come_in_one_transaction(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
        " INSERT INTO people SELECT i, 'name', i FROM n"
    )
    a.scan()
    b.receive(a.items())
    seen: list[int] = []
    reader = apsw.Connection(str(b.path))
    count = "SELECT count(*) FROM people"
    original = Rows.insert

    def look(self: Rows, table: Table, columns: Sequence[str], rows: Iterable[tuple[Value, ...]]) -> None:
        original(self, table, columns, rows)
        seen.append(reader.execute(count).get)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rows, "insert", look)
        b.apply()
    assert set(seen) == {0}
    assert reader.execute(count).get == 10_000
    reader.close()
    assert b.scan() == 0


def test_columns_that_the_older_schema_lacks_are_kept_and_put_in_place_after_its_migration(
    pair: Pair,
) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    add = "ALTER TABLE people ADD COLUMN town TEXT"
    a.run(add, "UPDATE people SET town = 'London'")
    exchange(a, b)
    assert b.tables() == {"people": ["(1, 'Ada', 36)"]}
    b.run("UPDATE people SET age = 37")
    exchange(a, b)
    b.run(add)
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada', 37, 'London')"]}


def test_rows_of_a_table_that_is_not_here_come_into_place_once_it_is(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    towns = "CREATE TABLE town(name TEXT PRIMARY KEY)"
    a.run(towns, "INSERT INTO town VALUES ('London')")
    exchange(a, b)
    assert "town" not in b.tables()
    b.run(towns)
    exchange(a, b)
    assert a.tables() == b.tables()
    assert b.tables()["town"] == ["('London',)"]


def test_a_value_that_is_unique_among_some_rows_only_is_given_to_one_of_them(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE phone(id INTEGER PRIMARY KEY, person INTEGER REFERENCES person(id), number TEXT, main INTEGER);"
        "CREATE UNIQUE INDEX one_main ON phone(person) WHERE main;"
        "CREATE UNIQUE INDEX numbers ON phone(lower(number))"
    )
    a.run("INSERT INTO person VALUES (1, 'Ada')")
    exchange(a, b)
    a.run("INSERT INTO phone VALUES (1, 1, 'A1', 1), (2, 1, 'A2', 0)")
    a.scan()
    b.run("INSERT INTO phone VALUES (3, 1, 'B1', 1), (4, 1, 'a2', 0), (5, 1, 'B3', 0)")
    exchange(a, b)
    there = ["(1, 1, 'A1', 1)", "(2, 1, 'A2', 0)", "(5, 1, 'B3', 0)"]
    assert a.tables()["phone"] == b.tables()["phone"] == there
    b.run("UPDATE phone SET main = 0 WHERE id = 1", "DELETE FROM phone WHERE id = 2")
    exchange(a, b)
    there = ["(1, 1, 'A1', 0)", "(3, 1, 'B1', 1)", "(4, 1, 'a2', 0)", "(5, 1, 'B3', 0)"]
    assert a.tables()["phone"] == b.tables()["phone"] == there


def test_a_reference_to_what_is_shown_with_a_parents_number_means_that_and_not_the_parent(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE person(id INTEGER PRIMARY KEY, mail TEXT UNIQUE);"
        "CREATE TABLE profile(person INTEGER PRIMARY KEY REFERENCES person(id) ON DELETE CASCADE);"
        "CREATE TABLE extra(id INTEGER PRIMARY KEY, profile INTEGER REFERENCES profile(person) ON DELETE CASCADE)"
    )
    a.run("INSERT INTO person VALUES (1, 'x')")
    b.run("INSERT INTO person VALUES (2, 'x')", "INSERT INTO profile VALUES (2)")
    exchange(a, b)
    assert a.tables() == b.tables() == {"person": ["(1, 'x')"], "profile": ["(1,)"], "extra": []}
    a.run("INSERT INTO extra VALUES (1, 1)")
    exchange(a, b)
    b.run("UPDATE person SET mail = 'y' WHERE id = 1")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.tables() == {"person": ["(1, 'y')", "(2, 'x')"], "profile": ["(2,)"], "extra": ["(1, 2)"]}


def test_a_column_renamed_on_one_device_after_the_other_ends_the_same_on_both(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (1, 'Ada', 36)")
    exchange(a, b)
    rename = "ALTER TABLE people RENAME COLUMN name TO nick"
    b.run(rename)
    exchange(a, b)
    a.run("UPDATE people SET name = 'Ada L.'")
    exchange(a, b)
    a.run(rename)
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada L.', 36)"]}
    assert a.scan() == b.scan() == 0


def test_a_text_that_is_no_utf_8_is_found_by_an_index_whose_condition_holds_a_question_mark(
    pair: Pair,
) -> None:
    a, b = pair(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n TEXT, s TEXT);"
        "CREATE UNIQUE INDEX ti ON t(n) WHERE s <> '?' AND s <> '\"'"
    )
    a.run("INSERT INTO t VALUES (1, CAST(x'ff' AS TEXT), 'a')")
    exchange(a, b)
    assert b.run("SELECT id, hex(n), s FROM t") == [(1, "FF", "a")]


def test_a_text_that_is_no_utf_8_comes_in_a_table_as_wide_as_they_get(pair: Pair) -> None:
    a, b = pair(f"CREATE TABLE t(id INTEGER PRIMARY KEY, {', '.join(f'c{n}' for n in range(1999))})")
    a.run("INSERT INTO t(id, c5, c1998) VALUES (1, CAST(x'ff' AS TEXT), 'x')")
    exchange(a, b)
    assert b.run("SELECT id, hex(c5), c1998 FROM t") == [(1, "FF", "x")]


@pytest.mark.parametrize(
    ("here", "text"),
    [
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, d, x AS (json_extract(d, '$.x')) STORED)", "no JSON"),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, d); CREATE INDEX ti ON t(json_extract(d, '$.x'))",
            "no JSON",
        ),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, d CHECK(json_type(d) = 'object'))", "no JSON"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, d); CREATE INDEX ti ON t(abs(d))", -(2**63)),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, d, u TEXT DEFAULT (uuid4()))", "x"),
    ],
)
def test_a_row_over_which_the_schema_here_fails_is_held_and_others_are_shown(
    tmp_path: Path, here: str, text: str | int
) -> None:
    clock = Clock()
    a = Replica(1, tmp_path / "1.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, d)", clock)
    b = Replica(2, tmp_path / "2.db", f"{here}; CREATE TABLE other(id INTEGER PRIMARY KEY)", clock)
    a.run(f"INSERT INTO t VALUES (1, {text!r})")
    if "uuid4" not in here:
        a.run("INSERT INTO t VALUES (2, '{}')" if text == "no JSON" else "INSERT INTO t VALUES (2, 2)")
    exchange(a, b)
    assert b.run("SELECT id FROM t") == ([] if "uuid4" in here else [(2,)])
    assert list(b.source.applier.places.held.values()) == [b""]
    a.close()
    b.close()


@pytest.mark.parametrize(("tokenizer", "text"), [("simple", "new.b"), ("porter", "unaccent(new.b)")])
def test_rows_come_though_only_the_app_can_keep_their_search_index(
    tmp_path: Path, tokenizer: str, text: str
) -> None:
    ddl = (
        "CREATE TABLE d(id INTEGER PRIMARY KEY, b TEXT);"
        "CREATE VIRTUAL TABLE f USING fts5(b, content='d', content_rowid='id', tokenize='porter');"
        f"CREATE TRIGGER ai AFTER INSERT ON d BEGIN INSERT INTO f(rowid, b) VALUES (new.id, {text}); END"
    )
    for name in ("1.db", "2.db"):
        with closing(apsw.Connection(str(tmp_path / name))) as app:
            # A tokenizer of the app's own: another connection knows nothing of it.
            app.execute(f"{ddl}; PRAGMA writable_schema = ON")
            app.execute(
                "UPDATE sqlite_schema SET sql = replace(sql, 'porter', ?) WHERE name = 'f'", (tokenizer,)
            )
    clock = Clock()
    a, b = (Replica(number, tmp_path / f"{number}.db", ddl, clock) for number in (1, 2))
    with closing(apsw.Connection(str(a.path))) as app:
        app.create_scalar_function("unaccent", lambda text: text)
        if tokenizer != "porter":
            app.execute("DROP TRIGGER ai")  # this app cannot keep the index either
        app.execute("INSERT INTO d VALUES (1, 'x'), (2, 'y')")
    exchange(a, b)
    assert b.run("SELECT * FROM d") == [(1, "x"), (2, "y")]
    assert set(b.source.unkept_searches) == {"d"}
    a.close()
    b.close()


def test_a_row_that_fails_for_a_reason_nobody_foresaw_fails_alone_with_the_reason(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
    a.run(
        "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 40) INSERT INTO t SELECT 'k' || x, x FROM n"
    )
    a.scan()
    b.receive(a.items())
    through = Planner.take

    def take(self: Planner, key: bytes, *rest: Any, **more: Any) -> None:
        if key in {b"t/-/'k7", b"t/-/'k30"}:
            raise LookupError("no such thing")
        through(self, key, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Planner, "take", take)
        outcomes = b.apply_once(b.store.pending(limit=100))
        failed = {one.key: one.reason for one in outcomes if isinstance(one, Failed)}
        assert set(failed) == {b"t/-/'k7", b"t/-/'k30"}
        assert all("LookupError at test_apply.py" in reason for reason in failed.values())
        assert b.run("SELECT count(*) FROM t") == [(38,)]
        b.apply_once(b.store.pending(limit=100))
    assert sum(record.exc_info is not None for record in caplog.records) == 1
    b.apply()
    assert a.tables() == b.tables()


def test_rows_that_fail_only_together_all_fail(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
    a.run("INSERT INTO t VALUES ('one', 1), ('two', 2)")
    a.scan()
    b.receive(a.items())
    through = Planner.make

    def make(self: Planner, batch: Sequence[Any], also: Iterable[bytes] = ()) -> None:
        if len(batch) > 1:
            raise apsw.SQLError("too much")
        through(self, batch, also)

    with monkeypatch.context() as patch:
        patch.setattr(Planner, "make", make)
        outcomes = b.apply_once(b.store.pending(limit=10))
    assert [type(one) for one in outcomes] == [Failed, Failed]
    assert b.run("SELECT * FROM t") == []
    b.apply()
    assert a.tables() == b.tables()


@pytest.mark.parametrize("kind", [Kind.TOMBSTONE, Kind.ROW])
def test_a_row_whose_versions_elsewhere_say_nothing_is_captured_and_can_be_asked_for(
    pair: Pair, kind: Kind
) -> None:
    a, b = pair("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
    key = b"t/-/'x'".removesuffix(b"'")
    broken = Item(
        key=key, kind=kind, digest=b"", size=0, meta=b"\x01garbage", dot=Dot(ActorId(b"\x09" * 8), 1), hlc=5
    )
    a.receive([broken])  # as an earlier version of this program took it in
    a.run("INSERT INTO t VALUES ('x', 1)")
    a.scan()
    a.scan(Dirty(keys=frozenset([key])))
    if kind is Kind.TOMBSTONE:
        exchange(a, b)
        assert b.run("SELECT * FROM t") == [("x", 1)]
