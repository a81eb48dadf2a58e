"""The port against the world: garbage, silence, crowds, and addresses that are taken or missing."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2psyncd.errors import ConfigError, PortTaken
from p2psyncd.net import listener as listener_module
from p2psyncd.net.addresses import parse_address
from p2psyncd.net.admission import Admission, Limits, Visit
from p2psyncd.net.interfaces import InterfaceFilter
from p2psyncd.net.listener import bind_all
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.tls import MAIN_ALPN
from p2psyncd.net.transport import dial, dial_stranger


async def connect(address: str) -> trio.SocketStream:
    host, port = address.rsplit(":", 1)
    return await trio.open_tcp_stream(host.strip("[]"), int(port))


async def until_closed(stream: trio.SocketStream) -> bytes:
    """Return what the other side still says before it closes."""
    said = b""
    with trio.fail_after(10):
        try:
            while data := await stream.receive_some():
                said += data
        except trio.BrokenResourceError:
            pass
    return said


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(1000), b"\xff" * 5000, b"\x16\x03\x01\xff\xff" + bytes(100)],
    ids=["http", "zeros", "ones", "huge record"],
)
async def test_garbage_ends_that_connection_and_nothing_else(
    make_device: Any, listening: Any, policy: AddressPolicy, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    there = make_device()
    async with listening(there):
        stream = await connect(there.address)
        await stream.send_all(garbage)
        # Zeros look like the beginning of a short record: the rest is not waited for longer than the deadline.
        await stream.send_eof()
        await until_closed(stream)
        await stream.aclose()
        await (await dial_stranger(there.address, timeout_s=5, policy=policy)).aclose()
    assert not [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info]


async def test_random_bytes_after_a_real_beginning_end_that_connection(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    there = make_device()
    async with listening(there):
        for _ in range(20):
            stream = await connect(there.address)
            await stream.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(600))
            await until_closed(stream)
            await stream.aclose()
        await (await dial_stranger(there.address, timeout_s=5, policy=policy)).aclose()


async def test_a_slow_loris_is_cut_off_at_the_deadline(
    make_device: Any, listening: Any, autojump_clock: MockClock
) -> None:
    there = make_device()
    async with listening(there, limits=Limits(handshake_s=5)):
        started = trio.current_time()
        stream = await connect(there.address)
        try:
            for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.5)
        except trio.BrokenResourceError:
            pass
        await stream.aclose()
        assert 5 <= trio.current_time() - started < 7


async def test_silence_is_cut_off_at_the_deadline(make_device: Any, listening: Any) -> None:
    there = make_device()
    async with listening(there, limits=Limits(handshake_s=0.1)):
        stream = await connect(there.address)
        assert await until_closed(stream) == b""
        await stream.aclose()


async def test_a_crowd_from_one_address_cannot_take_all_places(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    here, there = make_device(), make_device()
    there.trusts(here)
    async with listening(there, limits=Limits(unknown_max=6, unknown_per_address_max=4, handshake_s=60)):
        crowd = [await connect(there.address) for _ in range(10)]
        for stream in crowd[4:]:
            assert await until_closed(stream) == b""
        # Another address (all of 127/8 is this machine) still gets in.
        raw = socket.socket()
        raw.bind(("127.0.0.2", 0))
        raw.setblocking(False)
        raw.connect_ex(parse_address(there.address).sockaddr)
        await trio.lowlevel.wait_writable(raw)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=there.identity.certificate)
        context.load_cert_chain(here.identity.certificate_path, here.identity.key_path)
        context.set_alpn_protocols([MAIN_ALPN])
        link = await TlsStream.handshake(raw, context, server_side=False)
        assert await link.receive_some() == b"\x06"
        await link.aclose()
        for stream in crowd:
            await stream.aclose()


async def test_known_devices_take_no_place(make_device: Any, listening: Any, policy: AddressPolicy) -> None:
    here, there = make_device(), make_device()
    there.trusts(here)
    async with listening(there, limits=Limits(unknown_max=2, unknown_per_address_max=2)):
        certificate = there.identity.certificate
        streams = [
            await dial(there.address, here.identity, certificate, MAIN_ALPN, timeout_s=5, policy=policy)
            for _ in range(8)
        ]
        for stream in streams:
            await stream.aclose()


async def test_strangers_who_pair_keep_their_place_until_they_have_gone(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    there = make_device()
    async with listening(there, limits=Limits(unknown_per_address_max=1, pairing_s=0.5)):
        first = await dial_stranger(there.address, timeout_s=5, policy=policy)
        with pytest.raises(OSError, match=r"."):
            await dial_stranger(there.address, timeout_s=5, policy=policy)
        # Neither may one stay for ever.
        with trio.fail_after(5):
            assert await first.receive_some() == b""
        await first.aclose()
        await (await dial_stranger(there.address, timeout_s=5, policy=policy)).aclose()


def enter(admission: Admission, ip: str) -> Visit:
    visit = admission.enter(ip)
    assert visit is not None
    return visit


async def test_when_all_places_are_taken_the_greediest_address_gives_one_up() -> None:
    admission = Admission(Limits(unknown_max=4, unknown_per_address_max=3))
    first, second, third = (enter(admission, "a") for _ in range(3))
    enter(admission, "b")
    assert admission.enter("a") is None
    enter(admission, "c")
    assert first.scope.cancel_called
    assert not second.scope.cancel_called
    # Now a: 2, b: 1, c: 1. A newcomer with one place is no greedier than the others.
    enter(admission, "d")
    assert second.scope.cancel_called
    assert admission.enter("e") is None
    assert not third.scope.cancel_called
    admission.leave(third)
    enter(admission, "e")


async def test_an_address_outside_the_policy_gets_no_word(make_device: Any, listening: Any) -> None:
    there = make_device()
    closed = AddressPolicy(attached=list)
    closed.fixed = ()

    async def handle(stream: TlsStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listener = listener_module.Listener(
            ["127.0.0.1:0"], there.identity, list, closed,
            on_link=handle, on_content=handle, on_pair=handle,
        )  # fmt: skip
        [address] = await nursery.start(listener.run)
        stream = await connect(address)
        assert await until_closed(stream) == b""
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_connections_are_taken_on_the_wanted_interfaces_only(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    there = make_device()
    only = InterfaceFilter(["lo"])
    async with listening(there, only=only):
        await (await dial_stranger(there.address, timeout_s=5, policy=policy)).aclose()
    assert not only.accepts_local("192.0.2.1")


async def test_a_crash_of_the_network_in_a_handler_is_no_crash_of_the_listener(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    there = make_device()

    async def fail(_stream: TlsStream) -> None:
        raise ExceptionGroup("several", [trio.BrokenResourceError(), OSError("gone")])

    async with listening(there, handler=fail):
        for _ in range(2):
            stream = await dial_stranger(there.address, timeout_s=5, policy=policy)
            assert await stream.receive_some() == b""
            await stream.aclose()


async def test_a_taken_port_is_named(make_device: Any, listening: Any) -> None:
    there = make_device()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.RaisesGroup(PortTaken, flatten_subgroups=True, allow_unwrapped=True) as caught:
            async with listening(there, address=f"127.0.0.1:{port}"):
                pass
    assert str(port) in str(caught.value.args) or caught.value.exceptions


def test_an_address_that_is_not_this_machine_s_is_named() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        bind_all([parse_address("192.0.2.1:0")])
    with pytest.raises(ConfigError, match="no address"):
        bind_all([])


def test_any_port_is_the_same_for_both_families() -> None:
    bound = bind_all([parse_address("127.0.0.1:0"), parse_address("[::]:0"), parse_address("127.0.0.2:0")])
    ports = {listening.getsockname()[1] for listening in bound}
    for listening in bound:
        listening.close()
    assert len(ports) == 1


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "bind", without_ipv6(listener_module.bind))
    bound = bind_all([parse_address("0.0.0.0:0"), parse_address("[::]:0")])
    for listening in bound:
        listening.close()
    assert len(bound) == 1
    with pytest.raises(ConfigError, match="cannot listen"):
        bind_all([parse_address("[::]:22600")])


def without_ipv6(bind: Any) -> Any:
    """The bind of a machine whose kernel has no IPv6."""

    def run(address: Any) -> Any:
        if address.family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return bind(address)

    return run


async def test_ipv6_connections_are_named_in_brackets(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    there = make_device()
    async with listening(there, address="[::1]:0"):
        assert there.address.startswith("[::1]:")
        stream = await dial_stranger(there.address, timeout_s=5, policy=policy)
        assert stream.remote == there.address
        assert stream.local.startswith("[::1]:")
        await stream.aclose()
