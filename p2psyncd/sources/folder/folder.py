"""The folder source: one shared folder behind the engine's interface."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import ShareId
from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.errors import BadRequest
from p2psyncd.sources.folder.apply import ApplyContext, apply_batch
from p2psyncd.sources.folder.attributes import content_dot, decode_or_plain
from p2psyncd.sources.folder.beneath import (
    Directories,
    copy_content,
    open_beneath,
    open_root,
    rename_new,
)
from p2psyncd.sources.folder.catalogue import Catalogue
from p2psyncd.sources.folder.conflicts import copies_begin, is_conflict, is_copy_of, lost_write
from p2psyncd.sources.folder.content import OPEN_FLAGS, digest_of, digest_of_descriptor
from p2psyncd.sources.folder.databases import Snapshots
from p2psyncd.sources.folder.durable import make_durable
from p2psyncd.sources.folder.fingerprint import fingerprint, is_live_state, matches, stamped_finely, untrusted
from p2psyncd.sources.folder.guard import RootGuard
from p2psyncd.sources.folder.history import History, HistoryLimits
from p2psyncd.sources.folder.ignore import Ignore
from p2psyncd.sources.folder.layout import STAGING, check_key
from p2psyncd.sources.folder.local import LocalContent
from p2psyncd.sources.folder.merge import aside, deletion, merge
from p2psyncd.sources.folder.scan import scan
from p2psyncd.sources.folder.scanning import ScanContext
from p2psyncd.sources.folder.staging import StagedWriter, Staging
from p2psyncd.sources.folder.verify import Problem, verify
from p2psyncd.sources.folder.watch import Watcher
from p2psyncd.sources.folder.witness import read_witness, write_witness
from p2psyncd.sources.folder.xattrs import put_xattrs
from p2psyncd.sources.source import Dirty, ItemError, Merged, Observation, Outcome, Unapplied

__all__ = ["FileReader", "FolderSource"]


class FileReader:
    """An opened file of the share; see `ContentReader`."""

    def __init__(self, descriptor: int, status: os.stat_result) -> None:
        self.descriptor = descriptor
        self.size = status.st_size
        self.state = fingerprint(status)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes.

        Raises:
            OSError: The file is shorter now.
        """
        data = os.pread(self.descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self.descriptor, length - len(data), offset + len(data))
            if not more:
                raise OSError("the file is shorter than recorded")
            data += more
        return data

    def unchanged(self) -> bool:
        """Return whether the file still has the fingerprint it was opened with."""
        return fingerprint(os.fstat(self.descriptor)) == self.state

    def close(self) -> None:
        """Release the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class FolderSource:
    """A shared folder; implements `sources.source.Source`."""

    whole = False

    def __init__(
        self,
        root: Path,
        share_id: ShareId,
        catalogue: Catalogue,
        clock: Clock,
        *,
        limits: HistoryLimits | None = None,
        filesystem: int | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        """Open a folder that has its marker (`guard.create_marker`).

        Args:
            root: The folder's real path.
            share_id: Whose marker it must hold.
            catalogue: The share's storage; read only, in the replica's thread.
            clock: For the age of files and the time of history.
            limits: How much history is kept.
            filesystem: `filesystem` of an earlier run: another one now holds the share.
            log: Where to write; default: this module's.
        """
        self.root = root
        self.log = log or logging.getLogger(__name__)
        self.guard = RootGuard(root, share_id, filesystem=filesystem)
        self.ignore = Ignore(root)
        self.staging = Staging(root, lambda: clock.now_us() / 1_000_000)
        self.history = History(root, clock, limits or HistoryLimits())
        self.watcher = Watcher(root, self.ignore)
        self.catalogue = catalogue
        self.times_probed = False
        self.snapshots = Snapshots(root)
        self.scanning = ScanContext(
            root=root,
            catalogue=catalogue,
            ignore=self.ignore,
            clock=clock,
            check=self.guard.check,
            snapshots=self.snapshots,
        )
        self.local = LocalContent(
            root=root, catalogue=catalogue, staging=self.staging, history=self.history, ignore=self.ignore
        )
        self.applying = ApplyContext(scan=self.scanning, local=self.local)

    # The root
    def check(self) -> None:
        """Raise `ShareHeld` when the root is not what it was."""
        self.guard.check()

    def approve(self, *, catch_up: bool = False) -> None:
        """Take the root as it is now, on whatever file system: the user approved it.

        Raises:
            BadRequest: `catch_up` is asked of it: a folder knows no earlier state of itself as a whole.
            ShareHeld: It is still no folder with this share's marker.
        """
        if catch_up:
            raise BadRequest("--catch-up is for databases; a folder is taken as it is now")
        self.guard.accept()

    @property
    def filesystem(self) -> int | None:
        """Identity of the root's file system, to be handed to the constructor next time; None before `check`."""
        return self.guard.filesystem

    @property
    def limited(self) -> str | None:
        """Why not everything is watched (then scans find the rest, a little later), in words for the user."""
        return self.watcher.limited

    @property
    def waiting(self) -> str:
        """What the whole share waits for: nothing; a file that waits says so itself."""
        return ""

    @property
    def limited_command(self) -> str | None:
        """The command that lets everything be watched; None while everything is."""
        return self.watcher.limited_command

    @property
    def databases_in_use(self) -> list[bytes]:
        """Keys of the SQLite databases that some program had open when they were last looked at."""
        return sorted(self.snapshots.taken.copy())

    @property
    def hard_links(self) -> list[list[bytes]]:
        """The keys of each file that has several names in the share; each is synced as a file of its own."""
        return self.scanning.links.groups()

    # Scanning and watching
    def scan(self, dirty: Dirty) -> Iterator[Observation | ItemError | Unapplied]:
        """Compare what is there with what the store lists; see `Source.scan`.

        An observation whose draft says the same as the stored item brings only a new fingerprint.
        What did not hold still while it was read is in `take_busy` afterwards.

        Raises:
            ShareHeld: The root is not what it was.
        """
        self.guard.check()
        self.probe_times()
        yield from scan(self.scanning, dirty)

    def probe_times(self) -> None:
        """Find out, once, how finely the file system stamps changes."""
        if self.times_probed:
            return
        try:
            with Directories(self.root) as directories:
                self.scanning.fine_times = stamped_finely(directories.ensure(STAGING))
        except OSError:
            self.scanning.fine_times = False
        self.times_probed = True

    def take_busy(self) -> Dirty:
        """Return what earlier scans could not read because it kept changing, and forget it."""
        busy = frozenset(self.scanning.busy)
        self.scanning.busy.clear()
        return Dirty(subtrees=frozenset({b""})) if b"" in busy else Dirty(keys=busy)

    def confirm(self, observations: Sequence[Observation]) -> list[Observation]:
        """Return the observations that still hold; see `Source.confirm`.

        Directories pass through states of their own: applying changes their mtime with every child, and puts it back at
        the end. So does what a local edit made us put back: seen in between, a version that came passed for one that is
        in place, and the edit for one in knowledge of it. What is returned is on the disk (see `durable`).

        Raises:
            OSError: The disk failed, or took no more: nothing of it may be announced.
        """
        with Directories(self.root) as directories:
            confirmed = [
                one
                for one in observations
                if (one.draft.kind is not Kind.DIRECTORY and one.draft.key not in self.applying.undone)
                or self.is_as_seen(directories, one)
            ]
            self.applying.undone.difference_update([one.draft.key for one in confirmed])
            make_durable(directories, confirmed, sync=self.applying.sync, sync_one=self.applying.sync_one)
        return confirmed

    def is_as_seen(self, directories: Directories, one: Observation) -> bool:
        """Return whether what has a name is still as it was read, or still not there."""
        try:
            status = directories.status(one.draft.key)
        except OSError:
            return False
        if one.draft.kind is Kind.TOMBSTONE:
            return status is None
        return status is not None and matches(one.state, status)

    async def watch(self, notify: Callable[[Dirty], None], *, task_status: trio.TaskStatus[None]) -> None:
        """Report where changes may be, until cancelled; see `Source.watch`."""
        self.ignore.refresh()
        await self.watcher.run(notify, task_status=task_status)

    def told(self) -> Dirty:
        """Return at once what the watch has been told of so far."""
        return self.watcher.told(trio.current_time())

    # Deciding
    def merge(self, ours: Item, theirs: Item) -> Merged:
        """Decide about two concurrent versions of one key."""
        return merge(ours, theirs)

    def buried(self, item: Item) -> Draft:
        """Return a tombstone, which says nothing of what was there."""
        return Draft(key=item.key, kind=Kind.TOMBSTONE)

    def knows_baseline(self, item: Item, baseline: Item) -> bool:
        """Return True: files are versions of somebody's, whenever they came."""
        return True

    def mend(self, changed: Collection[bytes]) -> list[Draft]:
        """Return nothing: the shape of a tree is the engine's to settle."""
        return []

    @property
    def due(self) -> bool:
        """Return False: what a scan finds is all that there is to be kept."""
        return False

    def keep(self) -> None:
        """Keep nothing."""

    @property
    def rest_s(self) -> float:
        """Return 0: nobody is locked out of a folder."""
        return 0.0

    @property
    def unsettled(self) -> Collection[bytes]:
        """Return nothing: what is in one file has no consequences for others."""
        return ()

    @property
    def unmended(self) -> Collection[bytes]:
        """Return nothing: see `mend`."""
        return ()

    def unsettle(self, changed: Collection[bytes]) -> None:
        """Note nothing."""

    def noted(self, outcomes: Sequence[Outcome]) -> None:
        """Note nothing."""

    def reshow(self) -> list[Outcome]:
        """Show nothing anew."""
        return []

    def is_conflict(self, key: bytes) -> bool:
        """Return whether a key names a conflict copy."""
        return is_conflict(key)

    def copies_begin(self, key: bytes) -> bytes:
        """Return how the keys of an item's conflict copies begin."""
        return copies_begin(key)

    def is_copy_of(self, copy: bytes, key: bytes) -> bool:
        """Return whether a key names a conflict copy of an item."""
        return is_copy_of(copy, key)

    def deletion(self, item: Item) -> Draft:
        """Return the draft of a delete of an item."""
        return deletion(item)

    def made_by(self, item: Item) -> Dot:
        """Return the write that made an item's content."""
        return content_dot(item, decode_or_plain(item.meta))

    def lost_write(self, copy: Item) -> Dot | None:
        """Return the write whose content a conflict copy was made of; see `Source.lost_write`."""
        return lost_write(copy)

    def stamped_again(self, item: Item, dot: Dot, since: int) -> Item:
        """Return a version of our own as another write."""
        return replace(item, dot=dot)

    def aside(self, item: Item) -> Draft:
        """Return a losing version as its conflict copy."""
        return aside(item)

    # Content
    def stage_local(self, wanted: Sequence[Pending]) -> set[bytes]:
        """Find content on this device; see `Source.stage_local`."""
        return self.local.stage(wanted)

    def writer(self, digest: bytes, size: int) -> StagedWriter:
        """Begin staging a content that comes from a peer; used by one thread, many writers at a time are fine."""
        return StagedWriter(self.staging, digest, size)

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Stage a small content in one step; any thread."""
        self.staging.put_content(digest, data)

    def reader(self, stored: Stored) -> FileReader | None:
        """Open an applied item's content; None if it is no longer there as recorded. Any thread."""
        if stored.item.kind is not Kind.FILE or not stored.state:
            return None
        path: bytes | None = stored.item.key
        live = is_live_state(stored.state)
        try:
            check_key(stored.item.key)
            if live:
                path = self.snapshots.path(stored.item.key, stored.item.digest)
            if path is None:
                return None
            root = open_root(self.root)
        except OSError:
            return None
        try:
            opened = open_beneath(root, path, OPEN_FLAGS)
        except OSError:
            return None
        finally:
            os.close(root)
        status = os.fstat(opened)
        if not live and not matches(stored.state, status):
            os.close(opened)
            return None
        return FileReader(opened, status)

    # Applying
    def apply(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Put pending versions in place; see `Source.apply`.

        Outcomes may name further keys as surprised: unknown files in a directory to be deleted.

        Raises:
            ShareHeld: The root is not what it was.
        """
        return apply_batch(self.applying, batch)

    def preserve(self, stored: Stored, key: bytes) -> bytes | None:
        """Copy an applied thing's bytes to a new name, durably; see `Source.preserve`.

        Where the name is taken, what has it stays, and the state returned makes the next scan read it.

        Raises:
            OSError: The copy cannot be written.
        """
        check_key(key)
        with Directories(self.root) as directories:
            name = self.copy_of(directories, stored)
            if name is None:
                return None
            try:
                target, new = directories.parent(key)
                before = os.fstat(target)
                rename_new(directories.directory(STAGING), name, target, new)
            except FileExistsError:
                self.staging.remove(name)
                status = directories.status(key)
                return None if status is None else untrusted(fingerprint(status))
            except OSError:
                self.staging.remove(name)
                raise
            # A copy is no work in that directory: its new time would be announced as a version.
            with suppress(PermissionError):
                os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.fsync(target)
            status = os.stat(new, dir_fd=target, follow_symlinks=False)
        return fingerprint(status)

    def copy_of(self, directories: Directories, stored: Stored) -> bytes | None:
        """Return the name, in staging, of a durable copy; None if the thing is not as recorded."""
        status = directories.status(stored.item.key)
        if status is None or not matches(stored.state, status):
            return None
        directory, name = directories.parent(stored.item.key)
        attributes = decode_or_plain(stored.item.meta)
        times = (attributes.mtime_ns, attributes.mtime_ns)
        staging = directories.ensure(STAGING)
        copied = self.staging.fresh_name()
        if stored.item.kind is Kind.SYMLINK:
            target = os.readlink(name, dir_fd=directory)
            if digest_of(target) != stored.item.digest:
                return None
            os.symlink(target, copied, dir_fd=staging)
            os.utime(copied, ns=times, dir_fd=staging, follow_symlinks=False)
            return copied
        if is_live_state(stored.state):
            snapshot = self.snapshots.path(stored.item.key, stored.item.digest)
            if snapshot is None:
                return None
            directory, name = directories.parent(snapshot)
        source = os.open(name, OPEN_FLAGS, dir_fd=directory)
        try:
            target_file = self.staging.create(copied)
            try:
                copy_content(source, target_file)
                same = digest_of_descriptor(target_file)[0] == stored.item.digest
                put_xattrs(target_file, attributes.xattrs, ())
                os.fchmod(target_file, attributes.mode)
                os.utime(target_file, ns=times)
                os.fsync(target_file)
            except OSError:
                self.staging.remove(copied)  # the disk is full, say: it needs the room
                raise
            finally:
                os.close(target_file)
        finally:
            os.close(source)
        if not same:
            self.staging.remove(copied)
            return None
        return copied

    # The state's last opening
    def witness(self) -> bytes | None:
        """Return what `put_witness` left; None if nothing did, or it cannot be read."""
        return read_witness(self.root)

    def put_witness(self, witness: bytes) -> None:
        """Leave a mark of the state's last opening beside the data; see `Source.put_witness`."""
        write_witness(self.root, witness)

    # Keeping house
    def tidy(self, keep: Sequence[bytes] = ()) -> int:
        """Empty staging but for the contents with these digests; at start-up, and when nothing is pending."""
        self.snapshots.tidy()
        return self.staging.tidy(keep)

    def prune(self, share_bytes: int) -> int:
        """Hold history to its limits; return the bytes that it takes then."""
        return self.history.prune(share_bytes)

    def verify(self) -> Iterator[Problem]:
        """Read everything again and yield what differs from the record.

        Raises:
            ShareHeld: The root is not what it was.
        """
        self.guard.check()
        self.ignore.refresh()
        with Directories(self.root) as directories:
            yield from verify(directories, self.catalogue, self.ignore)

    def free_bytes(self) -> tuple[int, int]:
        """Return (free for this user, total) bytes of the root's file system; for `core.guard.has_room`."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
