"""A daemon's home: its folders with the right modes, and the lock that keeps a second daemon out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2psyncd.control.places import Places
from p2psyncd.errors import HomeLocked, HomeUnusable

__all__ = ["open_home"]

PRIVATE = 0o700
LOCK_NAME = "lock"
PID_BYTES_MAX = 20


@contextmanager
def open_home(places: Places, pid: int) -> Iterator[Places]:
    """Make the folders, take the lock, and hold it inside the block.

    The kernel drops the lock with the process, however that ends; the file stays and means nothing by itself.

    Args:
        places: Where everything is.
        pid: This process, for whoever finds the home locked.

    Raises:
        HomeLocked: Another daemon holds it; the message names the process.
        HomeUnusable: A folder cannot be made or written, or belongs to someone else.
    """
    for folder in (places.state_dir, places.identity_dir, places.socket_path.parent):
        make_private(folder)
    lock = take_lock(places.state_dir / LOCK_NAME, pid)
    try:
        yield places
    finally:
        os.close(lock)


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, parents included; tighten one that is there."""
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise HomeUnusable(f"{folder} belongs to another user (uid {found.st_uid})")
        if found.st_mode & 0o077:
            folder.chmod(PRIVATE)
    except OSError as error:
        raise HomeUnusable(f"{error.filename or folder}: {error.strerror}") from error


def take_lock(file: Path, pid: int) -> int:
    """Return a descriptor that holds the lock."""
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HomeUnusable(f"{file}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{pid}\n".encode("ascii"), 0)
    except BlockingIOError as error:
        holder = name_holder(os.pread(lock, PID_BYTES_MAX, 0))
        os.close(lock)
        raise HomeLocked(f"{file.parent} is in use by {holder}") from error
    except OSError as error:
        os.close(lock)
        raise HomeUnusable(f"{file}: {error.strerror}") from error
    return lock


def name_holder(written: bytes) -> str:
    """Return the process that holds the lock, in words."""
    pid = written.decode("ascii", "replace").strip()
    if not pid.isdigit():
        return "another process"
    try:
        name = Path("/proc", pid, "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"
