"""Whole daemons for the scenarios; see `group.py` for what they are asked."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "daemon"))
sys.path.insert(0, str(Path(__file__).parent.parent / "simulation"))
# For `real_programs`.
sys.path.append(str(Path(__file__).parent.parent / "sources" / "database"))

from daemons import Daemon, Lab, connect
from group import Group
from tables import Tables

NEVER_S = 1e9


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
def pair(two: tuple[Daemon, Daemon]) -> Group:
    """Two paired devices, about to share a folder `f`."""
    return Group(list(two))


@pytest.fixture
def book(two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Two paired devices, about to share a database `app`; nothing may have to wait until it is tried again."""
    monkeypatch.setattr("p2psyncd.daemon.applier.RETRY_S", NEVER_S)
    return Tables(list(two))


@pytest.fixture
async def row(lab: Lab) -> Group:
    """Three devices of which the middle one knows both others, about to share a folder `f`."""
    daemons = [await lab.daemon(name) for name in ("maple", "willow", "birch")]
    await connect(daemons[0], daemons[1], introduce=False)
    await connect(daemons[1], daemons[2], introduce=False)
    return Group(daemons)
