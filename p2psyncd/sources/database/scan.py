"""Finding what apps have changed: hinted rows, or all of them, held against what the store lists.

A scan reads the store first and the file second, each as of one moment. What is applied in between is then in the
file and not in the states that were read: such a finding is dropped when it is to be recorded, because the store
says something else by then. The other way round, a remote row would pass for the app's own.

Rows are looked up twice: first all of them get their keys (rows that were just inserted their birth), then their
cells are made, in which a reference names the row that it means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.sources.database.defaults import UnknownDefault, default_of
from p2psyncd.sources.database.fitting import Fitting
from p2psyncd.sources.database.hints import Hint
from p2psyncd.sources.database.keyless import keyless_errors
from p2psyncd.sources.database.keys import new_birth, pack_key, unpack_key
from p2psyncd.sources.database.look import Finding, Look, Sighting, Told
from p2psyncd.sources.database.migration import Changes, changes_of, hashes_of
from p2psyncd.sources.database.moments import Moments, OneMoment
from p2psyncd.sources.database.newrows import NEW_ROWS_MIN, Births, new_sightings
from p2psyncd.sources.database.orphans import Orphans
from p2psyncd.sources.database.row import (
    UNENFORCED,
    baseline_draft,
    draft,
    inserted,
    is_sound,
    migrated,
    pack_plain,
    removed,
    revived,
    state_of,
)
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import UTF_8, Schema, Table, parents_first
from p2psyncd.sources.database.schemalook import as_draft, look_at_schema
from p2psyncd.sources.database.show import HELD, Catalogue, Identities, Place, Places, View, natural
from p2psyncd.sources.database.values import Cell, RawText, Ref, Value, column_hash, row_hash, same_cell
from p2psyncd.sources.faults import ROW_FAULTS, Faults
from p2psyncd.sources.source import ItemError, Observation, Unapplied
from p2psyncd.wire.records import ROW_BYTES_MAX

__all__ = ["Scanner"]

PAGE_ROWS = 500
# What was told so often is not recorded, for whatever reason: in a share that only receives, say, or as it is too large.
TOLD_MAX = 3
# A row's item must fit into a frame with its key and vector.
META_BYTES_MAX = ROW_BYTES_MAX - 64 * 1024


class Scanner:
    """One scan: reads one moment of the file, or several, after one moment of the store."""

    def __init__(
        self,
        moments: Moments,
        store: Catalogue,
        schema: Schema,
        actor: ActorId,
        now_ms: int,
        *,
        faults: Faults,
    ) -> None:
        self.faults = faults
        self.moments = moments
        self.store = store
        self.schema = schema
        self.actor = actor
        self.salt = int.from_bytes(actor[:4], "big")
        self.now_ms = now_ms
        self.places = Places.load(store)
        self.identities = Identities(schema, self.places, View(store))
        self.orphans = Orphans(schema, faults)
        self.births = Births(actor)
        self.born: dict[tuple[str, int], bytes] = {}
        """Births given in this scan, by table and number."""
        self.surplus: list[tuple[Table, Place]] = []
        """Rows that are to go, because the store knows of none there."""
        self.agreed: list[Hint] = []
        """Hints about rows that are as the store has them."""
        self.renamed: set[bytes] = set()
        """Rows that were shown elsewhere than their keys say, and that an app has put where they do."""
        self.keyless: set[str] = set()
        """Tables that have rows with NULL in their key."""
        self.unsettled = False
        """Whether hints are left that a later look will find settled."""
        self.failed: list[ItemError] = []
        """Hinted rows that could not be looked at, by their tables."""
        self.told: dict[tuple[str, Place], Told] = {}
        """What the hinted rows are that differ."""
        self.found: set[tuple[str, Place]] = set()
        """The rows that differ, of whole tables that are read in steps."""
        self.defaults: dict[tuple[str, str], Value] = {}
        self.references = {
            name: [column.name for column in table.columns if (name, column.name) in self.identities.roots]
            for name, table in schema.tables.items()
        }
        """The columns that refer to rows whose number may be another one elsewhere."""

    def look(self, look: Look) -> Iterator[Finding]:
        """Yield what differs."""
        yield from look_at_schema(self.store, self.schema, baseline=look.baseline)
        yield from self.look_at_rows(look)

    def look_at_rows(self, look: Look) -> Iterator[Finding]:
        """Yield which rows differ."""
        look = replace(look, hints=self.not_yet_recorded(look))
        hinted: dict[tuple[str, Place], Hint] = {}
        for hint in look.hints:
            # A row that is asked for may be hinted at, too, and has one birth: when it was touched.
            table = self.schema.tables.get(hint.table)
            if table is None:
                continue
            if table.key_may_be_null and None in hint.pk:
                self.keyless.add(table.name)
                self.agreed.append(hint)
                continue
            hinted.setdefault((hint.table, hint.pk), hint)
        single = [hint for hint in hinted.values() if hint.table not in look.compare]
        # What refers to rows must wait until all of them were looked at, and those that are new have births. Other rows
        # are on their way while the next ones are looked at.
        in_pages = not look.compare and not any(self.references[hint.table] for hint in single)
        size = PAGE_ROWS if in_pages else max(len(single), 1)
        for at in range(0, max(len(single), 1), size):
            sightings = self.sightings(single[at : at + size], look)
            yield from self.failed
            self.failed.clear()
            if look.compare:
                agreed = len(self.agreed)
                yield from self.compare(look, hinted)
                self.unsettled |= len(hinted) - len(single) > len(self.agreed) - agreed
            for start in range(0, len(sightings), PAGE_ROWS):
                yield from self.findings(sightings[start : start + PAGE_ROWS], look)
        yield from self.look_for_keyless({*look.keyless, *look.compare, *self.keyless})

    def look_for_keyless(self, tables: Collection[str]) -> Iterator[ItemError]:
        """Yield which tables have rows with NULL in their key."""
        self.keyless.clear()
        if not tables:
            return
        with self.moments.open() as rows:
            found = list(keyless_errors(rows.connection, self.schema, tables))
        self.keyless.update(name for name, _ in found)
        yield from (error for _, error in found)

    def not_yet_recorded(self, look: Look) -> list[Hint]:
        """Return the hints about rows that are to be looked at: what was told of the others is recorded by now."""
        recorded = self.recorded(look.hints, look.told)
        for hint, known in recorded.items():
            self.agree(hint, known.key, known.state)
        return [hint for hint in look.hints if hint not in recorded]

    def recorded(self, hints: Iterable[Hint], told: Mapping[tuple[str, Place], Told]) -> Mapping[Hint, Told]:
        """Return the hints that tell nothing new, with what was told of them before."""
        same = {
            hint: known
            for hint in hints
            if (known := told.get((hint.table, hint.pk))) is not None and known[:2] == (hint.ms, hint.n)
        }
        states = self.store.states([known.key for known in same.values()]) if same else {}
        return {hint: known for hint, known in same.items() if states.get(known.key) == known.state}

    def agree(self, hint: Hint, key: bytes, state: bytes) -> None:
        """Note that a hinted row is as the store has it: while its hint is the same, no app has written it since."""
        self.agreed.append(hint)
        if hint.n > 0:
            self.told[hint.table, hint.pk] = Told(hint.ms, hint.n, key, state)

    def prefetch(self, hints: Iterable[Hint]) -> None:
        """Look up at once which items some hinted rows are."""
        places: dict[str, list[Place]] = {}
        for hint in hints:
            places.setdefault(hint.table, []).append(hint.pk)
        for name, found in places.items():
            self.identities.prefetch(self.schema.tables[name], found)

    # Hinted rows

    def sightings(self, hints: Sequence[Hint], look: Look) -> list[Sighting]:
        """Look at hinted rows, and return those that differ."""
        differing: list[Sighting] = []
        if not hints:
            return differing
        self.prefetch(hints)
        tables = {name: self.schema.tables[name] for name in {hint.table for hint in hints}}
        others = {name for name, table in tables.items() if self.has_other_columns(table, look)}
        served = self.recorded(hints, look.served)
        with self.moments.open() as rows:
            new = self.new_rows(rows, tables, hints)
            for hint in hints:
                try:
                    found = new.get((hint.table, hint.pk)) or self.sight(
                        rows, tables[hint.table], hint.pk, hint.ms
                    )
                except ROW_FAULTS as error:
                    reason = self.faults.reason(f"looking at a row of {hint.table}", error)
                    self.failed.append(ItemError(key=hint.table.encode(), reason=reason))
                    continue
                if found is None:
                    self.agreed.append(hint)
                elif found.listed == found.state and hint.table not in others:
                    self.agree(hint, found.key, found.state)
                else:
                    # One that is only asked for was touched by nobody.
                    touched = hint.n > 0 and hint not in served
                    differing.append(found if touched else found._replace(touched=False))
                    self.tell(hint, found, look.told.get((hint.table, hint.pk)))
        return differing

    def new_rows(
        self, rows: Rows, tables: Mapping[str, Table], hints: Sequence[Hint]
    ) -> dict[tuple[str, Place], Sighting]:
        """Return the new rows among those that are hinted at, where they are many, by table and place."""
        touched: dict[str, dict[int, int]] = {}
        for hint in hints:
            number = hint.pk[0]
            # Looked up before: None stands for a number that no row has.
            if type(number) is int and self.identities.found.get((hint.table, number), hint) is None:
                touched.setdefault(hint.table, {})[number] = hint.ms
        found: dict[tuple[str, Place], Sighting] = {}
        for name, numbers in touched.items():
            if len(numbers) < NEW_ROWS_MIN or self.references[name] or self.places:
                continue
            with suppress(*ROW_FAULTS):  # one by one it will be found which
                for number, birth, sighting in new_sightings(rows, tables[name], numbers, self.births):
                    self.born[name, number] = birth
                    found[name, sighting.place] = sighting
        return found

    def tell(self, hint: Hint, found: Sighting, before: Told | None) -> None:
        """Note what a hinted row turned out to be; one that is never recorded is nothing to come back for at once."""
        told = Told(hint.ms, hint.n, found.key, found.state)
        if before is not None and told == before._replace(times=1):
            told = before._replace(times=before.times + 1)
        self.told[hint.table, hint.pk] = told
        self.unsettled |= told.times < TOLD_MAX

    def sight(self, rows: Rows, table: Table, place: Place, ms: int) -> Sighting | None:
        """Look at one place; None if nothing is there and nothing was."""
        values = rows.read(table, place)
        if values is not None:
            # A key that is equal under its collation: the row's own spelling counts.
            place = tuple(values[column] for column in table.pk)
        state = row_hash(values) if values is not None else b""
        key = self.identities.at(table, place)
        if key is None:
            if values is None:
                return None
            key = self.new_key(table, place, ms)
            # One that was given this moment is nobody's yet.
            listed = b"" if (table.name, place[0]) in self.born else self.listed(key)
            return Sighting(table, place, values, state, key, listed, ms)
        if values is None and (elsewhere := self.by_name(rows, table, key, place)) is not None:
            place, values = elsewhere
            state = row_hash(values)
        found = self.identities.found.get((table.name, place[0])) if type(place[0]) is int else None
        listed = found.state if found is not None and found.key == key else self.listed(key)
        return Sighting(table, place, values, state, key, listed, ms)

    def by_name(
        self, rows: Rows, table: Table, key: bytes, place: Place
    ) -> tuple[Place, dict[str, Value]] | None:
        """Return where a row that is gone from its place is all the same, and its values; None if it is nowhere.

        A reference to a row that is held is shown as one to another row. An app that does not enforce references may write the
        number that the row itself has: that changes the place of what refers to it, and is no delete.
        """
        if all((table.name, column) not in self.identities.roots for column in table.pk):
            return None
        there = natural(unpack_key(key))
        values = rows.read(table, there) if len(there) == len(place) and there != place else None
        if values is None:
            return None
        there = tuple(values[column] for column in table.pk)
        found = self.identities.at(table, there) or self.new_key(table, there, None)
        if found != key:
            return None
        self.renamed.add(key)
        return there, values

    def listed(self, key: bytes) -> bytes:
        """Return the state that the store lists for a key."""
        stored = self.identities.view.applied(key)
        return stored.state if stored is not None else b""

    def new_key(self, table: Table, place: Place, ms: int | None) -> bytes:
        """Return the key of a row that the store knows nothing of; without a birth if `ms` is None."""
        if table.name in self.identities.births and isinstance(place[0], int):
            if ms is None:
                return pack_key(table.name, place)
            birth = new_birth(ms, self.actor)
            self.born[table.name, place[0]] = birth
            return pack_key(table.name, place, birth)
        cells = tuple(self.cell(table, column, value) for column, value in zip(table.pk, place, strict=True))
        by_name = {column.name: column.collation for column in table.columns}
        return pack_key(table.name, cells, collations=tuple(by_name[column] for column in table.pk))

    def cell(self, table: Table, column: str, value: Value) -> Cell:
        """Return a value as an item has it: a reference names the row that it means."""
        parent = self.identities.roots.get((table.name, column))
        if parent is None or type(value) is not int:
            return value
        birth = self.born.get((parent, value))
        if birth is not None:
            return Ref(value, birth)
        meant = self.identities.reference(table, column, value)
        if meant is not None:
            return meant
        key = self.identities.at(self.schema.tables[parent], (value,))
        if key is None:
            return value
        at = unpack_key(key)
        number = at.pk[0] if at.pk else None
        if at.birth and isinstance(number, int):
            return Ref(number, at.birth)
        # Shown elsewhere than its key says: the key's number is what everybody means.
        return number if isinstance(number, int) else value

    # All rows

    def compare(self, look: Look, hinted: Mapping[tuple[str, Place], Hint]) -> Iterator[Finding]:
        """Yield what differs in whole tables, parents before their children."""
        for table in parents_first(self.schema, look.compare):
            yield from self.compare_table(table, look, hinted)
        fitting = Fitting(self.schema, self.identities.roots)
        for row in self.store.withheld():
            # What waited for a table, or for one with such a key.
            at = unpack_key(row.item.key)
            waits = row.item.key not in self.places.held
            if waits and at.table in look.compare and fitting.table_of(at) is not None:
                yield Unapplied(key=row.item.key)

    def compare_table(
        self, table: Table, look: Look, hinted: Mapping[tuple[str, Place], Hint]
    ) -> Iterator[Finding]:
        """Yield what differs in one table."""
        listed = self.listed_rows(table)
        births = table.name in self.identities.births
        first = table.name not in look.known
        # A column that was renamed may keep its place in the order of the names: the state would be the same.
        other_columns = self.has_other_columns(table, look)
        page: list[Sighting] = []
        for rows, elsewhere in self.moments.pages(table):
            for values in rows:
                place = tuple(values[column] for column in table.pk)
                if table.key_may_be_null and None in place:
                    continue
                hint = hinted.get((table.name, place))
                state = row_hash(values)
                numbered = births and type(place[0]) is int
                entry = listed.pop(place[0] if numbered else self.plain_key(table, place), None)
                if place in elsewhere:
                    continue
                if entry is None:
                    # What was written between the making of the hints and the first sight was there at that.
                    fresh = hint is not None and not look.baseline
                    ms = hint.ms if hint is not None and fresh else None if first else self.now_ms
                    key = self.new_key(table, place, ms)
                    page.append(
                        Sighting(
                            table, place, values, state, key, b"" if first else self.listed(key), ms or 0
                        )
                    )
                elif entry[1] != state or other_columns:
                    # One that is only asked for was touched by nobody.
                    touched = hint is not None and hint.n > 0
                    ms = hint.ms if hint is not None else 0
                    page.append(Sighting(table, place, values, state, *entry, ms, touched))
                elif hint is not None:
                    self.agree(hint, *entry)
                if len(page) >= PAGE_ROWS:
                    yield from self.findings(page, look)
                    page = []
        yield from self.findings(page, look)
        yield from self.gone(table, list(listed.values()), look, hinted)

    def gone(
        self,
        table: Table,
        listed: Sequence[tuple[bytes, bytes]],
        look: Look,
        hinted: Mapping[tuple[str, Place], Hint],
    ) -> Iterator[Finding]:
        """Yield what it means that rows which are listed are not in the file."""
        for at in range(0, len(listed), PAGE_ROWS):
            places = {
                key: self.places.moved.get(key) or natural(unpack_key(key))
                for key, _ in listed[at : at + PAGE_ROWS]
            }
            elsewhere = self.moments.touched(table, places.values())
            page = []
            for key, state in listed[at : at + PAGE_ROWS]:
                hint = hinted.get((table.name, places[key]))
                if places[key] not in elsewhere:
                    ms = hint.ms if hint is not None else 0
                    page.append(Sighting(table, places[key], None, b"", key, state, ms))
            yield from self.findings(page, look)

    def plain_key(self, table: Table, place: Place) -> bytes:
        """Return under which key a row is listed, if it is."""
        return self.identities.at(table, place) or self.new_key(table, place, None)

    def listed_rows(self, table: Table) -> dict[object, tuple[bytes, bytes]]:
        """Return (key, state) of a table's shown rows: by number if they may have births, else by key."""
        births = table.name in self.identities.births
        found: dict[object, tuple[bytes, bytes]] = {}
        prefix = pack_key(table.name, (0,)).partition(b"/")[0]
        for row in self.store.below(prefix):
            if row.state in {b"", HELD}:
                continue
            name: object = row.key
            if births:
                place = self.places.moved.get(row.key) or unpack_key(row.key).pk
                if len(place) == 1 and type(place[0]) is int:
                    name = place[0]
            found[name] = (row.key, row.state)
        return found

    # From rows to findings

    def findings(self, page: Sequence[Sighting], look: Look) -> Iterator[Finding]:
        """Yield what some sightings that differ from the store mean."""
        if not page:
            return
        keys = [sighting.key for sighting in page]
        known = self.store.get_many(keys)
        # What is pending is not in place.
        waiting = self.store.pending_of([key for key, stored in known.items() if not stored.state])
        bases = {key: waiting[key].base if key in waiting else known.get(key) for key in keys}
        orphaned = self.orphans.orphaned(self.moments, page, bases)
        # Of UTF-16 that is none nobody else would make the same.
        unreadable = self.schema.encoding != UTF_8
        if not isinstance(self.moments, OneMoment):
            self.found.update((one.table.name, one.place) for one in page)
        for one in page:
            pending, stored = waiting.get(one.key), known.get(one.key)
            finding: Finding | None
            if unreadable and one.values is not None and RawText in map(type, one.values.values()):
                yield ItemError(
                    key=one.key, reason="the row has a text that is no valid UTF-16: it does not travel"
                )
                continue
            try:
                finding = (
                    self.catch_up(one, stored)
                    if look.catch_up
                    else self.finding(one, pending, stored, look, orphaned=one.key in orphaned)
                )
            except ROW_FAULTS as error:
                what = f"capturing a row of {one.table.name}"
                finding = ItemError(key=one.key, reason=self.faults.reason(what, error))
            if isinstance(finding, Observation) and len(finding.draft.meta) > META_BYTES_MAX:
                size = len(finding.draft.meta) // 1024
                finding = ItemError(
                    key=one.key,
                    reason=f"the row holds {size} KiB; rows above {META_BYTES_MAX // 1024} KiB do not travel",
                )
            if finding is not None:
                yield finding

    def catch_up(self, one: Sighting, stored: Stored | None) -> Finding | None:
        """Return that a row is to be brought up to what the store knows, or note that it is to go."""
        if stored is not None and stored.item.live:
            return Unapplied(key=one.key, shown=one.state)
        if one.values is not None:
            self.surplus.append((one.table, one.place))
        return None

    def finding(
        self, one: Sighting, pending: Pending | None, stored: Stored | None, look: Look, *, orphaned: bool
    ) -> Finding | None:
        """Return what one sighting means."""
        base = pending.base if pending is not None else stored
        if one.values is None:
            if base is None or not base.item.live:
                return None
            gone = removed(base.item, UNENFORCED if orphaned else 0)
            return self.observation(one, draft(one.key, gone))
        if base is None or not base.item.live:
            if one.plain and stored is None and not (look.baseline or orphaned):
                return self.observation(one, Draft(key=one.key, kind=Kind.ROW, meta=pack_plain(one.values)))
            cells = self.cells(one.table, one.values)
            self.name_itself(one, cells)
            if look.baseline and stored is None and not unpack_key(one.key).birth:
                return self.observation(one, baseline_draft(one.key, cells), baseline=True)
            flags = UNENFORCED if orphaned else 0
            if stored is not None and not stored.item.live and is_sound(stored.item):
                return self.observation(one, draft(one.key, revived(stored.item, cells)))
            return self.observation(one, draft(one.key, inserted(cells, flags)))
        changes = self.changes(one, base, look)
        # A version that waits over itself is not all there (any more).
        partial = changes.wanting or (pending is not None and pending.item.dot == base.item.dot)
        if not changes:
            return (
                Unapplied(key=one.key, shown=one.state)
                if partial
                else self.observation(one, as_draft(base.item))
            )
        # What no app wrote is no addition: a backup that was put back counts as it is.
        counters = look.counters.get(one.table.name, ()) if one.touched and not look.approved else ()
        made = draft(one.key, migrated(base.item, changes, counters, salt=self.salt))
        return self.observation(one, made, partial=partial)

    def cells(self, table: Table, values: Mapping[str, Value]) -> dict[str, Cell]:
        """Return a row as an item has it."""
        cells: dict[str, Cell] = dict(values)
        for column in self.references[table.name]:
            cells[column] = self.cell(table, column, values[column])
        return cells

    def name_itself(self, one: Sighting, cells: dict[str, Cell]) -> None:
        """Let a row with a birth have the number in its cells that its key has."""
        if one.key in self.places.moved and one.table.name in self.identities.births:
            cells[one.table.pk[0]] = unpack_key(one.key).pk[0]

    def changes(self, one: Sighting, base: Stored, look: Look) -> Changes:
        """Return what is new in a row."""
        assert one.values is not None
        table = one.table
        if not self.has_other_columns(table, look):
            listed = hashes_of(one.listed, one.values)
            if listed:
                written = {
                    name: self.cell(table, name, value)
                    for name, value in one.values.items()
                    if column_hash(value) != listed[name]
                }
                # Written down as an edit, it must not pass for one in knowledge of what the store has.
                unseen = list(written) if look.approved or (look.older and not one.touched) else []
                return Changes(
                    written=written, unseen=[name for name in unseen if name in state_of(base.item).cells]
                )
        now = self.cells(table, one.values)
        self.name_itself(one, now)
        before = set(look.known.get(table.name, ()))
        stored = before - {column.name for column in table.columns if column.generated}
        # The row may have been looked at, or put in place, since these columns were noted.
        listed = hashes_of(one.listed, stored) or hashes_of(one.listed, one.values)
        new = one.values.keys() - before
        return changes_of(
            state_of(base.item),
            now,
            before=before,
            # An index may stand against what is recorded, or a type: then something else is shown.
            unchanged={
                name
                for name, value in one.values.items()
                if (name in before and one.listed == one.state) or listed.get(name) == column_hash(value)
            },
            filled={name for name in new if same_cell(one.values[name], self.default(table, name))},
            touched=one.touched,
        )

    def has_other_columns(self, table: Table, look: Look) -> bool:
        """Return whether a table has other columns than it had when it was looked at in full."""
        known = look.known.get(table.name)
        return known is not None and {column.name for column in table.columns} != set(known)

    def default(self, table: Table, column: str) -> Value:
        """Return what a column holds where nobody wrote it."""
        place = (table.name, column)
        if place not in self.defaults:
            self.defaults[place] = None
            with suppress(UnknownDefault):
                self.defaults[place] = default_of(table, column)
        return self.defaults[place]

    def observation(
        self, one: Sighting, made: Draft, *, baseline: bool = False, partial: bool = False
    ) -> Observation:
        """Return what was seen, for the ledger."""
        return Observation(
            draft=made,
            state=one.state if made.kind is not Kind.TOMBSTONE else b"",
            base_state=one.listed,
            changed_us=one.ms * 1000,
            baseline=baseline,
            partial=partial,
        )
