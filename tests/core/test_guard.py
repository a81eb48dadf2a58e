from __future__ import annotations

import pytest

from p2psyncd.core.guard import FREE_BYTES_MIN, has_room, is_mass_delete

GIB = 1024**3


@pytest.mark.parametrize(
    ("deleted", "known", "held"),
    [
        (99, 99, False),
        (100, 100, True),
        (100, 200, True),
        (100, 201, False),
        (500, 1000, True),
        (499, 1000, False),
        (0, 0, False),
    ],
)
def test_a_hundred_items_and_half_of_the_share_gone_is_a_mass_delete(
    deleted: int, known: int, held: bool
) -> None:
    assert is_mass_delete(deleted, known) is held


@pytest.mark.parametrize(
    ("free", "total", "wanted", "room"),
    [
        (FREE_BYTES_MIN, GIB, 0, True),
        (FREE_BYTES_MIN, GIB, 1, False),
        (FREE_BYTES_MIN - 1, GIB, 0, False),
        (GIB, 100 * GIB, 0, True),
        (GIB, 100 * GIB + 1, 0, False),
        (2 * GIB, 100 * GIB, GIB, True),
        (2 * GIB, 100 * GIB, GIB + 1, False),
    ],
)
def test_one_percent_and_256_mib_of_the_disk_stay_free(
    free: int, total: int, wanted: int, room: bool
) -> None:
    assert has_room(free, total, wanted) is room
