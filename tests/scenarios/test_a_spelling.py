"""Scenario A26: names that a terminal takes for something else."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from group import put
from p2plab.device import Device, pair, start
from p2plab.installed import Installed
from p2plab.network import Lab as Network
from p2plab.waiting import eventually

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
    assert SHOWN in checked(a, "events")
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
