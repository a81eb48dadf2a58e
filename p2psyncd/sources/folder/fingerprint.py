"""Fingerprints: how a thing on disk is known again without reading it.

A file or a symlink is its inode, size, mtime, ctime and mode: ctime and inode are what a program
cannot set back, so an edit of the same size within the same second shows. A directory is only its
mode and mtime, since inode and ctime of a directory change with things that are no change of it, and
a mark of its extended attributes, if it has any: no time tells of these alone.
"""

from __future__ import annotations

import os
import stat
import struct

from blake3 import blake3

from p2psyncd.sources.folder.xattrs import Xattrs

__all__ = [
    "DIRECTORY_STATE_BYTES",
    "RACY_NS",
    "SKIPPED",
    "fingerprint",
    "inode_of",
    "is_directory_state",
    "is_live_state",
    "is_skipped",
    "is_special",
    "is_trusted",
    "live_state",
    "marked",
    "matches",
    "moved_matches",
    "stamped_finely",
    "untrusted",
]

FILE = struct.Struct("<QQqqI")
DIRECTORY = struct.Struct("<qI")
INODE = struct.Struct("<Q")
TYPE_BITS = 0o170000
TYPE_DIRECTORY = 0o040000
DIRECTORY_STATE_BYTES = DIRECTORY.size
XATTRS_MARK_BYTES = 8
DIRECTORY_SIZES = {DIRECTORY.size, DIRECTORY.size + XATTRS_MARK_BYTES}
PACK_FILE = FILE.pack
PACK_DIRECTORY = DIRECTORY.pack
# A mark behind a file's fingerprint: no scan finds the same, so the content is read again.
UNTRUSTED = b"?"
SKIPPED = b"-"
"""State of an item that was settled without anything on disk: it is ignored here."""

# Kernels before 6.13 stamp files with the time of the last timer tick, at most 10 ms ago: a file
# read less than that after its last change can change again without its times changing.
RACY_NS = 20_000_000
PROBES = 8


def fingerprint(status: os.stat_result) -> bytes:
    """Return the fingerprint of a thing with this status."""
    mode = status.st_mode
    if mode & TYPE_BITS == TYPE_DIRECTORY:  # S_ISDIR, inlined: this runs for every file of a scan
        return PACK_DIRECTORY(status.st_mtime_ns, mode)
    return PACK_FILE(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, mode)


def marked(state: bytes, xattrs: Xattrs) -> bytes:
    """Return a directory's fingerprint with the mark of its extended attributes."""
    state = state[: DIRECTORY.size]
    if not xattrs:
        return state
    hasher = blake3()
    for part in (part for pair in xattrs for part in pair):
        hasher.update(b"%d:" % len(part))
        hasher.update(part)
    return state + hasher.digest(XATTRS_MARK_BYTES)


def untrusted(state: bytes) -> bytes:
    """Return a file's fingerprint marked so that the next scan reads the file again."""
    return state[: FILE.size] + UNTRUSTED


def live_state(state: bytes, mark: bytes) -> bytes:
    """Return the fingerprint of a database in use: the file's, and the mark of what lies beside it."""
    return state[: FILE.size] + mark


def is_live_state(state: bytes) -> bool:
    """Return whether a fingerprint is that of a database in use, whose content is a snapshot."""
    return len(state) > FILE.size + len(UNTRUSTED)


def is_trusted(state: bytes) -> bool:
    """Return whether an equal fingerprint means equal content."""
    return len(state) == FILE.size or len(state) in DIRECTORY_SIZES


def is_skipped(state: bytes) -> bool:
    """Return whether nothing on disk stands for the item (see `SKIPPED`)."""
    return state == SKIPPED


def is_directory_state(state: bytes) -> bool:
    """Return whether the fingerprint is a directory's."""
    return len(state) in DIRECTORY_SIZES


def matches(state: bytes, status: os.stat_result) -> bool:
    """Return whether a thing has this fingerprint, trusted or not; of a directory's, all but its attributes."""
    return state[: DIRECTORY.size if is_directory_state(state) else FILE.size] == fingerprint(status)


def moved_matches(state: bytes, status: os.stat_result) -> bool:
    """Return whether a file or symlink that was just renamed had this fingerprint (a rename sets ctime)."""
    if len(state) < FILE.size:
        return False
    inode, size, mtime_ns, _, mode = FILE.unpack_from(state)
    return (inode, size, mtime_ns, mode) == (
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_mode,
    )


def stamped_finely(directory: int) -> bool:
    """Return whether the file system tells two changes apart that follow each other at once.

    Args:
        directory: Descriptor of a directory that may be written to.
    """
    name = b".times-%d" % os.getpid()
    probe = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    try:
        seen = set()
        for number in range(PROBES):
            os.pwrite(probe, bytes([number]), 0)
            seen.add(os.fstat(probe).st_ctime_ns)
        return len(seen) == PROBES
    finally:
        os.close(probe)
        os.unlink(name, dir_fd=directory)


def inode_of(state: bytes) -> int:
    """Return the inode in a file's or symlink's fingerprint; 0 where there is none."""
    return int(INODE.unpack_from(state)[0]) if len(state) >= FILE.size else 0


def is_special(mode: int) -> bool:
    """Return whether a mode is that of a FIFO, socket or device."""
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
