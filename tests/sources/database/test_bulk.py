"""Rows that are put in place without a plan: which ones, and that they end as a plan would have it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.core.storage import Pending
from p2psyncd.sources.database import apply as applying
from p2psyncd.sources.database.bulk import without_a_plan
from p2psyncd.sources.database.prepare import Prepared, prepare, prepare_plain
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.source import Applied, Failed

SCHEMA = """
CREATE TABLE place(id INTEGER PRIMARY KEY, name TEXT, size INTEGER CHECK(size < 100));
CREATE TABLE visit(id INTEGER PRIMARY KEY, place INTEGER REFERENCES place(id), note);
CREATE TABLE account(id INTEGER PRIMARY KEY, mail TEXT UNIQUE);
CREATE TABLE word(word TEXT PRIMARY KEY, note);
"""
Make = Callable[..., Replica]


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Make]:
    """Makes replicas."""
    made: list[Replica] = []
    clock = Clock()

    def make(ddl: str = SCHEMA) -> Replica:
        number = len(made) + 1
        made.append(Replica(number, tmp_path / f"{number}.db", ddl, clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sent(sender: Replica, receiver: Replica) -> list[Pending]:
    """Return what of one replica waits in the other one."""
    sender.scan()
    receiver.receive(sender.items())
    return receiver.store.pending(limit=1000)


def simple_of(receiver: Replica, batch: Sequence[Pending], edited: Sequence[str] = ()) -> set[str]:
    """Return the places of those that need no plan, as texts."""
    constraints = receiver.source.applier.constraints
    prepared, rest = prepare_plain(batch, constraints)
    for one in prepared:
        alone = prepare(one.pending, constraints)
        assert isinstance(alone, Prepared)
        assert one.plain
        assert (one.table, one.goal, one.place, one.hash) == (
            alone.table,
            alone.goal,
            alone.place,
            alone.hash,
        )
        assert (one.at, one.state) == (alone.at, alone.state)
        assert [*one.goal] == [*alone.goal]
    prepared += [found for one in rest if isinstance(found := prepare(one, constraints), Prepared)]
    with receiver.source.access.reading() as connection:
        simple, others = without_a_plan(prepared, constraints, Rows(connection), edited)
    assert len(simple) + len(others) == len(prepared)
    return {f"{one.at.table} {one.place[0]}" for one in simple}


def test_new_rows_of_a_table_without_unique_values_and_references_need_no_plan(replica: Make) -> None:
    a, b = replica(), replica()
    a.run(
        "INSERT INTO place VALUES (1, 'one', 1), (2, 'two', 2)",
        "INSERT INTO visit VALUES (1, 1, 'x')",
        "INSERT INTO account VALUES (1, 'm')",
        "INSERT INTO word VALUES ('w', 1)",
    )
    batch = sent(a, b)
    assert simple_of(b, batch) == {"place 1", "place 2"}
    assert simple_of(b, batch, ["account"]) == {"place 1", "place 2"}
    assert simple_of(b, batch, ["place"]) == set()


def test_values_that_a_column_converts_are_not_put_in_place_as_they_are(replica: Make) -> None:
    ddl = "CREATE TABLE place(id INTEGER PRIMARY KEY, size {}); CREATE TABLE other(id INTEGER PRIMARY KEY, size {})"
    a, b = replica(ddl.format("", "")), replica(ddl.format("REAL", "TEXT"))
    a.run("INSERT INTO place VALUES (1, 0.5), (2, NULL)", "INSERT INTO other VALUES (1, 't'), (2, 7)")
    assert simple_of(b, sent(a, b)) == {"place 1", "place 2"}
    a.run("INSERT INTO place VALUES (3, -0.0), (4, 7)")
    exchange(a, b)
    assert b.run("SELECT id, typeof(size) FROM place") == [(1, "real"), (2, "null"), (3, "real"), (4, "real")]
    assert b.scan() == 0


def test_a_row_whose_number_is_taken_or_came_twice_needs_one(replica: Make) -> None:
    a, b, c = replica(), replica(), replica()
    a.run("INSERT INTO place VALUES (1, 'a', 1), (2, 'a', 1), (3, 'a', 1)")
    c.run("INSERT INTO place VALUES (2, 'c', 1)")
    b.run("INSERT INTO place VALUES (3, 'b', 1)")
    b.scan()
    sent(c, b)
    assert simple_of(b, sent(a, b)) == {"place 1"}
    exchange(a, b, c)
    assert a.tables() == b.tables() == c.tables()
    assert len(a.tables()["place"]) == 5


def test_an_edit_or_a_delete_needs_one(replica: Make) -> None:
    a, b = replica(), replica()
    a.run("INSERT INTO place VALUES (1, 'one', 1), (2, 'two', 2)")
    exchange(a, b)
    a.run("UPDATE place SET name = 'first' WHERE id = 1", "DELETE FROM place WHERE id = 2")
    assert simple_of(b, sent(a, b)) == set()


def test_rows_that_break_a_constraint_here_are_found_among_those_that_came_without_a_plan(
    replica: Make,
) -> None:
    a, b = replica(SCHEMA.replace("size < 100", "size < 1000")), replica()
    a.run("INSERT INTO place VALUES (1, 'one', 1), (2, 'large', 500), (3, 'three', 3)")
    outcomes = b.apply_once(sent(a, b))
    assert not any(isinstance(one, Failed) for one in outcomes)
    assert b.run("SELECT id FROM place ORDER BY id") == [(1,), (3,)]


def test_what_was_put_in_place_without_a_plan_is_known_after_a_kill(replica: Make) -> None:
    a, b = replica(), replica()
    a.run("INSERT INTO place VALUES (1, 'one', 1), (2, 'two', 2)")
    batch = sent(a, b)
    outcomes = b.source.apply(batch)
    assert sum(isinstance(one, Applied) for one in outcomes) == len(batch)
    b.open()  # as the next process does: the store had no word of it
    assert not [one for one in b.store.pending(limit=10) if one.item.key.startswith(b"place")]
    assert b.scan() == 0


@pytest.mark.parametrize("seed", range(6))
def test_with_and_without_a_plan_the_outcome_is_the_same(
    replica: Make, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    writers = [replica(), replica()]
    for _ in range(4):
        for one in writers:
            for _ in range(12):
                number, other = chance.randrange(1, 30), chance.randrange(1, 30)
                one.attempt(
                    chance.choice(
                        [
                            f"INSERT INTO place VALUES ({number}, 'p{other}', {other})",
                            f"INSERT INTO visit VALUES ({number}, {other}, {other})",
                            f"INSERT INTO account VALUES ({number}, 'm{other}')",
                            f"UPDATE place SET size = {other} WHERE id = {number}",
                            f"DELETE FROM place WHERE id = {number}",
                        ]
                    ),
                    foreign_keys=chance.random() < 0.5,
                )
            one.scan()
        if chance.random() < 0.5:
            exchange(*writers)
    shown = []
    for planned in (False, True):
        if planned:
            monkeypatch.setattr(applying, "without_a_plan", lambda batch, *_: ([], batch))
        reader = replica()
        for writer in writers:
            reader.receive(writer.items())
        reader.apply()
        assert reader.scan() == 0
        shown.append(reader.tables())
    assert shown[0] == shown[1]
