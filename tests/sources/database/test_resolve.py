"""Whatever order the same rows come in, every device shows the same tables."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from two_files import Clock, Replica, exchange

SCHEMA = """
CREATE TABLE person(id INTEGER PRIMARY KEY, mail TEXT UNIQUE COLLATE NOCASE, nick TEXT UNIQUE, boss INTEGER
    REFERENCES person(id) ON DELETE SET NULL);
CREATE TABLE folder(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES folder(id) ON DELETE CASCADE, name TEXT,
    owner INTEGER REFERENCES person(id), UNIQUE(parent, name));
CREATE TABLE profile(person INTEGER PRIMARY KEY REFERENCES person(id) ON DELETE CASCADE, motto TEXT);
CREATE TABLE member(person INTEGER REFERENCES person(id) ON DELETE CASCADE, folder INTEGER REFERENCES folder(id),
    role TEXT, PRIMARY KEY(person, folder)) WITHOUT ROWID;
CREATE TABLE span(id INTEGER PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL, CHECK(low <= high));
CREATE TABLE phone(id INTEGER PRIMARY KEY, person INTEGER REFERENCES person(id) ON DELETE CASCADE, main INTEGER);
CREATE UNIQUE INDEX one_main ON phone(person) WHERE main > 1;
CREATE TABLE extra(person INTEGER REFERENCES profile(person) ON DELETE CASCADE, word TEXT COLLATE NOCASE,
    PRIMARY KEY(person, word));
CREATE TABLE word(word TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER UNIQUE);
"""

small = st.integers(1, 4)
letter = st.sampled_from(["a", "A", "b", "c"])
maybe = st.one_of(st.none(), small)
deeds = st.one_of(
    st.tuples(st.just("INSERT INTO person VALUES (?, ?, ?, ?)"), st.tuples(small, letter, letter, maybe)),
    st.tuples(
        st.just("INSERT OR REPLACE INTO person VALUES (?, ?, ?, ?)"), st.tuples(small, letter, letter, maybe)
    ),
    st.tuples(st.just("UPDATE person SET mail = ? WHERE id = ?"), st.tuples(letter, small)),
    st.tuples(st.just("UPDATE person SET nick = ? WHERE id = ?"), st.tuples(letter, small)),
    st.tuples(st.just("UPDATE person SET boss = ? WHERE id = ?"), st.tuples(maybe, small)),
    st.tuples(st.just("UPDATE person SET id = ? WHERE id = ?"), st.tuples(small, small)),
    st.tuples(st.just("DELETE FROM person WHERE id = ?"), st.tuples(small)),
    st.tuples(st.just("INSERT INTO folder VALUES (?, ?, ?, ?)"), st.tuples(small, maybe, letter, maybe)),
    st.tuples(st.just("UPDATE folder SET parent = ? WHERE id = ?"), st.tuples(maybe, small)),
    st.tuples(st.just("UPDATE folder SET name = ? WHERE id = ?"), st.tuples(letter, small)),
    st.tuples(st.just("DELETE FROM folder WHERE id = ?"), st.tuples(small)),
    st.tuples(st.just("INSERT INTO profile VALUES (?, ?)"), st.tuples(small, letter)),
    st.tuples(st.just("INSERT INTO member VALUES (?, ?, ?)"), st.tuples(small, small, letter)),
    st.tuples(st.just("DELETE FROM member WHERE person = ?"), st.tuples(small)),
    st.tuples(st.just("INSERT INTO span VALUES (?, ?, ?)"), st.tuples(small, small, small)),
    st.tuples(st.just("UPDATE span SET low = ? WHERE id = ?"), st.tuples(small, small)),
    st.tuples(st.just("UPDATE span SET high = ? WHERE id = ?"), st.tuples(small, small)),
    st.tuples(st.just("INSERT INTO phone VALUES (?, ?, ?)"), st.tuples(small, small, small)),
    st.tuples(st.just("UPDATE phone SET person = ? WHERE id = ?"), st.tuples(small, small)),
    st.tuples(st.just("INSERT INTO extra VALUES (?, ?)"), st.tuples(small, letter)),
    st.tuples(st.just("INSERT INTO word VALUES (?, ?)"), st.tuples(letter, small)),
    st.tuples(st.just("UPDATE word SET word = ? WHERE n = ?"), st.tuples(letter, small)),
    st.tuples(st.just("DELETE FROM word WHERE n = ?"), st.tuples(small)),
)
steps = st.lists(st.tuples(st.integers(0, 2), st.one_of(deeds, st.none())), min_size=1, max_size=25)


def run(replica: Replica, deed: tuple[str, tuple[Any, ...]]) -> None:
    """Be an app that does something, if its constraints let it."""
    sql, values = deed
    for value in values:
        sql = sql.replace("?", "NULL" if value is None else repr(value), 1)
    replica.attempt(sql)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, seed=st.integers(0, 1000))
def test_any_order_of_arrival_shows_the_same_tables(
    steps: Sequence[tuple[int, tuple[str, tuple[Any, ...]] | None]], seed: int
) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        replicas = [Replica(number, Path(folder, f"{number}.db"), SCHEMA, clock) for number in range(3)]
        try:
            for number, deed in steps:
                replica = replicas[number]
                if deed is not None:
                    run(replica, deed)
                    if random.random() < 0.8:
                        replica.scan()
                    continue
                other = random.choice([one for one in replicas if one is not replica])
                other.scan()
                items = other.items()
                replica.receive(items)
                waiting = replica.store.pending(limit=1000)
                random.shuffle(waiting)
                part = waiting[: random.randint(0, len(waiting))]
                replica.apply_once(part)
            exchange(*replicas)
            first, *others = [replica.tables() for replica in replicas]
            for other_tables in others:
                assert other_tables == first
            for replica in replicas:
                assert replica.scan() == 0
                assert replica.run("PRAGMA integrity_check") == [("ok",)]
        finally:
            for replica in replicas:
                replica.close()
