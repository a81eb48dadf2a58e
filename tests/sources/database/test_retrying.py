from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.sources.database.keys import pack_key
from p2psyncd.sources.database.retrying import Retries
from p2psyncd.sources.database.show import Places

OLD = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
CHECKED = "CREATE TABLE t(id INTEGER PRIMARY KEY, v CHECK(v > 0))"
CODED = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, code TEXT NOT NULL DEFAULT 'none' UNIQUE)"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., list[Replica]]:
    """Makes a replica for each of some schemas."""
    clock = Clock()

    def make(*schemas: str) -> list[Replica]:
        return [Replica(n, tmp_path / f"{n}.db", ddl, clock) for n, ddl in enumerate(schemas, 1)]

    return make


@pytest.mark.parametrize("restarted", [False, True])
def test_a_row_is_shown_once_the_constraint_that_it_breaks_is_gone(
    made: Callable[..., list[Replica]],
    restarted: bool,
) -> None:
    old, new = made(OLD, CHECKED)
    old.run("INSERT INTO t VALUES(1, -1), (2, 2)")
    exchange(old, new)
    assert new.tables() == {"t": ["(2, 2)"]}
    new.run(
        "CREATE TABLE anew(id INTEGER PRIMARY KEY, v)",
        "INSERT INTO anew SELECT * FROM t",
        "DROP TABLE t",
        "ALTER TABLE anew RENAME TO t",
    )
    if restarted:
        new.open()
    new.scan()
    assert new.tables() == old.tables()


@pytest.mark.parametrize("change", ["DELETE FROM t WHERE id = 1", "UPDATE t SET code = 'one' WHERE id = 1"])
@pytest.mark.parametrize("here", [True, False])
def test_a_row_is_shown_once_another_one_lets_go_of_what_it_needs(
    made: Callable[..., list[Replica]],
    change: str,
    here: bool,
) -> None:
    old, new, other = made(OLD, CODED, CODED)
    old.run("INSERT INTO t VALUES(1, 'a'), (2, 'b')")
    exchange(old, new, other)
    assert new.tables() == {"t": ["(1, 'a', 'none')"]}
    (new if here else other).run(change)
    exchange(old, new, other)
    new.scan()
    assert "(2, 'b', 'none')" in new.tables()["t"]


def test_a_row_that_breaks_a_constraint_by_itself_waits_for_another_schema() -> None:
    places, retries = Places(), Retries()
    keys = [pack_key("t", (n,)) for n in range(4)]
    for key, winner in zip(keys, (b"", b"", b"", keys[0]), strict=True):
        places.hold(key, winner)
    assert retries.start(places) == set(keys[:3])
    assert retries.start(places) == set()
    retries.alone.add(keys[0])
    assert retries.due(places, {"t"}) == set(keys[1:3])
    assert retries.due(places, {"another"}) == set()
    retries.all = True
    assert retries.start(places) == set(keys[:3])
