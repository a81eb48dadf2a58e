"""Scenarios B1 to B8: rows edited, deleted and made anew on devices that know nothing of each other's work."""

from __future__ import annotations

from contextlib import closing

import apsw
import pytest
from daemons import Lab, connect
from tables import Tables, cells, dump, opened

PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, phone TEXT)"
ANN = "INSERT INTO people VALUES (1, 'Ann', '1')"
HOUR_S = 3600.0


async def test_b1_different_columns_of_one_row_both_survive(book: Tables) -> None:
    await book.begin_with(PEOPLE, ANN)
    await book.part()
    book.do(0, "UPDATE people SET name = 'Anna'")
    book.do(1, "UPDATE people SET phone = '11'")
    await book.meet()
    assert await book.same() == {"people": cells([(1, "Anna", "11")])}


@pytest.mark.parametrize("often", [0, 1], ids=["the first edits often", "the second edits often"])
async def test_b2_one_newer_edit_wins_against_three_older_ones_and_the_loser_can_be_restored(
    book: Tables, often: int
) -> None:
    await book.begin_with(PEOPLE, ANN)
    await book.part()
    for edit in ("old 1", "old 2", "old 3"):
        await book.done(often, f"UPDATE people SET phone = '{edit}'")
    await book.done(1 - often, "UPDATE people SET phone = 'newer'")
    await book.meet()
    assert await book.same(conflicts=1) == {"people": cells([(1, "Ann", "newer")])}
    [conflict] = await book.conflicts()
    assert conflict["winner"] == book.daemons[1 - often].name
    [loser] = conflict["losers"]
    assert (loser["device"], loser["where"]) == (book.daemons[often].name, "people 1 phone: 'old 3'")
    await book.daemons[0].backend.conflict_resolve(conflict["id"], keep="loser", loser=0)
    assert await book.same() == {"people": cells([(1, "Ann", "old 3")])}


class HourOff(apsw.VFS):
    """Files as they are, and a clock that is off, as an app has it whose machine's clock is."""

    def __init__(self, hours: int) -> None:
        self.ms = hours * 3_600_000
        super().__init__(f"off by {hours}", "")

    def xCurrentTimeInt64(self) -> int:  # noqa: N802  (SQLite's name)
        return super().xCurrentTimeInt64() + self.ms


@pytest.mark.parametrize("hours", [1, -1])
async def test_b3_with_clocks_an_hour_apart_all_agree(lab: Lab, hours: int) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    willow.clock.ahead_s = hours * HOUR_S
    await connect(maple, willow)
    book = Tables([maple, willow])
    vfs = HourOff(hours)

    def write(statement: str) -> None:
        with closing(opened(book.file(1), vfs=f"off by {hours}")) as connection:
            connection.execute(statement)

    await book.begin_with(PEOPLE, ANN)
    # Both say so, each of the other.
    for daemon, other, side in (
        (maple, "willow", "ahead of" if hours > 0 else "behind"),
        (willow, "maple", "behind" if hours > 0 else "ahead of"),
    ):
        told = [one["message"] for one in (await daemon.backend.status())["attention"]]
        assert any(one.startswith(f"{other}: its clock is ") and side in one for one in told), told
        assert f"clock of {other}" in [
            one["name"] for one in await daemon.backend.doctor() if one["ok"] == "warn"
        ]
    # Edits that know each other: the later one wins, whatever the clocks say.
    for number in (1, 2):
        write(f"UPDATE people SET phone = 'there {number}'")
        assert await book.same() == {"people": cells([(1, "Ann", f"there {number}")])}
        book.do(0, f"UPDATE people SET phone = 'here {number}'")
        assert await book.same() == {"people": cells([(1, "Ann", f"here {number}")])}
    # Edits that do not: the clocks say which is later, and the other is kept.
    await book.part()
    book.do(0, "UPDATE people SET phone = 'here'")
    write("UPDATE people SET phone = 'there'")
    await book.meet()
    wins, loses = ("there", "here") if hours > 0 else ("here", "there")
    assert await book.same(conflicts=1) == {"people": cells([(1, "Ann", wins)])}
    [conflict] = await book.conflicts()
    assert conflict["losers"][0]["where"] == f"people 1 phone: '{loses}'"
    vfs.unregister()


async def test_b4_a_delete_wins_against_an_update_which_can_be_restored(book: Tables) -> None:
    await book.begin_with(PEOPLE, ANN)
    await book.part()
    await book.done(1, "DELETE FROM people")
    await book.done(0, "UPDATE people SET phone = 'edited'")
    await book.meet()
    assert await book.same(conflicts=1) == {"people": []}
    [conflict] = await book.conflicts()
    await book.daemons[1].backend.conflict_resolve(conflict["id"], keep="loser", loser=0)
    assert await book.same() == {"people": cells([(1, "Ann", "edited")])}


@pytest.mark.parametrize("births", [True, False], ids=["a number", "a text"])
async def test_b5_a_row_made_anew_under_the_key_of_a_deleted_one_has_none_of_its_cells(
    book: Tables, births: bool
) -> None:
    key, one = ("INTEGER", 1) if births else ("TEXT", "'1'")
    await book.begin_with(
        f"CREATE TABLE people (id {key} PRIMARY KEY, name TEXT, phone TEXT)",
        f"INSERT INTO people VALUES ({one}, 'Ann', '1')",
    )
    await book.part()
    await book.done(0, "UPDATE people SET phone = 'of the old one'")
    await book.done(1, "DELETE FROM people")
    await book.done(1, f"INSERT INTO people (id, name) VALUES ({one}, 'Bob')")
    await book.meet()
    found = await book.same(conflicts=1)
    assert found == {"people": cells([(1 if births else "1", "Bob", None)])}
    book.do(0, "UPDATE people SET phone = 'of the new one'")
    assert (await book.same(conflicts=1))["people"] == cells(
        [(1 if births else "1", "Bob", "of the new one")]
    )


async def test_b6_both_delete_and_a_third_device_deletes_too(lab: Lab) -> None:
    daemons = [await lab.daemon(name) for name in ("maple", "willow", "birch")]
    await connect(daemons[0], daemons[1], introduce=False)
    await connect(daemons[1], daemons[2], introduce=False)
    book = Tables(daemons)
    await book.begin_with(PEOPLE, ANN, "INSERT INTO people VALUES (2, 'Bob', '2')")
    await book.part()
    await book.done(0, "DELETE FROM people WHERE id = 1")
    await book.done(1, "DELETE FROM people WHERE id = 1")
    await book.meet()
    assert await book.same() == {"people": cells([(2, "Bob", "2")])}


FAMILY = """
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE card (id INTEGER PRIMARY KEY, person INTEGER REFERENCES person (id), place TEXT);
CREATE TABLE profile (person INTEGER PRIMARY KEY REFERENCES person (id), motto TEXT);
"""
WHOSE = """
SELECT name, place, motto FROM person JOIN card ON card.person = person.id JOIN profile ON profile.person = person.id
ORDER BY name
"""


async def test_b7_one_number_given_to_two_people_leaves_both_people_everywhere(book: Tables) -> None:
    await book.begin_with(PEOPLE)
    await book.part()
    await book.done(0, "INSERT INTO people VALUES (7, 'Eve', '7')")
    await book.done(1, "INSERT INTO people VALUES (7, 'Dan', '77')")
    await book.meet()
    found = await book.same()
    assert (7, "Eve", "7") in book.ask(1, "SELECT * FROM people")
    [[number]] = book.ask(0, "SELECT id FROM people WHERE name = 'Dan' AND phone = '77'")
    assert number >= 1_000_000_000
    assert len(found["people"]) == 2
    # Each can be edited on either side from then on.
    book.do(0, "UPDATE people SET phone = 'new' WHERE name = 'Dan'")
    book.do(1, "UPDATE people SET phone = 'new too' WHERE name = 'Eve'")
    assert await book.same() == {"people": cells([(7, "Eve", "new too"), (number, "Dan", "new")])}


async def test_b8_the_children_of_a_parent_that_gets_another_number_follow_it(book: Tables) -> None:
    await book.begin_with(FAMILY)
    await book.part()
    for number, name in enumerate(["Ada", "Bob"]):
        await book.done(
            number,
            f"INSERT INTO person VALUES (1, '{name}')",
            f"INSERT INTO card VALUES (1, 1, 'card of {name}')",
            f"INSERT INTO profile VALUES (1, '{name} was here')",
        )
    await book.meet()
    await book.same()
    expected = [("Ada", "card of Ada", "Ada was here"), ("Bob", "card of Bob", "Bob was here")]
    assert book.ask(0, WHOSE) == book.ask(1, WHOSE) == expected
    # And a child that is given to it afterwards goes to it everywhere.
    book.do(0, "INSERT INTO card SELECT NULL, id, 'another' FROM person WHERE name = 'Bob'")
    await book.same()
    assert ("Bob", "another", "Bob was here") in book.ask(1, WHOSE)
    assert dump(book.file(0)) == dump(book.file(1))
