from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from p2psync import demo, launch
from p2psync.client import AnswerError
from p2psync.launch import Child, daemon_command, stopped_by_signals
from p2psync.session import Session
from p2psync.up import CodeShower, offer_lines
from p2psyncd.errors import DaemonNotRunning, WrongCode

FAKE_DAEMON = [sys.executable, str(Path(__file__).parent / "fake_daemon.py")]


@pytest.fixture(autouse=True)
def fake_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "daemon_command", lambda: FAKE_DAEMON)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def interrupting() -> Any:
    """What presses Ctrl-C (or sends another signal) at the n-th look at the status."""

    def after(backend: Any, looks: int, number: int = signal.SIGTERM) -> None:
        status = backend.answers["status"]
        seen: list[int] = []

        async def answer() -> Any:
            seen.append(1)
            if len(seen) == looks:
                os.kill(os.getpid(), number)
            return status

        backend.answers["status"] = answer

    return after


def test_a_child_answers_and_stops_with_its_block(home: Path) -> None:
    client = Session(home).client
    with Child(home, "--name", "toy") as child:
        assert child.wait_ready(client)["device"]["name"] == "toy"
    assert child.process.returncode == 0
    with pytest.raises(DaemonNotRunning):
        client.get("/v1/status")


@pytest.mark.parametrize(
    ("fake", "code", "says"),
    [
        ("port-taken", 1, "the daemon did not start: 22600. The port is taken."),
        ("silent", 1, "the daemon did not start: it ended with code 7"),
    ],
)
def test_a_child_that_ends_early_tells_why(
    home: Path, monkeypatch: pytest.MonkeyPatch, fake: str, code: int, says: str
) -> None:
    monkeypatch.setenv("FAKE", fake)
    with Child(home) as child, pytest.raises(AnswerError) as caught:
        child.wait_ready(Session(home).client)
    assert (caught.value.exit_code, caught.value.message) == (code, says)


def test_a_child_that_was_killed_is_called_so_whatever_it_logged_last(home: Path) -> None:
    killed = ["/bin/sh", "-c", "echo peer connected >&2; kill -9 $$"]
    with Child(home, command=killed) as child, pytest.raises(AnswerError) as caught:
        child.wait_ready(Session(home).client)
    assert caught.value.message == (
        "the daemon did not start: it was killed (SIGKILL). Nothing is lost by that; start it again"
    )


def test_a_child_that_never_answers_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "deaf")
    monkeypatch.setattr(launch, "READY_S_MAX", 0.2)
    with Child(home) as child, pytest.raises(AnswerError, match="does not answer"):
        child.wait_ready(Session(home).client)


def test_a_child_that_does_not_stop_is_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "stubborn")
    monkeypatch.setattr(launch, "STOP_S_MAX", 0.2)
    with Child(home) as child:
        child.wait_ready(Session(home).client)
    assert child.process.returncode == -signal.SIGKILL


def test_a_program_that_is_not_there_is_named(home: Path) -> None:
    with (
        pytest.raises(AnswerError, match=r"cannot start /nowhere/p2psyncd"),
        Child(home, command=["/nowhere/p2psyncd"]),
    ):
        pass


def test_the_daemon_beside_the_client_is_started_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a" / "python"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "b" / "p2psync")])
    monkeypatch.setenv("PATH", str(tmp_path / "c"))
    assert daemon_command() == [sys.executable, "-m", "p2psyncd.main"]
    for folder in ("c", "b", "a"):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / "p2psyncd"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert daemon_command() == [str(program)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_closed_terminal_and_a_kill_are_like_ctrl_c(number: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) is before


def test_up_starts_a_daemon_shares_a_folder_and_stops_it_again(
    run: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "dies")
    result = run("--home", str(home), "up")
    assert (tmp_path / "Sync").is_dir()
    assert "Starting the daemon." in result.err
    assert f"Made {tmp_path}/Sync." in result.err
    assert f"Sharing {tmp_path}/Sync as Sync." in result.err
    assert "share Sync: idle" in result.out
    # It died by itself here, so its last words are the message.
    assert (result.code, result.err.splitlines()[-1]) == (
        1,
        "p2psync: the daemon stopped: the disk caught fire",
    )


def test_up_leaves_a_running_daemon_running(
    run: Any, backend: Any, interrupting: Any, tmp_path: Path
) -> None:
    interrupting(backend, 3)
    result = run("up", str(tmp_path))
    assert result.code == 0
    assert f"p2psync share add {tmp_path}\n" in result.err
    assert "The daemon goes on" in result.err
    assert "desk offers Music. To have it here: p2psync share accept Music ~/Music" in result.out
    assert result.out.count("desk offers Music") == 1
    assert not any(name == "share_add" for name, *_ in backend.calls)


def test_up_shows_a_code_while_no_device_is_paired(run: Any, backend: Any, interrupting: Any) -> None:
    backend.answers["status"] = backend.answers["status"] | {"peers": []}
    interrupting(backend, 4)
    result = run("up")
    assert "To pair a device, run there:  p2psync pair 7-amber-falcon" in result.out


def test_up_does_not_share_where_something_can_be_accepted(
    run: Any, backend: Any, interrupting: Any, tmp_path: Path
) -> None:
    backend.answers["status"] = backend.answers["status"] | {"shares": []}
    interrupting(backend, 3, signal.SIGINT)
    assert run("up").code == 0
    assert not (tmp_path / "Sync").exists()


def test_up_shares_if_the_peers_offer_nothing(
    run: Any, backend: Any, interrupting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2psync.up.OFFERS_S_MAX", 0.1)
    backend.answers["status"] = backend.answers["status"] | {"shares": []}
    backend.answers["share_offers"] = []
    interrupting(backend, 2)
    assert run("up").code == 0
    assert (tmp_path / "Sync").is_dir()


def test_up_says_if_the_folder_cannot_be_made(run: Any, backend: Any) -> None:
    backend.answers["status"] = backend.answers["status"] | {"shares": []}
    result = run("up", "/proc/nowhere")
    assert result.code == 1
    assert "cannot make /proc/nowhere" in result.err


def test_up_ends_with_the_daemon_it_did_not_start(run: Any, backend: Any) -> None:
    answered: list[int] = []
    status = backend.answers["status"]

    async def stop() -> Any:
        answered.append(1)
        if len(answered) > 2:
            raise DaemonNotRunning
        return status

    backend.answers["status"] = stop
    assert run("up").code == 3


def test_an_offer_of_a_name_that_is_taken_can_be_joined_with_what_is_here(scripted: Any) -> None:
    offer = scripted.ANSWERS["share_offers"][0] | {"name": "Photos", "device": "my desk"}
    assert offer_lines([offer], scripted.STATUS) == [
        "my desk offers Photos, too. To join it with yours:"
        " p2psync share accept Photos /home/ada/Photos --from 'my desk'"
    ]


def test_a_new_code_follows_a_burned_one_but_not_for_ever(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2psync.up.BURNED_PAUSE_S", 0)
    backend.pair_ends_with = WrongCode()
    shower = CodeShower(Session(None).client)
    shower.thread.join(10)
    assert backend.withdrawn == ["7-amber-falcon"] * 3
    assert "Wrong codes were tried" in shower.lines()[0]


def test_a_code_is_shown_until_a_device_has_joined(backend: Any) -> None:
    shower = CodeShower(Session(None).client)
    pause = threading.Event()
    while not shower.lines():
        pause.wait(0.01)
    assert shower.lines() == ["To pair a device, run there:  p2psync pair 7-amber-falcon"]
    backend.run_sync_soon(backend.joined.set)
    shower.thread.join(10)
    assert shower.lines() == []


def test_a_code_is_no_longer_shown_when_the_daemon_stops(home: Path) -> None:
    shower = CodeShower(Session(home).client)
    shower.thread.join(10)
    assert shower.lines() == []


def test_the_demo_shows_two_equal_devices_and_cleans_up(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run("demo", "--once")
    assert result.code == 0
    assert "Equal on both devices: 3 files, and a database with 3 rows." in result.out
    assert "shopping.db: apples, bread (bought), oat milk" in result.out
    assert "INSERT INTO shopping (item) VALUES ('tea')" in result.out
    assert "notes/today.txt" in result.out
    assert "maple shows the code 7-amber-falcon; willow types it." in result.err
    assert list(tmp_path.glob("p2psync-demo-*")) == []


def test_the_demo_runs_until_it_is_stopped(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    looks: list[int] = []

    def changes(*_: object) -> list[str]:
        looks.append(1)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGHUP)
        return ["share Files: idle"]

    monkeypatch.setattr(demo, "changes", changes)
    result = run("demo")
    assert result.code == 0
    assert "maple: share Files: idle" in result.out
    assert "The demo is over." in result.err
    assert list(tmp_path.glob("p2psync-demo-*")) == []


def test_a_demo_that_is_not_equal_says_so(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("FAKE", "lossy")
    result = run("demo", "--once")
    assert result.code == 1
    assert "not equal" in result.err
    assert list(tmp_path.glob("p2psync-demo-*")) == []
