"""When a share's tombstones are forgotten: once every member knows them, or after a year.

Forgetting is safe whenever it happens (see `wire.session`, rule 5): who missed a forgotten delete is
told that what it has is gone. It waits all the same until every open session of the share is at rest,
so that no peer is in the middle of taking the log in; and a week, so that an older state that is put
back somewhere is more likely found out while the deletes it lacks can still be told one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import ActorId, DeviceId
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.storage import NOTHING
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.sessions import SessionDriver

__all__ = ["common", "forget_now", "forget_now_and_then"]

log = logging.getLogger(__name__)

FORGETTING_S = 600.0
DAY_US = 86_400 * 1_000_000
KNOWN_DAYS = 7


async def forget_now_and_then(
    replica: Replica,
    clock: Clock,
    *,
    days: int,
    members: Callable[[], Collection[DeviceId]],
    sessions: Callable[[], Sequence[SessionDriver]],
) -> None:
    """Forget what can be forgotten, at the start and every ten minutes, for ever.

    Args:
        replica: Whose tombstones.
        clock: The wall clock.
        days: How old a tombstone gets that not every member knows.
        members: The other devices that hold the share.
        sessions: The share's open sessions.
    """
    while True:
        changed = replica.signal.event
        if replica.phase is not Phase.READY:
            await changed.wait()
            continue
        count = await forget_now(replica, clock.now_us(), days=days, members=members(), sessions=sessions())
        if count:
            log.info("tombstones_forgotten share=%s count=%d", replica.share.hex()[:8], count)
        await trio.sleep(FORGETTING_S)


async def forget_now(
    replica: Replica,
    now_us: int,
    *,
    days: int,
    members: Collection[DeviceId],
    sessions: Sequence[SessionDriver],
) -> int:
    """Forget what can be forgotten now; return how many tombstones that were."""
    if not all(session.at_rest for session in sessions):
        return 0
    known = {driver.session.peer_device: driver.known for driver in sessions}

    def note() -> Knowledge:
        for device in known.keys() & set(members):
            replica.store.note_member(device, known[device])
        remembered = replica.store.members()
        if not members or not remembered.keys() >= set(members):
            return NOTHING
        return common([remembered[device] for device in members])

    covered = await replica.query(lambda _: note())
    # Who takes nothing in never knows all that a peer knows, so their roots are never compared: only the
    # tombstone itself can tell the peer.
    before_us = now_us - days * DAY_US if replica.takes else 0
    return await replica.forget(covered, covered_before_us=now_us - KNOWN_DAYS * DAY_US, before_us=before_us)


def common(knowledge: Sequence[Knowledge]) -> dict[ActorId, int]:
    """Return what all of them cover."""
    first, *others = knowledge
    return {
        actor: min([seq, *(other[actor] for other in others)])
        for actor, seq in first.items()
        if all(actor in other for other in others)
    }
