"""A share's storage: the one writer of its file. See `core.storage.ShareStorage` for the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from p2psyncd.core.ids import BASELINE_ACTOR, ActorId, DeviceId, ShareId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.knowledge import Knowledge, includes
from p2psyncd.core.merkle import Entry
from p2psyncd.core.storage import NOTHING, Pending, Stored, Totals
from p2psyncd.core.trie import directory_of, entry_hash, key_hash, refresh
from p2psyncd.core.version import Dot, pack_vector, unpack_vector
from p2psyncd.errors import StateCorrupt
from p2psyncd.store.counts import COUNTS, Counts
from p2psyncd.store.database import Database
from p2psyncd.store.reading import ACTOR, ShareReader
from p2psyncd.store.rows import Refs, key_slices

__all__ = ["ShareStore"]

CHUNK_LISTS_MAX = 2000
SHARE, SECRET = ".share", ".secret"

COLUMNS = (
    "arrived", "key", "mark", "kind", "digest", "size", "meta", "actor", "seq", "hlc", "vector",
    "pending", "disk_kind", "disk_state", "received_us", "conflict", "failed",
)  # fmt: skip
# Not INSERT OR REPLACE: with these indexes that takes three times as long (measured: 17 µs a new row, not 6).
PUT_MANY = (
    f"INSERT INTO items ({', '.join(COLUMNS)})",
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS if name != 'key')}",
)
PUT = f" VALUES ({', '.join('?' * len(COLUMNS))}) ".join(PUT_MANY)
SETTLED = "UPDATE items SET pending = 0, disk_kind = kind, disk_state = {}, failed = ''"
SETTLE_MANY = (f"{SETTLED.format('v.column1')} FROM (", ") AS v WHERE items.key = v.column2")
SETTLE = f"{SETTLED.format('?')} WHERE key = ?"


class ShareStore(ShareReader):
    """Everything of one share that must survive a restart, in one SQLite file.

    It belongs to one thread at a time; `reader` gives another thread a view of its own.
    """

    def __init__(
        self,
        database: Database,
        secret: bytes,
        *,
        is_conflict: Callable[[Item], bool],
        received_us: Callable[[], int],
        directory: Callable[[bytes], bytes] = directory_of,
    ) -> None:
        super().__init__(database, secret, directory=directory)
        self.is_conflict = is_conflict
        self.received_us = received_us
        self.refs = Refs(database)
        # Key hashes whose part of the trie is not refreshed yet.
        self.dirty: set[bytes] = set()
        # Reading every item once also finds most of what a damaged disk can do to the file.
        self.counts = Counts.of(database.row(COUNTS))
        self.last_arrival = super().arrival()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        share_id: ShareId,
        secret: bytes,
        mint_actor: Callable[[], ActorId],
        is_conflict: Callable[[Item], bool],
        received_us: Callable[[], int],
        directory: Callable[[bytes], bytes] = directory_of,
    ) -> ShareStore:
        """Open a share's file, making it if there is none.

        Args:
            path: The file; ":memory:" for a test.
            share_id: The share; another share's file is refused.
            secret: Keys the trie's key hashes, 32 bytes, the same on all devices of the share.
            mint_actor: Gives a new actor (8 random bytes) where the file has none.
            is_conflict: Whether an item is a conflict copy, or holds what lost a conflict; pure.
            received_us: The wall clock, microseconds since 1970.
            directory: As `core.trie.key_hash` asks it; the same on all devices of the share.

        Raises:
            StateCorrupt: The file is damaged or another share's; it is named.
            StateTooNew: A newer version wrote it.
            HomeUnusable: The file can be neither opened nor made.
        """
        database = Database.open(path, kind="share")
        try:
            store = cls(
                database, secret, is_conflict=is_conflict, received_us=received_us, directory=directory
            )
            store.identify(share_id, mint_actor)
        except BaseException:
            database.close()
            raise
        return store

    def identify(self, share_id: ShareId, mint_actor: Callable[[], ActorId]) -> None:
        """Write whose file this is, or raise StateCorrupt if it is another's."""
        expected = {SHARE: bytes(share_id), SECRET: blake3(self.secret).digest()}
        with self.transaction():
            for name, value in expected.items():
                if (found := self.setting(name)) is None:
                    self.set_setting(name, value)
                elif found != value:
                    raise StateCorrupt(f"{self.database.path} belongs to another share")
            if self.setting(ACTOR) is None:
                self.renew_actor(mint_actor())

    def reader(self) -> ShareReader:
        """Return a view for other threads: it sees what is committed, and is closed on its own."""
        return ShareReader(self.database.reader(), self.secret, directory=self.directory)

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Make all writes inside the block one step: written as a whole or not at all.

        A block inside another one is a part of that: if it raises, the whole is not written.

        Args:
            durable: Do not return before it is on the disk. Without it a power cut may undo the
                last transactions, never a part of one. Counts for the outermost block only.
        """
        if self.database.depth:
            with self.database.transaction(durable=durable):
                yield
            return
        counts, last_arrival = self.counts, self.last_arrival
        try:
            with self.database.transaction(durable=durable):
                yield
                self.refresh_trie()
        except BaseException:
            self.counts, self.last_arrival = counts, last_arrival
            self.refs.reload()
            self.actors.clear()
            self.nodes.unwritten = []
            self.dirty = set()
            raise

    def refresh_trie(self) -> None:
        """Bring the trie up to date with the items."""
        if self.dirty:
            refresh(self.nodes, self.dirty)
            self.nodes.flush()
            self.dirty = set()

    # Items
    def put(self, rows: Iterable[Stored], *, new: bool = False) -> None:
        """Insert or replace items as *applied* (live with a state, or tombstones) and drop their pending rows.

        Args:
            rows: They.
            new: Whether the caller knows that nothing is stored under any of their keys: spares looking.
        """
        newest = {stored.item.key: stored for stored in rows}
        with self.transaction():
            self.insert(
                newest,
                ((stored.item, 0, stored.item.kind, stored.state, "") for stored in newest.values()),
                new=new,
            )

    def put_pending(self, rows: Iterable[Pending], *, new: bool = False) -> None:
        """Insert or replace items that are known but not applied; `base` says what is applied instead; `new` as in `put`."""
        newest = {row.item.key: row for row in rows}
        with self.transaction():
            self.insert(
                newest,
                (
                    (row.item, 1, row.base.item.kind, row.base.state, row.failed)
                    if row.base
                    else (row.item, 1, 0, b"", row.failed)
                    for row in newest.values()
                ),
                new=new,
            )
            self.database.run_many(
                "INSERT INTO bases (key, kind, digest, size, meta, actor, seq, hlc, vector) VALUES (?,?,?,?,?,?,?,?,?)",
                [self.base_columns(key, row.base.item) for key, row in newest.items() if row.base],
            )

    def base_columns(self, key: bytes, item: Item) -> tuple[object, ...]:
        """Return a row of the table `bases`."""
        dot = item.dot
        return (
            key,
            item.kind,
            item.digest,
            item.size,
            item.meta,
            self.refs[dot.actor],
            dot.seq,
            item.hlc,
            item.vector,
        )

    def insert(
        self, keys: Iterable[bytes], rows: Iterable[tuple[Item, int, int, bytes, str]], *, new: bool
    ) -> None:
        """Write rows of the table `items`: (item, pending, kind on disk, state on disk, why it failed)."""
        keys = list(keys)
        minus = self.counted(keys) if self.counts.rows and not new else Counts()
        if minus.pending_items:
            self.database.run_many("DELETE FROM bases WHERE key = ?", [(key,) for key in keys])
        before = self.last_arrival
        self.database.run_grouped(PUT_MANY, len(COLUMNS), self.columns(rows), single=PUT)
        plus = Counts.of(self.database.row(f"{COUNTS} WHERE arrived > ?", (before,)))
        self.counts = self.counts.changed(plus=plus, minus=minus)

    def columns(self, rows: Iterable[tuple[Item, int, int, bytes, str]]) -> list[tuple[object, ...]]:
        """Return rows as `PUT` takes them, and note what they touch. Some 5 µs a row, so it does all in one go."""
        secret, refs, is_conflict, directory = self.secret, self.refs, self.is_conflict, self.directory
        received_us, arrived = self.received_us(), self.last_arrival
        found: list[tuple[object, ...]] = []
        hashes: list[bytes] = []
        for item, pending, disk_kind, disk_state, failed in rows:
            key, kind, (actor, seq) = item.key, item.kind, item.dot
            arrived += 1
            place = key_hash(secret, key, directory)
            hashes.append(place)
            found.append(
                (
                    arrived,
                    key,
                    place + entry_hash(item) if kind else place if disk_kind else None,
                    kind,
                    item.digest,
                    item.size,
                    item.meta,
                    refs[actor],
                    seq,
                    item.hlc,
                    item.vector,
                    pending,
                    disk_kind,
                    disk_state,
                    received_us,
                    1 if is_conflict(item) else 0,
                    failed and storable(failed),
                )
            )
        self.last_arrival = arrived
        self.dirty.update(hashes)
        return found

    def counted(self, keys: list[bytes]) -> Counts:
        """Return the counts of the rows with these keys."""
        counts = Counts()
        for marks, part in key_slices(keys):
            found = Counts.of(self.database.row(f"{COUNTS} WHERE key IN ({marks})", part))
            counts = counts.changed(plus=found, minus=Counts())
        return counts

    def set_state(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Note new states (key, state) of what is applied and whose version did not change."""
        with self.transaction():
            self.database.run_many(
                "UPDATE items SET disk_state = ? WHERE key = ? AND disk_kind <> 0",
                [(state, key) for key, state in rows],
            )

    def settle(self, rows: Iterable[tuple[bytes, Dot, bytes]]) -> None:
        """Mark pending items (key, dot, state) as applied; rows whose dot is no longer the newest are left alone."""
        wanted = {key: (dot.actor, dot.seq, state) for key, dot, state in rows}
        # Whoever saw one of them pending does not know of this.
        self.unsure_below = self.last_arrival + 1
        # Looked up before: what RETURNING costs is more than the update itself.
        self.mark_settled(
            [
                (key, kind, size, wanted[key][2])
                for key, kind, size, actor, seq in self.pending_columns(
                    list(wanted), "kind, size, actor, seq"
                )
                if (self.actors[actor], seq) == wanted[key][:2]
            ]
        )

    def settle_all(self, rows: Sequence[tuple[Pending, bytes]]) -> None:
        """Mark rows that are pending now, just so, as applied with these states."""
        self.mark_settled([(row.item.key, row.item.kind, row.item.size, state) for row, state in rows])

    def mark_settled(self, settled: Sequence[tuple[bytes, int, int, bytes]]) -> None:
        """Mark pending rows (key, kind, size, state) as applied."""
        with self.transaction():
            states = [(state if kind else b"", key) for key, kind, _, state in settled]
            self.database.run_grouped(SETTLE_MANY, 2, states, single=SETTLE)
            size = sum(size for _, kind, size, _ in settled if kind == Kind.FILE)
            self.counts = self.counts.changed(
                plus=Counts(), minus=Counts(pending_items=len(settled), pending_size=size)
            )
            gone = [(key,) for key, kind, _, _ in settled if not kind]
            self.database.run_many("UPDATE items SET mark = NULL WHERE key = ?", gone)
            if self.database.found("SELECT 1 FROM bases LIMIT 1"):
                self.database.run_many("DELETE FROM bases WHERE key = ?", [(key,) for key, *_ in settled])

    def fail(self, rows: Iterable[tuple[bytes, str]]) -> None:
        """Note why applying pending items (key, reason) failed; an empty reason clears it."""
        with self.transaction():
            self.database.run_many(
                "UPDATE items SET failed = ? WHERE key = ? AND pending = 1",
                [(storable(reason), key) for key, reason in rows],
            )

    def totals(self) -> Totals:
        """Return the counts; cheap (kept up to date)."""
        _, items, size, pending_items, pending_size, conflicts = self.counts
        return Totals(
            items=items,
            size=size,
            pending_items=pending_items,
            pending_size=pending_size,
            conflicts=conflicts,
        )

    def arrival(self) -> int:
        """Return the highest arrival number so far."""
        return self.last_arrival

    # Knowledge and actors
    def commit_knowledge(self, knowledge: Knowledge, forgotten: Knowledge = NOTHING) -> None:
        """Join `knowledge` into K and `forgotten` into G, durably: a peer may forget on the strength of it."""
        with self.transaction(durable=True):
            for table, values in (("knowledge", knowledge), ("forgotten", forgotten)):
                self.raise_to(table, values)

    def raise_to(self, table: str, values: Knowledge) -> None:
        """Join values into a table of sequence numbers by actor."""
        self.database.run_many(
            f"INSERT INTO {table} (actor, seq) VALUES (?, ?)"  # noqa: S608  (a table of this file)
            " ON CONFLICT (actor) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > seq",
            [(self.refs[actor], seq) for actor, seq in values.items()],
        )

    def forget(self, covered: Knowledge, *, covered_before_us: int, before_us: int) -> int:
        """Forget applied tombstones that everybody knows, or that are old, and note them in G."""
        count = 0
        # The newest row stays: its arrival number must not be given twice.
        # What lost to a delete is listed until somebody resolves it.
        condition = "kind = 0 AND pending = 0 AND conflict = 0 AND arrived < (SELECT max(arrived) FROM items)"
        with self.transaction(durable=True):
            seen = self.knowledge()
            for ref, actor in self.database.rows("SELECT ref, actor FROM actors"):
                known = covered.get(actor, -1)
                found = self.database.rows(
                    f"SELECT arrived, seq, vector FROM items WHERE {condition} AND actor = ?"  # noqa: S608
                    " AND (received_us < ? OR (received_us < ? AND seq <= ?))",
                    (ref, before_us, covered_before_us, known),
                )
                # What it deleted must be known to have been seen (of a device that only sends it may not be):
                # it would come as new otherwise.
                # What was there before the share was has one dot on all devices, so that nobody could tell a
                # member who missed its delete from one who brings it: only its tombstone can.
                gone = [
                    (arrived, seq)
                    for arrived, seq, vector in found
                    if includes(seen, (knew := unpack_vector(vector)))
                    and (BASELINE_ACTOR not in knew or seq <= known)
                ]
                if gone:
                    self.database.run_many("DELETE FROM items WHERE arrived = ?", [(at,) for at, _ in gone])
                    self.raise_to("forgotten", {actor: max(seq for _, seq in gone)})
                    count += len(gone)
            if count:
                # What one of them had overtaken would pass for pending.
                self.unsure_below = self.last_arrival + 1
                self.counts = Counts.of(self.database.row(COUNTS))
        return count

    def note_member(self, device: DeviceId, knowledge: Knowledge) -> None:
        """Remember what a member of the share knows."""
        self.database.run(
            "INSERT OR REPLACE INTO members (device, knowledge) VALUES (?, ?)",
            (device, pack_vector(knowledge)),
        )

    def renew_actor(self, actor: ActorId) -> None:
        """Go on as another actor, as after a restore or a clone."""
        self.set_setting(ACTOR, actor)

    def lower_knowledge(self, actor: ActorId, seq: int) -> None:
        """Set what K says of an actor back (-1: to nothing): what it claimed above that is not true."""
        with self.transaction():
            place = (self.refs[actor], seq)
            known = self.database.found(
                "DELETE FROM knowledge WHERE actor = ? AND seq > ? RETURNING seq", place
            )
            if known is not None and seq >= 0:
                self.database.run("INSERT INTO knowledge (actor, seq) VALUES (?, ?)", place)

    def note_boot(self, actor: ActorId, number: int, nonce: bytes) -> None:
        """Remember an opening of an actor's state, and what is known of the actor now."""
        self.database.run(
            "INSERT OR REPLACE INTO boots (actor, number, nonce, seq)"
            " SELECT ref, ?, ?, coalesce((SELECT seq FROM knowledge WHERE actor = ref), -1) FROM actors WHERE ref = ?",
            (number, nonce, self.refs[actor]),
        )

    def note_contact(self, actor: ActorId) -> None:
        """Remember what is known now of an actor that this replica is in contact with."""
        self.database.run(
            "UPDATE boots SET seq = k.seq FROM knowledge k WHERE k.actor = boots.actor AND boots.actor = ?",
            (self.refs[actor],),
        )

    def next_seq(self, now_us: int, count: int = 1) -> int:
        """Return the first of `count` fresh sequence numbers of this actor: max(last + 1, now); K follows."""
        with self.transaction():
            ref = self.refs[self.actor()]
            row = self.database.found("SELECT seq FROM knowledge WHERE actor = ?", (ref,))
            first = now_us if row is None else max(row[0] + 1, now_us)
            self.database.run(
                "INSERT OR REPLACE INTO knowledge (actor, seq) VALUES (?, ?)", (ref, first + count - 1)
            )
        return first

    def learn_actors(self, actors: Iterable[tuple[ActorId, DeviceId]]) -> None:
        """Remember which device actors belong to."""
        with self.transaction():
            self.database.run_many(
                "UPDATE actors SET device = ? WHERE ref = ?",
                [(device, self.refs[actor]) for actor, device in actors],
            )

    # Merkle summary: inside a transaction the trie has first to catch up.
    def root(self) -> bytes:
        """Return the 32-byte root of the live items."""
        self.refresh_trie()
        return super().root()

    def trie_children(self, prefix: bytes) -> list[tuple[bytes, int]] | None:
        """Return (32-byte hash, count) of the 16 children of a node, or None if the node is a leaf."""
        self.refresh_trie()
        return super().trie_children(prefix)

    def trie_entries(self, prefix: bytes) -> list[Entry]:
        """Return (key hash, entry hash, key, dot) of the live items below a node, in key-hash order."""
        self.refresh_trie()
        return super().trie_entries(prefix)

    # Settings and content
    def set_setting(self, name: str, value: bytes) -> None:
        """Store a value of this share; as durable as the step that it is a part of, by itself not at all."""
        with self.database.transaction(durable=False):
            self.database.run("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))

    def put_chunk_list(self, digest: bytes, chunks: bytes) -> None:
        """Remember the packed chunk list of a content; the newest 2,000 or so are kept."""
        with self.transaction():
            self.database.run("DELETE FROM chunks WHERE digest = ?", (digest,))
            self.database.run("INSERT INTO chunks (digest, list) VALUES (?, ?)", (digest, chunks))
            self.database.run(
                "DELETE FROM chunks WHERE noted <= (SELECT max(noted) FROM chunks) - ?", (CHUNK_LISTS_MAX,)
            )


def storable(text: str) -> str:
    """Return a text without lone surrogates, such as the name of a file that is not UTF-8 brings along."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
