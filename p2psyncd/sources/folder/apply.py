"""Applying a batch of pending versions: the order of the steps, and what makes them durable.

1. Files that become others are taken out of their place (into history).
2. Directories are made, parents first.
3. Content is prepared in staging, with mode and mtime; one sync makes all of it durable.
4. Files and symlinks get their names; then deletes, children first; then files where directories were.
5. Directories get their mode and mtime: those of the batch their own, the others back what they had.
6. One more sync; only then may the store note that the versions are in place.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.errors import PathUnsafe, RemoteProtocolError
from p2psyncd.sources.folder.attributes import Attributes, decode
from p2psyncd.sources.folder.beneath import Directories, sync_file_system
from p2psyncd.sources.folder.catalogue import known_of
from p2psyncd.sources.folder.content import OPEN_FLAGS
from p2psyncd.sources.folder.databases import lies_beside_database
from p2psyncd.sources.folder.fingerprint import (
    SKIPPED,
    fingerprint,
    is_skipped,
    moved_matches,
    untrusted,
)
from p2psyncd.sources.folder.folders import Folders
from p2psyncd.sources.folder.inplace import change_in_place
from p2psyncd.sources.folder.layout import check_key, split_key
from p2psyncd.sources.folder.local import LocalContent, content_is_in_place
from p2psyncd.sources.folder.preparing import Preparer
from p2psyncd.sources.folder.replace import ExpectedOther, Refused, Replacer
from p2psyncd.sources.folder.scanning import GONE, ScanContext
from p2psyncd.sources.source import Applied, Failed, Outcome, Surprised

__all__ = ["ApplyContext", "apply_batch"]

# The events of a batch come within milliseconds: two or three batches are enough.
RECENT_MAX = 5_000
# Up to so many things are made durable one by one: a sync of the whole file system would wait for
# whatever else is being written to it, a fsync costs some 0.3 ms.
FEW = 8
REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied: the folder or the file is read-only here",
    errno.EPERM: "not permitted here: the folder or the file is protected",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long for the file system here",
    errno.EXDEV: "another file system is mounted here; it is not synced",
}


@dataclass(slots=True, kw_only=True)
class ApplyContext:
    """What applying needs, from one batch to the next."""

    scan: ScanContext
    local: LocalContent
    read_only_made: dict[bytes, int] = field(default_factory=dict)
    """Directories that this run made without write permission, and their modes: they are opened for what still comes."""
    sync: Callable[[int], None] = sync_file_system
    sync_one: Callable[[int], None] = os.fsync
    between: Callable[[bytes], None] | None = None
    """See `Replacer.between`."""
    undone: set[bytes] = field(default_factory=set)
    """See `Replacer.undone`; what is seen of these is looked at once more before it is recorded."""


def apply_batch(context: ApplyContext, batch: Sequence[Pending]) -> list[Outcome]:
    """Put pending versions in place; see `Source.apply`.

    Raises:
        ShareHeld: The root is not what it was.
    """
    context.scan.check()
    context.scan.ignore.refresh()
    with Directories(context.scan.root) as directories:
        return Batch(context, directories).run(batch)


def reason_of(error: OSError) -> str:
    """Return an error in words for the user."""
    return REASONS.get(error.errno or 0) or f"cannot be written: {error.strerror or error}"


class Batch:
    """One batch on its way."""

    def __init__(self, context: ApplyContext, directories: Directories) -> None:
        self.context = context
        self.directories = directories
        self.local = context.local
        self.catalogue = context.scan.catalogue
        self.moved_away = context.scan.moved_away
        self.replacer = Replacer(directories, context.local.history, undone=context.undone)
        if context.between is not None:
            self.replacer.between = context.between
        self.folders = Folders(context.scan, self.replacer, context.read_only_made)
        self.preparer = Preparer(context.local, directories, ())
        self.outcomes: dict[bytes, Outcome] = {}
        self.attributes: dict[bytes, Attributes] = {}

    def run(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Do all steps and return the outcomes, deletes and surprises included."""
        accepted = [pending for pending in batch if self.accept(pending)]
        accepted.sort(key=lambda pending: pending.item.key)
        things = [one for one in accepted if one.item.kind in {Kind.FILE, Kind.SYMLINK}]
        news = [one for one in things if not content_is_in_place(one)]
        self.take_sources(news)
        self.each([one for one in accepted if one.item.kind is Kind.DIRECTORY], self.make_directory)
        self.preparer = Preparer(self.local, self.directories, [one.item for one in news])
        self.each(news, self.prepare)
        changes = [one for one in things if content_is_in_place(one)]
        few = len(accepted) <= FEW and not changes
        self.settle_contents(news, few=few)
        self.each(changes, self.change_metadata)
        self.each([one for one in news if not is_directory(one.base)], self.put)
        self.each([one for one in reversed(accepted) if not one.item.live], self.delete)
        self.each([one for one in news if is_directory(one.base)], self.put)
        self.preparer.drop_unused()
        self.finish_directories()
        self.local.history.sweep(self.directories)
        self.settle_names(accepted, few=few)
        self.remember()
        return list(self.outcomes.values())

    def each(self, pendings: Sequence[Pending], step: Callable[[Pending], None]) -> None:
        """Do one step for each that has no outcome yet, turning what goes wrong into outcomes."""
        for pending in pendings:
            key = pending.item.key
            if key in self.outcomes:
                continue
            try:
                step(pending)
            except ExpectedOther:
                self.outcomes[key] = Surprised(key=key)
            except Refused as refused:
                self.outcomes[key] = Failed(key=key, reason=str(refused))
            except OSError as error:
                self.outcomes[key] = self.trouble(key, error)

    def trouble(self, key: bytes, error: OSError) -> Outcome:
        """Return the outcome for an error of the file system."""
        if error.errno not in GONE:
            return Failed(key=key, reason=reason_of(error))
        # The folder is away, or a symlink stands in its place: a local change, if it is recorded as there.
        directory = split_key(key)[0]
        known = known_of(self.catalogue, [directory]).get(directory)
        if known is not None and known.state and not is_skipped(known.state):
            return Surprised(key=key)
        return Failed(key=key, reason="its folder is not here (yet)")

    def accept(self, pending: Pending) -> bool:
        """Return whether a version can be applied; else note its outcome."""
        item = pending.item
        key = item.key
        try:
            check_key(key)
            if item.kind is not Kind.TOMBSTONE:
                self.attributes[key] = checked_attributes(item)
        except (PathUnsafe, RemoteProtocolError) as error:
            self.outcomes[key] = Failed(key=key, reason=error.detail)
            return False
        kind_here = item.kind if item.live or pending.base is None else pending.base.item.kind
        if self.context.scan.ignore.ignored(key, directory=kind_here is Kind.DIRECTORY):
            self.outcomes[key] = Applied(key=key, state=SKIPPED if item.live else b"")
            return False
        if lies_beside_database(self.directories, key):
            self.outcomes[key] = Applied(key=key, state=SKIPPED if item.live else b"")
            return False
        return True

    def base_of(self, pending: Pending) -> Stored | None:
        """Return what is expected in a pending version's place."""
        base = pending.base
        if base is None or not base.state or is_skipped(base.state):
            return None
        # Moved to where another item wanted it, in this batch or an earlier one.
        return None if pending.item.key in self.moved_away else base

    # Steps
    def take_sources(self, news: Sequence[Pending]) -> None:
        """Take the files away that become others."""
        moves = [self.local.moves.pop(one.item.key, None) for one in news]
        sources = {stored.item.key: stored for stored in moves if stored is not None}
        if not sources:
            return
        waiting = self.catalogue.pending_of(list(sources))
        for key, stored in sources.items():
            now = waiting.get(key)
            if (
                now is None
                or now.item.kind is Kind.FILE
                or now.base is None
                or now.base.state != stored.state
                or stored.item.digest in self.local.staging.staged
            ):
                continue
            # Before the step: a scan at this moment is not to take the move for a deletion.
            self.moved_away.add(key)
            try:
                self.folders.enter(key)
                self.replacer.take_away(key, stored)
            except ExpectedOther:
                self.moved_away.discard(key)
                self.outcomes[key] = Surprised(key=key)
            except Refused:
                self.moved_away.discard(key)
            except OSError:
                self.moved_away.discard(key)  # its own deletion will say why

    def make_directory(self, pending: Pending) -> None:
        """Make a directory, or note that one is there."""
        key = pending.item.key
        self.folders.make(key, self.attributes[key], self.base_of(pending))
        self.moved_away.discard(key)

    def prepare(self, pending: Pending) -> None:
        """Make a file or symlink ready to get its name."""
        self.preparer.prepare(pending.item, self.attributes[pending.item.key])

    def put(self, pending: Pending) -> None:
        """Give a prepared file or symlink its name."""
        item = pending.item
        key = item.key
        base = self.base_of(pending)
        source = self.preparer.ready[key].path
        if base is not None and base.item.kind is Kind.DIRECTORY:
            status = self.replacer.status(key)
            if status is None or not stat.S_ISDIR(status.st_mode):
                raise ExpectedOther
            if self.is_kept(key):
                if isinstance(self.outcomes[key], Applied):
                    raise Refused("a folder of this name holds ignored files")
                return
            base = None
        self.folders.enter(key)
        if base is None:
            self.replacer.place(source, key)
        else:
            self.replacer.swap(source, key, base)
        self.moved_away.discard(key)
        before = self.preparer.placed(item)
        status = self.replacer.status(key)
        if status is not None and moved_matches(fingerprint(before), status):
            state = fingerprint(status)
        else:
            state = untrusted(fingerprint(before))  # edited already: the next scan sees that
        self.outcomes[key] = Applied(key=key, state=state)

    def change_metadata(self, pending: Pending) -> None:
        """Set mode and mtime of what is in place."""
        key = pending.item.key
        base = self.base_of(pending)
        if base is None:
            raise ExpectedOther
        state, status = change_in_place(self.replacer, pending.item, base, self.attributes[key])
        if status.st_nlink > 1:
            # What was set under one name holds for all: they are looked at, too.
            for name in self.context.scan.links.names.get(status.st_ino, set()) - {key}:
                self.outcomes.setdefault(name, Surprised(key=name))
        self.outcomes[key] = Applied(key=key, state=state)

    def delete(self, pending: Pending) -> None:
        """Delete what is in place."""
        key = pending.item.key
        base = self.base_of(pending)
        status = self.status_if_there(key) if base is not None else None
        if base is not None and status is not None:
            self.folders.enter(key)
            if base.item.kind is not Kind.DIRECTORY:
                self.replacer.take_away(key, base)
            elif not stat.S_ISDIR(status.st_mode):
                raise ExpectedOther
            elif self.is_kept(key):
                return
        self.moved_away.discard(key)
        self.outcomes[key] = Applied(key=key, state=b"")

    def status_if_there(self, key: bytes) -> os.stat_result | None:
        """Return the status of what has a key; None also where its folder is gone."""
        try:
            return self.replacer.status(key)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return None

    def is_kept(self, key: bytes) -> bool:
        """Remove a directory; return whether something keeps it, which is noted then."""
        kept = self.folders.remove(key)
        for outcome in kept:
            self.outcomes.setdefault(outcome.key, outcome)
        return bool(kept)

    # Ending
    def finish_directories(self) -> None:
        """Set mode and mtime of the directories that were made, changed or entered."""
        for key, result in self.folders.finish():
            if isinstance(result, OSError):
                self.outcomes[key] = self.trouble(key, result)
            else:
                self.outcomes[key] = Applied(key=key, state=result)

    def settle_contents(self, news: Sequence[Pending], *, few: bool) -> None:
        """Make contents durable; where that fails none of them gets its name."""
        try:
            self.sync_contents(few=few)
        except OSError as error:
            for one in news:
                self.outcomes.setdefault(one.item.key, Failed(key=one.item.key, reason=reason_of(error)))

    def settle_names(self, accepted: Sequence[Pending], *, few: bool) -> None:
        """Make names durable; where that fails nothing counts as applied: the next scan finds what is there."""
        try:
            self.sync_names(accepted, few=few)
        except OSError as error:
            for key, outcome in self.outcomes.items():
                if isinstance(outcome, Applied):
                    self.outcomes[key] = Failed(key=key, reason=reason_of(error))

    def sync_contents(self, *, few: bool) -> None:
        """Make durable what is about to get a name."""
        if not self.preparer.wrote:
            return
        if not few:
            self.context.sync(self.directories.root)
            return
        for prepared in self.preparer.ready.values():
            if not stat.S_ISREG(prepared.status.st_mode):
                continue
            directory, name = self.directories.parent(prepared.path)
            try:
                opened = os.open(name, OPEN_FLAGS, dir_fd=directory)
            except PermissionError:  # its new mode forbids it
                self.context.sync(self.directories.root)
                return
            try:
                self.context.sync_one(opened)
            finally:
                os.close(opened)

    def sync_names(self, accepted: Sequence[Pending], *, few: bool) -> None:
        """Make durable which names there are, with modes and times."""
        if not few:
            self.context.sync(self.directories.root)
            return
        folders = {split_key(one.item.key)[0] for one in accepted}
        folders.update(one.item.key for one in accepted if one.item.kind is Kind.DIRECTORY)
        for folder in folders:
            try:
                opened = self.directories.directory(folder)
            except OSError:
                continue  # deleted, or never made
            self.context.sync_one(opened)

    def remember(self) -> None:
        """Keep the new fingerprints: the events that the batch raised then cost no look into the store."""
        recent = self.context.scan.recent
        if len(recent) > RECENT_MAX:
            recent.clear()
        for key, outcome in self.outcomes.items():
            if isinstance(outcome, Applied) and outcome.state:
                recent[key] = outcome.state


def checked_attributes(item: Item) -> Attributes:
    """Return the metadata of a version that is to be put in place.

    Raises:
        RemoteProtocolError: It, or the kind, is not a folder's.
    """
    if item.kind not in {Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK}:
        raise RemoteProtocolError("An item of this kind cannot be in a folder")
    attributes = decode(item.meta)
    if (attributes.target is None) is (item.kind is Kind.SYMLINK):
        raise RemoteProtocolError("An item's metadata does not fit its kind")
    return attributes


def is_directory(base: Stored | None) -> bool:
    """Return whether what is in place is a directory."""
    return base is not None and base.item.kind is Kind.DIRECTORY
