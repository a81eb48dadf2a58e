"""What happened, for people: kept in the device's store, followed live, and logged."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from p2psyncd.control.messages import Conflict, Event
from p2psyncd.core.clock import Clock
from p2psyncd.daemon.report import time_text
from p2psyncd.daemon.signal import Signal
from p2psyncd.store.device import DeviceStore, EventRecord

__all__ = ["Journal"]

# A follower that is this far behind loses the oldest; it sees that by the IDs.
FOLLOWER_EVENTS_MAX = 1000
# As many as `store.device` keeps.
EVENTS_KEPT = 10_000


class Follower:
    """The events for one client, one after another and without end.

    Not a generator: nobody would close that when its reader is cancelled.
    """

    def __init__(self, kept: Iterable[Event]) -> None:
        self.waiting = deque(kept, FOLLOWER_EVENTS_MAX)
        self.came = Signal()

    def add(self, event: Event) -> None:
        """Hand over an event; where too many wait, the oldest goes."""
        self.waiting.append(event)
        self.came.fire()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Event:
        while not self.waiting:
            await self.came.event.wait()
        return self.waiting.popleft()


class Journal:
    """Writes events down and hands them to followers."""

    def __init__(self, devices: DeviceStore, clock: Clock) -> None:
        self.devices = devices
        self.clock = clock
        self.followers: set[Follower] = set()

    def tell(
        self,
        kind: str,
        *,
        message: str,
        share: str | None = None,
        device: str | None = None,
        item: str | None = None,
        **more: object,
    ) -> None:
        """Note that something happened; `more` is kept with it, and not shown."""
        fields = {"message": message, "share": share, "device": device, "item": item, **more}
        event = event_of(self.devices.append_event(kind, fields, self.clock.now_us()))
        for follower in self.followers:
            follower.add(event)

    def note_resolved(self, conflict: Conflict) -> None:
        """Remember a conflict that was resolved on this device."""
        self.tell(
            "conflict_resolved",
            message=f"the conflict of {conflict['item']} is resolved",
            share=conflict["share"],
            item=conflict["item"],
            conflict=json.dumps(conflict),
        )

    def resolved_conflicts(self) -> list[Conflict]:
        """Return the conflicts that were resolved on this device, as far back as events are kept."""
        events = self.devices.newest_events(EVENTS_KEPT)
        kept = [event.fields.get("conflict") for event in events if event.kind == "conflict_resolved"]
        return [json.loads(text) for text in kept if isinstance(text, str)]

    def newest(self, *, since: int, limit: int) -> list[Event]:
        """Return at most the `limit` newest events with an ID above `since`, newest last."""
        return [event_of(record) for record in self.devices.newest_events(limit) if record.id > since]

    @asynccontextmanager
    async def follow(self, since: int) -> AsyncIterator[AsyncIterator[Event]]:
        """Open a stream of the kept events above `since`, then of those that happen."""
        follower = Follower(self.newest(since=since, limit=FOLLOWER_EVENTS_MAX))
        self.followers.add(follower)
        try:
            yield follower
        finally:
            self.followers.discard(follower)


def event_of(record: EventRecord) -> Event:
    """Return an event as the control API shows it."""

    def text(name: str) -> str | None:
        value = record.fields.get(name)
        return value if isinstance(value, str) else None

    return Event(
        id=record.id,
        time=time_text(record.time_us),
        type=record.kind,
        share=text("share"),
        device=text("device"),
        item=text("item"),
        message=text("message") or "",
    )
