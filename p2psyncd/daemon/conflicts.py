"""Conflicts for people, of all shares: listed, told of as they arise, shown, resolved. Each share's desk knows its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from p2psyncd.control.messages import Conflict, ConflictDetail, ConflictSide, Keep, Loser, ShareKind
from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.storage import ShareStorage
from p2psyncd.daemon.desk import FoundConflict, Side
from p2psyncd.daemon.journal import Journal
from p2psyncd.daemon.report import kind_of, time_text
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import BadRequest, NoSuchConflict

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["Teller", "listing", "resolve", "show"]

# How often new conflicts are looked for, at most: a person reads of them.
TELL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One conflict, the share that it is in, and whose writes its versions are."""

    share: RunningShare
    conflict: FoundConflict
    devices: dict[ActorId, DeviceId]


async def find(daemon: Supervisor) -> list[Found]:
    """Return the conflicts of all shares, oldest first."""
    found: list[Found] = []
    for share in daemon.shares.all():
        if share.desk.conflicts:
            found += await find_in(share)
    return sorted(found, key=lambda one: one.conflict.since_us)


async def find_in(share: RunningShare) -> list[Found]:
    """Return the conflicts of one share."""

    def look(store: ShareStorage) -> list[Found]:
        devices = store.actor_devices()
        return [Found(share=share, conflict=one, devices=devices) for one in share.desk.find_conflicts(store)]

    return await share.replica.query(look)


def device_name(daemon: Supervisor, found: Found, side: Side | None) -> str:
    """Return the name of the device that made a write."""
    if side is not None and side.by:
        return side.by
    actor = side.actor if side is not None else None
    if actor is not None and actor == found.share.replica.standing.actor:
        return daemon.name
    device = found.devices.get(actor) if actor is not None else None
    return daemon.mesh.describe(device) if device is not None else "unknown"


def row(daemon: Supervisor, found: Found) -> Conflict:
    """Return a conflict as `conflict list` shows it."""
    conflict = found.conflict
    kind: ShareKind = kind_of(found.share.record)
    return Conflict(
        id=conflict.id,
        share=found.share.record.name,
        kind=kind,
        item=conflict.item,
        winner=device_name(daemon, found, conflict.winner),
        losers=[
            Loser(device=device_name(daemon, found, side), time=side.time, where=side.where)
            for side in conflict.losers
        ],
        time=time_text(conflict.since_us),
        resolved=False,
    )


class Teller:
    """Tells of conflicts as they arise while the daemon runs."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.known: dict[ShareId, set[bytes]] = {}
        """What names the losers that were there when each share was last looked at."""

    async def run(self, share: RunningShare) -> None:
        """Tell of the conflicts of one share, for ever."""
        counted = -1
        while True:
            changed = share.replica.signal.event
            if counted != share.desk.conflicts:
                counted = share.desk.conflicts
                await self.tell_of(share)
            await changed.wait()
            await trio.sleep(TELL_EVERY_S)

    async def tell_of(self, share: RunningShare) -> None:
        """Tell of the conflicts of one share that were not known before; at the first look they are."""
        found = await find_in(share)
        now = {handle for one in found for handle in one.conflict.handles}
        before = self.known.get(share.record.id, now)
        self.known[share.record.id] = now
        for one in found:
            if any(handle not in before for handle in one.conflict.handles):
                item = one.conflict.item
                self.journal.tell(
                    "conflict",
                    share=share.record.name,
                    item=item,
                    message=f"{item} was changed on two devices at once; `p2psync conflict show {one.conflict.id}`",
                )


async def listing(daemon: Supervisor, *, include_resolved: bool) -> list[Conflict]:
    """Return the conflicts of all shares; resolved ones from the journal, if wanted."""
    rows = [row(daemon, found) for found in await find(daemon)]
    if include_resolved:
        rows += daemon.journal.resolved_conflicts()
    return rows


async def named(daemon: Supervisor, conflict: str) -> Found:
    """Return one conflict by its ID or a unique beginning of it.

    Raises:
        NoSuchConflict: There is none.
        BadRequest: There are several.
    """
    found = [one for one in await find(daemon) if one.conflict.id.startswith(conflict)] if conflict else []
    if len(found) > 1:
        raise BadRequest(f"{len(found)} open conflicts begin with {conflict!r}: give more of the ID")
    if not found:
        raise NoSuchConflict(conflict)
    return found[0]


async def show(daemon: Supervisor, conflict: str) -> ConflictDetail:
    """Return one conflict in detail."""
    found = await named(daemon, conflict)

    def side(one: Side) -> ConflictSide:
        return ConflictSide(
            device=device_name(daemon, found, one),
            time=one.time,
            where=one.place,
            bytes=one.size,
            digest=one.digest.hex(),
        )

    winner = found.conflict.winner
    sides = [winner] if winner is not None else []
    return ConflictDetail(**row(daemon, found), sides=[side(one) for one in [*sides, *found.conflict.losers]])


async def resolve(daemon: Supervisor, conflict: str, *, keep: Keep, loser: int) -> Conflict:
    """Resolve a conflict: local changes, which travel like any other."""
    found = await named(daemon, conflict)
    losers = len(found.conflict.losers)
    if keep == "loser" and not 0 <= loser < losers:
        raise BadRequest(f"This conflict has {losers} losers, counted from 0")
    await found.share.desk.resolve(found.conflict, keep=keep, loser=loser)
    resolved = row(daemon, found)
    resolved["resolved"] = True
    daemon.journal.note_resolved(resolved)
    return resolved
