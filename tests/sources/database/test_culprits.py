"""Which rows of a batch fail by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.sources.database.culprits import CULPRITS_MAX, find_culprits


@given(st.lists(st.booleans(), max_size=60))
def test_the_ones_that_fail_are_found_in_their_order_up_to_a_bound(good: list[bool]) -> None:
    units = list(enumerate(good))

    def attempt(some: Sequence[tuple[int, bool]]) -> Exception | None:
        bad = [number for number, fine in some if not fine]
        return ValueError(bad[0]) if bad else None

    found = find_culprits(units, attempt)
    bad = [unit for unit in units if not unit[1]][:CULPRITS_MAX]
    assert [(unit, error.args) for unit, error in found] == [(unit, (unit[0],)) for unit in bad]


def test_what_fails_only_together_has_no_culprit() -> None:
    assert find_culprits([1, 2], lambda some: ValueError() if len(some) > 1 else None) == []
