"""When a changed path is worth reading: pure logic, the time is handed in.

A closed file, or one renamed into place, is complete: it is due at once (not more often than every
20 ms). Any other change waits until nothing happened for 20 ms. A path that keeps changing without
ever being closed is read now and then, at twice the distance each time, up to two seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QuietWindow"]

QUIET_S = 0.020
DELAY_MAX_S = 1.0
# A path left alone for this long is new again: its next change waits only for the window.
FORGET_S = 4.0
REMEMBERED_MAX = 4096
INFINITY = float("inf")


@dataclass(slots=True)
class Waiting:
    """A path that changed, and is not due yet."""

    first_s: float
    last_s: float
    delay_s: float

    @property
    def due_s(self) -> float:
        """When to read it: after the delay, once it is quiet, but after twice the delay in any case."""
        return max(self.first_s + self.delay_s, min(self.last_s + QUIET_S, self.first_s + 2 * self.delay_s))


class QuietWindow:
    """The paths that changed and are not due yet. Times are seconds of any clock that only grows."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, Waiting] = {}
        self.released: dict[bytes, tuple[float, float]] = {}
        """When a path was last due, and the delay that it had."""
        self.wake_s = INFINITY
        """No path is due before: a bound that costs nothing to keep."""

    def changed(self, key: bytes, now_s: float) -> None:
        """Note a change that may be followed by more."""
        waiting = self.waiting.get(key)
        if waiting is not None:
            waiting.last_s = now_s  # only later than it was: `wake_s` holds
            return
        delay_s = QUIET_S
        released_s, before_s = self.released.get(key, (-INFINITY, 0.0))
        if now_s - released_s < FORGET_S:
            delay_s = min(max(2 * before_s, QUIET_S), DELAY_MAX_S)
        self.wait(key, Waiting(now_s, now_s, delay_s))

    def complete(self, key: bytes, now_s: float) -> None:
        """Note a change that is complete: it is due now, or 20 ms after the last time."""
        released_s, _ = self.released.get(key, (-INFINITY, 0.0))
        first_s = max(now_s, released_s + QUIET_S)
        self.wait(key, Waiting(first_s, first_s - QUIET_S, 0.0))

    def wait(self, key: bytes, waiting: Waiting) -> None:
        """Let a path wait."""
        self.waiting[key] = waiting
        self.wake_s = min(self.wake_s, waiting.due_s)

    def take_due(self, now_s: float) -> set[bytes]:
        """Return the paths that are due, and forget them."""
        if now_s < self.wake_s:
            return set()
        due = {key for key, waiting in self.waiting.items() if waiting.due_s <= now_s}
        for key in due:
            self.released[key] = (now_s, self.waiting.pop(key).delay_s)
        self.wake_s = min((waiting.due_s for waiting in self.waiting.values()), default=INFINITY)
        if len(self.released) > REMEMBERED_MAX:
            self.released = {
                key: (at_s, delay_s)
                for key, (at_s, delay_s) in self.released.items()
                if now_s - at_s < QUIET_S
            }
        return due
