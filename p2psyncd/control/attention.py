"""What of a share needs a person, in words and with the command to run: the same for `status` and its JSON."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from p2psyncd.control.messages import Attention, ShareStatus

__all__ = ["share_attention"]

ERRORS_SHOWN = 3
APPROVABLE = ("are gone", "another file system", "share approve")


def share_attention(share: ShareStatus) -> Iterator[Attention]:
    """Give what one share needs a person for."""
    name = share["name"]
    reason = share["reason"] or ""
    match share["state"]:
        case "held":
            # Approving carries out deletions; a disk that is not there has to come back.
            approve = any(sign in reason for sign in APPROVABLE)
            command = f"p2psync share approve {shlex.quote(name)}" if approve else "p2psync doctor"
            yield Attention(message=f"{name} is held: {reason}", command=command)
        case "error":
            yield Attention(message=f"{name}: {reason}", command="p2psync doctor")
        case "paused":
            yield Attention(message=f"{name}: {reason}", command=f"p2psync share resume {shlex.quote(name)}")
        case _:
            if reason:
                yield Attention(message=f"{name}: {reason}", command=None)
    limited = share.get("limited")
    if limited:
        yield Attention(message=f"{name}: {limited['message']}.", command=limited["command"])
    if share["conflicts"]:
        plural = "" if share["conflicts"] == 1 else "s"
        yield Attention(
            message=f"{name} has {share['conflicts']:,} conflict{plural}.", command="p2psync conflict list"
        )
    for error in share["errors"][:ERRORS_SHOWN]:
        yield Attention(message=": ".join(filter(None, (name, error["item"], error["error"]))), command=None)
    more = len(share["errors"]) - ERRORS_SHOWN
    if more > 0:
        plural = "" if more == 1 else "s"
        yield Attention(message=f"{name}: {more:,} more error{plural}.", command="p2psync status --json")
