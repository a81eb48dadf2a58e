"""Finding out that two machines live under one identity (a copied home, a cloned disk).

Every run of a daemon names itself by a random instance. A daemon that was restarted never comes back under the
instance it had before, so two instances of one device that are heard alternately are two daemons. In other words:
give each instance the span from its first greeting to the last sign of life, and two daemons are alive at once
exactly when two spans overlap.

What looks alike and is not: the last bytes of a daemon that has ended, read late (a sign of life counts with the
moment at which its connection began, and a connection to the old one began before the new one greeted); two
connections of one daemon at once, and a laptop that wakes up (the instance is the same); a virtual machine put back
to an earlier moment (the instance that it had meanwhile is silent from then on: its span ends, and is forgotten).

Nothing else has to be remembered: once only one of the two has been heard for `FORGET_S`, the spans that overlap are
gone, and the one that is left is accepted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

__all__ = ["FORGET_S", "RETRY_S", "Lives"]

# A refused device comes back within RETRY_S; a connected one is heard every 20 s at least (keep-alive).
RETRY_S = 15.0
FORGET_S = 40.0
INSTANCES_MAX = 32


@dataclass(slots=True)
class Life:
    """One run of a peer's daemon."""

    first_s: float
    last_s: float
    host: str


class Lives:
    """The runs of one peer's daemon that were heard lately. Times are trio's, in seconds."""

    def __init__(self) -> None:
        self.lives: dict[bytes, Life] = {}

    def greeted(self, instance: bytes, *, begun_s: float, now_s: float, host: str) -> None:
        """Note a greeting on a connection that began at `begun_s`: until then at least it has lived."""
        life = self.lives.get(instance)
        if life is None:
            if len(self.lives) >= INSTANCES_MAX:
                del self.lives[min(self.lives, key=lambda one: self.lives[one].last_s)]
            self.lives[instance] = Life(first_s=now_s, last_s=begun_s, host=host)
        else:
            life.last_s = max(life.last_s, begun_s)
            life.host = host

    def heard(self, instance: bytes, when_s: float) -> None:
        """Note a sign of life on a connection."""
        life = self.lives.get(instance)
        if life is not None:
            life.last_s = max(life.last_s, when_s)

    def overlapping(self, now_s: float) -> list[str]:
        """Return the hosts of the runs that were alive at once; empty if there were no such two."""
        self.lives = {i: life for i, life in self.lives.items() if now_s - life.last_s <= FORGET_S}
        found: set[int] = set()
        ordered = sorted(self.lives.values(), key=lambda life: life.first_s)
        for (n, older), (m, younger) in combinations(enumerate(ordered), 2):
            if older.last_s > younger.first_s:
                found |= {n, m}
        return [ordered[n].host for n in sorted(found)]
