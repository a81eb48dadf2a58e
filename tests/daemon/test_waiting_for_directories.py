"""What waits for its directory is applied as soon as that is there, and not when failures are tried again."""

from __future__ import annotations

import shutil

import pytest
from daemons import Daemon, share, tree

from p2psyncd.daemon import applier


async def test_children_of_a_directory_that_comes_back_are_applied_with_it(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applier, "RETRY_S", 10_000.0)
    maple, willow = two
    ours = maple.make("f")
    for n in range(10):
        folder = ours / f"d{n}"
        (folder / "e").mkdir(parents=True)
        (folder / "old").write_text("old")
    theirs = await share(maple, willow)
    await maple.backend.device_pause("willow")
    for n in range(10):
        # Deleted on one side, filled on the other, either way.
        gone, filled = (ours, theirs) if n % 2 else (theirs, ours)
        shutil.rmtree(gone / f"d{n}")
        (filled / f"d{n}" / "new").write_text("new")
        (filled / f"d{n}" / "e" / "new").write_text("new")
    for daemon in two:
        await daemon.running("f").detect()
    await maple.backend.device_resume("willow")
    await maple.wait("f")
    await willow.wait("f")
    new = {f"d{n}/{name}": "new" for n in range(10) for name in ("new", "e/new")}
    assert tree(ours) == tree(theirs)
    assert {path: text for path, text in tree(ours).items() if text is not None} == new
