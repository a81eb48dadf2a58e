"""Contents that no device has any more: what was announced, and went with a disk before anybody had fetched it.

Waiting for such a content would never end, and nobody could be sure that a share is in sync. When all
members of the share are connected and each has said, every minute for some, that it has not got the content,
the version is given up: the one before it stays, or nothing. Nothing is lost by that which was not lost
already; a member that is away may still have it, so nobody decides while one is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import trio

from p2psyncd.core.ids import DeviceId
from p2psyncd.daemon.applier import Applier

__all__ = ["give_up_lost_contents"]

log = logging.getLogger(__name__)

LOOK_S = 60.0
# Long enough for a peer to put in place what it has just fetched, and then to say so.
PATIENCE_S = 300.0


async def give_up_lost_contents(
    applier: Applier,
    *,
    ours: DeviceId,
    members: Callable[[], Collection[DeviceId]],
    tell: Callable[[bytes], None],
) -> None:
    """Look for contents that nobody has, for ever, and give them up in the end.

    Args:
        applier: What wants contents.
        ours: This device.
        members: The other devices that hold the share.
        tell: Called with the key of each version that was given up.
    """
    since: dict[bytes, float] = {}
    while True:
        await trio.sleep(LOOK_S)
        everyone = set(members())
        nowhere = {
            digest for digest, wanted in applier.wanted.items() if everyone and wanted.refused_by >= everyone
        }
        since = {digest: since.get(digest, trio.current_time()) for digest in nowhere}
        # One device after the other, so that mostly one decides; two that do write the same.
        patience_s = PATIENCE_S * (1 + sorted({ours, *everyone}).index(ours))
        lost = [digest for digest, first in since.items() if trio.current_time() - first >= patience_s]
        if lost and applier.replica.ledger.announces:
            keys = [pending.item.key for digest in lost for pending in applier.wanted[digest].pending]
            for key in await applier.give_up(keys, lost):
                log.warning("content_lost share=%s key=%r", applier.replica.share.hex()[:8], key)
                tell(key)
        applier.ask_again()
