"""What a scan does not find any more: noted on the way, looked at once more in the end, then told as deleted.

An unmounted disk, a file that was away for a moment, and what is ignored are no deletions.
"""

from __future__ import annotations

import os

from p2psyncd.core.item import Draft, Kind
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.databases import lies_beside_database
from p2psyncd.sources.folder.fingerprint import is_directory_state, is_skipped
from p2psyncd.sources.folder.layout import split_key
from p2psyncd.sources.folder.scanning import Found, ScanContext, reason_of
from p2psyncd.sources.source import ItemError, Observation, Unapplied

__all__ = ["Missing"]


class Missing:
    """What one scan misses."""

    def __init__(self, context: ScanContext, directories: Directories, linked: dict[int, int]) -> None:
        """Begin; names of the files in `linked` (see `reading.Reader`) that are gone are noted there."""
        self.context = context
        self.directories = directories
        self.linked = linked
        self.states: dict[bytes, bytes] = {}
        """Fingerprints of what is not there, by key."""

    def note(self, key: bytes, state: bytes, *, itself: bool = True) -> None:
        """Note that a listed thing, and what was below it, is not there."""
        if itself:
            self.lost(key, state)
        if is_directory_state(state):
            for entry in self.context.catalogue.below(key):
                if entry.state and entry.key != key:
                    self.lost(entry.key, entry.state)

    def look_for_orphans(self, met: int) -> None:
        """Note what walking does not lead to and is not there: it lies below what is not listed as a directory.

        The directory's row went with a damaged disk, say, and the directory itself before the row was written again.
        """
        if met == self.context.catalogue.count_listed():
            return
        directories = {b""}
        for entry in self.context.catalogue.below(b""):
            if split_key(entry.key)[0] in directories:
                if is_directory_state(entry.state):
                    directories.add(entry.key)
                continue
            if not entry.state or entry.key in self.states:
                continue
            try:
                there = self.directories.status(entry.key) is not None
            except OSError:
                continue  # unknown; who walked there has said why
            if not there:
                self.lost(entry.key, entry.state)

    def lost(self, key: bytes, state: bytes) -> None:
        """Note that one listed thing is not there."""
        self.states[key] = state
        inode = self.context.links.forget(key)
        if inode is not None:
            self.linked.setdefault(inode, 0)

    def deletions(self) -> Found:
        """Yield what is gone, children before their directories."""
        if not self.states:
            return
        self.context.check()
        for key in sorted(self.states, reverse=True):
            state = self.states[key]
            if key in self.context.moved_away:
                continue
            if self.context.ignore.ignored(key, directory=is_directory_state(state)) or lies_beside_database(
                self.directories, key
            ):
                continue
            try:
                if self.directories.status(key) is not None:
                    self.context.busy.add(key)  # back again
                    continue
            except OSError as error:
                yield ItemError(key=key, reason=reason_of(error))
                continue
            if is_skipped(state):
                yield Unapplied(key=key)
                continue
            self.context.snapshots.drop(self.directories, key)
            yield Observation(
                draft=Draft(key=key, kind=Kind.TOMBSTONE),
                state=b"",
                base_state=state,
                changed_us=self.changed_us(split_key(key)[0]),
            )

    def changed_us(self, directory: bytes) -> int:
        """Return when a directory's entries last changed, in µs: when something in it was deleted, at the latest."""
        try:
            return os.fstat(self.directories.directory(directory)).st_ctime_ns // 1000
        except OSError:
            return 0
