"""Time as a value that is handed in."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """Where a program gets the time; `main` chooses the real one, tests an invented one."""

    def now_us(self) -> int:
        """Return the wall clock, microseconds since 1970 (UTC)."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that only ever grow; for durations."""
        ...
