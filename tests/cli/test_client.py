from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2psync.client import AnswerError, Client
from p2psyncd.errors import DaemonNotRunning, P2psyncError


@pytest.fixture
def answering(home: Path) -> Iterator[Callable[[bytes], Client]]:
    """A daemon that says the same bytes to whoever asks."""
    path = home / "run" / "control.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    threads = []

    def serve(words: bytes) -> None:
        stream, _ = listening.accept()
        with stream:
            stream.recv(65536)
            stream.sendall(words)

    def prepare(words: bytes) -> Client:
        threads.append(threading.Thread(target=serve, args=(words,)))
        threads[-1].start()
        return Client([path])

    yield prepare
    for thread in threads:
        thread.join(10)
    listening.close()


def test_a_daemon_that_stops_in_the_middle_is_not_running(answering: Callable[[bytes], Client]) -> None:
    for words in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", b"HTTP/1.1 200 OK\r\n"):
        with pytest.raises(DaemonNotRunning, match="stopped before it answered"):
            answering(words).get("/v1/status")


def test_an_answer_of_another_kind_is_not_trusted(answering: Callable[[bytes], Client]) -> None:
    for body in (b"<html>", b"[]", b"{}"):
        head = b"HTTP/1.1 500 Oops\r\nContent-Length: %d\r\n\r\n" % len(body)
        with pytest.raises(AnswerError, match="the daemon answered 500"):
            answering(head + body).get("/v1/status")


def test_a_daemon_that_does_not_answer_is_told_from_one_that_is_not_there(home: Path) -> None:
    path = home / "run" / "control.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(P2psyncError, match="does not answer"):
            Client([path]).get("/v1/status", patience_s=0.05)


def test_the_first_socket_that_answers_is_used(backend: Any, home: Path, tmp_path: Path) -> None:
    client = Client([tmp_path / "nothing", home / "run" / "control.sock"])
    assert client.get("/v1/status") == backend.answers["status"]


def test_a_socket_of_someone_else_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", denied)
    own, system = home / "own", home / "system"
    with pytest.raises(P2psyncError, match=f"may not open {own}"):
        Client([own, system]).get("/v1/status")


def test_a_system_daemon_of_someone_else_counts_as_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: object, address: str) -> None:
        raise PermissionError(13, "") if address.endswith("system") else FileNotFoundError(2, "")

    monkeypatch.setattr(socket.socket, "connect", denied)
    with pytest.raises(DaemonNotRunning):
        Client([home / "own", home / "system"]).get("/v1/status")


def test_a_home_with_a_very_long_path_is_reached(scripted: Any, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with scripted.served_in_a_thread(folder / "control.sock"):
        assert Client([folder / "control.sock"]).get("/v1/status") == scripted.STATUS
