"""Telling systemd how the daemon is: READY, STOPPING, and the watchdog's pings (sd_notify)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

import trio

__all__ = ["Notifier"]

log = logging.getLogger(__name__)


class Notifier:
    """Speaks to $NOTIFY_SOCKET; without it, does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.address = environ.get("NOTIFY_SOCKET", "")
        interval = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # systemd.service(5): ping at half the interval.
        self.ping_s = int(interval) / 1_000_000 / 2 if interval.isdigit() and ours else None

    def send(self, text: str) -> None:
        """Send one notification."""
        if not self.address:
            return
        # "@" stands for the zero byte of an abstract address.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(address)
                sock.sendall(text.encode())
        except OSError as error:
            log.warning("notify_failed error=%s", error)

    def ready(self) -> None:
        """Say that the daemon serves."""
        self.send("READY=1\nSTATUS=serving")

    def stopping(self) -> None:
        """Say that the daemon is about to end."""
        self.send("STOPPING=1")

    async def keep_watchdog(self) -> None:
        """Ping for as long as the event loop turns."""
        if self.ping_s is None:
            return
        while True:
            self.send("WATCHDOG=1")
            await trio.sleep(self.ping_s)
