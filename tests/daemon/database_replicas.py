"""Replicas of databases without daemons around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.daemon.executor import InlineExecutor
from p2psyncd.daemon.replica import Replica
from p2psyncd.main import SystemClock
from p2psyncd.sources.database.database import DatabaseSource
from p2psyncd.sources.database.keys import bucket_of
from p2psyncd.sources.database.row import has_losers
from p2psyncd.store.reading import ShareReader
from p2psyncd.store.share import ShareStore

__all__ = ["SHARE", "NewReplica", "maker", "write"]

SHARE = ShareId(b"a shared database".ljust(16)[:16])


NewReplica = Callable[[Path, str], Replica]


@contextmanager
def maker() -> Iterator[NewReplica]:
    """Give what makes the replica of a new database."""
    stores: list[ShareStore] = []
    readers: list[ShareReader] = []

    def make(path: Path, ddl: str) -> Replica:
        number = len(stores) + 1
        write(path, ddl)
        clock = SystemClock()
        store = ShareStore.open(
            path.with_suffix(".state"),
            share_id=SHARE,
            secret=bytes(32),
            mint_actor=lambda: ActorId(bytes([number]) * 8),
            is_conflict=lambda item: has_losers(item.meta),
            directory=bucket_of,
            received_us=clock.now_us,
        )
        stores.append(store)
        readers.append(store.reader())
        device = DeviceId(bytes([number]) * 32)
        return Replica(
            share=SHARE,
            store=store,
            source=DatabaseSource.open(path, SHARE, store, readers[-1], clock, device=device),
            directory=None,
            acceptable=lambda key: True,
            clock=clock,
            executor=InlineExecutor(),
        )

    try:
        yield make
    finally:
        for opened in (*readers, *stores):
            opened.close()


def write(path: Path, statement: str) -> None:
    """Be an app for one transaction."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(statement).fetchall()
