"""An app's SQLite database as a source: its rows are the items, whatever program in whatever language writes them.

The app's file holds hints about the rows that were touched (`hints`), and how far an apply has come (the watermark). All
that is known of a row is in the share's store. The parts: `file` opens the app's file for one step at a time,
`guard` tells whether it is still the same file, `scan` finds what the app changed, `row` merges, `resolve` decides who
is shown where, `apply` writes, `mend` looks after rows whose parents are deleted, `rules` says what rows are like as items.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import apsw
import cbor2
import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.core.item import Draft
from p2psyncd.core.storage import Pending, ShareStorage
from p2psyncd.core.version import Dot
from p2psyncd.errors import DatabaseBusy, DatabaseFault, DatabaseUnavailable, NameTaken, ShareHeld
from p2psyncd.sources.database.apply import RowApplier
from p2psyncd.sources.database.approval import Approval
from p2psyncd.sources.database.arriving import NotEmpty, belongs_to, install_copy, is_empty, prepare_copy
from p2psyncd.sources.database.copying import Listing, NoCopy, write_copy
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
from p2psyncd.sources.database.keyless import may_be_keyless
from p2psyncd.sources.database.keys import unpack_key
from p2psyncd.sources.database.look import Finding, Look, Told
from p2psyncd.sources.database.mend import Mender
from p2psyncd.sources.database.moments import Moments, OneMoment, SchemaChanged, Steps, locks_apps_out
from p2psyncd.sources.database.notes import Notes
from p2psyncd.sources.database.opening import connect
from p2psyncd.sources.database.row import (
    is_sound,
    state_of,
)
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.rules import RowRules
from p2psyncd.sources.database.scan import Scanner
from p2psyncd.sources.database.schema import Schema, Table, is_current, read_schema, schema_version
from p2psyncd.sources.database.show import Catalogue, Place, Places, Settings, place_of
from p2psyncd.sources.database.sincelook import SinceLook, known_by_now
from p2psyncd.sources.database.twins import take_back_twins
from p2psyncd.sources.database.watch import Watcher
from p2psyncd.sources.faults import Faults
from p2psyncd.sources.source import (
    Applied,
    Dirty,
    ItemError,
    Observation,
    Outcome,
    Restated,
    Unapplied,
)

__all__ = ["DatabaseSource"]

log = logging.getLogger(__name__)

NO_COUNTERS: Mapping[str, Collection[str]] = {}
EVERYTHING = Dirty(subtrees=frozenset({b""}))
NOTHING = Dirty()
# Hints about rows that are recorded are taken out while the app rests, or when they are many: many an app (Django's, as it
# comes) gives up at once if it is to write after it has read, and somebody else has the lock.
DROP_HINTS_MIN = 500
RESTS_S = 1.0
# An app that is at work finds its file locked by us a twentieth of the time, if rows come without end. What comes now and
# then is put in place at once: a second's worth is on credit. And nothing waits for longer than that.
OWED, CREDIT_S, REST_S_MAX = 20, 1.0, 1.0
# An app that changes its tables does so in a few steps.
SCHEMAS_MAX = 20
ASKED = -1
"""Counts the touches of a row that no app touched."""
MICROSECONDS = 1_000_000
DOUBT = "database-doubt"
"""Whether every row is still to be compared: the state is older than the file."""
UNMENDED = "database-unmended"
"""The keys of what was to be mended while an app had the file locked."""
NO_KEYS = cbor2.dumps([])


class Store(ShareStorage, Settings, Protocol):
    """A share's whole store."""


class DatabaseSource(RowRules):
    """A shared database; implements `sources.source.Source`."""

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
        counters: Mapping[str, Collection[str]] = NO_COUNTERS,
        propagate_schema: bool = False,
        looks_only: bool = False,
        copy: Path | None = None,
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
            counters: Columns to which devices add, by table; see `sums`.
            propagate_schema: Whether tables and columns that came with the peers' are made here.
            looks_only: Whether nothing is ever written to the file.
            copy: Where a peer's copy of the database lies, or will lie, that the empty file begins with; None: nowhere.
        """
        self.access = access
        self.share = share
        self.store = store
        self.catalogue = catalogue
        self.clock = clock
        self.device = device
        self.without = without
        self.counters = counters
        self.propagate_schema = propagate_schema
        self.looks_only = looks_only
        self.copy = copy
        self.faults = Faults()
        self.awaiting = False
        """Whether a copy from a peer is on its way into the file, which nobody is to look at before."""
        self.watcher = Watcher(access.path)
        self.guard = FileGuard(access, Known.load(store), share=share, device=device, arrival=store.arrival)
        access.keeper = self.guard
        self.schema: Schema | None = None
        self.full = bool(store.setting(DOUBT))
        """Whether the next scan compares every row."""
        self.older = self.full
        """Whether the state may be older than the file."""
        self.catching_up = False
        self.approval = Approval(store)
        self.seen: dict[tuple[str, Place], Told] = {}
        """What the last scan found in hinted rows."""
        self.keyless: set[str] = set()
        """Tables that have, or may have, rows with NULL in their key."""
        self.again = False
        """Whether hints are left that a later scan will drop."""
        self.compared: Notes | None = None
        """What to note once the findings of a full comparison are recorded."""
        self.since = SinceLook()
        self.hinted: list[Hint] = []
        """What the last look saw hinted at."""
        self.touched_s = -RESTS_S
        """When that last changed."""
        # Until when apps have a right to their file, for the time that they were locked out of it.
        self.owed_until_s = 0.0
        self.waiting = ""
        self.filesystem: int | None = None
        self.recovered = False
        self.row_applier: RowApplier | None = None
        self.unmended: set[bytes] = set(cbor2.loads(store.setting(UNMENDED) or NO_KEYS))
        """What was to be mended while an app had the file locked."""
        self.unmendable: dict[bytes, str] = {}
        """Rows whose parents and children could not be looked after, and why."""
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
        counters: Mapping[str, Collection[str]] = NO_COUNTERS,
        propagate_schema: bool = False,
        looks_only: bool = False,
        copy: Path | None = None,
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
            counters=counters,
            propagate_schema=propagate_schema,
            looks_only=looks_only,
            copy=copy,
        )
        source.take_up_copy()
        source.recover()
        return source

    # A copy from a peer, instead of each row by itself

    def take_up_copy(self) -> None:
        """See how far a copy had come when the last process ended, if one is to come at all."""
        if self.copy is None:
            return
        came = self.copy.exists()
        wanted = not Notes.load(self.store).baselined
        with suppress(DatabaseUnavailable, DatabaseFault, OSError, ShareHeld, NotEmpty):
            if wanted and is_empty(self.access.path):
                if came:
                    self.install_copy()
                    return
                if not self.store.arrival():
                    self.awaiting = True
                    return
            elif wanted and came and belongs_to(self.access.path, share=self.share, device=self.device):
                return
        self.forget_copy()  # the rows come by themselves

    def receive_copy(self, came: Path) -> None:
        """Make a copy that came the content of the file.

        Raises:
            RemoteProtocolError: It is no sound copy.
            NotEmpty: There is something in the file by now.
            DatabaseUnavailable, OSError: It cannot be written there.
        """
        assert self.copy is not None
        prepare_copy(came, share=self.share, device=self.device, without=self.without)
        came.replace(self.copy)
        self.install_copy()

    def install_copy(self) -> None:
        """Write the copy into the file, and begin to look at its rows."""
        assert self.copy is not None
        install_copy(self.copy, self.access.path)
        self.awaiting = False

    def forget_copy(self) -> None:
        """Wait for no copy (any more)."""
        self.awaiting = False
        if self.copy is not None:
            self.copy.unlink(missing_ok=True)
            self.copy = None

    def write_copy(self, target: Path, store: Listing) -> None:
        """Write a copy for a device that has nothing yet; see `copying.write_copy`."""
        if self.full or self.catching_up or self.awaiting or self.guard.doubtful:
            raise NoCopy("it is still being compared")
        write_copy(self.access, store, target, without=self.without)

    def recover(self) -> None:
        """Take note of what was applied right before the end of the last process."""
        if self.looks_only or self.recovered:
            return
        # What is wrong with the file a scan says.
        with suppress(DatabaseUnavailable, DatabaseFault, OSError, ShareHeld, NameTaken):
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
            self.recovered = True

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
                faults=self.faults,
            )
        return self.row_applier

    @property
    def unkept_searches(self) -> Mapping[str, str]:
        """Return by table why its search index is not kept up, as far as anything was written to it here."""
        return self.row_applier.search.unkept if self.row_applier is not None else {}

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
        self.guard.accept(lambda number: self.approval.begin(number, catch_up=catch_up))
        self.carry_out_approval(catch_up=catch_up)

    def carry_out_approval(self, *, catch_up: bool) -> None:
        """Have every row looked at. What is here counts, but whoever wrote that had not seen what it replaces."""
        self.full, self.catching_up, self.approval.counts = True, catch_up, not catch_up

    def take_up_approval(self) -> None:
        """Go on with what a person decided, if the last process ended before that was carried out."""
        if self.approval.left is not None and not self.guard.looked:
            with self.access.reading():  # which judges it
                pass
        catch_up = self.approval.take_up(self.guard.first)
        if catch_up is not None:
            self.carry_out_approval(catch_up=catch_up)

    @property
    def due(self) -> bool:
        """Return whether a look at every row is over, or what a person decided is carried out."""
        return self.compared is not None or self.approval.done

    def keep(self) -> None:
        """Keep in mind what a look at every row leaves to be kept, and forget what was decided."""
        if self.compared is not None:
            self.keep_compared(self.compared)
        self.approval.forget()

    def keep_compared(self, compared: Notes) -> None:
        """Keep in mind a look at every row."""
        compared.save(self.store)
        if self.store.setting(DOUBT):
            self.store.set_setting(DOUBT, b"")
        self.compared = None

    # Looking

    def scan(self, dirty: Dirty) -> Iterator[Finding]:
        """Compare the hinted rows with what the store lists; all rows where hints may have been lost."""
        self.recover()  # if an app had the file locked before
        self.take_up_approval()
        self.since.begin()
        if self.copy is not None:
            if not Notes.load(self.catalogue).baselined:
                yield from self.look_at_copy(self.copy, self.prepare())
                return
            self.forget_copy()
        if self.catching_up:
            self.forget_hints()
        full = False
        try:
            with self.looking() as (connection, schema):
                self.since.known_to = self.catalogue.arrival()
                notes = Notes.load(self.catalogue)
                full = (
                    self.full or self.guard.doubtful or notes.version != schema.version or not notes.baselined
                )
                self.older |= self.guard.doubtful
                self.full = self.guard.doubtful = False
                look = Look(
                    hints=self.hints(connection, schema, dirty.keys),
                    compare=frozenset(schema.tables) if full else (),
                    known=notes.tables,
                    baseline=not notes.baselined,
                    catch_up=self.catching_up,
                    older=self.older,
                    approved=self.approval.counts,
                    told=self.seen,
                    counters=self.counters,
                    keyless=self.keyless,
                )
                scanner = self.scanner(OneMoment(connection), schema)
                found: Iterator[Finding] = scanner.look(look)
                in_steps = locks_apps_out(connection)
                if not in_steps:
                    yield from self.passed_on(found, full=full)
                elif not full or self.catching_up:
                    # It is over before anybody else takes what was found.
                    found, in_steps = iter(list(found)), False
            if in_steps:
                scanner = yield from self.look_in_steps(schema, look, dirty.keys)
            else:
                yield from self.passed_on(found, full=full)
        except SchemaChanged:
            self.full = self.again = True
            return
        except BaseException:
            self.full |= full
            raise
        self.conclude(scanner, notes.after(schema) if full else None, at_once=bool(dirty.keys))

    def look_in_steps(
        self, schema: Schema, look: Look, asked: Collection[bytes]
    ) -> Generator[Finding, None, Scanner]:
        """Compare every row in short transactions, then look at what an app has touched before or meanwhile; return who looked.

        Raises:
            SchemaChanged: The app has changed its tables.
        """
        steps = Steps(self.access.reading, schema, leave_touched=not look.baseline)
        walker = self.scanner(steps, schema)
        yield from self.passed_on(walker.look(replace(look, hints=())), full=True)
        if look.baseline:
            walker.unsettled = True  # whatever was touched meanwhile is for the next look
            return walker
        with steps.open() as rows:
            hints = self.hints(rows.connection, schema, asked)
            # What was found before it was touched may not be recorded yet.
            hints = [hint for hint in hints if (hint.table, hint.pk) not in walker.found]
            scanner = self.scanner(OneMoment(rows.connection), schema)
            found = list(
                scanner.look_at_rows(replace(look, compare=(), hints=hints, told={}, served=look.told))
            )
        yield from self.passed_on(found, full=True)
        scanner.keyless |= walker.keyless
        scanner.unsettled |= bool(walker.found)
        return scanner

    def passed_on(self, found: Iterable[Finding], *, full: bool) -> Iterator[Finding]:
        """Yield what was found, but for what was applied since the look began."""
        durable = False
        for finding in found:
            key = finding.draft.key if isinstance(finding, Observation) else finding.key
            if key in self.since.applied:
                self.full |= full  # the file was read before that, the store after
                continue
            if not durable:
                # No peer is to know of what a power cut could still undo here.
                self.access.make_durable()
                durable = True
            if isinstance(finding, Unapplied):
                self.last.pop(key, None)  # what was put in place is not what is there now
            yield finding

    def conclude(self, scanner: Scanner, after: Notes | None, *, at_once: bool) -> None:
        """Take note of what a look has found; `after`: what is to be kept in mind of one at every row."""
        self.seen, self.keyless = scanner.told, scanner.keyless
        if self.row_applier is not None:
            self.row_applier.renamed |= scanner.renamed
        if scanner.surplus:
            self.discard(scanner.surplus, scanner.schema)
        if after is not None and not self.full:
            self.compared, self.catching_up, self.older = after, False, False
            self.approval.done, self.approval.counts = True, False
        self.again = scanner.unsettled
        self.drop([hint for hint in scanner.agreed if hint.n != ASKED], at_once=at_once)

    def scanner(self, moments: Moments, schema: Schema) -> Scanner:
        """Return who looks."""
        now_ms = self.clock.now_us() // 1000
        return Scanner(moments, self.catalogue, schema, self.catalogue.actor(), now_ms, faults=self.faults)

    def hints(self, connection: apsw.Connection, schema: Schema, asked: Collection[bytes]) -> list[Hint]:
        """Return what is hinted at, and what somebody asks for."""
        hints = [] if self.looks_only else read_hints(connection, schema)
        if hints != self.hinted:
            self.hinted, self.touched_s = list(hints), self.clock.monotonic_s()
        touched = {(hint.table, hint.pk) for hint in hints}
        return hints + [one for one in self.asked(asked, schema) if (one.table, one.pk) not in touched]

    def forget_hints(self) -> None:
        """Drop all hints: they are as old as the rows."""
        schema = self.prepare()
        with self.access.writing(quiet=True) as connection:
            drop_hints(connection, read_hints(connection, schema))

    def discard(self, surplus: Sequence[tuple[Table, Place]], schema: Schema) -> None:
        """Delete rows of an older state of the file, unless the app has touched them since."""
        with self.access.writing(quiet=True) as connection:
            if schema_version(connection) != schema.version:
                self.full = True
                return
            hinted = {(hint.table, hint.pk) for hint in read_hints(connection, schema)}
            rows = Rows(connection)
            for table, place in surplus:
                if (table.name, place) not in hinted:
                    rows.delete(table, [place])

    def look_at_copy(self, path: Path, schema: Schema) -> Iterator[Finding]:
        """Record what came with a copy: from the copy, so that no app waits, and what one writes meanwhile is its own."""
        with closing(connect(path, 1)) as connection:
            came = read_schema(connection, without=self.without)
            scanner = Scanner(
                OneMoment(connection), self.catalogue, came, self.catalogue.actor(), 0, faults=self.faults
            )
            yield from scanner.look(Look(compare=frozenset(came.tables), baseline=True))
        notes = Notes.load(self.catalogue)
        same = came.objects == schema.objects
        self.compared = notes.after(schema) if same else replace(notes.after(came), version=-1)
        self.full, self.again = False, True

    def asked(self, keys: Collection[bytes], schema: Schema) -> list[Hint]:
        """Return hints about rows that somebody wants looked at, whether the app touched them or not."""
        hints = []
        places = Places.load(self.catalogue)
        for key, stored in self.catalogue.get_many(list(keys)).items():
            table = schema.tables.get(unpack_key(key).table)
            if table is None or not is_sound(stored.item):
                continue
            place = place_of(places, table, key, state_of(stored.item).cells)
            if place is not None:
                hints.append(Hint(table.name, place, self.clock.now_us() // 1000, ASKED))
        return hints

    def prepare(self) -> Schema:
        """Return the schema as it is now, and see to it that every table has its hints."""
        if self.awaiting:
            raise DatabaseBusy(f"a copy of {self.access.path.name} is on its way")
        with self.access.reading() as connection:
            if self.schema is not None and is_current(self.schema, connection):
                if self.row_applier is not None:
                    self.row_applier.adopt(self.schema)
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
        self.keyless = may_be_keyless(schema)
        if self.row_applier is not None:
            self.row_applier.adopt(schema)
        return schema

    @contextmanager
    def looking(self) -> Iterator[tuple[apsw.Connection, Schema]]:
        """Give one moment of the file, and the schema at that moment.

        With another one SQLite would read a column that is gone as a text: its own name, for that is in quotes.
        """
        if self.awaiting:
            raise DatabaseBusy(f"a copy of {self.access.path.name} is on its way")
        for _ in range(SCHEMAS_MAX):
            with self.access.reading() as connection:
                schema = self.schema
                if schema is not None and is_current(schema, connection):
                    if self.row_applier is not None:
                        self.row_applier.adopt(schema)
                    yield connection, schema
                    return
            self.prepare()
        raise DatabaseBusy(f"an app is changing the tables of {self.access.path}")

    def current_schema(self) -> Schema:
        """Return the schema as it was last read."""
        return self.schema if self.schema is not None else self.prepare()

    def drop(self, agreed: Sequence[Hint], *, at_once: bool) -> None:
        """Take hints out that have served; at once where something that came waits for that."""
        if not agreed or self.looks_only:
            return
        rests = self.clock.monotonic_s() - self.touched_s >= RESTS_S
        if not at_once and not rests and len(agreed) < DROP_HINTS_MIN:
            self.again = True
            return
        taken = {(hint.table, hint.pk) for hint in agreed}
        try:
            with self.access.writing(quiet=True) as connection:
                drop_hints(connection, agreed)
        except (DatabaseUnavailable, DatabaseFault):
            self.again = True  # they harm nobody
        else:
            # The next ones count from one again.
            self.seen = {place: told for place, told in self.seen.items() if place not in taken}

    def confirm(self, observations: Sequence[Observation]) -> list[Observation]:
        """Return all but new rows that another scan has recorded by now: SQLite shows no passing states."""
        known: set[bytes] = set()
        if not self.since.is_alone(self.store.arrival()):
            known = known_by_now(self.store, Places.load(self.store), observations)
        kept = [one for one in observations if one.draft.key not in known]
        if len(kept) < len(observations):
            self.again, self.full = True, self.full or self.compared is not None
            self.compared, self.approval.done = None, False
        elif self.compared is not None:
            self.keep_compared(self.compared)
        self.guard.save(self.store)
        return kept

    def take_busy(self) -> Dirty:
        """Return where hints are left."""
        again, self.again = self.again, False
        return EVERYTHING if again else NOTHING

    def told(self) -> Dirty:
        """Return nothing: whoever wants to be sure scans, which costs little here."""
        return NOTHING

    def verify(self) -> Iterator[ItemError]:
        """Read every row again and yield what is not as recorded."""
        notes = Notes.load(self.catalogue)
        try:
            for finding in self.compared_rows(notes):
                match finding:
                    case ItemError():
                        yield finding
                    case Observation(draft=made):
                        yield ItemError(key=made.key, reason="the row is not as recorded")
                    case Unapplied(key=key):
                        yield ItemError(key=key, reason="the row is not in place")
        except SchemaChanged:
            raise DatabaseBusy(f"an app has changed the tables of {self.access.path}") from None

    def compared_rows(self, notes: Notes) -> Iterator[Finding]:
        """Compare every row with what is recorded, but for those that an app has just touched."""
        with self.looking() as (connection, schema):
            look = Look(compare=frozenset(schema.tables), known=notes.tables)
            if not locks_apps_out(connection):
                yield from self.scanner(OneMoment(connection), schema).look(look)
                return
        steps = Steps(self.access.reading, schema, leave_touched=True)
        yield from self.scanner(steps, schema).look(look)

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

    def mend(self, changed: Collection[bytes]) -> list[Draft]:
        """Return what becomes of rows whose parents are deleted, and of those that are there twice."""
        if self.looks_only:
            return []
        self.unmended.update(changed)
        try:
            with self.looking() as (connection, schema):
                mender = Mender(schema, self.store, self.applier.places, connection)
                drafts, failed = mender.mend_all_but_faults(self.unmended, self.faults)
            mended = {made.key for made in drafts}
            twins = take_back_twins(self.store, schema, self.unmended)
            drafts += [made for made in twins if made.key not in mended]
        except DatabaseUnavailable:
            # The next call looks after them, be it another process's.
            self.store.set_setting(UNMENDED, cbor2.dumps(sorted(self.unmended)))
            return []
        if (self.store.setting(UNMENDED) or NO_KEYS) != NO_KEYS:
            self.store.set_setting(UNMENDED, NO_KEYS)
        for key in self.unmended:
            self.unmendable.pop(key, None)
        self.unmendable.update(failed)
        self.unmended.clear()
        return drafts

    @property
    def columns_ahead(self) -> Collection[tuple[str, str]]:
        """Return the tables and columns in which values wait for a newer schema here."""
        return self.row_applier.columns_ahead() if self.row_applier is not None else ()

    @property
    def unsettled(self) -> Collection[bytes]:
        """Return the rows that are to be shown anew, and are not yet."""
        return self.row_applier.places.unsettled if self.row_applier is not None else ()

    def unsettle(self, changed: Collection[bytes]) -> None:
        """Note what the local changes have consequences for that were just recorded: a row that was held for one that is gone now."""
        self.since.recorded(self.store.arrival())
        if not self.looks_only:
            self.applier.unsettle(changed)

    def noted(self, outcomes: Sequence[Outcome]) -> None:
        """Note what is in the file and in the store.

        A look that began in between has it in the file, and nowhere else: it would pass for an app's.
        """
        self.since.applied.update(outcome.key for outcome in outcomes)

    def reshow(self) -> list[Outcome]:
        """Show anew what is noted."""
        outcomes = [] if self.looks_only else self.applier.reshow()
        self.since.applied.update(outcome.key for outcome in outcomes)
        return outcomes

    # Applying

    def apply(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Put rows in place, in one transaction of the app's file."""
        dots = {pending.item.key: pending.item.dot for pending in batch}
        self.since.applied.update(dots)
        # In place, and the store could not take note of it (its disk was full, say).
        known = {key for key in self.last.keys() & dots.keys() if self.last[key][0] == dots[key]}
        done: list[Outcome] = [Applied(key=key, state=self.last[key][1]) for key in known]
        if known:
            batch = [pending for pending in batch if pending.item.key not in known]
        began_s = self.clock.monotonic_s()
        outcomes = self.applier.apply(batch)
        self.owe(began_s)
        # Once more: a scan that began meanwhile has the file as it was, and forgot what was applied before it.
        self.since.applied.update(dots)
        self.since.applied.update(outcome.key for outcome in outcomes if isinstance(outcome, Restated))
        self.last = {one.key: (dots[one.key], one.state) for one in outcomes if isinstance(one, Applied)}
        self.guard.save(self.store)
        return [*done, *outcomes]

    def owe(self, began_s: float) -> None:
        """Take note of how long an app that is at work was locked out."""
        now_s = self.clock.monotonic_s()
        if now_s - self.touched_s < RESTS_S:
            owed_s = max(self.owed_until_s, now_s) + OWED * (now_s - began_s)
            self.owed_until_s = min(owed_s, now_s + CREDIT_S + REST_S_MAX)

    @property
    def rest_s(self) -> float:
        """Return how long an app that is at work is to be left alone."""
        return max(0.0, self.owed_until_s - CREDIT_S - self.clock.monotonic_s())

    # Which opening of the state it was

    def witness(self) -> bytes | None:
        """Return the nonce of the watermark."""
        with (
            suppress(DatabaseUnavailable, DatabaseFault, OSError, ShareHeld),
            self.access.reading() as connection,
        ):
            mark = read_mark(connection)
            return mark.nonce or None if mark is not None and mark.device == self.device else None
        return None

    def put_witness(self, witness: bytes) -> None:
        """Put the nonce into the watermark; where an app has the file locked, the next opening has a doubt more."""
        if self.looks_only:
            return
        if self.guard.doubtful:
            # What is written now makes the file pass for this state's, and the comparison may be long in coming.
            self.store.set_setting(DOUBT, b"1")
        with suppress(DatabaseUnavailable, DatabaseFault, OSError, ShareHeld):
            with self.access.writing(quiet=True) as connection:
                mark = read_mark(connection)
                if mark is not None:
                    write_mark(connection, mark.number, witness)
            self.guard.save(self.store)

    # Leaving

    def uninstall(self) -> None:
        """Take everything of ours out of the file, whichever it is by now; its schema is then what it was before.

        Raises:
            DatabaseBusy: The app keeps it locked.
        """
        if self.access.look() is None:
            return
        # What is ours is known by its names and its comment: that may go from any file, and nobody else would take it out.
        self.access.keeper = self.access.identity = None
        with self.access.writing(quiet=True) as connection:
            uninstall(connection)
        self.schema = None
