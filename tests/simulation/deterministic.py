"""One seed, one trace: trio with a seeded scheduler and a clock that jumps.

Trio has what this needs for its own tests and hypothesis, under private names: all of them are here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from trio._core import _run as internals
from trio.testing import MockClock

__all__ = ["run"]

T = TypeVar("T")


def run(seed: int, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Return what an async function returns, run in virtual time; the same every time for one seed."""
    before, state = internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r.getstate()
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True
    internals._r.seed(seed)
    try:
        return trio.run(function, *arguments, clock=MockClock(autojump_threshold=0))
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING = before
        internals._r.setstate(state)
