"""Replicas of one database without a daemon: each a store, an app's file, and the engine's ledger between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.item import Item
from p2psyncd.core.storage import Pending
from p2psyncd.daemon.ledger import Ledger
from p2psyncd.sources.database.database import DatabaseSource
from p2psyncd.sources.database.keys import bucket_of
from p2psyncd.sources.database.row import has_losers
from p2psyncd.sources.source import (
    Applied,
    Dirty,
    Failed,
    ItemError,
    Observation,
    Outcome,
    Restated,
    Unapplied,
)
from p2psyncd.store.share import ShareStore

EVERYTHING = Dirty(subtrees=frozenset({b""}))
SHARE = ShareId(b"a shared database".ljust(16)[:16])
ROUNDS_MAX = 12


class Clock:
    """Moves by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000

    def now_us(self) -> int:
        self.seconds += 1
        return self.seconds * 1_000_000

    def monotonic_s(self) -> float:
        self.seconds += 1
        return float(self.seconds)


class Replica:
    """One device's copy."""

    def __init__(self, number: int, path: Path, ddl: str, clock: Clock) -> None:
        self.number = number
        self.path = path
        self.clock = clock
        if not path.exists():
            self.run(ddl)
        self.store = ShareStore.open(
            ":memory:",
            share_id=SHARE,
            secret=bytes(32),
            mint_actor=lambda: ActorId(bytes([number]) * 8),
            is_conflict=lambda item: has_losers(item.meta),
            directory=bucket_of,
            received_us=clock.now_us,
        )
        self.open()
        self.scan()

    def open(self) -> None:
        """Open the source, as a process that starts does."""
        self.source = DatabaseSource.open(
            self.path,
            SHARE,
            self.store,
            self.store,
            self.clock,
            device=DeviceId(bytes([self.number]) * 32),
        )
        self.ledger = Ledger(self.store, self.source, self.clock)

    # The app

    def run(
        self, *statements: str, foreign_keys: bool = True, recursive: bool = False
    ) -> list[tuple[Any, ...]]:
        """Be an app for one transaction; return the last statement's rows."""
        connection = apsw.Connection(str(self.path))
        try:
            connection.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
            connection.execute(f"PRAGMA recursive_triggers = {int(recursive)}")
            rows: list[tuple[Any, ...]] = []
            with connection:
                for statement in statements:
                    rows = connection.execute(statement).fetchall()
            return rows
        finally:
            connection.close()

    def attempt(self, *statements: str, **options: bool) -> bool:
        """Be an app that may break a constraint; return whether it did not."""
        try:
            self.run(*statements, **options)
        except apsw.ConstraintError:
            return False
        return True

    def tables(self) -> dict[str, list[str]]:
        """Return all rows of the app's tables, with the types and bits of their values."""
        names = [
            name
            for (name,) in self.run(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                " AND name NOT GLOB '_p2p_*' ORDER BY name"
            )
        ]
        return {name: sorted(map(repr, self.run(f'SELECT * FROM "{name}"'))) for name in names}

    # The engine

    def scan(self, dirty: Dirty = EVERYTHING) -> int:
        """Capture what the app did; return how many versions that made."""
        found = list(self.source.scan(dirty))
        errors = [one for one in found if isinstance(one, ItemError)]
        assert not errors, errors
        seen = [one for one in found if isinstance(one, Observation)]
        before = self.store.knowledge().get(self.store.actor(), -1)
        changed = self.ledger.record(self.source.confirm(seen))
        self.ledger.reopen({one.key: one.shown for one in found if isinstance(one, Unapplied)})
        self.settle(changed | set(self.source.unmended))
        self.source.unsettle(changed)
        shown = self.source.reshow()
        self.restate(shown)
        self.source.noted(shown)
        if self.source.due:
            self.source.keep()
        return len(changed) if self.store.knowledge().get(self.store.actor(), -1) > before else 0

    def settle(self, changed: set[bytes]) -> None:
        """Mend what some changes broke."""
        self.ledger.mend(changed)

    def restate(self, outcomes: Iterable[Outcome]) -> None:
        self.store.set_state([(one.key, one.state) for one in outcomes if isinstance(one, Restated)])

    def items(self) -> list[Item]:
        """Return everything that is known, tombstones included."""
        return list(self.store.all_items())

    def receive(self, items: Sequence[Item]) -> None:
        """Take in what a peer sent, and mend what it breaks."""
        received = self.ledger.receive(items, [], repair=False)
        assert not received.deferred
        self.settle(received.changed)

    def apply_once(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Apply some of what is pending, and note the outcomes."""
        outcomes = self.source.apply(batch)
        dots = {pending.item.key: pending.item.dot for pending in batch}
        self.restate(outcomes)
        self.store.settle([(o.key, dots[o.key], o.state) for o in outcomes if isinstance(o, Applied)])
        self.store.fail([(o.key, o.reason) for o in outcomes if isinstance(o, Failed)])
        self.source.noted(outcomes)
        return outcomes

    def apply(self) -> None:
        """Apply all that is pending, capturing what the app does in between."""
        for _ in range(ROUNDS_MAX):
            batch = self.store.pending(limit=100_000)
            if not batch:
                return
            outcomes = self.apply_once(batch)
            failed = [one for one in outcomes if isinstance(one, Failed)]
            assert not failed, failed
            if not all(isinstance(one, Applied | Restated) for one in outcomes):
                self.scan(Dirty(keys=frozenset(one.key for one in outcomes)))
        raise AssertionError(self.store.pending(limit=10))

    def close(self) -> None:
        self.store.close()


def exchange(*replicas: Replica) -> None:
    """Let all replicas tell each other everything until nobody learns anything."""
    for _ in range(ROUNDS_MAX):
        before = [replica.store.root() for replica in replicas]
        for replica in replicas:
            replica.scan()
        for sender in replicas:
            items = sender.items()
            for receiver in replicas:
                if receiver is not sender:
                    receiver.receive(items)
        for replica in replicas:
            replica.apply()
        roots = {replica.store.root() for replica in replicas}
        if len(roots) == 1 and before == [replica.store.root() for replica in replicas]:
            return
    raise AssertionError("they do not come to rest")
