"""The kind of share that lives in a dictionary: files and directories without a file system.

What a user does here is what people do to folders: write, remove, move, make directories, change
modes, whatever is in the way. The rules of what that takes away are the same for real folders.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from random import Random

from blake3 import blake3
from kinds import Claim, Deed, Hazard, Machine, Operation, Snapshot
from machines import CommonDevice, CommonMachine
from memory import MemorySource, Node, directory
from stores import SimulatedStore

from p2psyncd.core.item import Kind as ItemKind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.sources.folder.conflicts import parse_conflict
from p2psyncd.sources.source import Dirty, Failed, Outcome

__all__ = [
    "NAMES",
    "MemoryDevice",
    "MemoryKind",
    "MemoryMachine",
    "about_a_copy",
    "file_operation",
    "named_before",
]

NAMES = [b"a", b"b", b"d", b"d/a", b"d/b", b"d/e", b"d/e/a", b"f/a"]
MODES = [0o600, 0o644, 0o755]


def file_operation(random: Random, serial: int) -> Operation:
    """Return something that people do to files."""
    name, other = random.choice(NAMES), random.choice(NAMES)
    # Now and then two people write the very same.
    number = serial if random.random() < 0.9 else random.randrange(3)
    force = random.random() < 0.5
    choice = random.random()
    if choice < 0.5:
        return ("edit", name, b"content %d" % number, force)
    if choice < 0.68:
        return ("remove", name)
    if choice < 0.82:
        return ("rename", name, other)
    if choice < 0.92:
        return ("chmod", name, random.choice(MODES))
    return ("mkdir", name, force)


def named_before(name: bytes) -> list[bytes]:
    """Return the names that a conflict copy's content had, the copy's own first."""
    names = [name]
    while (parsed := parse_conflict(names[-1])) is not None:
        names.append(parsed.key)
    return names


def about_a_copy(operation: Operation, names: Iterable[bytes]) -> Operation | None:
    """Return what a user does to one of the conflict copies that are there, as an ordinary operation; None: there is none.

    Args:
        operation: ("conflict", which, "edit" | "remove" | "keep", what is written).
        names: All that is there.
    """
    _, which, how, content = operation
    copies = [name for name in sorted(names) if parse_conflict(name) is not None]
    if not copies:
        return None
    name = copies[which % len(copies)]
    match how:
        case "edit":
            return ("edit", name, content, True)
        case "remove":
            return ("remove", name)
        case _:
            return ("rename", name, named_before(name)[1])


@dataclass
class SimulatedSource(MemorySource):
    """A dictionary on a machine that may fail."""

    hazard: Hazard = field(default_factory=Hazard)

    def apply_one(self, pending: Pending) -> Outcome:
        try:
            self.hazard.operation("apply", grows=pending.item.live)
        except OSError as error:
            return Failed(key=pending.item.key, reason=str(error))
        return super().apply_one(pending)

    def preserve(self, stored: Stored, key: bytes) -> bytes | None:
        self.hazard.operation("preserve", grows=True)
        return super().preserve(stored, key)

    def put_content(self, digest: bytes, data: bytes) -> None:
        self.hazard.operation("stage", grows=True)
        super().put_content(digest, data)

    def put_witness(self, witness: bytes) -> None:
        self.hazard.operation("witness")
        super().put_witness(witness)


class MemoryDevice(CommonDevice):
    """A running device on a dictionary."""

    machine: MemoryMachine
    source: SimulatedSource

    def content(self, digest: bytes) -> bytes | None:
        contents = (n.content for n in self.source.nodes.values() if n.kind is ItemKind.FILE)
        return next((content for content in contents if blake3(content).digest() == digest), None)

    def unrecorded(self) -> set[Claim]:
        return {c for c in self.machine.claims() if not self.is_recorded(c, blake3(c.value).digest())}


class MemoryMachine(CommonMachine):
    """A machine whose disk is a dictionary."""

    def __init__(self, number: int, *, mode: str = "send-receive", skew_us: int = 0) -> None:
        super().__init__(number, mode=mode, skew_us=skew_us)
        self.source = SimulatedSource(self.open_store(), self.clock.now_us, hazard=self.hazard)

    # What users do

    def operate(self, operation: Operation) -> Deed:
        user = User(self.source)
        if operation[0] == "conflict":
            files = (name for name, node in self.source.nodes.items() if node.kind is ItemKind.FILE)
            about = about_a_copy(operation, files)
            if about is None:
                return user.deed()
            operation = about
        match operation:
            case ("edit", bytes(name), bytes(content), bool(force)):
                user.edit(name, content, force=force)
            case ("remove", bytes(name)):
                user.remove(name)
            case ("rename", bytes(name), bytes(to)):
                user.rename(name, to)
            case ("chmod", bytes(name), int(mode)):
                user.chmod(name, mode)
            case ("mkdir", bytes(name), bool(force)):
                user.mkdir(name, force=force)
            case _:
                msg = f"no user can do {operation!r}"
                raise ValueError(msg)
        return user.deed()

    # What is there

    def picture(self) -> Mapping[bytes, object]:
        return self.source.tree()

    def claims(self) -> AbstractSet[Claim]:
        nodes = self.source.nodes.items()
        return {Claim(node.content, name) for name, node in nodes if node.kind is ItemKind.FILE}

    def kept(self) -> AbstractSet[bytes]:
        return {content for _, content in self.source.discarded}

    # Processes and disks

    def boot(self) -> MemoryDevice:
        store = self.open_store()
        self.source = self.source_on(store)
        return MemoryDevice(self, store, self.source, directory)

    def source_on(self, store: SimulatedStore) -> SimulatedSource:
        """Return the disk as a new process sees it."""
        old = self.source
        return SimulatedSource(
            store,
            self.clock.now_us,
            nodes=old.nodes,
            discarded=old.discarded,
            stamps=old.stamps,
            mark=old.mark,
            hazard=self.hazard,
        )

    def snapshot(self) -> Snapshot:
        source = self.source
        return self.state.newest, copy.deepcopy((source.nodes, source.discarded, source.mark))

    def restore(self, snapshot: Snapshot, *, everything: bool, noticed: bool) -> None:
        image, content = snapshot
        self.rewind(image, noticed=noticed)
        if everything:
            # `stamps` goes on: two writes never have the same fingerprint.
            self.source.nodes, self.source.discarded, self.source.mark = copy.deepcopy(content)

    def clone(self, number: int, *, noticed: bool) -> Machine:
        other = MemoryMachine(number, mode=self.mode)
        other.become_copy_of(self, noticed=noticed)
        source, mine = other.source, self.source
        source.nodes, source.discarded, source.mark = copy.deepcopy((mine.nodes, mine.discarded, mine.mark))
        source.stamps = mine.stamps
        return other


class User:
    """One operation of a user, and what it takes away on the way."""

    def __init__(self, source: MemorySource) -> None:
        self.source = source
        self.nodes = source.nodes
        self.wrote: list[Claim] = []
        self.replaced: list[Claim] = []
        self.deleted: list[Claim] = []
        self.at_hand: set[Claim] = set()
        self.named: set[Claim] = set()
        self.touched: set[bytes] = set()

    def deed(self) -> Deed:
        """Return what came of it."""
        named = frozenset(self.named - self.at_hand)
        still = [one for one in self.deleted if one in named and self.has(one)]
        return Deed(
            wrote=tuple(self.wrote),
            replaced=(*self.replaced, *still),
            deleted=tuple(one for one in self.deleted if one not in still),
            named=named,
            dirty=Dirty(keys=frozenset(self.touched)),
        )

    def has(self, claim: Claim) -> bool:
        """Return whether a value is under its name."""
        node = self.nodes.get(claim.name)
        return node is not None and node.content == claim.value

    def takes(self, name: bytes, into: list[Claim]) -> None:
        """Note that what is under a name goes."""
        node = self.nodes.get(name)
        if node is not None and node.kind is ItemKind.FILE:
            into.append(Claim(node.content, name))
            self.at_hand.add(Claim(node.content, name))
            for earlier in named_before(name)[1:]:
                into.append(Claim(node.content, earlier))
                self.named.add(Claim(node.content, earlier))

    def put(self, name: bytes, node: Node) -> None:
        """Write a file or directory, with the directories above it."""
        above = name.rpartition(b"/")[0]
        if above and above not in self.nodes:
            self.put(above, Node(ItemKind.DIRECTORY, mode=0o755))
        self.source.place(name, node)
        self.touched.add(name)

    def remove(self, name: bytes) -> None:
        gone = [n for n in self.nodes if n == name or n.startswith(name + b"/")]
        for each in gone:
            self.takes(each, self.deleted)
            del self.nodes[each]
        self.touched.update(gone)

    def room(self, name: bytes, kind: ItemKind, *, force: bool) -> bool:
        """Return whether a thing of a kind can be put under a name; make room if `force`."""
        parts = name.split(b"/")
        above = [b"/".join(parts[:count]) for count in range(1, len(parts))]
        in_the_way = [p for p in above if p in self.nodes and self.nodes[p].kind is not ItemKind.DIRECTORY]
        if name in self.nodes and (self.nodes[name].kind is not kind or kind is ItemKind.DIRECTORY):
            in_the_way.append(name)
        if in_the_way and not force:
            return False
        for each in in_the_way:
            self.remove(each)
        return True

    def edit(self, name: bytes, content: bytes, *, force: bool) -> None:
        if not self.room(name, ItemKind.FILE, force=force):
            return
        self.takes(name, self.replaced)
        self.wrote.append(Claim(content, name))
        self.put(name, Node(ItemKind.FILE, content, 0o644, mtime_ns=self.source.now_us() * 1000))

    def mkdir(self, name: bytes, *, force: bool) -> None:
        if self.room(name, ItemKind.DIRECTORY, force=force):
            self.put(name, Node(ItemKind.DIRECTORY, mode=0o755))

    def chmod(self, name: bytes, mode: int) -> None:
        node = self.nodes.get(name)
        if node is not None:
            self.put(name, Node(node.kind, node.content, mode, node.mtime_ns))

    def rename(self, name: bytes, to: bytes) -> None:
        nested = to == name or to.startswith(name + b"/") or name.startswith(to + b"/")
        if name not in self.nodes or nested or not self.room(to, self.nodes[name].kind, force=True):
            return
        moved = {n: self.nodes[n] for n in self.nodes if n == name or n.startswith(name + b"/")}
        if not moved:
            return  # it was in the way itself
        self.remove(name)
        for each, node in moved.items():
            target = to + each[len(name) :]
            self.takes(target, self.replaced)
            self.put(target, node)
            if node.kind is ItemKind.FILE:
                self.wrote.append(Claim(node.content, target))


class MemoryKind:
    """See the top of the file."""

    name = "memory"

    def machine(self, number: int, *, mode: str = "send-receive", skew_us: int = 0) -> MemoryMachine:
        return MemoryMachine(number, mode=mode, skew_us=skew_us)

    def operation(self, random: Random, serial: int) -> Operation:
        return file_operation(random, serial)
