"""What can be checked about this machine from outside the daemon, without root and without changing a thing."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from p2psync.session import user_name
from p2psyncd.control.messages import Check, CheckResult
from p2psyncd.control.places import Places

__all__ = ["outside_checks"]

DEFAULT_PORT = 22600
# A watch is needed for each folder; the kernel's old default is 8192.
WATCHES_MIN = 65_536
INSTANCES_MIN = 128
# As in the folder source: below this, fetching stops.
FREE_BYTES_MIN = 256 * 1024 * 1024
FREE_PERCENT_MIN = 1
# This program did not exist before; an older date is a machine without a clock.
EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
IFF_UP, IFF_LOOPBACK, IFF_MULTICAST = 0x1, 0x8, 0x1000
SYSTEMCTL_S_MAX = 3
PRIVATE_MASK = 0o077


def check(name: str, ok: CheckResult, message: str, advice: str = "") -> Check:
    """Return one result."""
    return {"name": name, "ok": ok, "message": message, "advice": advice}


def outside_checks(places: Places, *, running: bool, root: Path = Path("/")) -> list[Check]:
    """Return the results of all checks.

    Args:
        places: Of the daemon in question.
        running: Whether it runs: then the port and the socket are in use by right.
        root: Where /proc and /sys are.
    """
    checks: list[Callable[[], Check]] = [
        lambda: socket_check(places, running=running),
        lambda: folders_check(places),
        lambda: identity_check(places),
        lambda: disk_check(places),
        lambda: inotify_check(root),
        lambda: clock_check(datetime.now(UTC), root),
        lambda: multicast_check(root),
        lambda: port_check(DEFAULT_PORT, running=running),
        units_check,
    ]
    return [one() for one in checks]


def socket_check(places: Places, *, running: bool) -> Check:
    """Check that the control socket is private, and not a left-over."""
    path = places.socket_path
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return check("control socket", "ok", f"{path} (made when the daemon starts)")
    except OSError as error:
        return check("control socket", "fail", f"{path}: {error.strerror}", "Give it to this user.")
    if mode & PRIVATE_MASK:
        return check("control socket", "fail", f"others may open {path}", f"chmod 600 {path}")
    if not running:
        return check("control socket", "ok", f"{path} was left behind; the next daemon replaces it")
    return check("control socket", "ok", f"{path}, private")


def folders_check(places: Places) -> Check:
    """Check that the daemon's folders can be written."""
    for folder in (places.state_dir, places.identity_dir, places.socket_path.parent):
        there = next(one for one in (folder, *folder.parents) if one.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            return check(
                "folders", "fail", f"{there} is not writable", "Give it to this user, or use --home."
            )
    return check("folders", "ok", f"{places.state_dir} is writable")


def identity_check(places: Places) -> Check:
    """Check that nobody else can read the device's key."""
    try:
        mode = places.identity_dir.stat().st_mode
    except OSError:
        return check("identity", "ok", "none yet; made when the daemon first starts")
    if mode & PRIVATE_MASK:
        advice = f"chmod 700 {places.identity_dir}"
        return check("identity", "fail", f"others may enter {places.identity_dir}", advice)
    return check("identity", "ok", "private")


def disk_check(places: Places) -> Check:
    """Check that the disk of the state has room."""
    there = next(one for one in (places.state_dir, *places.state_dir.parents) if one.exists())
    usage = shutil.disk_usage(there)
    percent = usage.free * 100 / usage.total if usage.total else 0
    message = f"{usage.free // 1024 // 1024:,} MiB free at {there}"
    if usage.free < FREE_BYTES_MIN or percent < FREE_PERCENT_MIN:
        return check("disk of the state", "fail", message, "Make room: fetching stops below 256 MiB or 1 %.")
    return check("disk of the state", "ok", message)


def inotify_check(root: Path) -> Check:
    """Check that the kernel lets us watch many folders."""
    folder = root / "proc/sys/fs/inotify"
    try:
        watches = int((folder / "max_user_watches").read_text(encoding="ascii"))
        instances = int((folder / "max_user_instances").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return check("inotify", "warn", "its limits cannot be read", "Changes may be found by scans only.")
    message = f"{watches:,} folders can be watched, by {instances:,} watchers"
    if watches < WATCHES_MIN or instances < INSTANCES_MIN:
        advice = (
            f"sudo sysctl fs.inotify.max_user_watches={max(watches, 8 * WATCHES_MIN)} "
            f"fs.inotify.max_user_instances={max(instances, INSTANCES_MIN)} "
            "(larger trees are scanned now and then instead)"
        )
        return check("inotify", "warn", message, advice)
    return check("inotify", "ok", message)


def clock_check(now: datetime, root: Path) -> Check:
    """Check that the clock is set; it decides which of two concurrent edits keeps the name."""
    if now < EPOCH:
        return check("clock", "fail", f"it is {now:%Y-%m-%d} here", "Set it: timedatectl set-ntp true")
    if (root / "run/systemd/timesync").is_dir() and not (root / "run/systemd/timesync/synchronized").exists():
        return check("clock", "warn", "not yet set from the network", "timedatectl status")
    return check("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def multicast_check(root: Path) -> Check:
    """Check that there is an interface on which devices can find each other."""
    usable = []
    for flags_file in sorted((root / "sys/class/net").glob("*/flags")):
        try:
            flags = int(flags_file.read_text(encoding="ascii"), 16)
        except (OSError, ValueError):
            continue
        if flags & IFF_UP and flags & IFF_MULTICAST and not flags & IFF_LOOPBACK:
            usable.append(flags_file.parent.name)
    if not usable:
        advice = "Connect to a network, or pair with `p2psync pair CODE --at HOST:PORT`."
        return check("multicast", "warn", "no interface can do multicast", advice)
    return check("multicast", "ok", f"possible on {', '.join(usable)}")


def port_check(port: int, *, running: bool) -> Check:
    """Check that the default port is free."""
    name = "port"
    if running:
        return check(name, "ok", "the daemon listens")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104  # as the daemon does; nothing is ever accepted here
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                advice = "Stop the other program, or use `--listen HOST:PORT`."
                return check(name, "warn", f"{port} is taken by another program", advice)
            return check(name, "warn", f"{port}: {error.strerror}", "Use `--listen HOST:PORT`.")
    return check(name, "ok", f"{port} is free")


def units_check() -> Check:
    """Check whether systemd starts the daemon by itself."""
    name = "service"
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return check(name, "ok", "no systemd here; `p2psync up` runs the daemon in a terminal")
    states = {
        "--user": unit_state(systemctl, "--user", "p2psyncd.service"),
        "--system": unit_state(systemctl, "--system", f"p2psyncd@{user_name()}.service"),
    }
    if "enabled" in states.values():
        return check(name, "ok", "started by systemd")
    if "disabled" in states.values():
        return check(
            name, "ok", "installed; systemctl --user enable --now p2psyncd starts it with each login"
        )
    if all(state is None for state in states.values()):
        return check(name, "ok", "systemd does not answer here; `p2psync up` runs the daemon in a terminal")
    return check(name, "ok", "no unit installed; README.md says how, if it should run by itself")


def unit_state(systemctl: str, manager: str, unit: str) -> str | None:
    """Return what `systemctl is-enabled` says; None if there is no such manager."""
    try:
        done = subprocess.run(  # noqa: S603  # a program found in PATH, fixed arguments
            [systemctl, manager, "is-enabled", unit],
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_S_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    state = done.stdout.strip()
    return state or ("not-found" if "No such file" in done.stderr else None)
