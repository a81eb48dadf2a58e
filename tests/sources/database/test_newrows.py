"""New rows that are looked at many at a time: what is found is what a look at each finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from two_files import Clock, Replica

from p2psyncd.core.item import Kind
from p2psyncd.sources.database import scan as scanning
from p2psyncd.sources.database.newrows import NEW_ROWS_MIN
from p2psyncd.sources.database.row import RowState, pack, pack_plain
from p2psyncd.sources.source import Dirty, Observation

EVERYTHING = Dirty(subtrees=frozenset({b""}))
SCHEMA = """
CREATE TABLE "pla/ce"(zip, id INTEGER PRIMARY KEY, name TEXT, size REAL);
CREATE TABLE visit(id INTEGER PRIMARY KEY, place INTEGER REFERENCES "pla/ce"(id), note);
CREATE TABLE word(word TEXT PRIMARY KEY, note);
CREATE TABLE odd(id INT PRIMARY KEY, note, twice AS (id * 2));
"""


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    """Has tables of several kinds, all of whose rows are recorded."""
    made = Replica(1, tmp_path / "1.db", SCHEMA, Clock())
    made.scan()
    yield made
    made.close()


def looked(replica: Replica) -> list[object]:
    """Return what a scan finds; nothing of it is recorded."""
    return list(replica.source.scan(EVERYTHING))


def found_both_ways(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what a scan finds that looks at many rows at once, having seen that one that looks at each finds the same."""
    at_once = looked(replica)
    with monkeypatch.context() as alone:
        alone.setattr(scanning, "NEW_ROWS_MIN", 10**9)
        assert looked(replica) == at_once
    return at_once


def test_rows_of_all_kinds_are_found_as_they_are(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.run(
        *(f"""INSERT INTO "pla/ce" VALUES (NULL, {n}, 'é{n}', {n}.5)""" for n in range(-3, 300)),
        *(f"INSERT INTO visit VALUES ({n}, {n % 7}, x'00{n:04x}')" for n in range(40)),
        *(f"INSERT INTO word VALUES ('w{n}', {n})" for n in range(40)),
        *(f"INSERT INTO odd(id, note) VALUES ({n}, {n})" for n in range(40)),
    )
    found = found_both_ways(replica, monkeypatch)
    assert len(found) == 303 + 3 * 40
    assert all(isinstance(one, Observation) and one.draft.kind is Kind.ROW for one in found)


def test_edits_deletes_and_rows_that_came_back_are_found_among_new_ones(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.run(*(f"""INSERT INTO "pla/ce" VALUES ('z', {n}, 'n', 1)""" for n in range(100, 140)))
    assert replica.scan() == 40
    replica.run(
        *(f"""INSERT INTO "pla/ce" VALUES ('z', {n}, 'n', 1)""" for n in range(140, 180)),
        """UPDATE "pla/ce" SET name = 'm' WHERE id BETWEEN 100 AND 110""",
        """DELETE FROM "pla/ce" WHERE id BETWEEN 111 AND 120""",
        """UPDATE "pla/ce" SET id = id + 1000 WHERE id BETWEEN 121 AND 130""",
    )
    found = found_both_ways(replica, monkeypatch)
    kinds = [one.draft.kind for one in found if isinstance(one, Observation)]
    assert (kinds.count(Kind.ROW), kinds.count(Kind.TOMBSTONE)) == (40 + 11 + 10, 10 + 10)
    replica.scan()
    replica.run("""DELETE FROM "pla/ce" """)
    replica.scan()
    replica.run(*(f"""INSERT INTO "pla/ce" VALUES ('again', {n}, 'n', 1)""" for n in range(100, 140)))
    assert len(found_both_ways(replica, monkeypatch)) == 40


def test_a_text_that_is_no_utf_8_does_not_keep_the_rows_beside_it_back(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.run(
        *(f"""INSERT INTO "pla/ce" VALUES (NULL, {n}, 'n', 1)""" for n in range(30)),
        """INSERT INTO "pla/ce" VALUES (NULL, 30, CAST(x'ff41' AS TEXT), 1)""",
    )
    assert len(found_both_ways(replica, monkeypatch)) == 31


def test_few_rows_are_found_as_many_are(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.run(*(f"""INSERT INTO "pla/ce" VALUES (1, {n}, 'n', 1)""" for n in range(NEW_ROWS_MIN - 1)))
    monkeypatch.setattr(scanning, "new_sightings", None)  # not asked
    assert len(looked(replica)) == NEW_ROWS_MIN - 1


def test_what_many_new_rows_say_is_packed_as_one_is() -> None:
    values = {"a": 1, "b": None, "c": "é", "d": b"\0", "e": 0.5}
    assert pack_plain(values) == pack(RowState(life=1, cells=dict(values)))
