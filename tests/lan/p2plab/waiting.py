"""Waiting for a condition, with a deadline that says what did not come true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually", "pause"]

T = TypeVar("T")


def pause(seconds: float) -> None:
    """Wait between two looks at a condition."""
    threading.Event().wait(seconds)


def eventually(what: str, probe: Callable[[], T], *, within_s: float = 30.0, every_s: float = 0.03) -> T:
    """Call `probe` until it returns something true, and return that.

    Raises:
        TimeoutError: It stayed false; the message names `what` and the last value.
    """
    end = time.monotonic() + within_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {within_s:g} s: {what} (last: {value!r})")
        pause(every_s)
