"""A share's state in memory, as a disk would hold it: what a killed process leaves, and what a power cut does.

The store is the real one, on an in-memory database whose bytes are taken after every commit. SQLite
promises that a power cut undoes at most the last commits that were not durable, and those in order;
so any of the images since the last durable commit may be what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import ClassVar

from kinds import SECRET, SHARE, Hazard

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item
from p2psyncd.core.merkle import key_hash
from p2psyncd.core.trie import directory_of
from p2psyncd.sources.folder.conflicts import is_conflict_copy
from p2psyncd.store.counts import COUNTS, Counts
from p2psyncd.store.database import MEMORY, Database, connect
from p2psyncd.store.share import ShareStore

__all__ = ["SimulatedStore", "StateDisk"]


class StateDisk:
    """The state of one machine: survives its process."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        """What a power cut leaves at least; empty: no file yet."""
        self.images: list[bytes] = []
        """What was committed since, one image a commit."""

    @property
    def newest(self) -> bytes:
        return self.images[-1] if self.images else self.durable

    def committed(self, image: bytes, *, durable: bool) -> None:
        if durable:
            self.durable, self.images = image, []
        else:
            self.images.append(image)

    def cut_power(self, random: Random) -> None:
        """Undo some of the last commits."""
        self.durable = random.choice([self.durable, *self.images])
        self.images = []

    def rewind(self, image: bytes) -> None:
        """Put an older image back."""
        self.durable, self.images = image, []


class SimulatedStore(ShareStore):
    """The real store; every commit is an operation that may be the process's last."""

    hazard: Hazard
    disk: StateDisk
    tells_conflict: ClassVar[Callable[[Item], bool]] = staticmethod(is_conflict_copy)
    """Returns whether an item is, or holds, what lost a conflict."""
    groups: ClassVar[Callable[[bytes], bytes]] = staticmethod(directory_of)
    """See `core.trie.key_hash`."""

    @classmethod
    def on(
        cls,
        disk: StateDisk,
        hazard: Hazard,
        mint_actor: Callable[[], ActorId],
        received_us: Callable[[], int],
    ) -> SimulatedStore:
        """Open the state on a disk."""
        connection = connect(MEMORY)
        if disk.newest:
            connection.deserialize("main", disk.newest)
        database = Database(connection, MEMORY, shared=False)
        database.migrate("share")
        store = cls(
            database,
            SECRET,
            is_conflict=cls.tells_conflict,
            received_us=received_us,
            directory=cls.groups,
        )
        store.disk, store.hazard = disk, hazard
        store.identify(SHARE, mint_actor)
        return store

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """As the real one; the process may end right before or after the commit."""
        outermost = not self.database.depth
        with super().transaction(durable=durable):
            yield
            if outermost:
                self.hazard.operation("commit", grows=True)
        if outermost:
            self.disk.committed(self.image(), durable=durable)
            self.hazard.operation("after commit")

    def image(self) -> bytes:
        """Return the whole file."""
        return bytes(self.database.connection.serialize("main"))

    def leave(self) -> None:
        """Note what the process leaves: what was written outside of transactions counts, too."""
        image = self.image()
        if image != self.disk.newest:
            self.disk.committed(image, durable=False)

    def lose(self, key: bytes) -> None:
        """Let a row vanish, as by bit rot; the trie is kept consistent with the items."""
        with super().transaction(durable=True):
            self.database.run("DELETE FROM bases WHERE key = ?", (key,))
            self.database.run("DELETE FROM items WHERE key = ?", (key,))
            self.dirty.add(key_hash(SECRET, key, self.directory))
            self.counts = Counts.of(self.database.row(COUNTS))
        self.disk.committed(self.image(), durable=True)
