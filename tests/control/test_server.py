from __future__ import annotations

import json
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from p2psyncd.control.listening import open_socket
from p2psyncd.control.server import serve
from p2psyncd.errors import (
    HomeLocked,
    HomeUnusable,
    NoSuchShare,
    ShareHeld,
    TimedOut,
    WrongCode,
)


@asynccontextmanager
async def serving(scripted: ModuleType, socket_path: Path) -> AsyncIterator[Any]:
    backend = scripted.ScriptedBackend()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, backend, socket_path)
        with trio.fail_after(10):
            yield backend
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


class Client:
    """Speaks raw HTTP, so that the tests see what is really on the wire."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, method: str, target: str, body: object = None, headers: str = "") -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: p2psyncd\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
        await self.stream.send_all(head.encode() + data)

    async def more(self) -> None:
        data = await self.stream.receive_some(65536)
        assert data, f"closed after {self.buffer!r}"
        self.buffer += data

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            await self.more()
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), fields

    async def answer(self) -> tuple[int, Any]:
        status, fields = await self.head()
        size = int(fields["content-length"])
        while len(self.buffer) < size:
            await self.more()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return status, json.loads(body) if fields["content-type"] == "application/json" else body.decode()

    async def chunk(self) -> bytes:
        size = int(await self.until(b"\r\n"), 16)
        while len(self.buffer) < size + 2:
            await self.more()
        data, self.buffer = self.buffer[:size], self.buffer[size + 2 :]
        return data

    async def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        await self.send(method, target, body)
        return await self.answer()


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def connect(socket_path: Path) -> AsyncIterator[Connect]:
    """What connects to the server under test; every connection is closed at the end."""
    async with AsyncExitStack() as stack:

        async def dial() -> Client:
            return Client(await stack.enter_async_context(await trio.open_unix_socket(socket_path)))

        yield dial


READS = [
    ("GET", "/v1/status", None, "status", (), {}),
    ("GET", "/v1/status/", None, "status", (), {}),
    ("GET", "http://p2psyncd/v1/status", None, "status", (), {}),
    ("GET", "/v1/devices", None, "devices", (), {}),
    ("POST", "/v1/devices/rename", {"name": "a", "new_name": "b"}, "device_rename", ("a", "b"), {}),
    ("POST", "/v1/devices/pause", {"name": "a"}, "device_pause", ("a",), {}),
    ("POST", "/v1/devices/resume", {"name": "a"}, "device_resume", ("a",), {}),
    (
        "POST",
        "/v1/devices/remove",
        {"name": "a", "everywhere": True},
        "device_remove",
        ("a",),
        {"everywhere": True},
    ),
    (
        "POST",
        "/v1/pair/join",
        {"code": " 7-Amber-falcon ", "at": "10.0.0.1:1", "introduce": False, "timeout_s": 2},
        "pair_join",
        ("7-Amber-falcon",),
        {"at": "10.0.0.1:1", "introduce": False, "timeout_s": 2.0},
    ),
    ("GET", "/v1/shares", None, "share_list", (), {}),
    ("GET", "/v1/shares/offers", None, "share_offers", (), {}),
    (
        "POST",
        "/v1/shares/add",
        {"path": "/a", "name": "n", "kind": "folder", "mode": "send-only", "with_devices": ["desk"]},
        "share_add",
        ("/a",),
        {
            "name": "n",
            "kind": "folder",
            "mode": "send-only",
            "with_devices": ["desk"],
            "without": [],
            "counters": [],
            "propagate_schema": False,
        },
    ),
    (
        "POST",
        "/v1/shares/add",
        {"path": "/a"},
        "share_add",
        ("/a",),
        {
            "name": None,
            "kind": None,
            "mode": "send-receive",
            "with_devices": [],
            "without": [],
            "counters": [],
            "propagate_schema": False,
        },
    ),
    (
        "POST",
        "/v1/shares/accept",
        {"name": "n", "path": "/a", "from_device": "desk"},
        "share_accept",
        ("n", "/a"),
        {
            "mode": "send-receive",
            "from_device": "desk",
            "join": None,
            "without": [],
            "counters": [],
            "propagate_schema": False,
        },
    ),
    (
        "POST",
        "/v1/shares/accept",
        {
            "name": "n",
            "path": "/a",
            "join": "adopt",
            "without": ["logs"],
            "counters": ["log.n"],
            "propagate_schema": True,
        },
        "share_accept",
        ("n", "/a"),
        {
            "mode": "send-receive",
            "from_device": None,
            "join": "adopt",
            "without": ["logs"],
            "counters": ["log.n"],
            "propagate_schema": True,
        },
    ),
    (
        "POST",
        "/v1/shares/compare",
        {"name": "n", "path": "/a", "from_device": "desk"},
        "share_compare",
        ("n", "/a"),
        {"from_device": "desk"},
    ),
    *[
        ("POST", f"/v1/shares/{verb}", {"name": "n"}, f"share_{verb}", ("n",), {})
        for verb in ("pause", "resume", "rescan")
    ],
    ("POST", "/v1/shares/remove", {"name": "n"}, "share_remove", ("n",), {"force": False}),
    (
        "POST",
        "/v1/shares/approve",
        {"name": "n", "catch_up": True},
        "share_approve",
        ("n",),
        {"catch_up": True},
    ),
    (
        "POST",
        "/v1/wait",
        {"share": "n", "timeout_s": 1.5, "peers": 2},
        "wait",
        ("n",),
        {"timeout_s": 1.5, "peers": 2},
    ),
    ("POST", "/v1/wait", None, "wait", (None,), {"timeout_s": None, "peers": 1}),
    ("POST", "/v1/sync", {"share": "n"}, "sync_once", ("n",), {"timeout_s": None}),
    ("GET", "/v1/conflicts", None, "conflicts", (), {"include_resolved": False}),
    ("GET", "/v1/conflicts?all=1", None, "conflicts", (), {"include_resolved": True}),
    ("GET", "/v1/conflicts/show?id=c1", None, "conflict_show", ("c1",), {}),
    (
        "POST",
        "/v1/conflicts/resolve",
        {"id": "c1", "keep": "loser", "loser": 1},
        "conflict_resolve",
        ("c1",),
        {"keep": "loser", "loser": 1},
    ),
    ("GET", "/v1/history?path=/a/b%20c", None, "history", ("/a/b c",), {}),
    ("POST", "/v1/restore", {"path": "/a", "version": "v"}, "restore", ("/a",), {"version": "v"}),
    ("GET", "/v1/diff?share=n&device=desk", None, "diff", ("n", "desk"), {}),
    ("POST", "/v1/verify", {}, "verify", (None,), {}),
    ("GET", "/v1/events?since=2&limit=5", None, "events", (), {"since": 2, "limit": 5}),
    ("GET", "/v1/doctor", None, "doctor", (), {}),
    ("POST", "/v1/reload", None, "reload", (), {}),
    ("POST", "/v1/shutdown", None, "shutdown", (), {}),
]


def mode_of(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


async def test_every_route_calls_the_backend_and_answers_its_result(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        for method, target, body, name, args, kwargs in READS:
            assert await client.ask(method, target, body) == (200, backend.answers[name])
            assert backend.calls[-1] == (name, args, kwargs)


async def test_names_that_are_not_utf8_round_trip(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    odd = os.fsdecode(b"/caf\xe9")
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        backend.answers["history"] = [{"path": odd}]
        assert await client.ask("GET", "/v1/history?path=/caf%E9") == (200, [{"path": odd}])
        await client.ask("POST", "/v1/restore", {"path": odd})
        assert [call[1] for call in backend.calls] == [(odd,), (odd,)]


async def test_the_socket_is_private_and_goes_away_with_the_server(
    scripted: ModuleType, socket_path: Path
) -> None:
    async with serving(scripted, socket_path):
        assert mode_of(socket_path) == 0o600
    assert mode_of(socket_path) is None


async def test_curl_can_ask(scripted: ModuleType, socket_path: Path) -> None:
    async with serving(scripted, socket_path):
        command = ["curl", "-sS", "--unix-socket", str(socket_path), "http://p2psyncd/v1/status"]
        try:
            done = await trio.run_process(command, capture_stdout=True)
        except FileNotFoundError:
            pytest.skip("curl is not installed")
        assert json.loads(done.stdout)["device"]["name"] == "laptop"


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (("GET", "/v1/nothing", None), (404, "there is no /v1/nothing")),
        (("POST", "/v1/status", None), (405, "takes GET, not POST")),
        (("POST", "/v1/wait", b"{"), (400, "the body is not JSON")),
        (("POST", "/v1/wait", b"[" * 100_000), (400, "the body is not JSON")),
        (("POST", "/v1/wait", [1]), (400, "the body is not a JSON object")),
        (("POST", "/v1/wait", {"shares": "n"}), (400, "unknown argument `shares`")),
        (("POST", "/v1/wait", {"share": 3}), (400, "`share` must be text")),
        (("POST", "/v1/wait", {"timeout_s": "soon"}), (400, "`timeout_s` must be a number of seconds")),
        (("POST", "/v1/wait", {"timeout_s": -1}), (400, "`timeout_s` must be a number of seconds")),
        (("POST", "/v1/wait", b'{"timeout_s": NaN}'), (400, "`timeout_s` must be a number of seconds")),
        (("POST", "/v1/wait", {"timeout_s": 10**400}), (400, "`timeout_s` must be a number of seconds")),
        (("POST", "/v1/wait", {"peers": True}), (400, "`peers` must be a whole number")),
        (("POST", "/v1/wait", {"peers": -1}), (400, "`peers` must be a whole number of at least 0")),
        (("POST", "/v1/shares/pause", None), (400, "`name` is missing")),
        (("POST", "/v1/shares/add", {"path": "a/b"}), (400, "`path` must be an absolute path")),
        (("POST", "/v1/shares/add", {"path": "/a", "kind": "heap"}), (400, "`kind` must be one of folder")),
        (
            ("POST", "/v1/shares/add", {"path": "/a", "with_devices": "desk"}),
            (400, "`with_devices` must be a list of texts"),
        ),
        (("POST", "/v1/devices/remove", {"name": "a", "everywhere": "perhaps"}), (400, "true or false")),
        (("GET", "/v1/conflicts?all=perhaps", None), (400, "`all` must be true or false")),
        (("GET", "//[/v1/status", None), (400, "the address cannot be read")),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_the_reason(
    scripted: ModuleType,
    socket_path: Path,
    connect: Connect,
    asked: tuple[str, str, object],
    refusal: tuple[int, str],
) -> None:
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        got, answer = await client.ask(*asked)
        assert got == refusal[0]
        assert answer["error"]["code"] == "bad_request"
        assert answer["error"]["exit_code"] == 2
        assert refusal[1] in answer["error"]["message"]
        assert backend.calls == []
        assert (await client.ask("GET", "/v1/status"))[0] == 200


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoSuchShare("Phtos"), (404, "no_such_share", 1)),
        (WrongCode(), (403, "wrong_code", 5)),
        (ShareHeld("Photos"), (403, "held", 5)),
        (TimedOut("desk lacks 3 items"), (504, "timeout", 4)),
        (HomeUnusable("disk"), (500, "home_unusable", 1)),
        (ExceptionGroup("nursery", [ExceptionGroup("inner", [WrongCode()])]), (403, "wrong_code", 5)),
    ],
)
async def test_an_error_of_the_backend_becomes_json_with_its_exit_code(
    scripted: ModuleType,
    socket_path: Path,
    connect: Connect,
    error: Exception,
    expected: tuple[int, str, int],
) -> None:
    async with serving(scripted, socket_path) as backend:
        backend.answers["wait"] = error
        got, answer = await (await connect()).ask("POST", "/v1/wait")
        assert (got, answer["error"]["code"], answer["error"]["exit_code"]) == expected


async def test_a_bug_in_the_backend_is_logged_and_the_server_goes_on(
    scripted: ModuleType, socket_path: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(scripted, socket_path) as backend:
        backend.answers["wait"] = ZeroDivisionError("secret detail")
        client = await connect()
        status, answer = await client.ask("POST", "/v1/wait")
        assert (status, answer["error"]["exit_code"]) == (500, 1)
        assert "secret detail" not in answer["error"]["message"]
        assert (await client.ask("GET", "/v1/status"))[0] == 200
    assert "ZeroDivisionError" in caplog.text


async def test_metrics_are_in_the_format_of_prometheus(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path):
        status, text = await (await connect()).ask("GET", "/v1/metrics")
    assert status == 200
    assert text == (
        '# HELP p2psync_items Live items.\n# TYPE p2psync_items gauge\np2psync_items{share="Photos"} 1234\n'
    )


async def test_a_code_is_shown_at_once_and_the_device_follows(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        await client.send("POST", "/v1/pair/show", {"introduce": False})
        assert (await client.head())[0] == 200
        assert json.loads(await client.chunk())["code"] == "7-amber-falcon"
        backend.joined.set()
        assert json.loads(await client.chunk())["name"] == "desk"
        assert await client.chunk() == b""
        assert backend.calls[0] == ("pair_show", (), {"introduce": False})
        assert backend.withdrawn == ["7-amber-falcon"]
        assert (await client.ask("GET", "/v1/status"))[0] == 200


async def test_a_code_that_failed_says_so_in_its_second_line(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        backend.pair_ends_with = scripted.CodeExpired()
        client = await connect()
        await client.send("POST", "/v1/pair/show")
        await client.head()
        await client.chunk()
        assert json.loads(await client.chunk())["error"]["exit_code"] == 5
        assert await client.chunk() == b""


async def test_a_code_that_cannot_be_shown_is_an_ordinary_error(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        backend.answers["pair_show"] = TimedOut()
        assert (await (await connect()).ask("POST", "/v1/pair/show"))[0] == 504


async def test_closing_the_connection_withdraws_the_code(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        await client.send("POST", "/v1/pair/show")
        await client.head()
        await client.chunk()
        await client.stream.aclose()
        await backend.withdrew.wait()
        assert backend.withdrawn == ["7-amber-falcon"]


async def test_stopping_the_server_withdraws_the_code(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        await client.send("POST", "/v1/pair/show")
        await client.head()
        await client.chunk()
    assert backend.withdrawn == ["7-amber-falcon"]


async def test_a_client_that_goes_away_cancels_its_call(
    scripted: ModuleType, socket_path: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(scripted, socket_path) as backend:
        backend.answers["wait"] = backend.hang
        client = await connect()
        await client.send("POST", "/v1/wait")
        await backend.hanging.wait()
        await client.stream.aclose()
        await backend.hang_ended.wait()
        assert (await (await connect()).ask("GET", "/v1/status"))[0] == 200
    assert caplog.text == ""


async def test_a_client_that_resets_while_an_answer_is_sent_is_no_news(
    scripted: ModuleType, socket_path: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(scripted, socket_path) as backend:
        backend.answers["status"] = {"much": "x" * 5_000_000}
        client = await connect()
        await client.send("GET", "/v1/status")
        await client.more()
        await client.stream.aclose()
        backend.answers["status"] = {}
        assert (await (await connect()).ask("GET", "/v1/status")) == (200, {})
    assert caplog.text == ""


async def test_requests_sent_ahead_are_answered_in_order(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        for target in ("/v1/status", "/v1/devices", "/v1/shares"):
            await client.send("GET", target)
        for name in ("status", "devices", "share_list"):
            assert await client.answer() == (200, backend.answers[name])


async def test_a_client_that_floods_is_cut_off(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        backend.answers["wait"] = backend.hang
        client = await connect()
        await client.send("POST", "/v1/wait")
        with pytest.raises(trio.BrokenResourceError):
            await client.stream.send_all(b"x" * 50_000_000)
        assert backend.hang_ended.is_set()


async def test_events_come_as_a_stream_that_resumes(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        client = await connect()
        await client.send("GET", "/v1/events", headers="Accept: text/event-stream\r\nLast-Event-ID: 1\r\n")
        status, fields = await client.head()
        assert (status, fields["content-type"]) == (200, "text/event-stream")
        for expected in (2, 3):
            number, data = (await client.chunk()).decode().strip().split("\n")
            assert number == f"id: {expected}"
            assert json.loads(data.removeprefix("data: "))["id"] == expected
        await client.stream.aclose()
        await backend.hang_ended.wait()


async def test_events_without_since_begin_with_the_next_one(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        for found, since in ((backend.answers["events"], 3), ([], 0)):
            backend.answers["events"] = found
            client = await connect()
            await client.send("GET", "/v1/events")
            assert (await client.head())[0] == 200
            assert backend.calls[-1] == ("follow_events", (since,), {})
            await client.stream.aclose()


async def test_events_that_end_say_why(scripted: ModuleType, socket_path: Path, connect: Connect) -> None:
    async with serving(scripted, socket_path) as backend:
        backend.answers["follow_end"] = TimedOut("the end")
        client = await connect()
        await client.send("GET", "/v1/events")
        await client.head()
        assert b"the end" in await client.chunk()
        assert await client.chunk() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01garbage\r\n\r\n", b" 400 "),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", b" 400 "),
        (b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000, b" 431 "),
        (
            b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b" " * 1_048_577,
            b" 413 ",
        ),
    ],
)
async def test_broken_http_is_refused_and_the_connection_closed(
    scripted: ModuleType, socket_path: Path, connect: Connect, sent: bytes, status: bytes
) -> None:
    async with serving(scripted, socket_path):
        client = await connect()
        await client.stream.send_all(sent)
        received = b""
        while data := await client.stream.receive_some(65536):
            received += data
        assert status in received.split(b"\r\n")[0]
        assert b'"exit_code": 2' in received


async def test_a_client_that_leaves_in_mid_request_is_no_news(
    scripted: ModuleType, socket_path: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(scripted, socket_path):
        for part in (b"", b"GET /v1/st", b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
            client = await connect()
            await client.stream.send_all(part)
            await client.stream.aclose()
        assert (await (await connect()).ask("GET", "/v1/status"))[0] == 200
    assert caplog.text == ""


async def test_a_client_that_waits_for_leave_to_send_gets_it(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path):
        client = await connect()
        head = b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        await client.stream.send_all(head)
        assert b" 100 " in await client.until(b"\r\n\r\n")
        await client.stream.send_all(b"{}")
        assert (await client.answer())[0] == 200


async def test_http_1_0_is_answered_and_closed(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path):
        client = await connect()
        await client.stream.send_all(b"GET /v1/status HTTP/1.0\r\n\r\n")
        assert (await client.answer())[0] == 200
        assert await client.stream.receive_some() == b""


async def test_cancelling_ends_every_connection_at_once(
    scripted: ModuleType, socket_path: Path, connect: Connect
) -> None:
    async with serving(scripted, socket_path) as backend:
        backend.answers["wait"] = backend.hang
        idle, waiting, following = [await connect() for _ in range(3)]
        await waiting.send("POST", "/v1/wait")
        await following.send("GET", "/v1/events?since=0", headers="Accept: text/event-stream\r\n")
        await following.head()
        await backend.hanging.wait()
    assert backend.hang_ended.is_set()
    assert await idle.stream.receive_some() == b""


def test_a_socket_left_behind_is_replaced(socket_path: Path) -> None:
    open_socket(socket_path).close()
    assert socket_path.exists()
    open_socket(socket_path).close()


def test_a_socket_that_is_answered_is_left_alone(socket_path: Path) -> None:
    with open_socket(socket_path), pytest.raises(HomeLocked):
        open_socket(socket_path)
    assert socket_path.exists()


def test_a_daemon_too_busy_to_answer_still_counts_as_alive(socket_path: Path) -> None:
    waiting: list[socket.socket] = []
    with open_socket(socket_path) as busy:
        busy.listen(0)
        try:
            for _ in range(2):
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                try:
                    waiting[-1].connect(str(socket_path))
                except BlockingIOError:
                    break
            with pytest.raises(HomeLocked):
                open_socket(socket_path)
        finally:
            for one in waiting:
                one.close()


def test_a_file_in_the_way_is_left_alone(socket_path: Path) -> None:
    socket_path.write_text("mine")
    with pytest.raises(HomeUnusable, match="not a socket"):
        open_socket(socket_path)
    assert socket_path.read_text() == "mine"


def test_a_missing_folder_is_an_error_that_names_it(socket_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="elsewhere"):
        open_socket(socket_path.parent / "elsewhere" / "control.sock")


async def test_a_path_longer_than_the_kernel_takes_works(scripted: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    async with serving(scripted, folder / "control.sock"):
        handle = os.open(folder, os.O_PATH)
        try:
            stream = await trio.open_unix_socket(f"/proc/self/fd/{handle}/control.sock")
        finally:
            os.close(handle)
        async with stream:
            assert (await Client(stream).ask("GET", "/v1/status"))[0] == 200
    assert list(folder.iterdir()) == []
