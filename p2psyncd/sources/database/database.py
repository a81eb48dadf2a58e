"""An app's SQLite database as a source: its rows are the items, whatever program in whatever language writes them.

The app's file holds hints about the rows that were touched (`hints`), and how far an apply has come (the watermark). All
that is known of a row is in the share's store. The parts: `file` opens the app's file for one step at a time,
`guard` tells whether it is still the same file, `scan` finds what the app changed, `row` merges, `resolve` decides who
is shown where, `apply` writes, `mend` looks after rows whose parents are deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Protocol

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.core.storage import Pending, ShareStorage, Stored
from p2psyncd.core.version import Dot
from p2psyncd.errors import DatabaseUnavailable, ShareHeld
from p2psyncd.sources.database.apply import RowApplier
from p2psyncd.sources.database.file import DatabaseAccess, DatabaseFile
from p2psyncd.sources.database.guard import FileGuard, Known
from p2psyncd.sources.database.hints import (
    Hint,
    drop_hints,
    install,
    installed,
    read_hints,
    read_mark,
    uninstall,
    write_mark,
)
from p2psyncd.sources.database.keys import unpack_key
from p2psyncd.sources.database.mend import Mender
from p2psyncd.sources.database.notes import Notes
from p2psyncd.sources.database.row import join, knows_baseline, state_of
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.scan import Look, Scanner
from p2psyncd.sources.database.schema import Schema, Table, read_schema, schema_version
from p2psyncd.sources.database.show import Catalogue, Place, Places, Settings, place_of
from p2psyncd.sources.database.watch import Watcher
from p2psyncd.sources.source import (
    Applied,
    ContentReader,
    ContentWriter,
    Dirty,
    ItemError,
    Merged,
    Observation,
    Outcome,
    Restated,
    Unapplied,
)

__all__ = ["DatabaseSource"]

log = logging.getLogger(__name__)

EVERYTHING = Dirty(subtrees=frozenset({b""}))
NOTHING = Dirty()
# Hints about rows that are recorded are taken out in passing: a step of ours costs the app a moment.
DROP_HINTS_MIN = 500
DROP_EVERY_S = 1.0
ASKED = -1
"""Counts the touches of a row that no app touched."""
MICROSECONDS = 1_000_000


class Store(ShareStorage, Settings, Protocol):
    """A share's whole store."""


class DatabaseSource:
    """A shared database; implements `sources.source.Source`."""

    whole = True

    def __init__(
        self,
        access: DatabaseAccess,
        share: ShareId,
        store: Store,
        catalogue: Catalogue,
        clock: Clock,
        *,
        device: DeviceId,
        without: Collection[str] = (),
        propagate_schema: bool = False,
        looks_only: bool = False,
    ) -> None:
        """Take a database.

        Args:
            access: The app's file.
            share: Which share it is.
            store: The share's store; it is written to under the replica's lock only.
            catalogue: A view of what is committed in it, for scans.
            clock: The wall clock.
            device: This device.
            without: Tables to leave out.
            propagate_schema: Whether tables and columns that came with the peers' are made here.
            looks_only: Whether nothing is ever written to the file.
        """
        self.access = access
        self.share = share
        self.store = store
        self.catalogue = catalogue
        self.clock = clock
        self.device = device
        self.without = without
        self.propagate_schema = propagate_schema
        self.looks_only = looks_only
        self.watcher = Watcher(access.path)
        self.guard = FileGuard(access, Known.load(store), share=share, device=device)
        access.keeper = self.guard
        self.schema: Schema | None = None
        self.full = False
        """Whether the next scan compares every row."""
        self.catching_up = False
        self.again = False
        """Whether hints are left that a later scan will drop."""
        self.compared: Notes | None = None
        """What to note once the findings of a full comparison are recorded."""
        self.applied: set[bytes] = set()
        """Keys of rows that were written to the file since the last scan began."""
        self.dropped_s = -DROP_EVERY_S
        self.waiting = ""
        self.filesystem: int | None = None
        self.row_applier: RowApplier | None = None
        self.unmended: set[bytes] = set()
        """What was to be mended while an app had the file locked."""
        self.last: dict[bytes, tuple[Dot, bytes]] = {}
        """What the last apply put in place: key, its version and state."""

    @classmethod
    def open(
        cls,
        path: Path,
        share: ShareId,
        store: Store,
        catalogue: Catalogue,
        clock: Clock,
        *,
        device: DeviceId,
        without: Collection[str] = (),
        propagate_schema: bool = False,
        looks_only: bool = False,
    ) -> DatabaseSource:
        """Open an app's file, and finish what a killed process had begun; see `__init__`."""
        source = cls(
            DatabaseFile(path),
            share,
            store,
            catalogue,
            clock,
            device=device,
            without=without,
            propagate_schema=propagate_schema,
            looks_only=looks_only,
        )
        source.recover()
        return source

    def recover(self) -> None:
        """Take note of what was applied right before the end of the last process."""
        if self.looks_only:
            return
        with suppress(DatabaseUnavailable, OSError, ShareHeld):
            outcomes = self.applier.recover()
            waiting = self.store.pending_of([one.key for one in outcomes if isinstance(one, Applied)])
            with self.store.transaction():
                self.store.set_state([(one.key, one.state) for one in outcomes if isinstance(one, Restated)])
                self.store.settle(
                    [
                        (one.key, waiting[one.key].item.dot, one.state)
                        for one in outcomes
                        if isinstance(one, Applied) and one.key in waiting
                    ]
                )

    @property
    def applier(self) -> RowApplier:
        """What writes to the file."""
        if self.row_applier is None:
            self.row_applier = RowApplier(
                self.access,
                self.store,
                self.current_schema(),
                propagate=self.propagate_schema,
                without=self.without,
            )
        return self.row_applier

    # What holds the share

    def check(self) -> None:
        """Raise ShareHeld if the file is not the one that was shared, or not as new as it was."""
        self.guard.check()

    def approve(self, *, catch_up: bool) -> None:
        """Take the file as it is now; see `sources.local.LocalSource`.

        Before it catches up with the peers it is copied, and what only it holds is in the copy.
        """
        if catch_up:
            path = self.access.path
            stamp = f"{datetime.fromtimestamp(self.clock.now_us() / MICROSECONDS, UTC):%Y-%m-%dT%H-%M-%S}"
            self.access.identity = None
            self.access.snapshot_to(path.with_name(f"{path.name}.before-catch-up-{stamp}"))
        self.guard.accept()
        self.full, self.catching_up = True, catch_up

    # Looking

    def scan(self, dirty: Dirty) -> Iterator[Observation | ItemError | Unapplied]:
        """Compare the hinted rows with what the store lists; all rows where hints may have been lost."""
        self.applied.clear()
        schema = self.prepare()
        notes = Notes.load(self.catalogue)
        full = self.full or self.guard.doubtful or notes.version != schema.version or not notes.baselined
        self.full = self.guard.doubtful = False
        actor = self.catalogue.actor()
        durable = False
        agreed: list[Hint] = []
        if self.catching_up:
            with self.access.writing(quiet=True) as connection:
                # They are as old as the rows.
                drop_hints(connection, read_hints(connection, schema))
        with self.access.reading() as connection:
            hints = [] if self.looks_only else read_hints(connection, schema)
            hints += self.asked(dirty.keys, schema)
            scanner = Scanner(connection, self.catalogue, schema, actor, self.clock.now_us() // 1000)
            look = Look(
                hints=hints,
                compare=frozenset(schema.tables) if full else (),
                known=notes.tables,
                baseline=not notes.baselined,
                catch_up=self.catching_up,
            )
            for finding in scanner.look(look):
                key = finding.draft.key if isinstance(finding, Observation) else finding.key
                if key in self.applied:
                    self.full |= full  # the file was read before that, the store after
                    continue
                if not durable:
                    # No peer is to know of what a power cut could still undo here.
                    self.access.make_durable()
                    durable = True
                if isinstance(finding, Unapplied):
                    self.last.pop(key, None)  # what was put in place is not what is there now
                yield finding
            agreed = scanner.agreed
        if scanner.surplus:
            self.discard(scanner.surplus, schema)
        if full and not self.full:
            self.compared, self.catching_up = notes.after(schema), False
        self.again = len(hints) > len(agreed)
        self.drop([hint for hint in agreed if hint.n != ASKED])

    def discard(self, surplus: Sequence[tuple[Table, Place]], schema: Schema) -> None:
        """Delete rows of an older state of the file, unless the app has touched them since."""
        with self.access.writing(quiet=True) as connection:
            hinted = {(hint.table, hint.pk) for hint in read_hints(connection, schema)}
            rows = Rows(connection)
            for table, place in surplus:
                if (table.name, place) not in hinted:
                    rows.delete(table, [place])

    def asked(self, keys: Collection[bytes], schema: Schema) -> list[Hint]:
        """Return hints about rows that somebody wants looked at, whether the app touched them or not."""
        hints = []
        places = Places.load(self.catalogue)
        for key, stored in self.catalogue.get_many(list(keys)).items():
            table = schema.tables.get(unpack_key(key).table)
            if table is None:
                continue
            place = place_of(places, table, key, state_of(stored.item).cells)
            if place is not None:
                hints.append(Hint(table.name, place, self.clock.now_us() // 1000, ASKED))
        return hints

    def prepare(self) -> Schema:
        """Return the schema as it is now, and see to it that every table has its hints."""
        with self.access.reading() as connection:
            if self.schema is not None and self.schema.version == schema_version(connection):
                return self.schema
            schema = read_schema(connection, without=self.without)
            complete = self.looks_only or installed(connection, schema)
        if not complete:
            with self.access.writing(quiet=True) as connection:
                schema = read_schema(connection, without=self.without)
                install(connection, schema, share=self.share, device=self.device)
                schema = read_schema(connection, without=self.without)
            # What was written without triggers was told by no hint.
            self.full = True
        self.schema = schema
        if self.row_applier is not None:
            self.row_applier.adopt(schema)
        return schema

    def current_schema(self) -> Schema:
        """Return the schema as it was last read."""
        return self.schema if self.schema is not None else self.prepare()

    def drop(self, agreed: Sequence[Hint]) -> None:
        """Take hints out that have served."""
        if not agreed or self.looks_only:
            return
        now = self.clock.monotonic_s()
        if len(agreed) < DROP_HINTS_MIN and now - self.dropped_s < DROP_EVERY_S:
            self.again = True
            return
        try:
            with self.access.writing(quiet=True) as connection:
                drop_hints(connection, agreed)
        except DatabaseUnavailable:
            self.again = True  # they harm nobody
        else:
            self.dropped_s = now

    def confirm(self, observations: Sequence[Observation]) -> list[Observation]:
        """Return them all: SQLite shows no passing states."""
        if self.compared is not None:
            self.compared.save(self.store)
            self.compared = None
        self.guard.save(self.store)
        return list(observations)

    def take_busy(self) -> Dirty:
        """Return where hints are left."""
        again, self.again = self.again, False
        return EVERYTHING if again else NOTHING

    def told(self) -> Dirty:
        """Return nothing: whoever wants to be sure scans, which costs little here."""
        return NOTHING

    def verify(self) -> Iterator[ItemError]:
        """Read every row again and yield what is not as recorded."""
        schema = self.prepare()
        notes = Notes.load(self.catalogue)
        with self.access.reading() as connection:
            scanner = Scanner(connection, self.catalogue, schema, self.catalogue.actor(), 0)
            look = Look(compare=frozenset(schema.tables), known=notes.tables)
            for finding in scanner.look(look):
                match finding:
                    case ItemError():
                        yield finding
                    case Observation(draft=made):
                        yield ItemError(key=made.key, reason="the row is not as recorded")
                    case Unapplied(key=key):
                        yield ItemError(key=key, reason="the row is not in place")

    async def watch(self, notify: Callable[[Dirty], None], *, task_status: trio.TaskStatus[None]) -> None:
        """Report that the file was written to."""
        await self.watcher.run(notify, task_status=task_status)

    @property
    def limited(self) -> str | None:
        """Why changes are found late."""
        return self.watcher.limited

    @property
    def limited_command(self) -> str | None:
        """The command against that."""
        return self.watcher.limited_command

    # Merging

    def merge(self, ours: Item, theirs: Item) -> Merged:
        """Merge two rows, column by column."""
        return join(ours, theirs)

    def knows_baseline(self, item: Item, baseline: Item) -> bool:
        """Return whether a row was written in knowledge of one that was there at a first sight."""
        return knows_baseline(item, baseline)

    def mend(self, changed: Collection[bytes]) -> list[Draft]:
        """Return what becomes of rows whose parents are deleted."""
        if self.looks_only:
            return []
        self.unmended.update(changed)
        try:
            with self.access.reading() as connection:
                drafts = Mender(self.current_schema(), self.store, self.applier.places, connection).mend(
                    self.unmended
                )
        except DatabaseUnavailable:
            return []  # the next call looks after them
        self.unmended.clear()
        return drafts

    def reshow(self, changed: Collection[bytes]) -> list[Outcome]:
        """Show what local changes have consequences for: a row that was held for one that is gone now."""
        return [] if self.looks_only else self.applier.reshow(changed)

    def is_conflict(self, key: bytes) -> bool:
        """Return False: what lost a conflict is in the row itself."""
        return False

    def copies_begin(self, key: bytes) -> bytes:
        """Return nothing: there are no copies."""
        return b""

    def is_copy_of(self, copy: bytes, key: bytes) -> bool:
        """Return False: there are no copies."""
        return False

    def aside(self, item: Item) -> NoReturn:
        """Never called: rows are merged."""
        raise AssertionError(item.key)

    def deletion(self, item: Item) -> Draft:
        """Return a plain delete: a row's own says what it deleted."""
        return Draft(key=item.key, kind=Kind.TOMBSTONE)

    def made_by(self, item: Item) -> Dot:
        """Return the write of an item: there are no copies of others."""
        return item.dot

    def preserve(self, stored: Stored, key: bytes) -> NoReturn:
        """Never called: rows are merged."""
        raise AssertionError(stored.item.key, key)

    # Applying

    def stage_local(self, wanted: Sequence[Pending]) -> set[bytes]:
        """Return all: a row brings its values along."""
        return {pending.item.key for pending in wanted}

    def apply(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Put rows in place, in one transaction of the app's file."""
        self.applied.update(pending.item.key for pending in batch)
        # In place, and the store could not take note of it (its disk was full, say).
        done: list[Outcome] = [
            Applied(key=pending.item.key, state=self.last[pending.item.key][1])
            for pending in batch
            if self.last.get(pending.item.key, (None,))[0] == pending.item.dot
        ]
        known = {one.key for one in done}
        outcomes = self.applier.apply([pending for pending in batch if pending.item.key not in known])
        self.applied.update(outcome.key for outcome in outcomes if isinstance(outcome, Restated))
        dots = {pending.item.key: pending.item.dot for pending in batch}
        self.last = {one.key: (dots[one.key], one.state) for one in outcomes if isinstance(one, Applied)}
        self.guard.save(self.store)
        return [*done, *outcomes]

    def writer(self, digest: bytes, size: int) -> ContentWriter:
        """Never called: rows have no content apart."""
        raise AssertionError(digest, size)

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Never called: rows have no content apart."""
        raise AssertionError(digest, len(data))

    def reader(self, stored: Stored) -> ContentReader | None:
        """Return None: rows have no content apart."""
        return None

    def tidy(self) -> int:
        """Return 0: nothing is staged."""
        return 0

    def prune(self, share_bytes: int) -> int:
        """Return 0: what rows held before is in the items."""
        return 0

    # Which opening of the state it was

    def witness(self) -> bytes | None:
        """Return the nonce of the watermark."""
        with suppress(DatabaseUnavailable, OSError, ShareHeld), self.access.reading() as connection:
            mark = read_mark(connection)
            return mark.nonce or None if mark is not None and mark.device == self.device else None
        return None

    def put_witness(self, witness: bytes) -> None:
        """Put the nonce into the watermark; where an app has the file locked, the next opening has a doubt more."""
        if self.looks_only:
            return
        with suppress(DatabaseUnavailable, OSError, ShareHeld):
            with self.access.writing(quiet=True) as connection:
                mark = read_mark(connection)
                if mark is not None:
                    write_mark(connection, mark.number, witness)
            self.guard.save(self.store)

    # Leaving

    def uninstall(self) -> None:
        """Take everything of ours out of the file; its schema is then what it was before.

        Raises:
            DatabaseBusy: The app keeps it locked.
        """
        if self.access.look() is None:
            return
        with self.access.writing(quiet=True) as connection:
            uninstall(connection)
        self.schema = None
