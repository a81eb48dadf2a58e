"""Engines with a known fault built in: a simulation that does not find them would prove nothing.

Each is an error that was made, or nearly made, in this project or by others. It is patched into the
running process, for as long as a block lasts. Its plans must fail within a thousand seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from memory import MemorySource

from p2psyncd.core.item import Draft, Item, supersede, wins
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.daemon import incarnation, ledger
from p2psyncd.daemon.ledger import Ledger, Received
from p2psyncd.daemon.page import Page
from p2psyncd.daemon.replica import Replica
from p2psyncd.sources.database.apply import RowApplier
from p2psyncd.sources.folder.apply import Batch
from p2psyncd.sources.folder.replace import ExpectedOther, Replacer
from p2psyncd.sources.source import Outcome
from p2psyncd.store.share import ShareStore
from p2psyncd.wire.session import Commit, Session

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """One way to break the engine."""

    breaks: str
    """What is wrong with it."""
    changes: Callable[[], Sequence[Any]]
    """Returns the patches."""
    faults: str
    """Which faults bring it to light."""
    first: int
    """A seed that finds it, where the test begins to look: `--mutant NAME` looks from 0 on."""
    kind: str = "memory"

    @property
    def seeds(self) -> range:
        """As many as may be needed: what a seed does changes whenever the simulation or the engine does."""
        return range(self.first, self.first + 1000)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Break the engine inside the block."""
        with ExitStack() as stack:
            for change in self.changes():
                stack.enter_context(change)
            yield


def early_knowledge() -> Sequence[Any]:
    original = Session.informed

    def informed(self: Session, theirs: Knowledge, missed: Knowledge) -> list[Any]:
        return [*original(self, theirs, missed), Commit(dict(theirs), {})]

    return [patch.object(Session, "informed", informed)]


def clock_order() -> Sequence[Any]:
    original = Ledger.take

    def flat(draft: Draft, dot: Dot, now_us: int, *replaced: Item) -> Item:
        return replace(supersede(draft, dot, now_us, *replaced), hlc=now_us)

    def take(self: Ledger, page: Page, item: Item, received: Received, *, repair: bool) -> None:
        stored = page.stored.get(item.key)
        if stored is None or not item.covers(stored.item.dot) or wins(item, stored.item):
            original(self, page, item, received, repair=repair)
        elif repair and item.dot != stored.item.dot:
            received.answers.append(stored.item)

    return [patch.object(ledger, "supersede", flat), patch.object(Ledger, "take", take)]


def presumptuous() -> Sequence[Any]:
    original = Ledger.merge

    def merged(self: Ledger, page: Page, ours: Stored, theirs: Item, *, base: Stored | None = None) -> bool:
        done = original(self, page, ours, theirs, base=base)
        waiting = page.pendings.get(theirs.key)
        if waiting is not None and waiting.item.dot == theirs.dot:
            page.put_pending(replace(waiting, item=waiting.item.knowing(ours.item)))
        return done

    return [patch.object(Ledger, "merge", merged)]


def reused_numbers() -> Sequence[Any]:
    def next_seq(self: ShareStore, now_us: int, count: int = 1) -> int:
        with self.transaction():
            last = self.knowledge().get(self.actor(), -1)
            self.raise_to("knowledge", {self.actor(): last + count})
        return last + 1

    async def meet(self: Replica, message: object) -> None:
        """Look for nothing."""

    return [
        patch.object(ShareStore, "next_seq", next_seq),
        patch.object(Replica, "meet", meet),
        patch.object(incarnation, "doubt", lambda *_: ""),
    ]


def forgetful() -> Sequence[Any]:
    original = ShareStore.forget

    def forget(self: ShareStore, *arguments: Any, **named: Any) -> int:
        gone = original(self, *arguments, **named)
        self.database.run("DELETE FROM forgotten")
        return gone

    return [patch.object(ShareStore, "forget", forget)]


def blind_exchange() -> Sequence[Any]:
    original = MemorySource.apply_one

    def apply_one(self: MemorySource, pending: Pending) -> Outcome:
        node = self.nodes.get(pending.item.key)
        if node is not None and pending.base is not None:
            pending = replace(pending, base=replace(pending.base, state=node.state))
        return original(self, pending)

    return [patch.object(MemorySource, "apply_one", apply_one)]


def exchange_without_looking() -> Sequence[Any]:
    def expect(self: Replacer, key: bytes, base: Stored) -> os.stat_result:
        """Look only whether anything is there: a batch is one moment here, so the look before it must be blind, too."""
        status = self.status(key)
        if status is None:
            raise ExpectedOther
        return status

    return [
        patch.object(Replacer, "expect", expect),
        patch.object(Replacer, "is_what_was_replaced", lambda *_: True),
    ]


def rename_before_sync() -> Sequence[Any]:
    def sync_contents(self: Batch, *, few: bool) -> None:
        """Leave the bytes where a power cut finds them."""

    return [patch.object(Batch, "sync_contents", sync_contents)]


def overlooked() -> Sequence[Any]:
    return [patch.object(RowApplier, "unsettle", lambda self, keys: None)]


MUTANTS = {
    "early-knowledge": Mutant(
        breaks="knowledge is committed before what it speaks of has come",
        changes=early_knowledge,
        faults="cut,kill,rot,forget,delay",
        first=40,
    ),
    "clock-order": Mutant(
        breaks="the later clock wins, even against a write that knew the other",
        changes=clock_order,
        faults="clock,cut",
        first=2,
    ),
    "presumptuous": Mutant(
        breaks="a winner claims to know the loser before the loser's bytes are kept (decision 0010)",
        changes=presumptuous,
        faults="cut,delay,hints",
        first=2,
    ),
    "reused-numbers": Mutant(
        breaks="after a restore the old actor goes on, with the next number",
        changes=reused_numbers,
        faults="restore,cut",
        first=578,
    ),
    "forgetful": Mutant(
        breaks="tombstones are dropped, and nobody notes up to where",
        changes=forgetful,
        faults="forget,cut",
        first=86,
    ),
    "blind-exchange": Mutant(
        breaks="what is replaced is not looked at",
        changes=blind_exchange,
        faults="hints,cut,delay",
        first=0,
    ),
    "exchange-without-looking": Mutant(
        breaks="a file is exchanged into place, and what came out is not looked at",
        changes=exchange_without_looking,
        faults="hints,cut,delay",
        first=26,
        kind="folder",
    ),
    "rename-before-sync": Mutant(
        breaks="a file gets its name before its bytes are durable",
        changes=rename_before_sync,
        faults="power,cut",
        first=27,
        kind="folder",
    ),
    "overlooked": Mutant(
        breaks="a row that was held for one that the app deleted is forgotten, where its value went to a new row at once",
        changes=overlooked,
        faults="cut,replace,delay,kill,clock,hints",
        first=242,
        kind="database",
    ),
}
