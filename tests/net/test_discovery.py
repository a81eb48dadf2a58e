"""Discovery on loopback, and what it makes of announcements that lie. `namespace/inside.py` shows it on a network."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import DeviceId, format_device_id
from p2psyncd.net import discovery as discovery_module
from p2psyncd.net.discovery import Discovery, Lost, Seen
from p2psyncd.net.interfaces import Interface, InterfaceFilter
from p2psyncd.net.mdns import SERVICE_TYPE, Announcement, Found, Mdns, instance_name, multicast_addresses
from p2psyncd.net.policy import AddressPolicy

US = format_device_id(DeviceId(b"\x01" * 32))
THEM = format_device_id(DeviceId(b"\x02" * 32))
INSTANCE = f"them ABCDEFG.{SERVICE_TYPE}"


def attached() -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network("10.0.0.0/24")]


def make(device: str = US, port: int = 22600) -> Discovery:
    return Discovery(
        device=device, name="us", port=port, version=1, policy=AddressPolicy(attached=attached),
        only=InterfaceFilter(["127.0.0.1"]),
    )  # fmt: skip


def found(*addresses: str, port: int = 22600, **properties: str) -> Found:
    return Found(
        instance=INSTANCE,
        properties={"id": THEM, "name": "them", "v": "1", **properties},
        port=port,
        addresses=addresses or ("10.0.0.2",),
    )


def test_an_announcement_is_understood() -> None:
    assert make().understand(found("10.0.0.2", "fe80::1%1", pair="7")) == Seen(
        device=THEM,
        name="them",
        addresses=("10.0.0.2:22600", "[fe80::1%lo]:22600"),
        nameplate="7",
        version=1,
    )


def test_a_link_local_address_without_an_interface_is_used_only_where_there_is_one() -> None:
    discovery = make()
    assert discovery.understand(found("fe80::1")) is None
    discovery.interfaces = [interface("eth0", "10.0.0.1/24")]
    seen = discovery.understand(found("fe80::1"))
    assert seen is not None
    assert seen.addresses == ("[fe80::1%eth0]:22600",)
    discovery.interfaces *= 2
    assert discovery.understand(found("fe80::1", "10.0.0.2")) == make().understand(found())


def test_the_likeliest_address_comes_first() -> None:
    seen = make().understand(found("fe80::1%lo", "172.17.0.1", "fd00::1", "10.0.0.2"))
    assert seen is not None
    assert [one.rpartition(":")[0] for one in seen.addresses] == [
        "10.0.0.2",
        "172.17.0.1",
        "[fd00::1]",
        "[fe80::1%lo]",
    ]


def test_addresses_outside_the_lan_are_left_out_and_without_any_there_is_no_device() -> None:
    seen = make().understand(found("8.8.8.8", "10.0.0.2", "2606:4700::1111", "0.0.0.0"))
    assert seen is not None
    assert seen.addresses == ("10.0.0.2:22600",)
    assert make().understand(found("8.8.8.8")) is None


def test_without_id_or_port_there_is_no_device() -> None:
    assert make().understand(found(id="")) is None
    assert make().understand(found(port=0)) is None


@given(
    name=st.text(max_size=300),
    version=st.text(max_size=30),
    pair=st.text(max_size=30),
    addresses=st.lists(st.one_of(st.ip_addresses().map(str), st.text(max_size=40)), max_size=40),
)
def test_whatever_is_announced_nothing_unsafe_comes_through(
    name: str, version: str, pair: str, addresses: list[str]
) -> None:
    seen = make().understand(found(*addresses, name=name, v=version, pair=pair))
    if seen is None:
        return
    assert seen.name.isprintable()
    assert 0 <= seen.version < 10**9
    assert seen.nameplate is None or 1 <= int(seen.nameplate) <= 9999
    assert len(seen.addresses) <= 16
    assert all(
        AddressPolicy(attached=list).permits(one.rpartition(":")[0].strip("[]")) for one in seen.addresses
    )


@given(name=st.text(max_size=200))
def test_a_service_s_name_is_one_label_that_fits(name: str) -> None:
    label = instance_name(name, "ABCDEFG", "-1a2b")
    assert len(label.encode()) <= 63
    assert "." not in label
    assert label.endswith(" ABCDEFG-1a2b")


def test_an_announcement_carries_what_avahi_shows() -> None:
    announcement = Announcement(
        device=US, short_device="ABCDEFG", name="m.y ☺", port=1, version=1, addresses=("10.0.0.1", "fe80::1"), nameplate="7"
    )  # fmt: skip
    service = announcement.service()
    assert service.name == "m-y ☺ ABCDEFG._p2psync._tcp.local."
    assert service.decoded_properties == {"id": US, "name": "m.y ☺", "v": "1", "pair": "7"}


def interface(
    name: str, *addresses: str, running: bool = True, multicast: bool = True, loopback: bool = False
) -> Interface:
    return Interface(
        name=name, index=1, addresses=tuple(ipaddress.ip_interface(one) for one in addresses),
        running=running, multicast=multicast, loopback=loopback,
    )  # fmt: skip


def test_one_address_of_each_family_is_used_for_multicast() -> None:
    interfaces = [
        interface("a", "10.0.0.1/24", "10.0.0.9/24", "2001:db8::1/64", "fe80::1/64"),
        interface("b", "10.1.0.1/24"),
        interface("lo", "127.0.0.1/8", "::1/128"),
    ]
    assert multicast_addresses(interfaces) == ["10.0.0.1", "fe80::1", "10.1.0.1", "127.0.0.1"]


def test_only_running_multicast_interfaces_are_used_unless_named() -> None:
    lan = interface("eth0", "192.168.0.2/24")
    everything = [
        lan,
        interface("down0", "10.0.0.1/8", running=False),
        interface("tun0", "10.9.0.1/8", multicast=False),
        interface("lo", "127.0.0.1/8", multicast=False, loopback=True),
        interface("bare0"),
    ]
    assert InterfaceFilter().keep(everything) == [lan]
    assert [one.name for one in InterfaceFilter(["lo", "down0"]).keep(everything)] == ["lo"]
    two = interface("eth1", "10.0.0.1/24", "10.0.1.1/24")
    [kept] = InterfaceFilter(["10.0.1.1"]).keep([lan, two])
    assert [str(one.ip) for one in kept.addresses] == ["10.0.1.1"]


def test_connections_are_taken_where_they_are_wanted() -> None:
    assert InterfaceFilter().accepts_local("10.0.0.1")
    assert InterfaceFilter(["10.0.0.1"]).accepts_local("10.0.0.1")
    assert not InterfaceFilter(["10.0.0.1"]).accepts_local("10.0.0.2")
    assert InterfaceFilter(["10.0.0.1"]).accepts_local("127.0.0.1")


@asynccontextmanager
async def running(discovery: Discovery, events: list[Seen | Lost]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(discovery.run, events.append)
        assert discovery.state == "running"
        yield
        nursery.cancel_scope.cancel()


async def test_two_devices_on_one_machine_find_each_other() -> None:
    one, other = make(), make(THEM, 22601)
    events: list[Seen | Lost] = []
    async with running(one, []), running(other, events):
        await other.set_nameplate("7")
        with trio.fail_after(5):
            assert await one.find_nameplate("7") == ["127.0.0.1:22601"]
        assert one.nameplates() == {"7"}
        with trio.fail_after(5):
            while not events:
                await other.table_changed.wait()
        assert isinstance(events[0], Seen)
        assert events[0].device == US
    assert one.state == "off"


async def test_a_clone_is_noticed_and_takes_another_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    one, clone = make(), make(US, 22601)
    async with running(one, []), running(clone, []):
        with trio.fail_after(5):
            while not (one.doubles and clone.doubles):  # noqa: ASYNC110  (told by the log, not by an event)
                await trio.sleep(0.02)
    assert "device_doubled" in caplog.text
    assert one.announcement.instance != clone.announcement.instance
    assert one.seen == {}


async def test_a_flood_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "SERVICES_MAX", 3)
    discovery = make()
    for number in range(10):
        discovery.note(f"flood {number}", there=True)
    assert len(discovery.dirty) == 3
    discovery.note("flood 0", there=False)
    assert discovery.dirty["flood 0"] is False


class Answers:
    """Stands where zeroconf is, and says what a test wants."""

    def __init__(self, answer: Found | None) -> None:
        self.answer = answer

    def resolve(self, _instance: str) -> Found | None:
        return self.answer


async def test_a_device_is_lost_when_its_last_service_goes() -> None:
    discovery, events = make(), list[Seen | Lost]()
    answers: Any = Answers(found())
    await discovery.look_at(answers, "first", events.append)
    await discovery.look_at(answers, "second", events.append)
    discovery.forget("first", events.append)
    assert not any(isinstance(event, Lost) for event in events)
    discovery.forget("second", events.append)
    assert events[-1] == Lost(device=THEM)
    discovery.forget("second", events.append)
    assert len(events) == 3


async def test_who_is_not_heard_of_on_the_new_network_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    discovery, events = make(), list[Seen | Lost]()
    answers: Any = Answers(found())
    await discovery.look_at(answers, "old", events.append)
    discovery.confirmed.clear()
    await discovery.forget_unconfirmed(events.append)
    assert trio.current_time() == 5
    assert events[-1] == Lost(device=THEM)


async def test_what_does_not_answer_or_is_ourselves_is_not_reported() -> None:
    discovery, events = make(), list[Seen | Lost]()
    discovery.announcement = Announcement(
        device=US, short_device="ABCDEFG", name="us", port=22600, version=1, addresses=("10.0.0.1",)
    )
    nothing: Any = Answers(None)
    await discovery.look_at(nothing, "silent", events.append)
    ourselves: Any = Answers(found("10.0.0.1", id=US))
    await discovery.look_at(ourselves, "us", events.append)
    assert events == []
    assert not discovery.doubles
    assert not discovery.rebuild.is_set()


def never(_instance: str, _there: bool) -> None:
    raise AssertionError


async def test_zeroconf_s_refusals_are_system_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_arguments: Any) -> Any:
        raise RuntimeError("No interfaces to listen on")

    monkeypatch.setattr("p2psyncd.net.mdns.Zeroconf", refuse)
    with pytest.raises(OSError, match="No interfaces"):
        await trio.to_thread.run_sync(Mdns, ["127.0.0.1"], never)


async def test_a_zeroconf_that_sends_nowhere_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Mdns.expect_senders

    def without_senders(self: Mdns) -> None:
        kept, self.zeroconf.engine.senders = self.zeroconf.engine.senders, []
        try:
            real(self)
        finally:
            self.zeroconf.engine.senders = kept

    monkeypatch.setattr(Mdns, "expect_senders", without_senders)
    with pytest.raises(OSError, match="multicast"):
        await trio.to_thread.run_sync(Mdns, ["127.0.0.1"], never)


@pytest.mark.parametrize(
    "instance", ["no type at all", f"{'x' * 300}.{SERVICE_TYPE}", f"\x00.{SERVICE_TYPE}", SERVICE_TYPE]
)
async def test_a_service_s_name_that_breaks_the_rules_is_passed_over(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2psyncd.net.mdns.RESOLVE_MS", 50)
    mdns = await trio.to_thread.run_sync(Mdns, ["127.0.0.1"], lambda _instance, _there: None)
    try:
        assert await trio.to_thread.run_sync(mdns.resolve, instance) is None
    finally:
        with trio.move_on_after(5, shield=True):
            await trio.to_thread.run_sync(mdns.close)


async def test_who_looks_for_a_code_asks_again_where_what_was_said_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery_module, "ASK_AGAIN_S", 0.2)
    browse, resolve, asked = Mdns.browse, Mdns.resolve, []

    def note(self: Mdns) -> None:
        asked.append(self)
        browse(self)

    def lose(self: Mdns, instance: str) -> Any:
        # Both have asked once as they began; whoever waits asks once more.
        return resolve(self, instance) if len(asked) > 2 else None

    monkeypatch.setattr(Mdns, "browse", note)
    monkeypatch.setattr(Mdns, "resolve", lose)
    one, other = make(), make(THEM, 22601)
    async with running(one, []), running(other, []):
        await other.set_nameplate("7")
        with trio.fail_after(10):
            assert await one.find_nameplate("7") == ["127.0.0.1:22601"]
    assert len(asked) > 2


async def test_an_announcement_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "RETRY_S", 0.05)
    real, calls = Mdns.announce, []

    def fail_once(self: Mdns, announcement: Announcement) -> None:
        calls.append(announcement)
        if len(calls) == 1:
            raise OSError("cannot announce")
        real(self, announcement)

    monkeypatch.setattr(Mdns, "announce", fail_once)
    discovery = make(THEM, 22601)
    one = make()
    async with running(one, []), running(discovery, []):
        await discovery.set_nameplate("9")
        with trio.fail_after(5):
            assert await one.find_nameplate("9")
    assert len(calls) >= 2


async def test_zeroconf_that_will_not_start_is_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_interfaces: list[str], _on_change: Any) -> Mdns:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(discovery_module, "Mdns", refuse)
    discovery = make()
    async with trio.open_nursery() as nursery:
        await nursery.start(discovery.run, list[Any]().append)
        assert discovery.state == "failed: Address already in use"
        nursery.cancel_scope.cancel()
