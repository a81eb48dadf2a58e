"""From how many on things are done together: so few in every other simulation that its few rows take the ways of many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest.mock import patch

from p2psyncd.daemon import ledger, sessions
from p2psyncd.sources.database import hints, rows, scan
from p2psyncd.store import database, reading

__all__ = ["sized"]

SMALL: dict[ModuleType, dict[str, int]] = {
    ledger: {"FRESH_MAX": 6},
    # What is changed together in a simulation is less than that.
    sessions: {"GATHERED_MAX": 24, "PART_ITEMS": 4, "ITEMS_PER_DELTA": 2},
    hints: {"DROPPED_AT_ONCE_MIN": 1},
    rows: {"GROUP_ROWS": 2, "IN_MAX": 2},
    scan: {"NEW_ROWS_MIN": 1, "PAGE_ROWS": 3},
    database: {"GROUP_ROWS": 2},
    reading: {"FAMILY_MIN": 2},
}


@contextmanager
def sized(seed: int) -> Iterator[None]:
    """Let a simulation have small sizes if its seed is odd."""
    if seed % 2 == 0:
        yield
        return
    before = {module: {name: getattr(module, name) for name in names} for module, names in SMALL.items()}
    assert all(before[module][name] > size for module in SMALL for name, size in SMALL[module].items())
    patches = [patch.multiple(module, **sizes) for module, sizes in SMALL.items()]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
