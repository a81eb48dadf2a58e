"""Looking before joining: a database that holds rows against the share that it may become a part of.

The share is opened for the time of the comparison only: its state is thrown away afterwards, nothing is written to
the database, and nothing is taken from the peer or given to it but the rows that differ, in its direction to here.
Equal rows are equal entries of the Merkle summary on both sides, so only what differs travels.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2psyncd.control.messages import Compared, Comparison, TableComparison
from p2psyncd.core.item import Item
from p2psyncd.core.storage import ShareStorage
from p2psyncd.daemon.comparing import inspect
from p2psyncd.daemon.kinds import LOOKS_ONLY
from p2psyncd.daemon.mesh import PeerState
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.report import drivers_of
from p2psyncd.daemon.row_text import table_of
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.signal import first_of
from p2psyncd.errors import NoSuchOffer, ShareExists, ShareHeld, TimedOut
from p2psyncd.sources.database.database import DatabaseSource
from p2psyncd.sources.database.keys import SCHEMA_TABLE, is_acceptable
from p2psyncd.sources.database.schema import Schema
from p2psyncd.sources.database.twins import SameRow, name_here
from p2psyncd.store.device import ShareRecord
from p2psyncd.wire.messages import Offer

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["compare"]

# A million rows are read in a fraction of this; a peer that does not answer for so long will not.
COMPARED_WITHIN_S = 600.0
SCHEMA_KEYS = SCHEMA_TABLE.encode() + b"/"


async def compare(daemon: Supervisor, state: PeerState, offer: Offer, path: Path) -> Comparison:
    """Compare a database with an offered share.

    Raises:
        TimedOut: The peer does not answer.
        ShareHeld: The database cannot be read.
        P2psyncError: It cannot be shared.
    """
    return await daemon.shares.to_the_end(lambda: look(daemon, state, offer, path))


async def look(daemon: Supervisor, state: PeerState, offer: Offer, path: Path) -> Comparison:
    """Open the share, look, and throw its state away; other changes of the table wait."""
    shares = daemon.shares
    if offer.share in shares.running or offer.share in shares.broken:
        raise ShareExists(f"{offer.name} is accepted already")
    root = await daemon.executor.run(lambda: daemon.admission.usable(path, offer.kind))
    record = ShareRecord(
        id=offer.share,
        name=offer.name,
        kind=offer.kind,
        path=str(root),
        mode="send-receive",
        secret=offer.secret,
        paused=False,
        with_devices=(state.record.device,),
        added_us=daemon.clock.now_us(),
        settings={LOOKS_ONLY: True},
    )
    await daemon.executor.run(lambda: shares.forget_state(offer.share))
    share = await daemon.executor.run(lambda: shares.open(record))
    share.replica.undecided = True
    shares.put(share)
    try:
        with trio.fail_after(COMPARED_WITHIN_S):
            return await compared(daemon, share, state)
    except trio.TooSlowError:
        raise TimedOut(f"{state.record.name} does not answer") from None
    finally:
        del shares.running[offer.share]
        shares.on_change()
        with trio.CancelScope(shield=True):  # bounded: what is under way is a transaction
            await share.stop()
            await daemon.executor.run(lambda: shares.forget_state(offer.share))


async def compared(daemon: Supervisor, share: RunningShare, state: PeerState) -> Comparison:
    """Return how a share that runs stands to a peer's."""
    while True:
        driver = await session_with(daemon, share, state)
        assert isinstance(share.source, DatabaseSource)
        schema = share.source.schema
        assert schema is not None, "the replica is ready, so the file was looked at"
        tally = Tally(schema)

        async def take(ours: Sequence[bytes], theirs: dict[bytes, Item], tally: Tally = tally) -> None:
            await share.replica.query(lambda store: tally.take(store, ours, theirs))

        found = await inspect(
            daemon, share, state, driver, most=sys.maxsize, within_s=COMPARED_WITHIN_S, each=take
        )
        if found is not None:
            break
    tally.ours.update(found[0])
    here = await share.replica.query(counted)
    return Comparison(
        share=share.record.name,
        path=share.record.path,
        device=state.record.name,
        **by_table(here, tally.surplus, tally.theirs),
    )


async def session_with(daemon: Supervisor, share: RunningShare, state: PeerState) -> SessionDriver:
    """Return the session with the peer, once everything here is read and the peer's log has come.

    Raises:
        ShareHeld: The database cannot be read.
        NoSuchOffer: The peer went away.
    """
    replica = share.replica
    while True:
        events = [replica.signal.event, daemon.mesh.changed.event]
        if replica.phase in {Phase.HELD, Phase.ERROR} or share.waiting:
            raise ShareHeld(f"{share.record.path}: {share.waiting or replica.reason}")
        if state.link is None:
            raise NoSuchOffer(f"{state.record.name} went away")
        mine = [driver for peer, driver in drivers_of(daemon.mesh, share) if peer is state]
        if (
            replica.phase is Phase.READY
            and mine
            and mine[0].session.pushes
            and mine[0].session.peer is not None
        ):
            return mine[0]
        await first_of(events)


class Tally:
    """Which rows differ, without those that show the same: written on one side only, or known under another name."""

    def __init__(self, schema: Schema) -> None:
        self.is_same = SameRow(schema)
        self.ours: set[bytes] = set()
        """Keys of what is here and not with the peer, or otherwise."""
        self.same: set[bytes] = set()
        """Those of which the peer's shows the same."""
        self.theirs: set[bytes] = set()
        """Keys of the peer's rows that are not here, or otherwise."""

    def take(self, store: ShareStorage, ours: Sequence[bytes], theirs: Mapping[bytes, Item]) -> None:
        """Hold a part of what is the peer's against all that is ours; blocks."""
        if not self.ours:
            self.ours.update(ours)
        names = {key: [*self.is_same.names.of(key), key] for key in filter(is_acceptable, theirs)}
        known = store.get_many(sorted({name for found in names.values() for name in found}))
        meant = {key: name for key, found in names.items() if (name := name_here(found, known)) in self.ours}
        same = {key: name for key, name in meant.items() if self.is_same(known[name].item, theirs[key])}
        self.same.update(same.values())
        self.theirs.update(key for key in theirs if key not in same and is_row(key))

    @property
    def surplus(self) -> set[bytes]:
        """Rows here that the peer has not, or otherwise."""
        return set(filter(is_row, self.ours - self.same))


def is_row(key: bytes) -> bool:
    """Return whether an item is an app's row: tables and indexes may differ between versions of an app."""
    return not key.startswith(SCHEMA_KEYS)


def counted(store: ShareStorage) -> Counter[str]:
    """Return how many rows each table has; blocks."""
    return Counter(table_of(listed.key) for listed in store.below(b"") if is_row(listed.key))


def by_table(here: Counter[str], ours: set[bytes], theirs: set[bytes]) -> Compared:
    """Return the comparison by tables, and what they add up to.

    Args:
        here: Rows of each table.
        ours: Keys of rows here that the peer has not, or otherwise.
        theirs: Keys of the peer's rows that are not here, or otherwise.
    """
    different = Counter(table_of(key) for key in ours & theirs)
    only_here = Counter(table_of(key) for key in ours - theirs)
    only_there = Counter(table_of(key) for key in theirs - ours)
    tables = [
        TableComparison(
            table=table,
            identical=here[table] - different[table] - only_here[table],
            only_here=only_here[table],
            only_there=only_there[table],
            different=different[table],
        )
        for table in sorted({*here, *only_there})
    ]
    return Compared(
        identical=sum(one["identical"] for one in tables),
        only_here=only_here.total(),
        only_there=only_there.total(),
        different=different.total(),
        tables=tables,
        complete=True,
    )
