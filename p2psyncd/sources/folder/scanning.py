"""What the parts of a scan share, from one scan to the next, and with applying."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from p2psyncd.core.clock import Clock
from p2psyncd.sources.folder.catalogue import Catalogue, Known
from p2psyncd.sources.folder.databases import Snapshots
from p2psyncd.sources.folder.ignore import Ignore
from p2psyncd.sources.folder.links import HardLinks
from p2psyncd.sources.source import ItemError, Observation, Unapplied

__all__ = ["GONE", "Found", "ScanContext", "known_state", "reason_of"]

Found = Iterator[Observation | ItemError | Unapplied]

GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(slots=True, kw_only=True)
class ScanContext:
    """What a scan needs; what it shares with applying is in the last three."""

    root: Path
    catalogue: Catalogue
    ignore: Ignore
    clock: Clock
    check: Callable[[], None]
    """Raises ShareHeld when the root is not what it was."""
    fine_times: bool = True
    """Whether the file system's timestamps tell two quick changes apart."""
    recent: dict[bytes, bytes] = field(default_factory=dict)
    """Fingerprints of what was applied lately: an event about it needs no look into the store."""
    moved_away: set[bytes] = field(default_factory=set)
    """Keys whose file was moved to where a pending version wants it, before their tombstone was applied."""
    busy: set[bytes] = field(default_factory=set)
    """Keys that kept changing while they were read: to be scanned again."""
    snapshots: Snapshots
    """Contents of databases in use."""
    links: HardLinks = field(default_factory=HardLinks)
    """Which names are one file."""
    generation: int = -1
    """The ignore rules under which the last full scan ended."""


def reason_of(error: OSError) -> str:
    """Return an error in words for the user."""
    if error.errno == errno.EXDEV:
        return "another file system is mounted here; it is not synced"
    return f"cannot be read: {error.strerror or error}"


def known_state(known: Known | None) -> bytes:
    """Return the fingerprint that the store holds for a key it may not know."""
    return known.state if known is not None else b""
