"""The directories of one batch: made, entered, removed, and in the end given their modes and times.

Changing a directory's entries changes its mtime, which is part of its item. So what a batch enters
gets its time back at the end, and a scan finds no change that was none.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Stored
from p2psyncd.sources.folder.attributes import Attributes, decode_or_plain
from p2psyncd.sources.folder.beneath import rename_new
from p2psyncd.sources.folder.catalogue import known_of
from p2psyncd.sources.folder.fingerprint import fingerprint, is_special, marked, matches
from p2psyncd.sources.folder.ignore import holds_only_ignored
from p2psyncd.sources.folder.layout import STAGING, split_key
from p2psyncd.sources.folder.replace import SPELLED_OTHERWISE, ExpectedOther, Refused, Replacer
from p2psyncd.sources.folder.scanning import ScanContext
from p2psyncd.sources.folder.xattrs import Xattrs, bounded, path_beneath, put_xattrs, read_xattrs
from p2psyncd.sources.source import Applied, Failed, Outcome, Surprised

__all__ = ["Folders"]

OWNER_WRITES = 0o300
NEW_DIRECTORY = b"directory.new"


class Folders:
    """See the top of the file."""

    def __init__(self, scan: ScanContext, replacer: Replacer, read_only_made: dict[bytes, int]) -> None:
        """Begin; `read_only_made` is kept from batch to batch, see `ApplyContext`."""
        self.scan = scan
        self.replacer = replacer
        self.directories = replacer.directories
        self.read_only_made = read_only_made
        self.entered: dict[bytes, os.stat_result] = {}
        """Directories whose entries changed, and their status before."""
        self.wanted: dict[bytes, Attributes] = {}
        """Directories of the batch, and what they are to be in the end."""
        self.had: dict[bytes, list[bytes]] = {}
        """Names of the extended attributes that they had before, as recorded."""

    def enter(self, key: bytes) -> tuple[int, bytes]:
        """Return the descriptor of a key's directory, whose entries are about to change, and the key's name."""
        directory, name = split_key(key)
        opened = self.directories.directory(directory)
        if directory and directory not in self.entered:
            self.entered[directory] = os.fstat(opened)
            mode = self.read_only_made.get(directory)
            if mode is not None:
                os.fchmod(opened, mode | OWNER_WRITES)
        return opened, name

    def make(self, key: bytes, attributes: Attributes, base: Stored | None) -> None:
        """Make a directory, or note that one is there.

        Raises:
            ExpectedOther: Something else is there than `base`.
            OSError: It cannot be made.
        """
        status = self.replacer.status(key)
        if base is not None and base.item.kind is Kind.DIRECTORY:
            if status is None or not matches(base.state, self.entered.get(key, status)):
                raise ExpectedOther
            self.expect_xattrs(key, base)
        elif status is not None and stat.S_ISDIR(status.st_mode) and base is None:
            self.directories.directory(key)  # EXDEV: a mount point
        else:
            if base is not None:
                self.enter(key)
                self.replacer.take_away(key, base)
            elif status is not None:
                raise ExpectedOther
            self.create(*self.enter(key), attributes)
            if attributes.mode & OWNER_WRITES != OWNER_WRITES:
                self.read_only_made[key] = attributes.mode
        self.wanted[key] = attributes

    def expect_xattrs(self, key: bytes, base: Stored) -> None:
        """Check that a directory has the extended attributes that are recorded: no time tells of a change.

        Raises:
            ExpectedOther: It has not.
        """
        opened = self.directories.directory(key)
        if marked(base.state, bounded(read_xattrs(opened))) != base.state:
            raise ExpectedOther
        self.had[key] = [name for name, _ in decode_or_plain(base.item.meta).xattrs]

    def create(self, directory: int, name: bytes, attributes: Attributes) -> None:
        """Make a directory that has its permissions and attributes as soon as it has its name.

        After a crash the next scan takes what it finds for the user's choice, and passes it on.

        Raises:
            ExpectedOther: The name is taken.
            Refused: It is taken under another spelling.
            OSError: It cannot be made.
        """
        staging = self.directories.ensure(STAGING)
        with suppress(FileNotFoundError):
            os.rmdir(NEW_DIRECTORY, dir_fd=staging)
        os.mkdir(NEW_DIRECTORY, 0o700, dir_fd=staging)
        if attributes.xattrs:
            put_xattrs(path_beneath(staging, NEW_DIRECTORY), attributes.xattrs, (), follow=False)
        os.chmod(NEW_DIRECTORY, (attributes.mode | OWNER_WRITES) & 0o777, dir_fd=staging)
        try:
            rename_new(staging, NEW_DIRECTORY, directory, name)
        except OSError as error:
            os.rmdir(NEW_DIRECTORY, dir_fd=staging)
            if error.errno == errno.EEXIST:
                if self.directories.misspelled(directory, name):
                    raise Refused(SPELLED_OTHERWISE) from None
                raise ExpectedOther from None
            raise

    def remove(self, key: bytes) -> list[Outcome]:
        """Remove a directory; where something keeps it, return the outcomes that this has."""
        opened, name = self.enter(key)
        self.directories.forget(key)
        try:
            os.rmdir(name, dir_fd=opened)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return self.kept(key)
        self.entered.pop(key, None)
        self.read_only_made.pop(key, None)
        return []

    def kept(self, key: bytes) -> list[Outcome]:
        """Return why a directory could not be removed.

        What is ignored keeps its directory: the deletion counts as done, and a scan does not take the
        directory for a new one as long as nothing else appears in it (see `scan.Run.is_kept`).
        """
        if holds_only_ignored(self.directories, self.scan.ignore, key):
            return [Applied(key=key, state=b"")]
        with os.scandir(self.directories.directory(key)) as entries:
            modes = {
                key + b"/" + os.fsencode(entry.name): entry.stat(follow_symlinks=False).st_mode
                for entry in entries
            }
        known = known_of(self.scan.catalogue, list(modes))
        unknown = [
            child
            for child, mode in modes.items()
            if (child not in known or not known[child].state)
            and not is_special(mode)
            and not self.scan.ignore.ignored(child, directory=stat.S_ISDIR(mode))
        ]
        if not unknown:
            return [Failed(key=key, reason="not deleted yet: what it holds is not deleted")]
        return [Surprised(key=child) for child in (key, *unknown)]

    def finish(self) -> Iterator[tuple[bytes, bytes | OSError]]:
        """Set modes and times, the deepest first; yield (key, fingerprint or error) of the batch's directories."""
        for key in sorted({*self.wanted, *self.entered}, reverse=True):
            wanted = self.wanted.get(key)
            try:
                opened = self.directories.directory(key)
                if wanted is None:
                    self.leave(key, opened)
                    continue
                taken = self.put_xattrs(key, opened, wanted)
                os.fchmod(opened, wanted.mode)
                if wanted.mode & OWNER_WRITES == OWNER_WRITES:
                    self.read_only_made.pop(key, None)
                os.utime(opened, ns=(wanted.mtime_ns, wanted.mtime_ns))
                yield key, marked(fingerprint(os.fstat(opened)), taken)
            except OSError as error:
                if wanted is not None:
                    yield key, error

    def put_xattrs(self, key: bytes, opened: int, wanted: Attributes) -> Xattrs:
        """Give a directory its extended attributes; return those that the file system took.

        Others that it has besides are the next scan's to find.
        """
        had = self.had.get(key, [])
        if not had and not wanted.xattrs:
            return ()
        os.fchmod(opened, wanted.mode | OWNER_WRITES)
        return put_xattrs(opened, wanted.xattrs, had)

    def leave(self, key: bytes, opened: int) -> None:
        """Give a directory that was only entered its mode and time back."""
        before = self.entered[key]
        if key in self.read_only_made:
            os.fchmod(opened, before.st_mode & 0o7777)
        os.utime(opened, ns=(before.st_atime_ns, before.st_mtime_ns))
