"""Scenarios of folders that need a machine of their own: disks that come off, networks that are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from p2plab.device import Device, pair
from p2plab.trees import describe, differences, leftovers
from p2plab.waiting import eventually

pytestmark = pytest.mark.lan

FILES = 12


@pytest.fixture
def paired(two: tuple[Device, Device]) -> tuple[Device, Device]:
    """Two connected devices."""
    pair(*two)
    return two


def on(device: Device, script: str) -> str:
    """Run a shell script on a device's machine, which sees disks that nobody else sees."""
    # By its whole path: the folder that a process starts in is the one from outside, without those disks.
    done = device.host.run(["sh", "-ec", f"cd {device.folder}; {script}"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def mount(device: Device) -> None:
    # Above what must stay free for anything to be fetched; a tmpfs takes only what is in it.
    on(device, "mkdir -p f && mount -t tmpfs -o size=600m none f")


def shared_on_a_disk(a: Device, b: Device) -> Path:
    """Share a folder that lies on a disk of its own on b's machine."""
    ours = a.folder / "f"
    ours.mkdir()
    for number in range(FILES):
        (ours / f"file{number}").write_text(f"content {number}")
    mount(b)
    a.share_folder(ours, "f", b)
    for device in (a, b):
        device.wait()
    assert on(b, "ls f | wc -l").strip() == str(FILES)
    return ours


def held(device: Device) -> str:
    eventually("the share is held", lambda: device.share("f")["state"] == "held")
    return str(device.share("f")["reason"])


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a34_an_unmounted_root_is_held_and_goes_on_when_it_is_mounted(
    paired: tuple[Device, Device], running: bool
) -> None:
    a, b = paired
    ours = shared_on_a_disk(a, b)
    # The files stay on another mount, as a disk keeps them that is unplugged.
    on(b, "mkdir disk && mount --bind f disk")
    if not running:
        assert b.stop() == 0
    on(b, "umount -l f")
    if not running:
        b.start()
    assert "is its disk mounted?" in held(b)
    text = b.cli("status").ok().out
    assert "f is held" in text
    assert "goes on by itself" in text
    eventually("the other side says so", lambda: "b holds this share" in a.cli("status").ok().out)
    assert b.cli("wait", "f", "--timeout", "5").code == 5
    assert len(describe(ours)) == FILES
    (ours / "new").write_text("written meanwhile")
    on(b, "mount --bind disk f")
    # By itself: nothing is approved, rescanned or restarted.
    eventually("it goes on", lambda: b.share("f")["state"] == "idle", within_s=60)
    for device in (a, b):
        device.wait()
    assert on(b, "cat f/new") == "written meanwhile"
    assert len(describe(ours)) == FILES + 1
    assert a.root("f") == b.root("f")


def test_a36_a_root_on_another_file_system_is_held_until_it_is_approved(
    paired: tuple[Device, Device],
) -> None:
    a, b = paired
    ours = shared_on_a_disk(a, b)
    assert b.stop() == 0
    # A copy of the disk, or another one that carries the same marker: half of it is missing.
    on(
        b,
        "mkdir old && mount --bind f old && umount -l f && mount -t tmpfs -o size=700m none f"
        " && cp -a old/.p2psync f/ && cp -a old/file1 old/file2 f/",
    )
    b.start()
    assert "another file system" in held(b)
    assert "share approve" in b.share("f")["reason"]
    assert len(describe(ours)) == FILES
    b.cli("share", "approve", "f", "--yes").ok()
    eventually("it goes on", lambda: b.share("f")["state"] == "idle")
    for device in (b, a, b):
        device.wait()
    assert a.root("f") == b.root("f")
    assert sorted(path.name for path in ours.glob("file*")) == ["file1", "file2"]


def test_a53_a_network_that_was_cut_and_healed_ends_in_one_state(paired: tuple[Device, Device]) -> None:
    a, b = paired
    ours, theirs = a.folder / "f", b.folder / "f"
    ours.mkdir()
    for number in range(FILES):
        (ours / f"file{number}").write_text(f"content {number}")
    a.share_folder(ours, "f", b)
    for device in (a, b):
        device.wait()
    b.host.cut()
    (ours / "both").write_text("from a")
    (theirs / "both").write_text("from b")
    (ours / "file1").write_text("edited by a")
    (theirs / "file2").unlink()
    (ours / "file2").chmod(0o600)
    (theirs / "file3").rename(theirs / "renamed")
    (ours / "only-a").mkdir()
    (theirs / "only-b").symlink_to("file1")
    for device in (a, b):
        device.cli("share", "rescan", "f").ok()
    b.host.join()
    eventually("connected again", lambda: a.connected_to(b) and b.connected_to(a), within_s=90)
    for device in (a, b, a):
        device.wait()
    assert differences(ours, theirs) == []
    assert a.root("f") == b.root("f")
    assert {path.read_text() for path in ours.glob("both*")} == {"from a", "from b"}
    assert (theirs / "file1").read_text() == "edited by a"
    assert (ours / "renamed").read_text() == "content 3"
    assert not (ours / "file3").exists()
    assert (theirs / "only-a").is_dir()
    assert str((ours / "only-b").readlink()) == "file1"
    assert [one["item"] for one in a.cli("conflict", "list", "--json").ok().json] == ["both"]
    eventually("nothing is left over", lambda: leftovers(ours) == leftovers(theirs) == [])
