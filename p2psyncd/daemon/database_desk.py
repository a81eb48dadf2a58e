"""The desk of a shared database: losers that rows keep, rows that gave way to others, deleted rows that are still known.

A row's losers travel with it, so all devices list the same conflicts, and one that is settled anywhere is
settled everywhere. Putting a value back is a new write, as if an app had made it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from blake3 import blake3

from p2psyncd.control.messages import Check, ItemError, Keep, Restored, ShareStatus, Version
from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Item
from p2psyncd.core.storage import ShareStorage
from p2psyncd.daemon.desk import FoundConflict, Side, check
from p2psyncd.daemon.report import time_text
from p2psyncd.daemon.row_text import cells_text, row_name
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import BadRequest, NoSuchConflict, NoSuchItem
from p2psyncd.sources.database.database import DatabaseSource
from p2psyncd.sources.database.row import (
    ACTOR0,
    Loser,
    RowState,
    Stamp,
    draft,
    edited,
    is_sound,
    removed,
    resolved,
    revived,
    state_of,
)
from p2psyncd.sources.database.schema import Schema
from p2psyncd.sources.database.show import Places
from p2psyncd.sources.database.values import Cell
from p2psyncd.store.reading import ShareReader
from p2psyncd.wire.effects import Standing

__all__ = ["DatabaseDesk"]

ID_BYTES = 6
# What a person can look through; newest first.
DELETED_SHOWN_MAX = 1000
REBUILD = "let its app build the index anew (`INSERT INTO index(index) VALUES('rebuild')`)"
BEFORE_SHARING = "before it was shared"


class DatabaseDesk:
    """See `Desk`."""

    def __init__(self, share: RunningShare, source: DatabaseSource, catalogue: ShareReader) -> None:
        self.share = share
        self.source = source
        self.catalogue = catalogue
        self.yielding = 0
        """How many rows are not shown because another one has their values, when that was last counted."""
        self.counted: Standing | None = None

    def name_of(self, key: bytes) -> str:
        """Return a row as "table key"; nothing for the database itself."""
        return row_name(key) if key else ""

    # Conflicts

    @property
    def conflicts(self) -> int:
        """How many rows have losers, or gave way to others."""
        standing = self.share.replica.standing
        if self.counted is not standing:
            # Each step of the replica has a standing of its own: until the next one nothing changes.
            self.yielding = sum(bool(winner) for winner in self.places().held.values())
            self.counted = standing
        return self.share.replica.totals.conflicts + self.yielding

    def places(self) -> Places:
        """Return which rows are not where, or not as, their keys say; blocks a moment."""
        return Places.load(self.catalogue)

    def find_conflicts(self, store: ShareStorage) -> list[FoundConflict]:
        """Return the conflicts; blocks, in the replica's thread."""
        places = Places.load(store)
        found = [
            self.conflict_of(stored.item, places) for stored in store.conflicts() if is_sound(stored.item)
        ]
        pairs = {key: winner for key, winner in places.held.items() if winner}
        rows = store.get_many([*pairs, *pairs.values()])
        for key, winner in pairs.items():
            if key in rows and winner in rows and rows[key].item.live:
                found.append(self.yielded(rows[key].item, rows[winner].item, places))
        return found

    def conflict_of(self, item: Item, places: Places) -> FoundConflict:
        """Return the losers that a row keeps."""
        state = state_of(item)
        name = row_name(item.key, places.moved.get(item.key, ()))
        columns = list(dict.fromkeys(column for one in state.losers for column in one.cells))
        losers = tuple(self.loser_side(one, name) for one in state.losers)
        return FoundConflict(
            id=self.id_of(item.key),
            key=item.key,
            item=f"{name} {', '.join(columns)}" if state.live else name,
            winner=self.winner_of(item, state, name, columns),
            losers=losers,
            handles=tuple(handle(item.key, one.stamp) for one in state.losers),
            since_us=min(one.written_us for one in losers),
        )

    def winner_of(self, item: Item, state: RowState, name: str, columns: list[str]) -> Side:
        """Return what a row is now: deleted, or the columns that others lost to."""
        if not state.live:
            return self.side(Stamp(item.hlc, *item.dot), where=f"{name} deleted", place="deleted")
        text = cells_text(state.cells, columns)
        stamp = latest(state, columns) or Stamp(item.hlc, *item.dot)
        return self.side(stamp, where=f"{name} {text}", place=text)

    def loser_side(self, loser: Loser, name: str) -> Side:
        """Return what one write set, and lost."""
        text = cells_text(loser.cells)
        return self.side(loser.stamp, where=f"{name} {text}", place=text)

    def side(self, stamp: Stamp, *, where: str, place: str) -> Side:
        """Return one version of a conflict; nobody knows who wrote what was there before the share was, and when."""
        baseline = stamp.actor == ACTOR0
        # What was added to a value that was there before the share was has no time of its own.
        written_us = stamp.hlc or self.share.record.added_us
        return Side(
            actor=None if baseline else ActorId(stamp.actor),
            by=BEFORE_SHARING if baseline else "",
            time=time_text(written_us),
            where=where,
            place=place,
            written_us=written_us,
        )

    def yielded(self, item: Item, winner: Item, places: Places) -> FoundConflict:
        """Return a row that is not shown because another row has its UNIQUE value."""
        ours, theirs = state_of(item), state_of(winner)
        name, other = row_name(item.key), row_name(winner.key, places.moved.get(winner.key, ()))
        columns = self.claimed(item.key, ours, theirs)
        text = cells_text(ours.cells, columns or None)
        return FoundConflict(
            id=self.id_of(b"yielded " + item.key),
            key=item.key,
            item=f"{name} {', '.join(columns)}".rstrip(),
            winner=self.side(
                latest(theirs, columns) or Stamp(winner.hlc, *winner.dot),
                where=f"{other} {cells_text(theirs.cells, columns or None)}",
                place=f"{other}: {cells_text(theirs.cells)}",
            ),
            losers=(
                self.side(
                    latest(ours, columns) or Stamp(item.hlc, *item.dot),
                    where=f"{name} {text}",
                    place=f"{name}: {cells_text(ours.cells)}",
                ),
            ),
            handles=(handle(item.key, Stamp(item.hlc, *item.dot)),),
            since_us=item.hlc,
        )

    def claimed(self, key: bytes, ours: RowState, theirs: RowState) -> list[str]:
        """Return the columns of a UNIQUE constraint whose values two rows have in common."""
        schema = self.source.schema
        table = schema.tables.get(row_name(key).partition(" ")[0]) if schema is not None else None
        for unique in table.uniques if table is not None else ():
            if all(ours.cells.get(name) == theirs.cells.get(name) for name in unique.columns):
                return list(unique.columns)
        return []

    def id_of(self, text: bytes) -> str:
        """Return the name of a conflict or version for people."""
        return blake3(bytes(self.share.record.id) + text).hexdigest(length=ID_BYTES)

    async def resolve(self, found: FoundConflict, *, keep: Keep, loser: int) -> None:
        """Settle a row's losers, or decide between two rows; see `Desk.resolve`."""
        if keep == "both":
            raise BadRequest(
                "A column holds one value and a UNIQUE value one row: keep the winner or a loser, "
                "or change one of them in the app"
            )

        def decide(store: ShareStorage) -> list[Draft]:
            stored = store.get(found.key)
            if stored is None:
                raise NoSuchConflict("It is settled already")
            if found.id == self.id_of(found.key):
                return settle(stored.item, found, keep=keep, loser=loser)
            # Two rows claim one value: one of them is deleted, and `history` has it.
            winner = Places.load(store).held.get(found.key, b"")
            goes = store.get(winner) if keep == "loser" else stored
            if goes is None or not goes.item.live:
                raise NoSuchConflict("It is settled already")
            return [draft(goes.item.key, removed(goes.item))]

        await self.share.replica.write(decide)

    # Earlier versions

    async def versions(self, key: bytes) -> list[Version]:
        """Return rows that are deleted and still known, and what lost, newest first."""
        del key  # a database has no parts that have paths
        found = await self.share.replica.query(self.kept)
        return [self.version_row(name, one, stamp, cells) for name, one, stamp, cells in found]

    def kept(self, store: ShareStorage) -> list[tuple[str, Item, Stamp, dict[str, Cell]]]:
        """Return what is still known and not shown: its name, item, when it was replaced or written, and values; blocks."""
        found: list[tuple[str, Item, Stamp, dict[str, Cell]]] = []
        for stored in store.deleted(limit=DELETED_SHOWN_MAX):
            item = stored.item
            state = state_of(item) if is_sound(item) else RowState(life=0)
            if state.cells:
                stamp = Stamp(item.hlc, *item.dot)
                found.append((self.version_id(item.key, stamp), item, stamp, state.cells))
        for item in [stored.item for stored in store.conflicts() if is_sound(stored.item)]:
            found += [
                (self.version_id(item.key, one.stamp), item, one.stamp, one.cells)
                for one in state_of(item).losers
            ]
        return sorted(found, key=lambda one: one[2], reverse=True)

    def version_id(self, key: bytes, stamp: Stamp) -> str:
        """Return the name of a version."""
        return self.id_of(handle(key, stamp))

    def version_row(self, name: str, item: Item, stamp: Stamp, cells: dict[str, Cell]) -> Version:
        """Return a version as `history` shows it."""
        deleted = not item.live and stamp == Stamp(item.hlc, *item.dot)
        text = cells_text(cells)
        return Version(
            version=name,
            path=self.share.record.path,
            time=time_text(stamp.hlc),
            bytes=len(text.encode(errors="surrogateescape")),
            reason="deleted" if deleted else "lost a conflict",
            device=None,
            item=f"{row_name(item.key)} {text}",
        )

    async def restore(self, key: bytes, version: str | None) -> Restored:
        """Put a deleted row, or what lost, back as a new write; see `Desk.restore`."""
        del key
        chosen: list[Restored] = []

        def decide(store: ShareStorage) -> list[Draft]:
            found = [one for one in self.kept(store) if version in {None, one[0]}]
            if not found:
                raise NoSuchItem(
                    f"No earlier version of a row of {self.share.record.path} is kept under that name"
                )
            name, item, _, cells = found[0]
            chosen.append(
                Restored(
                    path=self.share.record.path, version=name, replaced=item.live, item=row_name(item.key)
                )
            )
            state = edited(item, cells) if item.live else revived(item, {**state_of(item).cells, **cells})
            return [draft(item.key, state)]

        await self.share.replica.write(decide)
        [restored] = chosen
        return restored

    # Health

    def errors(self) -> Iterator[ItemError]:
        """Give the tables that are not synced, and the rows that cannot be shown here."""
        schema = self.source.schema
        for table, reason in sorted(schema.refused.items()) if schema is not None else ():
            yield ItemError(item=table, error=f"this table is not synced: {reason}")
        for table, column in unknown_counters(schema, self.source.counters) if schema is not None else ():
            yield ItemError(item=f"{table}.{column}", error="is to be a counter, and there is no such column")
        for table, column in self.source.columns_ahead:
            yield ItemError(
                item=f"{table}.{column}" if column else table,
                error="came from another version of the app: "
                + (
                    "its values are kept, and shown if this database comes to have the column"
                    if column
                    else "its rows are kept, and shown if this database comes to have the table"
                ),
            )
        for key, reason in sorted(self.source.unmendable.items()):
            yield ItemError(
                item=row_name(key), error=f"what it refers to could not be looked after: {reason}"
            )
        for table, reason in sorted(self.source.unkept_searches.items()):
            yield ItemError(
                item=table, error=f"its search index is not kept up with what comes: {reason}; {REBUILD}"
            )
        for key, winner in sorted(self.places().held.items()):
            if not winner:
                yield ItemError(
                    item=row_name(key),
                    error="is kept, but cannot be shown here: a constraint or the schema of this database forbids it",
                )

    def describe(self, row: ShareStatus) -> None:
        """Add the tables that are left out."""
        schema = self.source.schema
        row["left_out"] = dict(sorted(schema.left_out.items())) if schema is not None else {}
        row["counters"] = [
            f"{table}.{column}" for table, names in self.source.counters.items() for column in names
        ]

    def checks(self) -> list[Check]:
        """Return whether the file can be used, and which tables cannot."""
        name, source, schema = self.share.record.name, self.source, self.source.schema
        refused = sorted(schema.refused.items()) if schema is not None else []
        return [
            check(
                f"database of {name}",
                self.share.waiting,
                "It goes on by itself when the app lets go of it, at the latest when the app is closed",
                fine="can be read and written"
                + (f", {len(schema.tables)} tables are synced" if schema is not None else ""),
            ),
            check(
                f"tables of {name}",
                "; ".join(f"{table} is not synced: {reason}" for table, reason in refused),
                "Mend the table in the app's schema, or leave it out with `p2psync share add … --without TABLE`",
                fine="none is refused",
            ),
            check(
                f"search in {name}",
                "; ".join(
                    f"the index of {table}: {why}" for table, why in sorted(source.unkept_searches.items())
                ),
                f"Only its app can keep it up with what comes from other devices: {REBUILD}",
                fine="indexes are kept up",
            ),
            check(
                f"watching {name}",
                source.limited or "",
                f"Raise the limit: `{source.limited_command}`; it is noticed within a minute",
                fine="the file is watched",
            ),
        ]


def latest(state: RowState, columns: list[str]) -> Stamp | None:
    """Return the latest write of some columns."""
    return max((stamp for name in columns if (stamp := state.stamp(name)) is not None), default=None)


def handle(key: bytes, stamp: Stamp) -> bytes:
    """Return what names one loser."""
    return b"%s %s.%d" % (key, stamp.actor.hex().encode(), stamp.seq)


def settle(item: Item, found: FoundConflict, *, keep: Keep, loser: int) -> list[Draft]:
    """Return the write that settles a row's losers.

    Raises:
        NoSuchConflict: The row changed since a person looked at it, and the chosen loser is not there any more.
    """
    losers = state_of(item).losers
    if not losers:
        raise NoSuchConflict("It is settled already")
    if keep == "winner":
        return [draft(item.key, resolved(item))]
    chosen = [one for one in losers if handle(item.key, one.stamp) == found.handles[loser]]
    if not chosen:
        raise NoSuchConflict("It is settled already")
    return [draft(item.key, resolved(item, chosen[0].cells))]


def unknown_counters(schema: Schema, counters: Mapping[str, Collection[str]]) -> Iterator[tuple[str, str]]:
    """Yield the columns that are to be counters, and are not there."""
    for name, columns in counters.items():
        table = schema.tables.get(name)
        known = {column.name for column in table.columns} if table is not None else set()
        yield from ((name, column) for column in columns if column not in known)
