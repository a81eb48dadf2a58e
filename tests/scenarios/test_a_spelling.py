"""Scenarios A22 and A26: names that the file system or a terminal takes for something else."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from filesystem import Disk, Inode
from folders import MOUNT, ROOT, FolderDevice, FolderKind, FolderMachine
from folderuser import FolderUser
from group import put
from p2plab.device import Device, pair, start
from p2plab.installed import Installed
from p2plab.network import Lab as Network
from p2plab.waiting import eventually
from trio.testing import MockClock

from p2psyncd.sources.folder.replace import SPELLED_OTHERWISE
from p2psyncd.sources.source import Dirty

# A line of its own, colours, a new title for the window, a reading direction, and bytes that are no UTF-8.
EVIL = os.fsdecode(b"two\nlines \x1b[2J\x1b]0;title\x07 \r\x9b31m \xe2\x80\xaegpj.exe \xff")
SHOWN = "two\\nlines \\x1b[2J\\x1b]0;title\\x07 \\r\\udc9b31m \\u202egpj.exe \\udcff"
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.fixture
def two(installed: Installed, short_folder: Path) -> Iterator[tuple[Device, Device]]:
    """Two paired daemons; the first has given its files, and takes none."""
    with Network() as network:
        a, b = (
            Device(network.host(number), short_folder / name, installed) for number, name in enumerate("ab")
        )
        start(a, b)
        pair(a, b)
        yield a, b
        for device in (a, b):
            device.stop()


def checked(device: Device, *arguments: str, code: int = 0) -> str:
    """Run the client; what a person reads of it must be plain. Return its lines, wrapped ones joined."""
    result = device.cli(*arguments)
    assert result.code == code, (arguments, result)
    for shown in (result.out, result.err):
        odd = {one for one in shown if unicodedata.category(one) in INVISIBLE} - {"\n"}
        assert not odd, (arguments, odd)
    return result.out + result.err


@pytest.mark.lan
def test_a26_what_a_person_reads_of_names_is_escaped(two: tuple[Device, Device]) -> None:
    a, b = two
    ours, theirs = a.folder / "f", b.folder / "f"
    put(ours / EVIL, "first")
    put(ours / "damaged" / EVIL, "first")
    put(ours / EVIL[::-1] / "inside", "first")
    os.mkfifo(ours / f"fifo {EVIL}")
    a.share_folder(ours, "f", b)
    b.wait()
    # A conflict, and with it what history keeps.
    a.cli("device", "pause", "b").ok()
    eventually("they are apart", lambda: not a.connected_to(b) and not b.connected_to(a))
    put(ours / EVIL, "from a")
    put(theirs / EVIL, "from b")
    put(ours / "damaged" / EVIL, "second")
    for device in (a, b):
        device.cli("share", "rescan", "f").ok()
    a.cli("device", "resume", "b").ok()
    b.wait()
    assert SHOWN in checked(a, "status")
    assert SHOWN in checked(a, "conflict", "list")
    [conflict] = a.cli("conflict", "list", "--json").ok().json
    assert conflict["item"].endswith(EVIL)
    assert SHOWN in checked(a, "conflict", "show", conflict["id"])
    assert SHOWN in checked(b, "history", str(theirs))
    assert SHOWN in checked(b, "history", str(theirs / "damaged" / EVIL))
    # People are told of conflicts a moment after these are there.
    eventually("the conflict is told", lambda: SHOWN in checked(a, "events"))
    # What is no file any more is no deletion, but not what was recorded, either.
    (theirs / "damaged" / EVIL).unlink()
    os.mkfifo(theirs / "damaged" / EVIL)
    assert SHOWN in checked(b, "verify", "f", code=1)
    assert SHOWN in checked(b, "restore", str(theirs / EVIL), "--version", EVIL, "--yes", code=1)


@pytest.mark.lan
def test_a26_names_that_differ_from_a_peers_are_escaped(two: tuple[Device, Device]) -> None:
    a, b = two
    ours, theirs = a.folder / f"f {EVIL[:20]}", b.folder / "f"
    put(ours / "file", "shared")
    a.cli("share", "add", str(ours), "--name", "f", "--mode", "send-only").ok()
    b.accept("f", theirs)
    eventually("the file is there", (theirs / "file").exists)
    put(theirs / EVIL, "not wanted")
    b.cli("share", "rescan", "f").ok()
    assert SHOWN in checked(a, "diff", "f", "b")
    assert SHOWN[:20] in checked(a, "status")
    assert SHOWN[:20] in checked(a, "share", "list")


class FoldingDisk(Disk):
    """A disk that takes names that differ only in case for one, and keeps the spelling that came first."""

    def spelled(self, directory: Inode, name: bytes) -> bytes:
        """Return how a name is spelled in a directory; as it is where nothing there has it."""
        folded = os.fsdecode(name).casefold()
        names = directory.entries or {}
        return next((one for one in names if os.fsdecode(one).casefold() == folded), name)

    def entry(self, directory: Inode, name: bytes) -> Inode | None:
        return super().entry(directory, self.spelled(directory, name))

    def unlink(self, directory: Inode, name: bytes) -> None:
        super().unlink(directory, self.spelled(directory, name))

    def rename(self, source: Inode, old: bytes, target: Inode, new: bytes, *, exchange: bool) -> None:
        old, new = self.spelled(source, old), self.spelled(target, new)
        super().rename(source, old, target, new, exchange=exchange)


class FoldingMachine(FolderMachine):
    """A machine whose disk is such a one."""

    def __init__(self, number: int, kind: FolderKind) -> None:
        super().__init__(number, kind)
        self.disk = FoldingDisk(self.clock, number=number + 1)
        self.disk.fault = self.pass_through
        self.system.mount(MOUNT, self.disk)
        self.user = FolderUser(self.system, self.disk, ROOT.encode())


async def pass_on(source: FolderDevice, target: FolderDevice) -> None:
    """Give a device what another has, and let it put in place what it can."""
    keys = [bytes(key) for (key,) in source.store.database.rows("SELECT key FROM items ORDER BY key")]
    items = [stored.item for stored in source.store.get_many(keys).values()]
    await target.replica.receive(items, [], repair=False)
    for _ in range(5):
        await target.applier.round(survey=True)
        wanted = list(target.applier.wanted.values())
        for one in wanted:
            data = source.content(one.digest)
            assert data is not None
            target.put_content(one.digest, data)
        target.applier.arrived([one.digest for one in wanted])
    await target.applier.round(survey=True)


def files(machine: FolderMachine) -> dict[bytes, bytes]:
    """Return what the files of a machine hold."""
    return {key: inode.data for key, inode in machine.user.tree() if inode.entries is None}


async def both_ways(there: FolderDevice, here: FolderDevice) -> None:
    """Pass on what either has until neither has anything new."""
    for _ in range(3):
        for device, other in ((there, here), (here, there)):
            await device.replica.scan()
            await pass_on(device, other)


async def test_a22_on_a_disk_that_takes_two_names_for_one_the_second_is_an_error_and_overwrites_nothing(
    autojump_clock: MockClock,
) -> None:
    """The real folder source on a simulated disk: most kernels at hand cannot mount a real one."""
    kind = FolderKind()
    theirs, ours = kind.machine(0), FoldingMachine(1, kind)
    ours.prepare()
    there, here = theirs.boot(), ours.boot()
    given = {b"readme": b"lower", b"README": b"upper", b"z": b"z", b"d/a": b"1", b"d/A": b"2", b"D/b": b"3"}
    for key, value in given.items():
        theirs.operate(("write", key, value, True))
    await both_ways(there, here)
    assert files(theirs) == given
    first = files(ours)
    assert {key.lower() for key in first} <= {key.lower() for key in given}
    assert all(given[key] == value for key, value in first.items())
    assert len(first) == len({key.lower() for key in first})
    assert {SPELLED_OTHERWISE} <= set(here.applier.failures.values())
    # A hint about a name that is spelled otherwise here is neither a new file nor a deletion.
    await here.replica.scan(Dirty(keys=frozenset(given)))
    await both_ways(there, here)
    assert files(theirs) == given
    assert files(ours) == first
    # Both are edited: here the one that is there, and there the other.
    await trio.sleep(1)
    kept, other = (b"README", b"readme") if b"README" in first else (b"readme", b"README")
    ours.operate(("save", kept, b"edited here", True))
    theirs.operate(("save", other, b"edited there", True))
    await both_ways(there, here)
    given |= {kept: b"edited here", other: b"edited there"}
    assert files(theirs) == given
    assert files(ours) == first | {kept: b"edited here"}
    # Once the name is free, what waited for it is put in place.
    theirs.operate(("remove", kept))
    await both_ways(there, here)
    del given[kept]
    assert files(theirs) == given
    assert files(ours) == {key: v for key, v in first.items() if key != kept} | {other: b"edited there"}
    # A rename here that changes only case is a rename on the other side.
    ours.operate(("rename", other, b"on its way"))
    ours.operate(("rename", b"on its way", b"ReadMe"))
    await both_ways(there, here)
    given[b"ReadMe"] = given.pop(other)
    assert files(theirs) == given
    # The rest, once nothing is in the way.
    for key in (b"d/A", b"D/b"):
        theirs.operate(("rename", key, b"e/" + key[-1:]))
        given[b"e/" + key[-1:]] = given.pop(key)
    theirs.operate(("remove", b"D"))
    await both_ways(there, here)
    assert files(theirs) == files(ours) == given
    assert here.applier.failures == {}
