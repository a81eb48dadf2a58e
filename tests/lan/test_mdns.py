"""What other programs see: the service in avahi's list."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from p2plab.device import Device
from p2plab.network import Host
from p2plab.waiting import eventually

pytestmark = [
    pytest.mark.lan,
    pytest.mark.skipif(
        not all(
            shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
            for name in ("avahi-daemon", "avahi-browse", "dbus-daemon")
        ),
        reason="apt-get install avahi-daemon avahi-utils dbus",
    ),
]

# A bus without a user to become: in a user namespace there is only one.
BUS = """<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/> <allow eavesdrop="true"/> <allow own="*"/>
  </policy>
</busconfig>
"""
# For the same reason avahi's own user has to be that one.
PRIVATE = """
mount -t tmpfs tmpfs /run
mkdir /run/dbus /run/avahi-daemon
for file in passwd group; do
  sed 's/^avahi:x:[0-9]*\\(:[0-9]*\\)\\?/avahi:x:0:0/' /etc/$file >/run/$file
  mount --bind /run/$file /etc/$file
done
"""


@pytest.fixture
def avahi(two: tuple[Device, Device], tmp_path: Path) -> Host:
    """A third host that runs avahi, on a /run of its own."""
    host = two[0].host.lab.host(5)
    bus = tmp_path / "bus.conf"
    bus.write_text(BUS)
    host.run(["sh", "-ec", PRIVATE], check=True)
    host.spawn(["dbus-daemon", f"--config-file={bus}", "--nofork", "--nopidfile"])
    eventually(
        "the bus is there", lambda: host.run(["test", "-S", "/run/dbus/system_bus_socket"]).returncode == 0
    )
    host.spawn(["avahi-daemon", "--no-chroot", "--no-drop-root", "--no-rlimits"])
    eventually("avahi is there", lambda: host.run(["avahi-daemon", "--check"]).returncode == 0)
    return host


def test_avahi_on_a_third_host_shows_both_devices(two: tuple[Device, Device], avahi: Host) -> None:
    a, b = two

    def seen() -> dict[str, str]:
        lines = avahi.run(["avahi-browse", "-rtp", "_p2psync._tcp"], timeout_s=30).stdout.splitlines()
        return {line.split(";")[7]: line for line in lines if line.startswith("=")}

    found = eventually(
        "both are listed",
        lambda: (got := seen()).keys() >= {a.host.ip, b.host.ip} and got,
        within_s=40,
        every_s=0.3,
    )
    for device in (a, b):
        line = found[device.host.ip]
        assert f'"id={device.device_id}"' in line
        assert f'"name={device.name}"' in line
        assert '"v=1"' in line
        assert ";22600;" in line
    b.stop()
    eventually("b said goodbye", lambda: b.host.ip not in seen(), within_s=40, every_s=0.3)
