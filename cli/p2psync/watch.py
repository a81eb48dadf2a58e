"""Status that keeps itself up to date: redrawn on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from p2psync.client import Client
from p2psync.render import Paper, emit, emit_json_line
from p2psync.status import changes, status_lines
from p2psyncd.control.messages import Status

__all__ = ["Picture", "live_picture", "watch_status"]

# Twice a second looks alive and costs the daemon next to nothing.
REDRAW_S = 0.5

Picture = Callable[[list[str]], None]


class Pause(Protocol):
    """Waits some seconds; returns True to make an end. `threading.Event.wait` is one."""

    def __call__(self, timeout: float) -> bool:
        """Wait `timeout` seconds."""
        ...


def watch_status(client: Client, paper: Paper, *, as_json: bool, pause: Pause | None = None) -> None:
    """Show the status until interrupted, or until the daemon stops.

    Args:
        client: Talks to the daemon.
        paper: What stdout can show.
        as_json: One JSON object a line for each change, instead of words.
        pause: How to pass the time between two looks.
    """
    pause = pause or threading.Event().wait
    redrawn = sys.stdout.isatty() and not as_json
    before: Status | None = None
    with live_picture() if redrawn else nullcontext(None) as picture:
        while True:
            status: Status = client.get("/v1/status")
            if picture:
                picture(status_lines(status, paper))
            elif status != before:
                show_change(before, status, as_json=as_json)
            before = status
            if pause(REDRAW_S):
                return


def show_change(before: Status | None, after: Status, *, as_json: bool) -> None:
    """Print what changed."""
    if as_json:
        emit_json_line(after)
    else:
        emit(*changes(before, after))


def live_picture() -> AbstractContextManager[Picture]:
    """Open a part of the terminal whose lines can be replaced again and again."""
    from rich.console import Console  # noqa: PLC0415  # a third of the client's start-up time
    from rich.live import Live  # noqa: PLC0415  # as above
    from rich.text import Text  # noqa: PLC0415  # as above

    class Screen:
        def __init__(self) -> None:
            self.live = Live(console=Console(), auto_refresh=False, vertical_overflow="crop")

        def __enter__(self) -> Picture:
            self.live.__enter__()
            return self.draw

        def __exit__(self, *details: object) -> None:
            self.live.__exit__(None, None, None)

        def draw(self, lines: list[str]) -> None:
            self.live.update(
                Text.from_ansi("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True
            )

    return Screen()
