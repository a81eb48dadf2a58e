"""The mark of the state's last opening beside the data: see `daemon.incarnation`.

It lies in `.p2psync` of the shared folder. Where it cannot be read or written (a held share, a folder
of somebody else's), nothing is known by it, and that is no error: peers notice an older state, too.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from p2psyncd.errors import PathUnsafe
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.layout import META

__all__ = ["read_witness", "write_witness"]

log = logging.getLogger(__name__)

NAME, NEW = b"boot", b"boot.new"
BYTES_MAX = 64


def read_witness(root: Path) -> bytes | None:
    """Return the mark, or None if there is none to be read; blocks."""
    try:
        with Directories(root) as directories:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            opened = os.open(NAME, flags, dir_fd=directories.directory(META))
            try:
                return os.read(opened, BYTES_MAX)
            finally:
                os.close(opened)
    except (OSError, PathUnsafe):
        return None


def write_witness(root: Path, witness: bytes) -> None:
    """Leave the mark, durably, where that is possible; blocks."""
    try:
        with Directories(root) as directories:
            meta = directories.directory(META)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            opened = os.open(NEW, flags, 0o600, dir_fd=meta)
            try:
                os.write(opened, witness)
                os.fsync(opened)
            finally:
                os.close(opened)
            os.rename(NEW, NAME, src_dir_fd=meta, dst_dir_fd=meta)
            os.fsync(meta)
    except (OSError, PathUnsafe) as error:
        log.info("witness_not_written root=%s error=%s", root, error)
