"""Two devices pair over real sockets on loopback; and everything that must not make a pairing."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from trio.testing import MockClock

from p2psyncd.core.ids import DeviceId
from p2psyncd.errors import (
    AddressNotAllowed,
    CodeExpired,
    PairingFailed,
    PairingIntercepted,
    RemoteProtocolError,
    WrongCode,
)
from p2psyncd.net import pairing_exchange
from p2psyncd.net.pairing import PairedPeer, PairingHost, join
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.tls import MAIN_ALPN, PAIRING_ALPN, ServerContexts
from p2psyncd.net.transport import GREETING, Link, dial, dial_stranger
from p2psyncd.wire.frames import encode_frame
from p2psyncd.wire.pairing import Joiner, Send
from p2psyncd.wire.pairing_code import Code, parse_code
from p2psyncd.wire.pairing_messages import Card, Kind, pack, unpack


@dataclass
class Book:
    """The paired devices of one device."""

    device: Any
    peers: dict[DeviceId, PairedPeer] = field(default_factory=dict)
    stored: trio.Event = field(default_factory=trio.Event)

    def add(self, peer: PairedPeer) -> None:
        self.stored.set()
        self.peers[peer.device] = peer
        self.device.trusted.append(peer.certificate)

    def withdraw(self, peer: PairedPeer) -> None:
        del self.peers[peer.device]
        self.device.trusted.remove(peer.certificate)


@dataclass
class Party:
    """A device with its book, and what it takes to pair."""

    device: Any
    book: Book
    host: PairingHost
    joining: Callable[..., Awaitable[PairedPeer]]

    @property
    def id(self) -> DeviceId:
        device: DeviceId = self.device.identity.device
        return device


@pytest.fixture
def make_party(make_device: Any, trio_clock: Any, policy: AddressPolicy) -> Any:
    def make(name: str) -> Party:
        device = make_device()
        book = Book(device)
        host = PairingHost(
            identity=device.identity, name=name, clock=trio_clock, entropy=os.urandom,
            on_paired=book.add, on_withdrawn=book.withdraw, policy=policy,
            port=lambda: int(device.address.rpartition(":")[2] or 0),
        )  # fmt: skip

        async def joining(
            code: Code, address: str, *more: str, introduce: bool = True, port: int = 0
        ) -> PairedPeer:
            return await join(
                code, [address, *more], identity=device.identity, name=name, introduce=introduce, policy=policy,
                entropy=os.urandom, on_paired=book.add, on_withdrawn=book.withdraw, port=port,
            )  # fmt: skip

        return Party(device=device, book=book, host=host, joining=joining)

    return make


@pytest.fixture
def parties(make_party: Any) -> tuple[Party, Party]:
    return make_party("desktop"), make_party("laptop")


def other_code(code: str) -> Code:
    """A code of the same nameplate that is certainly wrong."""
    number, first, _ = code.split("-")
    return parse_code(f"{number}-{first}-wrong")


async def wait_for(host: PairingHost, code: str, into: list[Any], over: trio.Event | None = None) -> None:
    """Note what the waiting `pair` command is told."""
    try:
        into.append(await host.wait(code))
    except Exception as error:  # noqa: BLE001
        into.append(error)
    if over is not None:
        over.set()


async def test_the_right_code_pairs_both(
    parties: tuple[Party, Party], listening: Any, policy: AddressPolicy
) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve), trio.open_nursery() as nursery:
        shown = host.host.show()
        told: list[Any] = []
        nursery.start_soon(wait_for, host.host, shown.code, told)
        peer = await joiner.joining(parse_code(shown.code), host.device.address)
        await trio.testing.wait_all_tasks_blocked()
        assert peer == joiner.book.peers[host.id]
        assert told == [host.book.peers[joiner.id]]
        assert (peer.name, peer.address, peer.introduce) == ("desktop", host.device.address, True)
        assert (told[0].name, told[0].certificate) == ("laptop", joiner.device.identity.certificate)
        stream = await dial(
            host.device.address,
            joiner.device.identity,
            peer.certificate,
            MAIN_ALPN,
            timeout_s=5,
            policy=policy,
        )
        await stream.aclose()


@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True), (False, False)])
async def test_introductions_need_both(
    parties: tuple[Party, Party], listening: Any, ours: bool, theirs: bool
) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show(introduce=ours)
        await joiner.joining(parse_code(shown.code), host.device.address, introduce=theirs, port=22600)
        assert not joiner.book.peers[host.id].introduce
        await trio.testing.wait_all_tasks_blocked()
        assert not host.book.peers[joiner.id].introduce
        assert host.book.peers[joiner.id].address == "127.0.0.1:22600"


async def test_a_wrong_code_burns_it_and_both_are_told(parties: tuple[Party, Party], listening: Any) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve), trio.open_nursery() as nursery:
        shown = host.host.show()
        told: list[Any] = []
        nursery.start_soon(wait_for, host.host, shown.code, told)
        with pytest.raises(WrongCode) as caught:
            await joiner.joining(other_code(shown.code), host.device.address)
        assert caught.value.exit_code == 5
        with pytest.raises(CodeExpired):
            await joiner.joining(parse_code(shown.code), host.device.address)
        assert isinstance(told[0], WrongCode)
        assert not host.book.peers
        assert not joiner.book.peers


async def test_a_code_works_once(parties: tuple[Party, Party], make_party: Any, listening: Any) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        await joiner.joining(parse_code(shown.code), host.device.address)
        with pytest.raises(CodeExpired):
            await make_party("third").joining(parse_code(shown.code), host.device.address)
        assert list(host.book.peers) == [joiner.id]


async def test_of_many_who_guess_at_once_only_one_guess_counts(
    parties: tuple[Party, Party], make_party: Any, listening: Any
) -> None:
    host, _ = parties
    outcomes: list[Any] = []

    async def guess(party: Party, code: Code) -> None:
        try:
            outcomes.append(await party.joining(code, host.device.address))
        except (WrongCode, CodeExpired) as error:
            outcomes.append(error)

    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(guess, make_party(f"guesser {number}"), other_code(shown.code))
        assert len(outcomes) == 6
        with pytest.raises(WrongCode):
            await host.host.wait(shown.code)
        with pytest.raises(CodeExpired):
            await make_party("late").joining(parse_code(shown.code), host.device.address)
        assert not host.book.peers


async def test_a_code_expires(
    parties: tuple[Party, Party], listening: Any, autojump_clock: MockClock
) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        started = trio.current_time()
        with pytest.raises(CodeExpired):
            await host.host.wait(shown.code)
        assert trio.current_time() - started == pytest.approx(300)
        with pytest.raises(CodeExpired):
            await joiner.joining(parse_code(shown.code), host.device.address)


async def test_a_new_code_replaces_the_old_one(parties: tuple[Party, Party], listening: Any) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve), trio.open_nursery() as nursery:
        old = host.host.show()
        told: list[Any] = []
        nursery.start_soon(wait_for, host.host, old.code, told)
        await trio.testing.wait_all_tasks_blocked()
        new = host.host.show(taken=[str(number) for number in range(1, 99)])
        assert new.nameplate == "99"
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(told[0], CodeExpired)
        with pytest.raises(CodeExpired):
            await host.host.wait(old.code)
        assert not host.host.withdraw(old.code)
        await joiner.joining(parse_code(new.code), host.device.address)


async def test_without_a_code_there_is_nothing_but_a_closed_connection(
    parties: tuple[Party, Party], listening: Any, policy: AddressPolicy
) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        with pytest.raises(CodeExpired):
            await joiner.joining(parse_code("7-amber-falcon"), host.device.address)
        shown = host.host.show()
        assert host.host.withdraw(shown.code)
        stream = await dial_stranger(host.device.address, timeout_s=5, policy=policy)
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_of_two_devices_that_show_codes_the_right_one_is_found(
    parties: tuple[Party, Party], make_party: Any, listening: Any
) -> None:
    host, joiner = parties
    other = make_party("other")
    async with (
        listening(host.device, on_pair=host.host.serve),
        listening(other.device, on_pair=other.host.serve),
    ):
        shown = host.host.show(taken=["1"])
        elsewhere = other.host.show(taken=[str(number) for number in range(2, 100)])
        peer = await joiner.joining(parse_code(shown.code), other.device.address, host.device.address)
        assert peer.device == host.id
        # The other device's code has not suffered.
        await make_party("fourth").joining(parse_code(elsewhere.code), other.device.address)


async def test_a_device_does_not_pair_with_itself(parties: tuple[Party, Party], listening: Any) -> None:
    host, _ = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        with pytest.raises(PairingFailed, match="this very device"):
            await host.joining(parse_code(shown.code), host.device.address)
        assert host.host.active() is not None


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "no-such-host.invalid:22600", "127.0.0.1:x", "[::1]:99999999"]
)
async def test_nobody_there_is_a_failed_pairing(parties: tuple[Party, Party], address: str) -> None:
    _, joiner = parties
    with pytest.raises(PairingFailed):
        await joiner.joining(parse_code("7-amber-falcon"), address)


async def test_an_address_outside_the_lan_is_refused(parties: tuple[Party, Party]) -> None:
    _, joiner = parties
    with pytest.raises(AddressNotAllowed):
        await joiner.joining(parse_code("7-amber-falcon"), "8.8.8.8:22600")


# Somebody in between


@pytest.fixture
def relay_to(make_device: Any, policy: AddressPolicy) -> Any:
    """A man in the middle: TLS with his own certificate on both legs, frames passed on through `meddle`."""

    @asynccontextmanager
    async def relay(target: str, meddle: Callable[[str, bytes], bytes]) -> AsyncIterator[tuple[str, Any]]:
        device = make_device()
        context = ServerContexts(device.identity, list).now()
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)

        async def pass_on(source: Link, sink: Link, way: str) -> None:
            try:
                while True:
                    await sink.send(meddle(way, await source.receive()))
            except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
                await source.aclose()
                await sink.aclose()

        async def serve() -> None:
            await trio.lowlevel.wait_readable(listening)
            victim = await TlsStream.handshake(listening.accept()[0], context, server_side=True)
            await victim.send_all(GREETING)
            onward = await dial_stranger(target, timeout_s=5, policy=policy)
            one, other = Link(victim), Link(onward)
            try:
                async with trio.open_nursery() as inner:
                    inner.start_soon(pass_on, one, other, "to host")
                    inner.start_soon(pass_on, other, one, "to joiner")
            finally:
                await one.aclose()
                await other.aclose()

        with listening:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)  # noqa: ASYNC113  (the socket listens already)
                yield f"127.0.0.1:{listening.getsockname()[1]}", device
                nursery.cancel_scope.cancel()

    return relay


async def test_a_relay_with_its_own_certificate_fails_on_both_sides(
    parties: tuple[Party, Party], listening: Any, relay_to: Any
) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        async with relay_to(host.device.address, lambda _way, frame: frame) as (address, _):
            with pytest.raises(PairingIntercepted):
                await joiner.joining(parse_code(shown.code), address)
            with pytest.raises(PairingIntercepted):
                await host.host.wait(shown.code)
        assert not host.book.peers
        assert not joiner.book.peers


async def test_a_relay_that_swaps_fingerprints_fails_on_both_sides(
    parties: tuple[Party, Party], listening: Any, relay_to: Any
) -> None:
    host, joiner = parties
    relay: list[Any] = []

    def meddle(way: str, frame: bytes) -> bytes:
        kind, fields = unpack(frame)
        if kind is Kind.ANSWER and way == "to joiner":
            return pack(kind, fields[0], hashlib.sha256(relay[0].identity.certificate).digest(), fields[2])
        return frame

    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        async with relay_to(host.device.address, meddle) as (address, device):
            relay.append(device)
            with pytest.raises(WrongCode):
                await joiner.joining(parse_code(shown.code), address)
            with pytest.raises(WrongCode):
                await host.host.wait(shown.code)
        assert not host.book.peers
        assert not joiner.book.peers


# Hostile strangers


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", encode_frame(bytes(8192)), encode_frame(b""), encode_frame(os.urandom(500)),
     encode_frame(pack(Kind.CONFIRM, bytes(32), bytes(32))), encode_frame(pack(Kind.OPEN, *[b"x"] * 16))],
    ids=["huge frame", "zeros", "empty", "random", "out of turn", "wrong fields"],
)  # fmt: skip
async def test_garbage_before_the_guess_costs_the_code_nothing(
    parties: tuple[Party, Party], listening: Any, policy: AddressPolicy, data: bytes
) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        stranger = await dial_stranger(host.device.address, timeout_s=5, policy=policy)
        await stranger.send_all(data)
        with trio.fail_after(5):
            assert await stranger.receive_some() == b""
        await stranger.aclose()
        await joiner.joining(parse_code(shown.code), host.device.address)


async def test_a_stranger_who_says_nothing_is_cut_off_and_others_are_served(
    parties: tuple[Party, Party], listening: Any, policy: AddressPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2psyncd.net.pairing.EXCHANGE_S", 0.2)
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        silent = [await dial_stranger(host.device.address, timeout_s=5, policy=policy) for _ in range(8)]
        with pytest.raises(CodeExpired):
            await joiner.joining(parse_code(shown.code), host.device.address)
        for stranger in silent:
            with trio.fail_after(5):
                assert await stranger.receive_some() == b""
            await stranger.aclose()
        await joiner.joining(parse_code(shown.code), host.device.address)


@pytest.mark.parametrize(
    "guess", [b"\x00", pack(Kind.STORED), os.urandom(200)], ids=["zero", "stored", "random"]
)
async def test_garbage_instead_of_the_guess_burns_the_code(
    parties: tuple[Party, Party], listening: Any, policy: AddressPolicy, guess: bytes
) -> None:
    host, joiner = parties
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        link = Link(await dial_stranger(host.device.address, timeout_s=5, policy=policy))
        machine = Joiner(
            code=other_code(shown.code),
            card=Card(name="guesser", certificate=joiner.device.identity.certificate, introduce=True, port=0),
            server_certificate=host.device.identity.certificate,
            entropy=os.urandom,
        )
        [opening] = machine.start()
        assert isinstance(opening, Send)
        await link.send(opening.payload)
        await link.receive()
        await link.send(guess)
        with pytest.raises(trio.EndOfChannel):
            await link.receive()
        await link.aclose()
        with pytest.raises(RemoteProtocolError):
            await host.host.wait(shown.code)
        assert host.host.active() is None


async def test_what_is_no_device_is_not_joined(parties: tuple[Party, Party], tmp_path: Any) -> None:
    _, joiner = parties
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    certificate = builder.not_valid_after(dt.datetime(2040, 1, 1, tzinfo=dt.UTC)).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "web.pem").write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "web.pem")
    context.set_alpn_protocols([PAIRING_ALPN])

    async def serve(raw: trio.SocketStream) -> None:
        stream = trio.SSLStream(raw, context, server_side=True)
        await stream.send_all(GREETING)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(RemoteProtocolError):
            await joiner.joining(parse_code("7-amber-falcon"), address)
        nursery.cancel_scope.cancel()


# The last moment


class Cut(Exception):
    """The wire is cut here."""


@pytest.fixture
def cutting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Cut the connection instead of sending the nth message of one kind, or right after it."""

    def cut(kind: Kind, after: bool, nth: int = 1) -> None:
        real = Link.send
        seen = itertools.count(1)

        async def send(self: Link, payload: bytes) -> None:
            if unpack(payload)[0] is not kind or next(seen) != nth:
                await real(self, payload)
                return
            if after:
                await real(self, payload)
            if self.stream.tls is not None:
                self.stream.broken = True
                await self.stream.aclose()
            raise trio.BrokenResourceError

        monkeypatch.setattr(Link, "send", send)

    return cut


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("kind", "nth"),
    [(Kind.OPEN, 1), (Kind.ANSWER, 1), (Kind.CONFIRM, 1), (Kind.CONFIRM, 2), (Kind.STORED, 1), (Kind.STORED, 2), (Kind.DONE, 1)],
)  # fmt: skip
async def test_wherever_the_connection_dies_both_are_paired_or_neither(
    parties: tuple[Party, Party], listening: Any, cutting: Any, *, kind: Kind, nth: int, after: bool
) -> None:
    host, joiner = parties
    told: list[Any] = []
    async with (
        listening(host.device, on_pair=host.host.serve),
        listening(joiner.device),
        trio.open_nursery() as nursery,
    ):
        shown = host.host.show()
        told_at_last = trio.Event()
        nursery.start_soon(wait_for, host.host, shown.code, told, told_at_last)
        cutting(kind, after, nth)
        port = int(joiner.device.address.rpartition(":")[2])
        joined: list[PairedPeer] = []
        with trio.fail_after(20):
            with suppress(PairingFailed, WrongCode, CodeExpired):
                joined.append(await joiner.joining(parse_code(shown.code), host.device.address, port=port))
            if host.host.active() is None:
                await told_at_last.wait()
        assert (host.id in joiner.book.peers) == (joiner.id in host.book.peers) == bool(joined)
        if told:
            assert isinstance(told[0], PairedPeer) == bool(joined)
        nursery.cancel_scope.cancel()


async def test_a_host_that_vanishes_after_storing_leaves_the_joiner_unpaired(
    parties: tuple[Party, Party], listening: Any, cutting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing_exchange, "SETTLE_S", 0.3)
    monkeypatch.setattr(pairing_exchange, "SETTLE_PAUSE_S", 0.05)
    host, joiner = parties
    async with trio.open_nursery() as nursery:

        async def listen_until_paired(task_status: trio.TaskStatus[None]) -> None:
            async with listening(host.device, on_pair=host.host.serve):
                task_status.started()
                await joiner.book.stored.wait()

        shown = host.host.show()
        await nursery.start(listen_until_paired)
        cutting(Kind.STORED, False)
        with pytest.raises(PairingFailed, match="last moment"):
            await joiner.joining(parse_code(shown.code), host.device.address)
        assert not joiner.book.peers


async def test_a_joiner_that_is_cancelled_in_the_middle_takes_its_pairing_back(
    parties: tuple[Party, Party], listening: Any, cutting: Any
) -> None:
    host, joiner = parties
    host.device.trusted.clear()
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        with trio.CancelScope() as scope:

            def add_and_cancel(peer: PairedPeer) -> None:
                Book.add(joiner.book, peer)
                scope.cancel()

            await join(
                parse_code(shown.code), [host.device.address], identity=joiner.device.identity, name="laptop",
                introduce=True, policy=AddressPolicy(attached=list), entropy=os.urandom,
                on_paired=add_and_cancel, on_withdrawn=joiner.book.withdraw,
            )  # fmt: skip
        assert not joiner.book.peers
        with pytest.raises(PairingFailed):
            await host.host.wait(shown.code)
        assert not host.book.peers


async def test_a_store_that_fails_pairs_nobody(parties: tuple[Party, Party], listening: Any) -> None:
    host, joiner = parties

    def refuse(_peer: PairedPeer) -> None:
        raise PairingFailed("the disk is full")

    host.host.on_paired = refuse
    async with listening(host.device, on_pair=host.host.serve):
        shown = host.host.show()
        with pytest.raises(PairingFailed):
            await joiner.joining(parse_code(shown.code), host.device.address)
        with pytest.raises(PairingFailed, match="disk is full"):
            await host.host.wait(shown.code)
        assert not joiner.book.peers
        assert not host.book.peers
