"""Staging: content on its way into the share, complete and verified before it gets a name there.

Staged content lies in `.p2psync/staging` under its digest, in hexadecimal. After a restart nothing
here is worth anything but the beginnings of large contents whose transfer broke off (`.part`): `tidy`
removes the rest, and what is still wanted is fetched again.
Threads that fetch and the thread that applies work here at the same time; each step is one call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from blake3 import blake3

from p2psyncd.core.blocks import RULE, BlockRule
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.folder.beneath import copy_content
from p2psyncd.sources.folder.content import EMPTY_DIGEST, digest_of, digest_of_descriptor
from p2psyncd.sources.folder.layout import STAGING

__all__ = ["StagedWriter", "Staging"]

# A file system's block: less than that cannot be a hole.
HOLE_BYTES_MIN = 4096
# Pieces of up to 1 MiB come: with 16 KiB, looking for holes in them took a hundredth of the time of writing them.
HOLE_STEP_BYTES = 16 * 1024
PART = b".part"
# Less than this is fetched again sooner than it is looked for.
PART_BYTES_MIN = 1024 * 1024
# What nobody came back for after a day, nobody wants.
PART_AGE_S = 86_400
NEW_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        if written == len(data):
            return
        data = data[written:]
        offset += written


def is_hole(data: bytes | memoryview) -> bool:
    """Return whether bytes are a run of zeros long enough to be left out: sparse files stay sparse."""
    # The ends first: the whole is looked at only where it may well be zeros.
    return len(data) >= HOLE_BYTES_MIN and not data[0] and not data[-1] and not int.from_bytes(data, "little")


def runs_of(data: bytes | memoryview) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, whether it is a hole) of the runs of a piece, in order."""
    start, hole = 0, False
    for at in range(0, len(data), HOLE_STEP_BYTES):
        here = is_hole(data[at : at + HOLE_STEP_BYTES])
        if here != hole:
            if at > start:
                yield start, at, hole
            start, hole = at, here
    yield start, len(data), hole


class StagedWriter:
    """Content that comes piece by piece; used by one thread at a time."""

    def __init__(self, staging: Staging, digest: bytes, size: int, rule: BlockRule = RULE) -> None:
        self.staging = staging
        self.digest = digest
        self.size = size
        self.rule = rule
        self.name = staging.fresh_name(b".new")
        self.descriptor = staging.reopen_part(digest, self.name)
        self.resume_at = 0
        """Bytes from the start that an earlier try left here: fetching goes on behind them."""
        if self.descriptor < 0:
            self.descriptor = staging.create(self.name)
        else:
            self.resume_at = min(os.fstat(self.descriptor).st_size, size)
        self.hasher = blake3()
        self.hashed = 0
        """Bytes from the start that are in `hasher`: pieces mostly come in order, so they are read once."""
        self.in_order = not rule.applies(size)
        """Whether `hasher` is of use: a huge file's digest is not that of its bytes one after the other."""
        self.gapless = True
        """Whether every piece so far began where the one before ended: then what is here can be resumed."""
        self.written = self.resume_at
        """Where the furthest piece ended: beyond it a run of zeros need not be written."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset.

        Raises:
            OSError: The disk is full, or failed.
            RemoteProtocolError: They lie beyond the content's size.
        """
        if offset < 0 or offset + len(data) > self.size:
            raise RemoteProtocolError("A part of a content lies beyond its end")
        view = memoryview(data)
        for start, end, hole in runs_of(view):
            # A hole over something that came before is written.
            if not hole or offset + start < self.written:
                write_all(self.descriptor, view[start:end], offset + start)
        before, self.written = self.written, max(self.written, offset + len(data))
        if offset == self.hashed and self.in_order:
            self.hasher.update(data)
            self.hashed += len(data)
        elif offset < self.hashed:
            self.in_order = False
        self.gapless = self.gapless and offset == before

    def leave_zeros(self, end: int) -> None:
        """Note that from the furthest piece to `end` there are only zeros: a hole, which need not be written.

        Raises:
            RemoteProtocolError: They lie beyond the content's size.
        """
        if end > self.size:
            raise RemoteProtocolError("A part of a content lies beyond its end")
        self.written = max(self.written, end)

    def commit(self) -> None:
        """Verify the whole and make it known as staged.

        Raises:
            RemoteProtocolError: It is not the content of this digest and size; it is discarded.
            OSError: It cannot be read back.
        """
        try:
            self.check()
            self.staging.adopt(self.name, self.digest)
        except BaseException:
            self.abandon()
            raise
        os.close(self.descriptor)
        self.descriptor = -1

    def check(self) -> None:
        """Hold what was written against digest and size."""
        if not self.in_order:
            self.hasher, self.hashed = blake3(), 0
        if os.fstat(self.descriptor).st_size < self.written:
            os.ftruncate(self.descriptor, self.written)  # it ends in a hole
        digest, size = digest_of_descriptor(self.descriptor, self.hashed, self.hasher, rule=self.rule)
        if digest != self.digest or size != self.size:
            raise RemoteProtocolError("A content came that is not what its digest says")

    def suspend(self) -> None:
        """Close and keep what came without a gap, for another try; harmless after `commit`.

        What is kept is verified with the rest, once the rest has come.
        """
        if self.descriptor < 0 or not self.gapless or self.written < PART_BYTES_MIN:
            self.abandon()
            return
        os.ftruncate(self.descriptor, self.written)  # it may end in a hole
        os.close(self.descriptor)
        self.descriptor = -1
        self.staging.keep_part(self.name, self.digest)

    def abandon(self) -> None:
        """Close and discard; harmless after `commit`."""
        if self.descriptor < 0:
            return
        os.close(self.descriptor)
        self.descriptor = -1
        self.staging.remove(self.name)


class Staging:
    """The staging folder of one share."""

    def __init__(self, root: Path, now_s: Callable[[], float] = lambda: 0.0) -> None:
        """Begin.

        Args:
            root: The share's root.
            now_s: The wall clock, seconds since 1970: how old the beginning of a content is.
        """
        self.folder = os.fsencode(root) + b"/" + STAGING
        self.now_s = now_s
        self.serial = count()
        self.staged: set[bytes] = set()
        """Digests whose content is here."""

    def path(self, name: bytes) -> bytes:
        """Return where a staged thing lies.

        An absolute path: it holds no name of a peer's, and a descriptor kept open between calls
        would keep the disk from being unmounted.
        """
        return self.folder + b"/" + name

    def fresh_name(self, suffix: bytes = b".new") -> bytes:
        """Return a name that was not used before in this run."""
        return b"%d%s" % (next(self.serial), suffix)

    def create(self, name: bytes) -> int:
        """Return the descriptor of a new, empty file."""
        path = self.path(name)
        try:
            return os.open(path, NEW_FLAGS, 0o600)
        except FileNotFoundError:
            os.makedirs(self.folder, 0o700, exist_ok=True)  # noqa: PTH103  (bytes)
            return os.open(path, NEW_FLAGS, 0o600)

    def is_recent_part(self, name: bytes) -> bool:
        """Return whether something is the beginning of a content that may still be wanted."""
        if not name.endswith(PART):
            return False
        with suppress(FileNotFoundError):
            return self.now_s() - os.stat(self.path(name)).st_mtime < PART_AGE_S  # noqa: PTH116  (bytes)
        return False

    def part_name(self, digest: bytes) -> bytes:
        """Return the name under which a content's beginning is kept."""
        return digest.hex().encode() + PART

    def keep_part(self, name: bytes, digest: bytes) -> None:
        """Keep a content's beginning for another try."""
        os.rename(self.path(name), self.path(self.part_name(digest)))  # noqa: PTH104  (bytes)

    def reopen_part(self, digest: bytes, name: bytes) -> int:
        """Return the descriptor of a content's beginning, under its new name; -1 if none was kept."""
        try:
            os.rename(self.path(self.part_name(digest)), self.path(name))  # noqa: PTH104  (bytes)
        except FileNotFoundError:
            return -1
        return os.open(self.path(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def remove(self, name: bytes) -> None:
        """Delete a staged thing, if it is there."""
        with suppress(FileNotFoundError):
            try:
                os.unlink(self.path(name))  # noqa: PTH108  (bytes: a Path costs more than the call)
            except IsADirectoryError:
                os.rmdir(self.path(name))  # noqa: PTH106  (as above)

    def adopt(self, name: bytes, digest: bytes) -> None:
        """Make a complete, verified file known under its digest."""
        os.rename(self.path(name), self.path(digest.hex().encode()))  # noqa: PTH104  (bytes)
        self.staged.add(digest)

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Stage a small content in one step.

        Raises:
            RemoteProtocolError: The digest is not that of the bytes.
            OSError: The disk is full, or failed.
        """
        if digest_of(data) != digest:
            raise RemoteProtocolError("A content came that is not what its digest says")
        if digest in self.staged:
            return
        # Under its own name at once: what makes it staged is the set in memory, and a rename costs as
        # much as the rest. After a crash `tidy` throws away whatever lies here.
        final = name = digest.hex().encode()
        try:
            descriptor = self.create(name)
        except FileExistsError:
            # Another thread is at the same content, or something was left behind: this one replaces it.
            name = self.fresh_name()
            descriptor = self.create(name)
        try:
            write_all(descriptor, data, 0)
        except OSError:
            self.remove(name)
            raise
        finally:
            os.close(descriptor)
        if name is final:
            self.staged.add(digest)
        else:
            self.adopt(name, digest)

    def copy_in(self, digest: bytes, source: int) -> bytes | None:
        """Copy an opened file and return the copy's name, which is the caller's to use or remove.

        None: it is not the content of this digest.
        """
        name = self.fresh_name()
        descriptor = self.create(name)
        try:
            copy_content(source, descriptor)
            same = digest_of_descriptor(descriptor)[0] == digest
        except OSError:
            self.remove(name)
            raise
        finally:
            os.close(descriptor)
        if same:
            return name
        self.remove(name)
        return None

    def has(self, digest: bytes) -> bool:
        """Return whether a content can be had from here; the empty one always can."""
        return digest in self.staged or digest == EMPTY_DIGEST

    def tidy(self, keep: Collection[bytes] = ()) -> int:
        """Delete what is staged but for these digests; return how many things went.

        Only while nothing is being fetched or applied: it also deletes what is unfinished.
        """
        kept = {digest.hex().encode() for digest in keep if digest in self.staged}
        removed = 0
        try:
            names = os.listdir(self.folder)  # noqa: PTH208  (bytes)
        except FileNotFoundError:
            names = []
        for name in names:
            if name not in kept and not self.is_recent_part(name):
                self.remove(name)
                removed += 1
        self.staged.intersection_update(keep)
        return removed
