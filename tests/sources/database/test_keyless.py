from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from two_files import EVERYTHING, Clock, Replica, exchange

from p2psyncd.sources.database.keyless import drop_keyless
from p2psyncd.sources.source import ItemError, Observation

BY_HAND = "CREATE TABLE t(id INT PRIMARY KEY, v)"
PAIRS = "CREATE TABLE t(a TEXT, b TEXT NOT NULL, v, PRIMARY KEY(b, a))"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def looked_at(replica: Replica) -> Iterator[str]:
    """Scan, record what is found, and yield what is wrong."""
    found = list(replica.source.scan(EVERYTHING))
    replica.ledger.record(replica.source.confirm([one for one in found if isinstance(one, Observation)]))
    yield from (f"{one.key.decode()}: {one.reason}" for one in found if isinstance(one, ItemError))


@pytest.mark.parametrize("ddl", [BY_HAND, BY_HAND.replace("INT", "TEXT")])
def test_rows_without_a_key_are_reported_and_left_as_they_are(tmp_path: Path, clock: Clock, ddl: str) -> None:
    a, b = Replica(1, tmp_path / "a.db", ddl, clock), Replica(2, tmp_path / "b.db", ddl, clock)
    for replica in (a, b):
        replica.run("INSERT INTO t(v) VALUES('one')", "INSERT INTO t(v) VALUES('two')")
        (error,) = looked_at(replica)
        assert error.startswith("t/-/n: 2 rows have NULL in the primary key")
    b.run("UPDATE t SET v = 'edited' WHERE v = 'one'", "INSERT INTO t(v) VALUES('three')")
    assert list(looked_at(b)) == list(looked_at(b)) != []
    b.open()  # as a process that starts does
    assert list(looked_at(b)) != []
    a.receive(b.items())
    a.apply_once(a.store.pending(limit=10))
    assert a.tables() == {"t": ["(None, 'one')", "(None, 'two')"]}
    b.run("UPDATE t SET id = rowid + 6")
    a.run("DELETE FROM t")
    exchange(a, b)
    keys = (7, 8, 9) if "INT" in ddl else ("7", "8", "9")
    values = ("edited", "two", "three")
    assert a.tables() == b.tables() == {"t": [repr(row) for row in zip(keys, values, strict=True)]}


def test_rows_that_lack_a_part_of_their_key_are_neither_recorded_nor_copied(
    tmp_path: Path, clock: Clock
) -> None:
    a = Replica(1, tmp_path / "a.db", PAIRS, clock)
    a.run("INSERT INTO t VALUES('a', 'b', 1), (NULL, 'b', 2), (NULL, 'b', 3)")
    (error,) = looked_at(a)
    assert error.startswith("t/-/'b,n: 2 rows")
    assert [item.key for item in a.items() if item.key.startswith(b"t/")] == [b"t/-/'b,'a"]
    a.source.full = True
    assert set(looked_at(a)) == {error}
    with a.source.access.writing(quiet=True) as connection:
        drop_keyless(connection, a.source.current_schema())
    assert a.tables() == {"t": ["('a', 'b', 1)"]}
    assert list(looked_at(a)) == []


def test_a_row_waits_while_one_without_a_key_has_its_unique_value(tmp_path: Path, clock: Clock) -> None:
    ddl = "CREATE TABLE t(id TEXT PRIMARY KEY, u UNIQUE)"
    a, b = (Replica(n, tmp_path / f"{n}.db", ddl, clock) for n in (1, 2))
    a.run("INSERT INTO t VALUES('a', 1)")
    b.run("INSERT INTO t VALUES(NULL, 1)")
    a.scan()
    assert list(looked_at(b)) != []
    b.receive(a.items())
    b.apply()
    assert b.tables() == {"t": ["(None, 1)"]}
    b.run("UPDATE t SET id = 'b', u = 2")
    exchange(a, b)
    assert a.tables() == b.tables() == {"t": ["('a', 1)", "('b', 2)"]}


def test_a_key_that_becomes_null_takes_its_row_from_the_others(tmp_path: Path, clock: Clock) -> None:
    a, b = (Replica(n, tmp_path / f"{n}.db", BY_HAND, clock) for n in (1, 2))
    a.run("INSERT INTO t VALUES(1, 'one'), (2, 'two')")
    exchange(a, b)
    a.run("UPDATE t SET id = NULL WHERE id = 1")
    (error,) = looked_at(a)
    assert error.startswith("t/-/n: a row has NULL")
    b.receive(a.items())
    b.apply()
    assert b.tables() == {"t": ["(2, 'two')"]}
