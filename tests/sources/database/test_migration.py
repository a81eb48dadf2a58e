"""Columns that an app's migration makes: what they hold here, and what others wrote into them before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.sources.database.notes import Notes
from p2psyncd.sources.database.prepare import Prepared
from p2psyncd.sources.database.row import has_losers, state_of
from p2psyncd.sources.database.schema import Schema
from p2psyncd.sources.source import Outcome

Pair = Callable[[str], tuple[Replica, Replica]]

PEOPLE = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, phone TEXT)"
ADA = "INSERT INTO people VALUES (1, 'Ada', '1')"
ADD = ("ALTER TABLE people ADD COLUMN mood TEXT",)
RENAME = ("ALTER TABLE people RENAME COLUMN phone TO tel",)


def rebuilt(filled: str = "'calm'") -> Sequence[str]:
    """Return how Django adds a column: the table is made anew, and its definition does not tell what filled the column."""
    return (
        "CREATE TABLE made(id INTEGER PRIMARY KEY, name TEXT, phone TEXT, mood TEXT NOT NULL)",
        f"INSERT INTO made SELECT id, name, phone, {filled} FROM people",
        "DROP TABLE people",
        "ALTER TABLE made RENAME TO people",
    )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Makes two replicas with the same schema and rows."""
    made: list[Replica] = []

    def make(*ddl: str) -> tuple[Replica, Replica]:
        clock = Clock()
        made.extend(Replica(number, tmp_path / f"{number}.db", ";".join(ddl), clock) for number in (1, 2))
        exchange(*made)
        return made[0], made[1]

    yield make
    for replica in made:
        replica.close()


def losers(replica: Replica) -> dict[str, object]:
    """Return the values that lost, and are listed, by column."""
    return {
        name: cell
        for item in replica.items()
        if has_losers(item.meta) and item.key.startswith(b"people/")
        for loser in state_of(item).losers
        for name, cell in loser.cells.items()
    }


APART = pytest.mark.parametrize("apart", [False, True], ids=["one after the other", "apart"])


@APART
@pytest.mark.parametrize(
    ("migration", "edit", "row"),
    [
        (ADD, "mood = 'merry'", "(1, 'Ada', '1', 'merry')"),
        (RENAME, "tel = '2'", "(1, 'Ada', '2')"),
        (rebuilt(), "mood = 'merry'", "(1, 'Ada', '1', 'merry')"),
        (rebuilt("name || ' is fine'"), "mood = 'merry'", "(1, 'Ada', '1', 'merry')"),
    ],
    ids=["added", "renamed", "filled", "computed"],
)
def test_what_was_written_into_a_new_column_stays_when_another_device_migrates_later(
    pair: Pair, migration: Sequence[str], edit: str, row: str, apart: bool
) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*migration)
    a.scan()
    a.run(f"UPDATE people SET {edit}")
    a.scan()
    if not apart:
        exchange(a, b)
    b.run(*migration)
    b.scan()
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": [row]}
    assert losers(a) == losers(b) == {}
    assert a.scan() == b.scan() == 0


@APART
@pytest.mark.parametrize("first", [0, 1])
def test_an_edit_under_the_old_name_of_a_column_is_there_under_the_new_one(
    pair: Pair, apart: bool, first: int
) -> None:
    replicas = pair(PEOPLE, ADA)
    renaming, editing = replicas[first], replicas[1 - first]
    renaming.run(*RENAME)
    renaming.scan()
    if not apart:
        exchange(*replicas)
    editing.run("UPDATE people SET phone = '2'")
    editing.run(*RENAME)
    exchange(*replicas)
    for replica in replicas:
        assert replica.tables() == {"people": ["(1, 'Ada', '2')"]}
        assert losers(replica) == {}


def test_a_row_that_the_app_wrote_gets_the_others_values_of_new_columns_all_the_same(pair: Pair) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*ADD, "UPDATE people SET mood = 'merry'")
    exchange(a, b)
    b.run("UPDATE people SET name = 'Ada L.'", *ADD)
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada L.', '1', 'merry')"]}
    assert losers(a) == losers(b) == {}


def test_a_value_that_an_app_wrote_over_one_that_it_never_saw_leaves_that_to_be_restored(pair: Pair) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*ADD, "UPDATE people SET mood = 'merry'")
    exchange(a, b)
    b.run(*ADD, "UPDATE people SET mood = 'sad'")
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada', '1', 'sad')"]}
    assert losers(a) == losers(b) == {"mood": "merry"}


def test_a_row_that_is_asked_for_while_the_app_migrates_is_not_taken_for_written(pair: Pair) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*rebuilt())
    a.scan()
    a.run("UPDATE people SET mood = 'merry'")
    a.scan()
    b.run(*rebuilt())
    b.receive(a.items())
    b.apply()  # is surprised by the new schema, and asks for the row
    assert b.tables() == {"people": ["(1, 'Ada', '1', 'merry')"]}
    exchange(a, b)
    assert losers(a) == losers(b) == {}


def test_a_row_that_is_shown_under_another_number_is_not_written_anew_by_a_migration(pair: Pair) -> None:
    a, b = pair(PEOPLE)
    a.run("INSERT INTO people VALUES (7, 'Eve', '7')")
    a.scan()
    b.run("INSERT INTO people VALUES (7, 'Dan', '77')")
    exchange(a, b)
    before = {item.key: item for item in a.items() if item.key.startswith(b"people/")}
    for replica in (a, b):
        replica.run(*ADD)
    exchange(a, b)
    assert {item.key: item for item in a.items() if item.key in before} == before
    for replica in (a, b):
        replica.run("ALTER TABLE people RENAME COLUMN id TO number")
    exchange(a, b)
    assert a.tables() == b.tables()
    numbers = [state_of(item).cells["number"] for item in a.items() if item.key in before]
    assert numbers == [7, 7]


def test_a_row_that_cannot_be_shown_as_it_is_recorded_is_not_written_anew_by_a_migration(pair: Pair) -> None:
    a, b = pair(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, low INTEGER, high INTEGER, CHECK (low <= high))",
        "INSERT INTO people VALUES (1, 3, 5)",
    )
    a.run("UPDATE people SET low = 5")
    a.scan()
    b.run("UPDATE people SET high = 4")
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 3, 4)"]}
    before = [item for item in a.items() if item.key.startswith(b"people/")]
    for replica in (a, b):
        replica.run(*ADD)
    exchange(a, b)
    assert [item for item in a.items() if item.key.startswith(b"people/")] == before
    assert a.tables() == b.tables() == {"people": ["(1, 3, 4, None)"]}


def test_a_column_that_is_renamed_while_a_look_begins_is_not_read_as_its_own_name(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(PEOPLE, ADA)
    prepare, migrations = a.source.prepare, [RENAME, ADD]

    def prepare_and_be_migrated() -> Schema:
        schema = prepare()
        if migrations:
            a.run(*migrations.pop(), "UPDATE people SET name = 'Ada L.'")
        return schema

    monkeypatch.setattr(a.source, "prepare", prepare_and_be_migrated)
    a.source.schema = None  # as after a start
    a.scan()
    [item] = [item for item in a.items() if item.key.startswith(b"people/")]
    assert state_of(item).cells == {"id": 1, "name": "Ada L.", "phone": "1", "tel": "1"}
    exchange(a, b)
    assert b.tables() == {"people": ["(1, 'Ada L.', '1')"]}


def test_a_look_that_finds_another_schema_does_not_change_it_under_an_apply(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run("UPDATE people SET name = 'Ada L.'")
    a.scan()
    b.receive(a.items())
    applier = b.source.applier
    piece, migrations = applier.piece, ["ALTER TABLE people DROP COLUMN phone"]

    def migrated_before_the_transaction(rows: Sequence[Prepared]) -> list[Outcome]:
        if migrations:
            b.run(migrations.pop())
            b.source.prepare()
        return piece(rows)

    monkeypatch.setattr(applier, "piece", migrated_before_the_transaction)
    b.apply()
    assert b.tables() == {"people": ["(1, 'Ada L.')"]}


@pytest.mark.parametrize("wrote", [False, True], ids=["untouched", "touched in between"])
def test_values_that_a_row_waits_for_come_though_the_app_goes_on_with_its_migration(
    pair: Pair, *, wrote: bool
) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*ADD, "UPDATE people SET mood = 'merry'")
    exchange(a, b)
    b.run(*ADD)
    b.scan()
    assert b.store.pending(limit=10)
    # It is seen once more before it is applied.
    b.run("ALTER TABLE people DROP COLUMN phone")
    if wrote:
        b.run("UPDATE people SET name = 'Ada L.'")
    b.scan()
    if wrote:
        b.run("UPDATE people SET name = 'Ada K.'")
        b.scan()
    b.apply()
    assert b.tables() == {"people": [f"(1, 'Ada{' K.' if wrote else ''}', 'merry')"]}
    exchange(a, b)
    assert losers(a) == losers(b) == {}
    assert a.tables() == {"people": [f"(1, 'Ada{' K.' if wrote else ''}', '1', 'merry')"]}


def test_a_row_whose_hint_is_still_there_though_it_served_is_not_taken_for_written_by_the_newer_version(
    pair: Pair,
) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*rebuilt())
    a.scan()
    a.run("UPDATE people SET mood = 'merry'")
    b.run("UPDATE people SET name = 'Ada L.'")
    # While its app is at work its file is left alone.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(b.source, "drop", lambda *_, **__: None)
        for _ in range(3):
            exchange(a, b)
        assert b.run("SELECT n FROM _p2p_h1") == [(1,)]
        b.run(*rebuilt())
        b.scan()
    exchange(a, b)
    assert a.tables() == b.tables() == {"people": ["(1, 'Ada L.', '1', 'merry')"]}
    assert losers(a) == losers(b) == {}


def test_a_look_whose_columns_are_not_noted_takes_nothing_for_written(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*ADD, "UPDATE people SET mood = 'merry'")
    exchange(a, b)
    b.run(*ADD)
    b.scan()
    b.run("ALTER TABLE people DROP COLUMN phone")
    with monkeypatch.context() as patch:
        # As if something had been applied meanwhile, so that not every finding was recorded.
        patch.setattr(Notes, "save", lambda *_: None)
        b.scan()
    b.source.full = True
    b.scan()
    b.apply()
    exchange(a, b)
    assert b.tables() == {"people": ["(1, 'Ada', 'merry')"]}
    assert a.tables() == {"people": ["(1, 'Ada', '1', 'merry')"]}
    assert losers(a) == losers(b) == {}


def test_columns_of_another_version_are_named_and_those_that_were_renamed_or_dropped_here_are_not(
    pair: Pair,
) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*ADD, *RENAME)
    exchange(a, b)
    b.run("UPDATE people SET name = 'Ada L' WHERE id = 1")
    a.run("UPDATE people SET mood = 'merry' WHERE id = 1")
    exchange(a, b)
    assert list(a.source.columns_ahead) == []  # it had `phone` itself
    assert list(b.source.columns_ahead) == [("people", "mood"), ("people", "tel")]
    b.run(*ADD, *RENAME, "UPDATE people SET name = 'Ada M' WHERE id = 1")
    exchange(a, b)
    a.run("ALTER TABLE people DROP COLUMN mood", "UPDATE people SET name = 'Ada N' WHERE id = 1")
    exchange(a, b)
    assert list(a.source.columns_ahead) == list(b.source.columns_ahead) == []


def test_a_table_that_only_others_have_is_named_and_one_that_was_dropped_here_is_not(pair: Pair) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run("CREATE TABLE mood(id INTEGER PRIMARY KEY, word TEXT)", "INSERT INTO mood VALUES (1, 'merry')")
    exchange(a, b)
    assert (list(a.source.columns_ahead), list(b.source.columns_ahead)) == ([], [("mood", "")])
    b.run("CREATE TABLE mood(id INTEGER PRIMARY KEY, word TEXT)")
    exchange(a, b)
    assert b.tables()["mood"] == ["(1, 'merry')"]
    assert list(b.source.columns_ahead) == []
    b.run("DROP TABLE mood")
    exchange(a, b)
    a.run("UPDATE mood SET word = 'sad'")
    exchange(a, b)
    assert list(b.source.columns_ahead) == []


def test_no_more_columns_are_named_than_a_person_reads(pair: Pair) -> None:
    a, b = pair(PEOPLE, ADA)
    a.run(*(f"ALTER TABLE people ADD COLUMN c{n} TEXT DEFAULT 'x'" for n in range(150)))
    a.run(f"UPDATE people SET {', '.join(f'c{n} = 1' for n in range(150))}")
    exchange(a, b)
    assert len(b.source.columns_ahead) == 100
