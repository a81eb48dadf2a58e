"""Whatever order the same rows come in, every device shows the same tables."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from two_files import Clock, Replica, exchange

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import Dot
from p2psyncd.sources.database.keys import pack_key, unpack_key
from p2psyncd.sources.database.resolve import Constraints, Row, decide_claims, decide_numbers
from p2psyncd.sources.database.row import RowState, Stamp
from p2psyncd.sources.database.schema import Table, read_schema
from p2psyncd.sources.database.show import natural
from p2psyncd.sources.database.values import Cell, Value

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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


TAGS = "CREATE TABLE tag(id INTEGER PRIMARY KEY, name TEXT UNIQUE, up INTEGER REFERENCES tag(id), UNIQUE(up, id))"


def row(table: Table, number: int, written: int, birth: bytes = b"", **cells: Cell) -> Row:
    """Return a row to decide about, all of whose columns were written at one moment."""
    state = RowState(life=1, base=Stamp(written, b"somebody", written), cells={"id": number, **cells})
    key = pack_key(table.name, (number,), birth)
    item = Item(
        key=key,
        kind=Kind.ROW,
        digest=b"",
        size=0,
        meta=b"",
        dot=Dot(ActorId(b"somebody"), written),
        hlc=written,
    )
    return Row(key, unpack_key(key), table, None, item, state, state.cells, born=(number,))


@pytest.fixture
def tags() -> Constraints:
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(TAGS)
        return Constraints(read_schema(connection))


def held(constraints: Constraints, rows: Sequence[Row]) -> dict[bytes, bytes]:
    """Decide about some rows; return which are held, and for which."""
    by_key = {one.key: one for one in rows}

    def number(key: bytes) -> Value:
        return natural(unpack_key(by_key[key].winner or key if key in by_key else key))[0]

    decide_claims(by_key, constraints, number)
    return {one.key: one.winner for one in rows if one.held}


def test_the_earliest_claim_of_a_value_stands_and_a_held_row_claims_nothing(tags: Constraints) -> None:
    table = tags.schema.tables["tag"]
    first, second, third = (row(table, number, number, name="red") for number in (1, 2, 3))
    assert held(tags, [third, second, first]) == {second.key: first.key, third.key: first.key}
    assert held(tags, [third, second]) == {third.key: second.key}


def test_children_are_decided_after_all_parents_however_late_these_were_written() -> None:
    ddl = (
        "CREATE TABLE person(id INTEGER PRIMARY KEY, mail TEXT UNIQUE);"
        "CREATE TABLE tag(owner INTEGER REFERENCES person(id), word TEXT, PRIMARY KEY(owner, word))"
    )
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(ddl)
        constraints = Constraints(read_schema(connection))
    person, tag = (constraints.schema.tables[name] for name in ("person", "tag"))
    first, last = row(person, 3, 1, mail="m"), row(person, 1, 9, mail="m")
    # Both tags are one person's once it is clear that there is but one.
    early, late = row(tag, 7, 2, owner=1, word="a"), row(tag, 8, 4, owner=3, word="a")
    expected = {last.key: first.key, late.key: early.key}
    assert held(constraints, [first, last, early, late]) == expected
    assert held(constraints, [late, early, last, first]) == expected


def test_a_null_claims_nothing(tags: Constraints) -> None:
    table = tags.schema.tables["tag"]
    assert held(tags, [row(table, number, number, name=None) for number in (1, 2)]) == {}


@given(order=st.permutations(range(6)), numbers=st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_numbers_do_not_depend_on_the_order_in_which_rows_are_given(
    order: list[int], numbers: list[int]
) -> None:
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute(TAGS)
        table = read_schema(connection).tables["tag"]

    def decided(places: Sequence[int]) -> dict[bytes, object]:
        rows = [row(table, numbers[at], at, bytes([at + 1]) * 10) for at in places]
        groups: dict[int, list[Row]] = {}
        for one in sorted(rows, key=lambda one: one.key):
            groups.setdefault(int(one.born[0]), []).append(one)  # type: ignore[arg-type]
        decide_numbers(
            [group[0] for group in groups.values()],
            [one for g in groups.values() for one in g[1:]],
            lambda *_: False,
        )
        return {one.key: one.number for one in rows}

    given_now = decided(order)
    assert given_now == decided(range(6))
    assert len(set(given_now.values())) == len(given_now)


CHAIN = """
CREATE TABLE p(id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE c(id INTEGER PRIMARY KEY, pid INTEGER UNIQUE REFERENCES p(id), what TEXT);
CREATE TABLE g(id INTEGER PRIMARY KEY, cid INTEGER REFERENCES c(id));
"""


def test_values_are_decided_anew_where_a_parent_gets_the_number_back_that_it_was_born_with(
    tmp_path: Path,
) -> None:
    clock = Clock()
    a, b, unenforced, late = (Replica(n, tmp_path / f"{n}.db", CHAIN, clock) for n in range(1, 5))

    def give(source: Replica, *others: Replica) -> None:
        source.scan()
        for other in others:
            other.receive(source.items())
            other.apply()

    for replica, name in ((a, "G"), (b, "P")):
        replica.run(f"INSERT INTO p VALUES(5, '{name}')")
        replica.scan()
    give(a, late, b)
    give(b, late, a)
    # One refers to a number that it has no row of; another one to the row with the fresh number, whose own becomes free.
    unenforced.run("INSERT INTO c VALUES(200, 5, 'D')", "INSERT INTO g VALUES(1, 200)", foreign_keys=False)
    unenforced.scan()
    a.run("INSERT INTO c SELECT 100, id, 'C' FROM p WHERE name = 'P'", "INSERT INTO g VALUES(7, 100)")
    a.scan()
    a.run("DELETE FROM p WHERE id = 5", "UPDATE p SET name = 'P2' WHERE name = 'P'", foreign_keys=False)
    a.scan()
    late.receive(a.items())
    late.receive(unenforced.items())
    late.apply()
    exchange(a, b, unenforced, late)
    assert a.tables() == b.tables() == unenforced.tables() == late.tables()
    assert a.tables()["g"] == ["(1, 200)", "(7, 200)"]
    for replica in (a, b, unenforced, late):
        replica.close()
