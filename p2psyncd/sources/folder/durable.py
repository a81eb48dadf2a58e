"""Making local changes durable before anybody is told of them.

Once a peer has seen a version, this device must not wake up from a power cut with an older content, an
empty one or none: it would take that for the user's latest work, and pass it on. So what a scan found
is put on the disk before it becomes a version; what the cut takes was never announced.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from p2psyncd.core.item import Kind
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.content import OPEN_FLAGS
from p2psyncd.sources.folder.layout import split_key
from p2psyncd.sources.source import Observation

__all__ = ["make_durable"]

# Up to so many are synced one by one: a sync of the file system waits for whatever else is being
# written to it, a fsync costs some 0.3 ms.
FEW = 8
# File systems that cannot be told to sync, or have nothing to: there is nothing to wait for.
NOTHING_TO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS}


def make_durable(
    directories: Directories,
    observations: Sequence[Observation],
    *,
    sync: Callable[[int], None],
    sync_one: Callable[[int], None],
) -> None:
    """Make contents, names and removals durable; what has changed again meanwhile is the next scan's.

    Args:
        directories: Opened at the share's root.
        observations: What a scan found, and the replica is about to record.
        sync: Syncs the file system of a descriptor.
        sync_one: Syncs one file or directory.

    Raises:
        OSError: The disk failed, or took no more: nothing of it may be announced.
    """
    if not observations:
        return
    few = len(observations) <= FEW and all(
        sync_file(directories, one.draft.key, sync_one) for one in observations if one.draft.kind is Kind.FILE
    )
    if not few:
        tolerantly(sync, directories.root)
        return
    folders = {split_key(one.draft.key)[0] for one in observations}
    folders.update(one.draft.key for one in observations if one.draft.kind is Kind.DIRECTORY)
    for folder in folders:
        tolerantly(sync_one, nearest(directories, folder))


def sync_file(directories: Directories, key: bytes, sync_one: Callable[[int], None]) -> bool:
    """Make one file's content durable; False if it cannot be opened for that."""
    try:
        directory, name = directories.parent(key)
        opened = os.open(name, OPEN_FLAGS, dir_fd=directory)
    except OSError as error:
        return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
    try:
        tolerantly(sync_one, opened)
    finally:
        os.close(opened)
    return True


def nearest(directories: Directories, folder: bytes) -> int:
    """Return the descriptor of a directory, or of the nearest one above it that is there."""
    while folder:
        with suppress(OSError):
            return directories.directory(folder)
        folder = split_key(folder)[0]
    return directories.root


def tolerantly(sync: Callable[[int], None], descriptor: int) -> None:
    """Sync, unless there is no such thing here."""
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno not in NOTHING_TO_SYNC:
            raise
