"""Which rows of a batch a transaction founders on, where it does for a reason that nobody foresaw.

A batch is one transaction; without this one row would keep back all that came with it, and all that comes later. The functions here are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["CULPRITS_MAX", "find_culprits"]

T = TypeVar("T")

# Each takes as many attempts as the batch can be halved. Where there are more, the batch as a whole is no good.
CULPRITS_MAX = 20


def find_culprits(
    units: Sequence[T], attempt: Callable[[Sequence[T]], Exception | None]
) -> list[tuple[T, Exception]]:
    """Return the units that fail by themselves, and what each fails by; at most `CULPRITS_MAX` of them.

    Args:
        units: What failed together.
        attempt: Tries some of them, so that nothing stays of it, and returns what they fail by.
    """
    found: list[tuple[T, Exception]] = []

    def look(begin: int, end: int) -> None:
        if begin == end or len(found) >= CULPRITS_MAX:
            return
        error = attempt(units[begin:end])
        if error is None:
            return
        if end - begin == 1:
            found.append((units[begin], error))
            return
        middle = (begin + end) // 2
        look(begin, middle)
        look(middle, end)

    look(0, len(units))
    return found
