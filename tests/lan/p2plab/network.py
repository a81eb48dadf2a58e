"""A LAN in a box: one namespace with a bridge, one namespace for each host.

A namespace lives as long as its holder, a process that reads from a pipe of ours: when this
process goes, however it goes, the pipes close, the holders end, and the kernel takes the rest down.
As root the namespaces are made directly; a normal user gets a user namespace around them all.
Hosts have IPv4 and IPv6 addresses on one link, multicast, no default route, and a mount table of
their own. They see the same files otherwise, so paths mean the same on every host.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from p2plab.waiting import eventually

__all__ = ["Counters", "Host", "Lab", "why_no_lab"]

HOSTS_MAX = 200
BRIDGE_UP = "ip link set lo up && ip link add br0 type bridge && ip link set br0 up"
# No duplicate-address detection: it would hold IPv6 back for two seconds on a link of our own.
HOST_UP = """
for key in default/accept_dad eth0/accept_dad default/dad_transmits eth0/dad_transmits; do
  echo 0 >/proc/sys/net/ipv6/conf/$key 2>/dev/null || true
done
ip link set lo up
ip address add {ip4}/24 broadcast + dev eth0
ip -6 address add {ip6}/64 dev eth0 nodad
ip link set eth0 up
ip route add 224.0.0.0/4 dev eth0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a host's interface sent and received so far."""

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            sent_bytes=self.sent_bytes - earlier.sent_bytes,
            received_bytes=self.received_bytes - earlier.received_bytes,
            sent_packets=self.sent_packets - earlier.sent_packets,
            received_packets=self.received_packets - earlier.received_packets,
        )

    @property
    def both_ways_bytes(self) -> int:
        """Bytes on this host's wire."""
        return self.sent_bytes + self.received_bytes


class Namespace:
    """A network and mount namespace (and a user namespace, where one is needed), kept by a holder."""

    def __init__(self, outside: list[str], *, own_user: bool) -> None:
        user = ["--user", "--map-root-user"] if own_user else []
        # cat ends when our end of the pipe closes.
        self.holder = subprocess.Popen(
            [
                *outside,
                "unshare",
                *user,
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                "echo up; exec cat",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != "up\n":
            self.close()
            raise RuntimeError("the namespaces cannot be made")

    def prefix(self, *, in_user_namespace: bool) -> list[str]:
        """Return what goes before a command line to run it inside; it execs, so the pid is the command's."""
        user = ["--user", "--preserve-credentials"] if in_user_namespace else []
        return ["nsenter", "--target", str(self.holder.pid), *user, "--net", "--mount", "--wd=.", "--"]

    def close(self) -> None:
        """Let the holder end."""
        assert self.holder.stdin is not None
        assert self.holder.stdout is not None
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


class Host:
    """One machine on the LAN."""

    def __init__(self, lab: Lab, number: int, namespace: Namespace) -> None:
        self.lab = lab
        self.number = number
        self.namespace = namespace
        self.ip = f"10.77.0.{10 + number}"
        self.ip6 = f"fd77::{10 + number}"
        self.port = f"p{number}"
        self.spawned: list[subprocess.Popen[bytes]] = []

    def argv(self, command: list[str]) -> list[str]:
        """Return the command line that runs `command` on this host."""
        return [*self.namespace.prefix(in_user_namespace=self.lab.own_user), *command]

    def run(
        self,
        command: list[str],
        *,
        check: bool = False,
        timeout_s: float = 120.0,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output is captured as text, failure is the caller's to judge."""
        return subprocess.run(
            self.argv(command),
            check=check,
            timeout=timeout_s,
            env=env,
            cwd=cwd,
            capture_output=True,
            text=True,
        )

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command that ends with the lab at the latest, or with this process."""
        process = subprocess.Popen(self.argv(["setpriv", "--pdeathsig", "KILL", "--", *command]), **options)
        self.spawned.append(process)
        return process

    def counters(self) -> Counters:
        """Return the interface's counters.

        The link merges segments, so bytes carry fewer TCP/IP headers than on a real wire (3-5 %).
        """
        shown = self.run(["ip", "-s", "-j", "link", "show", "eth0"], check=True).stdout
        stats = json.loads(shown)[0]["stats64"]
        return Counters(
            sent_bytes=stats["tx"]["bytes"],
            received_bytes=stats["rx"]["bytes"],
            sent_packets=stats["tx"]["packets"],
            received_packets=stats["rx"]["packets"],
        )

    def cut(self) -> None:
        """Pull the cable."""
        self.lab.in_switch(["ip", "link", "set", self.port, "down"])

    def join(self) -> None:
        """Plug it in again."""
        self.lab.in_switch(["ip", "link", "set", self.port, "up"])

    def close(self) -> None:
        """End what was started here, by its pid, and take the host down."""
        for process in self.spawned:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self.namespace.close()


class Lab:
    """A switch, and hosts on demand: `lab.host(0)`, `lab.host(1)`, …"""

    def __init__(self) -> None:
        self.own_user = os.geteuid() != 0
        self.hosts: dict[int, Host] = {}
        self.switch = Namespace([], own_user=self.own_user)
        try:
            self.in_switch(["sh", "-ec", BRIDGE_UP])
        except BaseException:
            self.switch.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def in_switch(self, command: list[str]) -> None:
        """Run a command in the switch's namespace."""
        prefix = self.switch.prefix(in_user_namespace=self.own_user)
        subprocess.run([*prefix, *command], check=True, capture_output=True, text=True)

    def host(self, number: int) -> Host:
        """Return a host; it is made and connected when first asked for."""
        if number in self.hosts:
            return self.hosts[number]
        assert 0 <= number < HOSTS_MAX
        namespace = Namespace(self.switch.prefix(in_user_namespace=self.own_user), own_user=False)
        host = Host(self, number, namespace)
        self.hosts[number] = host
        pid = str(namespace.holder.pid)
        self.in_switch(
            ["ip", "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", pid],
        )
        self.in_switch(["ip", "link", "set", host.port, "master", "br0", "up"])
        host.run(["sh", "-ec", HOST_UP.format(ip4=host.ip, ip6=host.ip6)], check=True)
        eventually(
            f"carrier on host {number}", lambda: "LOWER_UP" in host.run(["ip", "link", "show", "eth0"]).stdout
        )
        return host

    def close(self) -> None:
        """Take everything down; also what tests left running."""
        for host in self.hosts.values():
            host.close()
        self.hosts.clear()
        self.switch.close()


def why_no_lab() -> str | None:
    """Return why a lab cannot be made here and what to do about it; None where it can."""
    packages = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}
    missing = sorted({package for program, package in packages.items() if shutil.which(program) is None})
    if missing:
        return f"apt-get install {' '.join(missing)}"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    tried = subprocess.run(
        ["unshare", *user, "--net", "--mount", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        return f"network namespaces are not allowed here ({tried.stderr.strip()}); run as root"
    # A user namespace on a hardened kernel may be made and be worth nothing.
    usable = subprocess.run(
        ["unshare", *user, "--net", "--mount", "ip", "link", "add", "br0", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if usable.returncode != 0:
        return f"no bridge can be made in a network namespace here ({usable.stderr.strip()}); run as root"
    return None if Path("/proc/self/ns/net").exists() else "the kernel has no network namespaces"
