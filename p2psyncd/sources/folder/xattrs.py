"""Extended attributes of the user's name space (`user.*`): read, set, and told apart from those that a file system refuses.

A file system may take none of them (ENOTSUP), or only little ones (ext4 has one block for all of a file).
What it refuses is missing on the disk and yet nobody removed it, so a scan asks: would a new file here take
what is missing? If not, the recorded values go on being this device's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress

from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.layout import STAGING

__all__ = [
    "NAMESPACE",
    "NAME_BYTES_MAX",
    "XATTRS_BYTES_MAX",
    "Capacity",
    "Xattrs",
    "bounded",
    "path_beneath",
    "put_xattrs",
    "read_xattrs",
]

Xattrs = tuple[tuple[bytes, bytes], ...]
"""Names with their name space and values, sorted by name."""

NAMESPACE = b"user."
NAME_BYTES_MAX = 255
"""Linux' own limit (XATTR_NAME_MAX)."""
XATTRS_BYTES_MAX = 64 * 1024
"""All names and values of one item; the value's own limit on Linux, and half of what an item's metadata may be."""
# What other attributes (access lists, labels) may take of the same room in a file, and not in a new one.
ROOM_BYTES = 1024
ROOM = "user.p2psync.room"
NONE_HERE = {errno.EOPNOTSUPP, errno.ENOSYS}
"""The file system has no such attributes."""
REFUSALS = {*NONE_HERE, errno.EPERM, errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL}
"""It does not take this one; the item is put in place without."""


def path_beneath(directory: int, name: bytes) -> bytes:
    """Return a path to a name in an opened directory: the calls for attributes take no such descriptor."""
    return b"/proc/self/fd/%d/%s" % (directory, name)


def bounded(xattrs: Xattrs) -> Xattrs:
    """Return what may be part of an item: in the order of names, what still fits."""
    left = XATTRS_BYTES_MAX
    kept = []
    for name, value in xattrs:
        size = len(name) + len(value)
        if size <= left:
            left -= size
            kept.append((name, value))
    return tuple(kept)


def read_xattrs(target: int | bytes, *, follow: bool = True) -> Xattrs:
    """Return all user attributes of a file or directory, more than `bounded` where there are more.

    Args:
        target: A descriptor (not of O_PATH), or a path.
        follow: Whether a path that ends in a link leads further.

    Raises:
        OSError: They cannot be read.
    """
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno in NONE_HERE:
            return ()
        raise
    if not names:
        return ()
    found = []
    for name in sorted(map(os.fsencode, names)):
        if not name.startswith(NAMESPACE):
            continue
        try:
            found.append((name, os.getxattr(target, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed since it was listed
                raise
    return tuple(found)


def put_xattrs(
    target: int | bytes, wanted: Xattrs, drop: Collection[bytes], *, follow: bool = True
) -> Xattrs:
    """Set attributes, and remove those of `drop` that are not wanted; return what the file system took.

    Raises:
        OSError: The disk is full, or failed.
    """
    for name in set(drop).difference(name for name, _ in wanted):
        remove(target, name, follow=follow)
    taken = []
    for name, value in wanted:
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in REFUSALS or (error.errno == errno.ENOSPC and is_full(target)):
                raise
            # An earlier value that stayed would be taken for the user's.
            remove(target, name, follow=follow)
        else:
            taken.append((name, value))
    return tuple(taken)


def remove(target: int | bytes, name: bytes, *, follow: bool) -> None:
    """Remove an attribute, if it is there."""
    try:
        os.removexattr(target, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENODATA and error.errno not in REFUSALS:
            raise


def is_full(target: int | bytes) -> bool:
    """Return whether the file system is full: then it refuses for now, and not for good."""
    return os.statvfs(target).f_bavail <= 0


class Capacity:
    """What the share's file system takes, as far as one scan asked."""

    def __init__(self, directories: Directories) -> None:
        self.directories = directories
        self.asked: dict[Xattrs, frozenset[bytes]] = {}

    def carried(self, recorded: Xattrs, seen: Xattrs) -> Xattrs:
        """Return what was seen, and what was recorded and is missing only because it is refused here."""
        here = dict(seen)
        if all(name in here for name, _ in recorded):
            return seen
        taken = self.taken(recorded)
        refused = {name: value for name, value in recorded if name not in here and name not in taken}
        return bounded(tuple(sorted({**here, **refused}.items()))) if refused else seen

    def taken(self, xattrs: Xattrs) -> frozenset[bytes]:
        """Return the names of those that a new file takes, with some room left; none where that cannot be known."""
        found = self.asked.get(xattrs)
        if found is None:
            try:
                found = self.probe(xattrs)
            except OSError:
                found = frozenset()
            self.asked[xattrs] = found
        return found

    def probe(self, xattrs: Xattrs) -> frozenset[bytes]:
        """Set attributes on a file made for that, and return the names of those that it took.

        Raises:
            OSError: The disk is full, or failed.
        """
        staging = self.directories.ensure(STAGING)
        name = b".xattrs-%d" % os.getpid()
        probe = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=staging)
        try:
            with suppress(OSError):
                os.setxattr(probe, ROOM, bytes(ROOM_BYTES))
            return frozenset(name for name, _ in put_xattrs(probe, xattrs, ()))
        finally:
            os.close(probe)
            os.unlink(name, dir_fd=staging)
