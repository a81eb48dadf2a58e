"""Whole daemons for the tests: real supervisors, stores, folders and TLS, all in one event loop."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))

from daemons import Daemon, Lab, connect
from database_replicas import NewReplica, maker


@pytest.fixture
async def lab(short_folder: Path) -> AsyncIterator[Lab]:
    """Daemons without mDNS on the loopback interface; `await lab.daemon("maple")` starts one."""
    async with trio.open_nursery() as nursery:
        made = Lab(short_folder, nursery)
        yield made
        await made.stop()


@pytest.fixture
async def two(lab: Lab) -> tuple[Daemon, Daemon]:
    """Two paired and connected devices."""
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    await connect(maple, willow)
    return maple, willow


@pytest.fixture
def new_replica() -> Iterator[NewReplica]:
    """Makes the replica of a new database."""
    with maker() as make:
        yield make
