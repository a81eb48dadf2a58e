"""Rows in words."""

from __future__ import annotations

import pytest

from p2psyncd.daemon.row_text import cells_text, row_name, table_of, value_text
from p2psyncd.sources.database.keys import SCHEMA_TABLE, new_birth, pack_key
from p2psyncd.sources.database.values import Cell, RawText, Ref

BIRTH = new_birth(1_700_000_000_000, b"actor678")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "NULL"),
        (7, "7"),
        (-0.0, "-0.0"),
        ("it's", "'it''s'"),
        (b"\x00\xff", "x'00ff'"),
        (RawText(b"caf\xe9"), "'caf\\xe9'"),
        (Ref(5, BIRTH), "5"),
        ("x" * 200, "'" + "x" * 120 + "…'"),
    ],
)
def test_a_value_is_written_as_sql_would(value: Cell, text: str) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (pack_key("people", (7,)), "people 7"),
        (pack_key("people", (7,), BIRTH), "people 7"),
        (pack_key("a b", ("x/y", 2)), "a b x/y,2"),
        (pack_key("likes", (Ref(3, BIRTH), None)), "likes 3,NULL"),
        (pack_key(SCHEMA_TABLE, ("table", "people")), "schema table people"),
        (pack_key("long", ("x" * 2000,)), "long with a long key"),
        (b"no row's", "no row's"),
    ],
)
def test_a_row_is_named_by_its_table_and_key(key: bytes, name: str) -> None:
    assert row_name(key) == name


def test_a_row_that_is_shown_under_another_number_is_named_by_that() -> None:
    assert row_name(pack_key("people", (7,), BIRTH), (1_000_000_007,)) == "people 1000000007"


def test_a_table_is_named_even_where_it_is_the_schema() -> None:
    assert table_of(pack_key("people", (7,))) == "people"
    assert table_of(pack_key(SCHEMA_TABLE, ("index", "i"))) == "schema"
    assert table_of(b"nothing") == ""


def test_columns_are_listed_with_their_values() -> None:
    cells: dict[str, Cell] = {"name": "Ann", "age": 41}
    assert cells_text(cells) == "name: 'Ann', age: 41"
    assert cells_text(cells, ["age", "gone"]) == "age: 41"
