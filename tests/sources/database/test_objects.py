"""Tables, columns and indexes of a peer: what is made here, and what is never run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending
from p2psyncd.core.version import Dot
from p2psyncd.sources.database import objects as objects_module
from p2psyncd.sources.database.keys import SCHEMA_TABLE, pack_key
from p2psyncd.sources.database.objects import Objects
from p2psyncd.sources.database.row import inserted, pack
from p2psyncd.sources.database.schema import read_schema
from p2psyncd.sources.database.show import HELD
from p2psyncd.sources.source import Applied

SCHEMA = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT)"
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"


def wanted(kind: str, name: str, sql: str, table: str = "") -> Pending:
    """Return a peer's table, index, view or trigger."""
    item = Item(
        key=pack_key(SCHEMA_TABLE, (kind, name)),
        kind=Kind.ROW,
        digest=b"",
        size=0,
        meta=pack(inserted({"sql": sql, "table": table or name})),
        dot=Dot(ActorId(b"somebody"), 1),
        hlc=1,
    )
    return Pending(item=item, base=None)


def make(connection: apsw.Connection, *objects: Pending, propagate: bool = True) -> list[bytes]:
    """Carry some objects out; return their states."""
    carried = Objects(connection, read_schema(connection), wanted=propagate, made=())
    carried.carry_out(objects)
    assert all(isinstance(one, Applied) for one in carried.outcomes)
    return [one.state for one in carried.outcomes if isinstance(one, Applied)]


def schema_of(connection: apsw.Connection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()


@pytest.fixture
def connection() -> apsw.Connection:
    made = apsw.Connection(":memory:")
    made.execute(SCHEMA)
    return made


def test_what_is_missing_is_made_where_the_user_wants_it(connection: apsw.Connection) -> None:
    index = wanted("index", "names", "CREATE INDEX names ON towns(name)", "towns")
    towns = wanted("table", "towns", "CREATE TABLE towns(name TEXT PRIMARY KEY)")
    assert HELD not in make(connection, index, towns)
    assert [name for name, _ in schema_of(connection)] == ["names", "people", "towns"]


def test_nothing_is_made_where_the_app_has_tables_and_the_user_did_not_ask_for_more(
    connection: apsw.Connection,
) -> None:
    towns = wanted("table", "towns", "CREATE TABLE towns(name TEXT PRIMARY KEY)")
    assert make(connection, towns, propagate=False) == [HELD]
    assert [name for name, _ in schema_of(connection)] == ["people"]


@pytest.mark.parametrize(
    "column",
    ["age INTEGER", "age INTEGER DEFAULT (1 + 2)", "\"a,ge\" TEXT DEFAULT 'x,)'", "town TEXT COLLATE NOCASE"],
)
def test_columns_at_the_end_are_added(connection: apsw.Connection, column: str) -> None:
    sql = f"CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, {column})"
    make(connection, wanted("table", "people", sql))
    assert dict(schema_of(connection))["people"] == sql


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name INTEGER, age INTEGER)",
        "CREATE TABLE people(id INTEGER PRIMARY KEY)",
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, age INTEGER UNIQUE)",
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, age INTEGER NOT NULL)",
    ],
)
def test_a_table_that_differs_in_more_stays_as_it_is(connection: apsw.Connection, sql: str) -> None:
    connection.execute("INSERT INTO people VALUES (1, 'Ada')")
    make(connection, wanted("table", "people", sql))
    assert schema_of(connection) == [("people", SCHEMA)]


@pytest.mark.parametrize(
    ("kind", "name", "sql"),
    [
        ("table", "x", "DROP TABLE people"),
        ("table", "x", "CREATE TABLE x(a); DROP TABLE people"),
        ("table", "x", "CREATE TABLE x(a); INSERT INTO people VALUES (7, 'evil')"),
        ("table", "x", "CREATE TABLE x AS SELECT * FROM people"),
        ("table", "x", "ATTACH '{file}' AS x"),
        ("table", "x", "VACUUM INTO '{file}'"),
        ("table", "x", "PRAGMA writable_schema = 1"),
        ("table", "x", "CREATE TABLE y(a)"),
        ("table", "x", "CREATE TEMP TABLE x(a)"),
        (
            "table",
            "people",
            "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, a); ATTACH '{file}' AS x",
        ),
        (
            "table",
            "people",
            "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, a); VACUUM INTO '{file}'",
        ),
        ("table", "x", "CREATE VIRTUAL TABLE x USING fts5vocab(people, 'row')"),
        ("table", "_p2p_mark", "CREATE TABLE _p2p_mark(a)"),
        ("table", "sqlite_x", "CREATE TABLE sqlite_x(a)"),
        ("view", "x", "CREATE TABLE x(a)"),
        ("table", "x", "CREATE"),
        ("table", "x", f"CREATE TABLE x AS {ENDLESS}"),
        ("table", "x", f"CREATE TABLE x(a); {ENDLESS}"),
        ("index", "x", f"CREATE INDEX x ON people(name); {ENDLESS}"),
        ("table", "x", f"CREATE VIRTUAL TABLE x USING fts5(a); {ENDLESS}"),
        ("table", "x", f"CREATE VIRTUAL TABLE x USING fts5(a); INSERT INTO x_data {ENDLESS}"),
        ("table", "x", ENDLESS),
        ("table", "people", f"CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, a); {ENDLESS}"),
        ("table", "people", f"CREATE TABLE people AS {ENDLESS}"),
        ("table", "x", ""),
    ],
)
def test_a_statement_that_is_not_what_it_says_does_nothing(
    connection: apsw.Connection, tmp_path: Path, kind: str, name: str, sql: str
) -> None:
    file = tmp_path / "outside"
    make(connection, wanted(kind, name, sql.replace("{file}", str(file))))
    assert schema_of(connection) == [("people", SCHEMA)]
    assert connection.execute("SELECT count(*) FROM people").get == 0
    assert not file.exists()
    assert connection.execute("SELECT count(*) FROM temp.sqlite_schema").get == 0


def test_columns_are_added_to_a_table_with_parents_and_an_index_of_its_own(
    connection: apsw.Connection,
) -> None:
    connection.execute("CREATE TABLE pet(id INTEGER PRIMARY KEY, owner REFERENCES people, n)")
    connection.execute("CREATE UNIQUE INDEX one ON pet(n)")
    sql = "CREATE TABLE pet(id INTEGER PRIMARY KEY, owner REFERENCES people, n, kind TEXT)"
    make(connection, wanted("table", "pet", sql))
    assert dict(schema_of(connection))["pet"] == sql


def test_a_statement_that_takes_too_long_is_cut_off(
    connection: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.execute(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) INSERT INTO people SELECT x, x FROM c"
    )
    names = wanted("index", "names", "CREATE INDEX names ON people(name)", "people")
    monkeypatch.setattr(objects_module, "STEPS_ASKED", 1000)
    monkeypatch.setattr(objects_module, "STEPS_MAX", 10_000)
    assert make(connection, names) == [HELD]
    monkeypatch.undo()
    assert HELD not in make(connection, names)


def test_a_device_where_we_made_all_tables_gets_what_the_others_add(tmp_path: Path) -> None:
    clock = Clock()
    a = Replica(1, tmp_path / "a.db", SCHEMA, clock)
    b = Replica(2, tmp_path / "b.db", "PRAGMA user_version = 1", clock)
    exchange(a, b)
    a.run("CREATE TABLE town(name TEXT PRIMARY KEY)", "INSERT INTO town VALUES ('London')")
    a.run("ALTER TABLE people ADD COLUMN town TEXT", "INSERT INTO people VALUES (1, 'Ada', 'London')")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert b.tables()["people"] == ["(1, 'Ada', 'London')"]
    b.run("UPDATE people SET town = 'Paris'")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.tables()["people"] == ["(1, 'Ada', 'Paris')"]
    for replica in (a, b):
        replica.close()


def test_an_index_that_takes_too_long_is_left_out_and_what_came_with_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    a, b = (Replica(number, tmp_path / f"{number}.db", SCHEMA, clock) for number in (1, 2))
    b.source.applier.maker.propagate = True
    a.run(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 3000) INSERT INTO people SELECT x, x FROM c"
    )
    exchange(a, b)
    a.run("CREATE INDEX names ON people(name)", "CREATE TABLE towns(id INTEGER PRIMARY KEY)")
    a.run("INSERT INTO people VALUES (0, 'Ada')")
    monkeypatch.setattr(objects_module, "STEPS_ASKED", 1000)
    monkeypatch.setattr(objects_module, "STEPS_MAX", 10_000)
    exchange(a, b)
    names = [name for (name,) in b.run("SELECT name FROM sqlite_schema WHERE name NOT GLOB '_p2p_*'")]
    assert names == ["people", "towns"]
    assert b.run("SELECT name FROM people WHERE id = 0") == [("Ada",)]
    a.close()
    b.close()


def test_devices_whose_objects_names_differ_in_the_case_of_letters_come_to_rest(tmp_path: Path) -> None:
    clock = Clock()
    schemas = (
        f"{SCHEMA}; CREATE INDEX Names ON people(name)",
        f"{SCHEMA}; CREATE INDEX names ON people(name)",
    )
    a, b = (Replica(n, tmp_path / f"{n}.db", ddl, clock) for n, ddl in enumerate(schemas, 1))
    exchange(a, b)
    a.run("DROP INDEX Names")
    exchange(a, b)
    assert b.run("SELECT name FROM sqlite_schema WHERE type = 'index'") == [("names",)]
    b.run("DROP INDEX names", "CREATE INDEX NAMES ON people(name)", "INSERT INTO people VALUES(1, 'x')")
    exchange(a, b)
    assert a.tables() == b.tables()
    for replica in (a, b):
        replica.close()


def test_nothing_is_added_to_a_table_under_another_spelling(connection: apsw.Connection) -> None:
    other = wanted("table", "People", "CREATE TABLE People(id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
    assert make(connection, other) == [HELD]
    assert schema_of(connection) == [("people", SCHEMA)]


NUMBERS = "PRAGMA user_version = 7; PRAGMA application_id = -77"


def numbers(replica: Replica) -> list[tuple[int]]:
    """Return by what an app knows its file."""
    return replica.run("PRAGMA user_version") + replica.run("PRAGMA application_id")


def test_a_file_that_was_made_here_has_the_numbers_by_which_its_app_knows_it(tmp_path: Path) -> None:
    clock = Clock()
    a = Replica(1, tmp_path / "1.db", f"{SCHEMA}; {NUMBERS}", clock)
    b = Replica(2, tmp_path / "2.db", "CREATE TABLE made(x); DROP TABLE made", clock)
    exchange(a, b)
    assert numbers(a) == numbers(b) == [(7,), (-77,)]
    # What its app makes of it is its own affair, on each device.
    a.run("PRAGMA user_version = 8")
    assert a.scan()
    exchange(a, b)
    assert numbers(b)[0] == (7,)
    b.run("PRAGMA user_version = 9")
    exchange(a, b)
    assert (numbers(a)[0], numbers(b)[0]) == ((8,), (9,))
    assert a.scan() == b.scan() == 0
    for replica in (a, b):
        replica.close()


@pytest.mark.parametrize("value", ["1; DROP TABLE people", "", "99999999999", "4294967296", "x"])
def test_no_number_is_set_that_is_none_or_in_a_file_with_tables(
    connection: apsw.Connection, value: str
) -> None:
    assert make(connection, wanted("pragma", "user_version", "7")) == [HELD]
    with closing(apsw.Connection(":memory:")) as empty:
        people = wanted("table", "people", SCHEMA)
        states = make(empty, people, wanted("pragma", "user_version", value), wanted("pragma", "x", "7"))
        assert states[1:] == [HELD, HELD]
        assert schema_of(empty) == [("people", SCHEMA)]
