"""A real systemd, booted on a host of the lab in namespaces of its own. Needs root.

/tmp, /var/tmp, /var/log and /run are fresh inside (at boot systemd-tmpfiles empties them: it must not be the real ones),
and so are /home, /opt and /var/lib; /etc is a copy; control groups are a hierarchy of its own. Folders that are
named are bound to a path inside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from p2plab.network import Host
from p2plab.waiting import eventually

__all__ = ["Machine", "why_no_machine"]

SYSTEMD = "/lib/systemd/systemd"
TARGET = "[Unit]\nRequires=basic.target dbus.socket\nAfter=basic.target\n"
BOOT = """
set -e
cd "$WORK"
i=0
for pair in $BIND; do mkdir -p "bind$i"; mount --bind "${pair%%=*}" "bind$i"; i=$((i + 1)); done
cp -a /etc etc; mount --bind etc /etc
for dir in /tmp /var/tmp; do mount -t tmpfs -o mode=1777 tmpfs "$dir"; done
for dir in /run /home /opt /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
i=0
for pair in $BIND; do mkdir -p "${pair#*=}"; mount --bind "bind$i" "${pair#*=}"; i=$((i + 1)); done
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd/system
cp -r units/. /run/systemd/system/
cd /
exec /lib/systemd/systemd --system --unit=lab.target --log-target=journal --show-status=no
"""


class Machine:
    """A booted systemd; `run` runs commands inside as root, `systemctl` among them."""

    def __init__(self, host: Host, work: Path, *, units: dict[str, str], binds: dict[Path, str]) -> None:
        """Boot.

        Args:
            host: Whose network it gets.
            work: An empty folder.
            units: Unit files by name, and drop-ins by "name.d/file".
            binds: Folders and the path inside at which they are seen, writable.
        """
        self.work = work
        for name, text in {"lab.target": TARGET, **units}.items():
            file = work / "units" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.log = (work / "boot.log").open("wb")
        namespaces = [
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount",
            "--mount-proc",
            "--cgroup",
            "--uts",
            "--ipc",
        ]
        self.outer = host.spawn(
            ["unshare", *namespaces, "sh", "-c", BOOT],
            env={
                **os.environ,
                "WORK": str(work),
                "BIND": " ".join(f"{source}={target}" for source, target in binds.items()),
            },
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        self.pid = 0
        try:
            self.pid = eventually("systemd is up", self.booted, within_s=60)
        except BaseException:
            self.close()
            raise

    def booted(self) -> int:
        """Return systemd's pid as seen from outside once it has reached its target, else 0."""
        if self.outer.poll() is not None:
            raise RuntimeError(f"systemd ended: {(self.work / 'boot.log').read_text()}")
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() != "systemd":
                continue
            self.pid = int(child)
            if self.run(["systemctl", "is-active", "--quiet", "lab.target"]).returncode == 0:
                return self.pid
        return 0

    def argv(self, command: list[str]) -> list[str]:
        """Return the command line that runs `command` inside."""
        return ["nsenter", "--target", str(self.pid), "--all", "--wd=/", "--", *command]

    def run(
        self,
        command: list[str],
        *,
        check: bool = False,
        timeout_s: float = 120.0,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end, as root; output captured as text."""
        return subprocess.run(
            self.argv(command),
            check=check,
            timeout=timeout_s,
            env=env,
            cwd=cwd,
            capture_output=True,
            text=True,
        )

    def run_as(self, user: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside as a user, with that user's runtime folder."""
        uid = self.run(["id", "-u", user]).stdout.strip()
        home = self.run(["sh", "-c", f"getent passwd {user} | cut -d: -f6"]).stdout.strip()
        environment = [
            f"HOME={home}",
            f"USER={user}",
            f"XDG_RUNTIME_DIR=/run/user/{uid}",
            f"PATH={os.environ['PATH']}",
        ]
        drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return self.run([*drop, "env", "-i", *environment, *command])

    def journal(self, unit: str) -> str:
        """Return what a unit logged."""
        return self.run(["journalctl", "--no-pager", "--output=cat", "--unit", unit]).stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the whole pid namespace."""
        self.outer.kill()
        self.outer.wait()
        self.log.close()


def why_no_machine() -> str | None:
    """Return why no systemd can be booted here and what to do about it; None where one can."""
    if os.geteuid() != 0:
        return "booting a systemd needs root: sudo ./test tests/systemd"
    missing = [
        package
        for path, package in ((SYSTEMD, "systemd"), ("/usr/bin/dbus-daemon", "dbus"))
        if not Path(path).exists()
    ]
    if missing:
        return f"apt-get install {' '.join(missing)}"
    return None if shutil.which("systemd-analyze") else "apt-get install systemd"
