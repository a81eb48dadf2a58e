"""The units under a real systemd: ready, alive, in sync, stopped cleanly, hardened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from p2plab.device import Device
from p2plab.machine import Machine
from p2plab.waiting import eventually

pytestmark = pytest.mark.systemd

CLIENT = "/opt/p2psyncd/bin/p2psync"
Systemctl = Callable[..., str]


def exposure(text: str) -> float:
    """Return the figure of `systemd-analyze security`."""
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert found, text
    return float(found.group(1))


def ask(machine: Machine, *arguments: str) -> str:
    """Run the client as alice; it must find its daemon by itself."""
    done = machine.run_as("alice", [CLIENT, *arguments])
    assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def said_at_the_end(machine: Machine) -> list[str]:
    """Return what the drop-in of these tests wrote to the journal after each stop."""
    journal = machine.run(["journalctl", "--no-pager", "--output=cat"]).stdout
    return [line for line in journal.splitlines() if line.startswith("ended: ")]


def watch_a_service_live(machine: Machine, other: Device, systemctl: Systemctl, unit: str) -> None:
    """Start a unit, pair, sync both ways, see it answer the watchdog, stop it."""

    def shown(name: str) -> str:
        return systemctl("show", "--property", name, "--value", unit).strip()

    systemctl("start", unit)
    # `start` returns only after READY=1, so the very first call must find the daemon.
    status = json.loads(ask(machine, "status", "--json"))
    assert shown("ActiveState") == "active"
    assert shown("Type") == "notify"

    showing, code = other.show_code()
    ask(machine, "pair", code)
    assert showing.wait(30) == 0
    eventually("connected", lambda: any(p["connected"] for p in other.status()["peers"]))
    assert other.status()["peers"][0]["id"] == status["device"]["id"]

    machine.run_as(
        "alice",
        [
            "sh",
            "-c",
            "mkdir -p ~/docs/inner && echo from-alice >~/docs/inner/note && chmod 640 ~/docs/inner/note",
        ],
    )
    ask(machine, "share", "add", "/home/alice/docs", "--name", "docs")
    other.accept("docs", other.folder / "docs")
    other.wait()
    note = other.folder / "docs" / "inner" / "note"
    assert note.read_text() == "from-alice\n"
    assert note.stat().st_mode & 0o777 == 0o640
    note.write_text("from-other\n")
    other.wait()
    assert machine.run_as("alice", ["cat", "/home/alice/docs/inner/note"]).stdout == "from-other\n"

    first = shown("WatchdogTimestampMonotonic")
    second = eventually(
        "it says that it is alive",
        lambda: shown("WatchdogTimestampMonotonic") != first and shown("WatchdogTimestampMonotonic"),
    )
    eventually("and again", lambda: shown("WatchdogTimestampMonotonic") != second)

    systemctl("stop", unit)
    endings = eventually("its end is in the journal", lambda: said_at_the_end(machine))
    assert endings == ["ended: success exited 0"]
    assert machine.run_as("alice", [CLIENT, "status"]).returncode == 3

    # And again on the same state: the pairing and the share are kept.
    systemctl("start", unit)
    assert json.loads(ask(machine, "status", "--json"))["shares"][0]["name"] == "docs"
    systemctl("reload", unit)
    ask(machine, "wait", "--timeout", "60")
    systemctl("stop", unit)


def test_the_system_unit_serves_one_user_and_stops_cleanly(machine: Machine, other: Device) -> None:
    def systemctl(*arguments: str) -> str:
        done = machine.run(["systemctl", *arguments])
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{machine.journal('p2psyncd@alice')}"
        return done.stdout

    watch_a_service_live(machine, other, systemctl, "p2psyncd@alice.service")
    places = machine.run(
        ["find", "/var/lib/p2psyncd", "/etc/p2psyncd", "-maxdepth", "1", "-printf", "%p %u %m\n"]
    ).stdout
    assert "/var/lib/p2psyncd/alice alice 700" in places
    assert "/etc/p2psyncd/alice" in places
    verdict = machine.run(["systemd-analyze", "security", "--no-pager", "p2psyncd@alice.service"]).stdout
    assert exposure(verdict) <= 1.5, verdict


def test_the_user_unit_serves_its_user_and_stops_cleanly(machine: Machine, other: Device) -> None:
    uid = machine.run(["id", "-u", "alice"], check=True).stdout.strip()
    machine.run(["systemctl", "start", f"user@{uid}.service"], check=True)
    machine.run_as(
        "alice",
        ["sh", "-c", "mkdir -p ~/.local/bin && ln -s /opt/p2psyncd/bin/p2psyncd ~/.local/bin/p2psyncd"],
    )

    def systemctl(*arguments: str) -> str:
        done = machine.run_as("alice", ["systemctl", "--user", *arguments])
        log = machine.run(["journalctl", "--no-pager", "--output=cat", f"_UID={uid}"]).stdout
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{log}"
        return done.stdout

    watch_a_service_live(machine, other, systemctl, "p2psyncd.service")
    verdict = machine.run_as(
        "alice", ["systemd-analyze", "--user", "security", "--no-pager", "p2psyncd.service"]
    ).stdout
    assert exposure(verdict) <= 4.0, verdict


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    for manager, path in (
        ("--system", "/run/systemd/system/p2psyncd@.service"),
        ("--user", "/etc/systemd/user/p2psyncd.service"),
    ):
        done = machine.run(["env", "XDG_RUNTIME_DIR=/run", "systemd-analyze", manager, "verify", path])
        complaints = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            if "p2psyncd" in line and "not executable" not in line
        ]
        assert complaints == []


def test_a_daemon_that_hangs_is_killed_and_started_again(machine: Machine) -> None:
    unit = "p2psyncd@alice.service"
    machine.run(["systemctl", "start", unit], check=True)
    pid = machine.run(["systemctl", "show", "--property", "MainPID", "--value", unit]).stdout.strip()
    machine.run(["kill", "-STOP", pid], check=True)

    def restarted() -> bool:
        shown = machine.run(["systemctl", "show", "--property", "MainPID,ActiveState,NRestarts", unit]).stdout
        return "NRestarts=1" in shown and "ActiveState=active" in shown and f"MainPID={pid}" not in shown

    eventually("it runs again", restarted, within_s=60)
    ask(machine, "status")
