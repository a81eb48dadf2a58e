"""Telling any number of tasks that something changed."""

from __future__ import annotations

import trio

__all__ = ["Signal", "first_of"]


class Signal:
    """A broadcast that can be waited for again and again.

    Take `event` *before* looking at the state that it is about, then look, then wait on the event:
    a change in between is not missed.
    """

    def __init__(self) -> None:
        self.event = trio.Event()

    def fire(self) -> None:
        """Wake everyone who waits."""
        self.event.set()
        self.event = trio.Event()


async def first_of(events: list[trio.Event]) -> None:
    """Wait until one of several events is set."""
    async with trio.open_nursery() as nursery:

        async def one(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(one, event)
