"""How items stand in a share's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.errors import StateCorrupt
from p2psyncd.store.database import Database, Row

__all__ = [
    "BASE",
    "ITEM",
    "ITEM_COLUMNS",
    "STORED",
    "Actors",
    "Refs",
    "item_of",
    "key_slices",
    "pending_of",
    "stored_of",
]

ITEM = "i.key, i.kind, i.digest, i.size, i.meta, i.actor, i.seq, i.hlc, i.vector"
STORED = f"{ITEM}, iif(i.pending, x'', i.disk_state)"
BASE = "b.key, b.kind, b.digest, b.size, b.meta, b.actor, b.seq, b.hlc, b.vector, i.disk_state"
ITEM_COLUMNS, STORED_COLUMNS = 9, 10
# Looking keys up costs 1.6 µs each from here on, and SQLite keeps only so many statements prepared.
KEYS_PER_QUERY = 512

# Calling Kind costs 0.6 µs, indexing 0.03.
KINDS = tuple(Kind)


class Actors(dict[int, ActorId]):
    """The actors by their numbers in one file, read when an unknown number turns up."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database

    def __missing__(self, ref: int) -> ActorId:
        self.update(self.database.rows("SELECT ref, actor FROM actors"))
        if ref not in self:
            raise StateCorrupt(self.database.path)
        return self[ref]


class Refs(dict[ActorId, int]):
    """The actors' numbers, a new one made when an unknown actor turns up."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.reload()

    def reload(self) -> None:
        """Read all of them again, as after a rollback."""
        self.clear()
        self.update(self.database.rows("SELECT actor, ref FROM actors"))

    def __missing__(self, actor: ActorId) -> int:
        ref: int = self.database.row("INSERT INTO actors (actor) VALUES (?) RETURNING ref", (actor,))[0]
        self[actor] = ref
        return ref


def item_of(row: Row, actors: Actors) -> Item:
    """Return the item whose `ITEM` columns a row begins with."""
    return Item(
        key=row[0],
        kind=KINDS[row[1]],
        digest=row[2],
        size=row[3],
        meta=row[4],
        dot=Dot(actors[row[5]], row[6]),
        hlc=row[7],
        vector=row[8],
    )


def stored_of(row: Row, actors: Actors) -> Stored:
    """Return what a row of `STORED` or `BASE` columns says."""
    return Stored(item=item_of(row, actors), state=row[9])


def pending_of(row: Row, actors: Actors) -> Pending:
    """Return what a row of `ITEM`, failed and `BASE` columns says."""
    base = row[STORED_COLUMNS:]
    return Pending(
        item=item_of(row, actors),
        base=None if base[0] is None else stored_of(base, actors),
        failed=row[STORED_COLUMNS - 1],
    )


def key_slices(keys: Sequence[bytes]) -> Iterator[tuple[str, Sequence[bytes]]]:
    """Yield ("?,?,…", keys) so that few different statements look any number of keys up."""
    for at in range(0, len(keys), KEYS_PER_QUERY):
        part = list(keys[at : at + KEYS_PER_QUERY])
        # Repeating a key changes nothing and leaves only ten lengths of statement.
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        yield ",".join("?" * len(part)), part
