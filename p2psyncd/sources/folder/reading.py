"""Reading one thing of the share as it is now: a file, a database in use, a link, a directory.

A file that changes while it is read is left for later; mixed bytes are never announced.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace

from p2psyncd.core.item import Draft, Kind
from p2psyncd.sources.folder.attributes import MODE_BITS, Attributes, capture, decode_or_plain
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.catalogue import Known
from p2psyncd.sources.folder.content import digest_of, read_content
from p2psyncd.sources.folder.databases import mark_of_use
from p2psyncd.sources.folder.fingerprint import (
    DIRECTORY_STATE_BYTES,
    RACY_NS,
    fingerprint,
    live_state,
    marked,
    untrusted,
)
from p2psyncd.sources.folder.scanning import GONE, Found, ScanContext, known_state, reason_of
from p2psyncd.sources.folder.xattrs import (
    XATTRS_BYTES_MAX,
    Capacity,
    Xattrs,
    bounded,
    path_beneath,
    read_xattrs,
)
from p2psyncd.sources.source import ItemError, Observation

__all__ = ["Reader"]


class Reader:
    """Reads for one scan."""

    def __init__(self, context: ScanContext, directories: Directories) -> None:
        self.context = context
        self.directories = directories
        self.device = os.fstat(directories.root).st_dev
        self.now_ns = context.clock.now_us() * 1000
        self.linked: dict[int, int] = {}
        """Files that changed and have several names: inode, and how many."""
        self.capacity = Capacity(directories)
        self.overloaded: set[bytes] = set()
        """Keys of what was read with more extended attributes than are synced."""

    def state_of(self, key: bytes, status: os.stat_result) -> bytes:
        """Return the fingerprint of what has a key."""
        state = fingerprint(status)
        if len(state) != DIRECTORY_STATE_BYTES:
            return state
        return self.directory_state(*self.directories.parent(key), status)

    def directory_state(self, above: int, name: bytes, status: os.stat_result) -> bytes:
        """Return the fingerprint of a directory, without a mark if its attributes cannot be read."""
        state = fingerprint(status)
        if status.st_dev != self.device:
            return state
        try:
            return marked(state, bounded(read_xattrs(path_beneath(above, name), follow=False)))
        except OSError:
            return state  # it says why when it is read

    def read(self, key: bytes, status: os.stat_result, known: Known | None) -> Found:
        """Yield a file, link or directory as it is now."""
        mode = status.st_mode
        try:
            if stat.S_ISREG(mode):
                found = self.file(key, known)
            elif stat.S_ISLNK(mode):
                found = self.symlink(key, status, known)
            else:
                xattrs = self.read_beneath(key) if status.st_dev == self.device else ()
                found = self.observed(key, Kind.DIRECTORY, status, known, xattrs=xattrs)
        except OSError as error:
            if error.errno in GONE:
                self.context.busy.add(key)  # gone between two looks
            else:
                yield ItemError(key=key, reason=reason_of(error))
            return
        if found is not None:
            yield found
        if key in self.overloaded:
            self.overloaded.discard(key)
            reason = f"it has more extended attributes than are synced ({XATTRS_BYTES_MAX // 1024} KiB)"
            yield ItemError(key=key, reason=reason)

    def read_beneath(self, key: bytes) -> Xattrs:
        """Return the extended attributes of what has a key."""
        return read_xattrs(path_beneath(*self.directories.parent(key)), follow=False)

    def file(self, key: bytes, known: Known | None) -> Observation | None:
        """Return a regular file as it is now; None if it does not hold still."""
        directory, name = self.directories.parent(key)
        if mark := mark_of_use(directory, name):
            return self.database(key, known, mark)
        self.context.snapshots.drop(self.directories, key)
        content = read_content(directory, name)
        if mark_of_use(directory, name):
            content = None  # opened while it was read
        if content is None:
            self.context.busy.add(key)
            return None
        status = content.status
        if self.context.links.note(key, status):
            self.linked[status.st_ino] = status.st_nlink
        return self.observed(
            key,
            Kind.FILE,
            status,
            known,
            digest=content.digest,
            size=status.st_size,
            chunks=content.chunks,
            xattrs=content.xattrs,
        )

    def database(self, key: bytes, known: Known | None, mark: bytes) -> Observation | None:
        """Return a database in use as it is at one moment; None if it is known like that, or locked."""
        directory, name = self.directories.parent(key)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        state = live_state(fingerprint(status), mark)
        applied = known.applied if known is not None else None
        snapshots = self.context.snapshots
        if applied is not None and applied.state == state and snapshots.path(key, applied.item.digest):
            return None
        content = snapshots.take(self.directories, key)
        if content is None:
            self.context.busy.add(key)
            return None
        mtime_ns = None
        if applied is not None and applied.item.digest == content.digest:
            mtime_ns = decode_or_plain(applied.item.meta).mtime_ns  # moved on without a change of the content
        size = content.status.st_size
        found = self.observed(
            key,
            Kind.FILE,
            status,
            known,
            digest=content.digest,
            size=size,
            chunks=content.chunks,
            mtime_ns=mtime_ns,
            xattrs=self.read_beneath(key),
        )
        return replace(found, state=state)

    def symlink(self, key: bytes, status: os.stat_result, known: Known | None) -> Observation:
        """Return a symlink as it is now."""
        directory, name = self.directories.parent(key)
        target = os.readlink(name, dir_fd=directory)
        return self.observed(key, Kind.SYMLINK, status, known, digest=digest_of(target), target=target)

    def observed(
        self,
        key: bytes,
        kind: Kind,
        status: os.stat_result,
        known: Known | None,
        *,
        digest: bytes = b"",
        size: int = 0,
        target: bytes | None = None,
        chunks: bytes = b"",
        mtime_ns: int | None = None,
        xattrs: Xattrs = (),
    ) -> Observation:
        """Return the observation of one thing."""
        state = fingerprint(status)
        age_ns = self.now_ns - status.st_ctime_ns
        if kind is Kind.FILE and not self.context.fine_times and age_ns < RACY_NS:
            state = untrusted(state)
        seen = Attributes(
            mode=status.st_mode & MODE_BITS,
            mtime_ns=status.st_mtime_ns if mtime_ns is None else mtime_ns,
            target=target,
            xattrs=xattrs and bounded(xattrs),
        )
        if seen.xattrs != xattrs:
            self.overloaded.add(key)
        if kind is Kind.DIRECTORY:
            state = marked(state, seen.xattrs)
        applied = known.applied if known is not None else None
        meta = capture(
            kind,
            digest,
            seen,
            applied.item if applied is not None else None,
            known.newest if known is not None else None,
            self.capacity.carried,
        )
        return Observation(
            draft=Draft(key=key, kind=kind, digest=digest, size=size, meta=meta),
            state=state,
            base_state=known_state(known),
            changed_us=status.st_ctime_ns // 1000,
            chunks=chunks,
        )
