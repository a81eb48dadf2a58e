from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from p2psyncd.net.admission import Limits
from p2psyncd.net.identity import Identity
from p2psyncd.net.interfaces import InterfaceFilter
from p2psyncd.net.listener import Listener
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream

NOW_US = 1_760_000_000_000_000


class TrioClock:
    """The clock of the test's trio run; with `autojump_clock` it moves by itself."""

    def now_us(self) -> int:
        return NOW_US + int(self.monotonic_s() * 1_000_000)

    def monotonic_s(self) -> float:
        return trio.current_time()


@dataclass
class Device:
    """An identity, the certificates that it trusts, and a listener's findings."""

    identity: Identity
    trusted: list[bytes] = field(default_factory=list)
    address: str = ""
    seen: list[tuple[str, TlsStream]] = field(default_factory=list)

    def trusts(self, other: Device) -> None:
        self.trusted.append(other.identity.certificate)


@pytest.fixture
def make_device(tmp_path: Path) -> Callable[[], Device]:
    counter = itertools.count()

    def make() -> Device:
        return Device(identity=Identity.load_or_create(tmp_path / f"identity{next(counter)}", NOW_US))

    return make


@pytest.fixture
def policy() -> AddressPolicy:
    return AddressPolicy(attached=list)


async def echo(stream: TlsStream) -> None:
    """Send back what comes until the other side ends."""
    while data := await stream.receive_some():
        await stream.send_all(data)


Listening = Callable[..., AbstractAsyncContextManager[Device]]


@pytest.fixture
def listening(policy: AddressPolicy) -> Listening:
    """Return a context manager that lets a device listen on loopback; each handler echoes unless told otherwise."""

    @asynccontextmanager
    async def listen(
        device: Device,
        *,
        handler: Callable[[TlsStream], Awaitable[None]] = echo,
        on_pair: Callable[[TlsStream], Awaitable[None]] | None = None,
        limits: Limits | None = None,
        only: InterfaceFilter | None = None,
        address: str = "127.0.0.1:0",
    ) -> AsyncIterator[Device]:
        def noting(
            kind: str, then: Callable[[TlsStream], Awaitable[None]]
        ) -> Callable[[TlsStream], Awaitable[None]]:
            async def handle(stream: TlsStream) -> None:
                device.seen.append((kind, stream))
                await then(stream)

            return handle

        listener = Listener(
            [address],
            device.identity,
            lambda: device.trusted,
            policy,
            on_link=noting("link", handler),
            on_content=noting("content", handler),
            on_pair=noting("pair", on_pair or handler),
            limits=limits,
            only=only,
        )
        async with trio.open_nursery() as nursery:
            [device.address] = await nursery.start(listener.run)
            yield device
            nursery.cancel_scope.cancel()

    return listen


@pytest.fixture
def trio_clock() -> TrioClock:
    return TrioClock()


@pytest.fixture
def entropy() -> Callable[[int], bytes]:
    return os.urandom
