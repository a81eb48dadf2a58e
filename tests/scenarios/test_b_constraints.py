"""Scenarios B9 to B12: what each device could write alone, and both together break a constraint."""

from __future__ import annotations

import pytest
from tables import Tables, cells

ACCOUNTS = "CREATE TABLE account (id INTEGER PRIMARY KEY, mail TEXT UNIQUE, name TEXT)"


async def test_b9_of_two_with_one_mail_address_one_is_held_until_the_other_goes(book: Tables) -> None:
    await book.begin_with(ACCOUNTS)
    await book.part()
    await book.done(0, "INSERT INTO account VALUES (7, 'e@x', 'Eve')")
    await book.done(1, "INSERT INTO account VALUES (8, 'e@x', 'Eva')")
    await book.meet()
    assert await book.same(conflicts=1) == {"account": cells([(7, "e@x", "Eve")])}
    [conflict] = await book.conflicts()
    assert (conflict["item"], conflict["losers"][0]["where"]) == (
        "account 8 mail",
        "account 8 mail: 'e@x'",
    )
    book.do(1, "DELETE FROM account WHERE id = 7")
    assert await book.same() == {"account": cells([(8, "e@x", "Eva")])}


async def test_b9_a_held_row_is_shown_when_the_other_gets_another_value(book: Tables) -> None:
    await book.begin_with(ACCOUNTS)
    await book.part()
    await book.done(0, "INSERT INTO account VALUES (7, 'e@x', 'Eve')")
    await book.done(1, "INSERT INTO account VALUES (8, 'e@x', 'Eva')")
    await book.meet()
    await book.same(conflicts=1)
    book.do(0, "UPDATE account SET mail = 'eve@x'")
    assert await book.same() == {"account": cells([(7, "eve@x", "Eve"), (8, "e@x", "Eva")])}


async def test_b10_a_check_over_two_columns_that_a_merge_breaks_shows_one_valid_row_everywhere(
    book: Tables,
) -> None:
    await book.begin_with(
        "CREATE TABLE span (id INTEGER PRIMARY KEY, low INTEGER, high INTEGER, CHECK (low <= high))",
        "INSERT INTO span VALUES (1, 3, 5)",
    )
    await book.part()
    await book.done(0, "UPDATE span SET low = 5")
    await book.done(1, "UPDATE span SET high = 4")
    await book.meet()
    await book.settle()
    assert book.ask(0, "SELECT * FROM span") == book.ask(1, "SELECT * FROM span") == [(1, 3, 4)]
    # Whichever device goes on with it, and whichever edit comes next.
    book.do(0, "UPDATE span SET low = 1, high = 9")
    await book.settle()
    assert book.ask(0, "SELECT * FROM span") == book.ask(1, "SELECT * FROM span") == [(1, 1, 9)]


def family(reference: str) -> str:
    return (
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT);"
        f"CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent (id) {reference})"
    )


@pytest.mark.parametrize("first", [0, 1], ids=["the delete first", "the child first"])
@pytest.mark.parametrize(
    ("reference", "parents", "children"),
    [
        ("ON DELETE CASCADE", [], []),
        ("ON DELETE RESTRICT", [(1, "one")], [(1, 1)]),
        ("", [(1, "one")], [(1, 1)]),
        ("ON DELETE SET NULL", [], [(1, None)]),
    ],
)
async def test_b11_a_child_added_to_a_deleted_parent_goes_with_it_or_brings_it_back(
    book: Tables,
    reference: str,
    parents: list[tuple[int, str]],
    children: list[tuple[int, int | None]],
    first: int,
) -> None:
    await book.begin_with(family(reference), "INSERT INTO parent VALUES (1, 'one')")
    await book.part()
    work = [(0, "DELETE FROM parent"), (1, "INSERT INTO child VALUES (1, 1)")]
    for number, statement in (work[first], work[1 - first]):
        await book.done(number, statement)
    await book.meet()
    await book.settle()
    for number in (0, 1):
        assert book.ask(number, "SELECT * FROM parent") == parents
        assert book.ask(number, "SELECT * FROM child") == children
        assert book.ask(number, "PRAGMA foreign_key_check") == []


async def test_b12_a_child_that_is_told_of_before_its_parent_is_no_orphan(book: Tables) -> None:
    # A child's key sorts before its parent's, and both are sent in the order of keys.
    await book.begin_with(
        "CREATE TABLE z_parent (id INTEGER PRIMARY KEY, name TEXT);"
        "CREATE TABLE a_child (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES z_parent (id) ON DELETE CASCADE)"
    )
    rows = range(1, 3001)
    book.do(
        0,
        f"INSERT INTO z_parent VALUES {', '.join(f'({n}, {n})' for n in rows)}",
        f"INSERT INTO a_child VALUES {', '.join(f'({n}, {n})' for n in rows)}",
    )
    found = await book.same()
    assert len(found["a_child"]) == len(found["z_parent"]) == len(rows)
    for number in (0, 1):
        assert book.ask(number, "PRAGMA foreign_key_check") == []
