"""Looks at a file that is not in WAL mode: apps go on writing, nothing that they write is missed, and there is an end to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from two_files import EVERYTHING, Clock, Replica, exchange

from p2psyncd.sources.database.file import DatabaseFile
from p2psyncd.sources.database.moments import SchemaChanged, Steps
from p2psyncd.sources.database.rows import PAGE_BYTES, PAGE_ROWS, Rows
from p2psyncd.sources.database.scan import TOLD_MAX
from p2psyncd.sources.database.schema import read_schema
from p2psyncd.sources.source import ItemError, Observation

ROWS = PAGE_ROWS + 100
DDL = f"""
    CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < {ROWS}) INSERT INTO t SELECT n, 'old' FROM k;
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas, in rollback-journal mode."""
    clock = Clock()
    a, b = (Replica(number, tmp_path / f"{number}.db", DDL, clock) for number in (1, 2))
    yield a, b
    a.close()
    b.close()


def at_connection(replica: Replica, number: int, act: Callable[[], object]) -> None:
    """Do something right before a look opens the file for the n-th time from now."""
    left = [number]

    def prepare(_: apsw.Connection) -> None:
        left[0] -= 1
        if not left[0]:
            act()

    assert isinstance(replica.source.access, DatabaseFile)
    replica.source.access.prepare = prepare


def keys(found: list[object]) -> list[bytes]:
    """Return which rows were seen to have changed."""
    return sorted(one.draft.key for one in found if isinstance(one, Observation))


def test_an_app_can_write_while_a_look_at_every_row_goes_on(tmp_path: Path) -> None:
    replica = Replica(1, tmp_path / "1.db", DDL, Clock())
    replica.run("CREATE TABLE other(id INTEGER PRIMARY KEY, v)", "UPDATE t SET v = 'new'")
    look = replica.source.scan(EVERYTHING)
    next(look)
    with closing(apsw.Connection(str(replica.path))) as app:  # which does not wait for a lock
        app.execute("UPDATE t SET v = 'newer' WHERE id = 7")
    with replica.source.access.writing(quiet=True) as connection:
        connection.execute("INSERT INTO other VALUES(1, 1)")
    look.close()
    replica.close()


@pytest.mark.parametrize("moment", range(2, 6))
def test_what_an_app_writes_in_one_transaction_during_a_look_at_every_row_is_found_together(
    pair: tuple[Replica, Replica], moment: int
) -> None:
    a, b = pair
    a.source.full = True
    at_connection(
        a,
        moment,
        lambda: a.run(
            "UPDATE t SET v = 'new' WHERE id = 1",
            f"UPDATE t SET v = 'new' WHERE id = {ROWS}",
            "INSERT INTO t VALUES(99999, 'born')",
            f"DELETE FROM t WHERE id = {ROWS - 1}",
        ),
    )
    found = keys(list(a.source.scan(EVERYTHING)))
    assert len(found) in {0, 4}  # before it, or all of it
    a.scan()
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.run("SELECT id FROM t WHERE v IS NOT 'old'") == [(1,), (ROWS,), (99999,)]


def test_a_row_that_was_found_and_is_written_again_before_it_is_recorded_is_found_as_it_is_then(
    pair: tuple[Replica, Replica],
) -> None:
    a, b = pair
    with closing(apsw.Connection(str(a.path))) as app:
        app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        app.execute("UPDATE t SET v = 'unseen' WHERE id = 1")
    a.source.full = True
    at_connection(a, 4, lambda: a.run("UPDATE t SET v = 'seen' WHERE id = 1"))
    a.scan()
    assert a.source.take_busy() == EVERYTHING
    exchange(a, b)
    assert b.run("SELECT v FROM t WHERE id = 1") == [("seen",)]


@pytest.mark.parametrize("moment", range(1, 6))
def test_a_look_begins_again_where_the_app_changes_its_tables_meanwhile(
    pair: tuple[Replica, Replica], moment: int
) -> None:
    a, b = pair
    a.run("UPDATE t SET v = 'new' WHERE id = 1", "CREATE TABLE gone(id INTEGER PRIMARY KEY)")
    at_connection(
        a,
        moment,
        lambda: a.run("DROP TABLE gone", "ALTER TABLE t RENAME COLUMN v TO w", "DELETE FROM t WHERE id = 2"),
    )
    a.scan()
    a.scan()
    assert not list(a.source.verify())
    b.run("ALTER TABLE t RENAME COLUMN v TO w")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.run("SELECT id FROM t WHERE w = 'new'") == [(1,)]


def test_rows_that_are_written_while_they_are_verified_are_no_errors(pair: tuple[Replica, Replica]) -> None:
    a, _ = pair
    at_connection(a, 3, lambda: a.run("UPDATE t SET v = 'new'", "DELETE FROM t WHERE id < 10"))
    assert not list(a.source.verify())


def test_steps_tell_that_the_tables_have_changed(pair: tuple[Replica, Replica]) -> None:
    a, _ = pair
    assert a.source.schema is not None
    steps = Steps(a.source.access.reading, a.source.schema, leave_touched=True)
    a.run("CREATE TABLE other(id INTEGER PRIMARY KEY)")
    with pytest.raises(SchemaChanged), steps.open():
        pass


def test_an_apply_ends_with_the_tables_that_it_began_with(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    b.run("UPDATE t SET v = 'of b' WHERE id = 1")
    b.scan()
    a.receive(b.items())
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        narrower = read_schema(connection)
    assert a.source.row_applier is not None
    at_connection(a, 1, lambda: a.source.applier.adopt(narrower))
    a.apply_once(a.store.pending(limit=10))
    assert a.run("SELECT v FROM t WHERE id = 1") == [("of b",)]


TABLES = {
    "numbers": "CREATE TABLE t(a, id INTEGER PRIMARY KEY, v)",
    "texts": "CREATE TABLE t(a, id TEXT PRIMARY KEY, v)",
    "no rowid": "CREATE TABLE t(a TEXT COLLATE NOCASE, id, v, PRIMARY KEY(id, a COLLATE RTRIM)) WITHOUT ROWID",
    "NULLs": "CREATE TABLE t(a, id UNIQUE, v, PRIMARY KEY(a, id))",
    "names taken": "CREATE TABLE t(a, id PRIMARY KEY, v, rowid, oid, _rowid_)",
    "some names taken": "CREATE TABLE t(a, id PRIMARY KEY, v, RowID, oid)",
}


@pytest.mark.parametrize("ddl", TABLES.values(), ids=TABLES)
def test_pages_hold_every_row_once(ddl: str) -> None:
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(ddl)
        fill = "INSERT INTO t(a, id, v) VALUES(?, ?, ?)"
        if "WITHOUT ROWID" in ddl:
            connection.executemany(fill, ((f"{'xX'[n % 2]}{n}", n % 50, n) for n in range(ROWS)))
        else:
            connection.executemany(fill, ((None, n, n) for n in range(ROWS)))
        connection.execute(fill, ("a", 99_999, bytes(PAGE_BYTES)))
        connection.execute("UPDATE t SET v = CAST(x'ff' AS TEXT) WHERE id = 3")
        table = read_schema(connection).tables["t"]
        rows = Rows(connection)
        found, page = [], rows.page(table, None)
        while page.after is not None:
            found += page.rows
            page = rows.page(table, page.after)
        found += page.rows
        assert sorted(map(repr, found)) == sorted(map(repr, rows.all(table)))


def looks_asked_for(replica: Replica) -> int:
    """Return how often a replica looks before it waits for something to happen."""
    for looks in range(1, 20):
        found = list(replica.source.scan(EVERYTHING))
        replica.ledger.record(replica.source.confirm([one for one in found if isinstance(one, Observation)]))
        if not replica.source.take_busy().subtrees:
            return looks
    raise AssertionError


def test_what_is_never_recorded_is_not_looked_at_for_ever(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    a.run("INSERT INTO t VALUES (99998, zeroblob(5000000))")
    assert looks_asked_for(a) == TOLD_MAX
    assert any(isinstance(one, ItemError) for one in a.source.scan(EVERYTHING))
    b.ledger.announces = False
    b.run("INSERT INTO t VALUES (99999, 'in a share that only receives')")
    assert looks_asked_for(b) == TOLD_MAX
    b.run("UPDATE t SET v = 'written again' WHERE id = 99999")
    assert looks_asked_for(b) == TOLD_MAX


def test_what_is_recorded_at_the_second_look_is_settled_with_the_third(pair: tuple[Replica, Replica]) -> None:
    a, _ = pair
    a.run("INSERT INTO t VALUES (99998, 'x')")
    list(a.source.scan(EVERYTHING))  # which nobody recorded
    assert looks_asked_for(a) == 2
