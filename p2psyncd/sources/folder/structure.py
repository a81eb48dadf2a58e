"""What the engine needs to know of a folder's shape: which keys it can hold, and how a directory is written."""

from __future__ import annotations

from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.errors import PathUnsafe
from p2psyncd.sources.folder.attributes import MTIME_MAX, Attributes, encode
from p2psyncd.sources.folder.content import digest_and_chunks
from p2psyncd.sources.folder.folder import FileReader
from p2psyncd.sources.folder.layout import check_key
from p2psyncd.sources.source import ContentReader

__all__ = ["acceptable", "chunks_of", "directory_draft"]

# A directory that comes back because something lives in it: nothing of its own mode is known any more.
PLAIN_MODE = 0o755


def acceptable(key: bytes) -> bool:
    """Return whether a key names a path inside a share."""
    try:
        check_key(key)
    except PathUnsafe:
        return False
    return True


def directory_draft(key: bytes, old: Item | None) -> Draft:
    """Return the write that makes a directory of a key, with the metadata of its earlier version if that was one."""
    if old is not None and old.kind is Kind.DIRECTORY:
        return Draft(key=key, kind=Kind.DIRECTORY, meta=old.meta)
    # What a peer says of its time may be more than a file system's time can be.
    mtime_ns = min(old.hlc * 1000, MTIME_MAX) if old is not None else 0
    return Draft(key=key, kind=Kind.DIRECTORY, meta=encode(Attributes(mode=PLAIN_MODE, mtime_ns=mtime_ns)))


def chunks_of(reader: ContentReader) -> bytes:
    """Return the packed chunk list of an opened file; reads it whole."""
    assert isinstance(reader, FileReader)  # a folder source opens nothing else
    return digest_and_chunks(reader.descriptor)[1]
