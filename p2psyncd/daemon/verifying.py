"""Verification of shares, for people; earlier versions are looked after by each share's desk."""

from __future__ import annotations

from collections.abc import Sequence

from p2psyncd.control.messages import Problem, Verified
from p2psyncd.daemon.share import RunningShare

__all__ = ["verify"]


async def verify(shares: Sequence[RunningShare]) -> Verified:
    """Read everything again and hold it against the recorded state."""
    problems: list[Problem] = []
    items = size = 0
    for share in shares:
        await share.detect()
        name, source = share.record.name, share.source
        found = await share.executor.run(lambda source=source: list(source.verify()))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        problems += [
            Problem(share=name, item=share.desk.name_of(one.key), problem=one.reason) for one in found
        ]
        fresh = await share.replica.query(lambda store: store.rebuilt_root())
        if fresh != share.replica.standing.root:
            problems.append(
                Problem(share=name, item="", problem="the recorded summary does not match the items")
            )
        items += share.replica.totals.items
        size += share.replica.totals.size
    return Verified(items=items, bytes=size, problems=problems)
