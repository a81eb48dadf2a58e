"""Rows of one device come into the other's file: two stores and two files, without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from two_files import Clock, Replica, exchange

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
