from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from p2psyncd.core.ids import ActorId
from p2psyncd.core.version import Dot
from p2psyncd.errors import NoSuchItem, PathUnsafe
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.history import HistoryLimits
from p2psyncd.sources.folder.versions import versions_below

if TYPE_CHECKING:
    from conftest import Device, Lab

DOT = Dot(ActorId(b"\x11" * 8), 0xABCD)


def put_away(device: Device, key: str | bytes, data: bytes) -> bytes:
    """Put a file into history, as a remote change would."""
    path = device.write(key, data)
    key = os.fsencode(path.relative_to(device.root))
    directory, _, name = key.rpartition(b"/")
    with Directories(device.root) as directories:
        return device.source.history.move_in(directories, directory, name, key, DOT)


def test_versions_are_listed_newest_first(here: Device) -> None:
    for number in range(3):
        put_away(here, "d/f.txt", b"%d" % number * (number + 1))
        here.clock.ahead_us += 2_000_000
    put_away(here, "d/f.txt~20200101T000000Z~other", b"another file")
    put_away(here, "d/f.txt.bak", b"another file")
    found = here.source.history.list(b"d/f.txt")
    assert [one.size for one in found] == [3, 2, 1]
    assert all(one.version.endswith("~11111111abcd") for one in found)
    assert found[0].replaced_us > found[1].replaced_us
    assert here.source.history.list(b"never") == []
    assert here.source.history.list(b"no/such") == []
    with pytest.raises(PathUnsafe):
        here.source.history.list(b"../x")


def test_versions_of_one_second_are_all_kept(here: Device) -> None:
    for number in range(3):
        put_away(here, "f", b"%d" % number)
    found = here.source.history.list(b"f")
    assert len({one.version for one in found}) == 3
    assert sorted(here.history()) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("name", [b"n" * 255, "ü".encode() * 127, b"bad\xff\n"])
def test_a_long_or_odd_name_fits(here: Device, name: bytes) -> None:
    put_away(here, b"d/" + name, b"data")
    put_away(here, b"d/" + name[:-1] + b"x", b"other")
    (found,) = here.source.history.list(b"d/" + name)
    here.source.history.restore(b"d/" + name, found.version)
    assert here.read(b"d/" + name) == b"data"


def test_a_restored_version_takes_the_name_and_what_had_it_goes_to_history(here: Device) -> None:
    path = here.write("d/f", "old", mode=0o750)
    os.utime(path, ns=(1, 1_600_000_000_000_000_000))
    put_away_key = os.fsencode(path.relative_to(here.root))
    with Directories(here.root) as directories:
        here.source.history.move_in(directories, b"d", b"f", put_away_key, DOT)
    here.write("d/f", "now")
    here.scan()
    (found,) = here.source.history.list(b"d/f")
    here.source.history.restore(b"d/f", found.version)
    assert here.read("d/f") == b"old"
    assert here.path("d/f").stat().st_mode & 0o777 == 0o750
    assert here.path("d/f").stat().st_mtime_ns == 1_600_000_000_000_000_000
    assert sorted(here.history()) == [b"now", b"old"]
    assert [one.draft.key for one in here.scan()] == [b"d", b"d/f"]
    assert here.staged() == []


def test_a_version_of_a_deleted_folder_comes_back_with_its_folders(here: Device) -> None:
    put_away(here, "a/b/f", b"data")
    here.path("a/b").rmdir()
    here.path("a").rmdir()
    (found,) = here.source.history.list(b"a/b/f")
    here.source.history.restore(b"a/b/f", found.version)
    assert here.read("a/b/f") == b"data"


def test_a_symlink_is_restored_as_a_link(here: Device, lab: Lab) -> None:
    here.path("link").symlink_to("target")
    here.scan()
    here.storage.put_pending(here.version(lab.tombstone(b"link"), here.items()[0]))
    here.apply({})
    (found,) = here.source.history.list(b"link")
    here.source.history.restore(b"link", found.version)
    assert os.fspath(here.path("link").readlink()) == "target"


def test_a_version_that_is_not_there_is_told(here: Device) -> None:
    for version in (
        "nonsense",
        "20269923T044712Z~111111111111",
        "20261123T044712Z~111111111111",
        "20261123T044712Z~../../x",
        "bad~tag",
    ):
        with pytest.raises(NoSuchItem):
            here.source.history.restore(b"f", version)
        with pytest.raises(NoSuchItem):
            here.source.history.restore(b"no/such/f", version)


def test_a_version_does_not_take_a_directorys_name(here: Device) -> None:
    put_away(here, "x", b"data")
    here.write("x/child")
    (found,) = here.source.history.list(b"x")
    with pytest.raises(IsADirectoryError):
        here.source.history.restore(b"x", found.version)
    assert here.staged() == []


def test_history_keeps_to_its_limits(here: Device) -> None:
    here.source.history.limits = HistoryLimits(days=30, share_percent=10, bytes_min=250)
    put_away(here, "old/f", b"x" * 10)
    here.clock.ahead_us += 40 * 86_400_000_000
    for number in range(5):
        put_away(here, f"new/{number}", b"%d" % number * 100)
        here.clock.ahead_us += 2_000_000
    assert here.source.prune(1000) == 200
    assert here.history() == [b"3" * 100, b"4" * 100]
    assert not (here.root / ".p2psync/history/old").exists()
    assert here.source.prune(10_000) == 200
    assert here.source.prune(0) == 200


def test_a_sparse_file_counts_as_what_it_takes(here: Device) -> None:
    here.source.history.limits = HistoryLimits(days=30, share_percent=10, bytes_min=1_000_000)
    put_away(here, "old", b"x" * 1000)
    here.clock.ahead_us += 2_000_000
    slot = put_away(here, "image", b"head" * 2000)
    os.truncate(here.root / os.fsdecode(slot), 10**12)
    assert here.source.prune(1000) < 100_000
    for name in ("old", "image"):
        assert len(here.source.history.list(name.encode())) == 1


def test_a_small_share_keeps_a_hundred_megabytes(here: Device) -> None:
    put_away(here, "f", b"x" * 1000)
    assert here.source.prune(10) == 1000


def test_what_was_put_away_is_remembered_only_so_long(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from p2psyncd.sources.folder import history  # noqa: PLC0415

    monkeypatch.setattr(history, "DEPARTED_MAX", 2)
    for number in range(4):
        here.source.history.note_departed(b"%d" % number, b"slot")
    assert list(here.source.history.departed) == [b"2", b"3"]


def test_versions_of_a_whole_folder_are_found(here: Device) -> None:
    put_away(here, "d/f", b"1")
    put_away(here, "d/e/g", b"2")
    put_away(here, "h", b"3")
    assert {one.key for one in versions_below(here.source.history, b"d")} == {b"d/f", b"d/e/g"}
    assert {one.key for one in versions_below(here.source.history, b"")} == {b"d/f", b"d/e/g", b"h"}
    assert versions_below(here.source.history, b"never") == []
