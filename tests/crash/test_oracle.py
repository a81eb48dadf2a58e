"""The oracle finds what it is there for: a rig that cannot fail shows nothing."""

from __future__ import annotations

from pathlib import Path

from crashrig.journal import Journal, digest_of
from crashrig.oracle import Cut, judge, torn


def written(journal: Journal, path: str, side: str = "a", *, durable: bool = False) -> bytes:
    data = journal.make(100)
    journal.wrote(side, "create", path, data, durable=durable)
    return digest_of(data)


def blamed(
    journal: Journal,
    tree: dict[str, bytes],
    *,
    history: frozenset[bytes] = frozenset(),
    killed: frozenset[str] = frozenset(),
    cut: Cut | None = None,
) -> list[str]:
    verdict = judge(journal, tree, history=set(history), killed=set(killed), cut=cut)
    return [line.partition(":")[0] for line in verdict.violations]


def test_what_was_written_and_is_nowhere_is_lost() -> None:
    journal = Journal(1)
    one, two = written(journal, "f"), written(journal, "g")
    assert blamed(journal, {"f": one, "elsewhere": two}) == []
    assert blamed(journal, {"f": one}) == ["lost"]
    journal.removed("b", "delete", "g", [two], durable=False)
    assert blamed(journal, {"f": one}) == []


def test_an_edit_in_place_may_end_in_history() -> None:
    journal = Journal(1)
    journal.wrote("a", "edit", "f", b"edited", durable=False, in_place=True)
    assert blamed(journal, {}) == ["lost"]
    assert blamed(journal, {}, history=frozenset({digest_of(b"edited")})) == []


def test_what_was_removed_must_not_come_back() -> None:
    journal = Journal(1)
    one = written(journal, "f")
    journal.agree({"f": one})
    journal.removed("a", "delete", "f", [one], durable=False)
    assert blamed(journal, {"f": one}) == ["resurrected"]
    assert blamed(journal, {"f (conflict 2026-11-24 01-02-03 0123456789ab)": one}) == []
    journal.moved("b", "rename", "f", "g", [one])
    assert blamed(journal, {"g": one}) == []


def test_what_came_and_went_around_a_kill_may_come_once_more() -> None:
    journal = Journal(1)
    one = written(journal, "f", "a")
    journal.removed("b", "delete", "f", [one], durable=False)
    assert blamed(journal, {"f": one}) == ["resurrected"]
    assert blamed(journal, {"f": one}, killed=frozenset({"b"})) == []
    assert blamed(journal, {"f": one}, killed=frozenset({"a"})) == ["resurrected"]


def test_a_mixture_is_nobodys_content(tmp_path: Path) -> None:
    journal = Journal(1)
    data = journal.make(100)
    journal.wrote("a", "create", "f", data, durable=False)
    (tmp_path / "f").write_bytes(data)
    assert torn(tmp_path, journal) == []
    (tmp_path / "f").write_bytes(data[:60])
    assert torn(tmp_path, journal) == [f"torn: {tmp_path / 'f'}"]
    assert blamed(journal, {"f": digest_of(data), "g": digest_of(data[:60])}) == ["torn"]


def test_a_cut_takes_only_what_was_neither_synced_nor_seen_by_the_peer() -> None:
    journal = Journal(1)
    synced = written(journal, "synced", durable=True)
    unseen = written(journal, "unseen")
    seen = written(journal, "seen")
    cut = Cut("a", {"seen": seen})
    assert unseen != seen
    assert blamed(journal, {"seen": seen, "synced": synced}, cut=cut) == []
    assert blamed(journal, {"seen": seen}, cut=cut) == ["lost"]
    assert blamed(journal, {"synced": synced}, cut=cut) == ["lost"]


def test_a_cut_makes_nothing_stale_doubled_or_in_conflict() -> None:
    journal = Journal(1)
    old = written(journal, "f", durable=True)
    journal.agree({"f": old})
    journal.removed("a", "replace", "f", [old], durable=False)
    new = written(journal, "f")
    cut = Cut("a", {"f": new})
    assert blamed(journal, {"f": new}, cut=cut) == []
    assert sorted(blamed(journal, {"f": old}, cut=cut)) == ["lost", "resurrected", "stale"]
    copy = "f (conflict 2026-11-24 01-02-03 0123456789ab)"
    assert sorted(blamed(journal, {"f": new, copy: old}, cut=cut)) == ["conflict out of nothing"]
    assert blamed(journal, {"f": new, "g": new}, cut=cut) == ["doubled"]


def test_a_torn_file_is_the_writers_own_loss_only_where_nobody_else_had_it() -> None:
    journal = Journal(1)
    meant = written(journal, "d/f")
    half = digest_of(b"half of it")
    verdict = judge(journal, {"d/f": half}, history=set(), killed=set(), cut=Cut("a", {}))
    assert (verdict.violations, verdict.own_losses) == ([], 1)
    assert "torn" in blamed(journal, {"d/f": half}, cut=Cut("a", {"d/f": meant}))
