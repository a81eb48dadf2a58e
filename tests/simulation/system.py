"""The calls of an operating system on simulated disks, and how the folder source comes to use them.

`System` has the functions of `os` that the folder source uses, on disks mounted at paths such as `/sim/1`. While
`System.active()` lasts, the modules of `p2psyncd.sources.folder` see it under the names `os`, `fcntl` and the
calls through ctypes; all other code of the process keeps the real ones. What it does not
have is an AttributeError, never a call that reaches the real disk.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import os
import pkgutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from filesystem import BLOCK_BYTES, Disk, Inode, fail

import p2psyncd.sources.folder
from p2psyncd.sources.folder import beneath

__all__ = ["System"]

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
FIRST_DESCRIPTOR = 1_000_000  # no real one: a mix-up is EBADF
LINKS_FOLLOWED_MAX = 40
PATH_BYTES_MAX = 4095
UMASK = 0o022
PROC = b"/proc/self/fd/"
ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
# What `os` has that needs no kernel.
PLAIN = (
    "DirEntry",
    "PathLike",
    "error",
    "fsdecode",
    "fsencode",
    "fspath",
    "getpid",
    "stat_result",
    "strerror",
)
CALLS = [
    "access",
    "chmod",
    "close",
    "copy_file_range",
    "dup",
    "fchmod",
    "fdatasync",
    "fstat",
    "fstatvfs",
    "fsync",
    "ftruncate",
    "getxattr",
    "link",
    "listdir",
    "listxattr",
    "lseek",
    "lstat",
    "makedirs",
    "mkdir",
    "mkfifo",
    "open",
    "pread",
    "preadv",
    "pwrite",
    "read",
    "readlink",
    "remove",
    "removexattr",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "setxattr",
    "stat",
    "statvfs",
    "symlink",
    "truncate",
    "unlink",
    "utime",
    "write",
]


@dataclass(slots=True)
class Handle:
    """An open file description."""

    disk: Disk
    inode: Inode
    flags: int
    offset: int = 0


class Place(NamedTuple):
    """Where a path leads."""

    disk: Disk
    directory: Inode
    name: bytes
    inode: Inode | None


class Entry:
    """What `scandir` yields."""

    __slots__ = ("directory", "disk", "encoded", "name", "system")

    def __init__(self, system: System, disk: Disk, directory: Inode, name: bytes, *, text: bool) -> None:
        self.system = system
        self.disk = disk
        self.directory = directory
        self.encoded = name
        self.name: str | bytes = os.fsdecode(name) if text else name

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        inode = self.disk.entry(self.directory, self.encoded)
        if inode is None:
            raise fail(errno.ENOENT, self.encoded)
        assert not (follow_symlinks and stat.S_ISLNK(inode.mode)), "not simulated"
        return self.system.status(self.disk, inode)

    def inode(self) -> int:
        return self.stat(follow_symlinks=False).st_ino

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.stat(follow_symlinks=False).st_mode)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISDIR(self.stat(follow_symlinks=follow_symlinks).st_mode)


class Listing:
    """An iterator of entries that is closed at the end."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = iter(entries)

    def __iter__(self) -> Iterator[Entry]:
        return self.entries

    def __enter__(self) -> Iterator[Entry]:
        return self.entries

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


def encoded(path: AnyPath) -> bytes:
    """Return a path as bytes, as the kernel gets it."""
    found = path if type(path) is bytes else os.fsencode(path)
    if b"\0" in found:
        raise ValueError("embedded null byte")
    if len(found) > PATH_BYTES_MAX:
        raise fail(errno.ENAMETOOLONG, found)
    return found


class System:
    """The calls of one kernel."""

    def __init__(self, *, privileged: bool = False) -> None:
        """Begin without disks.

        Args:
            privileged: Whether permissions count for nothing, as for root; else everything belongs to the caller.
        """
        self.privileged = privileged
        self.mounts: dict[bytes, Disk] = {}
        self.handles: dict[int, Handle] = {}
        self.next = FIRST_DESCRIPTOR
        self.errno = 0
        self.os = SimpleNamespace(
            **{name: value for name, value in vars(os).items() if name.isupper() and isinstance(value, int)},
            **{name: getattr(os, name) for name in PLAIN},
            **{name: getattr(self, name) for name in CALLS},
        )
        self.fcntl = SimpleNamespace(ioctl=self.ioctl)
        self.patches = patches(self)

    def mount(self, path: AnyPath, disk: Disk) -> None:
        """Let a disk's root be found under an absolute path."""
        self.mounts[encoded(path)] = disk

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the folder source work here."""
        for space, name, simulated, _ in self.patches:
            space[name] = simulated
        try:
            yield
        finally:
            for space, name, _, real in self.patches:
                space[name] = real

    def opened_on(self, disk: Disk) -> list[int]:
        """Return the descriptors that are open on a disk."""
        return [number for number, handle in self.handles.items() if handle.disk is disk]

    def forget(self, disk: Disk) -> None:
        """Drop the descriptors of a disk whose processes are gone."""
        for number in self.opened_on(disk):
            self.close(number)

    # Paths
    def handle(self, descriptor: int) -> Handle:
        found = self.handles.get(descriptor)
        if found is None:
            raise fail(errno.EBADF)
        return found

    def allowed(self, inode: Inode, bits: int) -> bool:
        return self.privileged or (inode.mode >> 6) & bits == bits

    def writable(self, directory: Inode, name: bytes) -> None:
        """Check that entries of a directory may be changed."""
        if not self.allowed(directory, 0o3):
            raise fail(errno.EACCES, name)

    def located(self, path: bytes) -> tuple[Disk, Inode, list[bytes]]:
        """Return where an absolute path begins."""
        for mount, disk in self.mounts.items():
            if path == mount or path.startswith(mount + b"/"):
                return disk, disk.volatile[1], path[len(mount) :].split(b"/")
        raise fail(errno.ENOENT, path)

    def begin(self, path: bytes, dir_fd: int | None, *, inside: bool) -> tuple[Disk, Inode, list[bytes]]:
        """Return where a path begins, and its names."""
        if not path:
            raise fail(errno.ENOENT)
        if dir_fd is not None and path[:1] != b"/":
            handle = self.handle(dir_fd)
            return handle.disk, handle.inode, path.split(b"/")
        if inside:
            raise fail(errno.EXDEV, path)
        return self.located(path)

    def place(self, path: AnyPath, dir_fd: int | None, *, follow: bool = True, inside: bool = False) -> Place:
        """Follow a path.

        Args:
            path: Absolute, or relative to `dir_fd`.
            dir_fd: An opened directory.
            follow: Whether a symlink at its end is followed.
            inside: As with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS.
        """
        whole = encoded(path)
        if whole.startswith(PROC):
            number, slash, beneath_it = whole[len(PROC) :].partition(b"/")
            if slash:
                return self.place(beneath_it, int(number), follow=follow)
            handle = self.handle(int(number))
            return Place(handle.disk, handle.inode, b".", handle.inode)
        disk, current, parts = self.begin(whole, dir_fd, inside=inside)
        parts.reverse()
        links = 0
        while parts:
            name = parts.pop()
            if name in {b"", b"."}:
                continue
            if current.entries is None:
                raise fail(errno.ENOTDIR, whole)
            if not self.allowed(current, 0o1):
                raise fail(errno.EACCES, whole)
            child = disk.entry(current, name)
            if child is None:
                if parts:
                    raise fail(errno.ENOENT, whole)
                return Place(disk, current, name, None)
            if stat.S_ISLNK(child.mode) and (parts or follow):
                links += 1
                if inside or links > LINKS_FOLLOWED_MAX:
                    raise fail(errno.ELOOP, whole)
                target = child.data
                if target[:1] == b"/":
                    disk, current, more = self.located(target)
                else:
                    more = target.split(b"/")
                parts += more[::-1]
                continue
            if not parts:
                return Place(disk, current, name, child)
            current = child
        return Place(disk, current, b".", current)

    def there(
        self, path: AnyPath | int, dir_fd: int | None = None, *, follow: bool = True
    ) -> tuple[Disk, Inode]:
        """Return what a path or descriptor leads to."""
        if isinstance(path, int):
            handle = self.handle(path)
            return handle.disk, handle.inode
        disk, _, name, inode = self.place(path, dir_fd, follow=follow)
        if inode is None:
            raise fail(errno.ENOENT, name)
        return disk, inode

    def changing(self, name: str, path: AnyPath, dir_fd: int | None) -> Place:
        """Return where a path leads whose last name is to be changed; a symlink there is not followed."""
        found = self.place(path, dir_fd, follow=False)
        found.disk.enter(name)
        return found

    # Descriptors
    def open(self, path: AnyPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        follow = not flags & os.O_NOFOLLOW and flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL
        return self.open_at(self.place(path, dir_fd, follow=follow), flags, mode)

    def open_at(self, place: Place, flags: int, mode: int) -> int:
        disk, directory, name, inode = place
        creating = flags & os.O_CREAT
        if creating or flags & os.O_TRUNC:
            disk.enter("create" if inode is None else "open")
        if inode is None:
            if not creating:
                raise fail(errno.ENOENT, name)
            self.writable(directory, name)
            inode = disk.create(directory, name, stat.S_IFREG | (mode & ~UMASK & 0o7777))
        else:
            self.check_open(inode, name, flags)
            if flags & os.O_TRUNC and stat.S_ISREG(inode.mode) and not flags & os.O_PATH:
                disk.truncate(inode, 0)
        inode.opened += 1
        return self.new_descriptor(Handle(disk, inode, flags))

    def new_descriptor(self, handle: Handle) -> int:
        self.next += 1
        self.handles[self.next] = handle
        return self.next

    def check_open(self, inode: Inode, name: bytes, flags: int) -> None:
        """Check that an existing inode may be opened like this."""
        directory = inode.entries is not None
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise fail(errno.EEXIST, name)
        if flags & os.O_PATH:
            if flags & os.O_DIRECTORY and not directory:
                raise fail(errno.ENOTDIR, name)
            return
        if flags & os.O_CREAT and directory:
            raise fail(errno.EISDIR, name)
        if flags & os.O_DIRECTORY and not directory:
            raise fail(errno.ENOTDIR, name)
        if stat.S_ISLNK(inode.mode):
            raise fail(errno.ELOOP, name)
        access = flags & ACCESS
        if directory and (access != os.O_RDONLY or flags & os.O_TRUNC):
            raise fail(errno.EISDIR, name)
        bits = {os.O_RDONLY: 0o4, os.O_WRONLY: 0o2, os.O_RDWR: 0o6}[access]
        if flags & os.O_TRUNC:
            bits |= 0o2
        if not self.allowed(inode, bits):
            raise fail(errno.EACCES, name)

    def close(self, descriptor: int) -> None:
        handle = self.handles.pop(descriptor, None)
        if handle is None:
            raise fail(errno.EBADF)
        handle.inode.opened -= 1
        handle.disk.release(handle.inode)

    def dup(self, descriptor: int) -> int:
        handle = self.handle(descriptor)
        handle.inode.opened += 1
        # Sharing the offset is not simulated.
        return self.new_descriptor(Handle(handle.disk, handle.inode, handle.flags, handle.offset))

    def file(self, descriptor: int, access: int) -> Handle:
        """Return a descriptor's file, if it was opened for this access."""
        handle = self.handle(descriptor)
        if handle.flags & os.O_PATH or handle.flags & ACCESS not in {access, os.O_RDWR}:
            raise fail(errno.EBADF)
        if handle.inode.entries is not None:
            raise fail(errno.EISDIR)
        return handle

    def read(self, descriptor: int, length: int) -> bytes:
        handle = self.file(descriptor, os.O_RDONLY)
        data = self.pread(descriptor, length, handle.offset)
        handle.offset += len(data)
        return data

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        handle = self.file(descriptor, os.O_RDONLY)
        handle.disk.enter("read")
        return handle.inode.data[offset : offset + length]

    def preadv(self, descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        got = 0
        for buffer in buffers:
            data = self.pread(descriptor, len(buffer), offset + got)
            buffer[: len(data)] = data
            got += len(data)
            if len(data) < len(buffer):
                break
        return got

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        handle = self.file(descriptor, os.O_WRONLY)
        if handle.flags & os.O_APPEND:
            handle.offset = len(handle.inode.data)
        written = self.pwrite(descriptor, data, handle.offset)
        handle.offset += written
        return written

    def pwrite(self, descriptor: int, data: bytes | memoryview, offset: int) -> int:
        handle = self.file(descriptor, os.O_WRONLY)
        handle.disk.enter("write")
        # Linux appends wherever it was told to write (pwrite(2), BUGS).
        at = len(handle.inode.data) if handle.flags & os.O_APPEND else offset
        return handle.disk.write_data(handle.inode, at, bytes(data))

    def lseek(self, descriptor: int, offset: int, whence: int) -> int:
        handle = self.handle(descriptor)
        inode, size = handle.inode, len(handle.inode.data)
        match whence:
            case os.SEEK_CUR:
                offset += handle.offset
            case os.SEEK_END:
                offset += size
            case os.SEEK_DATA | os.SEEK_HOLE:
                if not 0 <= offset < size:
                    raise fail(errno.ENXIO)
                hole = whence == os.SEEK_HOLE
                block = offset // BLOCK_BYTES
                while block * BLOCK_BYTES < size and (block in inode.holes) is not hole:
                    block += 1
                if block * BLOCK_BYTES >= size and not hole:
                    raise fail(errno.ENXIO)
                offset = min(max(offset, block * BLOCK_BYTES), size)
            case _:
                pass
        if offset < 0:
            raise fail(errno.EINVAL)
        handle.offset = offset
        return offset

    def ftruncate(self, descriptor: int, size: int) -> None:
        handle = self.handle(descriptor)
        if handle.flags & ACCESS == os.O_RDONLY or handle.flags & os.O_PATH or size < 0:
            raise fail(errno.EINVAL)
        handle.disk.enter("truncate")
        handle.disk.truncate(handle.inode, size)

    def truncate(self, path: AnyPath, size: int) -> None:
        opened = self.open(path, os.O_WRONLY)
        try:
            self.ftruncate(opened, size)
        finally:
            self.close(opened)

    def copy_file_range(self, source: int, target: int, count: int, offset_src: int, offset_dst: int) -> int:
        into = self.file(target, os.O_WRONLY)
        if self.handle(source).disk is not into.disk:
            raise fail(errno.EXDEV)
        data = self.pread(source, count, offset_src)
        return self.pwrite(target, data, offset_dst) if data else 0

    def ioctl(self, target: int, request: int, source: int) -> int:
        """Share blocks: the only request here."""
        into, other = self.file(target, os.O_WRONLY), self.file(source, os.O_RDONLY)
        if request != beneath.FICLONE or not into.disk.reflinks:
            raise fail(errno.EOPNOTSUPP)
        if into.disk is not other.disk:
            raise fail(errno.EXDEV)
        into.disk.enter("clone")
        into.disk.clone_data(other.inode, into.inode)
        return 0

    def fsync(self, descriptor: int) -> None:
        handle = self.handle(descriptor)
        if handle.flags & os.O_PATH:
            raise fail(errno.EBADF)
        handle.disk.enter("fsync")
        handle.disk.sync(handle.inode)

    fdatasync = fsync

    # Status
    def status(self, disk: Disk, inode: Inode) -> os.stat_result:
        size = BLOCK_BYTES if inode.entries is not None else len(inode.data)
        times = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
        plain = (
            inode.mode,
            inode.number,
            disk.number,
            inode.links,
            0,
            0,
            size,
            *(ns // 10**9 for ns in times),
        )
        precise = {
            "st_atime_ns": times[0],
            "st_mtime_ns": times[1],
            "st_ctime_ns": times[2],
            "st_atime": times[0] / 1e9,
            "st_mtime": times[1] / 1e9,
            "st_ctime": times[2] / 1e9,
            "st_blocks": inode.blocks * 8,
            "st_blksize": BLOCK_BYTES,
        }
        return os.stat_result(plain, precise)

    def stat(
        self, path: AnyPath | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        return self.status(*self.there(path, dir_fd, follow=follow_symlinks))

    def lstat(self, path: AnyPath, *, dir_fd: int | None = None) -> os.stat_result:
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def fstat(self, descriptor: int) -> os.stat_result:
        handle = self.handle(descriptor)
        return self.status(handle.disk, handle.inode)

    def statvfs(self, path: AnyPath | int) -> SimpleNamespace:
        disk, _ = self.there(path)
        blocks = disk.capacity // BLOCK_BYTES
        free = max(blocks - disk.used, 0)
        return SimpleNamespace(
            f_bsize=BLOCK_BYTES,
            f_frsize=BLOCK_BYTES,
            f_blocks=blocks,
            f_bfree=free,
            f_bavail=free,
            f_fsid=disk.number,
        )

    fstatvfs = statvfs

    def access(self, path: AnyPath, mode: int) -> bool:
        try:
            _, inode = self.there(path)
        except OSError:
            return False
        return self.allowed(inode, mode)

    def readlink(self, path: AnyPath, *, dir_fd: int | None = None) -> str | bytes:
        _, inode = self.there(path, dir_fd, follow=False)
        if not stat.S_ISLNK(inode.mode):
            raise fail(errno.EINVAL, encoded(path))
        return inode.data if isinstance(path, bytes) else os.fsdecode(inode.data)

    def listed(self, path: AnyPath | int) -> tuple[Disk, Inode, list[bytes]]:
        """Return a directory and the names in it."""
        disk, inode = self.there(path)
        disk.enter("list")
        if inode.entries is None:
            raise fail(errno.ENOTDIR)
        if not isinstance(path, int) and not self.allowed(inode, 0o4):
            raise fail(errno.EACCES, encoded(path))
        return disk, inode, list(inode.entries)

    def listdir(self, path: AnyPath | int) -> list[Any]:
        names = self.listed(path)[2]
        return names if isinstance(path, bytes) else [os.fsdecode(name) for name in names]

    def scandir(self, path: AnyPath | int) -> Listing:
        disk, directory, names = self.listed(path)
        text = not isinstance(path, bytes)
        return Listing([Entry(self, disk, directory, name, text=text) for name in names])

    # Names
    def mkdir(self, path: AnyPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self.make("mkdir", path, dir_fd, stat.S_IFDIR | (mode & ~UMASK & 0o1777))

    def makedirs(self, path: AnyPath, mode: int = 0o777, *, exist_ok: bool = False) -> None:
        """As `os.makedirs`."""
        whole = encoded(path)
        above = whole.rpartition(b"/")[0]
        if above not in self.mounts and self.place(above, None).inode is None:
            self.makedirs(above, exist_ok=True)
        try:
            self.mkdir(whole, mode)
        except FileExistsError:
            if not exist_ok:
                raise

    def mkfifo(self, path: AnyPath, mode: int = 0o666, *, dir_fd: int | None = None) -> None:
        self.make("mkfifo", path, dir_fd, stat.S_IFIFO | (mode & ~UMASK))

    def symlink(self, target: AnyPath, path: AnyPath, *, dir_fd: int | None = None) -> None:
        if not encoded(target):
            raise fail(errno.ENOENT)
        self.make("symlink", path, dir_fd, stat.S_IFLNK | 0o777, encoded(target))

    def make(self, call: str, path: AnyPath, dir_fd: int | None, mode: int, data: bytes = b"") -> None:
        disk, directory, name, inode = self.changing(call, path, dir_fd)
        if inode is not None:
            raise fail(errno.EEXIST, name)
        self.writable(directory, name)
        disk.create(directory, name, mode, data)

    def link(
        self,
        path: AnyPath,
        new: AnyPath,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        # The kernel's `link` does not follow symlinks, nor does Python with its default.
        _, inode = self.there(path, src_dir_fd, follow=False)
        disk, directory, name, there = self.changing("link", new, dst_dir_fd)
        if there is not None:
            raise fail(errno.EEXIST, name)
        if inode.entries is not None:
            raise fail(errno.EPERM, name)
        self.writable(directory, name)
        disk.link(inode, directory, name)

    def unlink(self, path: AnyPath, *, dir_fd: int | None = None) -> None:
        disk, directory, name, inode = self.changing("unlink", path, dir_fd)
        if inode is None:
            raise fail(errno.ENOENT, name)
        self.writable(directory, name)
        if inode.entries is not None:
            raise fail(errno.EISDIR, name)
        disk.unlink(directory, name)

    remove = unlink

    def rmdir(self, path: AnyPath, *, dir_fd: int | None = None) -> None:
        disk, directory, name, inode = self.changing("rmdir", path, dir_fd)
        if name in {b".", b".."}:
            raise fail(errno.EINVAL if name == b"." else errno.ENOTEMPTY, name)
        if inode is None:
            raise fail(errno.ENOENT, name)
        self.writable(directory, name)
        if inode.entries is None:
            raise fail(errno.ENOTDIR, name)
        if inode.entries:
            raise fail(errno.ENOTEMPTY, name)
        disk.unlink(directory, name)

    def rename(
        self, old: AnyPath, new: AnyPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        self.renameat2(src_dir_fd, old, dst_dir_fd, new, 0)

    replace = rename

    def renameat2(
        self, src_dir_fd: int | None, old: AnyPath, dst_dir_fd: int | None, new: AnyPath, flags: int
    ) -> None:
        call = {0: "rename", beneath.RENAME_NOREPLACE: "rename-new", beneath.RENAME_EXCHANGE: "exchange"}[
            flags
        ]
        source = self.changing(call, old, src_dir_fd)
        target = self.place(new, dst_dir_fd, follow=False)
        self.check_rename(source, target, flags)
        if source.inode is target.inode:
            return
        source.disk.rename(
            source.directory,
            source.name,
            target.directory,
            target.name,
            exchange=bool(flags & beneath.RENAME_EXCHANGE),
        )

    def check_rename(self, source: Place, target: Place, flags: int) -> None:
        """Raise what the kernel would, in its order."""
        disk, moved, there = source.disk, source.inode, target.inode
        exchange = flags & beneath.RENAME_EXCHANGE
        if disk is not target.disk:
            raise fail(errno.EXDEV, target.name)
        if not {source.name, target.name}.isdisjoint({b".", b".."}):
            raise fail(errno.EBUSY, target.name)
        if moved is None or (there is None and exchange):
            raise fail(errno.ENOENT, source.name)
        if there is not None and flags & beneath.RENAME_NOREPLACE:
            raise fail(errno.EEXIST, target.name)
        if self.is_within(disk, target.directory, moved):
            raise fail(errno.EINVAL, target.name)
        if there is not None and self.is_within(disk, source.directory, there):
            raise fail(errno.EINVAL if exchange else errno.ENOTEMPTY, target.name)
        if moved is there:
            return
        self.writable(source.directory, source.name)
        self.writable(target.directory, target.name)
        if there is None or exchange:
            return
        if moved.entries is not None and there.entries is None:
            raise fail(errno.ENOTDIR, target.name)
        if moved.entries is None and there.entries is not None:
            raise fail(errno.EISDIR, target.name)
        if there.entries:
            raise fail(errno.ENOTEMPTY, target.name)

    def is_within(self, disk: Disk, directory: Inode, other: Inode) -> bool:
        """Return whether a directory is another one, or lies below it."""
        while directory is not other:
            above = disk.volatile.get(directory.parent)
            if above is None or above is directory:
                return False
            directory = above
        return True

    # Metadata
    def chmod(
        self, path: AnyPath | int, mode: int, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> None:
        disk, inode = self.there(path, dir_fd, follow=follow_symlinks)
        disk.enter("chmod")
        if stat.S_ISLNK(inode.mode):
            raise fail(errno.EOPNOTSUPP)
        disk.set(inode, mode=stat.S_IFMT(inode.mode) | (mode & 0o7777))

    def fchmod(self, descriptor: int, mode: int) -> None:
        if self.handle(descriptor).flags & os.O_PATH:
            raise fail(errno.EBADF)
        self.chmod(descriptor, mode)

    def utime(
        self,
        path: AnyPath | int,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        disk, inode = self.there(path, dir_fd, follow=follow_symlinks)
        disk.enter("utime")
        assert times is None, "not simulated"
        atime_ns, mtime_ns = ns or (disk.stamp(), disk.stamp())
        disk.set(inode, atime_ns=atime_ns, mtime_ns=mtime_ns)

    def setxattr(
        self,
        path: AnyPath | int,
        name: str | bytes,
        value: bytes,
        flags: int = 0,
        *,
        follow_symlinks: bool = True,
    ) -> None:
        disk, inode = self.attributed(path, follow=follow_symlinks)
        disk.enter("setxattr")
        key = os.fsdecode(name)
        if stat.S_ISLNK(inode.mode) and key.startswith("user."):
            raise fail(errno.EPERM)
        if not self.allowed(inode, 0o2):
            raise fail(errno.EACCES)
        if flags & os.XATTR_CREATE and key in inode.xattrs:
            raise fail(errno.EEXIST)
        if flags & os.XATTR_REPLACE and key not in inode.xattrs:
            raise fail(errno.ENODATA)
        disk.set(inode, xattrs={**inode.xattrs, key: bytes(value)})

    def attributed(self, path: AnyPath | int, *, follow: bool) -> tuple[Disk, Inode]:
        """Return what a path or descriptor leads to, for extended attributes."""
        if isinstance(path, int) and self.handle(path).flags & os.O_PATH:
            raise fail(errno.EBADF)
        return self.there(path, follow=follow)

    def getxattr(self, path: AnyPath | int, name: str | bytes, *, follow_symlinks: bool = True) -> bytes:
        _, inode = self.attributed(path, follow=follow_symlinks)
        try:
            return inode.xattrs[os.fsdecode(name)]
        except KeyError:
            raise fail(errno.ENODATA) from None

    def listxattr(self, path: AnyPath | int, *, follow_symlinks: bool = True) -> list[str]:
        return list(self.attributed(path, follow=follow_symlinks)[1].xattrs)

    def removexattr(self, path: AnyPath | int, name: str | bytes, *, follow_symlinks: bool = True) -> None:
        disk, inode = self.attributed(path, follow=follow_symlinks)
        disk.enter("removexattr")
        left = dict(inode.xattrs)
        if left.pop(os.fsdecode(name), None) is None:
            raise fail(errno.ENODATA)
        disk.set(inode, xattrs=left)

    # The calls through ctypes, as they answer there
    def raw_openat2(self, _number: int, root: int, path: bytes, how: Any, _size: int) -> int:
        flags, resolve = how._obj.flags, how._obj.resolve  # what `ctypes.byref` refers to
        assert resolve & (beneath.RESOLVE_BENEATH | beneath.RESOLVE_NO_SYMLINKS), "not simulated"
        try:
            if flags & os.O_PATH and flags & os.O_NOFOLLOW:
                return self.open_at(self.place(path, root, follow=False, inside=True), flags, 0)
            return self.open_at(
                self.place(path, root, follow=not flags & os.O_NOFOLLOW, inside=True), flags, 0
            )
        except OSError as error:
            self.errno = error.errno or 0
            return -1

    def raw_renameat2(self, source: int, old: bytes, target: int, new: bytes, flags: int) -> int:
        try:
            self.renameat2(source, old, target, new, flags)
        except OSError as error:
            self.errno = error.errno or 0
            return -1
        return 0

    def raw_syncfs(self, descriptor: int) -> int:
        disk = self.handle(descriptor).disk
        try:
            disk.enter("syncfs")
        except OSError as error:
            self.errno = error.errno or 0
            return -1
        disk.sync(None)
        return 0

    def get_errno(self) -> int:
        return self.errno


Patch = tuple[dict[str, Any], str, object, object]


def patches(system: System) -> list[Patch]:
    """Return (module's names, name, simulated, real) for all that the folder source takes from the kernel."""
    found: list[Patch] = []
    for module in MODULES:
        space = vars(module)
        for name, simulated, real in (("os", system.os, os), ("fcntl", system.fcntl, fcntl)):
            if name in space:
                found.append((space, name, simulated, real))
    calls = SimpleNamespace(byref=ctypes.byref, get_errno=system.get_errno)
    for name, simulated in (
        ("raw_openat2", system.raw_openat2),
        ("raw_renameat2", system.raw_renameat2),
        ("raw_syncfs", system.raw_syncfs),
        ("ctypes", calls),
    ):
        found.append((vars(beneath), name, simulated, REAL_CALLS[name]))
    return found


def folder_modules() -> list[pkgutil.ModuleInfo]:
    """Return the modules of the folder source."""
    package = p2psyncd.sources.folder
    return list(pkgutil.iter_modules([str(Path(one)) for one in package.__path__], package.__name__ + "."))


MODULES = [importlib.import_module(one.name) for one in folder_modules()]
REAL_CALLS = {name: vars(beneath)[name] for name in ("raw_openat2", "raw_renameat2", "raw_syncfs", "ctypes")}
