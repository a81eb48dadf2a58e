"""Who may knock: bounds the connections that have not yet shown who they are.

Each of them costs a socket and a little memory until its deadline. When all places are taken, the address that
holds the most gives one up, so one noisy address cannot keep the others out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import trio

__all__ = ["UNKNOWN_CONNECTIONS_MAX", "UNKNOWN_PER_ADDRESS_MAX", "Admission", "Limits", "Visit"]

UNKNOWN_CONNECTIONS_MAX = 32
# A device opens a main and some content connections at once, and several devices may sit behind one address.
UNKNOWN_PER_ADDRESS_MAX = 16
HANDSHAKE_S = 5.0
PAIRING_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much strangers may take."""

    unknown_max: int = UNKNOWN_CONNECTIONS_MAX
    unknown_per_address_max: int = UNKNOWN_PER_ADDRESS_MAX
    handshake_s: float = HANDSHAKE_S
    pairing_s: float = PAIRING_S


@dataclass(slots=True, kw_only=True, eq=False)
class Visit:
    """One place taken; cancelling its scope frees it."""

    ip: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Admission:
    """Keeps the places."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        # In order of arrival: the one that has lingered longest goes first.
        self.visits: dict[Visit, None] = {}

    def enter(self, ip: str) -> Visit | None:
        """Return a place for a connection from that address, or None when it is to be refused.

        May cancel a visit of an address that holds more places than this one.
        """
        held = Counter(visit.ip for visit in self.visits)
        if held[ip] >= self.limits.unknown_per_address_max:
            return None
        if len(self.visits) >= self.limits.unknown_max:
            greediest, most = held.most_common(1)[0]
            if held[ip] + 1 >= most:
                return None
            self.evict(greediest)
        visit = Visit(ip=ip)
        self.visits[visit] = None
        return visit

    def evict(self, ip: str) -> None:
        """Cancel the oldest visit of an address."""
        oldest = next(visit for visit in self.visits if visit.ip == ip)
        oldest.scope.cancel()
        self.leave(oldest)

    def leave(self, visit: Visit) -> None:
        """Free a place; the visitor is known now, or gone."""
        self.visits.pop(visit, None)
