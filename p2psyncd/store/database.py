"""One SQLite file: opening, checking and migrating it, transactions, and errors in the project's words."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from importlib import resources
from itertools import chain
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

import apsw

from p2psyncd.errors import HomeUnusable, StateCorrupt, StateTooNew

__all__ = ["MEMORY", "Database", "Row"]

Row = tuple[Any, ...]

MEMORY = ":memory:"
# What `file` and other programs know an SQLite file by; "p2s" and a number.
APPLICATIONS = {"share": 0x70327301, "device": 0x70327302}
BUSY_MS = 10_000
# Pages that a checkpoint copies at once (4 KiB each): SQLite's 1,000 means an fsync for every 4 MB of a first sync.
CHECKPOINT_PAGES = 4_000
CACHE_KIB = 8_192
# More a statement is not faster.
GROUP_ROWS = 32
# A check reads the file once, at about 500 MB/s; past this, opening would take too long, and what a
# share counts when it is opened reads every item anyway.
CHECKED_BYTES_MAX = 32 * 1024 * 1024


class Translation:
    """A context that raises the project's errors for SQLite's."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Translate an error, if there was one."""
        match error:
            case apsw.CorruptError() | apsw.NotADBError():
                raise StateCorrupt(self.path) from error
            case apsw.FullError():
                raise OSError(errno.ENOSPC, "No space left for the state database", self.path) from error
            case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError():
                raise HomeUnusable(f"{self.path} cannot be opened for writing") from error
            case apsw.IOError() | apsw.BusyError():
                raise OSError(errno.EIO, f"The state database failed ({error})", self.path) from error
            case apsw.ConnectionClosedError():
                raise OSError(errno.EBADF, "The state database is closed", self.path) from error
            case _:
                pass


class Database:
    """A connection to one file.

    It belongs to one thread at a time; made with `shared`, several threads may call it at any time.
    """

    def __init__(
        self, connection: apsw.Connection, path: str, *, shared: bool, borrowed: bool = False
    ) -> None:
        self.connection = connection
        self.path = path
        self.lock: AbstractContextManager[object] = RLock() if shared else nullcontext()
        self.translated = Translation(path)
        self.borrowed = borrowed
        self.depth = 0
        self.durable = False
        self.doomed = False

    @classmethod
    def open(cls, path: Path | str, *, kind: str, shared: bool = False) -> Database:
        """Open a file, making it if there is none, and bring it to the newest schema.

        Args:
            path: The file; ":memory:" for none.
            kind: "share" or "device": whose migrations to run.
            shared: Whether several threads will use it at a time.

        Raises:
            StateCorrupt: It is damaged, or something else than such a file.
            StateTooNew: A newer version wrote it.
            HomeUnusable: It can be neither opened nor made.
        """
        name = str(path)
        if name != MEMORY and not Path(name).exists():
            try:
                # SQLite gives its -wal and -shm the same mode; there are secrets in it.
                Path(name).touch(mode=0o600)
            except OSError as error:
                raise HomeUnusable(f"{name} cannot be made: {error.strerror}") from error
        with Translation(name):
            database = cls(connect(name), name, shared=shared)
            try:
                database.check()
                database.migrate(kind)
            except BaseException:
                database.connection.close()
                raise
        return database

    def check(self) -> None:
        """Raise an apsw error or StateCorrupt if the file is damaged, as far as can be seen quickly."""
        size = self.row("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        if size[0] <= CHECKED_BYTES_MAX and self.row("PRAGMA quick_check(1)") != ("ok",):
            raise StateCorrupt(self.path)

    def migrate(self, kind: str) -> None:
        """Run the migrations that the file has not seen; their number is the file's user_version."""
        folder = resources.files("p2psyncd.store") / "migrations" / kind
        scripts = sorted(folder.iterdir(), key=lambda script: script.name)
        version = self.row("PRAGMA user_version")[0]
        if self.row("PRAGMA application_id")[0] != (APPLICATIONS[kind] if version else 0) or (
            version == 0 and self.row("SELECT count(*) FROM sqlite_schema") != (0,)
        ):
            raise StateCorrupt(f"{self.path} is another program's")
        if version > len(scripts):
            raise StateTooNew(self.path)
        self.run("PRAGMA journal_mode = WAL")
        if version == len(scripts):
            return
        with self.transaction(durable=True):
            for script in scripts[version:]:
                self.run(script.read_text("utf-8"))
            self.run(f"PRAGMA application_id = {APPLICATIONS[kind]}; PRAGMA user_version = {len(scripts)}")

    def reader(self) -> Database:
        """Return a connection of its own that sees what is committed and cannot write; for other threads.

        In memory there is only one connection: then it is this one, for the same thread.
        """
        if self.path == MEMORY:
            return Database(self.connection, self.path, shared=False, borrowed=True)
        with self.translated:
            connection = connect(self.path)
            connection.execute("PRAGMA query_only = ON")
        return Database(connection, self.path, shared=True)

    def close(self) -> None:
        """Close the connection; all is durable then."""
        if not self.borrowed:
            with self.lock, self.translated:
                self.connection.close()

    def rows(self, sql: str, bindings: Sequence[object] = ()) -> list[Row]:
        """Return all rows of a query."""
        with self.lock, self.translated:
            return self.connection.execute(sql, bindings).fetchall()

    def found(self, sql: str, bindings: Sequence[object] = ()) -> Row | None:
        """Return the first row of a query, if there is one."""
        with self.lock, self.translated, closing(self.connection.execute(sql, bindings)) as cursor:
            return next(cursor, None)

    def row(self, sql: str, bindings: Sequence[object] = ()) -> Row:
        """Return the only row of a query that always has one."""
        found = self.found(sql, bindings)
        if found is None:
            raise StateCorrupt(self.path)
        return found

    def run(self, sql: str, bindings: Sequence[object] = ()) -> None:
        """Run statements."""
        with self.lock, self.translated:
            self.connection.execute(sql, bindings).fetchall()

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> list[Row]:
        """Run a statement for each row; return what they return, one after another."""
        with self.lock, self.translated:
            return self.connection.executemany(sql, rows).fetchall()

    def run_grouped(
        self, sql: tuple[str, str], width: int, rows: Sequence[Sequence[object]], *, single: str
    ) -> None:
        """Run a statement that takes `VALUES (…), (…)` for many rows at a time, and another one for each that is left over.

        A third faster than a statement a row; and apsw lets other threads go on while SQLite works, which is
        worth its while only where that takes longer than a row.

        Args:
            sql: What stands before the values, and what after.
            width: Values of a row.
            rows: They.
            single: For one row.
        """
        whole = len(rows) - len(rows) % GROUP_ROWS
        if whole:
            values = ", ".join([f"({', '.join('?' * width)})"] * GROUP_ROWS)
            statement = f"{sql[0]} VALUES {values} {sql[1]}"
            with self.lock, self.translated:
                for at in range(0, whole, GROUP_ROWS):
                    flat = list(chain.from_iterable(rows[at : at + GROUP_ROWS]))
                    self.connection.execute(statement, flat).fetchall()
        if whole < len(rows):
            self.run_many(single, rows[whole:])

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[bool]:
        """Make the block one step: all of it is written, or nothing if it raises.

        A block inside another one is a part of that: if it raises, the whole cannot be committed any more. There are no
        savepoints, because inside one SQLite keeps for every statement what would undo it until it is released:
        20,000 updates then took 16 times as long, and half a gigabyte.

        Args:
            durable: Wait until it is on the disk, so that not even a power cut undoes it. Counts
                for the outermost block only.

        Yields:
            Whether this is the outermost block.
        """
        with self.lock:
            outermost = self.depth == 0
            if outermost:
                self.begin(durable=durable)
            self.depth += 1
            try:
                yield outermost
                if outermost:
                    self.commit()
            except BaseException:
                self.doomed = True
                if outermost:
                    self.undo()
                raise
            finally:
                self.depth -= 1

    def begin(self, *, durable: bool) -> None:
        """Begin a transaction."""
        self.doomed = False
        with self.translated:
            if durable != self.durable:
                self.connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self.durable = durable
            self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit, unless something in this transaction was done by half."""
        if self.doomed:
            raise RuntimeError("A part of this transaction failed, so none of it can be written")
        with self.translated:
            self.connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Make all reads in the block see one moment."""
        with self.lock:
            if self.connection.in_transaction:
                yield
                return
            self.run("BEGIN")
            try:
                yield
            finally:
                self.run("COMMIT")

    def undo(self) -> None:
        """Roll back."""
        # SQLite has done so already when the disk is full.
        if self.connection.in_transaction:
            with self.translated:
                self.connection.execute("ROLLBACK")


def connect(path: str) -> apsw.Connection:
    """Return a connection with this project's settings."""
    connection = apsw.Connection(path)
    connection.set_busy_timeout(BUSY_MS)
    # apsw goes on to the next statement only when a row that the last one returned is taken.
    connection.execute(
        f"PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
        f"PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF"
    ).fetchall()
    return connection
