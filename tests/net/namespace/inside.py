"""What needs a network of its own; `test_namespaces.py` runs this file inside fresh namespaces.

This process is one device, on the bridge; another runs in the namespace `a`, behind a cable that can be cut.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

import pytest
import trio

from p2psyncd.core.ids import DeviceId, format_device_id
from p2psyncd.net.addresses import parse_address
from p2psyncd.net.discovery import NO_INTERFACE, Discovery, Lost, Seen
from p2psyncd.net.interfaces import Interface, InterfaceFilter, list_interfaces, watch_interfaces
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.transport import dial_stranger

US = format_device_id(DeviceId(b"\x01" * 32))
THEM = format_device_id(DeviceId(b"\x02" * 32))
PEER = Path(__file__).parent / "peer.py"


def ip(command: str) -> None:
    """Run an `ip` command."""
    subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture(scope="module", autouse=True)
def network() -> None:
    """A bridge with this process on it, and a cable to the namespace `a`."""
    # IPv6 addresses are usable at once instead of after a second or two of looking for duplicates.
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"], check=True)
    # Our own /run, for the names of namespaces.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    for command in (
        "link set lo up",
        "netns add a",
        "netns exec a sysctl -qw net.ipv6.conf.default.accept_dad=0",
        "link add bridge type bridge",
        "link set bridge up",
        "addr add 10.7.0.254/24 dev bridge",
        "link add cable type veth peer name eth0 netns a",
        "link set cable master bridge up",
        "-n a link set lo up",
        "-n a link set eth0 up",
        "-n a addr add 10.7.0.1/24 dev eth0",
    ):
        ip(command)


class Reports:
    """What was reported, to be waited for."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[Any](1000)

    def note(self, what: Any) -> None:
        self.send.send_nowait(what)

    def forget(self) -> None:
        """Throw away what has been reported so far."""
        with suppress(trio.WouldBlock):
            while True:
                self.receive.receive_nowait()

    async def until(self, wanted: Callable[[Any], bool], within_s: float = 8) -> Any:
        with trio.fail_after(within_s):
            while True:
                what = await self.receive.receive()
                if wanted(what):
                    return what


@asynccontextmanager
async def peer(name: str = "peer") -> AsyncIterator[tuple[trio.Process, Reports]]:
    """The other device, and what it sees."""
    reports = Reports()

    async def read(process: trio.Process) -> None:
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                reports.note(json.loads(line))

    process = await trio.lowlevel.open_process(
        ["ip", "netns", "exec", "a", sys.executable, str(PEER), THEM, name, "22601"],
        stdout=subprocess.PIPE, env={**os.environ},
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, process)
        try:
            yield process, reports
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def discovering(only: str = "bridge") -> AsyncIterator[tuple[Discovery, Reports]]:
    """This device, and what it sees."""
    reports = Reports()
    discovery = Discovery(
        device=US, name="us", port=22600, version=1, policy=AddressPolicy(), only=InterfaceFilter([only])
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(discovery.run, reports.note)
        yield discovery, reports
        nursery.cancel_scope.cancel()


def seen(what: Any) -> TypeGuard[Seen]:
    return isinstance(what, Seen)


def seen_by_peer(what: dict[str, Any]) -> bool:
    return bool(what["event"] == "Seen")


async def test_both_find_each_other_change_and_say_goodbye() -> None:
    async with discovering() as (discovery, ours), peer("it's a.peer ☺") as (process, theirs):
        found = await ours.until(seen)
        assert (found.device, found.name, found.version) == (THEM, "it's a.peer ☺", 1)
        assert found.addresses[0] == "10.7.0.1:22601"
        assert (await theirs.until(seen_by_peer))["device"] == US
        discovery.refresh()
        assert await ours.until(seen) == found
        await discovery.set_nameplate("42")
        assert await theirs.until(lambda what: seen_by_peer(what) and what["nameplate"] == "42")
        await discovery.set_nameplate(None)
        assert await theirs.until(lambda what: seen_by_peer(what) and what["nameplate"] is None)
        process.terminate()
        assert await ours.until(lambda what: isinstance(what, Lost)) == Lost(device=THEM)
        assert discovery.seen == {}


async def test_ipv6_addresses_can_be_dialled_as_they_are_told() -> None:
    async with discovering() as (_, ours), peer():
        found = await ours.until(lambda what: seen(what) and any("%" in one for one in what.addresses))
        address = next(one for one in found.addresses if "%" in one)
        assert "%bridge]:22601" in address
        assert parse_address(address).sockaddr[1] == 22601
        # Nobody listens there, and that is what we are told: the packet found its way.
        with pytest.raises(ConnectionRefusedError):
            await dial_stranger(address, timeout_s=5, policy=AddressPolicy())


async def test_a_cable_cut_and_joined_again_is_found_again_within_seconds() -> None:
    async with discovering() as (_, ours), peer() as (_, theirs):
        await ours.until(seen)
        await theirs.until(seen_by_peer)
        ip("link set cable down")
        await trio.sleep(1)
        theirs.forget()
        ip("link set cable up")
        assert (await theirs.until(seen_by_peer))["device"] == US


async def test_our_own_interface_going_and_coming_is_said_and_healed() -> None:
    async with discovering() as (discovery, ours), peer():
        await ours.until(seen)
        ip("link set bridge down")
        with trio.fail_after(8):
            while discovery.state == "running":  # noqa: ASYNC110  (a state has no event, and needs none but here)
                await trio.sleep(0.05)
        assert discovery.state == f"failed: {NO_INTERFACE}"
        ours.forget()
        ip("link set bridge up")
        assert await ours.until(seen)
        assert discovery.state == "running"


async def test_a_new_address_is_reported() -> None:
    async with discovering() as (_, ours), peer():
        await ours.until(seen)
        # Another network's address, as after a move; the name for it is the same.
        ip("-n a addr add 10.9.0.9/24 dev eth0")
        ip("-n a addr del 10.7.0.1/24 dev eth0")
        try:
            await ours.until(lambda what: seen(what) and "10.9.0.9:22601" in what.addresses)
        finally:
            ip("-n a addr add 10.7.0.1/24 dev eth0")
            ip("-n a addr del 10.9.0.9/24 dev eth0")


async def test_no_interface_at_all_is_a_state_and_not_a_crash() -> None:
    async with discovering("no-such-interface") as (discovery, _):
        assert discovery.state == f"failed: {NO_INTERFACE}"
    assert discovery.state == "off"


async def test_links_and_addresses_are_watched() -> None:
    changes = Reports()

    async def note(now: list[Interface]) -> None:
        changes.note({interface.name: interface for interface in now})

    async with trio.open_nursery() as nursery:
        # So long that only the kernel's own word can be the cause of a report.
        known = await nursery.start(
            lambda task_status: watch_interfaces(note, poll_s=60, task_status=task_status)
        )
        assert known == list_interfaces()
        ip("link add extra type veth peer name other")
        ip("link set other up")
        ip("link set extra up")
        ip("addr add 10.8.0.1/24 dev extra")
        up = await changes.until(lambda now: "extra" in now and now["extra"].running)
        assert "10.8.0.1/24" in [str(address) for address in up["extra"].addresses]
        assert not up["extra"].loopback
        ip("link set extra down")
        await changes.until(lambda now: "extra" not in now or not now["extra"].running)
        ip("link del extra")
        await changes.until(lambda now: "extra" not in now)
        nursery.cancel_scope.cancel()


async def test_without_netlink_changes_are_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2psyncd.net.interfaces.open_netlink", lambda: None)
    changes = Reports()

    async def note(now: list[Interface]) -> None:
        changes.note([interface.name for interface in now])

    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: watch_interfaces(note, poll_s=0.1, task_status=task_status))
        ip("link add extra type veth peer name other")
        ip("addr add 10.8.0.1/24 dev extra")
        await changes.until(lambda now: "extra" in now)
        ip("link del extra")
        await changes.until(lambda now: "extra" not in now)
        nursery.cancel_scope.cancel()


def test_an_attached_public_network_is_local_here() -> None:
    policy = AddressPolicy()
    assert not policy.permits("203.0.113.7")
    ip("addr add 203.0.113.1/24 dev bridge")
    try:
        assert policy.permits("203.0.113.7")
    finally:
        ip("addr del 203.0.113.1/24 dev bridge")
    assert not policy.permits("203.0.113.7")
