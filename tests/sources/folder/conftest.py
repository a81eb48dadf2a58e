"""A device of the tests: a folder source over a storage in memory, and the least of a replica."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from blake3 import blake3

from p2psyncd.core.ids import ActorId, ShareId
from p2psyncd.core.item import Draft, Item, Kind, dominates, supersede
from p2psyncd.core.storage import Listed, Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.sources.folder.attributes import Attributes, encode
from p2psyncd.sources.folder.folder import FolderSource
from p2psyncd.sources.folder.guard import create_marker
from p2psyncd.sources.source import (
    Applied,
    Dirty,
    Failed,
    ItemError,
    Observation,
    Outcome,
    Side,
    Surprised,
    Unapplied,
)

SHARE = ShareId(b"s" * 16)
EVERYTHING = Dirty(subtrees=frozenset({b""}))
NOBODY = 65534
MTIME_NS = 1_700_000_000_123_456_789


class SystemClock:
    """The real clock."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    def monotonic_s(self) -> float:
        return time.monotonic()


class MemoryStorage:
    """The part of a share's storage that the folder source reads, and the writes that tests need."""

    def __init__(self) -> None:
        self.items: dict[bytes, Stored] = {}
        self.waiting: dict[bytes, Pending] = {}
        self.children: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self.digests: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self.asked = 0

    def put(self, stored: Stored) -> None:
        self.waiting.pop(stored.item.key, None)
        self.note(stored)

    def note(self, stored: Stored) -> None:
        key = stored.item.key
        self.items[key] = stored
        self.children[key.rpartition(b"/")[0]].add(key)

    def put_pending(self, item: Item) -> None:
        base = self.applied(item.key)
        self.note(Stored(item=item))
        self.waiting[item.key] = Pending(item=item, base=base)

    def applied(self, key: bytes) -> Stored | None:
        if key in self.waiting:
            return self.waiting[key].base
        stored = self.items.get(key)
        return stored if stored is not None and stored.state else None

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Stored]:
        self.asked += 1
        return {key: self.items[key] for key in keys if key in self.items}

    def pending_of(self, keys: Sequence[bytes]) -> dict[bytes, Pending]:
        return {key: self.waiting[key] for key in keys if key in self.waiting}

    def base_of_pending_digest(self, digest: bytes) -> list[Stored]:
        return [
            one.base
            for one in self.waiting.values()
            if one.base is not None and one.base.item.digest == digest and one.item.digest != digest
        ]

    def digests_here(self, digests: Sequence[bytes]) -> set[bytes]:
        return {one for one in digests if self.with_digest(one) or self.base_of_pending_digest(one)}

    def with_digest(self, digest: bytes) -> list[Stored]:
        return [
            one
            for key, one in self.items.items()
            if one.state and one.item.kind is Kind.FILE and one.item.digest == digest
        ][:16]

    def listed(self, key: bytes) -> Listed | None:
        item = self.items[key].item
        applied = self.applied(key)
        if applied is None and not item.live:
            return None
        return Listed(key=key, kind=item.kind, state=b"" if applied is None else applied.state)

    def listing(self, directory: bytes) -> list[Listed]:
        self.asked += 1
        found = (self.listed(key) for key in list(self.children.get(directory, ())))
        return [one for one in found if one is not None]

    def below(self, prefix: bytes) -> Iterator[Listed]:
        for key in sorted(self.items):
            if not prefix or key == prefix or key.startswith(prefix + b"/"):
                found = self.listed(key)
                if found is not None:
                    yield found

    def count_listed(self) -> int:
        return sum(1 for _ in self.below(b""))


@dataclass
class Device:
    """One device: its folder, its source, and a replica that decides nothing but the obvious."""

    root: Path
    actor: ActorId
    clock: SystemClock = field(default_factory=SystemClock)
    storage: MemoryStorage = field(default_factory=MemoryStorage)
    source: FolderSource = field(init=False)
    seq: int = 0
    errors: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        create_marker(self.root, SHARE)
        self.restart()

    def restart(self) -> None:
        """Begin again with the same folder and storage."""
        self.source = FolderSource(self.root, SHARE, self.storage, self.clock)

    # Files
    def path(self, key: bytes | str) -> Path:
        return self.root / os.fsdecode(key)

    def write(self, key: bytes | str, data: bytes | str = b"x", *, mode: int | None = None) -> Path:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        if mode is not None:
            path.chmod(mode)
        return path

    def read(self, key: bytes | str) -> bytes:
        return self.path(key).read_bytes()

    def tree(self) -> dict[bytes, tuple[str, int, bytes | None]]:
        """Everything in the folder but `.p2psync`: type and mode, mtime, content or target."""
        found: dict[bytes, tuple[str, int, bytes | None]] = {}
        for path in self.root.rglob("*"):
            key = os.fsencode(path.relative_to(self.root))
            if key.startswith(b".p2psync") and not key.startswith(b".p2psyncignore"):
                continue
            status = path.lstat()
            content: bytes | None = None
            if path.is_symlink():
                content = os.fsencode(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
            found[key] = (oct(status.st_mode), status.st_mtime_ns, content)
        return found

    def history(self) -> list[bytes]:
        """The contents of all files in history."""
        paths = sorted((self.root / ".p2psync/history").rglob("*"))
        files = [path for path in paths if path.is_symlink() or path.is_file()]
        return [os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() for path in files]

    def staged(self) -> list[str]:
        return sorted(path.name for path in (self.root / ".p2psync/staging").iterdir())

    # The least of a replica
    def look(self, dirty: Dirty = EVERYTHING) -> list[Observation | ItemError | Unapplied]:
        """Scan without recording."""
        return list(self.source.scan(dirty))

    def keys(self, *keys: bytes) -> list[Observation | ItemError | Unapplied]:
        return self.look(Dirty(keys=frozenset(keys)))

    def scan(self, dirty: Dirty = EVERYTHING) -> list[Observation]:
        """Scan and record what was found, as new versions of this device."""
        seen = []
        for found in self.source.scan(dirty):
            if isinstance(found, ItemError):
                self.errors[found.key] = found.reason
            elif isinstance(found, Unapplied):
                self.storage.put_pending(replace(self.storage.items[found.key].item))
                pending = self.storage.waiting[found.key]
                self.storage.waiting[found.key] = replace(pending, base=None)
            else:
                seen.append(found)
                self.record(found)
        return seen

    def record(self, found: Observation) -> None:
        draft = found.draft
        known = self.storage.items.get(draft.key)
        if known is not None and draft.key not in self.storage.waiting and known.item.same_value(draft):
            self.storage.put(replace(known, state=found.state))
            return
        pending = self.storage.waiting.get(draft.key)
        if pending is not None and pending.item.same_value(draft):
            self.storage.put(Stored(item=pending.item, state=found.state))
            return
        applied = self.storage.applied(draft.key)
        replaced = [] if known is None or pending is not None else [known.item]
        if pending is not None and applied is not None:
            replaced = [applied.item]
        item = self.version(draft, *replaced)
        if pending is None:
            self.storage.put(Stored(item=item, state=found.state))
        else:
            self.storage.put(Stored(item=item, state=found.state))
            self.receive([pending.item])

    def version(self, draft: Draft, *replaced: Item) -> Item:
        self.seq = max(self.seq + 1, self.clock.now_us())
        return supersede(draft, Dot(self.actor, self.seq), self.clock.now_us(), *replaced)

    def receive(self, items: Sequence[Item]) -> None:
        """Take versions in, deciding about concurrent ones."""
        for theirs in items:
            known = self.storage.items.get(theirs.key)
            if known is None or dominates(theirs, known.item):
                if known is None or known.item.dot != theirs.dot:
                    self.storage.put_pending(theirs)
                continue
            if dominates(known.item, theirs):
                continue
            self.conflict(known, theirs)

    def conflict(self, known: Stored, theirs: Item) -> None:
        merged = self.source.merge(known.item, theirs)
        if merged.aside is not None and merged.aside.key == self.source.aside(known.item).key and known.state:
            state = self.source.preserve(known, merged.aside.key)
            assert state is not None
            if merged.aside.key not in self.storage.items:
                self.storage.put(Stored(item=self.version(merged.aside), state=state))
        if merged.rewrite is not None:
            self.storage.put_pending(self.version(merged.rewrite, known.item, theirs))
        elif merged.winner is Side.THEIRS:
            self.storage.put_pending(theirs.knowing(known.item))
        else:
            self.storage.items[theirs.key] = replace(known, item=known.item.knowing(theirs))

    def settle_structure(self) -> None:
        """Bring directories back under live things, as the replica does; a file in the way goes aside."""
        live = [key for key, row in self.storage.items.items() if row.item.live]
        for parent in sorted({key.rpartition(b"/")[0] for key in live} - {b""}):
            row = self.storage.items.get(parent)
            if row is not None and row.item.kind is Kind.DIRECTORY:
                continue
            if row is not None and row.item.live:
                if not row.state:
                    continue  # the device that holds the bytes decides
                aside = replace(row.item, key=self.source.aside(row.item).key)
                state = self.source.preserve(row, aside.key)
                assert state is not None
                draft = Draft(
                    key=aside.key, kind=aside.kind, digest=aside.digest, size=aside.size, meta=aside.meta
                )
                self.storage.put(Stored(item=self.version(draft), state=state))
            old = row.item if row is not None else None
            self.storage.put_pending(
                self.version(directory_draft(parent), *([old] if old is not None else []))
            )

    def apply(self, contents: dict[bytes, bytes], *, size: int = 10_000) -> list[Outcome]:
        """Stage and apply what is pending, in batches of `size` in key order; return the outcomes."""
        outcomes: list[Outcome] = []
        waiting = sorted(self.storage.waiting.values(), key=lambda one: (not one.item.live, one.item.key))
        for at in range(0, len(waiting), size):
            batch = waiting[at : at + size]
            ready = self.source.stage_local(batch)
            for pending in batch:
                item = pending.item
                if item.key not in ready:
                    self.source.put_content(item.digest, contents[item.digest])
                    self.fetched.append(item.key)
            outcomes += self.settle(self.source.apply(batch))
        return outcomes

    fetched: list[bytes] = field(default_factory=list)

    def settle(self, outcomes: list[Outcome]) -> list[Outcome]:
        for outcome in outcomes:
            if isinstance(outcome, Applied):
                pending = self.storage.waiting[outcome.key]
                self.storage.put(Stored(item=pending.item, state=outcome.state))
            elif isinstance(outcome, Failed):
                self.errors[outcome.key] = outcome.reason
        return outcomes

    def contents(self) -> dict[bytes, bytes]:
        """What a peer can fetch from here, by digest."""
        found = {}
        for stored in self.storage.items.values():
            applied = self.storage.applied(stored.item.key)
            if applied is None:
                continue
            reader = self.source.reader(applied)
            if reader is not None:
                data = reader.read_at(0, reader.size)
                found[blake3(data).digest()] = data
                reader.close()
        return found

    def items(self) -> list[Item]:
        return [self.storage.items[key].item for key in sorted(self.storage.items)]


def sync(*devices: Device, rounds: int = 8) -> None:
    """Let devices exchange everything until nothing changes."""
    for device in devices:
        device.scan()
    for _ in range(rounds):
        before = [device.items() for device in devices]
        for one in devices:
            for other in devices:
                if one is other:
                    continue
                one.receive(other.items())
                one.settle_structure()
                outcomes = one.apply(other.contents())
                keys = frozenset(found.key for found in outcomes if isinstance(found, Surprised))
                if keys:
                    one.scan(Dirty(keys=keys))
        for device in devices:
            device.scan(Dirty(keys=frozenset(device.source.take_busy().keys)))
        if [device.items() for device in devices] == before:
            return


def file_draft(key: bytes, data: bytes, *, mode: int = 0o644, mtime_ns: int = MTIME_NS) -> Draft:
    meta = encode(Attributes(mode=mode, mtime_ns=mtime_ns))
    return Draft(key=key, kind=Kind.FILE, digest=blake3(data).digest(), size=len(data), meta=meta)


def directory_draft(key: bytes, *, mode: int = 0o755, mtime_ns: int = MTIME_NS) -> Draft:
    return Draft(key=key, kind=Kind.DIRECTORY, meta=encode(Attributes(mode=mode, mtime_ns=mtime_ns)))


def symlink_draft(key: bytes, target: bytes, *, mtime_ns: int = MTIME_NS) -> Draft:
    meta = encode(Attributes(mode=0o777, mtime_ns=mtime_ns, target=target))
    return Draft(key=key, kind=Kind.SYMLINK, digest=blake3(target).digest(), meta=meta)


def tombstone(key: bytes) -> Draft:
    return Draft(key=key, kind=Kind.TOMBSTONE)


@pytest.fixture
def make_device(tmp_path: Path) -> Callable[[str], Device]:
    """Makes a device with an empty share."""

    def make(name: str) -> Device:
        return Device(tmp_path / name, ActorId(name.encode().ljust(8, b"_")[:8]))

    return make


@pytest.fixture
def as_user() -> Iterator[Path]:
    """A folder in a place that everybody may look into; the test runs as a user without privileges."""
    folder = Path(tempfile.mkdtemp(prefix="p2p-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.fixture
def here(make_device: Callable[[str], Device]) -> Device:
    """A device."""
    return make_device("here")


@pytest.fixture
def there(make_device: Callable[[str], Device]) -> Device:
    """Another device of the same share."""
    return make_device("there")


class Lab:
    """What tests need beside devices: drafts, and the exchange between devices."""

    SHARE = SHARE
    ACTOR = ActorId(b"an actor")
    EVERYTHING = EVERYTHING
    MTIME_NS = MTIME_NS
    sync = staticmethod(sync)
    file = staticmethod(file_draft)
    directory = staticmethod(directory_draft)
    symlink = staticmethod(symlink_draft)
    tombstone = staticmethod(tombstone)
    Device = Device


@pytest.fixture
def lab() -> Lab:
    """See `Lab`."""
    return Lab()
