"""How a look reads the app's file: as of one moment, or one page after the other.

In WAL mode a transaction that reads is in nobody's way. In the other modes no app can commit while it is open, so that a
whole table is read in pages, each in a transaction of its own and a moment long. What an app writes
in between is told by hints: a row that is hinted at when its page is read is left to the look at the
hinted rows that follows, and what was changed together is found together there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Protocol

import apsw

from p2psyncd.sources.database.hints import hinted_among
from p2psyncd.sources.database.rows import PAGE_ROWS, Rows
from p2psyncd.sources.database.schema import Schema, Table, schema_version
from p2psyncd.sources.database.show import Place
from p2psyncd.sources.database.values import Value

__all__ = ["Moments", "OneMoment", "SchemaChanged", "Steps", "locks_apps_out"]


class SchemaChanged(Exception):
    """The app has changed its tables since a look began: it has to begin again."""


class Moments(Protocol):
    """What a look reads."""

    def open(self) -> AbstractContextManager[Rows]:
        """Give the rows as they are, inside one transaction.

        Raises:
            SchemaChanged: The tables are others than when the look began.
        """
        ...

    def pages(self, table: Table) -> Iterator[tuple[list[dict[str, Value]], Collection[Place]]]:
        """Yield the rows of a table, and which of them an app has touched, where that is somebody else's; errors as `open`."""
        ...

    def touched(self, table: Table, places: Iterable[Place]) -> Collection[Place]:
        """Return which of some rows that are not there an app has touched; as above."""
        ...


class OneMoment:
    """One transaction, which is open for as long as the look takes."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.rows = Rows(connection)

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """See `Moments`."""
        yield self.rows

    def pages(self, table: Table) -> Iterator[tuple[list[dict[str, Value]], Collection[Place]]]:
        """See `Moments`."""
        rows = self.rows.all(table)
        while page := list(islice(rows, PAGE_ROWS)):
            yield page, ()

    def touched(self, table: Table, places: Iterable[Place]) -> Collection[Place]:
        """See `Moments`."""
        return ()


class Steps:
    """A transaction for each page."""

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[apsw.Connection]],
        schema: Schema,
        *,
        leave_touched: bool,
    ) -> None:
        """Begin.

        Args:
            reading: Opens a transaction.
            schema: As it was when the look began.
            leave_touched: Whether rows that an app has touched are left to another look.
        """
        self.reading = reading
        self.schema = schema
        self.leave_touched = leave_touched

    @contextmanager
    def open(self) -> Iterator[Rows]:
        """See `Moments`."""
        with self.reading() as connection:
            if schema_version(connection) != self.schema.version:
                raise SchemaChanged
            yield Rows(connection)

    def pages(self, table: Table) -> Iterator[tuple[list[dict[str, Value]], Collection[Place]]]:
        """See `Moments`."""
        after: Place | None = None
        more = True
        while more:
            with self.open() as rows:
                page = rows.page(table, after)
                places = [tuple(row[column] for column in table.pk) for row in page.rows]
                touched = self.among(rows, table, places)
            yield page.rows, touched
            after = page.after
            more = after is not None

    def touched(self, table: Table, places: Iterable[Place]) -> Collection[Place]:
        """See `Moments`."""
        with self.open() as rows:
            return self.among(rows, table, places)

    def among(self, rows: Rows, table: Table, places: Iterable[Place]) -> Collection[Place]:
        """Return which of some rows are left to another look."""
        return hinted_among(rows.connection, table.name, places) if self.leave_touched else ()


def locks_apps_out(connection: apsw.Connection) -> bool:
    """Return whether no app can commit while a connection has a transaction open that reads."""
    return bool(connection.pragma("journal_mode") != "wal")
