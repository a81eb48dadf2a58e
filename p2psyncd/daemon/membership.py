"""Which devices may have which share, and what they are offered."""

from __future__ import annotations

from collections.abc import Iterable

from p2psyncd.core.ids import DeviceId
from p2psyncd.daemon.kinds import COUNTERS
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.share import RunningShare
from p2psyncd.store.device import PeerRecord, ShareRecord
from p2psyncd.wire.codec import INT_MAX
from p2psyncd.wire.messages import Offer, Offers

__all__ = ["MEMBERS", "counters_named", "members", "offers", "shares_for", "with_member"]

MEMBERS = "members"


def members(record: ShareRecord) -> set[DeviceId]:
    """Return the devices that are known to hold a share."""
    texts = record.settings.get(MEMBERS, [])
    return {DeviceId(bytes.fromhex(text)) for text in texts} if isinstance(texts, list) else set()


def with_member(record: ShareRecord, device: DeviceId) -> dict[str, object]:
    """Return a share's settings with one more device that holds it."""
    return {**record.settings, MEMBERS: sorted(member.hex() for member in members(record) | {device})}


def counters_named(record: ShareRecord) -> list[str]:
    """Return the columns (TABLE.COLUMN) that are counters in a share, sorted."""
    names = record.settings.get(COUNTERS, [])
    return sorted(map(str, names)) if isinstance(names, list) else []


def shares_for(shares: Iterable[RunningShare], peer: PeerRecord) -> list[RunningShare]:
    """Return the shares that a paired device may have.

    A share goes to the devices it was shared with, else to all; but an introduced device gets only
    what its introducer holds.
    """
    found = []
    for share in shares:
        chosen = share.record.with_devices
        holders = members(share.record)
        if chosen is not None:
            allowed = peer.device in chosen or peer.device in holders
        elif peer.introduced_by is not None:
            allowed = peer.introduced_by in holders or peer.device in holders
        else:
            allowed = True
        if allowed:
            found.append(share)
    return found


def offers(shares: Iterable[RunningShare]) -> Offers:
    """Return what a paired device is offered of the shares that it may have."""
    return Offers(
        offers=tuple(
            Offer(
                share=share.record.id,
                name=share.record.name,
                kind=share.record.kind,
                secret=share.record.secret,
                items=share.replica.totals.items,
                size=min(share.replica.totals.size, INT_MAX),
                held=share.replica.phase in {Phase.HELD, Phase.ERROR},
                copies=share.gives_copies,
                # Who only compares has not said what adds up.
                counters=None if share.replica.undecided else tuple(counters_named(share.record)),
            )
            for share in shares
            if share.replica.phase is not Phase.PAUSED
        )
    )
