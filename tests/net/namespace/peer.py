"""A device in another network namespace: announces itself and prints what it sees, one JSON object a line."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict

import trio

from p2psyncd.net.discovery import Discovery, Lost, Seen
from p2psyncd.net.policy import AddressPolicy


def say(what: Seen | Lost) -> None:
    """Print an event."""
    sys.stdout.write(json.dumps({"event": type(what).__name__, **asdict(what)}) + "\n")
    sys.stdout.flush()


async def main(device: str, name: str, port: int) -> None:
    """Run until SIGTERM."""
    discovery = Discovery(device=device, name=name, port=port, version=1, policy=AddressPolicy())
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery.run, say)
            async for _ in signals:
                nursery.cancel_scope.cancel()


trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
