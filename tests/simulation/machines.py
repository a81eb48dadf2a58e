"""What machines and devices of every kind have in common: state, identity, clock, and how a replica is put together."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from random import Random
from typing import ClassVar

from kinds import SHARE, Claim, Clock, Hazard
from stores import SimulatedStore, StateDisk

from p2psyncd.core.ids import ActorId, DeviceId
from p2psyncd.core.item import Draft, Item
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.executor import InlineExecutor
from p2psyncd.daemon.incarnation import Place, begin
from p2psyncd.daemon.replica import Replica
from p2psyncd.sources.source import Dirty, Source
from p2psyncd.store.counts import COUNTS, Counts

__all__ = ["CommonDevice", "CommonMachine"]


class CommonMachine:
    """State, identity and clock of one machine; see `kinds.Machine`."""

    def __init__(self, number: int, *, mode: str = "send-receive", skew_us: int = 0) -> None:
        self.number = number
        self.device = DeviceId(bytes([number + 1]) * 32)
        self.clock = Clock(skew_us)
        self.hazard = Hazard()
        self.mode = mode
        self.state = StateDisk()
        self.identity = b"disk %d" % number
        self.revived: set[Claim] = set()
        self.starts = 0
        """Of the operating system: a power cut is followed by another."""
        self.entropy = Random(number)
        """Randomness of the machine's own: nothing that is restored brings the same numbers again."""

    def mint_actor(self) -> ActorId:
        return ActorId(self.entropy.randbytes(8))

    def place(self) -> Place:
        """Return where the state lies, as a device sees it at its start."""
        return Place(identity=self.identity, kernel_boot=b"%d" % self.starts)

    store_class: ClassVar[type[SimulatedStore]] = SimulatedStore

    def open_store(self) -> SimulatedStore:
        return self.store_class.on(self.state, self.hazard, self.mint_actor, self.clock.now_us)

    def look_at_state(self) -> SimulatedStore:
        """Return the state that is on the disk, to look at."""
        return self.store_class.on(
            StateDisk(self.state.newest), Hazard(), self.mint_nothing, self.clock.now_us
        )

    def remembered(self) -> AbstractSet[bytes]:
        """Return the values that are kept beside those in `claims`, for all to see; see `Machine`."""
        return frozenset()

    def cut_power(self, random: Random) -> None:
        self.state.cut_power(random)
        self.starts += 1

    def rewind(self, image: bytes, *, noticed: bool) -> None:
        """Put an older state back."""
        self.state.rewind(image)
        if noticed:
            self.identity = b"disk %d.%d" % (self.number, self.entropy.getrandbits(32))

    def become_copy_of(self, other: CommonMachine, *, noticed: bool) -> None:
        """Take over state, device key and clock."""
        self.device, self.clock.skew_us = other.device, other.clock.skew_us
        self.state.rewind(other.state.newest)
        self.starts = other.starts
        if not noticed:
            self.identity = other.identity

    def lose_row(self, random: Random) -> bytes | None:
        store = self.open_store()
        rows = store.database.rows(
            "SELECT key FROM items WHERE kind <> 0 AND pending = 0"
            " AND arrived < (SELECT max(arrived) FROM items) ORDER BY key"
        )
        if not rows:
            return None
        (key,) = random.choice(rows)
        store.lose(key)
        return bytes(key)

    def unsettled(self) -> set[Claim]:
        return unsettled_in(self.look_at_state(), self.claims())  # type: ignore[attr-defined]

    def records(self, name: bytes) -> bool:
        stored = self.look_at_state().get(name)
        return stored is not None and stored.item.live

    @staticmethod
    def mint_nothing() -> ActorId:
        return ActorId(bytes(8))


class CommonDevice:
    """A replica on a machine; see `kinds.Device`."""

    comes_back = False

    def __init__(
        self,
        machine: CommonMachine,
        store: SimulatedStore,
        source: Source,
        directory: Callable[[bytes, Item | None], Draft] | None,
    ) -> None:
        self.machine = machine
        self.store = store
        self.source = source
        self.incarnation = begin(store, source, machine.place(), entropy=machine.entropy.randbytes)
        self.replica = Replica(
            share=SHARE,
            store=store,
            source=source,
            directory=directory,
            acceptable=lambda key: True,
            clock=machine.clock,
            executor=InlineExecutor(),
            mode=machine.mode,
            incarnation=self.incarnation,
        )
        self.applier = Applier(self.replica)

    def put_content(self, digest: bytes, data: bytes) -> None:
        self.source.put_content(digest, data)

    def is_recorded(self, claim: Claim, digest: bytes) -> bool:
        """Return whether the store knows a value under its name, applied or not."""
        stored = self.store.get(claim.name)
        return stored is not None and stored.item.digest == digest

    def unsettled(self) -> set[Claim]:
        return unsettled_in(self.store, self.machine.claims())  # type: ignore[attr-defined]

    def own(self) -> set[Claim]:
        there: set[Claim] = set(self.machine.claims())  # type: ignore[attr-defined]
        written = {item.key for item in self.store.written_by(self.store.actor(), above=-1)}
        return {claim for claim in there if claim.name in written}

    def unseen(self) -> set[bytes]:
        there: set[Claim] = set(self.machine.claims())  # type: ignore[attr-defined]
        written = self.store.written_by(self.store.actor(), above=-1)
        waiting = self.store.pending_of([item.key for item in written])
        names = {item.key for item in written if item.live and item.key not in waiting}
        return names - {claim.name for claim in there}

    def busy(self) -> Dirty:
        """Return where to look again a little later."""
        return Dirty()

    def approve(self) -> None:
        """Nothing holds this share for long."""

    def ailments(self) -> list[str]:
        found = self.ailments_of_state()
        listed = {row.key for row in self.store.below(b"")}
        there = set(self.machine.picture())  # type: ignore[attr-defined]
        if self.machine.mode == "send-receive" and listed != there:
            found.append(f"the store and the disk differ: {sorted(listed ^ there)}")
        return found

    def ailments_of_state(self) -> list[str]:
        """Return what is wrong with the store by itself."""
        found = []
        if self.store.root() != self.store.rebuilt_root():
            found.append("the stored trie is not the one of the items")
        if self.store.counts != counted(self.store):
            found.append(f"the counts are wrong: {self.store.counts} for {counted(self.store)}")
        return found

    def close(self) -> None:
        self.store.leave()


def unsettled_in(store: SimulatedStore, claims: AbstractSet[Claim]) -> set[Claim]:
    """Return what is on a disk and not noted as applied."""
    known = store.get_many(sorted({claim.name for claim in claims}))
    return {claim for claim in claims if claim.name not in known or not known[claim.name].state}


def counted(store: SimulatedStore) -> Counts:
    """Return the counts as the items have them."""
    return Counts.of(store.database.row(COUNTS))
