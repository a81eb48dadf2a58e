"""Connections as the daemon makes them, over real sockets on loopback."""

from __future__ import annotations

import datetime as dt
import errno
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2psyncd.errors import AddressNotAllowed, DeviceRefused, RemoteProtocolError
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.tls import CONTENT_ALPN, MAIN_ALPN, PAIRING_ALPN, restrict
from p2psyncd.net.transport import Link, dial, dial_first, dial_stranger, first_connected
from p2psyncd.wire.frames import FRAME_BYTES_MAX, encode_frame


@pytest.fixture
def pair(make_device: Any) -> tuple[Any, Any]:
    """Two devices that trust each other."""
    one, other = make_device(), make_device()
    one.trusts(other)
    other.trusts(one)
    return one, other


@pytest.fixture
def dialling(policy: AddressPolicy) -> Any:
    """Dial with a test's timeout and policy."""

    async def run(
        here: Any, there: Any, alpn: str = MAIN_ALPN, *, address: str | None = None, timeout_s: float = 5
    ) -> TlsStream:
        return await dial(
            address or there.address, here.identity, there.identity.certificate, alpn, timeout_s=timeout_s, policy=policy
        )  # fmt: skip

    return run


@pytest.mark.parametrize(("alpn", "kind"), [(MAIN_ALPN, "link"), (CONTENT_ALPN, "content")])
async def test_paired_devices_speak_and_know_each_other(
    pair: Any, listening: Any, dialling: Any, alpn: str, kind: str
) -> None:
    here, there = pair
    async with listening(there):
        stream = await dialling(here, there, alpn)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        assert stream.peer_device == there.identity.device
        assert stream.remote == there.address
        [(seen_kind, seen)] = there.seen
        assert seen_kind == kind
        assert seen.peer_device == here.identity.device
        assert seen.peer_certificate == here.identity.certificate
        assert seen.alpn == stream.alpn == alpn
        assert seen.remote == stream.local
        await stream.aclose()


async def test_a_stranger_without_certificate_reaches_pairing_only(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    there = make_device()
    async with listening(there):
        stream = await dial_stranger(there.address, timeout_s=5, policy=policy)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        assert stream.peer_certificate == there.identity.certificate
        assert stream.peer_device is None
        [(kind, seen)] = there.seen
        assert (kind, seen.peer_device, seen.peer_certificate) == ("pair", None, None)
        await stream.aclose()


async def test_an_unpaired_device_is_refused_and_can_tell(pair: Any, listening: Any, dialling: Any) -> None:
    here, there = pair
    there.trusted.clear()
    async with listening(there):
        with pytest.raises(DeviceRefused, match=there.address):
            await dialling(here, there)
        assert there.seen == []


async def test_a_device_that_knows_others_refuses_this_one_too(
    pair: Any, make_device: Any, listening: Any, dialling: Any
) -> None:
    here, there = pair
    there.trusted[:] = [make_device().identity.certificate]
    async with listening(there):
        with pytest.raises(DeviceRefused):
            await dialling(here, there)


async def test_pairing_and_removal_count_from_the_next_connection(
    pair: Any, listening: Any, dialling: Any
) -> None:
    here, there = pair
    async with listening(there):
        await (await dialling(here, there)).aclose()
        there.trusted.clear()
        with pytest.raises(DeviceRefused):
            await dialling(here, there)
        there.trusts(here)
        await (await dialling(here, there)).aclose()


async def test_another_device_at_the_address_is_not_spoken_to(
    pair: Any, make_device: Any, listening: Any, dialling: Any
) -> None:
    here, there = pair
    impostor = make_device()
    impostor.trusts(here)
    async with listening(impostor):
        with pytest.raises(ssl.SSLCertVerificationError):
            await dialling(here, there, address=impostor.address)
        assert impostor.seen == []


def raw_context(alpn: list[str], device: Any = None) -> ssl.SSLContext:
    """A client that breaks the rules."""
    context = restrict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if device is not None:
        context.load_cert_chain(device.identity.certificate_path, device.identity.key_path)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


async def connect_raw(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    raw = socket.socket()
    raw.setblocking(False)
    assert raw.connect_ex((host, int(port))) in {0, errno.EINPROGRESS}
    await trio.lowlevel.wait_writable(raw)
    return raw


@pytest.mark.parametrize(
    ("alpn", "known"),
    [([MAIN_ALPN], False), ([CONTENT_ALPN], False), ([], False), (["http/1.1"], False),
     ([MAIN_ALPN, PAIRING_ALPN], False), ([PAIRING_ALPN], True), ([], True)],
)  # fmt: skip
async def test_the_wrong_protocol_for_what_one_is_gets_a_closed_connection(
    pair: Any, listening: Any, alpn: list[str], known: bool
) -> None:
    here, there = pair
    async with listening(there):
        context = raw_context(alpn, here if known else None)
        stream = await TlsStream.handshake(await connect_raw(there.address), context, server_side=False)
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
        assert there.seen == []
        await stream.aclose()


async def test_a_certificate_that_a_paired_device_signed_for_another_is_worth_nothing(
    pair: Any, listening: Any, tmp_path: Path
) -> None:
    here, there = pair
    issuer = x509.load_der_x509_certificate(here.identity.certificate)
    issuer_key = serialization.load_pem_private_key(here.identity.key_path.read_bytes(), None)
    assert isinstance(issuer_key, Ed25519PrivateKey)
    key = Ed25519PrivateKey.generate()
    builder = (
        x509.CertificateBuilder().subject_name(issuer.subject).issuer_name(issuer.subject).serial_number(7)
    )
    builder = builder.public_key(key.public_key()).not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    signed = builder.not_valid_after(dt.datetime(2040, 1, 1, tzinfo=dt.UTC)).sign(issuer_key, None)
    file = tmp_path / "forged.pem"
    pem = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    chain = signed.public_bytes(serialization.Encoding.PEM) + issuer.public_bytes(serialization.Encoding.PEM)
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *pem) + chain)
    context = raw_context([MAIN_ALPN])
    context.load_cert_chain(file)
    async with listening(there):
        stream = await TlsStream.handshake(await connect_raw(there.address), context, server_side=False)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert there.seen == []
        await stream.aclose()


async def test_tls_1_2_is_not_spoken(pair: Any, listening: Any) -> None:
    _, there = pair
    context = raw_context([PAIRING_ALPN])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(there):
        with pytest.raises(ssl.SSLError):
            await TlsStream.handshake(await connect_raw(there.address), context, server_side=False)


async def test_an_address_outside_the_local_networks_is_not_dialled(pair: Any, dialling: Any) -> None:
    here, there = pair
    with pytest.raises(AddressNotAllowed, match=r"8\.8\.8\.8"):
        await dialling(here, there, address="8.8.8.8:22600")


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost:22600", "[fe80::1%nosuchinterface]:22600"])
async def test_an_address_that_is_none_is_a_failed_dial(pair: Any, dialling: Any, address: str) -> None:
    here, there = pair
    with pytest.raises(OSError, match=r"."):
        await dialling(here, there, address=address)


async def test_nobody_listening_is_a_refused_connection(pair: Any, dialling: Any) -> None:
    here, there = pair
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await dialling(here, there, address=f"127.0.0.1:{bound.getsockname()[1]}")


async def test_a_server_that_says_nothing_times_out(pair: Any, dialling: Any) -> None:
    here, there = pair
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TimeoutError, match="did not answer"):
            await dialling(here, there, address=f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)


async def test_a_server_that_breaks_off_is_a_reset_connection(pair: Any, dialling: Any) -> None:
    here, there = pair
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

    async def slam() -> None:
        stream = await listener.accept()
        await stream.receive_some()
        await stream.aclose()

    async with trio.open_nursery() as nursery, listener:
        nursery.start_soon(slam)
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match=r"."):
            await dialling(here, there, address=f"127.0.0.1:{port}")


async def test_a_link_carries_messages_of_every_size(pair: Any, listening: Any, dialling: Any) -> None:
    here, there = pair
    async with listening(there):
        link = Link(await dialling(here, there))
        payloads = [b"", b"a", os.urandom(16384), os.urandom(FRAME_BYTES_MAX), b"end"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.send_many, payloads)
            assert [await link.receive() for _ in payloads] == payloads
        assert link.peer == there.identity.device
        assert (link.remote, link.inbound) == (there.address, False)
        await link.aclose()


async def test_senders_take_turns_and_no_message_is_torn(pair: Any, listening: Any, dialling: Any) -> None:
    here, there = pair
    async with listening(there):
        link = Link(await dialling(here, there))
        payloads = [bytes([number]) * 100_000 for number in range(20)]
        async with trio.open_nursery() as nursery:
            for payload in payloads:
                nursery.start_soon(link.send, payload)
            received = [await link.receive() for _ in payloads]
        assert sorted(received) == payloads
        await link.aclose()


async def test_the_other_side_s_end_is_an_end_and_a_cut_is_a_break(
    pair: Any, listening: Any, dialling: Any
) -> None:
    here, there = pair

    async def close_cleanly(stream: TlsStream) -> None:
        await stream.send_all(encode_frame(b"last"))

    async def cut_inside(stream: TlsStream) -> None:
        await stream.send_all(encode_frame(b"last")[:-1])

    async def cut_the_wire(stream: TlsStream) -> None:
        stream.detach_blocking().close()

    async with listening(there, handler=close_cleanly):
        link = Link(await dialling(here, there))
        assert await link.receive() == b"last"
        with pytest.raises(trio.EndOfChannel):
            await link.receive()
        with pytest.raises(trio.EndOfChannel):
            await link.receive()
        await link.aclose()
    for handler in (cut_inside, cut_the_wire):
        async with listening(there, handler=handler):
            link = Link(await dialling(here, there))
            with pytest.raises(trio.BrokenResourceError):
                await link.receive()
            await link.aclose()


async def test_a_message_over_the_limit_ends_that_link_only(pair: Any, listening: Any, dialling: Any) -> None:
    here, there = pair
    caught: list[BaseException] = []

    async def read(stream: TlsStream) -> None:
        try:
            await Link(stream, inbound=True).receive()
        except RemoteProtocolError as error:
            caught.append(error)
            raise

    async with listening(there, handler=read):
        stream = await dialling(here, there)
        await stream.send_all(b"\xff\xff\xff\xff")
        assert await stream.receive_some() == b""
        await stream.aclose()
        await (await dialling(here, there)).aclose()
    assert len(caught) == 1


async def test_a_stranger_is_no_peer_of_a_link(
    make_device: Any, listening: Any, policy: AddressPolicy
) -> None:
    there = make_device()
    async with listening(there):
        link = Link(await dial_stranger(there.address, timeout_s=5, policy=policy))
        with pytest.raises(RemoteProtocolError):
            _ = link.peer
        await link.aclose()


async def test_closing_wakes_those_who_wait(pair: Any, listening: Any, dialling: Any) -> None:
    here, there = pair
    async with listening(there):
        stream = await dialling(here, there)

        async def wait_for_data() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_data)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await stream.receive_some()
            await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            stream.pending()
        await stream.aclose()


async def test_a_cancelled_send_breaks_the_stream(pair: Any, listening: Any, dialling: Any) -> None:
    here, there = pair

    async def read_nothing(_stream: TlsStream) -> None:
        await trio.sleep_forever()

    async with listening(there, handler=read_nothing):
        stream = await dialling(here, there)
        with trio.move_on_after(0.2) as patience:
            await stream.send_all(bytes(64 * 1024 * 1024))
        assert patience.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"more")
        await stream.aclose()


async def test_both_directions_at_full_speed_do_not_block_each_other(
    pair: Any, listening: Any, dialling: Any
) -> None:
    here, there = pair
    size = 8 * 1024 * 1024

    async def pour(stream: TlsStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(size))
            received = 0
            while received < size:
                received += len(await stream.receive_some())

    async with listening(there, handler=pour):
        stream = await dialling(here, there)
        with trio.fail_after(20):
            await pour(stream)
        await stream.aclose()


async def test_a_stream_can_be_given_to_a_thread(pair: Any, listening: Any, dialling: Any) -> None:
    here, there = pair

    def work(blocking: ssl.SSLSocket) -> bytes:
        with blocking:
            blocking.settimeout(10)
            blocking.sendall(b"from a thread")
            received = b""
            while len(received) < len(b"from a thread"):
                received += blocking.recv(100)
            return received

    async with listening(there):
        stream = await dialling(here, there, CONTENT_ALPN)
        blocking = stream.detach_blocking()
        assert await trio.to_thread.run_sync(work, blocking) == b"from a thread"
        with pytest.raises(trio.ClosedResourceError):
            stream.detach_blocking()


async def test_a_policy_asked_for_at_dial_time_is_the_one_given(pair: Any, listening: Any) -> None:
    here, there = pair
    closed = AddressPolicy(attached=list)
    closed.fixed = ()
    async with listening(there):
        with pytest.raises(AddressNotAllowed):
            await dial(
                there.address,
                here.identity,
                there.identity.certificate,
                MAIN_ALPN,
                timeout_s=1,
                policy=closed,
            )


@pytest.fixture
def dialling_first(policy: AddressPolicy) -> Any:
    async def run(here: Any, there: Any, *addresses: str) -> TlsStream:
        certificate = there.identity.certificate
        return await dial_first(addresses, here.identity, certificate, MAIN_ALPN, timeout_s=5, policy=policy)

    return run


async def test_a_dead_address_does_not_hold_up_the_others(
    pair: Any, listening: Any, dialling_first: Any
) -> None:
    here, there = pair
    async with listening(there):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            dead = f"127.0.0.1:{silent.getsockname()[1]}"
            with trio.fail_after(2):
                stream = await dialling_first(here, there, dead, "127.0.0.1:1", there.address)
        assert stream.remote == there.address
        await stream.aclose()


async def test_of_two_addresses_that_answer_one_connection_is_kept(
    pair: Any, listening: Any, dialling_first: Any
) -> None:
    here, there = pair
    async with listening(there):
        stream = await dialling_first(
            here, there, there.address, there.address.replace("127.0.0.1", "127.0.0.2")
        )
        assert stream.peer_device == there.identity.device
        await stream.aclose()


async def test_a_refusal_says_more_than_silence(pair: Any, listening: Any, dialling_first: Any) -> None:
    here, there = pair
    there.trusted.clear()
    async with listening(there):
        with pytest.raises(DeviceRefused):
            await dialling_first(here, there, there.address, "127.0.0.1:1")
    with pytest.raises(ConnectionRefusedError):
        await dialling_first(here, there, "127.0.0.1:1", "127.0.0.1:1")
    with pytest.raises(OSError, match="no address"):
        await dialling_first(here, there)


async def test_both_winning_at_once_leaves_nothing_open(
    pair: Any, listening: Any, policy: AddressPolicy
) -> None:
    here, there = pair
    both = trio.Event()
    waiting: list[str] = []

    async def attempt(address: str) -> TlsStream:
        stream = await dial(
            address, here.identity, there.identity.certificate, MAIN_ALPN, timeout_s=5, policy=policy
        )
        waiting.append(address)
        if len(waiting) == 2:
            both.set()
        with trio.CancelScope(shield=True):
            await both.wait()
        return stream

    async with listening(there):
        _, stream = await first_connected([there.address] * 2, attempt, stagger_s=0.01)
        await stream.aclose()
        # The other one has been closed: the listener's handler sees its end.
        assert len(there.seen) == 2
