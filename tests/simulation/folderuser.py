"""What a user does in a simulated shared folder, and which values that makes, replaces and deletes.

An operation is a tuple of its name and plain arguments. What it would need and is not there, or what is in
its way and not to be forced, makes it do nothing at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from filesystem import Disk, Inode
from kinds import Claim, Deed, Operation
from memory_kind import about_a_copy, named_before
from system import System

from p2psyncd.sources.folder.layout import META
from p2psyncd.sources.source import Dirty

__all__ = ["KEYS", "FolderUser", "random_operation", "value_of", "walk"]

KEYS = [b"a", b"b", b"d", b"d/a", b"d/b", b"d/e", b"d/e/a", b"f/a"]
MODES = [0o600, 0o644, 0o755, 0o444]
LINK_MARK = b"-> "
"""What a symlink's value begins with."""


SAVED, SWAPPED = b".saved~", b".swapped~"
"""What the names of an operation's temporary files hold: a power cut may leave them."""


def names_of_value(key: bytes) -> list[bytes]:
    """Return the names that what lies under a key was written for: who takes it away knows."""
    if key.endswith(SAVED):
        return [key, *named_before(key.removesuffix(SAVED))]
    before, mark, other = key.partition(SWAPPED)
    if mark:
        return [key, *named_before(before), bytes.fromhex(other.decode())]
    return named_before(key)


def walk(disk: Disk, directory: Inode, prefix: bytes = b"") -> Iterator[tuple[bytes, Inode]]:
    """Yield (path, inode) of all below a directory, parents first."""
    assert directory.entries is not None
    for name, serial in directory.entries.items():
        inode = disk.volatile[serial]
        yield prefix + name, inode
        if inode.entries is not None:
            yield from walk(disk, inode, prefix + name + b"/")


def value_of(inode: Inode) -> bytes | None:
    """Return what a file or symlink holds; None for anything else."""
    match stat.S_IFMT(inode.mode):
        case stat.S_IFREG:
            return inode.data
        case stat.S_IFLNK:
            return LINK_MARK + inode.data
        case _:
            return None


class FolderUser:
    """Works on one folder, one operation after the other."""

    def __init__(self, system: System, disk: Disk, root: bytes) -> None:
        self.system = system
        self.disk = disk
        self.root = root
        self.wrote: list[Claim] = []
        self.replaced: list[Claim] = []
        self.deleted: list[Claim] = []
        self.at_hand: set[Claim] = set()
        self.named: set[Claim] = set()
        self.keys: set[bytes] = set()
        self.subtrees: set[bytes] = set()

    # Looking
    def top(self) -> Inode:
        inode = self.system.there(self.root)[1]
        assert inode.entries is not None
        return inode

    def tree(self) -> Iterator[tuple[bytes, Inode]]:
        """Yield (key, inode) of all that is shared."""
        top = self.top()
        assert top.entries is not None
        for name, serial in top.entries.items():
            if name != META:
                inode = self.disk.volatile[serial]
                yield name, inode
                if inode.entries is not None:
                    yield from walk(self.disk, inode, name + b"/")

    def at(self, key: bytes) -> Inode | None:
        """Return what has a key."""
        inode: Inode | None = self.top()
        for name in key.split(b"/"):
            if inode is None or inode.entries is None:
                return None
            inode = self.disk.entry(inode, name)
        return inode

    def value(self, key: bytes) -> bytes | None:
        """Return the value of the file or symlink that has a key."""
        inode = self.at(key)
        return value_of(inode) if inode is not None else None

    def path(self, key: bytes) -> bytes:
        return self.root + b"/" + key

    # Doing
    def operate(self, operation: Operation) -> Deed:
        """Carry out an operation."""
        name, *arguments = operation
        self.wrote, self.replaced, self.deleted = [], [], []
        self.at_hand, self.named = set(), set()
        self.keys, self.subtrees = set(), set()
        work: Callable[..., None] = getattr(self, "do_" + name)
        with self.disk.undisturbed():
            work(*arguments)
        kept = set(self.wrote)
        named = frozenset(self.named - self.at_hand)
        deleted = [one for one in self.deleted if one not in kept]
        still = {one for one in deleted if one in named and self.value(one.name) == one.value}
        return Deed(
            wrote=tuple(self.wrote),
            replaced=(*(one for one in self.replaced if one not in kept), *still),
            deleted=tuple(one for one in deleted if one not in still),
            named=named,
            dirty=Dirty(keys=frozenset(self.keys), subtrees=frozenset(self.subtrees)),
        )

    def hint(self, key: bytes) -> None:
        """Note that a watch would tell of a key."""
        self.keys.add(key)

    def clear(self, key: bytes) -> None:
        """Remove what has a key, with all below it."""
        inode = self.at(key)
        if inode is None:
            return
        if inode.entries is not None:
            for name in list(inode.entries):
                self.clear(key + b"/" + name)
            self.system.rmdir(self.path(key))
        else:
            self.claim(self.deleted, key, inode)
            self.system.unlink(self.path(key))
        self.hint(key)

    def claim(self, claims: list[Claim], key: bytes, inode: Inode | None) -> None:
        """Note a file's or symlink's value."""
        value = value_of(inode) if inode is not None else None
        if value is None:
            return
        claims.append(Claim(value, key))
        if claims is self.wrote:
            return
        self.at_hand.add(Claim(value, key))
        for name in names_of_value(key)[1:]:
            claims.append(Claim(value, name))
            self.named.add(Claim(value, name))

    def make_room(self, key: bytes, *, force: bool, directory: bool = False) -> bool:
        """See that a thing can be put under a key; return whether it can.

        Args:
            key: Where.
            force: Whether to remove what is in the way: a file above it, another kind of thing under it.
            directory: Whether it is to be a directory, which then must not be there.
        """
        parts = key.split(b"/")
        above = [b"/".join(parts[:count]) for count in range(1, len(parts))]
        found = [(one, self.at(one)) for one in above]
        in_the_way = [one for one, inode in found if inode is not None and inode.entries is None]
        here = self.at(key)
        if here is not None and (directory or here.entries is not None or stat.S_ISLNK(here.mode)):
            in_the_way.append(key)
        if in_the_way and not force:
            return False
        for one in in_the_way:
            self.clear(one)
        for one in above:
            if self.at(one) is None:
                self.system.mkdir(self.path(one))
                self.hint(one)
        return True

    def names_of(self, inode: Inode) -> list[bytes]:
        """Return the keys of an inode: several, where it has hard links."""
        if inode.links == 1:
            return []
        return [key for key, one in self.tree() if one is inode]

    def put(self, key: bytes, content: bytes, flags: int, *, cut: bool = True) -> None:
        """Write into a file as it is, or into a new one; nothing where it must not be written to."""
        inode = self.at(key)
        if inode is not None and not self.system.allowed(inode, os.W_OK):
            return
        names = {key, *(self.names_of(inode) if inode is not None else [])}
        for name in names:
            self.claim(self.replaced, name, inode)
            self.hint(name)
        opened = self.system.open(self.path(key), flags | os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            self.system.write(opened, content)
            if cut and not flags & os.O_APPEND:
                self.system.ftruncate(opened, len(content))
        finally:
            self.system.close(opened)
        for name in names:
            self.claim(self.wrote, name, self.at(name))

    # The operations
    def do_write(self, key: bytes, content: bytes, force: bool) -> None:
        """Save as simple programs do: truncate and write."""
        if self.make_room(key, force=force):
            self.put(key, content, os.O_TRUNC)

    def do_save(self, key: bytes, content: bytes, force: bool) -> None:
        """Save as editors do: another file, renamed over the old one."""
        if not self.make_room(key, force=force):
            return
        old = self.at(key)
        self.claim(self.replaced, key, old)
        self.clear(key + SAVED)
        other = self.path(key) + SAVED
        opened = self.system.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self.system.write(opened, content)
        self.system.fsync(opened)
        if old is not None:
            self.system.fchmod(opened, old.mode & 0o7777)
        self.system.close(opened)
        self.system.rename(other, self.path(key))
        self.hint(key)
        self.claim(self.wrote, key, self.at(key))

    def do_append(self, key: bytes, content: bytes) -> None:
        if self.is_file(key):
            self.put(key, content, os.O_APPEND)

    def do_overwrite(self, key: bytes, content: bytes) -> None:
        """Write into the middle of a file, and put its mtime back.

        Not in the instant of its last change: what a clock that stands still hides then, nobody can find.
        """
        inode = self.at(key)
        if inode is not None and self.is_file(key):
            times, fresh = (inode.atime_ns, inode.mtime_ns), inode.ctime_ns == self.disk.stamp()
            self.put(key, content[: len(inode.data)], 0, cut=False)
            if not fresh:
                self.system.utime(self.path(key), ns=times)

    def is_file(self, key: bytes) -> bool:
        inode = self.at(key)
        return inode is not None and stat.S_ISREG(inode.mode)

    def do_mkdir(self, key: bytes, force: bool) -> None:
        here = self.at(key)
        if (here is None or here.entries is None) and self.make_room(key, force=force, directory=True):
            self.system.mkdir(self.path(key))
            self.hint(key)

    def do_conflict(self, which: int, how: str, content: bytes) -> None:
        """Do something to a conflict copy."""
        about = about_a_copy(
            ("conflict", which, how, content), (key for key, _ in self.tree() if self.is_file(key))
        )
        match about:
            case ("edit", key, text, force):
                self.do_save(key, text, force)
            case ("remove", key):
                self.do_remove(key)
            case ("rename", key, to):
                self.do_rename(key, to)
            case _:
                pass

    def do_remove(self, key: bytes) -> None:
        self.clear(key)

    def do_rename(self, key: bytes, to: bytes) -> None:
        moved = self.at(key)
        if moved is None or key == to or to.startswith(key + b"/") or key.startswith(to + b"/"):
            return
        self.make_room(to, force=True, directory=moved.entries is not None or stat.S_ISLNK(moved.mode))
        if self.at(key) is not moved or self.at(to) is moved:
            return
        self.claim(self.replaced, to, self.at(to))
        below = [(b"", moved), *(walk(self.disk, moved, b"/") if moved.entries is not None else ())]
        for rest, inode in below:
            self.claim(self.deleted, key + rest, inode)
            self.claim(self.wrote, to + rest, inode)
        self.system.rename(self.path(key), self.path(to))
        self.keys |= {key, to}
        self.subtrees |= {key, to} if moved.entries is not None else set()

    def do_swap(self, key: bytes, other: bytes) -> None:
        """Let two files trade names."""
        if key == other or not (self.is_file(key) and self.is_file(other)):
            return
        for one, another in ((key, other), (other, key)):
            self.claim(self.replaced, one, self.at(one))
            self.claim(self.wrote, one, self.at(another))
            self.hint(one)
        spare = key + SWAPPED + other.hex().encode()
        self.clear(spare)
        between = self.path(spare)
        self.system.rename(self.path(key), between)
        self.system.rename(self.path(other), self.path(key))
        self.system.rename(between, self.path(other))

    def do_copy(self, key: bytes, to: bytes) -> None:
        inode = self.at(key)
        if inode is None or not self.is_file(key) or key == to or to.startswith(key + b"/"):
            return
        content = inode.data
        if self.make_room(to, force=True):
            self.put(to, content, os.O_TRUNC)

    def do_link(self, key: bytes, to: bytes) -> None:
        """Make a hard link."""
        if (
            self.is_file(key)
            and not to.startswith(key + b"/")
            and self.at(to) is None
            and self.make_room(to, force=False)
        ):
            self.system.link(self.path(key), self.path(to))
            self.hint(to)
            self.claim(self.wrote, to, self.at(to))

    def do_symlink(self, key: bytes, target: bytes, force: bool) -> None:
        if self.make_room(key, force=force, directory=True):
            self.system.symlink(target, self.path(key))
            self.hint(key)
            self.claim(self.wrote, key, self.at(key))

    def do_chmod(self, key: bytes, mode: int) -> None:
        inode = self.at(key)
        if inode is not None and not stat.S_ISLNK(inode.mode):
            self.system.chmod(self.path(key), mode | (0o700 if inode.entries is not None else 0))
            self.keys.update({key, *self.names_of(inode)})

    def do_touch(self, key: bytes) -> None:
        inode = self.at(key)
        if inode is not None:
            self.system.utime(self.path(key), follow_symlinks=False)
            self.keys.update({key, *self.names_of(inode)})

    def do_fifo(self, key: bytes) -> None:
        """Make something that is not synced."""
        if self.at(key) is None and self.make_room(key, force=False):
            self.system.mkfifo(self.path(key))
            self.hint(key)


def random_operation(random: Random, serial: int) -> Operation:
    """Return something that a user may do; see `Kind.operation`."""
    key, other = random.choice(KEYS), random.choice(KEYS)
    content = b"content %d" % serial
    force = random.random() < 0.5
    choices: list[tuple[int, tuple[Any, ...]]] = [
        (6, ("write", key, content, force)),
        (6, ("save", key, content, force)),
        (3, ("append", key, b" and %d" % serial)),
        (2, ("overwrite", key, b"CONTENT %d" % serial)),
        (3, ("mkdir", key, force)),
        (5, ("remove", key)),
        (6, ("rename", key, other)),
        (2, ("swap", key, other)),
        (2, ("copy", key, other)),
        (1, ("link", key, other)),
        (2, ("symlink", key, b"target %d" % serial, force)),
        (3, ("chmod", key, random.choice(MODES))),
        (1, ("touch", key)),
    ]
    return random.choices([one for _, one in choices], [weight for weight, _ in choices])[0]
