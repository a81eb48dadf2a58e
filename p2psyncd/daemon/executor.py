"""Where blocking work runs: in worker threads for real, inline in simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

__all__ = ["Executor", "InlineExecutor", "ThreadExecutor"]

T = TypeVar("T")

# Disk, hashing and SQLite of all shares together; more threads than this only fight for the two locks.
THREADS_MAX = 16


class Executor(Protocol):
    """Runs blocking functions."""

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns; it is never abandoned half-way."""
        ...


class ThreadExecutor:
    """Runs blocking functions in worker threads under one named limiter."""

    def __init__(self) -> None:
        self.limiter = trio.CapacityLimiter(THREADS_MAX)

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns; waits for it even when cancelled (it may hold a transaction)."""
        return await trio.to_thread.run_sync(call, limiter=self.limiter)


class InlineExecutor:
    """Runs blocking functions in place: simulations need every step in one thread."""

    async def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, after one checkpoint."""
        await trio.lowlevel.checkpoint()
        return call()
