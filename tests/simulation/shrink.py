"""Cuts a failing plan down to the steps that it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

from oracle import Violation
from plan import Plan

__all__ = ["shrink"]


def shrink(
    plan: Plan, what: str, run: Callable[[Plan], Violation | None], *, seconds: float
) -> tuple[Plan, Violation | None]:
    """Return a plan that still fails in the same way and is as short as can be found in time.

    Args:
        plan: It fails.
        what: How (`Violation.what`).
        run: Takes a plan through.
        seconds: When to stop looking.
    """
    end = time.monotonic() + seconds
    best: Violation | None = None
    size = len(plan.steps) // 2
    while size:
        at, shorter = 0, False
        while at < len(plan.steps) and time.monotonic() < end:
            steps = plan.steps[:at] + plan.steps[at + size :]
            violation = run(plan.with_steps(steps))
            if violation is not None and violation.what == what:
                plan, best, shorter = plan.with_steps(steps), violation, True
            else:
                at += size
        if time.monotonic() >= end:
            break
        size = size if shorter and size == 1 else size // 2
    return plan, best
