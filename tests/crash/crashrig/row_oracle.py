"""Holds the rows that two devices agree on against what the apps wrote: no value lost, none back, no row twice, no conflict out of nothing.

A value may be gone if somebody replaced or deleted it who saw it; if it is listed as a conflict's; if its row was deleted by
somebody, and what was lost with that is in history; or if it was in the child of a parent that somebody deleted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crashrig.rows import Dump, RowJournal, Written, numbers_in

__all__ = ["Listed", "judge_rows", "numbers_named"]

NUMBER = re.compile(r"w(\d{13})|\b(\d{13})\b|77((?:3\d){13})")
NAME = re.compile(r"\bname: '(name \d+)'")


def numbers_named(text: str) -> set[int]:
    """Return the numbers of the values that a text for people shows."""
    found = set()
    for letters, plain, blob in NUMBER.findall(text):
        found.add(int(letters or plain or bytes.fromhex(blob).decode()))
    return found


@dataclass(frozen=True, slots=True)
class Listed:
    """What a device lists."""

    conflicts: Sequence[Mapping[str, Any]] = ()
    """As `p2psync conflict show` has them."""
    history: Sequence[Mapping[str, Any]] = ()

    @property
    def lost(self) -> set[int]:
        """The values that conflicts are about."""
        return {
            number
            for one in self.conflicts
            for side in one["sides"]
            for number in numbers_named(side["where"])
        }

    @property
    def kept(self) -> set[int]:
        """The values that are in history."""
        return {number for one in self.history for number in numbers_named(one["item"])}

    @property
    def contested(self) -> set[str]:
        """The names that rows have which are not shown."""
        found = set()
        for one in self.conflicts:
            for side in one["sides"]:
                found.update(NAME.findall(side["where"]))
        return found


@dataclass
class Judge:
    """Judges one state that both devices have."""

    journal: RowJournal
    rows: Dump
    listed: Listed
    violations: list[str] = field(default_factory=list)

    def blame(self, what: str, number: int) -> None:
        """Add a violation, with what the journal says about it."""
        self.violations.append(f"{what}: {number} [{self.journal.about(number)}]")

    def values(self) -> None:
        """Judge each value: there, gone, or twice."""
        present = Counter(numbers_in(self.rows))
        lost, kept = self.listed.lost, self.listed.kept
        for number, times in present.items():
            written = self.journal.written.get(number)
            if written is None:
                self.blame("nobody's", number)
            elif times != written.times:
                self.blame(f"{times} times instead of {written.times}", number)
            elif number in self.journal.removed and number not in self.journal.hidden:
                self.blame("back", number)
        for number in self.journal.written.keys() - present.keys() - self.journal.removed.keys():
            if number not in lost and not self.went_with_its_row(number, kept):
                self.blame("lost", number)

    def went_with_its_row(self, number: int, kept: set[int]) -> bool:
        """Return whether a value was in a row that somebody deleted."""
        written = self.journal.written[number]
        if self.journal.lost_its_parent(written.row):
            return True
        if number in self.journal.hidden:
            return True  # it was listed, until somebody wrote over it or deleted its row
        return number in kept and self.other_touched(written)

    def other_touched(self, written: Written) -> bool:
        """Return whether the other app touched the row since both sides were last equal."""
        return self.journal.touched_by(written.row, "ab".replace(written.side, ""))

    def conflicts(self) -> None:
        """Judge each conflict that was not there when both sides were last equal: both must have written."""
        for one in self.listed.conflicts:
            winner, *losers = one["sides"]
            for loser in losers:
                fresh = numbers_named(loser["where"]) - self.journal.known
                if fresh and not self.both_wrote(winner["where"], loser["where"], fresh):
                    self.violations.append(
                        f"conflict out of nothing: {one['item']}: {winner['where']} against {loser['where']}"
                        f" {[self.journal.about(number) for number in fresh]}"
                    )

    def both_wrote(self, winner: str, loser: str, fresh: set[int]) -> bool:
        """Return whether a conflict is one: both apps wrote the row, or gave a row the same name."""
        for name in set(NAME.findall(winner)) & set(NAME.findall(loser)):
            if name in self.journal.contested or all((name, side) in self.journal.claimed for side in "ab"):
                return True
        written = [self.journal.written[number] for number in fresh if number in self.journal.written]
        return any(self.other_touched(one) or self.journal.lost_its_parent(one.row) for one in written)


def judge_rows(journal: RowJournal, rows: Dump, listed: Listed) -> list[str]:
    """Return what is wrong with the rows that both devices agree on, and begin anew from there."""
    judge = Judge(journal, rows, listed)
    judge.values()
    judge.conflicts()
    journal.agree(set(numbers_in(rows)), listed.lost, listed.contested)
    return judge.violations
