"""Plans and what an app does meanwhile: whatever hangs together with an edit waits until that is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from two_files import EVERYTHING, Clock, Replica, exchange

from p2psyncd.sources.source import Applied, Observation, Surprised

Pair = Callable[[str], tuple[Replica, Replica]]

NAMES = "CREATE TABLE names(id INTEGER PRIMARY KEY, name TEXT UNIQUE)"
ORDERS = (
    "CREATE TABLE orders(id INTEGER PRIMARY KEY, what);"
    'CREATE TABLE lines(id INTEGER PRIMARY KEY, "order" INTEGER REFERENCES orders, what)'
)


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


def test_a_row_that_the_app_deleted_is_not_one_that_gave_way(pair: Pair) -> None:
    a, b = pair(NAMES)
    a.run("INSERT INTO names VALUES (1, 'Ada')")
    a.scan()
    b.run("INSERT INTO names VALUES (2, 'Ada')")
    b.scan()
    b.receive(a.items())
    waiting = b.store.pending(limit=10)
    assert Surprised(key=waiting[0].item.key) in b.apply_once(waiting)  # its rival was just written
    assert list(b.source.scan(EVERYTHING)) == []
    b.run("DELETE FROM names")
    b.apply_once(waiting)
    exchange(a, b)
    assert a.tables() == b.tables() == {"names": ["(1, 'Ada')"]}
    a.run("DELETE FROM names")
    exchange(a, b)
    assert a.tables() == b.tables() == {"names": []}


def test_a_row_does_not_get_back_a_number_that_the_app_gave_away_again(pair: Pair) -> None:
    a, b = pair(ORDERS)
    b.run("INSERT INTO orders VALUES (1, 'of b')")
    b.scan()
    a.run("INSERT INTO orders VALUES (1, 'of a')")
    exchange(a, b)
    assert "(1, 'of b')" in b.tables()["orders"]
    b.run("DELETE FROM orders WHERE id = 1")
    found = [one for one in b.source.scan(EVERYTHING) if isinstance(one, Observation)]
    b.run("INSERT INTO orders VALUES (1, 'of b, too')")
    b.source.unsettle(b.ledger.record(b.source.confirm(found)))
    b.restate(b.source.reshow())
    assert [row.split(", ", 1)[1] for row in b.tables()["orders"]] == ["'of b, too')", "'of a')"]
    exchange(a, b)
    assert a.tables() == b.tables()
    assert len(a.tables()["orders"]) == 2


def test_a_child_waits_for_a_parent_that_has_to_wait(pair: Pair) -> None:
    a, b = pair(ORDERS)
    a.run("INSERT INTO orders VALUES (1, 'of a')", "INSERT INTO lines VALUES (7, 1, 'of a')")
    a.scan()
    b.run("INSERT INTO orders VALUES (1, 'of b')")
    b.receive(a.items())
    outcomes = b.apply_once(b.store.pending(limit=10))
    assert len(outcomes) == 2
    assert all(isinstance(one, Surprised) for one in outcomes)
    assert b.tables()["lines"] == []
    exchange(a, b)
    joined = 'SELECT o.what, l.what FROM orders o LEFT JOIN lines l ON l."order" = o.id ORDER BY 1'
    assert a.run(joined) == b.run(joined) == [("of a", "of a"), ("of b", None)]


def test_what_has_nothing_to_do_with_an_edit_does_not_wait(pair: Pair) -> None:
    a, b = pair(ORDERS)
    a.run("INSERT INTO orders VALUES (1, 'of a'), (2, 'of a')", "INSERT INTO lines VALUES (7, 2, 'of a')")
    a.scan()
    b.run("INSERT INTO orders VALUES (1, 'of b')")
    b.receive(a.items())
    outcomes = b.apply_once(b.store.pending(limit=10))
    assert [type(one) for one in sorted(outcomes, key=lambda one: one.key)] == [Applied, Surprised, Applied]
