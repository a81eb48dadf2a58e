"""Answers that come in parts: a pairing code and then the device, and the events as they happen."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

import trio

from p2psyncd.control.arguments import Arguments
from p2psyncd.control.backend import Backend
from p2psyncd.control.http import HttpConnection

__all__ = ["EVENT_STREAM", "JSON_LINES", "Stream", "find_stream", "follow_events", "pair_show"]

JSON_LINES = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
# Withdrawing a code is a matter of memory; it must not hold up a daemon that stops.
CANCEL_S_MAX = 2

Stream = Callable[[Backend, Arguments, HttpConnection], Awaitable[None]]


def json_line(value: object) -> bytes:
    """Return one line of JSON in ASCII."""
    return json.dumps(value).encode("ascii") + b"\n"


async def pair_show(backend: Backend, given: Arguments, http: HttpConnection) -> None:
    """Send a pairing code, wait, and send the device that joined: two lines of JSON.

    The connection is the code's life: whoever closes it withdraws the code.
    """
    introduce = given.flag("introduce", default=True)
    timeout_s = given.seconds("timeout_s")
    given.done()
    shown = await backend.pair_show(introduce=introduce)
    try:
        await http.begin(JSON_LINES)
        await http.send(json_line(shown))
        device = await backend.pair_wait(shown["code"], timeout_s=timeout_s)
    finally:
        with trio.move_on_after(CANCEL_S_MAX, shield=True):
            await backend.pair_cancel(shown["code"])
    await http.send(json_line(device))
    await http.end()


async def follow_events(backend: Backend, given: Arguments, http: HttpConnection) -> None:
    """Send the events after `since` (not given: after the newest) and then each as it happens, for ever."""
    since = given.whole("since", default=-1, at_least=-1)
    given.done()
    if since < 0:
        newest = await backend.events(since=0, limit=1)
        since = newest[-1]["id"] if newest else 0
    async with backend.follow_events(since) as events:
        await http.begin(EVENT_STREAM)
        async for event in events:
            await http.send(f"id: {event['id']}\ndata: {json.dumps(event)}\n\n".encode("ascii"))
    await http.end()


def find_stream(method: str, path: str, headers: Mapping[str, str], given: Arguments) -> Stream | None:
    """Return what answers in parts, if this request is of that kind.

    `GET /v1/events` is a list with `since` and a stream without, or where the client accepts only streams.
    """
    match method, path:
        case "POST", "/v1/pair/show":
            return pair_show
        case "GET", "/v1/events":
            if EVENT_STREAM not in headers.get("accept", ""):
                return None if "since" in given.values else follow_events
            if "last-event-id" in headers:
                given.values.setdefault("since", headers["last-event-id"])
            return follow_events
        case _:
            return None
