"""A folder on two devices, with everything that happens to folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from p2plab.device import Device, pair, start
from p2plab.trees import Mutator, describe, differences, leftovers, real_tree, small_files
from p2plab.waiting import eventually

pytestmark = pytest.mark.lan

CHANGES = 100


@pytest.fixture
def paired(two: tuple[Device, Device]) -> tuple[Device, Device]:
    """Two connected devices."""
    pair(*two)
    return two


def shared(a: Device, b: Device, name: str = "f") -> tuple[Path, Path]:
    """Share what is at `a.folder / name` with b and wait until both have it."""
    ours, theirs = a.folder / name, b.folder / name
    ours.mkdir(exist_ok=True)
    a.share_folder(ours, name, b)
    settle(a, b)
    return ours, theirs


def settle(*devices: Device) -> None:
    """Wait on each device in turn, so that what each of them did has arrived everywhere."""
    for device in devices:
        device.wait()


def assert_equal(a: Device, b: Device, ours: Path, theirs: Path) -> None:
    assert differences(ours, theirs) == []
    assert a.root(ours.name) == b.root(ours.name)
    eventually("nothing is left over", lambda: leftovers(ours) == leftovers(theirs) == [])


def test_a_real_tree_and_two_hundred_random_changes_a_side_end_equal(paired: tuple[Device, Device]) -> None:
    a, b = paired
    real_tree(a.folder / "f", modules=120, docs=60)
    ours, theirs = shared(a, b)
    assert_equal(a, b, ours, theirs)
    assert len(describe(ours)) > 500

    here, there = Mutator(ours, 1, "a"), Mutator(theirs, 2, "b")
    for _ in range(CHANGES):
        here.once()
        there.once()
    settle(a, b)
    assert_equal(a, b, ours, theirs)

    b.host.cut()
    here.change(CHANGES)
    there.change(CHANGES)
    b.host.join()
    eventually("connected again", lambda: a.connected_to(b) and b.connected_to(a), within_s=90)
    settle(a, b)
    assert_equal(a, b, ours, theirs)


def test_both_edit_one_file_while_cut_off_and_both_contents_are_on_both(
    paired: tuple[Device, Device],
) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    (a.folder / "f" / "note.txt").write_text("first\n")
    ours, theirs = shared(a, b)
    b.host.cut()
    (ours / "note.txt").write_text("from a\n")
    (theirs / "note.txt").write_text("from b\n")
    b.host.join()
    eventually("connected again", lambda: a.connected_to(b) and b.connected_to(a), within_s=90)
    settle(a, b)
    for root in (ours, theirs):
        texts = {path.read_text() for path in root.iterdir() if path.is_file()}
        assert texts == {"from a\n", "from b\n"}
    assert_equal(a, b, ours, theirs)
    for device in (a, b):
        [conflict] = device.cli("conflict", "list", "--json").ok().json
        assert conflict["item"] == "note.txt"
        assert not conflict["resolved"]
        assert (device.folder / "f" / conflict["losers"][0]["where"]).exists()
    conflict_id = a.cli("conflict", "list", "--json").json[0]["id"]
    a.cli("conflict", "resolve", conflict_id, "--keep", "winner", "--yes").ok()
    settle(a, b)
    assert len(list(theirs.glob("note*"))) == 1
    assert b.cli("conflict", "list", "--json").json == []


def test_a_renamed_folder_of_a_thousand_files_sends_no_content(paired: tuple[Device, Device]) -> None:
    a, b = paired
    small_files(a.folder / "f", folders=1, files=1000, least=1000, most=8000)
    ours, theirs = shared(a, b)
    before = a.host.counters()
    (ours / "dir000").rename(ours / "renamed")
    settle(a, b)
    traffic = a.host.counters() - before
    assert_equal(a, b, ours, theirs)
    assert len(list((theirs / "renamed").iterdir())) == 1000
    # The content alone is 4.5 MB.
    assert traffic.both_ways_bytes <= 250_000


def test_a_reconnect_with_nothing_changed_takes_two_kilobytes(paired: tuple[Device, Device]) -> None:
    a, b = paired
    small_files(a.folder / "f", folders=20, files=100, least=1, most=20)
    ours, theirs = shared(a, b)
    assert b.stop() == 0
    eventually("a saw b go", lambda: not a.connected_to(b))
    b.start()
    b.wait()
    assert 0 < b.message_bytes() <= 2000
    assert b.metric("content_received_bytes_total") == 0
    assert_equal(a, b, ours, theirs)


def test_an_edit_that_keeps_size_and_mtime_is_found(paired: tuple[Device, Device]) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    file = a.folder / "f" / "same"
    file.write_text("aaaa")
    _, theirs = shared(a, b)
    was = file.stat()
    file.write_text("bbbb")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    a.wait()
    assert (theirs / "same").read_text() == "bbbb"


def test_an_edit_that_keeps_size_and_mtime_while_the_daemon_is_down_is_found(
    paired: tuple[Device, Device],
) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    file = a.folder / "f" / "same"
    file.write_text("aaaa")
    _, theirs = shared(a, b)
    assert a.stop() == 0
    was = file.stat()
    file.write_text("bbbb")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    a.start()
    a.wait()
    assert (theirs / "same").read_text() == "bbbb"


def test_a_folder_that_both_have_already_merges_without_content_or_loss(
    paired: tuple[Device, Device],
) -> None:
    a, b = paired
    small_files(a.folder / "f", folders=2, files=100, least=4000, most=8000)
    shutil.copytree(a.folder / "f", b.folder / "f")
    (a.folder / "f" / "only-a").write_text("a")
    (b.folder / "f" / "only-b").write_text("b")
    (a.folder / "f" / "differs").write_text("of a")
    (b.folder / "f" / "differs").write_text("of b")
    before = a.host.counters()
    ours, theirs = shared(a, b)
    traffic = a.host.counters() - before
    settle(b, a)
    assert_equal(a, b, ours, theirs)
    assert (ours / "only-b").read_text() == "b"
    assert (theirs / "only-a").read_text() == "a"
    assert {path.read_text() for path in ours.glob("differs*")} == {"of a", "of b"}
    # 200 files hold 1.2 MB; none of it travels.
    assert traffic.both_ways_bytes < 300_000


def test_ignored_files_stay_where_they_are(paired: tuple[Device, Device]) -> None:
    a, b = paired
    (a.folder / "f" / "cache").mkdir(parents=True)
    (a.folder / "f" / ".p2psyncignore").write_text("cache/\n*.log\n!keep.log\n")
    for name in ("cache/big", "x.log", "keep.log", "text"):
        (a.folder / "f" / name).write_text(name)
    _, theirs = shared(a, b)
    assert sorted(os.fsdecode(path) for path in describe(theirs)) == [".p2psyncignore", "keep.log", "text"]


def test_history_keeps_what_a_peer_replaced_and_restores_it(paired: tuple[Device, Device]) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    (a.folder / "f" / "text").write_text("first")
    ours, theirs = shared(a, b)
    (ours / "text").write_text("second")
    a.wait()
    (ours / "text").unlink()
    a.wait()
    assert not (theirs / "text").exists()
    versions = b.cli("history", str(theirs / "text"), "--json").ok().json
    assert len(versions) == 2
    b.cli("restore", str(theirs / "text"), "--version", versions[1]["version"], "--yes").ok()
    b.wait()
    assert (ours / "text").read_text() == "first"


def test_a_mass_delete_is_held_until_approved(paired: tuple[Device, Device]) -> None:
    a, b = paired
    small_files(a.folder / "f", folders=2, files=100, least=10, most=20)
    ours, theirs = shared(a, b)
    assert b.stop() == 0
    shutil.rmtree(theirs / "dir000")
    shutil.rmtree(theirs / "dir001")
    b.start()
    eventually("the share is held", lambda: b.share("f")["state"] == "held")
    assert b.cli("wait", "f").code == 5
    assert len(describe(ours)) == 202
    b.cli("share", "approve", "f").ok()
    b.wait()
    assert describe(ours) == {}


def test_a_share_whose_marker_is_gone_is_held_and_nothing_is_deleted(paired: tuple[Device, Device]) -> None:
    a, b = paired
    small_files(a.folder / "f", folders=1, files=20, least=10, most=20)
    ours, theirs = shared(a, b)
    assert b.stop() == 0
    shutil.rmtree(theirs)
    theirs.mkdir()
    b.start()
    eventually("the share is held", lambda: b.share("f")["state"] == "held")
    assert len(describe(ours)) == 21


def test_verify_and_diff_find_nothing_wrong_in_an_equal_share(paired: tuple[Device, Device]) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    (a.folder / "f" / "x").write_text("x" * 1000)
    shared(a, b)
    assert a.cli("verify", "f").code == 0
    assert a.cli("diff", "f", "--json").ok().json["devices"][0]["differences"] == []


def test_a_send_only_device_is_not_changed_by_its_peers(paired: tuple[Device, Device]) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    (a.folder / "f" / "x").write_text("x")
    a.cli("share", "add", str(a.folder / "f"), "--name", "f", "--mode", "send-only").ok()
    b.accept("f", b.folder / "f")
    a.wait()
    (b.folder / "f" / "y").write_text("y")
    (a.folder / "f" / "z").write_text("z")
    eventually("z arrives", (b.folder / "f" / "z").exists)
    assert not (a.folder / "f" / "y").exists()


def test_sync_once_exchanges_and_returns(paired: tuple[Device, Device]) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    ours, theirs = shared(a, b)
    (ours / "x").write_text("x")
    a.cli("sync", "f", "--once").ok()
    assert (theirs / "x").read_text() == "x"


def test_wait_without_a_peer_times_out_and_says_what_is_missing(paired: tuple[Device, Device]) -> None:
    a, b = paired
    (a.folder / "f").mkdir()
    shared(a, b)
    b.stop()
    eventually("b is gone", lambda: not a.connected_to(b))
    (a.folder / "f" / "x").write_text("x")
    result = a.cli("wait", "f", "--timeout", "2")
    assert result.code == 4, result
    assert result.err


def test_a_third_device_gets_from_the_second_what_the_first_made(new_device: Callable[..., Device]) -> None:
    a, b, c = (new_device(name) for name in "abc")
    start(a, b, c)
    pair(a, b)
    pair(b, c, "--no-introduce")
    small_files(a.folder / "f", folders=2, files=50, least=10, most=9000)
    ours, _ = shared(a, b)
    a.kill()
    c.accept("f", c.folder / "f")
    c.wait()
    assert differences(ours, c.folder / "f") == []
    (c.folder / "f" / "from-c").write_text("c")
    c.wait()
    assert (b.folder / "f" / "from-c").read_text() == "c"
    c.kill()
    a.start()
    eventually("a and b are connected", lambda: a.connected_to(b))
    a.wait()
    assert (ours / "from-c").read_text() == "c"
