"""History is held to its limits soon after a start, not only on machines that are on all day."""

from __future__ import annotations

import pytest
import trio
from daemons import WAIT_S, Lab, connect, share

from p2psyncd.daemon import share as share_module


async def test_history_is_pruned_soon_after_a_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    maple = await lab.daemon("maple")
    willow = await lab.daemon("willow", history_share_percent=0, history_min_mb=0)
    await connect(maple, willow)
    ours = maple.make("f", a_txt="one")
    theirs = await share(maple, willow)
    (ours / "a.txt").write_text("two")
    await maple.wait("f")

    def kept() -> list[str]:
        return [path.name for path in (theirs / ".p2psync" / "history").rglob("*") if path.is_file()]

    assert len(kept()) == 1
    monkeypatch.setattr(share_module, "HISTORY_FIRST_S", 0.05)
    await willow.restart()
    with trio.fail_after(WAIT_S):
        while kept():  # noqa: ASYNC110  (nothing tells of it)
            await trio.sleep(0.02)
