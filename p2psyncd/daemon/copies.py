"""The copies of one shared database: the one that peers fetch from here, and the one that comes from a peer.

Their bytes travel like any content, by digest. Everything here blocks; what fetches and what serves calls it in worker
threads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from p2psyncd.core.blocks import RULE
from p2psyncd.core.guard import has_room
from p2psyncd.core.ids import BASELINE_ACTOR, ShareId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Stored
from p2psyncd.core.version import Dot
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.database.copying import Listing, NoCopy
from p2psyncd.sources.folder.staging import StagedWriter, Staging
from p2psyncd.sources.source import ContentReader, ContentWriter

__all__ = ["KEPT_S", "Copies", "CopySource", "copies_of"]

# So long after somebody used it a copy is kept: whoever was cut off while fetching goes on with it.
KEPT_S = 600.0
OUT = ".out"
# In the file and on its way into it, at the same time.
ROOM_TIMES = 2


class CopySource(Protocol):
    """The database itself."""

    awaiting: bool
    """Whether a copy is to come."""

    def write_copy(self, target: Path, store: Listing) -> None:
        """Write a copy for a peer; NoCopy, OSError or a P2psyncError says why there is none."""
        ...

    def receive_copy(self, came: Path) -> None:
        """Begin with a copy that came; the same errors."""
        ...

    def forget_copy(self) -> None:
        """Wait for none any more."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """A copy that peers may fetch."""

    path: Path
    digest: bytes
    size: int


class CopyReader:
    """A copy that is being fetched; see `sources.source.ContentReader`."""

    def __init__(self, given: Given, used: Callable[[], None]) -> None:
        self.size = given.size
        self.used = used
        self.descriptor = os.open(given.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; OSError if there are fewer."""
        data = os.pread(self.descriptor, length, offset)
        if len(data) != length:
            raise OSError("The copy is shorter")
        return data

    def unchanged(self) -> bool:
        """Return True: nobody writes to it."""
        return True

    def close(self) -> None:
        """Release it."""
        os.close(self.descriptor)
        self.used()


class Copies:
    """See the top of the file."""

    def __init__(self, source: CopySource, store: Listing, folder: Path, now_s: Callable[[], float]) -> None:
        """Begin.

        Args:
            source: The database.
            store: What is committed in the share's store.
            folder: Where copies lie; the share's alone.
            now_s: The wall clock, seconds since 1970.
        """
        self.source = source
        self.store = store
        self.folder = folder
        self.now_s = now_s
        self.staging = Staging(folder, now_s)
        self.given: Given | None = None
        self.used_s = 0.0
        self.serial = count()
        self.expected: tuple[bytes, int] | None = None
        """Digest and size of the copy that is to come."""
        self.coming: StagedWriter | None = None

    def tidy(self) -> None:
        """Throw away what an earlier process left, but for the beginning of a copy that comes."""
        for left in self.folder.glob(f"*{OUT}*"):
            left.unlink()
        self.staging.tidy()
        if not self.source.awaiting:
            shutil.rmtree(self.staging_folder, ignore_errors=True)

    @property
    def staging_folder(self) -> Path:
        """Where a copy that comes lies."""
        return Path(os.fsdecode(self.staging.folder))

    # The one that is given

    def give(self) -> tuple[bytes, int]:
        """Return digest and size of a copy that can be fetched; one that is there still serves.

        It is not as new as it might be: what was written since it was made comes with the log.

        Raises:
            NoCopy: There is none to be had.
            OSError, P2psyncError: The database, or the disk, cannot be used now.
        """
        given = self.given
        if given is None or not given.path.exists():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            path = self.folder / f"{next(self.serial)}{OUT}"
            self.source.write_copy(path, self.store)
            size = path.stat().st_size
            if RULE.applies(size):
                path.unlink()
                raise NoCopy("it is too large")
            digest = blake3(max_threads=blake3.AUTO).update_mmap(path).digest()
            self.given = given = Given(path, digest, size)
        self.used()
        return given.digest, given.size

    def used(self) -> None:
        """Note that the copy was asked for, or fetched."""
        self.used_s = self.now_s()

    def expire(self) -> None:
        """Throw the copy away that nobody used for a while."""
        given = self.given
        if given is not None and self.now_s() - self.used_s >= KEPT_S:
            self.given = None
            given.path.unlink(missing_ok=True)

    def with_digest(self, digest: bytes) -> list[Stored]:
        """Return the copy as something that `reader` opens, if it is the one that is given."""
        given = self.given
        if given is None or given.digest != digest:
            return []
        dot = Dot(BASELINE_ACTOR, 0)
        item = Item(key=b"", kind=Kind.FILE, digest=digest, size=given.size, meta=b"", dot=dot, hlc=0)
        return [Stored(item=item)]

    def reader(self, stored: Stored) -> ContentReader | None:
        """Open the copy; None if it is gone."""
        given = self.given
        if given is None or given.digest != stored.item.digest:
            return None
        self.used()
        try:
            return CopyReader(given, self.used)
        except FileNotFoundError:
            return None

    # The one that comes

    def expect(self, digest: bytes, size: int, target: Path) -> bool:
        """Let a copy come; return whether there is room for it, here and where the database lies."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.folder, target.parent):
            disk = os.statvfs(folder)
            if not has_room(disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, ROOM_TIMES * size):
                return False
        self.expected = (digest, size)
        return True

    def writer(self, digest: bytes, size: int) -> ContentWriter:
        """Begin staging the copy that is expected, and no other."""
        if (digest, size) != self.expected:
            raise RemoteProtocolError("A content was asked for that a database has not")
        self.coming = StagedWriter(self.staging, digest, size)
        return self.coming

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Stage the copy that is expected, where it is small."""
        if (digest, len(data)) != self.expected:
            raise RemoteProtocolError("A content came that a database has not")
        self.staging.put_content(digest, data)

    @property
    def come(self) -> int:
        """How many bytes of the copy are here."""
        return self.coming.written if self.coming is not None else 0

    def staged(self) -> bool:
        """Return whether the copy that is expected is here, and is what its digest says."""
        return self.expected is not None and self.expected[0] in self.staging.staged

    def take(self) -> None:
        """Begin with the copy that came; errors as `DatabaseSource.receive_copy`."""
        assert self.expected is not None
        name = self.expected[0].hex()
        try:
            self.source.receive_copy(self.staging_folder / name)
        finally:
            self.done()

    def give_up(self) -> None:
        """Wait for no copy any more: the rows come by themselves."""
        self.source.forget_copy()
        self.done()

    def done(self) -> None:
        """Throw away what was staged."""
        self.expected = self.coming = None
        with suppress(OSError):
            self.staging.tidy()
            shutil.rmtree(self.staging_folder, ignore_errors=True)


def copies_of(folder: Path, share: ShareId) -> Path:
    """Return where the copies of a share lie, given where shares keep their state."""
    return folder / f"{share.hex()}.copies"
