"""Two real daemons on the loopback interface, one share between them, and the shim loaded into each."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, cast

from p2plab.device import Device, UnixConnection
from p2plab.installed import Installed
from p2plab.network import Host
from p2plab.waiting import eventually

from crashrig.shim import Control

__all__ = ["SHARE", "CrashDevice", "Loopback", "Pair"]

SHARE = "s"
WITHIN_S = 40.0


class Loopback:
    """This machine, as a host of the lab: a device needs no more of it."""

    ip = "127.0.0.1"

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command that ends with this process at the latest."""
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], **options)

    def run(
        self,
        command: list[str],
        *,
        check: bool = False,
        timeout_s: float = 120.0,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            command, check=check, timeout=timeout_s, env=env, cwd=cwd, capture_output=True, text=True
        )


def free_port() -> int:
    """Return a port that is free now; the daemon keeps it over its lives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class CrashDevice(Device):
    """A device with the shim in it, one share, and room beside the share for what the user prepares."""

    def __init__(
        self,
        folder: Path,
        installed: Installed,
        shim: Path | None,
        log_folder: Path,
        *,
        database: str = "",
    ) -> None:
        """Describe a device; nothing runs yet.

        Args:
            folder: Gets its home, the share and the user's room: one file system.
            installed: The programs.
            shim: Library to load into the daemon; None: none.
            log_folder: Where the log and the shim's control file go; not on a disk that is cut.
            database: Name of the database that is shared; empty: the folder is.
        """
        options = ["--no-mdns", "--listen", f"127.0.0.1:{free_port()}", "--log-level", "info"]
        super().__init__(cast("Host", Loopback()), folder, installed, *options)
        self.root = folder / SHARE
        self.database = self.root / database if database else None
        self.room = folder / "room"
        self.log_path = log_folder / f"{self.name}.log"
        self.shim = shim
        self.control = Control(log_folder / f"{self.name}.control")
        for made in (self.root, self.room):
            made.mkdir(exist_ok=True)

    def environ(self, *, covered: bool = False) -> dict[str, str]:
        """Return the environment; of the daemon, with the shim."""
        found = super().environ(covered=covered)
        if covered and self.shim is not None:
            found |= {
                "LD_PRELOAD": str(self.shim),
                "CRASH_CONTROL": str(self.control.path),
                "CRASH_SHARE": str(self.root),
                "CRASH_STATE": str(self.home / "state"),
            }
            if self.database is not None:
                found["CRASH_DATABASE"] = str(self.database)
        return found

    @property
    def shared(self) -> Path:
        """What is shared: the folder, or the database in it."""
        return self.database or self.root

    @property
    def runs(self) -> bool:
        """Whether the daemon lives."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """Kill -9, if it lives."""
        if self.process is not None:
            super().kill()

    def post(self, path: str, body: dict[str, Any], timeout_s: float = 60.0) -> Any:
        """POST to the control API and return what it says; fails unless it is done."""
        connection = UnixConnection(self.socket_path, timeout_s)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, f"{self.name}: {path}: {text!r}"
        return json.loads(text)

    def detect(self) -> None:
        """Have it record every change that was made before."""
        self.post("/v1/shares/rescan", {"name": SHARE})

    def settled_with(self, other: CrashDevice) -> bool:
        """Return whether this device needs nothing and the other one's root is the same."""
        ours, theirs = self.share(SHARE), other.share(SHARE)
        return bool(
            ours
            and theirs
            and ours["root"] == theirs["root"]
            and not ours["need_items"]
            and any(peer["name"] == other.name and peer["in_sync"] for peer in ours["peers"])
        )

    def verified(self, *, by_client: bool) -> list[str]:
        """Return what `p2psync verify` finds wrong, or the call behind it (a client process takes a while)."""
        if by_client:
            result = self.cli("verify", "--json")
            return [] if result.code == 0 else [f"verify: exit {result.code} {result.out} {result.err}"]
        return [f"verify: {problem}" for problem in self.post("/v1/verify", {})["problems"]]


class Pair:
    """Two devices that share one folder or database."""

    def __init__(self, a: CrashDevice, b: CrashDevice) -> None:
        self.a = a
        self.b = b

    @property
    def both(self) -> tuple[CrashDevice, CrashDevice]:
        """The devices."""
        return self.a, self.b

    def introduce(self) -> None:
        """Start both, pair them, and share."""
        for device in self.both:
            device.start()
        showing, code = self.a.show_code()
        self.b.cli("pair", code, "--at", self.a.address).ok()
        assert showing.wait(30) == 0
        showing.communicate()
        self.a.cli("share", "add", str(self.a.shared), "--name", SHARE).ok()
        self.b.accept(SHARE, self.b.shared)
        self.settle()

    def start(self) -> None:
        """Start whichever does not live, and wait until it answers."""
        dead = [device for device in self.both if not device.runs]
        for device in dead:
            device.launch()
        for device in dead:
            eventually(f"{device.name} answers", device.answers)

    def settle(self, within_s: float = WITHIN_S) -> None:
        """Wait until both hold the same and have detected everything that was done before.

        Raises:
            TimeoutError: They do not get there.
        """
        self.start()
        for device in self.both:
            eventually(f"{device.name} has opened its share", lambda device=device: device.share(SHARE))
            device.detect()
        eventually(
            "both hold the same",
            lambda: self.a.settled_with(self.b) and self.b.settled_with(self.a),
            within_s=within_s,
            every_s=0.02,
        )

    def close(self) -> None:
        """End both."""
        for device in self.both:
            device.kill()
            device.control.close()


def installed_here(venv: Path) -> Installed | None:
    """Return the programs of an environment that holds this checkout; None if it has none."""
    found = Installed(venv=venv, coverage_config=os.environ.get("P2PSYNC_LAB_COVERAGE", ""))
    return found if shutil.which(found.daemon) else None
