"""A database as a kind of share for the simulation: the real source on a simulated file, and an app that writes to it.

What must not be lost is told by texts that are unlike all others (`appuser`). They are live in a cell, or in the conflict
log, or in a row that is held for another. A row whose parent is deleted may go with it, and a parent may come back for a child, as
the reference declares.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import apsw
from appfile import AppFile, SimulatedAccess
from appuser import SCHEMA, TABLES, claim_of, deed_of, is_torn, random_operation, rows_of, work
from kinds import SHARE, Claim, Deed, Operation, Snapshot
from machines import CommonDevice, CommonMachine
from stores import SimulatedStore

from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.core.storage import Stored
from p2psyncd.sources.database.database import DatabaseSource
from p2psyncd.sources.database.keys import SCHEMA_TABLE, bucket_of, is_acceptable, unpack_key
from p2psyncd.sources.database.row import has_losers, is_sound, pack, state_of, unpack
from p2psyncd.sources.database.show import HELD
from p2psyncd.sources.database.values import Cell, RawText
from p2psyncd.sources.source import Dirty

__all__ = ["DatabaseDevice", "DatabaseKind", "DatabaseMachine"]

NOTES = "database-notes"
PARENTS = {"pet": "owner", "tag": "owner"}
"""The tables whose rows go with their parent, and the columns that refer to it."""


class DatabaseStore(SimulatedStore):
    """The store of a database: the source keeps settings in it that matter after a kill."""

    @staticmethod
    def tells_conflict(item: Item) -> bool:
        """Return whether a row keeps what lost a conflict."""
        return has_losers(item.meta)

    @staticmethod
    def groups(key: bytes) -> bytes:
        """Return the part of its table that a row belongs to."""
        return bucket_of(key)

    def set_setting(self, name: str, value: bytes) -> None:
        with self.transaction():
            super().set_setting(name, value)

    def everything(self) -> Iterator[Stored]:
        """Yield all items, the deleted ones too."""
        keys = [key for (key,) in self.database.rows("SELECT key FROM items ORDER BY key")]
        yield from self.get_many(keys).values()


class DatabaseDevice(CommonDevice):
    """A running device on a database."""

    machine: DatabaseMachine
    store: DatabaseStore
    source: DatabaseSource
    comes_back = True

    def __init__(self, machine: DatabaseMachine) -> None:
        store = machine.open_store()
        source = Source(
            SimulatedAccess(machine.file, machine.hazard),
            SHARE,
            store,
            store,
            machine.clock,
            device=machine.device,
        )
        source.revived, source.went = machine.revived, machine.kind.went
        source.full |= machine.doubted
        source.recover()
        super().__init__(machine, store, source, None)
        self.replica.acceptable = lambda item: is_acceptable(item.key) and is_sound(item)
        machine.doubted = False

    def content(self, digest: bytes) -> bytes | None:
        return None

    def busy(self) -> Dirty:
        return self.source.take_busy()

    def approve(self) -> None:
        self.source.approve(catch_up=self.machine.catches_up)
        self.machine.catches_up = False

    def unrecorded(self) -> set[Claim]:
        return set(self.machine.claims()) - {c for item in items_in(self.store) for c in claims_in(item)}

    def unsettled(self) -> set[Claim]:
        return set(self.machine.claims()) - settled_in(self.store)

    def own(self) -> set[Claim]:
        written = self.store.written_by(self.store.actor(), above=-1)
        return set(self.machine.claims()) & {claim for item in written for claim in claims_in(item)}

    def unseen(self) -> set[bytes]:
        written = self.store.written_by(self.store.actor(), above=-1)
        return {claim.name for item in written for claim in claims_in(item)} - {
            claim.name for claim in self.machine.claims()
        }

    def ailments(self) -> list[str]:
        found = self.ailments_of_state()
        if self.machine.mode == "send-receive":
            found += [f"{one.key!r}: {one.reason}" for one in self.source.verify()]
            found += self.machine.orphans()
            found += [self.machine.torn] if self.machine.torn and self.machine.kind.in_order else []
        return found


class Source(DatabaseSource):
    """The real source; what comes back by its rules, and what goes by them, is noted."""

    revived: set[Claim]
    went: set[bytes]

    def mend(self, changed: Collection[bytes]) -> list[Draft]:
        drafts = super().mend(changed)
        before = self.store.get_many([draft.key for draft in drafts])
        for draft in drafts:
            stored = before.get(draft.key)
            if draft.kind is Kind.ROW and stored is not None and not stored.item.live:
                self.revived |= claims_in(draft)
            if draft.kind is Kind.TOMBSTONE and stored is not None:
                self.went |= {claim.value for claim in claims_in(stored.item)}
        return drafts


class DatabaseMachine(CommonMachine):
    """A machine with an app's database on its disk."""

    store_class = DatabaseStore

    def __init__(
        self, number: int, kind: DatabaseKind, *, mode: str = "send-receive", skew_us: int = 0
    ) -> None:
        super().__init__(number, mode=mode, skew_us=skew_us)
        self.revived = kind.revived
        self.kind = kind
        self.file = AppFile(self.clock.now_us)
        self.file.on_commit = self.look_for_parts
        self.torn = ""
        """When a part of a transaction was seen."""
        self.doubted = False
        """Whether the next process compares every row: the regular comparison comes."""
        self.backups: list[bytes] = []
        """Of the file alone, made by its user."""
        self.catches_up = False
        """Whether a backup was put back that is to be brought up to date."""

    def open_store(self) -> DatabaseStore:
        store = super().open_store()
        assert isinstance(store, DatabaseStore)
        return store

    def prepare(self) -> None:
        """Let the app make its database; some rows were there before the share was, equal on all machines or not."""
        with self.file.connected() as connection:
            connection.execute(SCHEMA)
            connection.execute(
                "UPDATE word SET note = ?; INSERT INTO seat VALUES (1, 'x', ?, NULL)",
                (f"base {self.number % 2}", f"base {self.number}"),
            )
            self.file.keep(connection, durable=True)

    # What users do

    def operate(self, operation: Operation) -> Deed:
        match operation:
            case ("save",):
                self.backups.append(self.file.newest)
                return Deed()
            case _ if self.catches_up:
                return Deed()  # it would all be undone
            case ("put back", int(which), bool(catch_up)) if self.backups:
                return self.put_back(self.backups[which % len(self.backups)], catch_up=catch_up)
            case ("put back", *_):
                return Deed()
            case ("both", *_):
                # What two of them write, or what was there before the share was, is united row by row.
                if self.number or not self.kind.in_order or not self.look_at_state().setting(NOTES):
                    return Deed()
            case ("app", bool(enforces), *_):
                self.kind.enforced &= enforces
        with self.file.connected() as connection:
            before = rows_of(connection)
            if not work(connection, operation):
                return Deed()
            self.file.keep(connection, durable=operation[1 if operation[0] == "both" else 3])
            return deed_of(before, rows_of(connection))

    def put_back(self, image: bytes, *, catch_up: bool) -> Deed:
        """Let a user put an older file in the place of this one, and say what is to become of what it lacks."""
        with self.rows() as before:
            pass
        if catch_up:
            # What was deleted a moment ago, and nobody had looked yet: the file that told of it is gone, and the rows
            # that the others have come back.
            self.revived |= settled_in(self.look_at_state()) - self.claims()
        self.file.replace(image)
        if catch_up:
            # Nor is a delete told of what somebody had looked at by now, and was about to record.
            known = {claim for item in items_in(self.look_at_state()) for claim in claims_in(item)}
            self.revived |= self.claims() - known
        self.catches_up, self.kind.in_order = catch_up, False
        with self.rows() as after:
            deed = deed_of(before, after)
        return (
            replace(deed, wrote=(), deleted=(), replaced=(*deed.replaced, *deed.deleted))
            if catch_up
            else deed
        )

    def look_for_parts(self, connection: apsw.Connection) -> None:
        """Look as a reader does between any two transactions."""
        if self.kind.in_order and is_torn(connection):
            seen = connection.execute("SELECT * FROM pair").fetchall()
            self.torn = self.torn or f"a part of a transaction is seen: {seen}"

    # What is there

    @contextmanager
    def rows(self) -> Iterator[dict[tuple[str, tuple[object, ...]], tuple[object, ...]]]:
        with self.file.connected() as connection:
            yield rows_of(connection)

    def picture(self) -> Mapping[bytes, object]:
        with self.rows() as rows:
            picture: dict[bytes, object] = {repr(place).encode(): values for place, values in rows.items()}
        for stored in self.look_at_state().everything():
            item = stored.item
            if unpack_key(item.key).table == SCHEMA_TABLE:
                continue
            if stored.state == HELD:
                picture[b"held " + item.key] = True
            if has_losers(item.meta):
                picture[b"losers of " + item.key] = pack(state_of(item))
        return picture

    def claims(self) -> AbstractSet[Claim]:
        with self.rows() as rows:
            return {
                claim
                for (table, _), values in rows.items()
                for column, (_, value) in zip(TABLES[table], values, strict=True)
                if (claim := claim_of(table, column, value)) is not None
            }

    def orphans(self) -> list[str]:
        """Return which rows refer to parents that are not there, though all apps see to their references."""
        if not self.kind.enforced:
            return []
        with self.file.connected() as connection:
            found = connection.execute("PRAGMA foreign_key_check").fetchall()
        return [f"a row refers to nothing: {one}" for one in found]

    def remembered(self) -> AbstractSet[bytes]:
        """Return what is in the conflict log, in rows that are held or shown as they were, or went with a parent."""
        store = self.look_at_state()
        found = set()
        for stored in store.everything():
            item = stored.item
            at = unpack_key(item.key)
            if at.table == SCHEMA_TABLE:
                continue
            state = state_of(item)
            for loser in state.losers:
                found |= values_in(at.table, loser.cells)
            if (item.live and (state.image or stored.state == HELD)) or at.table in PARENTS:
                found |= values_in(at.table, state.cells)
        return found | self.kind.went

    def kept(self) -> AbstractSet[bytes]:
        return set()

    def unsettled(self) -> set[Claim]:
        return set(self.claims()) - settled_in(self.look_at_state())

    # Processes and disks

    def boot(self) -> DatabaseDevice:
        return DatabaseDevice(self)

    def cut_power(self, random: Random) -> None:
        super().cut_power(random)
        self.file.cut_power(random)

    def snapshot(self) -> Snapshot:
        return self.state.newest, self.file.newest

    def restore(self, snapshot: Snapshot, *, everything: bool, noticed: bool) -> None:
        self.kind.in_order = False
        state, content = snapshot
        self.rewind(state, noticed=noticed)
        if everything:
            self.file.rewind(content)
            self.file.inode += noticed

    def clone(self, number: int, *, noticed: bool) -> DatabaseMachine:
        self.kind.in_order = False
        other = DatabaseMachine(number, self.kind, mode=self.mode)
        other.become_copy_of(self, noticed=noticed)
        other.file.rewind(self.file.newest)
        other.file.inode += noticed
        return other

    def lose_row(self, random: Random) -> bytes | None:
        self.kind.in_order = False
        lost = super().lose_row(random)
        self.doubted = lost is not None
        return lost


def items_in(store: DatabaseStore) -> Iterator[Item]:
    """Yield all that a store knows: newest versions, and what is in place while they wait."""
    for stored in store.everything():
        yield stored.item
        waiting = store.pending_of([stored.item.key]).get(stored.item.key)
        if waiting is not None and waiting.base is not None:
            yield waiting.base.item


def settled_in(store: DatabaseStore) -> set[Claim]:
    """Return what a store notes as applied."""
    found = set()
    for stored in store.everything():
        if stored.state:
            found |= claims_in(stored.item)
        waiting = store.pending_of([stored.item.key]).get(stored.item.key)
        if waiting is not None and waiting.base is not None:
            found |= claims_in(waiting.base.item)
    return found


def claims_in(item: Item | Draft) -> set[Claim]:
    """Return what a live row says that must not be lost."""
    at = unpack_key(item.key)
    if item.kind is not Kind.ROW or at.table == SCHEMA_TABLE:
        return set()
    state = unpack(item.meta)
    return claims_of(at.table, {**state.cells, **state.image})


def claims_of(table: str, cells: Mapping[str, Cell]) -> set[Claim]:
    """Return what some cells hold that must not be lost."""
    found = set()
    for column, cell in cells.items():
        claim = claim_of(table, column, cell.data if isinstance(cell, RawText) else cell)
        if claim is not None:
            found.add(claim)
    return found


def values_in(table: str, cells: Mapping[str, Cell]) -> set[bytes]:
    """Return the values of some cells that must not be lost."""
    return {claim.value for claim in claims_of(table, cells)}


class DatabaseKind:
    """See the top of the file."""

    name = "database"

    def __init__(self) -> None:
        self.revived: set[Claim] = set()
        """What came back by the rules, anywhere."""
        self.went: set[bytes] = set()
        """What went with its parent by the rules, anywhere: known to who deleted it, as what an app's own cascade deletes is.
        Two devices may let two versions of a row go, and of two deletes one is left."""
        self.enforced = True
        """Whether all apps have seen to their references so far."""
        self.in_order = True
        """Whether there was no disaster so far by which one device's rows may be of different moments."""

    def machine(self, number: int, *, mode: str = "send-receive", skew_us: int = 0) -> DatabaseMachine:
        machine = DatabaseMachine(number, self, mode=mode, skew_us=skew_us)
        machine.prepare()
        return machine

    def operation(self, random: Random, serial: int) -> Operation:
        choice = random.random()
        if choice < 0.02:
            return ("put back", random.randrange(3), random.random() < 0.5)
        if choice < 0.05:
            return ("save",)
        return random_operation(random, serial)
