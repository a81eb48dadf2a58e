"""Putting versions of rows into the app's file, one transaction for a batch.

The app never sees a part of a batch, and this device never takes its own writing for the app's. Triggers do not run
meanwhile, but for those that only keep a search index. Before the transaction commits, what it does is noted in the store
(the *intent*), under a number that is written into the file as well (the *watermark*). After a kill the number in the
file says whether the transaction was committed, and its outcomes are taken without touching the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress

import apsw
import cbor2

from p2psyncd.core.storage import Pending
from p2psyncd.errors import DatabaseFault
from p2psyncd.sources.database.bulk import insert_all, without_a_plan
from p2psyncd.sources.database.culprits import find_culprits
from p2psyncd.sources.database.edits import Edits
from p2psyncd.sources.database.file import DatabaseAccess
from p2psyncd.sources.database.hints import (
    following_apply,
    read_hints,
    read_mark,
    write_mark,
)
from p2psyncd.sources.database.intent import Change, Step, packed_step, unpacked_step
from p2psyncd.sources.database.keys import SCHEMA_TABLE, unpack_key
from p2psyncd.sources.database.making import ObjectMaker
from p2psyncd.sources.database.notes import Notes
from p2psyncd.sources.database.plan import Planner
from p2psyncd.sources.database.prepare import Prepared, prepare, prepare_plain
from p2psyncd.sources.database.resolve import AHEAD_MAX, WHOLE_TABLE, Constraints, Row, parent_of
from p2psyncd.sources.database.retrying import Retries
from p2psyncd.sources.database.row import is_sound, state_of
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import Schema, schema_version
from p2psyncd.sources.database.search import SearchIndexes
from p2psyncd.sources.database.show import (
    HELD,
    Places,
    Settings,
    View,
    as_value,
    canonical_place,
    natural,
    place_of,
)
from p2psyncd.sources.database.values import row_hash
from p2psyncd.sources.database.writing import BREACHES, Broken, Writer
from p2psyncd.sources.faults import ROW_FAULTS, Faults
from p2psyncd.sources.source import Applied, Failed, Outcome, Restated, Surprised

__all__ = ["RowApplier"]

INTENT = "database-step"
DURABLE = "database-step-durable"
OBJECTS = SCHEMA_TABLE.encode() + b"/"
WHOLE_MAX = 20_000
"""A batch of so many rows is one transaction."""
PIECE = 2_000
"""A larger one is done in pieces: an app that waits for its lock does so for a tenth of a second at most."""
REPLANS_MAX = 8
AHEAD = "database-columns-ahead"
HAD_MAX = 1000
NO_COLUMNS = cbor2.dumps([[], []])

FAULTS = (DatabaseFault, *ROW_FAULTS)


class Attempted(Exception):
    """A transaction would have come to its end."""


class RowApplier:
    """Applies rows to one database."""

    def __init__(
        self,
        access: DatabaseAccess,
        store: Settings,
        schema: Schema,
        *,
        propagate: bool = False,
        without: Collection[str] = (),
        faults: Faults | None = None,
    ) -> None:
        """Begin.

        Args:
            access: The app's file.
            store: The share's storage; settings are written durably.
            schema: As it was when the hints were installed; see `adopt`.
            propagate: Whether tables and columns that peers add are made here.
            without: Tables that are left out.
            faults: Who tells of errors that nobody foresaw.
        """
        self.faults = faults or Faults()
        self.access = access
        self.store = store
        self.places = Places.load(store)
        self.retries = Retries()
        self.renamed: set[bytes] = set()
        """Rows that were shown elsewhere than their keys say, and that an app has put where they do: to be shown anew."""
        self.forget_lost()
        self.noted: int | None = None
        """The number of an intent that is not durable yet."""
        ahead, had = cbor2.loads(store.setting(AHEAD) or NO_COLUMNS)
        self.ahead = {(table, name) for table, name in ahead}
        """Columns of versions that came which the tables here have not, or had not then."""
        noted = Notes.load(store).tables
        self.had = {(table, name) for table, name in had} | {(t, name) for t in noted for name in noted[t]}
        """Columns that the tables have, or had."""
        self.noted_columns = (sorted(self.ahead), sorted((table, name) for table, name in had))
        self.constraints = self.adopted = Constraints(schema)
        """Of the schema in use, and of the one to use from the next call on."""
        self.search = SearchIndexes(schema)
        self.maker = ObjectMaker(access, store, propagate=propagate, without=without, faults=self.faults)

    def adopt(self, schema: Schema) -> None:
        """Use another schema from the next call on, once hints are installed for it.

        A look may find one while something is being applied.
        """
        if schema is not self.adopted.schema:
            self.had |= columns_of(self.adopted.schema)
            self.adopted = Constraints(schema)
            self.retries.all = True

    def forget_lost(self) -> None:
        """Forget how rows were shown that the store has lost: what is in their places would pass for them, and never be captured."""
        noted = {*self.places.moved, *self.places.held, *self.places.unsettled}
        lost = noted - self.store.get_many(sorted(noted)).keys() if noted else noted
        if lost:
            self.places.update(dict.fromkeys(lost))
            self.places.unsettled -= lost
            self.places.save(self.store)

    @property
    def schema(self) -> Schema:
        """The schema in use."""
        return self.constraints.schema

    # What the source calls

    def apply(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Put versions in place; see `Source.apply`.

        Raises:
            DatabaseUnavailable: The app keeps the file locked, or it cannot be used; nothing was done.
            ShareHeld: It is another file.
        """
        self.constraints = self.adopted
        objects = [pending for pending in batch if pending.item.key.startswith(OBJECTS)]
        if objects:
            batch = [pending for pending in batch if not pending.item.key.startswith(OBJECTS)]
        outcomes: list[Outcome] = []
        if objects:
            outcomes, schema = self.maker.make(objects, self.schema)
            self.adopt(schema)
            self.constraints = self.adopted
        self.unsettle(())
        rows: list[Prepared] = []
        others = batch
        with suppress(*ROW_FAULTS):  # one by one it will be found which
            rows, others = prepare_plain(batch, self.constraints)
        for pending in others:
            prepared: Prepared | Outcome
            try:
                prepared = prepare(pending, self.constraints)
            except ROW_FAULTS as error:
                prepared = Failed(key=pending.item.key, reason=self.faults.reason("a row", error))
            if isinstance(prepared, Prepared):
                rows.append(prepared)
            else:
                outcomes.append(prepared)
        self.note_ahead()
        size = len(rows) if len(rows) <= WHOLE_MAX else PIECE
        for at in range(0, len(rows), size or 1):
            outcomes += self.piece(rows[at : at + size])
        return outcomes

    def note_ahead(self) -> None:
        """Remember which columns came that are not here, and which were here once."""
        self.ahead |= self.constraints.ahead
        now = (sorted(self.ahead)[:AHEAD_MAX], sorted(self.had - columns_of(self.schema))[:HAD_MAX])
        if now != self.noted_columns:
            self.noted_columns = now
            self.store.set_setting(AHEAD, cbor2.dumps(now))

    def columns_ahead(self) -> list[tuple[str, str]]:
        """Return the tables and columns in which values wait for another schema; what was dropped here waits for nothing."""
        here = columns_of(self.schema)
        tables = {table for table, _ in here}
        had = {table for table, _ in self.had}
        return [
            one
            for one in self.noted_columns[0]
            if (one[0] in tables and one[1] != WHOLE_TABLE and one not in here | self.had)
            or (one[1] == WHOLE_TABLE and one[0] not in had and self.constraints.lacks(one[0]))
        ]

    def unsettle(self, keys: Collection[bytes]) -> None:
        """Note that local changes of some rows may have consequences: for rows that were held for them, say.

        Cheap where no row is anything but what its key says.
        """
        renamed, self.renamed = self.renamed, set()
        self.places.update(dict.fromkeys(renamed))
        touched = {key for key in keys if self.may_matter(key)} if self.places else set()
        if self.places.moved or self.places.held:
            touched |= set(self.refer_elsewhere(keys))
        if self.places.held:
            touched |= self.retries.due(self.places, {unpack_key(key).table for key in keys})
        touched |= self.retries.start(self.places) | renamed
        if not touched <= self.places.unsettled:
            self.places.unsettled = self.places.unsettled | touched
            self.places.save(self.store)

    def reshow(self) -> list[Outcome]:
        """Show anew what is noted, but for what an app has touched and nobody has looked at yet."""
        self.constraints = self.adopted
        return self.piece(()) if self.places.unsettled else []

    def recover(self) -> list[Outcome]:
        """Return the outcomes of a transaction that was committed, and of which the store does not know the end."""
        intent = self.read_intent()
        if intent is None:
            return []
        number, step = intent
        waiting = self.store.pending_of(list(step.dots))
        with self.access.reading() as connection:
            mark = read_mark(connection)
            if mark is None or mark.number != number:
                return []
            step.unsettled |= self.places.unsettled  # some may have been noted since
            self.finish(step)
            self.forget_lost()
            return [
                one
                for one in step.outcomes
                if (isinstance(one, Restated) and self.is_there(connection, one))
                # The store may have noted this end, and then have taken in a newer version.
                or (
                    isinstance(one, Applied)
                    and one.key in waiting
                    and waiting[one.key].item.dot == step.dots[one.key]
                )
            ]

    # Steps

    def may_matter(self, key: bytes) -> bool:
        """Return whether a row may have to do with one that is shown otherwise than its key says."""
        places = self.places
        if key in places.moved or key in places.held or key in places.stand_ins:
            return True
        at = unpack_key(key)
        return (at.table, natural(at)) in places.births or (at.table, natural(at)) in places.occupants

    def refer_elsewhere(self, keys: Collection[bytes]) -> Iterator[bytes]:
        """Yield the rows that refer to one which is not shown where its key says.

        An app that wrote the number of a row which is held for another one meant that, or nothing, and everybody else shows
        the number of the other one.
        """
        constraints, places = self.constraints, self.places
        referring = [key for key in keys if unpack_key(key).table in constraints.referring]
        for key, stored in self.store.get_many(referring).items():
            if stored.item.live and is_sound(stored.item):
                table, cells = unpack_key(key).table, state_of(stored.item).cells
                columns = [
                    (column, root) for (name, column), root in constraints.roots.items() if name == table
                ]
                parents = {parent_of(root, cells.get(column)) for column, root in columns}
                if not parents.isdisjoint(places.moved) or not parents.isdisjoint(places.held):
                    yield key

    def piece(self, batch: Sequence[Prepared]) -> list[Outcome]:
        """Do one transaction: put rows in place, and show anew what is noted.

        Rows on which it founders for a reason that nobody foresaw fail by themselves; the others are put in place.
        """
        try:
            step = self.transact(batch, sorted(self.places.unsettled))
        except FAULTS:
            step = self.transact_without_culprits(batch)
        self.finish(step)
        return step.outcomes

    def transact_without_culprits(self, batch: Sequence[Prepared]) -> Step:
        """Do a transaction that has failed without the rows that it failed on.

        Raises:
            P2psyncError: It is none of the batch.
        """
        noted = sorted(self.places.unsettled)
        units: list[Prepared | bytes] = [*batch, *noted]
        reasons = {
            unit.pending.item.key if isinstance(unit, Prepared) else unit: self.faults.reason("a row", error)
            for unit, error in find_culprits(units, self.attempt)
        }
        rest = [one for one in batch if one.pending.item.key not in reasons]
        try:
            step = self.transact(rest, [key for key in noted if key not in reasons])
        except FAULTS as error:
            if not rest:
                raise
            reason = self.faults.reason("a batch of rows", error)
            reasons.update((one.pending.item.key, reason) for one in rest)
            step = Step(unsettled=set(self.places.unsettled))
        keys = {one.pending.item.key for one in batch}
        step.outcomes += [Failed(key=key, reason=reason) for key, reason in reasons.items() if key in keys]
        step.unsettled |= {key for key in noted if key in reasons}
        return step

    def attempt(self, units: Sequence[Prepared | bytes]) -> Exception | None:
        """Return what a transaction with some rows, and some that are to be shown anew, fails by; nothing stays of it."""
        rows = [unit for unit in units if isinstance(unit, Prepared)]
        try:
            with suppress(Attempted):
                self.transact(rows, [unit for unit in units if isinstance(unit, bytes)], stays=False)
        except FAULTS as error:
            return error
        return None

    def transact(self, batch: Sequence[Prepared], noted: Sequence[bytes], *, stays: bool = True) -> Step:
        """Carry out one transaction, or, if nothing is to stay, raise Attempted at its end."""
        with self.access.writing(quiet=True, first=self.make_intent_durable) as connection:
            if schema_version(connection) != self.schema.version:
                # Rebuilt tables have lost their hints: a scan must look at them first.
                surprised: list[Outcome] = [Surprised(key=one.pending.item.key) for one in batch]
                return Step(outcomes=surprised, unsettled=set(self.places.unsettled))
            step = self.carry_out(connection, batch, noted)
            if not stays:
                raise Attempted
            if step.wrote:
                self.note_intent(connection, step)
        return step

    def carry_out(
        self, connection: apsw.Connection, batch: Sequence[Prepared], noted: Sequence[bytes]
    ) -> Step:
        """Plan and write; rows that break a constraint are found, and planned again without what breaks it."""
        edits = Edits(self.schema, read_hints(connection, self.schema))
        broken: dict[bytes, int] = {}
        plain = not self.places and not self.places.unsettled
        if self.search.schema is not self.schema:
            self.search = SearchIndexes(self.schema)
        with self.search.kept(connection):
            for _ in range(REPLANS_MAX):
                file = Rows(connection)
                simple, others = (
                    without_a_plan(batch, self.constraints, file, edits.tables) if plain else ([], batch)
                )
                planner = Planner(
                    self.constraints, self.places, View(self.store), file, edits=edits, broken=broken
                )
                planner.make(others, noted)
                writer = Writer(connection, planner)
                try:
                    with connection:  # a savepoint
                        writer.write()
                        insert_all(simple, file)
                except BREACHES:
                    plain = False  # they are written again one by one, like all others
                except Broken:
                    broken.update(writer.find_broken())
                    self.retries.alone |= writer.alone
                else:
                    return self.conclude(planner, writer, others, simple, broken.keys())
        return Step(
            outcomes=[
                Failed(key=one.pending.item.key, reason="it breaks constraints of the database")
                for one in batch
            ]
        )

    def conclude(
        self,
        planner: Planner,
        writer: Writer,
        batch: Sequence[Prepared],
        simple: Sequence[Prepared],
        broken: AbstractSet[bytes],
    ) -> Step:
        """Return what was done: by a plan, and without one; `broken`: what was not written because it breaks a constraint."""
        asked = {one.pending.item.key: one.pending.item.dot for one in batch}
        step = Step(dots=asked, wrote=writer.wrote or bool(simple), unsettled=set(self.places.unsettled))
        for key, row in planner.rows.items():
            if writer.is_stuck(row):
                if key in asked or row.troubled:
                    step.outcomes.append(Surprised(key=key))
                if key not in asked:
                    step.unsettled.add(key)
                continue
            step.unsettled.discard(key)
            state = writer.state(row)
            if key in asked:
                step.outcomes.append(Applied(key=key, state=state))
            elif row.before is not None and state != row.before.state:
                step.outcomes.append(Restated(key=key, state=state))
            change = self.change(row)
            if change != (self.places.moved.get(key) or self.places.held.get(key)):
                step.changes[key] = change
        # A migration gave their tables other keys: nothing is to be said of where they are.
        strange = step.unsettled - planner.rows.keys()
        step.changes.update(dict.fromkeys(strange & (self.places.moved.keys() | self.places.held.keys())))
        step.unsettled -= strange
        if self.places.held:
            step.unsettled |= self.retries.due(self.places, writer.freed) - planner.rows.keys()
        # What stood in the way of a row that broke a constraint may have gone in this very transaction.
        step.unsettled |= {
            key
            for key in broken - self.retries.alone
            if step.changes.get(key) == b"" and unpack_key(key).table in writer.freed
        }
        items = [one.pending.item for one in simple]
        step.dots.update({item.key: item.dot for item in items})
        step.outcomes += [
            Applied(key=item.key, state=one.hash or b"") for item, one in zip(items, simple, strict=True)
        ]
        return step

    def change(self, row: Row) -> Change:
        """Return what is to be remembered of a row; None if it is as its key says."""
        if row.item is None:
            return None
        if row.held:
            return row.winner
        assert row.goal_place is not None
        place = canonical_place(row.table, row.goal_place)
        named = natural(row.at) if row.at.pk else tuple(as_value(row.cells[c]) for c in row.table.pk)
        return None if place == named else place

    def finish(self, step: Step) -> None:
        """Remember how rows are shown now."""
        if step.changes or step.unsettled != self.places.unsettled:
            self.places.update(step.changes)
            self.places.unsettled = step.unsettled
            if not step.wrote:
                # What is noted of the last transaction that wrote must not be taken up again after this.
                self.store.set_setting(INTENT, b"")
            self.places.save(self.store)

    # The intent

    def note_intent(self, connection: apsw.Connection, step: Step) -> None:
        """Say in the store what the transaction does, and in the file which one it is."""
        mark = read_mark(connection)
        if mark is None:
            return
        number = following_apply(mark.number)
        self.store.set_setting(INTENT, cbor2.dumps([number, packed_step(step)]))
        self.noted = number
        write_mark(connection, number, mark.nonce)

    def make_intent_durable(self) -> None:
        """Wait until the intent is on the disk, right before what it tells of is.

        Else a power cut may leave the rows and no word of them: what the app then makes of the rows would pass for its
        edit of those before. Where that fails, only such a cut is to be feared.
        """
        noted, self.noted = self.noted, None
        if noted is not None:
            with suppress(OSError), self.store.transaction(durable=True):
                self.store.set_setting(DURABLE, b"%d" % noted)

    def read_intent(self) -> tuple[int, Step] | None:
        """Return the last intent."""
        packed = self.store.setting(INTENT)
        if not packed:
            return None
        number, step = cbor2.loads(packed)
        return number, unpacked_step(step)

    def is_there(self, connection: apsw.Connection, outcome: Restated) -> bool:
        """Return whether a row still is as an outcome says, or was so at the end that nobody has noted."""
        view = View(self.store)
        applied = view.applied(outcome.key)
        table = self.schema.tables.get(unpack_key(outcome.key).table)
        if applied is None or table is None:
            return False
        place = place_of(self.places, table, outcome.key, state_of(applied.item).cells)
        values = Rows(connection).read(table, place) if place is not None else None
        if outcome.state == HELD:
            return outcome.key in self.places.held
        if applied.state == HELD and outcome.key not in self.places.held:
            return True  # what an app has done to it since, its hints tell
        return values is not None and row_hash(values) == outcome.state


def columns_of(schema: Schema) -> set[tuple[str, str]]:
    """Return all tables with their columns."""
    return {(name, column.name) for name, table in schema.tables.items() for column in table.columns}
