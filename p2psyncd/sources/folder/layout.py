"""What lies where in a shared folder, and which keys name a path inside it.

A key is a path as bytes, relative to the root, `/` between components: what a peer sends is one
only after `check_key`.
"""

from __future__ import annotations

from p2psyncd.errors import PathUnsafe

__all__ = [
    "HISTORY",
    "IGNORE_FILE",
    "KEY_BYTES_MAX",
    "MARKER",
    "META",
    "NAME_BYTES_MAX",
    "STAGING",
    "ancestors",
    "check_key",
    "is_below",
    "is_own",
    "split_key",
]

META = b".p2psync"
MARKER = META + b"/share"
STAGING = META + b"/staging"
HISTORY = META + b"/history"
IGNORE_FILE = b".p2psyncignore"

# Linux: NAME_MAX, and PATH_MAX less the terminating NUL.
NAME_BYTES_MAX = 255
KEY_BYTES_MAX = 4095

NOT_NAMES = frozenset({b"", b".", b".."})


def is_own(name: bytes) -> bool:
    """Return whether a name at the root is this program's own folder.

    Whatever its case: on a case-insensitive file system a peer's `.P2PSYNC/share` would be the marker.
    """
    return name.lower() == META


def check_key(key: bytes) -> None:
    """Check a key that came from a peer.

    Raises:
        PathUnsafe: It is no relative path of plain names, or leads into this program's own folder.
    """
    names = key.split(b"/")
    if (
        not NOT_NAMES.isdisjoint(names)
        or b"\0" in key
        or len(key) > KEY_BYTES_MAX
        or max(map(len, names)) > NAME_BYTES_MAX
        or is_own(names[0])
    ):
        raise PathUnsafe(f"{key[:KEY_BYTES_MAX]!r} is no path inside a share")


def split_key(key: bytes) -> tuple[bytes, bytes]:
    """Return (directory, name); the root's own key is b""."""
    directory, _, name = key.rpartition(b"/")
    return directory, name


def ancestors(key: bytes) -> list[bytes]:
    """Return the directories above a key, nearest first, without the root."""
    found = []
    directory = key.rpartition(b"/")[0]
    while directory:
        found.append(directory)
        directory = directory.rpartition(b"/")[0]
    return found


def is_below(key: bytes, directory: bytes) -> bool:
    """Return whether `key` is `directory` or lies under it; everything lies under b""."""
    return not directory or key == directory or key.startswith(directory + b"/")
