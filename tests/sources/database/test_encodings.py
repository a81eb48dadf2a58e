"""Files whose texts are UTF-16: what SQLite, or the other encoding, cannot keep as it is stays where it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from two_files import EVERYTHING, Clock, Replica, exchange

from p2psyncd.sources.source import ItemError

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, k TEXT UNIQUE)"
BYTES = "SELECT id, hex(v) FROM t ORDER BY id"


@pytest.fixture(params=["UTF-16le", "UTF-16be"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Replica, Replica]]:
    """One file in UTF-8, and one in UTF-16."""
    clock = Clock()
    a = Replica(1, tmp_path / "1.db", DDL, clock)
    b = Replica(2, tmp_path / "2.db", f"PRAGMA encoding = '{request.param}'; {DDL}", clock)
    yield a, b
    a.close()
    b.close()


def test_texts_are_the_same_in_both_encodings(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    a.run("INSERT INTO t VALUES (1, 'é😀', 'a'), (2, '', NULL)")
    b.run("INSERT INTO t VALUES (3, '\ufeffx', 'ü')")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert len(a.tables()["t"]) == 3
    assert a.scan() == b.scan() == 0
    assert not list(b.source.verify())


@pytest.mark.parametrize("text", ["CAST(x'6162ff' AS TEXT)", "char(65535)", "'a' || char(65534)"])
def test_a_text_that_utf_16_cannot_hold_is_not_shown_there_and_stays_as_it_was(
    pair: tuple[Replica, Replica], text: str
) -> None:
    a, b = pair
    a.run("INSERT INTO t VALUES (1, 'one', 'a'), (2, 'two', 'b')")
    exchange(a, b)
    a.run(f"UPDATE t SET v = {text} WHERE id = 2")
    before = a.run(BYTES)
    exchange(a, b)
    b.source.full = True
    exchange(a, b)
    assert a.run(BYTES) == before
    assert b.run("SELECT id, v FROM t") == [(1, "one")]
    a.run("UPDATE t SET v = 'two again' WHERE id = 2")
    exchange(a, b)
    assert b.run("SELECT id, v FROM t") == [(1, "one"), (2, "two again")]


def test_a_text_that_is_no_utf_16_does_not_travel_and_its_row_is_named(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    b.run("INSERT INTO t VALUES (1, 'one', 'a'), (2, 'two', 'b')")
    exchange(a, b)
    b.run(
        "UPDATE t SET v = CAST(x'd8d8d8d8' AS TEXT) WHERE id = 2", "UPDATE t SET v = 'changed' WHERE id = 1"
    )
    before = b.run(BYTES)
    for full in (False, True):
        b.source.full = full
        found = list(b.source.scan(EVERYTHING))
        assert [one.reason for one in found if isinstance(one, ItemError)]
    assert b.run(BYTES) == before
