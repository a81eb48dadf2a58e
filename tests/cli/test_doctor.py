from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from p2psync import checks
from p2psyncd.control.places import Places, find_places
from p2psyncd.errors import TimedOut

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def places(home: Path) -> Places:
    return find_places(home, {}, 0)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """What makes a root folder with files in it."""

    def make(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "root").mkdir(exist_ok=True)
        return tmp_path / "root"

    return make


def test_without_a_daemon_it_says_how_to_start_one(run: Any) -> None:
    result = run("doctor")
    assert "daemon: not running" in result.out
    assert "p2psync up" in result.out
    assert "to look at." in result.out


def test_with_a_daemon_its_own_checks_come_first_and_count_more(run: Any, backend: Any) -> None:
    backend.answers["doctor"] = [
        {"name": "clock", "ok": "fail", "message": "two hours off\x1b", "advice": "Set it."}
    ]
    result = run("doctor", "--json")
    found = json.loads(result.out)
    assert result.code == 1
    assert [check["name"] for check in found][:2] == ["daemon", "clock"]
    assert [check["name"] for check in found].count("clock") == 1
    text = run("doctor").out
    assert "✗ clock: two hours off\\x1b\n    → Set it." in text


def test_when_all_is_well_it_says_so(run: Any, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del backend
    monkeypatch.setattr("p2psync.doctor.outside_checks", lambda *_, **__: [])
    result = run("doctor")
    assert (result.code, result.out.splitlines()[-1]) == (0, "All is well.")


def test_a_daemon_that_fails_to_answer_is_a_failure(run: Any, backend: Any) -> None:
    backend.answers["doctor"] = TimedOut()
    assert run("doctor").code == 1


def test_the_socket_must_be_private(places: Places) -> None:
    assert checks.socket_check(places, running=False)["ok"] == "ok"
    places.socket_path.touch(mode=0o600)
    assert "left behind" in checks.socket_check(places, running=False)["message"]
    assert "private" in checks.socket_check(places, running=True)["message"]
    places.socket_path.chmod(0o666)
    found = checks.socket_check(places, running=True)
    assert (found["ok"], found["advice"]) == ("fail", f"chmod 600 {places.socket_path}")
    places.socket_path.unlink()
    places.socket_path.parent.rmdir()
    places.socket_path.parent.touch()
    assert checks.socket_check(places, running=True)["ok"] == "fail"


def test_folders_must_be_writable(places: Places, home: Path) -> None:
    assert checks.folders_check(places)["ok"] == "ok"
    (home / "state").touch()
    found = checks.folders_check(places)
    assert (found["ok"], str(home / "state") in found["message"]) == ("fail", True)


def test_the_identity_must_be_private(places: Places) -> None:
    assert "none yet" in checks.identity_check(places)["message"]
    places.identity_dir.mkdir(mode=0o700)
    assert checks.identity_check(places)["ok"] == "ok"
    places.identity_dir.chmod(0o755)
    assert checks.identity_check(places)["ok"] == "fail"


def test_a_full_disk_is_named(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.disk_check(places)["ok"] == "ok"
    monkeypatch.setattr(checks, "FREE_PERCENT_MIN", 101)
    assert "Make room" in checks.disk_check(places)["advice"]


def test_low_inotify_limits_come_with_the_command_to_raise_them(machine: Callable[..., Path]) -> None:
    assert checks.inotify_check(machine())["ok"] == "warn"
    limits = {
        "proc__sys__fs__inotify__max_user_watches": "8192\n",
        "proc__sys__fs__inotify__max_user_instances": "128\n",
    }
    found = checks.inotify_check(machine(**limits))
    assert found["ok"] == "warn"
    assert "sudo sysctl fs.inotify.max_user_watches=524288" in found["advice"]
    limits["proc__sys__fs__inotify__max_user_watches"] = "524288"
    assert checks.inotify_check(machine(**limits))["ok"] == "ok"


def test_a_clock_that_was_never_set_is_found(machine: Callable[..., Path]) -> None:
    assert checks.clock_check(datetime(1970, 1, 1, tzinfo=UTC), machine())["ok"] == "fail"
    assert checks.clock_check(NOW, machine())["ok"] == "ok"
    root = machine(run__systemd__timesync__clock="")
    assert checks.clock_check(NOW, root)["ok"] == "warn"
    machine(run__systemd__timesync__synchronized="")
    assert checks.clock_check(NOW, root)["ok"] == "ok"


def test_an_interface_for_multicast_is_needed_to_be_found(machine: Callable[..., Path]) -> None:
    root = machine(sys__class__net__lo__flags="0x1009\n", sys__class__net__bad__flags="?")
    assert checks.multicast_check(root)["ok"] == "warn"
    machine(sys__class__net__eth0__flags="0x1003\n")
    found = checks.multicast_check(root)
    assert (found["ok"], found["message"]) == ("ok", "possible on eth0")


def test_a_taken_port_is_found_before_the_daemon_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.port_check(1, running=True)["ok"] == "ok"
    assert checks.port_check(0, running=False)["ok"] == "ok"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = checks.port_check(taken.getsockname()[1], running=False)
    assert (found["ok"], "taken by another program" in found["message"]) == ("warn", True)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)
    assert "Permission denied" in checks.port_check(1, running=False)["message"]


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (("enabled", ""), "started by systemd"),
        (("disabled", ""), "installed; systemctl --user enable --now p2psyncd"),
        (
            ("", "Failed to get unit file state for p2psyncd.service: No such file or directory"),
            "no unit installed",
        ),
        (("", "Failed to connect to bus"), "systemd does not answer here"),
    ],
)
def test_units_are_looked_for(monkeypatch: pytest.MonkeyPatch, says: tuple[str, str], message: str) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda _: "/bin/systemctl")
    done = subprocess.CompletedProcess([], 1, *says)
    monkeypatch.setattr(checks.subprocess, "run", lambda *_, **__: done)
    assert message in checks.units_check()["message"]


def test_a_machine_without_systemd_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda _: None)
    assert checks.units_check()["ok"] == "ok"

    def slow(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("systemctl", 3)

    monkeypatch.setattr(checks.shutil, "which", lambda _: "/bin/systemctl")
    monkeypatch.setattr(checks.subprocess, "run", slow)
    assert "does not answer" in checks.units_check()["message"]
