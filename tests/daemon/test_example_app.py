"""The example app of the README on two devices: programs of their own, with the SQLite of Python's standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio
from daemons import Daemon, offered

APP = Path(__file__).parents[2] / "examples" / "shopping_list.py"


async def shopping(path: Path, *arguments: str) -> list[str]:
    """Run the app; return the lines it printed."""
    done = await trio.run_process(
        [sys.executable, str(APP), str(path), *arguments], capture_stdout=True, stderr=subprocess.STDOUT
    )
    return done.stdout.decode().splitlines()


async def settle(*daemons: Daemon) -> None:
    for _ in range(2):
        for daemon in daemons:
            await daemon.wait("shopping.db")


async def test_one_shopping_list_on_two_devices(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = maple.folder / "shopping.db", willow.folder / "list.db"
    await shopping(here, "add", "bread", "oat milk")
    await maple.backend.share_add(str(here), name=None, kind=None, mode="send-receive", with_devices=[])
    await offered(maple, willow, "shopping.db")
    await willow.backend.share_accept("shopping.db", str(there), mode="send-receive", from_device=None)
    await settle(willow, maple)
    assert await shopping(there, "list") == ["[ ] bread", "[ ] oat milk"]

    await shopping(there, "done", "bread")
    await shopping(here, "add", "tea", "--shop", "corner shop")
    await settle(maple, willow)
    whole = ["[ ] oat milk", "[ ] tea (corner shop)", "[x] bread"]
    assert await shopping(here, "list") == await shopping(there, "list") == whole


async def test_what_was_added_apart_is_all_there_when_the_devices_meet(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = maple.folder / "shopping.db", willow.folder / "shopping.db"
    await shopping(here, "add", "bread")
    await maple.backend.share_add(str(here), name=None, kind=None, mode="send-receive", with_devices=[])
    await offered(maple, willow, "shopping.db")
    await willow.backend.share_accept("shopping.db", str(there), mode="send-receive", from_device=None)
    await settle(willow, maple)
    await maple.backend.device_pause("willow")
    # Both give the number 2 to their item, and the number 1 to one and the same shop.
    await shopping(here, "add", "apples", "--shop", "market")
    await shopping(there, "add", "pears", "--shop", "market")
    await maple.running("shopping.db").detect()
    await willow.running("shopping.db").detect()
    await maple.backend.device_resume("willow")
    await maple.until(lambda: maple.connected_to(willow), "connected again")
    await settle(maple, willow)
    whole = ["[ ] bread", "[ ] apples (market)", "[ ] pears (market)"]
    assert await shopping(here, "list") == await shopping(there, "list") == whole
