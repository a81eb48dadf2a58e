"""Earlier versions and verification, for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from p2psyncd.control.messages import Problem, Restored, Verified, Version
from p2psyncd.daemon.report import text_of_key, time_text
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import NoSuchItem
from p2psyncd.sources.folder import history as kept
from p2psyncd.sources.folder.versions import versions_below

__all__ = ["restore", "verify", "versions"]


async def versions(share: RunningShare, key: bytes) -> list[Version]:
    """Return the earlier versions of a file, or of everything below a folder, newest first."""
    history = share.folder.history
    found = await share.executor.run(lambda: versions_below(history, key))
    return [version_row(share, one) for one in found]


def version_row(share: RunningShare, one: kept.Version) -> Version:
    """Return a version as `history` shows it."""
    path = Path(share.record.path) / os.fsdecode(one.key)
    return Version(
        version=one.version,
        path=str(path),
        time=time_text(one.replaced_us),
        bytes=one.size,
        reason="replaced" if os.path.lexists(path) else "deleted",
        device=None,
    )


async def restore(share: RunningShare, key: bytes, version: str | None) -> Restored:
    """Put an earlier version back in place, as a new write."""
    history = share.folder.history
    path = Path(share.record.path) / os.fsdecode(key)

    def put_back() -> tuple[str, bool]:
        found = history.list(key)
        if not found and version is None and not os.path.lexists(path):
            return put_back_tree(history, key), False
        if not found:
            raise NoSuchItem(f"No earlier version of {path} is kept")
        chosen = version if version is not None else found[0].version
        replaced = os.path.lexists(path)
        history.restore(key, chosen)
        return chosen, replaced

    async with share.replica.lock:
        chosen, replaced = await share.executor.run(put_back)
    await share.detect()
    return Restored(path=str(path), version=chosen, replaced=replaced)


def put_back_tree(history: kept.History, key: bytes) -> str:
    """Put the newest version of everything that was below a deleted folder back; return the last one's name.

    Raises:
        NoSuchItem: Nothing of it is kept.
    """
    newest: dict[bytes, kept.Version] = {}
    for one in versions_below(history, key):
        newest.setdefault(one.key, one)
    if not newest:
        raise NoSuchItem(f"No earlier version of {os.fsdecode(key)} is kept, nor of anything below it")
    for below, one in newest.items():
        history.restore(below, one.version)
    return next(iter(newest.values())).version


async def verify(shares: Sequence[RunningShare]) -> Verified:
    """Read everything again and hold it against the recorded state."""
    problems: list[Problem] = []
    items = size = 0
    for share in shares:
        await share.detect()
        name, source = share.record.name, share.folder
        found = await share.executor.run(lambda source=source: list(source.verify()))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        problems += [Problem(share=name, item=text_of_key(one.key), problem=one.reason) for one in found]
        fresh = await share.replica.query(lambda store: store.rebuilt_root())
        if fresh != share.replica.standing.root:
            problems.append(
                Problem(share=name, item="", problem="the recorded summary does not match the items")
            )
        items += share.replica.totals.items
        size += share.replica.totals.size
    return Verified(items=items, bytes=size, problems=problems)
