"""The simulated disk against the real one, and what it keeps and loses when the power goes."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from filesystem import BLOCK_BYTES, COMMIT_S, WRITEBACK_S, Disk
from folderuser import value_of, walk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from system import System

from p2psyncd.sources.folder import beneath

SEEDS = 60
EXAMPLES = int(os.environ.get("P2PSYNC_SIMULATIONS", "0")) or 150


@dataclass
class Clock:
    """A clock that stands still unless told."""

    s: float = 0.0

    def now_us(self) -> int:
        return 1_700_000_000_000_000 + int(self.s * 1_000_000)

    def monotonic_s(self) -> float:
        return self.s


def new_disk(**options: Any) -> tuple[System, Disk]:
    system = System(privileged=os.geteuid() == 0)
    disk = Disk(Clock(), **options)
    system.mount("/sim", disk)
    return system, disk


# Against the real one


class Real:
    """The real calls, as the folder source makes them."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.os = os

    def open_beneath(self, directory: int, path: bytes, flags: int) -> int:
        return beneath.open_beneath(directory, path, flags)

    def renameat2(self, source: int, old: bytes, target: int, new: bytes, flags: int) -> None:
        beneath.renameat2(source, old, target, new, flags)

    def copy_content(self, source: int, target: int) -> None:
        beneath.copy_content(source, target)


class Simulated(Real):
    """The same on a simulated disk."""

    def __init__(self) -> None:
        self.system, self.disk = new_disk()
        self.root = b"/sim/top"
        self.system.mkdir(self.root)
        self.os = self.system.os  # type: ignore[assignment]  # as much of it as is needed

    def open_beneath(self, directory: int, path: bytes, flags: int) -> int:
        with self.system.active():
            return super().open_beneath(directory, path, flags)

    def renameat2(self, source: int, old: bytes, target: int, new: bytes, flags: int) -> None:
        with self.system.active():
            super().renameat2(source, old, target, new, flags)

    def copy_content(self, source: int, target: int) -> None:
        with self.system.active():
            super().copy_content(source, target)


@dataclass
class Player:
    """Does one thing after the other, and says what came of it."""

    side: Real
    files: list[int] = field(default_factory=list)
    directories: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.directories.append(self.side.os.open(self.side.root, os.O_RDONLY | os.O_DIRECTORY))

    def play(self, deed: tuple[Any, ...]) -> object:
        name, *arguments = deed
        try:
            return getattr(self, name)(*arguments)
        except OSError as error:
            return ("error", error.errno)

    def directory(self, number: int) -> int:
        return self.directories[number % len(self.directories)]

    def file(self, number: int) -> int:
        return self.files[number % len(self.files)] if self.files else 999_999_999

    def open(self, at: int, name: bytes, flags: int) -> str:
        self.files.append(self.side.os.open(name, flags, 0o640, dir_fd=self.directory(at)))
        return "opened"

    def open_directory(self, at: int, path: bytes) -> str:
        self.directories.append(
            self.side.open_beneath(self.directory(at), path, os.O_RDONLY | os.O_DIRECTORY)
        )
        return "opened"

    def look_beneath(self, at: int, path: bytes, flags: int) -> object:
        opened = self.side.open_beneath(self.directory(at), path, flags)
        try:
            return stat.S_IFMT(self.side.os.fstat(opened).st_mode)
        finally:
            self.side.os.close(opened)

    def close(self, number: int) -> None:
        if self.files:
            self.side.os.close(self.files.pop(number % len(self.files)))

    def write(self, number: int, data: bytes) -> int:
        return self.side.os.write(self.file(number), data)

    def pwrite(self, number: int, data: bytes, offset: int) -> int:
        return self.side.os.pwrite(self.file(number), data, offset)

    def read(self, number: int, length: int) -> bytes:
        return self.side.os.read(self.file(number), length)

    def pread(self, number: int, length: int, offset: int) -> bytes:
        return self.side.os.pread(self.file(number), length, offset)

    def lseek(self, number: int, offset: int, whence: int) -> int:
        return self.side.os.lseek(self.file(number), offset, whence)

    def ftruncate(self, number: int, size: int) -> None:
        self.side.os.ftruncate(self.file(number), size)

    def copy_content(self, number: int, to: int) -> object:
        if self.file(number) == self.file(to):
            return None
        return self.side.copy_content(self.file(number), self.file(to))

    def fstat(self, number: int) -> object:
        return self.picture(self.side.os.fstat(self.file(number)))

    def stat(self, at: int, path: bytes, follow: bool) -> object:
        return self.picture(self.side.os.stat(path, dir_fd=self.directory(at), follow_symlinks=follow))

    def picture(self, status: os.stat_result) -> object:
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        return (oct(status.st_mode), status.st_nlink, size)

    def mkdir(self, at: int, path: bytes) -> None:
        self.side.os.mkdir(path, 0o750, dir_fd=self.directory(at))

    def rmdir(self, at: int, path: bytes) -> None:
        self.side.os.rmdir(path, dir_fd=self.directory(at))

    def unlink(self, at: int, path: bytes) -> None:
        self.side.os.unlink(path, dir_fd=self.directory(at))

    def rename(self, at: int, old: bytes, to: int, new: bytes, flags: int) -> None:
        if flags:
            self.side.renameat2(self.directory(at), old, self.directory(to), new, flags)
        else:
            self.side.os.rename(old, new, src_dir_fd=self.directory(at), dst_dir_fd=self.directory(to))

    def symlink(self, at: int, path: bytes, target: bytes) -> None:
        self.side.os.symlink(target, path, dir_fd=self.directory(at))

    def readlink(self, at: int, path: bytes) -> object:
        return self.side.os.readlink(path, dir_fd=self.directory(at))

    def link(self, at: int, old: bytes, to: int, new: bytes) -> None:
        self.side.os.link(
            old, new, src_dir_fd=self.directory(at), dst_dir_fd=self.directory(to), follow_symlinks=False
        )

    def chmod(self, at: int, path: bytes, mode: int) -> None:
        self.side.os.chmod(path, mode, dir_fd=self.directory(at))

    def utime(self, at: int, path: bytes, ns: int, follow: bool) -> object:
        self.side.os.utime(path, ns=(ns, ns), dir_fd=self.directory(at), follow_symlinks=follow)
        return self.side.os.stat(path, dir_fd=self.directory(at), follow_symlinks=follow).st_mtime_ns

    def setxattr(self, number: int, name: str, value: bytes, flags: int) -> list[str]:
        self.side.os.setxattr(self.file(number), name, value, flags)
        return sorted(self.side.os.listxattr(self.file(number)))

    def getxattr(self, number: int, name: str) -> bytes:
        return self.side.os.getxattr(self.file(number), name)

    def listdir(self, at: int) -> list[str]:
        return sorted(self.side.os.listdir(self.directory(at)))

    def scandir(self, at: int) -> object:
        with self.side.os.scandir(self.directory(at)) as entries:
            return sorted((one.name, self.picture(one.stat(follow_symlinks=False))) for one in entries)

    def tree(self) -> object:
        """Return all that is there."""
        found = {}
        waiting = [b""]
        while waiting:
            above = waiting.pop()
            path = self.side.root + above
            for name in self.side.os.listdir(path):
                key = above + b"/" + name
                status = self.side.os.stat(self.side.root + key, follow_symlinks=False)
                content: object = None
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(key)
                elif stat.S_ISLNK(status.st_mode):
                    content = self.side.os.readlink(self.side.root + key)
                else:
                    opened = self.side.os.open(self.side.root + key, os.O_RDONLY)
                    content = self.side.os.pread(opened, 1 << 20, 0)
                    self.side.os.close(opened)
                found[key] = (self.picture(status), content)
        return found

    def end(self) -> None:
        for opened in (*self.files, *self.directories):
            self.side.os.close(opened)


names = st.sampled_from([b"a", b"b", b"c", b"d"])
paths = st.one_of(names, st.builds(lambda one, two: one + b"/" + two, names, names), st.just(b"a/b/c"))
handles = st.integers(0, 5)
offsets = st.sampled_from([0, 1, 5, 4095, 4096, 5000, 9000, 20_000])
contents = st.sampled_from([b"", b"x", b"hello", bytes(100), b"y" * 4096, b"z" * 5000])
OPEN_FLAGS = [
    os.O_RDONLY,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK,
    os.O_RDWR,
    os.O_WRONLY | os.O_APPEND | os.O_CREAT,
    os.O_PATH | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
]
BENEATH_FLAGS = [
    os.O_RDONLY | os.O_NONBLOCK,
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK,
    os.O_PATH | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
]
deeds = st.one_of(
    st.tuples(st.just("open"), handles, paths, st.sampled_from(OPEN_FLAGS)),
    st.tuples(st.just("open"), handles, names, st.just(os.O_RDWR | os.O_CREAT)),
    st.tuples(st.just("open_directory"), handles, paths),
    st.tuples(st.just("look_beneath"), handles, paths, st.sampled_from(BENEATH_FLAGS)),
    st.tuples(st.just("close"), handles),
    st.tuples(st.just("write"), handles, contents),
    st.tuples(st.just("pwrite"), handles, contents, offsets),
    st.tuples(st.just("read"), handles, offsets),
    st.tuples(st.just("pread"), handles, offsets, offsets),
    st.tuples(
        st.just("lseek"),
        handles,
        offsets,
        st.sampled_from([os.SEEK_SET, os.SEEK_DATA, os.SEEK_HOLE, os.SEEK_END]),
    ),
    st.tuples(st.just("ftruncate"), handles, offsets),
    st.tuples(st.just("copy_content"), handles, handles),
    st.tuples(st.just("fstat"), handles),
    st.tuples(st.just("stat"), handles, paths, st.booleans()),
    st.tuples(st.just("mkdir"), handles, paths),
    st.tuples(st.just("mkdir"), handles, names),
    st.tuples(st.just("rmdir"), handles, paths),
    st.tuples(st.just("unlink"), handles, paths),
    st.tuples(st.just("rename"), handles, paths, handles, paths, st.integers(0, 2)),
    st.tuples(st.just("rename"), handles, names, handles, paths, st.integers(0, 2)),
    st.tuples(
        st.just("symlink"), handles, paths, st.sampled_from([b"a", b"b", b"a/b", b"../a", b".", b"/nowhere"])
    ),
    st.tuples(st.just("readlink"), handles, paths),
    st.tuples(st.just("link"), handles, paths, handles, paths),
    st.tuples(st.just("chmod"), handles, paths, st.sampled_from([0o600, 0o644, 0o755, 0o700])),
    st.tuples(
        st.just("utime"), handles, paths, st.sampled_from([0, 1, 1_700_000_000_123_456_789]), st.booleans()
    ),
    st.tuples(
        st.just("setxattr"),
        handles,
        st.sampled_from(["user.one", "user.two"]),
        st.sampled_from([b"", b"value"]),
        st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    ),
    st.tuples(st.just("getxattr"), handles, st.sampled_from(["user.one", "user.two"])),
    st.tuples(st.just("listdir"), handles),
    st.tuples(st.just("scandir"), handles),
)


@pytest.fixture(scope="module")
def real_root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="p2psync-simulation-"))
    yield path
    shutil.rmtree(path)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(played=[("open", 0, b"a", os.O_WRONLY | os.O_APPEND | os.O_CREAT), ("pwrite", 0, b"x", 1)])
@given(played=st.lists(deeds, max_size=40))
def test_the_simulated_calls_answer_as_the_real_ones(played: list[tuple[Any, ...]], real_root: Path) -> None:
    root = Path(tempfile.mkdtemp(dir=real_root)) / "top"  # links lead one step above it
    root.mkdir()
    simulated = Simulated()
    players = (Player(Real(root)), Player(simulated))
    try:
        for deed in played:
            real, imagined = (player.play(deed) for player in players)
            assert imagined == real, deed
        real, imagined = (player.tree() for player in players)
        assert imagined == real
    finally:
        for player in players:
            player.end()
    assert not simulated.system.handles


# Crashes


def put(system: System, path: str, content: bytes, *, sync: bool = False) -> None:
    opened = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    system.write(opened, content)
    if sync:
        system.fsync(opened)
    system.close(opened)


def sync_directory(system: System, path: str) -> None:
    opened = system.open(path, os.O_RDONLY | os.O_DIRECTORY)
    system.fsync(opened)
    system.close(opened)


def content_of(disk: Disk) -> dict[bytes, bytes | None]:
    return {key: value_of(inode) for key, inode in walk(disk, disk.volatile[1])}


def fates(work: Callable[[System, Disk], None], **options: Any) -> list[dict[bytes, bytes | None]]:
    """Return what lies on a disk after a power cut that followed some work, for many cuts."""
    found = []
    for seed in range(SEEDS):
        system, disk = new_disk(**options)
        work(system, disk)
        disk.crash(Random(seed), power=True)
        found.append(content_of(disk))
    return found


BOTH = pytest.mark.parametrize("ordered", [True, False])


@BOTH
def test_what_was_synced_survives_always(ordered: bool) -> None:
    def work(system: System, disk: Disk) -> None:
        system.mkdir("/sim/d")
        put(system, "/sim/d/a", b"first", sync=True)
        sync_directory(system, "/sim/d")
        put(system, "/sim/b", b"other", sync=True)

    assert all(
        found == {b"d": None, b"d/a": b"first", b"b": b"other"} for found in fates(work, ordered=ordered)
    )


@BOTH
def test_what_was_not_synced_vanishes_sometimes(ordered: bool) -> None:
    def work(system: System, disk: Disk) -> None:
        put(system, "/sim/a", b"content")

    found = fates(work, ordered=ordered)
    assert {} in found
    assert {b"a": b"content"} in found
    assert {b"a": b""} in found
    assert {b"a": bytes(7)} in found
    assert any(0 < len(one.get(b"a") or b"") < 7 for one in found)


@BOTH
def test_a_rename_may_survive_without_the_data_of_its_file(ordered: bool) -> None:
    def work(system: System, disk: Disk) -> None:
        put(system, "/sim/a", b"old", sync=True)
        sync_directory(system, "/sim")
        put(system, "/sim/new", b"new")
        system.rename("/sim/new", "/sim/a")

    found = fates(work, ordered=ordered)
    assert {b"a": b""} in found
    assert {b"a": b"old"} in found
    assert {b"a": b"new"} in found


@BOTH
def test_an_exchange_is_whole_or_not_at_all(ordered: bool) -> None:
    def work(system: System, disk: Disk) -> None:
        system.mkdir("/sim/d")
        put(system, "/sim/a", b"a")
        put(system, "/sim/d/b", b"b")
        disk.sync(None)
        system.renameat2(None, b"/sim/a", None, b"/sim/d/b", beneath.RENAME_EXCHANGE)

    found = fates(work, ordered=ordered)
    before, after = {b"d": None, b"a": b"a", b"d/b": b"b"}, {b"d": None, b"a": b"b", b"d/b": b"a"}
    assert all(one in (before, after) for one in found)
    assert before in found
    assert after in found


def names_after(ordered: bool) -> set[frozenset[bytes]]:
    def work(system: System, disk: Disk) -> None:
        system.mkdir("/sim/d")
        system.mkdir("/sim/e")
        disk.sync(None)
        system.mkdir("/sim/d/one")
        system.mkdir("/sim/e/two")

    return {frozenset(found) - {b"d", b"e"} for found in fates(work, ordered=ordered)}


def test_an_ordered_disk_keeps_names_up_to_a_moment() -> None:
    assert names_after(ordered=True) == {frozenset(), frozenset({b"d/one"}), frozenset({b"d/one", b"e/two"})}


def test_an_unordered_disk_may_keep_the_later_of_two_names_in_different_directories() -> None:
    assert frozenset({b"e/two"}) in names_after(ordered=False)


def test_syncing_a_directory_of_an_unordered_disk_brings_along_what_its_names_need() -> None:
    def work(system: System, disk: Disk) -> None:
        put(system, "/sim/a", b"a", sync=True)
        system.mkdir("/sim/d")
        system.mkdir("/sim/d/e")
        system.rename("/sim/a", "/sim/d/e/a")
        sync_directory(system, "/sim/d/e")

    assert all(found == {b"d": None, b"d/e": None, b"d/e/a": b"a"} for found in fates(work, ordered=False))


@BOTH
def test_what_is_old_was_written_out_by_the_kernel(ordered: bool) -> None:
    def work(system: System, disk: Disk) -> None:
        assert isinstance(disk.clock, Clock)
        put(system, "/sim/a", b"old")
        disk.clock.s += WRITEBACK_S + 1
        put(system, "/sim/b", b"new")
        disk.clock.s += COMMIT_S + 1

    found = fates(work, ordered=ordered)
    assert all(one[b"a"] == b"old" for one in found)
    assert {one[b"b"] for one in found} > {b"", b"new"}


def test_killing_a_process_loses_nothing_and_closes_its_files() -> None:
    system, disk = new_disk()
    put(system, "/sim/a", b"content")
    opened = system.open("/sim/a", os.O_RDONLY)
    system.unlink("/sim/a")
    put(system, "/sim/b", b"other")
    assert disk.used == 2
    system.forget(disk)
    disk.crash(Random(1), power=False)
    assert content_of(disk) == {b"b": b"other"}
    assert disk.used == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        system.read(opened, 1)


def test_a_process_that_was_killed_may_still_lose_with_the_power_what_it_wrote() -> None:
    def work(system: System, disk: Disk) -> None:
        put(system, "/sim/a", b"content")
        disk.crash(Random(1), power=False)

    assert {} in fates(work)


def test_the_number_of_an_inode_is_used_again() -> None:
    system, _ = new_disk()
    put(system, "/sim/a", b"one")
    number = system.stat("/sim/a").st_ino
    opened = system.open("/sim/a", os.O_RDONLY)
    system.unlink("/sim/a")
    put(system, "/sim/b", b"two")
    assert system.stat("/sim/b").st_ino != number
    assert system.read(opened, 10) == b"one"
    system.close(opened)
    put(system, "/sim/c", b"six")
    assert system.stat("/sim/c").st_ino == number


def test_a_full_disk_takes_what_fits_and_then_nothing() -> None:
    system, disk = new_disk(capacity=4 * BLOCK_BYTES)
    put(system, "/sim/a", bytes(BLOCK_BYTES))
    opened = system.open("/sim/b", os.O_WRONLY | os.O_CREAT)
    room = (disk.capacity // BLOCK_BYTES - disk.used) * BLOCK_BYTES
    assert room == 3 * BLOCK_BYTES
    assert system.write(opened, bytes(room + 1)) == room
    with pytest.raises(OSError, match="No space left"):
        system.write(opened, b"x")
    with pytest.raises(OSError, match="No space left"):
        system.mkdir("/sim/d")
    assert system.statvfs("/sim").f_bavail == 0
    system.unlink("/sim/a")
    assert system.write(opened, b"x") == 1


def test_times_are_as_coarse_as_the_disk() -> None:
    system, disk = new_disk(granularity_ns=10_000_000)
    assert isinstance(disk.clock, Clock)
    disk.clock.s = 1.2345
    put(system, "/sim/a", b"")
    assert system.stat("/sim/a").st_mtime_ns % 10**9 == 230_000_000


def test_a_fault_strikes_the_chosen_operation_and_spares_others() -> None:
    system, disk = new_disk()

    def fault(name: str) -> None:
        if name == "exchange":
            raise OSError(5, "broken")

    put(system, "/sim/a", b"a")
    put(system, "/sim/b", b"b")
    disk.fault = fault
    system.rename("/sim/a", "/sim/c")
    with pytest.raises(OSError, match="broken"):
        system.renameat2(None, b"/sim/c", None, b"/sim/b", beneath.RENAME_EXCHANGE)
    with disk.undisturbed():
        system.renameat2(None, b"/sim/c", None, b"/sim/b", beneath.RENAME_EXCHANGE)
    assert content_of(disk) == {b"c": b"b", b"b": b"a"}


@BOTH
def test_a_snapshot_is_a_disk_of_its_own_with_the_same_future(ordered: bool) -> None:
    system, disk = new_disk(ordered=ordered)
    put(system, "/sim/a", b"synced", sync=True)
    put(system, "/sim/b", b"not synced")
    state = disk.snapshot()
    system.unlink("/sim/a")
    other_system, other = new_disk(ordered=ordered)
    other.restore(state)
    assert content_of(other) == {b"a": b"synced", b"b": b"not synced"}
    put(other_system, "/sim/c", b"only here")
    other.crash(Random(3), power=True)
    disk.restore(state)
    assert content_of(disk) == {b"a": b"synced", b"b": b"not synced"}
    disk.crash(Random(4), power=True)
    assert content_of(disk)[b"a"] == b"synced"


def test_only_the_folder_source_works_on_the_simulated_disk() -> None:
    system, _ = new_disk()
    assert beneath.os is os
    with system.active():
        assert beneath.os is system.os
        assert not isinstance(beneath.os, SimpleNamespace) or not hasattr(beneath.os, "system")
        assert Path("/").exists()
        with beneath.Directories(Path("/sim")) as directories:
            directories.ensure(b"made")
    assert beneath.os is os
    assert system.stat("/sim/made").st_mode & 0o777 == 0o700
    assert not Path("/sim").exists()
