from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import supersede
from p2psyncd.core.version import Dot
from p2psyncd.sources.database.fitting import Fitting
from p2psyncd.sources.database.keys import pack_key, unpack_key
from p2psyncd.sources.database.row import draft, inserted
from p2psyncd.sources.database.schema import read_schema
from p2psyncd.sources.database.show import reference_roots
from p2psyncd.sources.database.values import Cell, RawText, Ref

BIRTH = bytes(10)
NUMBERED = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
NAMED = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)"
BY_LANGUAGE = "CREATE TABLE t(id TEXT NOT NULL, lang TEXT NOT NULL DEFAULT 'en', v, PRIMARY KEY(id, lang))"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., list[Replica]]:
    """Makes a replica for each of some schemas."""
    clock = Clock()

    def make(*schemas: str) -> list[Replica]:
        return [Replica(n, tmp_path / f"{n}.db", ddl, clock) for n, ddl in enumerate(schemas, 1)]

    return make


@pytest.mark.parametrize(
    ("ddl", "pk", "birth", "fits"),
    [
        (NUMBERED, (5,), b"", True),
        (NUMBERED, (5,), BIRTH, True),
        (NUMBERED, ("5",), b"", False),
        (NUMBERED, (1.5,), b"", False),
        (NUMBERED, (Ref(5, BIRTH),), b"", False),
        (NUMBERED, (5, "en"), b"", False),
        (NUMBERED, ("long" * 500,), b"", False),
        ("CREATE TABLE t(id INT PRIMARY KEY)", ("long" * 500,), b"", True),
        ("CREATE TABLE t(id INT PRIMARY KEY)", ("5a",), b"", True),
        ("CREATE TABLE t(id INT PRIMARY KEY)", (" 5e0",), b"", False),
        ("CREATE TABLE t(id INT PRIMARY KEY)", (None,), b"", False),
        (NAMED, ("5",), b"", True),
        (NAMED, (RawText(b"\xff"),), b"", True),
        (NAMED, ("long" * 500,), b"", True),
        (NAMED, (5,), b"", False),
        (NAMED, (5,), BIRTH, False),
        (NAMED, (1.5,), b"", False),
        (BY_LANGUAGE, ("5", "en"), b"", True),
        (BY_LANGUAGE, ("5",), b"", False),
        (BY_LANGUAGE, ("5", None), b"", False),
        ("CREATE TABLE t(id REAL PRIMARY KEY)", (2**53 + 1,), b"", False),
        ("CREATE TABLE t(id REAL PRIMARY KEY)", (5,), b"", True),
        ("CREATE TABLE t(id PRIMARY KEY)", (b"x",), b"", True),
        (
            NUMBERED.replace("t(id", "p(id") + ";" + NUMBERED.replace("KEY", "KEY REFERENCES p"),
            (Ref(5, BIRTH),),
            b"",
            True,
        ),
    ],
)
def test_a_key_fits_a_table_whose_rows_can_have_it(
    ddl: str, pk: tuple[Cell, ...], birth: bytes, fits: bool
) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(ddl)
    schema = read_schema(connection)
    at = unpack_key(pack_key("t", pk, birth))
    assert Fitting(schema, reference_roots(schema)).fits(at, schema.tables["t"]) is fits


def test_a_row_waits_for_the_migration_that_gives_its_table_such_a_key(
    made: Callable[..., list[Replica]],
) -> None:
    new, old = made(BY_LANGUAGE, NAMED)
    new.run("INSERT INTO t VALUES('tea', 'en', 1), ('tea', 'de', 2)")
    old.run("INSERT INTO t VALUES('tea', 3), ('milk', 4)")
    exchange(new, old)
    assert new.tables() == {"t": ["('tea', 'de', 2)", "('tea', 'en', 1)"]}
    assert old.tables() == {"t": ["('milk', 4)", "('tea', 3)"]}
    old.run(
        "ALTER TABLE t RENAME TO was",
        BY_LANGUAGE,
        "INSERT INTO t(id, v) SELECT * FROM was WHERE id <> 'tea'",
        "DROP TABLE was",
    )
    exchange(new, old)
    assert new.tables() == old.tables()
    assert old.tables() == {"t": ["('milk', 'en', 4)", "('tea', 'de', 2)", "('tea', 'en', 1)"]}


@pytest.mark.parametrize("key", ["abc", "5", "long" * 500])
def test_tables_with_texts_and_with_numbers_for_their_key_come_to_rest(
    made: Callable[..., list[Replica]], key: str
) -> None:
    named, numbered = made(NAMED, NUMBERED)
    named.run(f"INSERT INTO t VALUES('{key}', 1)")
    numbered.run("INSERT INTO t VALUES(5, 2)")
    exchange(named, numbered)
    assert (named.tables(), numbered.tables()) == ({"t": [f"('{key}', 1)"]}, {"t": ["(5, 2)"]})
    # A migration that numbers all rows.
    named.run("ALTER TABLE t RENAME TO was", NUMBERED, "INSERT INTO t(v) SELECT v FROM was", "DROP TABLE was")
    exchange(named, numbered)
    assert named.tables() == numbered.tables() == {"t": ["(1, 1)", "(5, 2)"]}


def test_two_rows_whose_keys_begin_with_one_number_are_both_gone_after_their_table_is_numbered(
    made: Callable[..., list[Replica]],
) -> None:
    a, b = made(*["CREATE TABLE t(id INTEGER, lang TEXT, v, PRIMARY KEY(id, lang))"] * 2)
    a.run("INSERT INTO t VALUES(5, 'de', 1), (5, 'en', 2)")
    exchange(a, b)
    a.run("DROP TABLE t", NUMBERED)
    exchange(a, b)
    assert b.tables() == {"t": []}


def test_a_peers_row_with_a_key_that_no_row_here_can_have_harms_nothing(
    made: Callable[..., list[Replica]],
) -> None:
    (a,) = made(BY_LANGUAGE)
    for n, (pk, birth) in enumerate(
        [(("x",), b""), ((5,), BIRTH), (("x", None), b""), (("x", "en", 1), b"")]
    ):
        cells = inserted({"id": "x", "lang": "en", "v": 1})
        item = supersede(draft(pack_key("t", pk, birth), cells), Dot(ActorId(b"\x09" * 8), n + 1), 5)
        a.receive([item])
    a.apply()
    a.source.full = True
    a.scan()
    assert a.tables() == {"t": []}


def test_a_reference_that_only_a_newer_schema_declares_is_a_number_in_the_older_one(
    made: Callable[..., list[Replica]],
) -> None:
    author = "CREATE TABLE author(id INTEGER PRIMARY KEY, name);"
    new, old = made(
        author + "CREATE TABLE book(id INTEGER PRIMARY KEY, author INTEGER REFERENCES author(id))",
        author + "CREATE TABLE book(id INTEGER PRIMARY KEY, author INTEGER)",
    )
    new.run("INSERT INTO author VALUES(1, 'Ada')", "INSERT INTO book VALUES(1, 1)")
    exchange(new, old)
    assert old.tables() == new.tables() == {"author": ["(1, 'Ada')"], "book": ["(1, 1)"]}
