"""The oracle over rows finds what it is there for: a rig that cannot fail shows nothing."""

from __future__ import annotations

from typing import Any

from crashrig.app_program import FIRST_NUMBER, number_of
from crashrig.row_oracle import Listed, judge_rows, numbers_named
from crashrig.rows import RowJournal, differences, numbers_in

TOKEN, NOTE, OTHER = FIRST_NUMBER + 2, FIRST_NUMBER + 4, FIRST_NUMBER + 3


def record(*wrote: int, removed: tuple[int, ...] = (), row: int = TOKEN, parent: int = 0) -> dict[str, Any]:
    return {
        "did": ["something"],
        "wrote": [[number, "people", "note", row, 1, parent] for number in wrote],
        "removed": [[number, row] for number in removed],
        "claimed": [],
        "same": [],
    }


def conflict(winner: str, loser: str) -> dict[str, Any]:
    return {"item": "people 1 note", "sides": [{"where": winner}, {"where": loser}]}


def blamed(journal: RowJournal, *values: object, **listed: Any) -> list[str]:
    rows = {"people": [{"id": n, "note": value} for n, value in enumerate(values)]}
    return [line.partition(":")[0] for line in judge_rows(journal, rows, Listed(**listed))]


def written(*records: tuple[str, dict[str, Any]]) -> RowJournal:
    journal = RowJournal()
    for side, one in records:
        journal.take(side, [one])
    return journal


def test_a_value_is_known_by_its_number_whatever_its_type() -> None:
    for value in (f"w{NOTE} …", f"w{NOTE}".encode(), NOTE, NOTE + 0.5):
        assert number_of(value) == NOTE
    assert [number_of(value) for value in (1, "name 1", None, b"\xff")] == [None] * 4
    blob = f"x'{f'w{NOTE} and so on'.encode().hex()}…'"
    assert numbers_named(f"people 1 note: 'w{TOKEN} …', extra: {NOTE}.5, more: {blob}") == {TOKEN, NOTE}


def test_what_was_written_and_is_not_there_is_lost() -> None:
    assert blamed(written(("a", record(TOKEN, NOTE))), TOKEN, NOTE) == []
    assert blamed(written(("a", record(TOKEN, NOTE))), TOKEN) == ["lost"]
    assert blamed(written(("a", record(TOKEN, NOTE)), ("b", record(removed=(NOTE,)))), TOKEN) == []
    child = ("a", record(TOKEN, NOTE, parent=OTHER))
    assert blamed(written(child)) == ["lost", "lost"]
    assert blamed(written(child, ("b", record(removed=(OTHER,), row=OTHER)))) == []


def test_history_speaks_only_for_what_the_other_one_deleted() -> None:
    history = [{"item": f"people 1 note: {NOTE}"}]
    assert blamed(written(("a", record(NOTE))), history=history) == ["lost"]
    assert blamed(written(("a", record(NOTE)), ("b", record(removed=(OTHER,)))), history=history) == []


def test_what_is_back_or_twice_or_nobodys_is_blamed() -> None:
    assert blamed(written(("a", record(NOTE)), ("b", record(removed=(NOTE,)))), NOTE) == ["back"]
    assert blamed(written(("a", record(NOTE))), NOTE, NOTE) == ["2 times instead of 1"]
    assert blamed(written(), NOTE) == ["nobody's"]


def test_what_both_sides_once_agreed_was_gone_must_not_come_back() -> None:
    journal = written(("a", record(TOKEN, NOTE)), ("b", record(removed=(NOTE,))))
    assert blamed(journal, TOKEN) == []
    assert blamed(journal, TOKEN, NOTE) == ["back"]


def test_a_conflict_needs_two_who_wrote() -> None:
    conflicts = [conflict(f"note: {OTHER}", f"note: {NOTE}")]
    assert blamed(written(("a", record(NOTE)), ("b", record(OTHER))), OTHER, conflicts=conflicts) == []
    alone = written(("a", record(NOTE, OTHER)))
    assert blamed(alone, OTHER, conflicts=conflicts) == ["conflict out of nothing"]
    assert blamed(alone, OTHER, conflicts=conflicts) == []  # said once


def test_a_value_of_another_type_is_another_value() -> None:
    ours, theirs = {"t": [{"id": 1, "x": 1}]}, {"t": [{"id": 1, "x": 1.0}]}
    assert len(differences(ours, theirs)) == 2
    assert differences(ours, ours) == []
    assert list(numbers_in({"t": [{"note": NOTE, "belongs": f"w{TOKEN}"}]})) == [NOTE]
