"""The share's storage against a model: whatever is written in whatever order, and undone, both say the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Listed, Pending, Stored, Totals
from p2psyncd.core.trie import Branch, build, entry_hash, key_hash
from p2psyncd.core.version import Dot
from p2psyncd.store.nodes import Nodes

DIRECTORIES = [b"", b"a/", b"a/b/", b"c/"]
# Enough keys for branches below branches: half are in one directory, whose key hashes begin alike.
KEYS = [b"a/%03d" % n for n in range(120)] + [DIRECTORIES[n % 4] + b"k%d.conflict-" % n for n in range(80)]
ACTORS = [ActorId(b"actor %02d" % n) for n in range(3)]

some_keys = st.sets(st.sampled_from(KEYS), max_size=10) | st.integers(0, 2).map(lambda n: set(KEYS[n::3]))
kinds = st.sampled_from([Kind.TOMBSTONE, Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK])


@dataclass
class Row:
    """What the model knows of one key."""

    item: Item
    disk: Stored | None
    """What is applied: the item itself, or while it is pending its base."""
    pending: bool
    failed: str
    arrived: int

    @property
    def state(self) -> bytes:
        return self.disk.state if self.disk and self.disk.item.live else b""


class Undo(Exception):
    """Ends a transaction whose writes are to be undone."""


class ShareMachine(RuleBasedStateMachine):
    share: Any

    def __init__(self) -> None:
        super().__init__()
        self.store = self.share(":memory:").open()
        self.rows: dict[bytes, Row] = {}
        self.seq = 0
        self.arrived = 0
        self.looked: list[Pending] = []
        self.looked_at = 0

    def teardown(self) -> None:
        self.store.close()

    # What is done to both; `undo` does it in a transaction that raises, and to the store alone.

    def item(self, key: bytes, kind: Kind) -> Item:
        self.seq += 1
        file = kind is Kind.FILE
        return Item(
            key=key,
            kind=kind,
            digest=bytes([self.seq % 5]) * 32 if file else b"",
            size=self.seq % 7 if file else 0,
            meta=b"",
            dot=Dot(ACTORS[self.seq % 3], self.seq),
            hlc=self.seq,
        )

    def put(self, keys: set[bytes], kind: Kind) -> Callable[[], None]:
        rows = {
            key: Stored(item=self.item(key, kind), state=b"" if kind is Kind.TOMBSTONE else b"s%d" % self.seq)
            for key in sorted(keys)
        }
        self.store.put(rows.values(), new=not self.store.get_many(sorted(keys)))

        def follow() -> None:
            for key, stored in rows.items():
                self.arrived += 1
                self.rows[key] = Row(stored.item, stored, pending=False, failed="", arrived=self.arrived)

        return follow

    def put_pending(self, keys: set[bytes], kind: Kind) -> Callable[[], None]:
        bases = {key: self.rows[key].disk if key in self.rows else None for key in sorted(keys)}
        rows = {key: Pending(item=self.item(key, kind), base=base) for key, base in bases.items()}
        self.store.put_pending(rows.values(), new=not self.store.get_many(sorted(keys)))

        def follow() -> None:
            for key, pending in rows.items():
                self.arrived += 1
                self.rows[key] = Row(
                    pending.item, pending.base, pending=True, failed="", arrived=self.arrived
                )

        return follow

    def settle(self, keys: set[bytes], _: Kind) -> Callable[[], None]:
        known = [self.rows[key] for key in sorted(keys) if key in self.rows]
        self.store.settle([(row.item.key, row.item.dot, b"settled") for row in known])
        return self.settled(known)

    def settle_all(self, keys: set[bytes], _: Kind) -> Callable[[], None]:
        waiting = self.store.pending_of(sorted(keys))
        self.store.settle_all([(row, b"settled") for row in waiting.values()])
        return self.settled([self.rows[key] for key in waiting if key in self.rows])

    def settled(self, known: list[Row]) -> Callable[[], None]:
        def follow() -> None:
            # What was looked at and is settled is looked at no more.
            settled = {row.item.key for row in known}
            self.looked = [row for row in self.looked if row.item.key not in settled]
            for row in known:
                if row.pending:
                    state = b"settled" if row.item.live else b""
                    row.disk, row.pending, row.failed = Stored(item=row.item, state=state), False, ""

        return follow

    def set_state(self, keys: set[bytes], _: Kind) -> Callable[[], None]:
        self.store.set_state([(key, b"touched") for key in keys])

        def follow() -> None:
            for key in keys & self.rows.keys():
                row = self.rows[key]
                if row.disk and row.disk.item.live:
                    row.disk = replace(row.disk, state=b"touched")

        return follow

    def fail(self, keys: set[bytes], _: Kind) -> Callable[[], None]:
        self.store.fail([(key, "no room") for key in keys])

        def follow() -> None:
            for key in keys & self.rows.keys():
                self.rows[key].failed = "no room" if self.rows[key].pending else ""

        return follow

    steps = st.tuples(
        st.sampled_from(
            ["put", "put", "put_pending", "put_pending", "settle", "settle_all", "set_state", "fail"]
        ),
        some_keys,
        kinds,
    )

    @rule(step=steps)
    def one(self, step: tuple[str, set[bytes], Kind]) -> None:
        name, keys, kind = step
        getattr(self, name)(keys, kind)()

    @rule(keys=some_keys, others=some_keys, kind=kinds)
    def received_and_some_of_it_applied(self, keys: set[bytes], others: set[bytes], kind: Kind) -> None:
        self.put_pending(keys, kind)()
        self.settle(others, kind)()

    @rule(before=steps, within=st.lists(steps, max_size=3))
    def some_in_one_with_an_inner_part(self, before: Any, within: list[Any]) -> None:
        with self.store.transaction():
            name, keys, kind = before
            getattr(self, name)(keys, kind)()
            with self.store.transaction():
                for name, keys, kind in within:
                    getattr(self, name)(keys, kind)()

    @rule(within=st.lists(steps, min_size=1, max_size=3), look=st.booleans())
    def all_undone(self, within: list[Any], *, look: bool) -> None:
        with contextlib.suppress(Undo), self.store.transaction():
            for name, keys, kind in within:
                getattr(self, name)(keys, kind)
                if look:
                    self.store.root()
            raise Undo

    @rule()
    def look_at_what_is_pending(self) -> None:
        self.looked, self.looked_at = self.store.pending(limit=1000), self.store.arrival()

    # What must hold

    @invariant()
    def what_was_pending_is_known_as_it_is_now(self) -> None:
        looked = self.looked
        assert self.store.still_pending(looked, since=self.looked_at) == self.store.still_pending(looked)

    @invariant()
    def the_items_are_the_models(self) -> None:
        rows = {
            key: Stored(item=row.item, state=b"" if row.pending else row.state)
            for key, row in self.rows.items()
        }
        assert self.store.get_many(KEYS) == rows
        pending = [
            Pending(item=row.item, base=row.disk, failed=row.failed)
            for _, row in sorted(self.rows.items())
            if row.pending
        ]
        assert self.store.pending(limit=1000) == pending
        assert self.store.pending_of(KEYS) == {row.item.key: row for row in pending}
        log = sorted(
            item.key for item in self.store.log_above({ACTORS[0]: self.seq // 2}, up_to=self.store.arrival())
        )
        assert log == sorted(
            key
            for key, row in self.rows.items()
            if row.item.dot.actor != ACTORS[0] or row.item.dot.seq > self.seq // 2
        )
        order = [item.key for item in self.store.log_since(0, limit=1000)[0]]
        assert order == sorted(self.rows, key=lambda key: self.rows[key].arrived)

    @invariant()
    def the_listings_are_the_models(self) -> None:
        here = {
            key: Listed(key=key, kind=row.disk.item.kind if row.state else row.item.kind, state=row.state)
            for key, row in self.rows.items()
            if row.item.live or row.state
        }
        assert {row.key: row for row in self.store.below(b"")} == here
        for directory in DIRECTORIES:
            children = {key: row for key, row in here.items() if key.rpartition(b"/")[0] == directory[:-1]}
            assert {row.key: row for row in self.store.listing(directory[:-1])} == children

    @invariant()
    def the_totals_are_the_models(self) -> None:
        live = [row.item for row in self.rows.values() if row.item.live]
        pending = [row.item for row in self.rows.values() if row.pending]
        conflicts = sorted(item.key for item in live if b".conflict-" in item.key)
        assert self.store.totals() == Totals(
            items=len(live),
            size=sum(item.size for item in live),
            pending_items=len(pending),
            pending_size=sum(item.size for item in pending),
            conflicts=len(conflicts),
        )
        assert [row.item.key for row in self.store.conflicts()] == conflicts

    @invariant()
    def digests_are_found_where_they_are_on_disk(self) -> None:
        for n in range(5):
            digest = bytes([n]) * 32
            applied = {
                row.item.key for row in self.rows.values() if not row.pending and row.item.digest == digest
            }
            found = {row.item.key for row in self.store.with_digest(digest)}
            assert found <= applied
            assert len(found) == min(16, len(applied))
            bases = {
                k
                for k, row in self.rows.items()
                if row.pending and row.disk and row.disk.item.digest == digest
            }
            assert {row.item.key for row in self.store.base_of_pending_digest(digest)} == bases

    @invariant()
    def the_stored_trie_is_a_fresh_one(self) -> None:
        entries = sorted(
            key_hash(self.share.SECRET, key) + entry_hash(row.item)
            for key, row in self.rows.items()
            if row.item.live
        )
        fresh: dict[bytes, Branch] = {}
        root, _ = build(fresh.__setitem__, b"", entries)
        assert self.store.root() == self.store.rebuilt_root() == root
        prefixes = [prefix for (prefix,) in self.store.database.rows("SELECT prefix FROM branches")]
        nodes = Nodes(self.store.database)
        assert {prefix: as_lists(nodes.branch(prefix)) for prefix in prefixes} == {
            prefix: as_lists(branch) for prefix, branch in fresh.items()
        }


def as_lists(branch: Branch | None) -> tuple[list[bytes], list[int]]:
    assert branch is not None
    return list(branch.hashes), list(branch.counts)


def test_the_store_does_as_the_model(share_in_memory: Any) -> None:
    machine = type("Machine", (ShareMachine,), {"share": share_in_memory})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
