"""File access that cannot leave the share's root, and the Linux calls that Python does not have.

A path is opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)` from the
root's descriptor: whatever is swapped under it, nothing outside the root and nothing on another
mounted file system is reached. Everything else then happens to single names in opened directories.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from p2psyncd.sources.folder.layout import META, split_key

__all__ = [
    "Directories",
    "copy_content",
    "exchange",
    "next_data",
    "open_beneath",
    "open_root",
    "rename_new",
    "sync_file_system",
]

libc = ctypes.CDLL(None, use_errno=True)

SYS_OPENAT2 = 437  # the same number on every architecture
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
FICLONE = 0x40049409
# openat2 answers EAGAIN when a rename elsewhere made it impossible to be sure; trying again is enough.
TRIES = 64
COPY_STEP_BYTES = 8 * 1024 * 1024
# A hot loop works through one directory after the other; deep trees come back to the upper ones.
OPEN_DIRECTORIES_MAX = 64
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class OpenHow(ctypes.Structure):
    """The kernel's `struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


HOW_BYTES = ctypes.sizeof(OpenHow)
raw_openat2 = libc.syscall
raw_openat2.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
raw_openat2.restype = ctypes.c_long
raw_renameat2 = libc.renameat2
raw_renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
raw_syncfs = libc.syncfs
raw_syncfs.argtypes = [ctypes.c_int]

HOWS: dict[int, OpenHow] = {}


def os_error(path: bytes) -> OSError:
    """Return the error of the last call through ctypes."""
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), os.fsdecode(path))


def open_stepwise(root: int, path: bytes, flags: int) -> int:
    """Open beneath the root one component at a time: for kernels and sandboxes without openat2."""
    directory = os.dup(root)
    try:
        *above, name = path.split(b"/")
        for component in above:
            below = os.open(component, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open an existing path beneath a directory, through no symlink and onto no other file system.

    Args:
        root: Descriptor of the directory.
        path: Relative path of plain names.
        flags: As for `os.open`.

    Raises:
        OSError: ELOOP where a symlink stands in the way, EXDEV where a mount does; else as `os.open`.
    """
    how = HOWS.get(flags)
    if how is None:
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
        how = HOWS[flags] = OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(TRIES):
        opened: int = raw_openat2(SYS_OPENAT2, root, path, ctypes.byref(how), HOW_BYTES)
        if opened >= 0:
            return opened
        code = ctypes.get_errno()
        if code in {errno.ENOSYS, errno.EPERM}:  # EPERM: a sandbox that does not know the call
            return open_stepwise(root, path, flags)
        if code not in {errno.EAGAIN, errno.EINTR}:
            break
    raise os_error(path)


def open_root(root: Path) -> int:
    """Return a descriptor of a share's root, which must be a directory itself, not a symlink."""
    return os.open(root, DIRECTORY_FLAGS | os.O_NOFOLLOW)


def renameat2(source: int, old: bytes, target: int, new: bytes, flags: int) -> None:
    """Rename between opened directories.

    Raises:
        OSError: As `os.rename`; also what the flags ask for.
    """
    if raw_renameat2(source, old, target, new, flags) != 0:
        raise os_error(new)


def rename_new(source: int, old: bytes, target: int, new: bytes) -> None:
    """Rename onto a name that is free.

    Raises:
        FileExistsError: It is not free.
        OSError: As `os.rename`.
    """
    renameat2(source, old, target, new, RENAME_NOREPLACE)


def exchange(source: int, old: bytes, target: int, new: bytes) -> None:
    """Let two things trade places in one step.

    Raises:
        FileNotFoundError: One of them is not there.
        OSError: As `os.rename`; EINVAL where the file system cannot do it.
    """
    renameat2(source, old, target, new, RENAME_EXCHANGE)


def sync_file_system(descriptor: int) -> None:
    """Make everything written to the file system of a descriptor durable."""
    if raw_syncfs(descriptor) != 0:
        raise os_error(b"")


def copy_content(source: int, target: int) -> None:
    """Copy a whole file into an empty one: shared blocks where the file system can, else what is not a hole."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        pass
    else:
        return
    end = 0
    while (start := next_data(source, end)) is not None:
        end = os.lseek(source, start, os.SEEK_HOLE)
        copy_range(source, target, start, end)
    size = os.fstat(source).st_size
    if end < size:
        os.ftruncate(target, size)


def next_data(descriptor: int, offset: int) -> int | None:
    """Return where the next bytes are that are not a hole; None if there are none."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def copy_range(source: int, target: int, offset: int, end: int) -> None:
    """Copy the bytes between two offsets, inside the kernel where it can, else by hand."""
    try:
        while moved := os.copy_file_range(source, target, min(COPY_STEP_BYTES, end - offset), offset, offset):
            offset += moved
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise
        while data := os.pread(source, min(COPY_STEP_BYTES, end - offset), offset):
            offset += os.pwrite(target, data, offset)


class Directories:
    """Descriptors of directories beneath a root, the last ones used kept open.

    For one thread and one piece of work: a descriptor held for long would keep the file system from being unmounted.
    """

    def __init__(self, root: Path) -> None:
        self.path = root
        self.root = -1
        self.opened: OrderedDict[bytes, int] = OrderedDict()
        self.folding = False
        """Whether the root takes names that differ only in case for one (vfat, exfat, ext4 with casefold)."""

    def __enter__(self) -> Self:
        self.root = open_root(self.path)
        self.folding = self.folds()
        return self

    def folds(self) -> bool:
        """Return whether this program's own folder is found under another spelling, too."""
        try:
            other = os.stat(META.upper(), dir_fd=self.root, follow_symlinks=False)
            return other.st_ino == os.stat(META, dir_fd=self.root, follow_symlinks=False).st_ino
        except OSError:
            return False

    def misspelled(self, directory: int, name: bytes) -> bool:
        """Return whether what has a name in a directory is spelled differently there: it is another item, then."""
        return self.folding and name not in map(os.fsencode, os.listdir(directory))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget(b"")
        os.close(self.root)
        self.root = -1

    def directory(self, key: bytes) -> int:
        """Return the descriptor of a directory; it stays valid until 63 others were asked for.

        Raises:
            OSError: ENOENT, ENOTDIR, ELOOP (a symlink), EXDEV (another file system), EACCES.
        """
        if not key:
            return self.root
        opened = self.opened
        found = opened.get(key)
        if found is not None:
            opened.move_to_end(key)
            return found
        if self.folding and self.misspelled(*self.parent(key)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        found = open_beneath(self.root, key, DIRECTORY_FLAGS)
        opened[key] = found
        if len(opened) > OPEN_DIRECTORIES_MAX:
            os.close(opened.popitem(last=False)[1])
        return found

    def parent(self, key: bytes) -> tuple[int, bytes]:
        """Return the descriptor of a key's directory and its name there; errors as for `directory`."""
        directory, name = split_key(key)
        return self.directory(directory), name

    def status(self, key: bytes) -> os.stat_result | None:
        """Return the status of what has a key; None if there is nothing, or no such folder any more.

        Raises:
            OSError: It cannot be known (EACCES, EIO, EXDEV).
        """
        directory, name = split_key(key)
        try:
            above = self.directory(directory)
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            raise
        return None if self.misspelled(above, name) else found

    def ensure(self, key: bytes) -> int:
        """Return the descriptor of a directory of this program's own, made if it is missing."""
        try:
            return self.directory(key)
        except FileNotFoundError:
            directory, name = split_key(key)
            above = self.ensure(directory)
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
            return self.directory(key)

    def forget(self, key: bytes) -> None:
        """Close what is held open at and below a directory; after it was moved or removed."""
        below = key + b"/"
        for held in [held for held in self.opened if not key or held == key or held.startswith(below)]:
            os.close(self.opened.pop(held))
