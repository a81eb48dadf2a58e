"""The kernel's inotify, as the sources use it: watchdog's binding, and none of its observers.

Those watch every directory below a path, say nothing of dropped events, and take a thread each.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from watchdog.observers.inotify_c import (
    inotify_add_watch,
    inotify_init,
    inotify_rm_watch,
)

__all__ = [
    "EVENT",
    "INSTANCES_SETTING",
    "WATCHES_SETTING",
    "Event",
    "add_watch",
    "advice",
    "open_inotify",
    "parse_events",
    "read_events",
    "remove_watch",
]

# watchdog 7 gives its numbers types of their own, watchdog 6 does not.
add_watch: Callable[[int, bytes, int], int] = cast("Any", inotify_add_watch)
remove_watch: Callable[[int, int], int] = cast("Any", inotify_rm_watch)

EVENT = struct.Struct("iIII")
READ_BYTES = 256 * 1024
# Events are taken in batches of at most this long; the kernel keeps 16,384 by default.
READS_MAX = 8
WATCHES_SETTING = "fs.inotify.max_user_watches"
INSTANCES_SETTING = "fs.inotify.max_user_instances"
# A watch takes about 1 KiB of the kernel's memory, and only once it is used.
ADVICE = {WATCHES_SETTING: 1_048_576, INSTANCES_SETTING: 1024}


@dataclass(slots=True)
class Event:
    """One event: on which directory, what, and the entry's name."""

    watch: int
    mask: int
    cookie: int
    name: bytes


def open_inotify() -> int:
    """Return the descriptor of a new inotify instance, which never blocks.

    Raises:
        OSError: There can be no more of them, or of descriptors.
    """
    inotify = inotify_init()
    if inotify < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.set_inheritable(inotify, False)  # noqa: FBT003  (os takes it by position)
    os.set_blocking(inotify, False)
    return inotify


def read_events(inotify: int) -> Iterator[Event]:
    """Yield the events that have come."""
    for _ in range(READS_MAX):
        try:
            buffer = os.read(inotify, READ_BYTES)
        except BlockingIOError:
            return
        yield from parse_events(buffer)


def parse_events(buffer: bytes) -> Iterator[Event]:
    """Yield the events of a buffer read from inotify."""
    at = 0
    while at + EVENT.size <= len(buffer):
        watch, mask, cookie, length = EVENT.unpack_from(buffer, at)
        at += EVENT.size
        yield Event(watch, mask, cookie, buffer[at : at + length].rstrip(b"\0"))
        at += length


def advice(setting: str) -> str:
    """Return the command that raises one of the kernel's limits."""
    return f"sudo sysctl {setting}={ADVICE[setting]}"
