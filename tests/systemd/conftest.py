"""A booted machine with a user, the wheel in /opt/p2psyncd, and both units where a package would put them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from p2plab.device import Device
from p2plab.installed import ROOT, Installed
from p2plab.machine import Machine
from p2plab.network import Lab

PYTHON = "/run/p2plab/python"
PROGRAMS = "/run/p2plab/venv"
# The environment moves to another path, and its interpreter with it: what lies below a home is out of reach.
INSTALL = r"""
cp -a {programs} /opt/p2psyncd
ln -sf {python} /opt/p2psyncd/bin/python
sed -i "1s|^#!.*|#!/opt/p2psyncd/bin/python|" /opt/p2psyncd/bin/p2psyncd /opt/p2psyncd/bin/p2psync
sed -i "s|^home = .*|home = {home}|" /opt/p2psyncd/pyvenv.cfg
if [ -d {libraries} ]; then echo {libraries} >/etc/ld.so.conf.d/p2plab.conf; ldconfig; fi
useradd --create-home --shell /bin/sh alice
"""
# Half of the watchdog's time is how often the daemon says that it is alive; and how it ended is to be in the journal.
DROP_IN = """[Service]
WatchdogSec=4
ExecStopPost=/bin/sh -c 'echo "ended: $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS"'
"""


@pytest.fixture
def machine(lab: Lab, installed: Installed, tmp_path: Path) -> Iterator[Machine]:
    """The booted machine, on the lab's host 0."""
    units = {file.name: file.read_text() for file in (ROOT / "systemd").iterdir()}
    system = {"p2psyncd@.service": units["p2psyncd@.service"], "p2psyncd@.service.d/lab.conf": DROP_IN}
    own_python = sys.base_prefix != "/usr"
    binds = {installed.venv: PROGRAMS} | ({Path(sys.base_prefix): PYTHON} if own_python else {})
    prefix = PYTHON if own_python else "/usr"
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with Machine(lab.host(0), tmp_path, units=system, binds=binds) as booted:
        script = INSTALL.format(
            programs=PROGRAMS,
            python=f"{prefix}/bin/{name}",
            home=f"{prefix}/bin",
            libraries=f"{PYTHON}/lib",
        )
        booted.run(["sh", "-ec", script], check=True)
        user = "/etc/systemd/user"
        booted.run(["mkdir", "-p", f"{user}/p2psyncd.service.d"], check=True)
        for path, text in (
            ("p2psyncd.service", units["p2psyncd.service"]),
            ("p2psyncd.service.d/lab.conf", DROP_IN),
        ):
            booted.run(["sh", "-ec", 'printf %s "$1" >"$2"', "sh", text, f"{user}/{path}"], check=True)
        yield booted


@pytest.fixture
def other(lab: Lab, installed: Installed, short_folder: Path) -> Iterator[Device]:
    """A device on another host, started plainly."""
    device = Device(lab.host(1), short_folder / "other", installed)
    device.start()
    yield device
    if device.process is not None and device.process.poll() is None:
        device.stop()
