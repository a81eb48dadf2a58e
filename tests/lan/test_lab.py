"""The laboratory itself: what the other LAN tests rely on."""

from __future__ import annotations

import sys

import pytest
from p2plab.installed import Installed
from p2plab.network import Lab

pytestmark = pytest.mark.lan

ANSWER = """
import socket
server = socket.create_server(("", 7), family=socket.AF_INET6, dualstack_ipv6=True)
print("up", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7), timeout=2) as connection:
    assert connection.recv(5) == b"hello"
"""


def test_hosts_reach_each_other_over_both_families_until_the_cable_is_pulled(lab: Lab) -> None:
    a, b = lab.host(0), lab.host(1)
    server = b.spawn([sys.executable, "-c", ANSWER], stdout=-1)
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"

    def reaches(address: str) -> bool:
        return a.run([sys.executable, "-c", ASK, address]).returncode == 0

    assert reaches(b.ip)
    assert reaches(b.ip6)
    b.cut()
    assert not reaches(b.ip)
    b.join()
    assert reaches(b.ip)


def test_nothing_but_the_lan_can_be_reached(lab: Lab) -> None:
    routes = lab.host(0).run(["ip", "route"]).stdout
    assert "default" not in routes
    assert "10.77.0.0/24" in routes


def test_the_wheel_holds_both_programs(installed: Installed, lab: Lab) -> None:
    host = lab.host(0)
    assert host.run([installed.daemon, "--version"]).stdout.startswith("p2psyncd ")
    assert host.run([installed.client, "--version"]).stdout.startswith("p2psync ")
