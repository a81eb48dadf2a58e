"""Changing only the metadata of a file or symlink that is in place: mode, mtime and extended attributes."""

from __future__ import annotations

import os

from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Stored
from p2psyncd.sources.folder.attributes import Attributes, decode_or_plain
from p2psyncd.sources.folder.fingerprint import fingerprint, matches, untrusted
from p2psyncd.sources.folder.replace import ExpectedOther, Replacer
from p2psyncd.sources.folder.xattrs import put_xattrs

__all__ = ["change_in_place"]

OWNER_WRITES = 0o200


def change_in_place(
    replacer: Replacer, item: Item, base: Stored, attributes: Attributes
) -> tuple[bytes, os.stat_result]:
    """Set mode and mtime of what is in place; return its fingerprint and status then.

    Raises:
        ExpectedOther: Something else than `base` is there.
        Refused: It is a database that a program has open.
        OSError: It cannot be done.
    """
    key = item.key
    times = (attributes.mtime_ns, attributes.mtime_ns)
    replacer.expect(key, base)
    replacer.between(key)
    directory, name = replacer.directories.parent(key)
    opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not matches(base.state, os.fstat(opened)):
            raise ExpectedOther
        if item.kind is Kind.SYMLINK:
            os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
            status = os.fstat(opened)
            return fingerprint(status), status
        # The descriptor's own path: it cannot be another file than the one just looked at.
        path = f"/proc/self/fd/{opened}"
        change_xattrs(path, attributes, base)
        os.chmod(path, attributes.mode)  # noqa: PTH101  (through `os` like all access to files here)
        os.utime(path, ns=times)
        status = os.fstat(opened)
        # An edit in the last microseconds would hide behind the mtime just set: read it again.
        return untrusted(fingerprint(status)), status
    finally:
        os.close(opened)


def change_xattrs(path: str, attributes: Attributes, base: Stored) -> None:
    """Change the extended attributes of a file in place; what was not synced of them stays."""
    had = decode_or_plain(base.item.meta).xattrs
    if had == attributes.xattrs:
        return
    os.chmod(path, attributes.mode | OWNER_WRITES)  # noqa: PTH101  (as above)
    put_xattrs(os.fsencode(path), attributes.xattrs, [name for name, _ in had])
