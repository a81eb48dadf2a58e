"""Content on its way from staging, history or another file to a name: ready, with mode and mtime."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from p2psyncd.core.item import Item, Kind
from p2psyncd.sources.folder.attributes import Attributes
from p2psyncd.sources.folder.beneath import Directories, copy_content
from p2psyncd.sources.folder.content import EMPTY_DIGEST, OPEN_FLAGS
from p2psyncd.sources.folder.layout import HISTORY, STAGING, split_key
from p2psyncd.sources.folder.local import LocalContent
from p2psyncd.sources.folder.replace import Refused
from p2psyncd.sources.folder.xattrs import Xattrs, path_beneath, put_xattrs, read_xattrs

__all__ = ["Prepared", "Preparer"]


@dataclass(slots=True)
class Prepared:
    """A thing in staging or history that is about to get its name."""

    path: bytes
    status: os.stat_result
    scratch: bool
    """Whether to delete it if it does not get its name (else it is staged content, or history)."""


class Preparer:
    """The contents of one batch."""

    def __init__(self, local: LocalContent, directories: Directories, items: Iterable[Item]) -> None:
        """Begin; `items` are all that will be prepared: a content wanted twice is copied before it is used up."""
        self.local = local
        self.staging = local.staging
        self.history = local.history
        self.directories = directories
        self.uses = Counter(item.digest for item in items if item.kind is Kind.FILE)
        self.ready: dict[bytes, Prepared] = {}
        """By key."""
        self.wrote = False
        """Whether anything lies here that a crash could still take."""

    def prepare(self, item: Item, attributes: Attributes) -> None:
        """Make a file or symlink ready to get its name.

        Raises:
            Refused: Its content is not on this device.
            OSError: The disk is full, or failed.
        """
        if item.kind is Kind.SYMLINK:
            path, scratch = self.new_symlink(attributes), True
        else:
            path, scratch = self.find_content(item.digest)
        directory, name = split_key(path)
        try:
            opened = self.directories.directory(directory)
            if item.kind is Kind.FILE:
                self.put_xattrs(path, attributes)
                os.chmod(name, attributes.mode, dir_fd=opened)
            times = (attributes.mtime_ns, attributes.mtime_ns)
            os.utime(name, ns=times, dir_fd=opened, follow_symlinks=False)
            status = os.stat(name, dir_fd=opened, follow_symlinks=False)
        except FileNotFoundError:
            raise self.lost(item.digest) from None
        self.ready[item.key] = Prepared(path, status, scratch)

    def put_xattrs(self, path: bytes, attributes: Attributes) -> None:
        """Give a file its extended attributes and no others.

        Only what comes from history may have some: in staging they are all this program's own files.
        """
        is_old = path.startswith(HISTORY)
        if not is_old and not attributes.xattrs:
            return
        directory, name = self.directories.parent(path)
        target = path_beneath(directory, name)
        has: Xattrs = ()
        if is_old:
            os.chmod(name, 0o600, dir_fd=directory)  # reading and setting them takes the permission to
            has = read_xattrs(target, follow=False)
        if has == attributes.xattrs:
            return
        put_xattrs(target, attributes.xattrs, [name for name, _ in has], follow=False)

    def new_symlink(self, attributes: Attributes) -> bytes:
        """Return the path of a new symlink in staging."""
        name = self.staging.fresh_name()
        assert attributes.target is not None
        os.symlink(attributes.target, name, dir_fd=self.directories.ensure(STAGING))
        return STAGING + b"/" + name

    def find_content(self, digest: bytes) -> tuple[bytes, bool]:
        """Return the path of a content that may be used up, and whether it is a copy made for this."""
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
            usable = self.uses[digest] == 0 and not self.has_other_names(path)
            return (path, False) if usable else (self.copy_of(path), True)
        except FileNotFoundError:
            raise self.lost(digest) from None

    def has_other_names(self, path: bytes) -> bool:
        """Return whether a file in history is still in the share as well: its mode and time are that one's, too."""
        directory, name = self.directories.parent(path)
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_nlink > 1

    def copy_of(self, path: bytes) -> bytes:
        """Return the path of a copy: what lies there is wanted once more in this batch, or elsewhere."""
        directory, name = split_key(path)
        source = os.open(name, OPEN_FLAGS, dir_fd=self.directories.directory(directory))
        try:
            copied = self.staging.fresh_name()
            target = self.staging.create(copied)
            try:
                copy_content(source, target)
            except OSError:
                self.staging.remove(copied)
                raise
            finally:
                os.close(target)
        finally:
            os.close(source)
        self.wrote = True
        return STAGING + b"/" + copied

    def lost(self, digest: bytes) -> Refused:
        """Forget a content that somebody took out of staging or history; return what to raise."""
        self.staging.staged.discard(digest)
        self.history.departed.pop(digest, None)
        return Refused("its content is not here any more")

    def placed(self, item: Item) -> os.stat_result:
        """Note that a prepared thing got its name; return the status that it had."""
        prepared = self.ready.pop(item.key)
        if prepared.scratch:
            return prepared.status
        if prepared.path.startswith(HISTORY):
            self.history.departed.pop(item.digest, None)
            self.history.used.add(split_key(prepared.path)[0])
        else:
            self.staging.staged.discard(item.digest)
        return prepared.status

    def drop_unused(self) -> None:
        """Delete copies that did not get a name."""
        for prepared in self.ready.values():
            if prepared.scratch:
                self.staging.remove(split_key(prepared.path)[1])
