"""Conflicts for people: every conflict copy is one, until it is gone.

Nothing is kept about a conflict but the copy itself, whose name tells the item and the losing write.
So all devices list the same conflicts, and resolving one anywhere resolves it everywhere.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from blake3 import blake3

from p2psyncd.control.messages import Conflict, ConflictDetail, ConflictSide, Keep, Loser
from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.item import Item
from p2psyncd.core.storage import ShareStorage, Stored
from p2psyncd.core.version import Dot
from p2psyncd.daemon.report import text_of_key, time_text
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.signal import first_of
from p2psyncd.errors import BadRequest, NoSuchItem
from p2psyncd.sources.folder.conflicts import parse_conflict, tag_of
from p2psyncd.sources.folder.history import History
from p2psyncd.sources.folder.resolve import discard_copy, promote_copy, rename_copy

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["listing", "resolve", "show", "tell_new"]

ID_BYTES = 6
# How often new conflicts are looked for, at most: a person reads of them.
TELL_EVERY_S = 1.0
TAG_ACTOR_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One conflict as the store has it."""

    id: str
    share: RunningShare
    key: bytes
    winner: Item | None
    copies: list[Stored]
    devices: dict[ActorId, DeviceId]


async def find(daemon: Supervisor) -> list[Found]:
    """Return the conflicts of all shares, oldest first."""
    found: list[Found] = []
    for share in daemon.shares.all():
        if share.replica.totals.conflicts == 0:
            continue
        found += await share.replica.query(lambda store, share=share: find_in(store, share))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return sorted(found, key=lambda one: one.copies[0].item.hlc)


def find_in(store: ShareStorage, share: RunningShare) -> list[Found]:
    """Return the conflicts of one share; blocks."""
    groups: dict[bytes, list[Stored]] = {}
    for stored in store.conflicts():
        parsed = parse_conflict(stored.item.key)
        if parsed is not None:
            groups.setdefault(parsed.key, []).append(stored)
    devices = store.actor_devices()
    found = []
    for key, copies in groups.items():
        winner = store.get(key)
        copies.sort(key=lambda copy: (copy.item.hlc, copy.item.dot))
        found.append(
            Found(
                id=blake3(bytes(share.record.id) + key).hexdigest(length=ID_BYTES),
                share=share,
                key=key,
                winner=winner.item if winner is not None and winner.item.live else None,
                copies=copies,
                devices=devices,
            )
        )
    return found


def device_name(daemon: Supervisor, found: Found, dot: Dot | None) -> str:
    """Return the name of the device that made a write."""
    device = found.devices.get(dot.actor) if dot is not None else None
    if dot is not None and dot.actor == found.share.replica.standing.actor:
        return daemon.name
    if device is None:
        return "unknown"
    return daemon.mesh.describe(device)


def loser_device(daemon: Supervisor, found: Found, copy: Item) -> str:
    """Return who wrote the losing version, as far as its tag tells."""
    parsed = parse_conflict(copy.key)
    tag = parsed.tag[:TAG_ACTOR_DIGITS] if parsed is not None else ""
    standing = found.share.replica.standing
    if tag_of(Dot(standing.actor, 0)).startswith(tag):
        return daemon.name
    for actor, device in found.devices.items():
        if actor.hex().startswith(tag):
            return daemon.mesh.describe(device)
    return "unknown"


def loser_time(copy: Item) -> str:
    """Return when the losing version was written, RFC 3339."""
    parsed = parse_conflict(copy.key)
    if parsed is None:
        return time_text(copy.hlc)
    day, clock = parsed.time.split(" ")
    return f"{day}T{clock.replace('-', ':')}Z"


def row(daemon: Supervisor, found: Found) -> Conflict:
    """Return a conflict as `conflict list` shows it."""
    return Conflict(
        id=found.id,
        share=found.share.record.name,
        kind="folder",
        item=text_of_key(found.key),
        winner=device_name(daemon, found, found.winner.dot if found.winner is not None else None),
        losers=[
            Loser(
                device=loser_device(daemon, found, copy.item),
                time=loser_time(copy.item),
                where=text_of_key(copy.item.key),
            )
            for copy in found.copies
        ],
        time=time_text(found.copies[0].item.hlc),
        resolved=False,
    )


async def tell_new(daemon: Supervisor) -> None:
    """Tell of every conflict that arises while the daemon runs, for ever."""
    known = {share.record.id: await copies_in(share) for share in daemon.shares.all()}
    counts: dict[ShareId, int] = {}
    while True:
        events = [share.replica.signal.event for share in daemon.shares.all()]
        changed = daemon.mesh.changed.event
        for share in daemon.shares.all():
            if counts.get(share.record.id) != share.replica.totals.conflicts:
                counts[share.record.id] = share.replica.totals.conflicts
                await tell_of(daemon, share, known)
        await first_of([*events, changed])
        await trio.sleep(TELL_EVERY_S)


async def copies_in(share: RunningShare) -> set[bytes]:
    """Return the keys of the conflict copies of a share."""
    return await share.replica.query(lambda store: {stored.item.key for stored in store.conflicts()})


async def tell_of(daemon: Supervisor, share: RunningShare, known: dict[ShareId, set[bytes]]) -> None:
    """Tell of the conflicts of one share that were not known before."""
    found = await share.replica.query(lambda store: find_in(store, share))
    before = known.get(share.record.id, set())
    known[share.record.id] = {copy.item.key for one in found for copy in one.copies}
    for one in found:
        if any(copy.item.key not in before for copy in one.copies):
            item = text_of_key(one.key)
            daemon.journal.tell(
                "conflict",
                share=share.record.name,
                item=item,
                message=f"{item} was changed on two devices at once; `p2psync conflict show {one.id}`",
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
        NoSuchItem: There is none, or there are several.
    """
    found = [one for one in await find(daemon) if one.id.startswith(conflict)]
    if len(found) != 1 or not conflict:
        raise NoSuchItem(f"No conflict {conflict}; `p2psync conflict list` shows them")
    return found[0]


async def show(daemon: Supervisor, conflict: str) -> ConflictDetail:
    """Return one conflict in detail."""
    found = await named(daemon, conflict)
    root = Path(found.share.record.path)

    def side(item: Item, device: str) -> ConflictSide:
        return ConflictSide(
            device=device,
            time=time_text(item.hlc),
            where=str(root / os.fsdecode(item.key)),
            bytes=item.size,
            digest=item.digest.hex(),
        )

    plain = row(daemon, found)
    sides = [side(found.winner, plain["winner"])] if found.winner is not None else []
    sides += [side(copy.item, loser_device(daemon, found, copy.item)) for copy in found.copies]
    return ConflictDetail(**plain, sides=sides)


async def resolve(daemon: Supervisor, conflict: str, *, keep: Keep, loser: int) -> Conflict:
    """Resolve a conflict: local changes, which travel like any other."""
    found = await named(daemon, conflict)
    keys = [copy.item.key for copy in found.copies]
    if keep == "loser" and not 0 <= loser < len(keys):
        raise BadRequest(f"This conflict has {len(keys)} losers, counted from 0")
    history = found.share.folder.history

    def settle() -> None:
        carry_out(history, found.key, keys, keep=keep, loser=loser)

    async with found.share.replica.lock:
        await daemon.executor.run(settle)
    await found.share.detect()
    resolved = row(daemon, found)
    resolved["resolved"] = True
    daemon.journal.note_resolved(resolved)
    return resolved


def carry_out(history: History, key: bytes, copies: list[bytes], *, keep: Keep, loser: int) -> None:
    """Do what a person chose; blocks."""
    for place, copy in enumerate(copies):
        if keep == "both":
            rename_copy(history, copy)
        elif keep == "loser" and place == loser:
            promote_copy(history, copy, key)
        else:
            discard_copy(history, copy)
