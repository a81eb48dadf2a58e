"""A backend that answers from a script; the tests of the server and of the client share it.

Loaded by path from the conftest files: tests are no packages.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from p2psyncd.control.server import serve
from p2psyncd.errors import CodeExpired, TimedOut

DESK = {
    "id": "DDDDDDD-EEEEEEE",
    "name": "desk",
    "connected": True,
    "paused": False,
    "address": "192.168.1.7:22600",
    "found_by": "mdns",
    "last_seen": "2025-06-01T10:00:00Z",
    "paired": "2025-05-01T10:00:00Z",
    "introduced_by": None,
}
PHOTOS: dict[str, Any] = {
    "name": "Photos",
    "id": "0123456789abcdef",
    "kind": "folder",
    "path": "/home/ada/Photos",
    "mode": "send-receive",
    "state": "idle",
    "reason": None,
    "items": 1234,
    "bytes": 5_000_000,
    "root": "ab" * 32,
    "need_items": 0,
    "need_bytes": 0,
    "conflicts": 0,
    "errors": [],
    "peers": [{"name": "desk", "in_sync": True, "need_items": 0, "need_bytes": 0}],
}
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "device": {"id": "AAAAAAA-BBBBBBB", "name": "laptop", "listen": ["192.168.1.5:22600"]},
    "peers": [
        {
            "id": "DDDDDDD-EEEEEEE",
            "name": "desk",
            "connected": True,
            "address": "192.168.1.7:22600",
            "found_by": "mdns",
            "last_seen": "2025-06-01T10:00:00Z",
        }
    ],
    "shares": [PHOTOS],
}
CONFLICT: dict[str, Any] = {
    "id": "c1",
    "share": "Photos",
    "kind": "folder",
    "item": "a.txt",
    "winner": "desk",
    "losers": [{"device": "laptop", "time": "2025-06-01T10:00:00Z", "where": "a (conflict).txt"}],
    "time": "2025-06-01T10:00:01Z",
    "resolved": False,
}
EVENTS = [
    {
        "id": n,
        "time": "2025-06-01T10:00:00Z",
        "type": "item_applied",
        "share": "Photos",
        "device": "desk",
        "item": f"{n}.jpg",
        "message": f"{n}.jpg came from desk",
    }
    for n in (1, 2, 3)
]
ANSWERS: dict[str, Any] = {
    "status": STATUS,
    "pair_show": {"code": "7-amber-falcon", "expires": "2025-06-01T10:05:00Z"},
    "pair_join": DESK,
    "devices": [DESK],
    "device_rename": DESK,
    "device_pause": DESK,
    "device_resume": DESK,
    "device_remove": {"removed": "desk", "everywhere": True, "told": ["phone"], "later": ["tablet"]},
    "share_add": PHOTOS,
    "share_list": [PHOTOS],
    "share_offers": [
        {"name": "Music", "id": "ff", "kind": "folder", "device": "desk", "items": 3, "bytes": 4096}
    ],
    "share_accept": PHOTOS,
    "share_compare": {
        "share": "Notes",
        "path": "/home/ada/notes.db",
        "device": "desk",
        "identical": 1200,
        "only_here": 1,
        "only_there": 2,
        "different": 3,
        "tables": [{"table": "notes", "identical": 1200, "only_here": 1, "only_there": 2, "different": 3}],
        "complete": True,
    },
    "share_pause": PHOTOS,
    "share_resume": PHOTOS,
    "share_rescan": PHOTOS,
    "share_remove": PHOTOS,
    "share_approve": PHOTOS,
    "wait": {
        "shares": [{"name": "Photos", "root": "ab", "items": 1, "bytes": 2, "peers": ["desk"]}],
        "paused": [],
    },
    "sync_once": {
        "shares": [{"name": "Photos", "root": "ab", "items": 1, "bytes": 2, "peers": ["desk"]}],
        "paused": [],
        "received_items": 1,
        "received_bytes": 2048,
        "sent_items": 0,
        "sent_bytes": 0,
    },
    "conflicts": [CONFLICT],
    "conflict_show": CONFLICT
    | {
        "sides": [
            {
                "device": "desk",
                "time": "2025-06-01T10:00:01Z",
                "where": "/p/a.txt",
                "bytes": 3,
                "digest": "aa",
            },
            {"device": "laptop", "time": "2025-06-01T10:00:00Z", "where": "/p/b", "bytes": 4, "digest": "bb"},
        ]
    },
    "conflict_resolve": CONFLICT | {"resolved": True},
    "history": [
        {
            "version": "v1",
            "path": "/home/ada/Photos/a.txt",
            "time": "2025-06-01T10:00:00Z",
            "bytes": 10,
            "reason": "replaced",
            "device": "desk",
        }
    ],
    "restore": {"path": "/home/ada/Photos/a.txt", "version": "v1", "replaced": True},
    "diff": {
        "share": "Photos",
        "devices": [
            {
                "device": "desk",
                "connected": True,
                "differences": [{"item": "a.txt", "here": "absent", "there": "file, 3 bytes"}],
                "round_trips": 2,
                "bytes": 900,
            }
        ],
    },
    "verify": {"items": 1234, "bytes": 5_000_000, "problems": []},
    "events": EVENTS,
    "doctor": [{"name": "mDNS", "ok": "ok", "message": "answers on eth0", "advice": ""}],
    "metrics": [
        {
            "name": "items",
            "help": "Live items.",
            "type": "gauge",
            "labels": {"share": "Photos"},
            "value": 1234,
        }
    ],
    "reload": None,
    "shutdown": None,
}


class ScriptedBackend:
    """Answers each call from `answers`; an exception there is raised, a function is called.

    Attributes:
        calls: What was asked: (name, positional arguments, keyword arguments).
        joined: Set to let `pair_wait` return.
    """

    def __init__(self) -> None:
        self.answers = dict(ANSWERS)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.joined = trio.Event()
        self.pair_ends_with: Exception | None = None
        self.withdrawn: list[str] = []
        self.withdrew = trio.Event()
        self.hanging = trio.Event()
        self.hang_ended = trio.Event()
        self.run_sync_soon: Callable[..., None] = lambda call: call()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in ANSWERS:
            raise AttributeError(name)

        async def answer(*args: Any, **kwargs: Any) -> Any:
            await trio.lowlevel.checkpoint()
            self.calls.append((name, args, kwargs))
            found = self.answers[name]
            if isinstance(found, BaseException):
                raise found
            return await found(*args, **kwargs) if callable(found) else found

        return answer

    async def pair_wait(self, code: str, *, timeout_s: float | None) -> Any:
        self.calls.append(("pair_wait", (code,), {"timeout_s": timeout_s}))
        if self.pair_ends_with is not None:
            raise self.pair_ends_with
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            await self.joined.wait()
            return DESK
        raise TimedOut("no device joined")

    async def pair_cancel(self, code: str) -> None:
        self.withdrawn.append(code)
        self.withdrew.set()

    @asynccontextmanager
    async def follow_events(self, since: int) -> AsyncIterator[AsyncIterator[Any]]:
        self.calls.append(("follow_events", (since,), {}))

        async def stream() -> AsyncGenerator[Any, None]:
            for event in EVENTS:
                if event["id"] > since:
                    yield event
            if isinstance(self.answers.get("follow_end"), Exception):
                raise self.answers["follow_end"]
            self.hanging.set()
            await trio.sleep_forever()

        try:
            async with aclosing(stream()) as events:
                yield events
        finally:
            self.hang_ended.set()

    async def hang(self, *_: Any, **__: Any) -> None:
        """Never answer; to be put into `answers`."""
        self.hanging.set()
        try:
            await trio.sleep_forever()
        finally:
            self.hang_ended.set()


@contextmanager
def served_in_a_thread(socket_path: Path) -> Iterator[ScriptedBackend]:
    """Serve a scripted backend from another thread, so that a blocking client can talk to it."""
    backend = ScriptedBackend()
    ready = threading.Event()
    control: dict[str, Any] = {}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            control["token"] = trio.lowlevel.current_trio_token()
            backend.run_sync_soon = control["token"].run_sync_soon
            control["scope"] = nursery.cancel_scope
            await nursery.start(serve, backend, socket_path)
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        assert ready.wait(10), "the server did not start"
        yield backend
    finally:
        control["token"].run_sync_soon(control["scope"].cancel)
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"


__all__ = ["CodeExpired", "ScriptedBackend", "served_in_a_thread"]
