"""A device of the lab: a daemon with a home of its own on a host, and the client to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2plab.installed import Installed
from p2plab.network import Host
from p2plab.waiting import eventually

__all__ = ["Device", "Result", "UnixConnection", "pair", "start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a client command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)

    def ok(self) -> Result:
        """Return self, or fail with what the command said."""
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return self


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        super().__init__("p2psyncd", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Device:
    """One daemon's life: start, stop, kill, start again, on the same home."""

    def __init__(self, host: Host, folder: Path, installed: Installed, *options: str) -> None:
        """Describe a device; nothing runs yet.

        Args:
            host: Where it runs.
            folder: Gets its home, its log and its shares; the path must be short (Unix sockets: 107 bytes).
            installed: The programs.
            options: Of the daemon, beside its name.
        """
        self.host = host
        self.name = folder.name
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.installed = installed
        self.options = list(options)
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = folder / "log"

    # The daemon
    def environ(self, *, covered: bool = False) -> dict[str, str]:
        """Return the environment of both programs."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COV_", "COVERAGE", "P2PSYNC", "XDG_"))
        }
        kept |= {
            "P2PSYNC_HOME": str(self.home),
            "HOME": str(self.folder),
            "NO_COLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        if covered and self.installed.coverage_config:
            kept["COVERAGE_PROCESS_START"] = self.installed.coverage_config
            kept["COVERAGE_FILE"] = str(Path(self.installed.coverage_config).parent / ".coverage")
        return kept

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the daemon without waiting for it."""
        with self.log_path.open("ab") as log:
            self.process = self.host.spawn(
                [self.installed.daemon, "--name", self.name, *self.options],
                env=self.environ(covered=True),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        return self.process

    def start(self) -> Device:
        """Start the daemon and wait until it answers."""
        start(self)
        return self

    def answers(self) -> bool:
        """Return whether the control socket answers; fails if the daemon ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log()}")
        try:
            self.get("/v1/status")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def stop(self, *, within_s: float = 20.0) -> int:
        """Ask the daemon to stop (SIGTERM) and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(within_s)
        self.process = None
        return code

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def log(self) -> str:
        """Return what the daemon wrote to stderr so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # Talking to it
    @property
    def socket_path(self) -> Path:
        """The control socket."""
        return self.home / "run" / "control.sock"

    def get(self, path: str) -> Any:
        """GET a JSON document from the control API (a client process costs 0.2 s; polling goes this way)."""
        return json.loads(self.get_text(path))

    def get_text(self, path: str) -> str:
        """GET from the control API."""
        connection = UnixConnection(self.socket_path)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, body
        return body.decode()

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels; 0 where there is none."""
        lines = self.get_text("/v1/metrics").splitlines()
        found = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return sum(float(value) for left, value in found if left.partition("{")[0] == f"p2psync_{name}")

    def message_bytes(self) -> int:
        """Return the bytes of messages on the connections that are up, both ways, after the TLS handshake."""
        return int(self.metric("message_bytes_sent_total") + self.metric("message_bytes_received_total"))

    def cli(self, *arguments: str, timeout_s: float = 120.0) -> Result:
        """Run the client to its end, on this host."""
        done = self.host.run(
            [self.installed.client, *arguments], env=self.environ(), cwd=self.folder, timeout_s=timeout_s
        )
        return Result(code=done.returncode, out=done.stdout, err=done.stderr)

    def spawn_cli(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the client with pipes."""
        return self.host.spawn(
            [self.installed.client, *arguments],
            env=self.environ(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    # What it says
    def status(self) -> Any:
        """Return `status --json`."""
        return self.get("/v1/status")

    @property
    def device_id(self) -> str:
        """This device's ID."""
        return str(self.status()["device"]["id"])

    @property
    def address(self) -> str:
        """IPv4 address and port on the LAN."""
        ports = {entry.rsplit(":", 1)[1] for entry in self.status()["device"]["listen"]}
        return f"{self.host.ip}:{min(ports)}"

    def peer(self, name: str) -> Any:
        """Return the status of a paired device, or None."""
        return next((peer for peer in self.status()["peers"] if peer["name"] == name), None)

    def connected_to(self, other: Device) -> bool:
        """Return whether a session with the other device is up."""
        peer = self.peer(other.name)
        return bool(peer and peer["connected"])

    def share(self, name: str) -> Any:
        """Return the status of a share, or None."""
        return next((share for share in self.status()["shares"] if share["name"] == name), None)

    def root(self, name: str) -> str:
        """Return a share's Merkle root."""
        return str(self.share(name)["root"])

    # Common steps
    def show_code(self, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        """Start `p2psync pair` and return it with the code it shows."""
        showing = self.spawn_cli("pair", *arguments)
        assert showing.stdout is not None
        code = showing.stdout.readline().decode().strip()
        if not code:
            _, err = showing.communicate(timeout=10)
            raise RuntimeError(f"no code was shown: {err.decode()}")
        return showing, code

    def share_folder(self, path: Path, name: str, *others: Device) -> None:
        """Share a folder; the others accept it into `folder/NAME`."""
        self.cli("share", "add", str(path), "--name", name).ok()
        for other in others:
            other.accept(name, other.folder / name)

    def accept(self, name: str, path: Path, *arguments: str) -> None:
        """Wait for an offer and accept it."""
        eventually(
            f"{self.name} sees the offer {name}",
            lambda: any(offer["name"] == name for offer in self.get("/v1/shares/offers")),
        )
        self.cli("share", "accept", name, str(path), *arguments).ok()

    def wait(self, *arguments: str, within_s: float = 60.0) -> None:
        """`p2psync wait`, which must succeed."""
        result = self.cli("wait", *arguments, "--timeout", str(within_s), timeout_s=within_s + 30)
        assert result.code == 0, f"{self.name}: wait: exit {result.code}\n{result.err}"


def pair(shows: Device, joins: Device, *arguments: str) -> None:
    """Pair two running devices by a code and wait until both are connected."""
    showing, code = shows.show_code()
    joins.cli("pair", code, *arguments).ok()
    assert showing.wait(30) == 0
    eventually(
        f"{shows.name} and {joins.name} are connected",
        lambda: shows.connected_to(joins) and joins.connected_to(shows),
    )


def start(*devices: Device) -> None:
    """Start daemons side by side and wait until all answer."""
    for device in devices:
        device.launch()
    for device in devices:
        eventually(f"{device.name} answers", device.answers)
