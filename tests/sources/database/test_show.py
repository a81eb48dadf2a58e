"""How the item is found that a shown row stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from two_files import Clock, Replica

from p2psyncd.core.storage import Listed
from p2psyncd.sources.database.keys import identities

FAMILY = (
    "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT);"
    "CREATE TABLE card(id INTEGER PRIMARY KEY, person INTEGER REFERENCES person(id))"
)


def test_a_parent_is_looked_up_once_for_all_rows_that_refer_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Replica(1, tmp_path / "app.db", FAMILY, Clock())) as replica:
        replica.run("INSERT INTO person VALUES (1, 'Ada'), (2, 'Bob')")
        replica.scan()
        asked: Counter[bytes] = Counter()
        below = replica.store.below

        def counted(prefix: bytes) -> Iterator[Listed]:
            asked[prefix] += 1
            return below(prefix)

        monkeypatch.setattr(replica.store, "below", counted)
        replica.run("INSERT INTO card(person) VALUES (1), (1), (1), (2), (1), (1), (1), (1), (1), (1)")
        assert replica.scan() == 10
        # By the scan, and by what looks after rows whose parents are gone.
        assert 1 <= asked[identities("person", 1)] <= 2
