"""Replacing one thing, without a moment in which a local edit could be lost.

A thing is never overwritten: it trades places with the new one in a single step, and lands in
history by that very step. Only then is looked at what came out. If it is not what was to be
replaced, somebody edited it after the last look: it goes back, and nothing happened. A crash at any
point leaves the old thing or the new one under the name, and the other in history or in staging.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Stored
from p2psyncd.sources.folder.beneath import Directories, exchange, rename_new
from p2psyncd.sources.folder.content import OPEN_FLAGS, digest_of, digest_of_descriptor
from p2psyncd.sources.folder.databases import in_use, is_beside_database, is_left_over
from p2psyncd.sources.folder.fingerprint import is_trusted, matches, moved_matches
from p2psyncd.sources.folder.history import History
from p2psyncd.sources.folder.layout import split_key

__all__ = ["SPELLED_OTHERWISE", "ExpectedOther", "Refused", "Replacer", "content_matches"]

# What came out is read again up to this size; above it, inode, size and times must do.
READ_AGAIN_BYTES_MAX = 256 * 1024
PUT_BACK_MAX = 16
IN_USE = (
    "in use here: a program has this database open, or left work in what lies beside it (-wal, -journal); "
    "it is updated once the program has closed it"
)
SPELLED_OTHERWISE = "another spelling of this name is taken here already"


class ExpectedOther(Exception):
    """Something else is there than the version that was to be replaced."""


class Refused(Exception):
    """It cannot be done; the text is for the user."""


def content_matches(directory: int, name: bytes, stored: Stored) -> bool:
    """Return whether a file or symlink holds the content that its item says."""
    if stored.item.kind is Kind.SYMLINK:
        return digest_of(os.readlink(name, dir_fd=directory)) == stored.item.digest
    opened = os.open(name, OPEN_FLAGS, dir_fd=directory)
    try:
        return digest_of_descriptor(opened)[0] == stored.item.digest
    finally:
        os.close(opened)


def nothing(key: bytes) -> None:
    """Do nothing: what happens between the look and the step, outside of tests."""


@dataclass(slots=True)
class Replacer:
    """The steps of one batch; all paths are relative to the share's root."""

    directories: Directories
    history: History
    between: Callable[[bytes], None] = nothing
    """Called between the last look at a key and the step that replaces it: tests edit there."""
    undone: set[bytes] = field(default_factory=set)
    """Keys of which a step was undone: who looked in between saw what nobody put there."""

    def status(self, key: bytes) -> os.stat_result | None:
        """Return the status of what has a key, if anything.

        Raises:
            OSError: Its folder is not there, or it cannot be known.
        """
        directory, name = self.directories.parent(key)
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return None if self.directories.misspelled(directory, name) else found

    def expect(self, key: bytes, base: Stored) -> os.stat_result:
        """Check that a key holds what is recorded of it.

        Raises:
            ExpectedOther: It does not.
            Refused: It is a database that a program has open.
        """
        status = self.status(key)
        self.expect_unused(key)
        if status is None or not matches(base.state, status):
            raise ExpectedOther
        if not is_trusted(base.state) and base.item.kind is not Kind.DIRECTORY:
            directory, name = self.directories.parent(key)
            if not content_matches(directory, name, base):
                raise ExpectedOther
        return status

    def expect_unused(self, key: bytes) -> None:
        """Check that a key is no database that a program has open, and nothing that belongs to one.

        Raises:
            Refused: It is. The program would go on in the file that was taken away, and what lies beside
                the database would be taken for the new one's.
        """
        directory, name = self.directories.parent(key)
        if in_use(directory, name):
            raise Refused(IN_USE)
        if is_beside_database(directory, name):
            raise Refused("this belongs to a database here, and is not replaced by itself")

    def is_what_was_replaced(self, slot: bytes, base: Stored) -> bool:
        """Return whether what came out is the recorded version."""
        directory, name = self.directories.parent(slot)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not moved_matches(base.state, status):
            return False
        if stat.S_ISREG(status.st_mode) and is_trusted(base.state) and status.st_size > READ_AGAIN_BYTES_MAX:
            return True
        try:
            return content_matches(directory, name, base)
        except PermissionError:
            return True  # a file this user may not read; its fingerprint is the recorded one

    def take_away(self, key: bytes, base: Stored) -> bytes:
        """Move a recorded file or symlink into history and return where it lies now.

        Raises:
            ExpectedOther: It is not what was recorded; nothing was changed.
            OSError: It could not be moved.
        """
        self.expect(key, base)
        self.between(key)
        directory, name = split_key(key)
        try:
            slot = self.history.move_in(self.directories, directory, name, key, base.item.dot)
        except FileNotFoundError:
            raise ExpectedOther from None
        if self.is_what_was_replaced(slot, base):
            if base.item.kind is Kind.FILE:
                self.history.note_departed(base.item.digest, slot)
            return slot
        self.undone.add(key)
        self.give_back(slot, key)
        raise ExpectedOther

    def give_back(self, slot: bytes, key: bytes) -> None:
        """Put what was taken by mistake back under its name; where the name is taken again, it stays in history."""
        source, old = self.directories.parent(slot)
        target, new = self.directories.parent(key)
        try:
            rename_new(source, old, target, new)
        except FileExistsError:
            return

    def place(self, source: bytes, key: bytes) -> None:
        """Give a prepared thing its name, which must be free.

        Raises:
            ExpectedOther: It is not free.
        """
        self.between(key)
        directory, name = split_key(source)
        from_directory = self.directories.directory(directory)
        to_directory, new = self.directories.parent(key)
        if is_left_over(from_directory, name, to_directory, new):
            raise Refused(IN_USE)
        try:
            rename_new(from_directory, name, to_directory, new)
        except FileExistsError:
            if new not in map(os.fsencode, os.listdir(to_directory)):  # noqa: PTH208  (a descriptor)
                # A file system that takes two spellings for one name.
                raise Refused(SPELLED_OTHERWISE) from None
            raise ExpectedOther from None

    def swap(self, source: bytes, key: bytes, base: Stored) -> None:
        """Replace a recorded file or symlink by a prepared thing; the old one goes to history.

        Raises:
            ExpectedOther: It is not what was recorded; nothing was changed, `source` is where it was.
        """
        self.expect(key, base)
        from_directory, name = split_key(source)
        slot = self.history.move_in(self.directories, from_directory, name, key, base.item.dot)
        ours = self.inode(slot)
        try:
            self.between(key)
            self.trade(slot, key)
        except OSError as error:
            self.give_back(slot, source)
            if isinstance(error, FileNotFoundError):
                raise ExpectedOther from None
            raise
        if self.is_what_was_replaced(slot, base):
            if base.item.kind is Kind.FILE:
                self.history.note_departed(base.item.digest, slot)
            return
        self.undone.add(key)
        if self.put_back(slot, key, ours):
            self.give_back(slot, source)
        raise ExpectedOther

    def trade(self, slot: bytes, key: bytes) -> None:
        """Let the things at two paths trade places."""
        one, old = self.directories.parent(slot)
        other, new = self.directories.parent(key)
        exchange(one, old, other, new)

    def inode(self, path: bytes) -> int:
        """Return the inode of what lies at a path that is there."""
        directory, name = self.directories.parent(path)
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino

    def put_back(self, slot: bytes, key: bytes, ours: int) -> bool:
        """Undo a trade: the local edit in `slot` gets its name back; return whether `ours` came out.

        Where yet another edit took the name meanwhile, that one keeps it, and the earlier is history.
        """
        expected = ours
        for _ in range(PUT_BACK_MAX):
            placed = self.inode(slot)
            try:
                self.trade(slot, key)
            except FileNotFoundError:
                self.give_back(slot, key)  # ours was deleted: it is fetched again if it is wanted
                return False
            came = self.inode(slot)
            if came == expected:
                break
            expected = placed
        return self.inode(slot) == ours
