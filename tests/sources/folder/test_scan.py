from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2psyncd.core.item import Kind
from p2psyncd.errors import ShareHeld
from p2psyncd.sources.folder import reading
from p2psyncd.sources.folder import scan as scan_module
from p2psyncd.sources.folder.attributes import decode
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.fingerprint import SKIPPED, is_trusted
from p2psyncd.sources.folder.scanning import reason_of
from p2psyncd.sources.source import Dirty, ItemError, Observation, Unapplied

if TYPE_CHECKING:
    from conftest import Device, Lab


def found_keys(found: list[Observation | ItemError | Unapplied]) -> list[bytes]:
    return [one.draft.key for one in found if isinstance(one, Observation)]


def subtree(*keys: bytes) -> Dirty:
    return Dirty(subtrees=frozenset(keys))


def test_a_first_scan_finds_everything_parents_first(here: Device) -> None:
    here.write("a/b/f", "content", mode=0o640)
    here.write("top", "")
    here.path("a/link").symlink_to("b")
    seen = here.scan()
    keys = found_keys(seen)
    assert sorted(keys) == [b"a", b"a/b", b"a/b/f", b"a/link", b"top"]
    assert keys.index(b"a") < keys.index(b"a/b") < keys.index(b"a/b/f")
    by_key = {one.draft.key: one for one in seen}
    assert by_key[b"a"].draft.kind is Kind.DIRECTORY
    file = by_key[b"a/b/f"]
    assert (file.draft.kind, file.draft.size, file.base_state) == (Kind.FILE, 7, b"")
    assert decode(file.draft.meta).mode == 0o640
    assert file.changed_us == here.path("a/b/f").stat().st_ctime_ns // 1000
    link = by_key[b"a/link"]
    assert (link.draft.kind, decode(link.draft.meta).target) == (Kind.SYMLINK, b"b")
    assert not here.look()


def test_what_lay_in_a_directory_that_the_record_lost_is_found_gone_with_it(here: Device) -> None:
    here.write("d/e/h/f", "content")
    here.write("d/g", "stays")
    here.scan()
    del here.storage.items[b"d/e"]
    here.storage.children[b"d"].discard(b"d/e")
    assert found_keys(here.look()) == [b"d/e"]  # while it is there nothing below it is missed
    shutil.rmtree(here.path("d/e"))
    gone = [one.draft.key for one in here.scan() if one.draft.kind is Kind.TOMBSTONE]
    assert gone == [b"d/e/h/f", b"d/e/h"]
    assert not here.look()


def test_a_large_file_comes_with_its_chunks(here: Device) -> None:
    here.write("big", os.urandom(1_000_000))
    (seen,) = here.scan()
    assert len(seen.chunks) % 20 == 0
    assert len(seen.chunks) > 20


def test_an_edit_of_the_same_size_and_mtime_is_found(here: Device) -> None:
    path = here.write("f", "one")
    here.scan()
    times = path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=(times, times))
    (seen,) = here.scan()
    assert seen.draft.key == b"f"
    assert not here.look()


def test_an_edit_right_after_a_scan_is_found_a_hundred_times(here: Device) -> None:
    path = here.write("f", "000")
    here.scan()
    for number in range(100):
        path.write_text(f"{number:03}")
        assert found_keys(here.scan()) == [b"f"]


def test_where_timestamps_are_coarse_a_young_file_is_read_twice(here: Device) -> None:
    here.look()
    here.source.scanning.fine_times = False
    path = here.write("f", "one")
    (seen,) = here.scan()
    assert not is_trusted(seen.state)
    here.clock.ahead_us = 60_000_000
    (again,) = here.scan()
    assert is_trusted(again.state)
    assert again.draft.meta == seen.draft.meta
    assert len(here.items()) == 1
    assert not here.look()
    assert path.exists()


def test_what_looks_changed_but_is_not_brings_only_a_fingerprint(here: Device) -> None:
    path = here.write("f", "same")
    here.scan()
    before = here.items()
    os.link(path, here.root / "second")  # a hard link more changes ctime
    seen = {one.draft.key: one for one in here.scan()}
    assert seen[b"f"].draft.meta == before[0].meta
    assert here.items()[0] == before[0]
    assert not here.look()


def test_deletions_come_last_children_first(here: Device) -> None:
    here.write("a/b/f")
    here.write("z")
    here.scan()
    shutil.rmtree(here.path("a"))
    here.write("z", "new")
    seen = here.look()
    assert found_keys(seen) == [b"z", b"a/b/f", b"a/b", b"a"]
    gone = seen[1]
    assert isinstance(gone, Observation)
    assert (gone.draft.kind, gone.state) == (Kind.TOMBSTONE, b"")
    assert gone.base_state == here.storage.items[b"a/b/f"].state
    here.scan()
    assert not here.look()
    assert not here.storage.items[b"a"].item.live


def test_a_single_key_is_looked_at_with_its_directory(here: Device) -> None:
    here.write("d/f", "one")
    here.write("d/g", "one")
    here.scan()
    here.write("d/f", "two")
    here.write("d/g", "two")
    assert found_keys(here.keys(b"d/f")) == [b"d/f"]
    here.write("d/new")
    assert found_keys(here.keys(b"d/new")) == [b"d", b"d/new"]
    here.path("d/g").unlink()
    assert found_keys(here.keys(b"d/g")) == [b"d", b"d/g"]
    assert here.keys(b"never/was") == []
    assert here.keys(b"", b".p2psync/share") == []


def test_a_new_directory_found_by_a_key_is_scanned_whole(here: Device) -> None:
    here.write("new/deep/f")
    here.write("new/g")
    assert found_keys(here.keys(b"new/deep/f")) == [b"new", b"new/g", b"new/deep", b"new/deep/f"]
    here.scan()
    assert not here.look()


def test_a_subtree_is_scanned_and_its_neighbours_are_not(here: Device) -> None:
    here.write("a/x/f", "one")
    here.write("b/f", "one")
    here.scan()
    here.write("a/x/f", "two")
    here.write("b/f", "two")
    assert found_keys(here.look(subtree(b"a", b"a/x"))) == [b"a/x/f"]
    assert found_keys(here.look(subtree(b"b/f"))) == [b"b/f"]
    shutil.rmtree(here.path("a"))
    assert found_keys(here.look(subtree(b"a"))) == [b"a/x/f", b"a/x", b"a"]


def test_a_file_that_became_a_directory_is_one_change_with_children(here: Device) -> None:
    here.write("x", "file")
    here.scan()
    here.path("x").unlink()
    here.write("x/child", "c")
    for dirty in (Dirty(keys=frozenset({b"x"})), subtree(b"")):
        seen = here.look(dirty)
        assert found_keys(seen) == [b"x", b"x/child"]
    here.scan()
    assert not here.look()


def test_a_directory_that_became_a_file_loses_its_children(here: Device) -> None:
    here.write("x/child/deep", "c")
    here.scan()
    shutil.rmtree(here.path("x"))
    here.write("x", "file")
    for dirty in (Dirty(keys=frozenset({b"x"})), subtree(b"")):
        assert found_keys(here.look(dirty)) == [b"x/child/deep", b"x/child", b"x"]
    here.scan()
    assert not here.look()


def test_a_directory_swapped_for_a_symlink_is_not_followed(here: Device, tmp_path: Path) -> None:
    here.write("d/f", "inside")
    here.scan()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("outside")
    here.path("d").rename(tmp_path / "moved")
    here.path("d").symlink_to(outside)
    seen = here.keys(b"d/f")
    assert found_keys(seen) == [b"d/f", b"d"]
    assert [one.draft.kind for one in seen if isinstance(one, Observation)] == [Kind.TOMBSTONE, Kind.SYMLINK]


def test_a_symlink_loop_ends(here: Device) -> None:
    here.path("loop").symlink_to(".")
    here.path("self").symlink_to("self")
    assert set(found_keys(here.scan())) == {b"loop", b"self"}
    assert not here.look()


def test_special_files_are_reported_and_nothing_is_deleted_for_them(here: Device) -> None:
    here.write("was-a-file")
    here.scan()
    here.path("was-a-file").unlink()
    os.mkfifo(here.path("was-a-file"))
    os.mkfifo(here.path("fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(here.path("s")))
        seen = here.look()
    reasons = {one.key: one.reason for one in seen if isinstance(one, ItemError)}
    assert reasons == {
        b"fifo": "a FIFO is not synced",
        b"was-a-file": "a FIFO is not synced",
        b"s": "a socket is not synced",
    }
    assert found_keys(seen) == []


def test_an_unreadable_folder_is_unknown_not_deleted(as_user: Path, lab: Lab) -> None:
    here = lab.Device(as_user / "share", lab.ACTOR)
    here.write("closed/f")
    here.write("open/f")
    here.write("secret")
    here.scan()
    here.path("closed").chmod(0)
    here.write("secret", "now unreadable").chmod(0)
    here.path("open/f").unlink()
    seen = here.look()
    assert {one.key for one in seen if isinstance(one, ItemError)} == {b"closed", b"secret"}
    # The mode of the folder itself is a change that is seen, and so is the deletion elsewhere.
    assert set(found_keys(seen)) == {b"closed", b"open", b"open/f"}
    assert [one.key for one in here.keys(b"closed/f") if isinstance(one, ItemError)] == [b"closed/f"]


def test_a_folder_that_lists_but_does_not_tell_is_unknown(as_user: Path, lab: Lab) -> None:
    here = lab.Device(as_user / "share", lab.ACTOR)
    here.write("d/f")
    here.scan()
    here.path("d").chmod(0o400)
    seen = here.look()
    assert [one.key for one in seen if isinstance(one, ItemError)] == [b"d/f"]
    assert found_keys(seen) == [b"d"]


def test_what_keeps_changing_is_left_for_later(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    here.write("busy", "one")
    here.write("calm", "one")
    real = reading.read_content
    monkeypatch.setattr(reading, "read_content", lambda fd, name: None if name == b"busy" else real(fd, name))
    assert found_keys(here.scan()) == [b"calm"]
    assert here.source.take_busy() == Dirty(keys=frozenset({b"busy"}))
    assert here.source.take_busy() == Dirty()
    monkeypatch.undo()
    assert found_keys(here.scan()) == [b"busy"]


def test_what_goes_between_two_looks_is_looked_at_again(
    here: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("f", "one")

    def gone(*_: object) -> None:
        raise FileNotFoundError(2, "gone")

    monkeypatch.setattr(reading, "read_content", gone)
    assert here.look() == []
    assert here.source.take_busy() == Dirty(keys=frozenset({b"f"}))


def test_a_file_that_was_away_for_a_moment_is_no_deletion(here: Device) -> None:
    path = here.write("f", "one")
    here.write("g", "one")
    here.scan()
    path.rename(here.root.parent / "away")
    here.write("g", "two")
    found = here.source.scan(Dirty(subtrees=frozenset({b""})))
    assert found_keys([next(found)]) == [b"g"]
    (here.root.parent / "away").rename(path)
    assert list(found) == []
    assert b"f" in here.source.take_busy().keys


def test_a_root_that_goes_during_a_scan_deletes_nothing(here: Device) -> None:
    here.write("f", "one")
    here.write("g", "one")
    here.scan()
    here.path("f").unlink()
    here.write("g", "two")
    found = here.source.scan(Dirty(subtrees=frozenset({b""})))
    next(found)
    (here.root / ".p2psync/share").unlink()
    with pytest.raises(ShareHeld):
        list(found)


def test_a_root_without_its_marker_is_not_scanned(here: Device) -> None:
    here.write("f")
    (here.root / ".p2psync/share").unlink()
    with pytest.raises(ShareHeld):
        here.scan()


def test_a_path_that_becomes_ignored_is_neither_changed_nor_deleted(here: Device) -> None:
    here.write("build/out.o", "one")
    here.write("keep", "one")
    here.scan()
    here.write(".p2psyncignore", "build/\n*.log\n")
    here.write("new.log", "x")
    here.write("build/new", "x")
    assert found_keys(here.scan()) == [b".p2psyncignore"]
    here.write("build/out.o", "two")
    shutil.rmtree(here.path("build"))
    assert here.look() == []
    assert here.keys(b"build/out.o", b"new.log") == []
    here.write("build/again", "x")
    assert here.look() == []


def test_a_path_that_is_no_longer_ignored_is_found_even_by_a_look_at_one_key(here: Device) -> None:
    here.write(".p2psyncignore", "*.log\n")
    here.write("d/a.log", "x")
    here.scan()
    assert b"d/a.log" not in here.storage.items
    here.path(".p2psyncignore").unlink()
    assert set(found_keys(here.scan(Dirty(keys=frozenset({b"d"}))))) == {b".p2psyncignore", b"d/a.log"}
    assert not here.look()


def test_what_came_while_it_was_ignored_is_wanted_again_afterwards(here: Device, lab: Lab) -> None:
    here.write(".p2psyncignore", "*.log\n")
    here.scan()
    for key in (b"a.log", b"b.log"):
        here.storage.put_pending(here.version(lab.file(key, b"remote")))
    (outcome, _) = here.apply({})
    assert outcome.state == SKIPPED
    assert here.look() == []
    here.write("b.log", "local")
    here.path(".p2psyncignore").unlink()
    seen = here.look()
    assert {one.key for one in seen if isinstance(one, Unapplied)} == {b"a.log", b"b.log"}
    here.scan()
    here.scan()
    assert here.storage.waiting.keys() == {b"a.log"}  # b.log met what is here


def test_own_changes_cost_no_look_into_the_store(here: Device, there: Device, lab: Lab) -> None:
    for number in range(20):
        there.write(f"d/{number}", f"{number}")
    lab.sync(here, there)
    here.storage.asked = 0
    assert here.keys(*(b"d/%d" % number for number in range(20))) == []
    assert here.storage.asked <= 1


class Elsewhere:
    """The status of a directory that is another file system's."""

    def __init__(self, status: os.stat_result) -> None:
        self.status = status
        self.st_dev = status.st_dev + 1

    def __getattr__(self, name: str) -> object:
        return getattr(self.status, name)


def test_a_mount_below_is_unknown(here: Device) -> None:
    here.write("disk/f")
    here.scan()
    status = Elsewhere(here.path("disk").stat())
    with Directories(here.root) as directories:
        run = scan_module.Run(here.source.scanning, directories)
        for found in (
            run.look_at(b"disk", status, None, whole=True),
            run.differing([(b"disk", status)], []),
        ):
            (error,) = list(found)
            assert isinstance(error, ItemError)
            assert "mounted" in error.reason


def test_an_error_of_a_mount_is_told_in_words() -> None:
    assert "mounted" in reason_of(OSError(18, "Invalid cross-device link"))
    assert "cannot be read" in reason_of(OSError(5, "Input/output error"))
