"""Extended attributes travel between whole daemons, told by the watch alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from daemons import WAIT_S, Lab, connect, share

if TYPE_CHECKING:
    from pathlib import Path


def attributes_of(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}


async def has(path: Path, expected: dict[str, bytes]) -> None:
    """Return once a path has these attributes."""
    with trio.fail_after(WAIT_S):
        while not await trio.Path(path).exists() or attributes_of(path) != expected:  # noqa: ASYNC110  (nothing tells of it)
            await trio.sleep(0.02)


async def test_attributes_travel_both_ways_as_they_are_set_and_removed(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    willow = await lab.daemon("willow")
    await connect(maple, willow)
    ours = maple.make("f", a_txt="one")
    (ours / "d").mkdir()
    try:
        os.setxattr(ours / "a.txt", "user.first", b"\0\xff")
    except OSError as error:
        pytest.skip(f"the file system of {ours} takes no user attributes: {error.strerror}")
    theirs = await share(maple, willow)
    await has(theirs / "a.txt", {"user.first": b"\0\xff"})
    inode = (theirs / "a.txt").stat().st_ino
    # No content changes from here on: the watch tells of the attributes.
    os.setxattr(ours / "d", "user.tag", b"1")
    await has(theirs / "d", {"user.tag": b"1"})
    os.setxattr(theirs / "a.txt", "user.second", b"2")
    os.removexattr(theirs / "a.txt", "user.first")
    await has(ours / "a.txt", {"user.second": b"2"})
    os.removexattr(theirs / "d", "user.tag")
    await has(ours / "d", {})
    await maple.wait("f")
    await willow.wait("f")
    assert (theirs / "a.txt").stat().st_ino == inode
    assert maple.running("f").replica.totals == willow.running("f").replica.totals
    assert sorted(path.name for path in ours.iterdir()) == [".p2psync", "a.txt", "d"]
