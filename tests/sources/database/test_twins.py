"""Files that hold rows of the share when they are looked at for the first time: copied, or known to a state that was lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from two_files import Clock, Replica, exchange

from p2psyncd.sources.database.row import has_losers

TABLES = """
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, phone TEXT);
CREATE TABLE card(id INTEGER PRIMARY KEY, person INTEGER REFERENCES person(id) ON DELETE CASCADE, text TEXT);
CREATE TABLE profile(person INTEGER PRIMARY KEY REFERENCES person(id) ON DELETE CASCADE, motto TEXT);
CREATE TABLE tag(person INTEGER REFERENCES person(id), word TEXT, PRIMARY KEY(person, word)) WITHOUT ROWID;
INSERT INTO person VALUES (1, 'Ada', '1');
"""
ROWS = {
    "card": ["(1, 2, 'to Bob')"],
    "person": ["(1, 'Ada', '11')", "(2, 'Bob', '2')"],
    "profile": ["(2, 'Bob was here')"],
    "tag": ["(2, 'old')"],
}


class Share:
    """Replicas of one database, to which others come that begin with a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.replicas = [Replica(number, folder / f"{number}.db", TABLES, self.clock) for number in (1, 2)]
        self.exchange()
        # Since it is shared.
        self.replicas[0].run(
            "INSERT INTO person VALUES (2, 'Bob', '2')",
            "INSERT INTO card VALUES (1, 2, 'to Bob')",
            "INSERT INTO profile VALUES (2, 'Bob was here')",
            "INSERT INTO tag VALUES (2, 'old')",
            "UPDATE person SET phone = '11' WHERE id = 1",
        )
        self.exchange()

    def exchange(self) -> None:
        exchange(*self.replicas)

    def copy(self, *statements: str) -> Replica:
        """Copy the first one's file, let an app write to it, and let a device join with it."""
        path = self.folder / f"{len(self.replicas) + 1}.db"
        with closing(apsw.Connection(str(self.replicas[0].path))) as connection:
            connection.execute("VACUUM INTO ?", (str(path),))
        with closing(apsw.Connection(str(path))) as connection:
            for statement in statements:
                connection.execute(statement)
        self.replicas.append(Replica(len(self.replicas) + 1, path, "", self.clock))
        return self.replicas[-1]

    def forget(self, number: int) -> None:
        """Lose a device's state."""
        old = self.replicas[number]
        old.close()
        self.replicas[number] = Replica(9, old.path, "", self.clock)

    def rows(self) -> dict[str, list[str]]:
        """Return what all hold, and check that all is well."""
        first, *others = [replica.tables() for replica in self.replicas]
        assert all(other == first for other in others)
        for replica in self.replicas:
            assert not any(has_losers(item.meta) for item in replica.items())
            assert not replica.source.applier.places
            assert replica.scan() == 0
        return first


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    made = Share(tmp_path)
    yield made
    for replica in made.replicas:
        replica.close()


def test_a_copied_file_joins_without_anything_being_there_twice(share: Share) -> None:
    share.copy()
    share.exchange()
    assert share.rows() == ROWS


@pytest.mark.parametrize("number", [0, 1])
def test_a_device_that_lost_its_state_finds_nothing_twice(share: Share, number: int) -> None:
    share.forget(number)
    share.exchange()
    assert share.rows() == ROWS


def test_what_was_written_to_a_copy_is_kept_with_what_it_refers_to(share: Share) -> None:
    share.copy(
        "INSERT INTO person VALUES (3, 'Cid', '3')",
        "INSERT INTO card VALUES (2, 2, 'another to Bob'), (3, 3, 'to Cid')",
        "INSERT INTO tag VALUES (2, 'new')",
    )
    share.exchange()
    rows = {
        "card": [*ROWS["card"], "(2, 2, 'another to Bob')", "(3, 3, 'to Cid')"],
        "person": [*ROWS["person"], "(3, 'Cid', '3')"],
        "profile": ROWS["profile"],
        "tag": ["(2, 'new')", *ROWS["tag"]],
    }
    assert share.rows() == rows
    # Its own rows are edited as ever, and those of others.
    share.replicas[-1].run("UPDATE person SET phone = '22' WHERE id = 2")
    share.replicas[0].run("DELETE FROM card WHERE id = 2", "UPDATE person SET phone = '33' WHERE id = 3")
    share.exchange()
    rows |= {
        "card": [*ROWS["card"], "(3, 3, 'to Cid')"],
        "person": ["(1, 'Ada', '11')", "(2, 'Bob', '22')", "(3, 'Cid', '33')"],
    }
    assert share.rows() == rows


def test_rows_that_were_written_before_a_column_was_added_are_found_again(share: Share) -> None:
    for replica in share.replicas:
        replica.run(
            "ALTER TABLE person ADD COLUMN mail TEXT",
            "ALTER TABLE person ADD COLUMN rank INTEGER DEFAULT 5",
            "ALTER TABLE card ADD COLUMN made INTEGER DEFAULT 2",
        )
    share.exchange()
    share.forget(1)
    share.exchange()
    assert share.rows() == {
        **ROWS,
        "card": ["(1, 2, 'to Bob', 2)"],
        "person": ["(1, 'Ada', '11', None, 5)", "(2, 'Bob', '2', None, 5)"],
    }


def test_a_row_with_something_else_in_an_added_column_is_another_one(share: Share) -> None:
    for replica in share.replicas:
        replica.run("ALTER TABLE person ADD COLUMN rank INTEGER DEFAULT 5")
    share.exchange()
    share.copy("UPDATE person SET rank = 6 WHERE id = 2")
    share.exchange()
    [first, *others] = [replica.tables()["person"] for replica in share.replicas]
    assert all(other == first for other in others)
    assert sorted(row.rpartition(",")[2] for row in first) == [" 5)", " 5)", " 6)"]


def test_a_row_that_differs_is_another_one(share: Share) -> None:
    share.copy("UPDATE person SET name = 'Bea' WHERE id = 2")
    share.exchange()
    [first, *others] = [replica.tables()["person"] for replica in share.replicas]
    assert all(other == first for other in others)
    found = sorted(row.partition(",")[2] for row in first)
    assert found == [" 'Ada', '11')", " 'Bea', '2')", " 'Bob', '2')"]


def collided(folder: Path) -> Share:
    """Return a share in which two devices gave one number to two rows, each with rows that refer to it."""
    share = Share(folder)
    for replica, name in zip(share.replicas, ("Cid", "Dan"), strict=True):
        replica.run(
            f"INSERT INTO person VALUES (3, '{name}', '3')",
            f"INSERT INTO card VALUES (2, 3, 'to {name}')",
            f"INSERT INTO profile VALUES (3, '{name} was here')",
            f"INSERT INTO tag VALUES (3, 'of {name}'), (2, 'by {name}')",
        )
    share.exchange()
    return share


@pytest.mark.parametrize("number", [0, 1])
def test_rows_that_have_fresh_numbers_are_found_again_with_what_refers_to_them(
    tmp_path: Path, number: int
) -> None:
    share = collided(tmp_path)
    before = [replica.tables() for replica in share.replicas]
    assert before[0] == before[1]
    assert {name: len(rows) for name, rows in before[0].items()} == {
        "person": 4,
        "card": 3,
        "profile": 3,
        "tag": 5,
    }
    share.forget(number)
    share.exchange()
    assert [replica.tables() for replica in share.replicas] == before
    for replica in share.replicas:
        assert not any(has_losers(item.meta) for item in replica.items())
        assert replica.scan() == 0
        replica.close()


def test_a_copy_of_a_file_with_fresh_numbers_joins_and_what_was_written_to_it_since_is_kept(
    tmp_path: Path,
) -> None:
    share = collided(tmp_path)
    before = share.replicas[0].tables()
    (fresh,) = [row for row in before["person"] if "(1" in row and len(row.split(",")[0]) > len("(1000")]
    place = int(fresh[1:].partition(",")[0])
    share.copy(f"INSERT INTO card VALUES (9, {place}, 'one more')")
    share.exchange()
    first, *others = [replica.tables() for replica in share.replicas]
    assert others == [first, first]
    assert first == {**before, "card": sorted([*before["card"], f"(9, {place}, 'one more')"])}
    for replica in share.replicas:
        replica.close()


@pytest.mark.parametrize("what", ["tag", "person"])
def test_what_a_copys_app_wrote_like_a_row_with_a_fresh_number_is_its_own(tmp_path: Path, what: str) -> None:
    share = collided(tmp_path)
    fresh = [int(row[1:].partition(",")[0]) for row in share.replicas[0].tables()["person"]]
    place = max(fresh)
    [(name,)] = share.replicas[0].run(f"SELECT name FROM person WHERE id = {place}")
    share.replicas[0].run(f"INSERT INTO tag VALUES ({place}, 'red')")
    share.exchange()
    share.copy(
        "INSERT INTO tag VALUES (3, 'red')"
        if what == "tag"
        else f"UPDATE person SET name = '{name}' WHERE id = 3"
    )
    share.exchange()
    first, *others = [replica.tables() for replica in share.replicas]
    assert others == [first, first]
    if what == "tag":
        assert {row for row in first["tag"] if "red" in row} == {"(3, 'red')", f"({place}, 'red')"}
    else:
        assert sum(f"'{name}'" in row for row in first["person"]) == 2
    for replica in share.replicas:
        replica.close()
