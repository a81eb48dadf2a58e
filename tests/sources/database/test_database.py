"""A database as a source: what happens to the file and the store while it is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from two_files import EVERYTHING, Clock, Replica, exchange

from p2psyncd.core.storage import Listed
from p2psyncd.errors import ShareHeld
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.scan import Scanner
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.show import Place
from p2psyncd.sources.source import ItemError, Observation

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


def test_new_rows_are_looked_up_again_only_if_something_came_since_the_look(
    pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    a.scan()
    b.scan()
    asked: list[int] = []
    look = a.store.below_each

    def counted(prefixes: Iterable[bytes]) -> list[Listed]:
        prefixes = list(prefixes)
        asked.append(len(prefixes))
        return look(prefixes)

    monkeypatch.setattr(a.store, "below_each", counted)

    def found() -> list[Observation]:
        seen = [one for one in a.source.scan(EVERYTHING) if isinstance(one, Observation)]
        asked.clear()  # by the look itself
        return seen

    a.run("INSERT INTO first VALUES (1, 'first')", "INSERT INTO first VALUES (2, 'second')")
    for one in found():  # recorded in two steps
        a.source.unsettle(a.ledger.record(a.source.confirm([one])))
    assert not asked
    a.run("INSERT INTO first VALUES (3, 'third')")
    seen = found()
    b.run("INSERT INTO first VALUES (4, 'of b')")
    b.scan()
    a.receive(b.items())
    a.source.unsettle(a.ledger.record(a.source.confirm(seen)))
    assert asked == [1]
    a.run("INSERT INTO first VALUES (5, 'fifth')")
    seen = found()
    a.apply_once(a.store.pending(limit=10))  # what came before the look
    a.source.confirm(seen)
    assert asked == [1]


class Watch:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def now_us(self) -> int:
        return int(self.seconds * 1_000_000)

    def monotonic_s(self) -> float:
        return self.seconds


def hints_in(replica: Replica) -> int:
    """Return how many rows are hinted at in the app's file."""
    return sum(
        replica.run(f"SELECT count(*) FROM {name}")[0][0]
        for (name,) in replica.run(
            "SELECT name FROM sqlite_schema WHERE name GLOB '_p2p_h*' AND type = 'table'"
        )
    )


def test_an_app_that_is_at_work_is_left_alone_with_its_hints_until_it_rests(
    pair: tuple[Replica, Replica],
) -> None:
    replica, _ = pair
    clock = replica.source.clock = Watch()
    for number in range(1, 6):
        replica.run(f"INSERT INTO first VALUES ({number}, 'x')")
        clock.seconds += 0.5
        assert replica.scan() == 1
        assert replica.scan() == 0
        assert hints_in(replica) == number
    clock.seconds += 1
    assert replica.source.take_busy() == EVERYTHING, "it looks again by itself"
    assert replica.scan() == 0
    assert hints_in(replica) == 0


def test_hints_do_not_pile_up_though_an_app_never_rests(pair: tuple[Replica, Replica]) -> None:
    replica, _ = pair
    replica.source.clock = Watch()
    most = 0
    for number in range(30):
        first = number * 100
        rows = ", ".join(f"({key}, 'x')" for key in range(first, first + 100))
        replica.run(f"INSERT INTO first VALUES {rows}")
        assert replica.scan() == 100
        most = max(most, hints_in(replica))
    assert 500 <= most <= 700


def test_a_row_that_cannot_be_looked_at_keeps_no_other_back(
    pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = pair
    a.run("INSERT INTO second VALUES ('one', 1), ('two', 2)")
    through = Scanner.sight

    def sight(self: Scanner, rows: Rows, table: Table, place: Place, ms: int) -> object:
        if place == ("one",):
            raise LookupError("no such thing")
        return through(self, rows, table, place, ms)

    monkeypatch.setattr(Scanner, "sight", sight)
    found = list(a.source.scan(EVERYTHING))
    assert [one.draft.key for one in found if isinstance(one, Observation)] == [b"second/-/'two"]
    [error] = [one for one in found if isinstance(one, ItemError)]
    assert error.key == b"second"
    assert "LookupError at test_database.py" in error.reason


def test_while_an_app_is_at_work_rows_without_end_lock_it_out_a_twentieth_of_the_time(
    pair: tuple[Replica, Replica],
) -> None:
    source, clock = pair[0].source, Watch()
    source.clock = clock
    began_s, locked_s, longest_s = clock.seconds, 0.0, 0.0
    for _ in range(500):
        source.touched_s = applying_s = clock.seconds
        clock.seconds += 0.02
        source.owe(applying_s)
        locked_s += 0.02
        longest_s = max(longest_s, source.rest_s)
        clock.seconds += source.rest_s
    assert locked_s <= 0.051 * (clock.seconds - began_s)
    assert longest_s <= 1


def test_what_comes_now_and_then_is_put_in_place_at_once_and_so_is_all_where_no_app_is_at_work(
    pair: tuple[Replica, Replica],
) -> None:
    source, clock = pair[0].source, Watch()
    source.clock = clock
    for _ in range(100):
        source.touched_s = applying_s = clock.seconds
        clock.seconds += 0.05
        source.owe(applying_s)
        assert source.rest_s == 0
        clock.seconds += 1
    source.touched_s = clock.seconds - 1
    applying_s = clock.seconds
    clock.seconds += 60
    source.owe(applying_s)
    assert source.rest_s == 0


def gone_back(a: Replica, b: Replica) -> bytes:
    """Put a backup in the place of b's database; return what was there before."""
    a.run("INSERT INTO first VALUES (1, 'old'), (2, 'goes')")
    exchange(a, b)
    backup = b.path.read_bytes()
    a.run("UPDATE first SET x = 'new' WHERE id = 1", "DELETE FROM first WHERE id = 2")
    exchange(a, b)
    newest = b.path.read_bytes()
    put_in_place(b, backup)
    with pytest.raises(ShareHeld):
        b.source.check()
    return newest


def put_in_place(replica: Replica, content: bytes) -> None:
    """Move a file over a database."""
    other = replica.path.with_name("other.db")
    other.write_bytes(content)
    other.replace(replica.path)


@pytest.mark.parametrize("catch_up", [True, False], ids=["catch up", "as it is"])
def test_what_a_person_decided_about_a_backup_is_carried_out_by_the_next_process(
    pair: tuple[Replica, Replica], catch_up: bool
) -> None:
    a, b = pair
    gone_back(a, b)
    b.source.approve(catch_up=catch_up)
    b.open()
    exchange(a, b)
    counts = ["(1, 'new')"] if catch_up else ["(1, 'old')", "(2, 'goes')"]
    assert a.tables()["first"] == b.tables()["first"] == counts
    # And once only: what an app writes then is not older.
    b.run("UPDATE first SET x = 'later' WHERE id = 1")
    b.open()
    exchange(a, b)
    assert "(1, 'later')" in a.tables()["first"]


class Killed(BaseException):
    """The process ends."""


def test_what_was_decided_and_not_begun_says_nothing_about_the_right_file(
    pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    newest = gone_back(a, b)

    def kill(connection: apsw.Connection) -> None:
        raise Killed

    monkeypatch.setattr(b.source.guard, "committing", kill)
    with pytest.raises(Killed):
        b.source.approve(catch_up=True)
    put_in_place(b, newest)
    b.run("UPDATE first SET x = 'by its app' WHERE id = 1")
    b.open()
    exchange(a, b)
    assert a.tables()["first"] == b.tables()["first"] == ["(1, 'by its app')"]
