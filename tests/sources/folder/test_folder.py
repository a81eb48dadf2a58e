from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Stored
from p2psyncd.errors import BadRequest, NoSuchItem, PathUnsafe, ShareHeld
from p2psyncd.sources.folder.attributes import decode
from p2psyncd.sources.folder.conflicts import is_conflict
from p2psyncd.sources.folder.fingerprint import fingerprint, is_trusted
from p2psyncd.sources.folder.merge import merge
from p2psyncd.sources.folder.resolve import discard_copy, kept_key, promote_copy, rename_copy
from p2psyncd.sources.folder.structure import acceptable, chunks_of, directory_draft
from p2psyncd.sources.source import Dirty, Source

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Device, Lab


def stored(device: Device, key: bytes) -> Stored:
    return device.storage.items[key]


def test_it_is_a_source(here: Device) -> None:
    source: Source = here.source
    assert source is here.source


# Reading


def test_a_recorded_file_can_be_read(here: Device) -> None:
    here.write("d/f", "content")
    here.scan()
    reader = here.source.reader(stored(here, b"d/f"))
    assert reader is not None
    assert (reader.size, reader.read_at(2, 3), reader.unchanged()) == (7, b"nte", True)
    here.write("d/f", "short")
    assert not reader.unchanged()
    with pytest.raises(OSError, match="shorter"):
        reader.read_at(0, 7)
    reader.close()
    reader.close()


def test_short_reads_are_continued(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    here.write("f", "content")
    here.scan()
    reader = here.source.reader(stored(here, b"f"))
    assert reader is not None
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 2), at))
    assert reader.read_at(1, 5) == b"onten"
    reader.close()


def test_what_is_no_longer_as_recorded_is_not_given_away(here: Device, lab: Lab, tmp_path: Path) -> None:
    here.write("d/f", "content")
    here.path("link").symlink_to("d/f")
    here.scan()
    before = stored(here, b"d/f")
    assert here.source.reader(stored(here, b"link")) is None
    assert here.source.reader(replace(before, state=b"")) is None
    here.write("d/f", "other")
    assert here.source.reader(before) is None
    here.path("d/f").unlink()
    assert here.source.reader(before) is None
    (tmp_path / "secret").write_text("content")
    here.path("d/f").symlink_to(tmp_path / "secret")
    assert here.source.reader(before) is None
    here.root.rename(tmp_path / "moved")
    assert here.source.reader(before) is None
    assert lab is not None


# Conflict copies


def test_the_loser_is_preserved_under_its_copys_name(here: Device) -> None:
    here.write("d/f.txt", "mine", mode=0o640)
    here.path("link").symlink_to("t")
    here.scan()
    for key in (b"d/f.txt", b"link"):
        ours = stored(here, key)
        aside = here.source.aside(ours.item).key
        assert here.source.is_conflict(aside)
        state = here.source.preserve(ours, aside)
        assert state is not None
        assert is_trusted(state)
        if key == b"link":
            assert os.fspath(here.path(aside).readlink()) == "t"
        else:
            assert here.read(aside) == b"mine"
            assert here.path(aside).stat().st_mode & 0o777 == 0o640
            assert here.path(aside).stat().st_mtime_ns == here.path(key).stat().st_mtime_ns
    assert here.staged() == []


def test_a_copy_leaves_the_time_of_its_directory_alone(here: Device) -> None:
    here.write("d/f", "mine")
    here.scan()
    before = here.path("d").stat().st_mtime_ns
    assert here.source.preserve(stored(here, b"d/f"), b"d/copy") is not None
    assert here.path("d").stat().st_mtime_ns == before


def test_a_copy_that_the_disk_has_no_room_for_leaves_nothing_in_staging(
    here: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: int, target: int) -> None:
        os.write(target, b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    here.write("f", "mine")
    here.scan()
    monkeypatch.setattr("p2psyncd.sources.folder.folder.copy_content", full)
    with pytest.raises(OSError, match="No space"):
        here.source.preserve(stored(here, b"f"), b"copy")
    assert here.staged() == []


def test_a_taken_name_of_a_copy_is_left_alone_and_read_again(here: Device) -> None:
    here.write("f", "mine")
    here.write("copy", "made before, and edited")
    here.scan()
    state = here.source.preserve(stored(here, b"f"), b"copy")
    assert state is not None
    assert not is_trusted(state)
    assert here.read("copy") == b"made before, and edited"
    assert here.staged() == []


def test_what_is_not_as_recorded_is_not_preserved(here: Device) -> None:
    here.write("f", "mine")
    here.path("link").symlink_to("t")
    here.scan()
    ours, link = stored(here, b"f"), stored(here, b"link")
    for wrong in (ours, link):
        other = replace(wrong, item=replace(wrong.item, digest=blake3(b"other").digest()))
        assert here.source.preserve(other, b"copy") is None
    here.write("f", "edited")
    assert here.source.preserve(ours, b"copy") is None
    here.path("f").unlink()
    assert here.source.preserve(ours, b"copy") is None
    assert here.staged() == []
    with pytest.raises(PathUnsafe):
        here.source.preserve(link, b"../copy")
    with pytest.raises(FileNotFoundError):
        here.source.preserve(link, b"no/such/folder")
    assert here.staged() == []


def test_a_conflict_is_settled_by_hand(here: Device) -> None:
    history = here.source.history
    here.write("f", "winner")
    copy = b"f (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)"
    here.write(copy, "loser")
    assert is_conflict(copy)
    promote_copy(history, copy, b"f")
    assert here.read("f") == b"loser"
    assert here.history() == [b"winner"]
    here.write(copy, "again")
    assert rename_copy(history, copy) == kept_key(copy)
    assert not is_conflict(kept_key(copy))
    here.write(copy, "discarded")
    discard_copy(history, copy)
    assert b"discarded" in here.history()
    here.path("f").unlink()
    here.write(copy, "back")
    promote_copy(history, copy, b"f")
    assert here.read("f") == b"back"
    for gone in (discard_copy, rename_copy, lambda h, c: promote_copy(h, c, b"f")):
        with pytest.raises(NoSuchItem):
            gone(history, copy)
    with pytest.raises(NoSuchItem):
        kept_key(b"no conflict")


# What the engine asks besides


def test_the_engine_learns_a_folders_shape(here: Device, lab: Lab) -> None:
    assert acceptable(b"a/b")
    assert not acceptable(b"../b")
    old = here.version(lab.directory(b"d", mode=0o711))
    assert directory_draft(b"d", old).meta == old.meta
    file = here.version(lab.file(b"d", b""))
    assert decode(directory_draft(b"d", file).meta).mode == 0o755
    assert directory_draft(b"d", None).kind is Kind.DIRECTORY
    here.write("big", os.urandom(400_000))
    (seen,) = here.scan()
    reader = here.source.reader(stored(here, b"big"))
    assert reader is not None
    assert chunks_of(reader) == seen.chunks
    reader.close()


def test_pieces_are_staged_through_the_source(here: Device, lab: Lab) -> None:
    data = b"content"
    writer = here.source.writer(blake3(data).digest(), len(data))
    writer.write_at(0, data)
    writer.commit()
    here.storage.put_pending(here.version(lab.file(b"f", data)))
    assert here.source.stage_local(list(here.storage.waiting.values())) == {b"f"}
    here.apply({})
    assert here.read("f") == data
    assert here.source.tidy() == 0


def test_the_root_is_checked_and_can_be_accepted(here: Device, lab: Lab) -> None:
    here.source.check()
    noted = here.source.filesystem
    assert noted is not None
    elsewhere = type(here.source)(here.root, lab.SHARE, here.storage, here.clock, filesystem=noted + 1)
    with pytest.raises(ShareHeld):
        elsewhere.check()
    with pytest.raises(BadRequest):
        elsewhere.approve(catch_up=True)
    elsewhere.approve(catch_up=False)
    elsewhere.check()
    free, total = here.source.free_bytes()
    assert 0 < free <= total
    assert here.source.limited is None


def test_a_busy_root_is_scanned_whole(here: Device) -> None:
    here.source.scanning.busy.add(b"")
    assert here.source.take_busy() == Dirty(subtrees=frozenset({b""}))


def test_without_a_place_to_probe_timestamps_count_as_coarse(
    here: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from p2psyncd.sources.folder import folder  # noqa: PLC0415

    def refuse(_: int) -> bool:
        raise OSError(30, "read-only")

    monkeypatch.setattr(folder, "stamped_finely", refuse)
    here.look()
    assert not here.source.scanning.fine_times


def test_merging_is_the_folders(here: Device, there: Device, lab: Lab) -> None:
    one, other = here.version(lab.file(b"f", b"1")), there.version(lab.file(b"f", b"2"))
    assert here.source.merge(one, other) == merge(one, other)


# Local content


def test_a_copy_on_this_device_saves_the_fetch(here: Device, lab: Lab) -> None:
    here.write("a/f", "content")
    here.scan()
    here.storage.put_pending(here.version(lab.file(b"copy", b"content")))
    here.apply({})
    assert here.fetched == []
    assert here.read("copy") == b"content"
    assert here.path("copy").stat().st_ino != here.path("a/f").stat().st_ino


def test_a_copy_that_is_not_what_it_was_is_not_used(here: Device, lab: Lab) -> None:
    here.write("gone", "content")
    here.write("edited", "content")
    here.write("rotten", "content")
    here.scan()
    here.path("gone").unlink()
    here.write("edited", "changed")
    here.write("rotten", "CONTENT")
    row = stored(here, b"rotten")
    here.storage.items[b"rotten"] = replace(row, state=fingerprint(here.path("rotten").stat()))
    here.storage.put_pending(here.version(lab.file(b"copy", b"content")))
    assert here.source.stage_local(list(here.storage.waiting.values())) == set()
    assert here.staged() == []


def test_a_full_disk_while_copying_means_it_must_come_from_elsewhere(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("f", "content")
    here.scan()

    def full(*_: object) -> bytes:
        raise OSError(28, "full")

    monkeypatch.setattr(here.source.staging, "copy_in", full)
    here.storage.put_pending(here.version(lab.file(b"copy", b"content")))
    assert here.source.stage_local(list(here.storage.waiting.values())) == set()


# Verifying


def test_verifying_finds_what_is_wrong(here: Device) -> None:
    for name in ("fine", "edited", "gone", "kind", "rotten"):
        here.write(name, "content")
    here.write("d/f", "content")
    here.path("link").symlink_to("t")
    here.path("relinked").symlink_to("t")
    here.path("unlinked").symlink_to("t")
    here.path("dir").mkdir()
    here.scan()
    assert list(here.source.verify()) == []
    here.write("edited", "changed")
    here.path("gone").unlink()
    here.path("kind").unlink()
    here.path("kind").mkdir()
    here.path("relinked").unlink()
    here.path("relinked").symlink_to("u")
    here.path("unlinked").unlink()
    here.write("unlinked", "t")
    here.path("dir").rmdir()
    here.write("dir", "file")
    row = stored(here, b"rotten")
    here.storage.items[b"rotten"] = replace(row, item=replace(row.item, digest=blake3(b"was").digest()))
    found = {one.key: one.reason for one in here.source.verify()}
    assert found.keys() == {b"edited", b"gone", b"kind", b"relinked", b"unlinked", b"dir", b"rotten"}
    assert found[b"gone"] == "missing"
    assert "though its times do not" in found[b"rotten"]
    assert "edited a moment ago" in found[b"edited"]


def test_verifying_passes_over_what_is_ignored_or_pending(here: Device, lab: Lab) -> None:
    here.write("a.log", "x")
    here.write("f", "x")
    here.scan()
    here.write(".p2psyncignore", "*.log\n")
    here.path("a.log").unlink()
    here.storage.put_pending(here.version(lab.file(b"new", b"x")))
    here.storage.put_pending(here.version(lab.tombstone(b"f")))
    assert list(here.source.verify()) == []


def test_what_cannot_be_read_cannot_be_verified(as_user: Path, lab: Lab) -> None:
    here = lab.Device(as_user / "share", lab.ACTOR)
    path = here.write("f", "x")
    here.scan()
    path.chmod(0)
    (found,) = here.source.verify()
    assert "cannot be read" in found.reason
