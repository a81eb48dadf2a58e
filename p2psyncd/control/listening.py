"""The socket the daemon listens on for its own user: private, and never taken from a daemon that lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2psyncd.control.endpoint import short_address
from p2psyncd.errors import HomeLocked, HomeUnusable, P2psyncError

__all__ = ["listening_socket"]

BACKLOG = 64


@contextmanager
def listening_socket(path: Path) -> Iterator[socket.socket]:
    """Listen at `path`, and clean up afterwards what is still ours by then.

    Raises:
        HomeLocked: Another daemon answers there.
        HomeUnusable: The socket cannot be made.
    """
    with open_socket(path) as listening:
        made = identity(path)
        try:
            yield listening
        finally:
            if identity(path) == made:
                path.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells this file from a later one of the same name; None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_socket(path: Path) -> socket.socket:
    """Return a listening socket at `path`, mode 0600; takes the place of one that nobody answers.

    Raises:
        HomeLocked: Somebody does answer.
        HomeUnusable: The folder or what is at `path` does not allow it.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_address(path) as address:
            remove_stale(path, address)
            listening.bind(address)
            Path(address).chmod(0o600)
        # Nobody can connect before this line, so nobody was let in by a wider mode.
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise HomeUnusable(f"{path}: {error.strerror or error}") from error
    except P2psyncError:
        listening.close()
        raise
    return listening


def remove_stale(path: Path, address: str) -> None:
    """Remove a socket that a daemon left behind.

    Raises:
        HomeLocked: A daemon answers on it.
        HomeUnusable: It is not a socket.
    """
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise HomeUnusable(f"{path} is in the way and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            # Its backlog is full: busy, but alive.
            pass
    raise HomeLocked(f"a daemon answers on {path}")
