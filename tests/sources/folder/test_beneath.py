from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from p2psyncd.sources.folder import beneath
from p2psyncd.sources.folder.beneath import (
    OPEN_DIRECTORIES_MAX,
    Directories,
    copy_content,
    exchange,
    open_beneath,
    open_root,
    open_stepwise,
    rename_new,
    sync_file_system,
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a directory, and symlinks that lead out of it and back in."""
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"outside")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to("a/b")
    return root


@pytest.mark.parametrize("opener", [open_beneath, open_stepwise])
def test_a_path_is_opened_through_no_symlink(tree: Path, opener: object) -> None:
    assert callable(opener)
    root = open_root(tree)
    try:
        opened = opener(root, b"a/b/file", os.O_RDONLY)
        assert os.read(opened, 10) == b"inside"
        os.close(opened)
        for path in (b"out/file", b"in/file", b"out"):
            with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
                os.close(opener(root, path, os.O_RDONLY))
    finally:
        os.close(root)


def test_a_path_that_goes_up_is_not_opened(tree: Path) -> None:
    root = open_root(tree)
    try:
        for path in (b"a/../../outside/file", b"/etc/passwd"):
            with pytest.raises(OSError, match=r"cross-device|EXDEV|Invalid"):
                open_beneath(root, path, os.O_RDONLY)
    finally:
        os.close(root)


def test_without_openat2_paths_are_walked_step_by_step(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The number of a call that no kernel has.
    monkeypatch.setattr(beneath, "SYS_OPENAT2", 100_000)
    with Directories(tree) as directories:
        assert directories.status(b"a/b/file") is not None
        assert directories.status(b"out/file") is None


def test_a_root_that_is_a_symlink_is_not_opened(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(NotADirectoryError):
        open_root(tmp_path / "link")


def test_only_so_many_directories_stay_open(tree: Path) -> None:
    for number in range(OPEN_DIRECTORIES_MAX + 10):
        (tree / f"d{number}").mkdir()
    with Directories(tree) as directories:
        for number in range(OPEN_DIRECTORIES_MAX + 10):
            directories.directory(b"d%d" % number)
        assert len(directories.opened) == OPEN_DIRECTORIES_MAX
        assert b"d0" not in directories.opened
        again = directories.directory(b"d20")
        assert directories.directory(b"d20") == again
        held = list(directories.opened.values())
    for descriptor in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_directory_that_moved_away_is_forgotten_with_all_below(tree: Path) -> None:
    with Directories(tree) as directories:
        directories.directory(b"a")
        directories.directory(b"a/b")
        directories.directory(b"")
        directories.forget(b"a")
        assert not directories.opened
        assert directories.ensure(b"new/deep/er") >= 0
        assert (tree / "new/deep/er").is_dir()


def test_a_status_that_cannot_be_known_is_an_error(tree: Path) -> None:
    with Directories(tree) as directories:
        assert directories.status(b"nothing/at/all") is None
        assert directories.status(b"a/b/file/below") is None
        with pytest.raises(OSError, match="too long"):
            directories.status(b"n" * 256)


def test_renames_do_not_overwrite_and_exchange_in_one_step(tree: Path) -> None:
    (tree / "one").write_bytes(b"1")
    (tree / "two").write_bytes(b"2")
    root = open_root(tree)
    try:
        with pytest.raises(FileExistsError):
            rename_new(root, b"one", root, b"two")
        exchange(root, b"one", root, b"two")
        assert (tree / "one").read_bytes() == b"2"
        with pytest.raises(FileNotFoundError):
            exchange(root, b"one", root, b"three")
        rename_new(root, b"one", root, b"three")
        assert (tree / "three").read_bytes() == b"2"
        sync_file_system(root)
        with pytest.raises(OSError, match="Bad file descriptor"):
            sync_file_system(-1)
    finally:
        os.close(root)


@pytest.mark.parametrize("trouble", [None, errno.EXDEV])
def test_content_is_copied_by_whatever_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int | None
) -> None:
    data = os.urandom(300_000)
    (tmp_path / "from").write_bytes(data)
    if trouble is not None:

        def refuse(*_: object) -> int:
            raise OSError(trouble, "no")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("w+b") as target:
        copy_content(source.fileno(), target.fileno())
    assert (tmp_path / "to").read_bytes() == data


def test_a_sparse_file_is_copied_sparse(tmp_path: Path) -> None:
    with (tmp_path / "from").open("w+b") as source, (tmp_path / "to").open("w+b") as target:
        os.pwrite(source.fileno(), b"a" * 5000, 1_000_000)
        os.pwrite(source.fileno(), b"b" * 5000, 50_000_000)
        os.ftruncate(source.fileno(), 100_000_000)
        copy_content(source.fileno(), target.fileno())
        status = os.fstat(target.fileno())
        assert status.st_size == 100_000_000
        assert status.st_blocks * 512 < 1_000_000
        assert os.pread(target.fileno(), 5000, 1_000_000) == b"a" * 5000
        assert os.pread(target.fileno(), 5000, 50_000_000) == b"b" * 5000


def test_a_full_disk_is_not_taken_for_a_file_system_that_cannot_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "from").write_bytes(b"data")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with (
        (tmp_path / "from").open("rb") as source,
        (tmp_path / "to").open("w+b") as target,
        pytest.raises(OSError, match="full"),
    ):
        copy_content(source.fileno(), target.fileno())
