"""systemd hears READY, STOPPING and the watchdog's pings, and nothing breaks without systemd."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2psyncd.daemon.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.setblocking(False)
        yield listener, path


def test_ready_and_stopping_are_said(systemd: tuple[socket.socket, str]) -> None:
    listener, path = systemd
    notifier = Notifier({"NOTIFY_SOCKET": path})
    notifier.ready()
    notifier.stopping()
    assert listener.recv(1000).startswith(b"READY=1")
    assert listener.recv(1000) == b"STOPPING=1"


def test_an_abstract_address_is_spoken_to() -> None:
    name = f"p2psync-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert listener.recv(1000).startswith(b"READY=1")


async def test_the_watchdog_is_pinged_at_half_its_interval(
    systemd: tuple[socket.socket, str], autojump_clock: MockClock
) -> None:
    listener, path = systemd
    notifier = Notifier(
        {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    )
    with trio.move_on_after(31):
        await notifier.keep_watchdog()
    assert [listener.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        listener.recv(100)


async def test_another_process_watchdog_is_not_pinged() -> None:
    await Notifier({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).keep_watchdog()


def test_without_systemd_nothing_is_said() -> None:
    Notifier({}).ready()


def test_a_dead_socket_is_a_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    assert "notify_failed" in caplog.text
