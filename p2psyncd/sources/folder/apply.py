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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.errors import PathUnsafe, RemoteProtocolError
from p2psyncd.sources.folder.attributes import Attributes, decode
from p2psyncd.sources.folder.beneath import Directories, copy_content, sync_file_system
from p2psyncd.sources.folder.catalogue import known_of
from p2psyncd.sources.folder.content import EMPTY_DIGEST, OPEN_FLAGS
from p2psyncd.sources.folder.fingerprint import (
    SKIPPED,
    fingerprint,
    is_skipped,
    is_special,
    matches,
    moved_matches,
    untrusted,
)
from p2psyncd.sources.folder.layout import HISTORY, STAGING, check_key, split_key
from p2psyncd.sources.folder.local import LocalContent, content_is_in_place
from p2psyncd.sources.folder.replace import ExpectedOther, Refused, Replacer
from p2psyncd.sources.folder.scan import GONE, ScanContext, holds_only_ignored
from p2psyncd.sources.source import Applied, Failed, Outcome, Surprised

__all__ = ["ApplyContext", "apply_batch"]

OWNER_WRITES = 0o300
RECENT_MAX = 20_000
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
    between: Callable[[bytes], None] | None = None
    """See `Replacer.between`."""


@dataclass(slots=True)
class Prepared:
    """A thing in staging or history that is about to get its name."""

    path: bytes
    status: os.stat_result
    scratch: bool
    """Whether to delete it if it does not get its name (else it is staged content, or history)."""


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
        self.staging = context.local.staging
        self.history = context.local.history
        self.catalogue = context.scan.catalogue
        self.replacer = Replacer(directories, self.history)
        if context.between is not None:
            self.replacer.between = context.between
        self.outcomes: dict[bytes, Outcome] = {}
        self.attributes: dict[bytes, Attributes] = {}
        self.touched: dict[bytes, os.stat_result] = {}
        """Directories whose entries changed, and their status before."""
        self.finish: dict[bytes, Attributes] = {}
        """Directories of the batch, and what they are to be in the end."""
        self.prepared: dict[bytes, Prepared] = {}
        self.uses: Counter[bytes] = Counter()
        self.wrote = False

    def run(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Do all steps and return the outcomes, deletes and surprises included."""
        accepted = [pending for pending in batch if self.accept(pending)]
        accepted.sort(key=lambda pending: pending.item.key)
        directories = [one for one in accepted if one.item.kind is Kind.DIRECTORY]
        deletes = [one for one in accepted if one.item.kind is Kind.TOMBSTONE]
        things = [one for one in accepted if one.item.kind in {Kind.FILE, Kind.SYMLINK}]
        changes = [one for one in things if content_is_in_place(one)]
        news = [one for one in things if not content_is_in_place(one)]
        replaced = [one for one in news if is_directory(one.base)]
        plain = [one for one in news if not is_directory(one.base)]
        self.take_sources(news)
        self.each(directories, self.make_directory)
        self.uses.update(one.item.digest for one in news if one.item.kind is Kind.FILE)
        self.each(news, self.prepare)
        if self.wrote:
            self.context.sync(self.directories.root)
        self.each(changes, self.change_metadata)
        self.each([one for one in plain if one.item.key in self.prepared], self.put)
        self.each(deletes[::-1], self.delete)
        self.each([one for one in replaced if one.item.key in self.prepared], self.put)
        self.drop_unused()
        self.finish_directories()
        self.history.sweep(self.directories)
        self.context.sync(self.directories.root)
        self.remember()
        return list(self.outcomes.values())

    def each(self, pendings: Sequence[Pending], step: Callable[[Pending], None]) -> None:
        """Do one step for each, turning what goes wrong into outcomes."""
        for pending in pendings:
            key = pending.item.key
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
        return True

    # Entering directories
    def enter(self, key: bytes) -> tuple[int, bytes]:
        """Return the descriptor of a key's directory, whose entries are about to change, and the key's name."""
        directory, name = split_key(key)
        opened = self.directories.directory(directory)
        if directory and directory not in self.touched:
            self.touched[directory] = os.fstat(opened)
            mode = self.context.read_only_made.get(directory)
            if mode is not None:
                os.fchmod(opened, mode | OWNER_WRITES)
        return opened, name

    def base_of(self, pending: Pending) -> Stored | None:
        """Return what is expected in a pending version's place."""
        base = pending.base
        if base is None or not base.state or is_skipped(base.state):
            return None
        # Moved to where another item wanted it, in this batch or an earlier one.
        return None if pending.item.key in self.context.scan.moved_away else base

    # Steps
    def take_sources(self, news: Sequence[Pending]) -> None:
        """Take the files away that become others."""
        moves = {one.item.key: self.local.moves.pop(one.item.key, None) for one in news}
        sources = {stored.item.key: stored for stored in moves.values() if stored is not None}
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
                or stored.item.digest in self.staging.staged
            ):
                continue
            # Before the step: a scan at this moment is not to take the move for a deletion.
            self.context.scan.moved_away.add(key)
            try:
                self.enter(key)
                self.replacer.take_away(key, stored)
            except ExpectedOther:
                self.context.scan.moved_away.discard(key)
                self.outcomes[key] = Surprised(key=key)
            except OSError:
                self.context.scan.moved_away.discard(key)  # its own deletion will say why

    def make_directory(self, pending: Pending) -> None:
        """Make a directory, or note that one is there."""
        key = pending.item.key
        base = self.base_of(pending)
        status = self.replacer.status(key)
        if base is not None and base.item.kind is Kind.DIRECTORY:
            if status is None or not matches(base.state, self.touched.get(key, status)):
                raise ExpectedOther
        elif status is not None and stat.S_ISDIR(status.st_mode) and base is None:
            self.directories.directory(key)  # EXDEV: a mount point
        else:
            if base is not None:
                self.enter(key)
                self.replacer.take_away(key, base)
            elif status is not None:
                raise ExpectedOther
            opened, name = self.enter(key)
            try:
                os.mkdir(name, 0o700, dir_fd=opened)
            except FileExistsError:
                raise ExpectedOther from None
            mode = self.attributes[key].mode
            if mode & OWNER_WRITES != OWNER_WRITES:
                self.context.read_only_made[key] = mode
        self.context.scan.moved_away.discard(key)
        self.finish[key] = self.attributes[key]

    def prepare(self, pending: Pending) -> None:
        """Make content ready to get its name, with mode and mtime."""
        item = pending.item
        attributes = self.attributes[item.key]
        if item.kind is Kind.SYMLINK:
            path, scratch = self.new_symlink(attributes), True
        else:
            path, scratch = self.find_content(item)
        directory, name = split_key(path)
        try:
            opened = self.directories.directory(directory)
            if item.kind is Kind.FILE:
                os.chmod(name, attributes.mode, dir_fd=opened)
            times = (attributes.mtime_ns, attributes.mtime_ns)
            os.utime(name, ns=times, dir_fd=opened, follow_symlinks=False)
            status = os.stat(name, dir_fd=opened, follow_symlinks=False)
        except FileNotFoundError:
            raise self.lost(item.digest) from None
        self.prepared[item.key] = Prepared(path, status, scratch)

    def lost(self, digest: bytes) -> Refused:
        """Forget a content that somebody took out of staging or history; return what to raise."""
        self.staging.staged.discard(digest)
        self.history.departed.pop(digest, None)
        return Refused("its content is not here any more")

    def new_symlink(self, attributes: Attributes) -> bytes:
        """Return the path of a new symlink in staging."""
        name = self.staging.fresh_name()
        assert attributes.target is not None
        os.symlink(attributes.target, name, dir_fd=self.directories.ensure(STAGING))
        return STAGING + b"/" + name

    def find_content(self, item: Item) -> tuple[bytes, bool]:
        """Return the path of a content that may be used up, and whether it is a copy made for this."""
        digest = item.digest
        self.uses[digest] -= 1
        if digest == EMPTY_DIGEST and digest not in self.staging.staged:
            name = self.staging.fresh_name()
            os.close(self.staging.create(name))
            return STAGING + b"/" + name, True
        if digest in self.staging.staged:
            path = STAGING + b"/" + digest.hex().encode()
            self.wrote = True
        elif digest in self.history.departed:
            path = self.history.departed[digest]
        elif self.local.copy(self.directories, digest):
            path = STAGING + b"/" + digest.hex().encode()
            self.wrote = True
        else:
            raise self.lost(digest)
        try:
            return (path, False) if self.uses[digest] == 0 else (self.copy_of(path), True)
        except FileNotFoundError:
            raise self.lost(digest) from None

    def copy_of(self, path: bytes) -> bytes:
        """Return the path of a copy: the same content is wanted once more in this batch."""
        directory, name = split_key(path)
        source = os.open(name, OPEN_FLAGS, dir_fd=self.directories.directory(directory))
        try:
            copied = self.staging.fresh_name()
            target = self.staging.create(copied)
            try:
                copy_content(source, target)
            finally:
                os.close(target)
        finally:
            os.close(source)
        self.wrote = True
        return STAGING + b"/" + copied

    def put(self, pending: Pending) -> None:
        """Give a prepared file or symlink its name."""
        item = pending.item
        key = item.key
        prepared = self.prepared[key]
        base = self.base_of(pending)
        if base is not None and base.item.kind is Kind.DIRECTORY:
            if not self.remove_directory(key):
                if isinstance(self.outcomes[key], Applied):
                    raise Refused("a folder of this name holds ignored files")
                return
            base = None
        opened, name = self.enter(key)
        if base is None:
            self.replacer.place(prepared.path, key)
        else:
            self.replacer.swap(prepared.path, key, base)
            opened, name = self.directories.parent(key)
        del self.prepared[key]
        self.context.scan.moved_away.discard(key)
        if not prepared.scratch:
            self.used_up(prepared.path, item.digest)
        try:
            status = os.stat(name, dir_fd=opened, follow_symlinks=False)
        except FileNotFoundError:
            status = None
        if status is not None and moved_matches(fingerprint(prepared.status), status):
            state = fingerprint(status)
        else:
            state = untrusted(fingerprint(prepared.status))  # edited already: the next scan sees that
        self.outcomes[key] = Applied(key=key, state=state)

    def used_up(self, path: bytes, digest: bytes) -> None:
        """Note that a content left staging or history."""
        if path.startswith(HISTORY):
            self.history.departed.pop(digest, None)
            self.history.used.add(split_key(path)[0])
        else:
            self.staging.staged.discard(digest)

    def change_metadata(self, pending: Pending) -> None:
        """Set mode and mtime of what is in place."""
        key = pending.item.key
        base = self.base_of(pending)
        if base is None:
            raise ExpectedOther
        attributes = self.attributes[key]
        self.replacer.expect(key, base)
        self.replacer.between(key)
        directory, name = self.directories.parent(key)
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not matches(base.state, os.fstat(opened)):
                raise ExpectedOther
            if pending.item.kind is Kind.SYMLINK:
                times = (attributes.mtime_ns, attributes.mtime_ns)
                os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                state = fingerprint(status)
            else:
                # The descriptor's own path: it cannot be another file than the one just looked at.
                path = Path(f"/proc/self/fd/{opened}")
                path.chmod(attributes.mode)
                os.utime(path, ns=(attributes.mtime_ns, attributes.mtime_ns))
                # An edit in the last microseconds would hide behind the mtime just set: read it again.
                state = untrusted(fingerprint(os.fstat(opened)))
        finally:
            os.close(opened)
        self.outcomes[key] = Applied(key=key, state=state)

    # Deleting
    def delete(self, pending: Pending) -> None:
        """Delete what is in place."""
        key = pending.item.key
        base = self.base_of(pending)
        if base is not None:
            try:
                status = self.replacer.status(key)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                status = None
            if status is not None:
                self.enter(key)
                if base.item.kind is Kind.DIRECTORY:
                    if not stat.S_ISDIR(status.st_mode):
                        raise ExpectedOther
                    if not self.remove_directory(key):
                        return
                else:
                    self.replacer.take_away(key, base)
        self.context.scan.moved_away.discard(key)
        self.outcomes[key] = Applied(key=key, state=b"")

    def remove_directory(self, key: bytes) -> bool:
        """Remove a directory; where something keeps it, note the outcome and return False."""
        opened, name = self.enter(key)
        self.directories.forget(key)
        try:
            os.rmdir(name, dir_fd=opened)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self.kept_directory(key)
            return False
        self.touched.pop(key, None)
        self.context.read_only_made.pop(key, None)
        return True

    def kept_directory(self, key: bytes) -> None:
        """Note why a directory could not be removed.

        What is ignored keeps its directory: the deletion counts as done, and a scan does not take the
        directory for a new one as long as nothing else appears in it (see `scan.is_kept`).
        """
        if holds_only_ignored(self.directories, self.context.scan.ignore, key):
            self.outcomes[key] = Applied(key=key, state=b"")
            return
        with os.scandir(self.directories.directory(key)) as entries:
            modes = {
                key + b"/" + os.fsencode(entry.name): entry.stat(follow_symlinks=False).st_mode
                for entry in entries
            }
        known = known_of(self.catalogue, list(modes))
        unknown = []
        for child, mode in modes.items():
            if self.context.scan.ignore.ignored(child, directory=stat.S_ISDIR(mode)) or is_special(mode):
                continue
            if child not in known or not known[child].state:
                unknown.append(child)
        if not unknown:
            self.outcomes[key] = Failed(key=key, reason="not deleted yet: what it holds is not deleted")
            return
        for child in unknown:
            self.outcomes.setdefault(child, Surprised(key=child))
        self.outcomes[key] = Surprised(key=key)

    # Ending
    def drop_unused(self) -> None:
        """Delete copies that did not get a name."""
        for prepared in self.prepared.values():
            if prepared.scratch:
                self.staging.remove(split_key(prepared.path)[1])

    def finish_directories(self) -> None:
        """Set mode and mtime of the directories that were made, changed or entered, the deepest first."""
        for key in sorted({*self.finish, *self.touched}, reverse=True):
            wanted = self.finish.get(key)
            before = self.touched.get(key)
            try:
                opened = self.directories.directory(key)
                if wanted is not None:
                    os.fchmod(opened, wanted.mode)
                    if wanted.mode & OWNER_WRITES == OWNER_WRITES:
                        self.context.read_only_made.pop(key, None)
                    os.utime(opened, ns=(wanted.mtime_ns, wanted.mtime_ns))
                elif before is not None:
                    if key in self.context.read_only_made:
                        os.fchmod(opened, before.st_mode & 0o7777)
                    os.utime(opened, ns=(before.st_atime_ns, before.st_mtime_ns))
                state = fingerprint(os.fstat(opened))
            except OSError as error:
                if wanted is not None:
                    self.outcomes[key] = self.trouble(key, error)
                continue
            if wanted is not None:
                self.outcomes[key] = Applied(key=key, state=state)

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
