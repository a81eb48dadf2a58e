from __future__ import annotations

import pytest

from p2psyncd.core.guard import EMPTIED_ITEMS_MIN, FREE_BYTES_MIN, has_room, is_mass_delete

MIB = 1024 * 1024
GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("deleted", "known", "stops"),
    [
        (0, 0, False),
        (99, 99, False),
        (100, 200, True),
        (100, 201, False),
        (100, 100, True),
        (5000, 9000, True),
    ],
)
def test_only_much_of_a_share_at_once_is_a_mass_delete(deleted: int, known: int, stops: bool) -> None:
    assert is_mass_delete(deleted, known) is stops


@pytest.mark.parametrize(
    ("free", "total", "wanted", "room"),
    [
        (FREE_BYTES_MIN, GIB, 0, True),
        (FREE_BYTES_MIN - 1, GIB, 0, False),
        (FREE_BYTES_MIN, GIB, 1, False),
        (GIB, 100 * GIB, 0, True),
        (GIB - 1, 100 * GIB, 0, False),
        (50 * GIB, 100 * GIB, 49 * GIB, True),
        (50 * GIB, 100 * GIB, 50 * GIB, False),
    ],
)
def test_one_percent_and_256_mib_stay_free(free: int, total: int, wanted: int, room: bool) -> None:
    assert has_room(free, total, wanted) is room


def test_a_share_found_empty_after_nobody_watched_is_held_from_ten_items_on() -> None:
    assert is_mass_delete(EMPTIED_ITEMS_MIN, EMPTIED_ITEMS_MIN, unwatched=True)
    assert not is_mass_delete(EMPTIED_ITEMS_MIN, EMPTIED_ITEMS_MIN)
    assert not is_mass_delete(EMPTIED_ITEMS_MIN - 1, EMPTIED_ITEMS_MIN - 1, unwatched=True)
    assert not is_mass_delete(EMPTIED_ITEMS_MIN, EMPTIED_ITEMS_MIN + 1, unwatched=True)
