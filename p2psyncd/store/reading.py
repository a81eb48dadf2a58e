"""Reading a share's file: what the writer and a reader in another thread have in common."""

# ruff: noqa: S608 - what is put into the SQL are constants of this package and question marks.
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from p2psyncd.core.ids import ActorId, DeviceId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.knowledge import Knowledge
from p2psyncd.core.merkle import Entry
from p2psyncd.core.storage import Listed, Pending, Stored
from p2psyncd.core.trie import (
    ENTRY_BYTES,
    KEY_HASH_BYTES,
    bounds,
    directory_hash,
    directory_of,
    entry_hash,
    key_hash,
    root_of,
)
from p2psyncd.core.version import Dot, unpack_vector
from p2psyncd.store.database import Database, Row
from p2psyncd.store.nodes import Nodes
from p2psyncd.store.rows import (
    BASE,
    ITEM,
    ITEM_COLUMNS,
    STORED,
    Actors,
    item_of,
    key_slices,
    pending_of,
    stored_of,
)

__all__ = ["ACTOR", "ShareReader"]

SAME_DIGEST_MAX = 16
# Of many equal files that are about to go any will do, but a move may have used some up.
SAME_BASE_MAX = 256
BEGINNING_MAX = 256
# Rows in one step of an iteration: a few milliseconds, a megabyte at most.
PAGE = 1000
LISTED = "SELECT key, iif(disk_kind, disk_kind, kind), disk_state FROM items"
# The dot keeps what belongs to the file itself apart from the settings that others keep in it.
ACTOR = ".actor"
SLASH, ABOVE_SLASH = b"/", b"0"
# A look for one costs 2 µs, and reading one 0.5: of rows of a database, of which 256 have one parent, that many at once
# are as well read together with their siblings.
FAMILY_MIN = 64


class ShareReader:
    """A view of one share's file; see `core.storage.ShareStorage` for what each method promises."""

    def __init__(
        self, database: Database, secret: bytes, *, directory: Callable[[bytes], bytes] = directory_of
    ) -> None:
        self.database = database
        self.secret = secret
        self.directory = directory
        self.actors = Actors(database)
        self.nodes = Nodes(database)
        self.unsure_below = 0
        """Which arrival numbers are too low to say what of that time is pending still."""

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    # Items
    def get(self, key: bytes) -> Stored | None:
        """Return the newest known version of an item, tombstones included."""
        row = self.database.found(f"SELECT {STORED} FROM items i WHERE i.key = ?", (key,))
        return None if row is None else stored_of(row, self.actors)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        """Return what `get` returns, for the keys that exist."""
        return {
            row[0]: stored_of(row, self.actors)
            for marks, part in key_slices(keys)
            for row in self.database.rows(f"SELECT {STORED} FROM items i WHERE i.key IN ({marks})", part)
        }

    def pending(self, *, limit: int, after: bytes = b"") -> list[Pending]:
        """Return pending items in key order, with key > `after`."""
        with self.database.snapshot():
            if self.database.found("SELECT 1 FROM bases LIMIT 1") is None:
                new = self.database.rows(
                    f"SELECT {ITEM}, i.failed FROM items i WHERE i.pending = 1 AND i.key > ? ORDER BY i.key LIMIT ?",
                    (after, limit),
                )
                return [
                    Pending(item=item_of(row, self.actors), base=None, failed=row[ITEM_COLUMNS])
                    for row in new
                ]
            rows = self.database.rows(
                f"SELECT {ITEM}, i.failed, {BASE} FROM items i LEFT JOIN bases b ON b.key = i.key"
                " WHERE i.pending = 1 AND i.key > ? ORDER BY i.key LIMIT ?",
                (after, limit),
            )
        return [pending_of(row, self.actors) for row in rows]

    def pending_of(self, keys: Sequence[bytes]) -> dict[bytes, Pending]:
        """Return the pending rows of these keys."""
        return {
            row[0]: pending_of(row, self.actors)
            for marks, part in key_slices(keys)
            for row in self.database.rows(
                f"SELECT {ITEM}, i.failed, {BASE} FROM items i LEFT JOIN bases b ON b.key = i.key"
                f" WHERE i.pending = 1 AND i.key IN ({marks})",
                part,
            )
        }

    def pending_columns(self, keys: Sequence[bytes], columns: str) -> list[Row]:
        """Return the keys that are pending, of these, each with some columns of the table `items`."""
        return [
            row
            for marks, part in key_slices(keys)
            for row in self.database.rows(
                f"SELECT key, {columns} FROM items WHERE pending = 1 AND key IN ({marks})", part
            )
        ]

    def still_pending(self, rows: Sequence[Pending], *, since: int | None = None) -> list[Pending]:
        """Return what of some pending rows is pending still, in their order, each as it is now.

        Args:
            rows: As they were pending once.
            since: The arrival number when they were, if `settle_all` has settled none of them since.
        """
        if since is None or since < self.unsure_below or self.arrival() - since > len(rows):
            return self.looked_up_again(rows)
        arrived = {key for (key,) in self.database.rows("SELECT key FROM items WHERE arrived > ?", (since,))}
        # What is in place beneath a version may be something else by now, without a word of its arrival.
        doubtful = [row for row in rows if row.base is not None or row.item.key in arrived]
        if not doubtful:
            return list(rows)
        again = {row.item.key: row for row in self.looked_up_again(doubtful)}
        gone = {row.item.key for row in doubtful} - again.keys()
        return [again.get(row.item.key, row) for row in rows if row.item.key not in gone]

    def looked_up_again(self, rows: Sequence[Pending]) -> list[Pending]:
        """Return what `still_pending` returns, each row looked up."""
        found = {
            key: ((self.actors[actor], seq, digest, meta), disk_kind)
            for key, actor, seq, digest, meta, disk_kind in self.pending_columns(
                [row.item.key for row in rows], "actor, seq, digest, meta, disk_kind"
            )
        }
        # Two writes have one dot where a machine was copied: the content of the one is not the other's.
        same = [
            row
            for row in rows
            if found.get(row.item.key, (None,))[0] == (*row.item.dot, row.item.digest, row.item.meta)
        ]
        # Most are new here. What is in place beneath the others may be something else by now.
        again = self.pending_of(
            [row.item.key for row in same if row.base is not None or found[row.item.key][1]]
        )
        return [again.get(row.item.key, row) for row in same]

    def arrival(self) -> int:
        """Return the highest arrival number so far."""
        last: int = self.database.row("SELECT coalesce(max(arrived), 0) FROM items")[0]
        return last

    def base_of_pending_digest(self, digest: bytes) -> list[Stored]:
        """Return applied files with this digest that a pending version is about to replace or delete (at most 256)."""
        rows = self.database.rows(
            f"SELECT {BASE} FROM bases b JOIN items i ON i.key = b.key WHERE b.digest = ? AND b.kind = 1 LIMIT ?",
            (digest, SAME_BASE_MAX),
        )
        return [stored_of(row, self.actors) for row in rows]

    def digests_here(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return which of these contents some applied file may have."""
        return {
            row[0]
            for marks, part in key_slices(digests)
            for table, also in (("items", "AND pending = 0"), ("bases", ""))
            for row in self.database.rows(
                f"SELECT digest FROM {table} WHERE kind = 1 {also} AND digest IN ({marks})", part
            )
        }

    def with_digest(self, digest: bytes) -> list[Stored]:
        """Return applied live files with this content digest (at most 16)."""
        rows = self.database.rows(
            f"SELECT {STORED} FROM items i WHERE i.digest = ? AND i.kind = 1 AND i.pending = 0 LIMIT ?",
            (digest, SAME_DIGEST_MAX),
        )
        return [stored_of(row, self.actors) for row in rows]

    def listing(self, directory: bytes) -> list[Listed]:
        """Return the live or still applied children of a directory (b"" is the root), in no order.

        A live item of which nothing is applied yet is there with an empty state.
        """
        low = directory_hash(self.secret, directory)
        rows = self.database.rows(
            f"{LISTED} WHERE mark >= ? AND mark < ?", (low, low + b"\xff" * ENTRY_BYTES)
        )
        inside = directory + SLASH if directory else b""
        at = len(inside)
        return [
            Listed(key=key, kind=kind, state=state)
            for key, kind, state in rows
            if key.startswith(inside) and key.find(SLASH, at) < 0
        ]

    def below(self, prefix: bytes) -> Iterator[Listed]:
        """Yield every live or still applied item whose key is `prefix` or lies under `prefix + b"/"`, in key order."""
        if prefix:
            rows = self.database.rows(f"{LISTED} WHERE key = ? AND mark IS NOT NULL", (prefix,))
            yield from (Listed(key=key, kind=kind, state=state) for key, kind, state in rows)
        condition, high = under(prefix)
        after = prefix + SLASH if prefix else b""
        while True:
            rows = self.database.rows(
                f"{LISTED} WHERE key > ? {condition} AND mark IS NOT NULL ORDER BY key LIMIT ?",
                (after, *high, PAGE),
            )
            yield from (Listed(key=key, kind=kind, state=state) for key, kind, state in rows)
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def states(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the fingerprints of what is applied, for the keys that exist."""
        return {
            key: state
            for marks, part in key_slices(keys)
            for key, state in self.database.rows(
                f"SELECT key, disk_state FROM items WHERE key IN ({marks})", part
            )
        }

    def below_each(self, prefixes: Iterable[bytes]) -> list[Listed]:
        """Return what `below` yields, for many prefixes at once, and perhaps their siblings."""
        families: dict[bytes, list[bytes]] = {}
        for prefix in prefixes:
            families.setdefault(prefix.rpartition(SLASH)[0], []).append(prefix)
        ranges: list[tuple[bytes, bytes]] = []
        for parent, children in families.items():
            if len(children) >= FAMILY_MIN and parent:
                ranges.append((parent + SLASH, parent + ABOVE_SLASH))
            else:
                ranges += [(prefix, prefix + ABOVE_SLASH) for prefix in children]
        rows = self.database.run_many(f"{LISTED} WHERE key >= ? AND key < ? AND mark IS NOT NULL", ranges)
        return [Listed(key=key, kind=kind, state=state) for key, kind, state in rows]

    def count_listed(self) -> int:
        """Return how many live or still applied items there are."""
        count: int = self.database.row("SELECT count(*) FROM items WHERE mark IS NOT NULL")[0]
        return count

    def count_written_by(self, actor: ActorId) -> int:
        """Return how many items have an actor's write as their newest version."""
        count: int = self.database.row(
            "SELECT count(*) FROM items WHERE actor = (SELECT ref FROM actors WHERE actor = ?)", (actor,)
        )[0]
        return count

    def live_below(self, directory: bytes) -> bool:
        """Return whether any live item lies under `directory + b"/"`."""
        condition, high = under(directory)
        after = directory + SLASH if directory else b""
        found = self.database.found(
            f"SELECT 1 FROM items WHERE key > ? {condition} AND kind <> 0 LIMIT 1", (after, *high)
        )
        return found is not None

    def beginning(self, prefix: bytes) -> list[Stored]:
        """Return the items whose keys begin so, tombstones included, in key order (at most 256)."""
        rows = self.database.rows(
            f"SELECT {STORED} FROM items i WHERE i.key >= ? AND i.key < ? ORDER BY i.key LIMIT ?",
            (prefix, prefix[:-1] + bytes([prefix[-1] + 1]), BEGINNING_MAX),
        )
        return [stored_of(row, self.actors) for row in rows]

    def conflicts(self) -> list[Stored]:
        """Return the items that are or hold conflicts, in key order."""
        rows = self.database.rows(f"SELECT {STORED} FROM items i WHERE i.conflict = 1 ORDER BY i.key")
        return [stored_of(row, self.actors) for row in rows]

    def withheld(self) -> list[Stored]:
        """Return the items whose state is one zero byte: settled, and on purpose not shown."""
        rows = self.database.rows(f"SELECT {STORED} FROM items i WHERE i.disk_state = x'00' ORDER BY i.key")
        return [stored_of(row, self.actors) for row in rows]

    def deleted(self, *, limit: int) -> list[Stored]:
        """Return the tombstones that still say what they deleted, newest first."""
        rows = self.database.rows(
            f"SELECT {STORED} FROM items i WHERE i.kind = {int(Kind.TOMBSTONE)} AND length(i.meta) > 1"
            " ORDER BY i.hlc DESC LIMIT ?",
            (limit,),
        )
        return [stored_of(row, self.actors) for row in rows]

    # Delta log
    def log_above(self, knowledge: Knowledge, *, up_to: int) -> Iterator[Item]:
        """Yield items with dot.seq > knowledge[dot.actor] and arrival ≤ `up_to`, tombstones included."""
        for ref, actor in self.database.rows("SELECT ref, actor FROM actors"):
            seq, arrived = knowledge.get(actor, -1), up_to
            while True:
                rows = self.database.rows(
                    f"SELECT {ITEM}, i.arrived FROM items i WHERE i.actor = ? AND (i.seq, i.arrived) > (?, ?)"
                    " AND i.arrived <= ? ORDER BY i.seq, i.arrived LIMIT ?",
                    (ref, seq, arrived, up_to, PAGE),
                )
                for row in rows:
                    yield item_of(row, self.actors)
                if len(rows) < PAGE:
                    break
                seq, arrived = rows[-1][6], rows[-1][9]

    def written_by(self, actor: ActorId, *, above: int) -> list[Item]:
        """Return the items whose newest version is an actor's, above a sequence number."""
        rows = self.database.rows(
            f"SELECT {ITEM} FROM items i JOIN actors a ON a.ref = i.actor WHERE a.actor = ? AND i.seq > ? ORDER BY i.seq",
            (actor, above),
        )
        return [item_of(row, self.actors) for row in rows]

    def keys_written_by(self, actor: ActorId, *, most: int) -> list[bytes]:
        """Return the keys of items whose newest version is an actor's: at most so many, in no order."""
        rows = self.database.rows(
            "SELECT i.key FROM items i JOIN actors a ON a.ref = i.actor WHERE a.actor = ? LIMIT ?",
            (actor, most),
        )
        return [key for (key,) in rows]

    def log_since(
        self, arrival: int, *, limit: int, without: ActorId | None = None
    ) -> tuple[list[Item], int]:
        """Return items that arrived after `arrival`, oldest first, and the arrival number up to which that is all."""
        refs = self.database.rows("SELECT ref FROM actors WHERE actor = ?", (without,)) if without else []
        rows = self.database.rows(
            f"SELECT {ITEM}, i.arrived FROM items i WHERE i.arrived > ? AND i.actor IS NOT ?"
            " ORDER BY i.arrived LIMIT ?",
            (arrival, refs[0][0] if refs else None, limit),
        )
        if len(rows) == limit:
            arrival = rows[-1][9]
        else:
            (arrival,) = self.database.row("SELECT max(?, coalesce(max(arrived), 0)) FROM items", (arrival,))
        return [item_of(row, self.actors) for row in rows], arrival

    # Knowledge and actors
    def actor(self) -> ActorId:
        """Return this replica's actor."""
        return ActorId(self.database.row("SELECT value FROM settings WHERE name = ?", (ACTOR,))[0])

    def knowledge(self) -> dict[ActorId, int]:
        """Return K."""
        return {self.actors[ref]: seq for ref, seq in self.database.rows("SELECT actor, seq FROM knowledge")}

    def forgotten(self) -> dict[ActorId, int]:
        """Return G: up to which write of an actor tombstones may have been forgotten."""
        return {self.actors[ref]: seq for ref, seq in self.database.rows("SELECT actor, seq FROM forgotten")}

    def last_boot(self, actor: ActorId) -> tuple[int, bytes, int] | None:
        """Return number and nonce of the last opening of an actor's state that was met, and what was known then."""
        row = self.database.found(
            "SELECT b.number, b.nonce, b.seq FROM boots b JOIN actors a ON a.ref = b.actor WHERE a.actor = ?",
            (actor,),
        )
        return None if row is None else (row[0], row[1], row[2])

    def members(self) -> dict[DeviceId, dict[ActorId, int]]:
        """Return what the members of the share were last known to know."""
        rows = self.database.rows("SELECT device, knowledge FROM members")
        return {DeviceId(device): unpack_vector(knowledge) for device, knowledge in rows}

    def actor_devices(self) -> dict[ActorId, DeviceId]:
        """Return which device each actor belongs to, as far as known."""
        return dict(self.database.rows("SELECT actor, device FROM actors WHERE device IS NOT NULL"))

    # Merkle summary
    def root(self) -> bytes:
        """Return the 32-byte root of the live items."""
        return self.nodes.root()

    def trie_children(self, prefix: bytes) -> list[tuple[bytes, int]] | None:
        """Return (32-byte hash, count) of the 16 children of a node, or None if the node is a leaf."""
        branch = self.nodes.branch(prefix)
        return None if branch is None else list(zip(branch.hashes, branch.counts, strict=True))

    def trie_entries(self, prefix: bytes) -> list[Entry]:
        """Return (key hash, entry hash, key, dot) of the live items below a node, in key-hash order."""
        rows = self.database.rows(
            "SELECT mark, key, actor, seq FROM items WHERE mark >= ? AND mark < ? AND length(mark) = ? ORDER BY mark",
            (*bounds(prefix), ENTRY_BYTES),
        )
        return [
            (mark[:KEY_HASH_BYTES], mark[KEY_HASH_BYTES:], key, Dot(self.actors[actor], seq))
            for mark, key, actor, seq in rows
        ]

    def rebuilt_root(self) -> bytes:
        """Return the root computed from the items alone: differs from `root` only after bit rot."""
        with self.snapshot():
            return root_of(
                key_hash(self.secret, item.key, self.directory) + entry_hash(item)
                for item in self.all_items()
                if item.live
            )

    def snapshot(self) -> AbstractContextManager[None]:
        """Make all reads inside the block see one moment; do not write in it."""
        return self.database.snapshot()

    def all_items(self) -> Iterator[Item]:
        """Yield every item in order of arrival."""
        items, arrival = self.log_since(0, limit=PAGE)
        while items:
            yield from items
            items, arrival = self.log_since(arrival, limit=PAGE)

    # Settings and content
    def setting(self, name: str) -> bytes | None:
        """Return a stored value of this share."""
        row = self.database.found("SELECT value FROM settings WHERE name = ?", (name,))
        return None if row is None else row[0]

    def chunk_list(self, digest: bytes) -> bytes | None:
        """Return the packed chunk list of a content, if known."""
        row = self.database.found("SELECT list FROM chunks WHERE digest = ?", (digest,))
        return None if row is None else row[0]


def under(directory: bytes) -> tuple[str, tuple[bytes, ...]]:
    """Return the condition that keeps a scan of keys inside a directory, and its bindings."""
    return ("AND key < ?", (directory + ABOVE_SLASH,)) if directory else ("", ())
