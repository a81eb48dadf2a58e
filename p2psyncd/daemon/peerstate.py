"""What is known of one paired device while the daemon runs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import trio

from p2psyncd.daemon.doubles import Lives
from p2psyncd.daemon.peerlink import PeerLink
from p2psyncd.daemon.signal import Signal
from p2psyncd.store.device import PeerRecord

__all__ = ["BACKOFF_FIRST_S", "PeerState"]

BACKOFF_FIRST_S = 1.0
# A restart, and another one, are no reason to wait.
BRIEF_S, BRIEF_FREE = 2.0, 5
PATIENCE_S_MAX = 60.0


@dataclass(slots=True)
class PeerState:
    """What is known of one paired device right now."""

    record: PeerRecord
    addresses: tuple[str, ...] = ()
    """Where mDNS says it is."""
    link: PeerLink | None = None
    trouble: str | None = None
    trouble_command: str | None = None
    """What to run about it."""
    retry_s: float = BACKOFF_FIRST_S
    """How long to wait at least before dialling again."""
    lives: Lives = field(default_factory=Lives)
    wake: Signal = field(default_factory=Signal)
    contents: list[ssl.SSLSocket] = field(default_factory=list)
    content_came: Signal = field(default_factory=Signal)
    scope: trio.CancelScope | None = None
    patient_until: float = 0.0
    """Not dialled before this moment of trio's clock, unless woken: its pairing is being finished, or its last connections
    were over at once."""
    brief: int = 0
    """How many connections in a row were over at once."""

    def ended(self, lasted_s: float, now_s: float) -> None:
        """Note the end of a connection: a peer that greets, and then has something against us, is not dialled all the time."""
        self.brief = self.brief + 1 if lasted_s < BRIEF_S else 0
        if self.brief >= BRIEF_FREE:
            self.patient_until = now_s + min(2.0 ** (self.brief - BRIEF_FREE), PATIENCE_S_MAX)

    def clear_trouble(self) -> None:
        """Forget what was wrong with it: it is connected, or was paired again."""
        self.trouble = self.trouble_command = None
        self.retry_s = BACKOFF_FIRST_S
