"""Orphans: a parent deleted on one device, a child given to it on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.core.item import Item
from p2psyncd.sources.database.keys import unpack_key
from p2psyncd.sources.database.mend import Mender
from p2psyncd.sources.database.schema import Table

Pair = Callable[[str], tuple[Replica, Replica]]


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


def family(reference: str) -> str:
    return (
        "CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT);"
        f"CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER DEFAULT 2 REFERENCES parent(id) {reference});"
        "CREATE TABLE grandchild(id INTEGER PRIMARY KEY, child INTEGER REFERENCES child(id) ON DELETE CASCADE)"
    )


def delete_here_add_there(pair: Pair, reference: str) -> dict[str, list[str]]:
    """Delete a parent on one side and give it a child on the other; return what is there then, on both."""
    a, b = pair(family(reference))
    a.run("INSERT INTO parent VALUES (1, 'one'), (2, 'two')")
    exchange(a, b)
    a.run("DELETE FROM parent WHERE id = 1")
    b.run("INSERT INTO child VALUES (1, 1)", "INSERT INTO grandchild VALUES (1, 1)")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.run("PRAGMA foreign_key_check") == []
    assert a.scan() == b.scan() == 0
    return a.tables()


def test_cascade_deletes_the_child_and_its_children(pair: Pair) -> None:
    there = delete_here_add_there(pair, "ON DELETE CASCADE")
    assert there == {"parent": ["(2, 'two')"], "child": [], "grandchild": []}


@pytest.mark.parametrize("reference", ["", "ON DELETE RESTRICT", "ON DELETE NO ACTION"])
def test_a_parent_that_may_not_be_deleted_comes_back(pair: Pair, reference: str) -> None:
    there = delete_here_add_there(pair, reference)
    assert there == {"parent": ["(1, 'one')", "(2, 'two')"], "child": ["(1, 1)"], "grandchild": ["(1, 1)"]}


def test_set_null_lets_go_of_the_parent(pair: Pair) -> None:
    there = delete_here_add_there(pair, "ON DELETE SET NULL")
    assert there == {"parent": ["(2, 'two')"], "child": ["(1, None)"], "grandchild": ["(1, 1)"]}


def test_set_default_gives_the_child_to_the_default_parent(pair: Pair) -> None:
    there = delete_here_add_there(pair, "ON DELETE SET DEFAULT")
    assert there == {"parent": ["(2, 'two')"], "child": ["(1, 2)"], "grandchild": ["(1, 1)"]}


def test_set_null_on_a_column_that_cannot_be_null_brings_the_parent_back(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE parent(id INTEGER PRIMARY KEY);"
        "CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parent(id) ON DELETE SET NULL)"
    )
    a.run("INSERT INTO parent VALUES (1)")
    exchange(a, b)
    a.run("DELETE FROM parent")
    b.run("INSERT INTO child VALUES (1, 1)")
    exchange(a, b)
    assert a.tables() == b.tables() == {"parent": ["(1,)"], "child": ["(1, 1)"]}


def test_a_tree_is_deleted_whole_with_a_branch_that_grew_elsewhere(pair: Pair) -> None:
    a, b = pair("CREATE TABLE node(id INTEGER PRIMARY KEY, up INTEGER REFERENCES node(id) ON DELETE CASCADE)")
    a.run("INSERT INTO node VALUES (1, NULL), (2, 1), (3, 2)")
    exchange(a, b)
    a.run("DELETE FROM node WHERE id = 1")
    b.run("INSERT INTO node VALUES (4, 3), (5, 4)")
    exchange(a, b)
    assert a.tables() == b.tables() == {"node": []}


def test_a_parent_comes_back_with_its_own_parents(pair: Pair) -> None:
    a, b = pair("CREATE TABLE node(id INTEGER PRIMARY KEY, up INTEGER REFERENCES node(id))")
    a.run("INSERT INTO node VALUES (1, NULL), (2, 1)")
    exchange(a, b)
    a.run("DELETE FROM node WHERE id = 2", "DELETE FROM node WHERE id = 1")
    b.run("INSERT INTO node VALUES (3, 2)")
    exchange(a, b)
    assert a.tables() == b.tables() == {"node": ["(1, None)", "(2, 1)", "(3, 2)"]}


def test_an_app_that_leaves_orphans_keeps_them(pair: Pair) -> None:
    a, b = pair(family("ON DELETE CASCADE"))
    a.run("INSERT INTO parent VALUES (1, 'one')", "INSERT INTO child VALUES (1, 1)")
    exchange(a, b)
    a.run("DELETE FROM parent", foreign_keys=False)
    b.run("INSERT INTO child VALUES (2, 77)", foreign_keys=False)
    exchange(a, b)
    assert a.tables() == b.tables() == {"parent": [], "child": ["(1, 1)", "(2, 77)"], "grandchild": []}


def test_a_child_that_comes_before_its_parent_waits_for_nothing(pair: Pair) -> None:
    a, b = pair(family(""))
    a.run("INSERT INTO parent VALUES (1, 'one')", "INSERT INTO child VALUES (1, 1)")
    a.scan()
    parents = [item for item in a.items() if item.key.startswith(b"parent/")]
    b.receive([item for item in a.items() if item not in parents])
    b.apply()
    b.receive(parents)
    b.apply()
    assert a.tables() == b.tables()
    assert b.scan() == 0


def test_a_reference_by_another_unique_column_goes_with_its_parent(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE country(id INTEGER PRIMARY KEY, code TEXT UNIQUE);"
        "CREATE TABLE city(id INTEGER PRIMARY KEY, country TEXT REFERENCES country(code) ON DELETE CASCADE)"
    )
    a.run("INSERT INTO country VALUES (1, 'DE')", "INSERT INTO city VALUES (1, 'DE')")
    exchange(a, b)
    a.run("DELETE FROM country")
    b.run("INSERT INTO city VALUES (2, 'DE')")
    exchange(a, b)
    assert a.tables() == b.tables() == {"country": [], "city": []}


@pytest.mark.parametrize("reference", ["pair", "pair(nix)"])
def test_rows_with_a_reference_that_does_not_fit_its_parent_are_synced(pair: Pair, reference: str) -> None:
    a, b = pair(
        "CREATE TABLE pair(a, b, PRIMARY KEY(a, b));"
        f"CREATE TABLE child(id INTEGER PRIMARY KEY, v, p REFERENCES {reference})"
    )
    a.run("INSERT INTO child VALUES (1, 'v', 'x')", foreign_keys=False)
    a.run("INSERT INTO pair VALUES ('x', 1)", foreign_keys=False)
    exchange(a, b)
    b.run("DELETE FROM pair", foreign_keys=False)
    a.run("UPDATE child SET v = 'w'", foreign_keys=False)
    exchange(a, b)
    assert a.tables() == b.tables() == {"child": ["(1, 'w', 'x')"], "pair": []}


@pytest.mark.parametrize(
    ("default", "children"), [("none", ["(1, 'none')"]), ("(only_the_app_has())", ["(1, 'x')"])]
)
def test_a_default_parent_may_be_a_bare_word_and_the_parent_comes_back_where_only_the_app_knows_it(
    pair: Pair, default: str, children: list[str]
) -> None:
    a, b = pair(
        "CREATE TABLE parent(id TEXT PRIMARY KEY);"
        f"CREATE TABLE child(id INTEGER PRIMARY KEY, p TEXT DEFAULT {default}"
        " REFERENCES parent(id) ON DELETE SET DEFAULT)"
    )
    a.run("INSERT INTO parent VALUES ('none'), ('x')")
    exchange(a, b)
    a.run("DELETE FROM parent WHERE id = 'x'", foreign_keys=False)
    b.run("INSERT INTO child VALUES (1, 'x')")
    exchange(a, b)
    assert a.tables() == b.tables()
    assert b.tables()["child"] == children


def test_a_row_that_cannot_be_looked_after_keeps_nothing_else_back_and_is_named(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(family("ON DELETE CASCADE"))
    a.run("INSERT INTO parent VALUES (1, 'one'), (2, 'two')")
    exchange(a, b)
    a.run("DELETE FROM parent WHERE id = 1")
    b.run("INSERT INTO child VALUES (1, 1), (2, 2)")
    through = Mender.with_parents

    def with_parents(self: Mender, table: Table, child: Item) -> Iterator[Any]:
        if unpack_key(child.key).pk == (2,) and table.name == "child":
            raise LookupError("no such thing")
        yield from through(self, table, child)

    monkeypatch.setattr(Mender, "with_parents", with_parents)
    exchange(a, b)
    assert a.tables() == b.tables()
    assert a.tables()["child"] == ["(2, 2)"]
    assert ["LookupError at test_mend.py" in reason for reason in b.source.unmendable.values()] == [True]


def test_what_an_app_kept_from_being_mended_by_a_lock_is_mended_by_the_next_process(pair: Pair) -> None:
    a, b = pair("PRAGMA journal_mode = DELETE;" + family("ON DELETE CASCADE"))
    a.run("INSERT INTO parent VALUES (1, 'one'), (2, 'two')")
    exchange(a, b)
    a.run("DELETE FROM parent WHERE id = 1")
    b.run("INSERT INTO child VALUES (1, 1)")
    for replica in (a, b):
        replica.scan()
    with closing(apsw.Connection(str(b.path))) as app:
        app.execute("BEGIN EXCLUSIVE")
        b.receive(a.items())
    assert b.source.unmended
    b.open()
    assert b.source.unmended
    b.scan()
    assert not b.source.unmended
    b.apply()
    assert b.tables() == {"parent": ["(2, 'two')"], "child": [], "grandchild": []}
    b.open()
    assert not b.source.unmended
