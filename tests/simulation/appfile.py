"""An app's database file on a simulated disk: what a killed process leaves, and what a power cut does.

SQLite is the real one, with a database in memory that is taken from the disk for each transaction and put back with its commit.
So every commit is whole, and a power cut undoes the last ones that were not made durable, in their order, as it does
with WAL. SQLite's own clock is the machine's: the hints in the file take their time from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
from kinds import Hazard
from stores import StateDisk

from p2psyncd.sources.database.file import Identity, Keeper, Translation

__all__ = ["AppFile", "SimulatedAccess"]

PATH = Path("/sim/app.db")
VFS = "simulated-clock"
JULIAN_1970_MS = 210_866_760_000_000
DAY_MS = 86_400_000


class ClockFilesystem(apsw.VFS):
    """SQLite's default file system, of which nothing but the clock is used: all databases here are in memory."""

    def __init__(self) -> None:
        super().__init__(VFS, "")
        self.now_us: Callable[[], int] = lambda: 0

    def xCurrentTime(self) -> float:  # noqa: N802  (SQLite's name)
        """Return the Julian day."""
        return self.xCurrentTimeInt64() / DAY_MS

    def xCurrentTimeInt64(self) -> int:  # noqa: N802  (SQLite's name)
        """Return the Julian day in milliseconds."""
        return self.now_us() // 1000 + JULIAN_1970_MS


CLOCK = ClockFilesystem()


class AppFile(StateDisk):
    """The file of one machine: survives its processes."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        super().__init__()
        self.now_us = now_us
        self.inode = 1
        self.on_commit: Callable[[apsw.Connection], None] = lambda connection: None
        """Sees what is in the file from now on."""

    @contextmanager
    def connected(self) -> Iterator[apsw.Connection]:
        """Give a connection to what is in the file now."""
        CLOCK.now_us = self.now_us
        connection = apsw.Connection(":memory:", vfs=VFS)
        try:
            if self.newest:
                connection.deserialize("main", self.newest)
            yield connection
        finally:
            connection.close()

    def keep(self, connection: apsw.Connection, *, durable: bool) -> None:
        """Take what a connection has just committed."""
        self.on_commit(connection)
        self.committed(bytes(connection.serialize("main")), durable=durable)

    def replace(self, image: bytes) -> None:
        """Put another file in the place of this one, durably."""
        self.rewind(image)
        self.inode += 1

    def make_durable(self) -> None:
        """Wait until all that was committed is on the disk."""
        self.rewind(self.newest)


class SimulatedAccess:
    """A device's way to the file; see `DatabaseAccess`."""

    def __init__(self, file: AppFile, hazard: Hazard) -> None:
        self.file = file
        self.hazard = hazard
        self.path = PATH
        self.identity: Identity | None = None
        self.keeper: Keeper | None = None
        self.locked = False
        self.translated = Translation(PATH)

    def look(self) -> Identity | None:
        """Return which file is there."""
        return Identity(device=1, inode=self.file.inode)

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """See `DatabaseAccess`."""
        with self.translated, self.connected() as connection:
            expected = self.keeper.expected() if self.keeper is not None else None
            connection.execute("PRAGMA query_only = ON; BEGIN; SELECT 1 FROM sqlite_schema").fetchall()
            if self.keeper is not None:
                self.keeper.look(connection, expected)
            yield connection

    @contextmanager
    def writing(self, *, quiet: bool, first: Callable[[], None] | None = None) -> Iterator[apsw.Connection]:
        """See `DatabaseAccess`; the process may end right before or after the commit."""
        with self.translated, self.connected() as connection:
            if quiet:
                connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            connection.execute("BEGIN IMMEDIATE")
            if self.keeper is not None:
                self.keeper.look(connection, self.keeper.expected())
            yield connection
            if self.keeper is not None:
                self.keeper.committing(connection)
            self.hazard.operation("commit to the app's file", grows=True)
            connection.execute("COMMIT")
            # Of the moment between the commit and the sync that follows it nothing is left after a power cut: the
            # kernel keeps what was just written for seconds.
            if first is not None:
                first()
            self.file.keep(connection, durable=True)
            self.hazard.operation("after a commit to the app's file")
            if self.keeper is not None:
                self.keeper.committed()

    def snapshot_to(self, target: Path) -> None:
        """See `DatabaseAccess`; who kept the copy has it, and nobody looks at it again."""
        self.hazard.operation("copy of the app's file", grows=True)

    def make_durable(self) -> None:
        """See `DatabaseAccess`."""
        self.hazard.operation("sync of the app's file")
        self.file.make_durable()

    @contextmanager
    def connected(self) -> Iterator[apsw.Connection]:
        """Open the file as `sources.database.file` does."""
        with self.file.connected() as connection:
            connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 0)
            yield connection
