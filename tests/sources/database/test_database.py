"""A database as a source: what happens to the file and the store while it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from two_files import EVERYTHING, Clock, Replica

from p2psyncd.sources.source import Observation

DDL = "CREATE TABLE first(id INTEGER PRIMARY KEY, x); CREATE TABLE second(id TEXT PRIMARY KEY, x)"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """Two replicas."""
    clock = Clock()
    a, b = (Replica(number, tmp_path / f"{number}.db", DDL, clock) for number in (1, 2))
    yield a, b
    a.close()
    b.close()


def test_a_row_that_came_while_a_look_began_is_not_taken_for_a_deleted_one(
    pair: tuple[Replica, Replica],
) -> None:
    a, b = pair
    with closing(apsw.Connection(str(b.path))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    a.run("INSERT INTO second VALUES ('from a', 1)")
    a.scan()
    b.receive(a.items())
    b.run("INSERT INTO first VALUES (1, 'of b')")
    b.source.full = True
    looks: list[Iterator[object]] = []
    seen: list[object] = []

    def begin_to_look(_: apsw.Connection) -> None:
        if not looks:  # the apply has begun, and the file is as it was
            looks.append(b.source.scan(EVERYTHING))
            seen.append(next(looks[0]))

    b.source.access.prepare = begin_to_look  # type: ignore[attr-defined]  # of the file, not of every access
    b.apply_once(b.store.pending(limit=10))
    seen += looks[0]
    keys = [one.draft.key.partition(b"/")[0] for one in seen if isinstance(one, Observation)]
    assert keys == [b"first"]
    assert b.tables()["second"] == ["('from a', 1)"]
