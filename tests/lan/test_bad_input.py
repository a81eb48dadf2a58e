"""What a person can get wrong: a clear message, the promised exit code, nothing changed on disk."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from p2plab.device import Device, Result, start
from p2plab.trees import describe
from p2plab.waiting import eventually

pytestmark = pytest.mark.lan


def run_daemon(device: Device) -> Result:
    """Run a daemon that is expected to end by itself."""
    process = device.launch()
    code = process.wait(30)
    device.process = None
    return Result(code=code, out="", err=device.log())


def test_the_client_without_a_daemon_exits_three_and_says_how_to_start_one(
    new_device: Callable[..., Device],
) -> None:
    a = new_device("a")
    result = a.cli("status")
    assert result.code == 3
    assert result.out == ""
    assert "p2psync up" in result.err
    assert describe(a.home) == {}


def test_a_missing_folder_is_not_shared_and_not_made(new_device: Callable[..., Device]) -> None:
    a = new_device("a").start()
    result = a.cli("share", "add", str(a.folder / "missing"))
    assert result.code == 1
    assert "missing" in result.err
    assert not (a.folder / "missing").exists()
    assert a.status()["shares"] == []


@pytest.mark.parametrize("second", ["f/inner", ".", "f"])
def test_a_folder_in_or_around_a_share_is_refused(new_device: Callable[..., Device], second: str) -> None:
    a = new_device("a").start()
    (a.folder / "f" / "inner").mkdir(parents=True)
    a.cli("share", "add", str(a.folder / "f")).ok()
    before = describe(a.folder / "f")
    result = a.cli("share", "add", str(a.folder / second), "--name", "other")
    assert result.code == 1, result
    assert "share" in result.err
    assert describe(a.folder / "f") == before
    assert not (a.folder / second / ".p2psync").exists() or second == "f"
    assert [share["name"] for share in a.status()["shares"]] == ["f"]


def test_a_file_that_is_no_database_cannot_be_shared(new_device: Callable[..., Device]) -> None:
    a = new_device("a").start()
    (a.folder / "text").write_text("hello")
    result = a.cli("share", "add", str(a.folder / "text"))
    assert result.code == 1
    assert "text" in result.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"name = 'x'\nlisten_on = 5\n", "listen_on"),
        (b"name = 5\n", "name"),
        (b"name = \n", "config.toml"),
        (b"name = '\xff'\n", "config.toml"),
        (b"[history]\ndayz = 3\n", "dayz"),
    ],
)
def test_a_config_that_cannot_be_used_stops_the_daemon_and_names_the_key(
    new_device: Callable[..., Device], text: bytes, named: str
) -> None:
    a = new_device("a")
    (a.home / "config.toml").write_bytes(text)
    before = describe(a.home)
    result = run_daemon(a)
    assert result.code == 1
    assert named in result.err
    assert "Traceback" not in result.err
    assert describe(a.home) == before


def test_an_unreadable_config_stops_the_daemon(new_device: Callable[..., Device]) -> None:
    a = new_device("a")
    # A folder cannot be read as a file by root either.
    (a.home / "config.toml").mkdir()
    result = run_daemon(a)
    assert result.code == 1
    assert "config.toml" in result.err
    assert "Traceback" not in result.err


def test_a_config_that_becomes_wrong_leaves_the_running_daemon_as_it_was(
    new_device: Callable[..., Device],
) -> None:
    a = new_device("a").start()
    (a.home / "config.toml").write_text("nonsense = 1\n")
    assert a.process is not None
    a.process.send_signal(signal.SIGHUP)
    eventually("it is said", lambda: "nonsense" in a.log())
    assert a.status()["device"]["name"] == "a"


def test_a_taken_port_stops_the_daemon_and_is_named(new_device: Callable[..., Device]) -> None:
    a = new_device("a", 0).start()
    b = new_device("b", 0)
    result = run_daemon(b)
    assert result.code == 1
    assert "22600" in result.err
    assert "--listen" in result.err
    assert a.status()["device"]["name"] == "a"


def test_a_second_daemon_on_one_home_stops_and_names_the_first(new_device: Callable[..., Device]) -> None:
    a = new_device("a").start()
    assert a.process is not None
    second = a.host.run([a.installed.daemon, "--listen", "127.0.0.1:0"], env=a.environ(), cwd=a.folder)
    assert second.returncode == 1
    assert str(a.process.pid) in second.stderr
    assert a.status()["device"]["name"] == "a"


def test_a_home_that_cannot_be_made_stops_the_daemon(new_device: Callable[..., Device]) -> None:
    a = new_device("a")
    (a.folder / "file").write_text("")
    done = a.host.run(
        [a.installed.daemon, "--home", str(a.folder / "file" / "home")], env=a.environ(), cwd=a.folder
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_damaged_state_database_is_named_and_the_files_are_left_alone(
    new_device: Callable[..., Device],
) -> None:
    a = new_device("a").start()
    (a.folder / "f").mkdir()
    (a.folder / "f" / "x").write_text("x")
    a.cli("share", "add", str(a.folder / "f")).ok()
    a.stop()
    databases = [
        path
        for path in (a.home / "state").rglob("*")
        if path.is_file() and path.read_bytes()[:6] == b"SQLite"
    ]
    assert databases
    for database in databases:
        database.write_bytes(b"this is not a database" * 1000)
    result = run_daemon(a)
    assert result.code == 1
    assert databases[0].name in result.err
    assert (a.folder / "f" / "x").read_text() == "x"


def test_a_host_without_multicast_still_serves_and_doctor_says_so(new_device: Callable[..., Device]) -> None:
    a, b = new_device("a"), new_device("b")
    for device in (a, b):
        device.host.run(["ip", "route", "del", "224.0.0.0/4"], check=True)
        device.host.run(["ip", "link", "set", "eth0", "multicast", "off"], check=True)
    start(a, b)
    showing, code = a.show_code()
    b.cli("pair", code, "--at", a.address).ok()
    assert showing.wait(10) == 0
    checks = {check["name"]: check for check in a.cli("doctor", "--json").json}
    assert any("mdns" in name.lower() and check["ok"] != "ok" for name, check in checks.items())


def test_the_daemon_says_one_line_when_it_is_ready_and_stops_on_a_signal(
    new_device: Callable[..., Device],
) -> None:
    a = new_device("a").start()
    ready = [line for line in a.log().splitlines() if "ready" in line]
    assert len(ready) == 1
    assert a.device_id in ready[0]
    assert "22600" in ready[0]
    assert a.stop() == 0


def test_the_control_socket_is_for_its_owner_alone_and_speaks_http(new_device: Callable[..., Device]) -> None:
    a = new_device("a").start()
    assert a.socket_path.stat().st_mode & 0o777 == 0o600
    assert a.socket_path.parent.stat().st_mode & 0o777 == 0o700
    asked = a.host.run(["curl", "-sS", "--unix-socket", str(a.socket_path), "http://p2psyncd/v1/status"])
    assert a.device_id in asked.stdout


def test_an_unknown_command_is_a_usage_error(new_device: Callable[..., Device]) -> None:
    a = new_device("a")
    assert a.cli("frobnicate").code == 2
    assert a.cli("share", "add").code == 2
    assert describe(a.home) == {}
