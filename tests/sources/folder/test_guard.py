from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from p2psyncd.core.ids import ShareId
from p2psyncd.errors import FileSystemUnfit, FolderMissing, NestedShare, NotAFolder, ShareHeld
from p2psyncd.sources.folder import guard as guard_module
from p2psyncd.sources.folder.guard import RootGuard, check_new_root, create_marker, marker_of, remove_marker

SHARE = ShareId(b"s" * 16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A shared folder."""
    folder = tmp_path / "root"
    folder.mkdir()
    create_marker(folder, SHARE)
    return folder


def test_a_marker_names_its_share(root: Path, tmp_path: Path) -> None:
    assert marker_of(root) == SHARE
    assert marker_of(tmp_path) is None
    assert marker_of(tmp_path / "missing") is None
    create_marker(root, ShareId(b"t" * 16))
    assert marker_of(root) == b"t" * 16
    remove_marker(root)
    assert marker_of(root) is None
    remove_marker(root)
    assert (root / ".p2psync/history").is_dir()


def test_a_broken_marker_is_none(root: Path) -> None:
    marker = root / ".p2psync/share"
    marker.write_text("no hexadecimal")
    assert marker_of(root) is None
    marker.unlink()
    marker.mkdir()
    assert marker_of(root) is None


def test_a_good_root_passes(root: Path) -> None:
    guard = RootGuard(root, SHARE)
    guard.check()
    guard.check()
    assert guard.filesystem is not None
    RootGuard(root, SHARE, filesystem=guard.filesystem).check()


def test_a_marker_that_is_gone_holds_the_share(root: Path) -> None:
    guard = RootGuard(root, SHARE)
    guard.check()
    (root / ".p2psync/share").unlink()
    with pytest.raises(ShareHeld, match="no marker"):
        guard.check()


def test_another_shares_marker_holds_the_share(root: Path) -> None:
    with pytest.raises(ShareHeld, match="another share"):
        RootGuard(root, ShareId(b"o" * 16)).check()


def test_a_root_that_is_missing_swapped_or_no_folder_holds_the_share(root: Path, tmp_path: Path) -> None:
    guard = RootGuard(root, SHARE)
    root.rename(tmp_path / "moved")
    with pytest.raises(ShareHeld, match="missing"):
        guard.check()
    root.symlink_to(tmp_path / "moved")
    with pytest.raises(ShareHeld, match="symlink"):
        guard.check()
    root.unlink()
    root.write_text("a file")
    with pytest.raises(ShareHeld, match="not a folder"):
        guard.check()


def test_a_marker_reached_through_a_symlink_does_not_count(root: Path, tmp_path: Path) -> None:
    (root / ".p2psync").rename(tmp_path / "meta")
    (root / ".p2psync").symlink_to(tmp_path / "meta")
    with pytest.raises(ShareHeld, match="no marker"):
        RootGuard(root, SHARE).check()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system at hand")
def test_a_root_on_another_file_system_holds_the_share_until_it_is_accepted(root: Path) -> None:
    elsewhere = Path("/dev/shm") / f"p2psyncd-test-{os.getpid()}"
    elsewhere.mkdir()
    try:
        create_marker(elsewhere, SHARE)
        guard = RootGuard(root, SHARE)
        guard.check()
        guard.root = elsewhere
        with pytest.raises(ShareHeld, match="another file system"):
            guard.check()
        restarted = RootGuard(elsewhere, SHARE, filesystem=os.statvfs(root).f_fsid)
        with pytest.raises(ShareHeld, match="another file system"):
            restarted.check()
        restarted.accept()
        restarted.check()
    finally:
        shutil.rmtree(elsewhere)


def test_a_root_that_may_not_be_opened_holds_the_share(as_user: Path) -> None:
    root = as_user / "root"
    root.mkdir()
    create_marker(root, SHARE)
    root.chmod(0)
    with pytest.raises(ShareHeld, match="cannot be opened"):
        RootGuard(root, SHARE).check()


def test_a_new_root_is_a_folder_outside_all_shares(root: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (tmp_path / "link").symlink_to(plain)
    assert check_new_root(tmp_path / "link") == plain
    with pytest.raises(FolderMissing):
        check_new_root(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotAFolder):
        check_new_root(tmp_path / "file")
    (root / "a/b").mkdir(parents=True)
    with pytest.raises(NestedShare):
        check_new_root(root / "a/b")
    with pytest.raises(NestedShare):
        check_new_root(root / ".p2psync/staging")
    assert check_new_root(root) == root


def test_a_folder_that_cannot_be_written_is_no_new_root(as_user: Path) -> None:
    as_user.chmod(0o500)
    with pytest.raises(NotAFolder):
        create_marker(as_user, SHARE)


def test_a_file_system_that_cannot_exchange_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(guard_module, "exchange", refuse)
    with pytest.raises(FileSystemUnfit):
        create_marker(tmp_path, SHARE)
    assert list((tmp_path / ".p2psync/staging").iterdir()) == []
