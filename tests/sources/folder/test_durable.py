"""What is announced is on the disk: which calls that takes, and what happens when the disk fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2psyncd.core.item import Draft, Kind
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.durable import FEW, make_durable
from p2psyncd.sources.source import Observation

if TYPE_CHECKING:
    from conftest import Device


class Disk:
    """Notes what was synced."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.synced: list[str] = []

    def all(self, descriptor: int) -> None:
        self.note("everything")

    def one(self, descriptor: int) -> None:
        self.note(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    def note(self, what: str) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.synced.append(what)


def seen(key: str, kind: Kind = Kind.FILE) -> Observation:
    return Observation(draft=Draft(key=key.encode(), kind=kind), state=b"s", base_state=b"", changed_us=0)


def sync(root: Path, disk: Disk, *observations: Observation) -> list[str]:
    with Directories(root) as directories:
        make_durable(directories, observations, sync=disk.all, sync_one=disk.one)
    return [name.removeprefix(str(root)) for name in disk.synced]


def test_a_new_file_and_its_name_are_synced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("one")
    assert sync(tmp_path, Disk(), seen("d/f")) == ["/d/f", "/d"]


def test_a_deletion_is_synced_where_it_happened_or_in_the_nearest_directory_left(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert sync(tmp_path, Disk(), seen("d/gone", Kind.TOMBSTONE)) == ["/d"]
    assert sync(tmp_path, Disk(), seen("d/e/f/gone", Kind.TOMBSTONE)) == ["/d"]
    assert sync(tmp_path, Disk(), seen("gone", Kind.TOMBSTONE)) == [""]


def test_a_directory_is_synced_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    assert sorted(sync(tmp_path, Disk(), seen("d/e", Kind.DIRECTORY))) == ["/d", "/d/e"]


def test_many_changes_cost_one_sync(tmp_path: Path) -> None:
    many = [seen(f"f{number}") for number in range(FEW + 1)]
    for one in many:
        (tmp_path / os.fsdecode(one.draft.key)).write_text("x")
    assert sync(tmp_path, Disk(), *many) == ["everything"]
    assert sync(tmp_path, Disk()) == []


def test_what_is_gone_again_is_left_to_the_next_scan(tmp_path: Path) -> None:
    assert sync(tmp_path, Disk(), seen("d/f")) == [""]


def test_a_file_that_cannot_be_opened_is_synced_with_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    (tmp_path / "f").write_text("one")
    disk = Disk()
    with Directories(tmp_path) as directories:
        monkeypatch.setattr(os, "open", refused)
        make_durable(directories, [seen("f")], sync=disk.all, sync_one=disk.one)
    assert disk.synced == ["everything"]


def test_a_file_system_without_syncs_is_no_error_and_a_failing_disk_is_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    assert sync(tmp_path, Disk(errno.EINVAL), seen("f")) == []
    with pytest.raises(OSError, match="Input/output"):
        sync(tmp_path, Disk(errno.EIO), seen("f"))


def test_what_the_replica_is_about_to_record_is_synced(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    here.write("d/f", "one")
    disk = Disk()
    monkeypatch.setattr(here.source.applying, "sync", disk.all)
    monkeypatch.setattr(here.source.applying, "sync_one", disk.one)
    observations = here.look()
    assert disk.synced == []
    assert here.source.confirm(observations) == observations
    root = str(here.root)
    assert sorted(name.removeprefix(root) for name in disk.synced) == ["", "/d", "/d/f"]
