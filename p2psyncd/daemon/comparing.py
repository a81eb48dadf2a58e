"""What differs from a peer right now, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2psyncd.control.messages import DeviceDiff, Diff, Difference
from p2psyncd.core.item import Item, Kind
from p2psyncd.daemon.mesh import PeerState
from p2psyncd.daemon.report import drivers_of, time_text
from p2psyncd.daemon.sessions import INSPECTED_MAX, INSPECTION_S, Inspect, SessionDriver
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import TimedOut

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["describe", "diff", "inspect"]

NAMES = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink", Kind.ROW: "row"}


def describe(item: Item | None) -> str:
    """Return a version in words."""
    if item is None or not item.live:
        return "absent"
    size = f", {item.size} bytes" if item.kind is Kind.FILE else ""
    return f"{NAMES[item.kind]}{size}, written {time_text(item.hlc)}"


async def diff(daemon: Supervisor, share: RunningShare, wanted: PeerState | None) -> Diff:
    """Compare a share with one peer, or with each."""
    sessions = {state.record.device: (state, driver) for state, driver in drivers_of(daemon.mesh, share)}
    peers = [wanted] if wanted is not None else [state for state, _ in sessions.values()]
    rows = []
    for state in peers:
        found = sessions.get(state.record.device)
        if found is None:
            rows.append(unconnected(state))
        else:
            rows.append(await device_diff(daemon, share, state, found[1]))
    return Diff(share=share.record.name, devices=rows)


def unconnected(state: PeerState) -> DeviceDiff:
    """Return the answer for a peer that there is no session with."""
    return DeviceDiff(device=state.record.name, connected=False, differences=[], round_trips=0, bytes=0)


async def inspect(
    daemon: Supervisor,
    share: RunningShare,
    state: PeerState,
    driver: SessionDriver,
    *,
    most: int = INSPECTED_MAX,
    within_s: float = INSPECTION_S,
    each: Inspect | None = None,
) -> tuple[list[bytes], dict[bytes, Item], int] | None:
    """Return what differs (see `SessionDriver.inspect`); None if the session ends meanwhile.

    Raises:
        trio.TooSlowError: The peer does not answer.
    """
    found: list[tuple[list[bytes], dict[bytes, Item], int]] = []
    late = False
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            nonlocal late
            try:
                found.append(await driver.inspect(most=most, within_s=within_s, each=each))
            except trio.TooSlowError:
                late = True
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        while True:
            changed = daemon.mesh.changed.event
            link = state.link
            if link is None or link.closed or link.drivers.get(share.replica.share) is not driver:
                break
            await changed.wait()
        nursery.cancel_scope.cancel()
    if late:
        raise trio.TooSlowError
    return found[0] if found else None


async def device_diff(
    daemon: Supervisor, share: RunningShare, state: PeerState, driver: SessionDriver
) -> DeviceDiff:
    """Compare a share with one connected peer."""
    link = state.link
    before = (link.sent_bytes + link.received_bytes) if link is not None else 0
    asked = driver.asks
    try:
        found = await inspect(daemon, share, state, driver)
    except trio.TooSlowError:
        raise TimedOut(f"{state.record.name} does not answer") from None
    if found is None:
        return unconnected(state)
    ours, theirs, _ = found
    keys = sorted({*ours, *theirs})
    stored = await share.replica.query(lambda store: store.get_many(keys))
    differences = []
    for key in keys:
        here = stored[key].item if key in stored else None
        there = theirs.get(key)
        differences.append(
            Difference(item=share.desk.name_of(key), here=describe(here), there=describe(there))
        )
    after = (link.sent_bytes + link.received_bytes) if link is not None else 0
    return DeviceDiff(
        device=state.record.name,
        connected=True,
        differences=differences,
        round_trips=driver.asks - asked,
        bytes=after - before,
    )
