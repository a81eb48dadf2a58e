"""One reading view of a share's store for many threads: scans, staging and peers' requests run beside the writer.

A SQLite connection belongs to one thread at a time. The calls are short, so they take turns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from p2psyncd.core.storage import Listed, Pending, Stored
from p2psyncd.store.reading import ShareReader

__all__ = ["SharedReader"]


class SharedReader:
    """See `core.storage.ShareStorage` for what each method promises."""

    def __init__(self, reader: ShareReader) -> None:
        self.reader = reader
        self.lock = threading.Lock()

    def close(self) -> None:
        """Close the view."""
        with self.lock:
            self.reader.close()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """Return the newest known versions."""
        with self.lock:
            return self.reader.get_many(keys)

    def pending_of(self, keys: Sequence[bytes]) -> dict[bytes, Pending]:
        """Return the pending rows of these keys."""
        with self.lock:
            return self.reader.pending_of(keys)

    def base_of_pending_digest(self, digest: bytes) -> list[Stored]:
        """Return applied things with this digest that a pending version is about to replace or delete."""
        with self.lock:
            return self.reader.base_of_pending_digest(digest)

    def with_digest(self, digest: bytes) -> list[Stored]:
        """Return applied live files with this digest."""
        with self.lock:
            return self.reader.with_digest(digest)

    def listing(self, directory: bytes) -> list[Listed]:
        """Return the live or still applied children of a directory."""
        with self.lock:
            return self.reader.listing(directory)

    def below(self, prefix: bytes) -> Iterator[Listed]:
        """Yield live or still applied items at and below a key."""
        with self.lock:
            found = list(self.reader.below(prefix))
        yield from found

    def chunk_list(self, digest: bytes) -> bytes | None:
        """Return the packed chunk list of a content, if known."""
        with self.lock:
            return self.reader.chunk_list(digest)
