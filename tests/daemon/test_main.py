"""The daemon's program: its command line, its log, its signals and its exit code."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2psyncd.daemon.config import Config, ListenAddress
from p2psyncd.errors import ConfigError, HomeLocked, PortTaken
from p2psyncd.main import JsonFormatter, SystemClock, first_error, main, parser, read_settings

LOCAL = ["--no-mdns", "--listen", "127.0.0.1:0"]
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """`main` sets up logging for the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("p2psyncd")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('name = "from the file"\nlog_level = "warning"\n')
    options = parser().parse_args([*LOCAL, "--log-level", "debug", "--interface", "lo"])
    assert read_settings(options, file) == Config(
        name="from the file",
        log_level="debug",
        mdns=False,
        interfaces=("lo",),
        listen=(ListenAddress(host="127.0.0.1", port=0),),
    )
    with pytest.raises(ConfigError, match="--listen"):
        read_settings(parser().parse_args(["--listen", "nonsense"]), file)


def test_a_log_line_is_one_json_object() -> None:
    record = logging.makeLogRecord({"name": "p2psyncd", "levelname": "INFO", "msg": "a=%d", "args": (1,)})
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("info", "p2psyncd", "a=1")
    record.exc_info = (ValueError, ValueError("x"), None)
    assert "ValueError: x" in json.loads(JsonFormatter().format(record))["traceback"]


def test_the_clock_runs() -> None:
    clock = SystemClock()
    assert clock.now_us() > 1_600_000_000_000_000
    assert clock.monotonic_s() <= clock.monotonic_s()


def test_our_own_error_is_found_in_nested_groups() -> None:
    ours = PortTaken("127.0.0.1:22600")
    assert first_error(ExceptionGroup("", [ValueError(), ExceptionGroup("", [ours])])) is ours
    assert first_error(ExceptionGroup("", [ValueError()])) is None


def test_it_serves_until_it_is_told_to_stop(short_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home = short_folder / "home"
    answers: list[bytes] = []

    def visit() -> None:
        path = home / "run" / "control.sock"
        done = threading.Event()
        for _ in range(int(WAIT_S * 20)):
            if path.exists():
                break
            done.wait(0.05)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(WAIT_S)
                client.connect(str(path))
                client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: p2psyncd\r\nConnection: close\r\n\r\n")
                while part := client.recv(65536):
                    answers.append(part)
            (home / "config.toml").write_text("nme = 1\n")
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        code = main(["--home", str(home), "--name", "maple", "--log-format", "json", *LOCAL])
    finally:
        visitor.join(WAIT_S)
    assert code == 0
    assert b'"maple"' in b"".join(answers)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert any(line["message"].startswith("ready name=maple") for line in lines)
    assert any(line["message"].startswith("reload_failed") for line in lines)


def test_what_keeps_it_from_starting_is_said_in_one_line(
    short_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = short_folder / "home"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["--home", str(home), "--no-mdns", "--listen", address]) == PortTaken.exit_code
    assert "The port is taken" in capsys.readouterr().err
    home.joinpath("config.toml").write_text("nme = 1\n")
    assert main(["--home", str(home), *LOCAL]) == ConfigError.exit_code
    assert "`name`" in capsys.readouterr().err


def test_an_error_that_is_not_ours_is_not_hidden(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ExceptionGroup("", [ValueError("a mistake in the program")])

    monkeypatch.setattr("p2psyncd.main.trio.run", broken)
    with pytest.RaisesGroup(ValueError):
        main(["--home", str(short_folder / "home"), *LOCAL])


def test_a_second_daemon_is_kept_out(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []

    def second(*_: Any) -> None:
        monkeypatch.undo()
        codes.append(main(["--home", str(short_folder / "home"), *LOCAL]))

    monkeypatch.setattr("p2psyncd.main.trio.run", second)
    assert main(["--home", str(short_folder / "home"), *LOCAL]) == 0
    assert codes == [HomeLocked.exit_code]
