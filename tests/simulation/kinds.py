"""What the simulation knows of a kind of share: machines, devices, what users do, and what must be found again.

The world makes machines, lets users work on them, boots and kills the device on each, and connects
devices. It knows replicas and sources, never folders or rows: those are behind `Kind`, `Machine` and
`Device`. An operation of a user is a plain tuple that only its kind reads, so that a trace of any
kind is printed, cut down and replayed alike.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, Protocol

import trio

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.replica import Replica
from p2psyncd.sources.source import Dirty
from p2psyncd.store.share import ShareStore

__all__ = [
    "SECRET",
    "SHARE",
    "Claim",
    "Clock",
    "Deed",
    "Device",
    "Hazard",
    "Killed",
    "Kind",
    "Machine",
    "Operation",
    "Snapshot",
]

SHARE = ShareId(b"simulated-share!")
SECRET = bytes(32)

Operation = tuple[Any, ...]
"""What a user does: a name and arguments, all plain literals."""
Snapshot = Any
"""What a backup of a machine holds; only the kind that made it looks inside."""


class Clock:
    """A machine's clock: trio's, which the simulation moves, with an error of its own."""

    def __init__(self, skew_us: int = 0) -> None:
        self.skew_us = skew_us

    def now_us(self) -> int:
        return 1_700_000_000_000_000 + int(trio.current_time() * 1_000_000) + self.skew_us

    def monotonic_s(self) -> float:
        return trio.current_time()


class Killed(BaseException):
    """The device's process ended here, in the midst of what it did."""


@dataclass
class Hazard:
    """What may go wrong on one machine, asked before every operation that changes what survives."""

    dead: bool = False
    """Whether the process is gone: whatever of it still runs must change nothing."""
    operations_left: int | None = None
    """Operations until the process is killed; None: it lives on."""
    full: bool = False
    """Whether the disk is full."""
    hit: str = ""
    """The operation that was not done any more."""

    def operation(self, name: str, *, grows: bool = False) -> None:
        """Go through an operation.

        Args:
            name: What it is ("commit", "rename" …), for the trace.
            grows: Whether it needs room on the disk.

        Raises:
            Killed: The process ends before it.
            OSError: No space left.
        """
        if self.operations_left is not None and not self.dead:
            self.operations_left -= 1
            if self.operations_left < 0:
                self.dead, self.hit = True, name
        if self.dead:
            raise Killed
        if self.full and grows:
            raise OSError(errno.ENOSPC, f"No space left for {name} (simulated)")

    def revive(self) -> None:
        """Begin a new process."""
        self.dead, self.operations_left, self.hit = False, None, ""


class Claim(NamedTuple):
    """A value that a user wrote, and where: as long as nobody knowingly takes it away it must be found again."""

    value: bytes
    name: bytes
    """Folder: a path; database: table, key and column."""


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What came of an operation of a user; all empty if it could not be done."""

    wrote: tuple[Claim, ...] = ()
    replaced: tuple[Claim, ...] = ()
    """What was there, and the user put something else in its place."""
    deleted: tuple[Claim, ...] = ()
    """What was there, and the user took it away. Moving something away deletes it where it was, and writes it
    where it is then."""
    named: frozenset[Claim] = frozenset()
    """Of these, what was not there itself: whoever takes a conflict copy away takes away what lost under the name itself.

    What lost may be there beside its copy still, or again: it is not deleted then, but who took the copy
    away has said that he does not want it.
    """
    dirty: Dirty = field(default_factory=Dirty)
    """The hints that a watch would give."""


class Device(Protocol):
    """A running process: a whole replica without a daemon around it. It is made by `Machine.boot`."""

    machine: Machine
    store: ShareStore
    replica: Replica
    applier: Applier
    comes_back: bool
    """Whether there is ever anything in `busy` or to `approve`."""

    def content(self, digest: bytes) -> bytes | None:
        """Return a content that a peer asks for, read from what is applied here; None if it is not here."""
        ...

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Stage a content that came from a peer (`Source.put_content`)."""
        ...

    def busy(self) -> Dirty:
        """Return where to look again a little later, and forget it."""
        ...

    def approve(self) -> None:
        """Decide as the user about what holds the share."""
        ...

    def unrecorded(self) -> set[Claim]:
        """Return what is on this machine and unknown to the store (under that name, with that value)."""
        ...

    def unsettled(self) -> set[Claim]:
        """Return what is on this machine and not noted as applied: it was put there right before the end."""
        ...

    def own(self) -> set[Claim]:
        """Return what is on this machine by a write of the actor that it goes by now."""
        ...

    def unseen(self) -> set[bytes]:
        """Return the names of what its state has by a write of that actor, and a user took away since: not noted yet."""
        ...

    def ailments(self) -> list[str]:
        """Return what is wrong though all is quiet: the store and the disk differ, a temporary file is left …"""
        ...

    def close(self) -> None:
        """Let go of files; the process is gone."""
        ...


class Machine(Protocol):
    """What survives a process: disk, identity, clock. At most one device runs on it."""

    number: int
    device: DeviceId
    """The device key; a clone has the same until it is paired again."""
    clock: Clock
    hazard: Hazard
    mode: str
    """"send-receive", "send-only" or "receive-only"."""
    revived: set[Claim]
    """What was deleted and is back by the rules of its kind (a parent whose child somebody else wrote), shared by all
    machines of one world."""

    # What users do

    def operate(self, operation: Operation) -> Deed:
        """Let a user work on what is on the disk, whether a device runs or not."""
        ...

    # What is there

    def picture(self) -> Mapping[bytes, object]:
        """Return the whole content of the share here, by name; equal on all devices when they agree."""
        ...

    def claims(self) -> AbstractSet[Claim]:
        """Return what is on the disk now, outside history and staging."""
        ...

    def remembered(self) -> AbstractSet[bytes]:
        """Return the values that are kept beside those in `claims`, on all devices alike (a row's conflict log)."""
        ...

    def kept(self) -> AbstractSet[bytes]:
        """Return the values that lie in history here: replaced or deleted by remote changes."""
        ...

    # Processes and disks; no device runs meanwhile

    def boot(self) -> Device:
        """Start a device: open the store as the disk has it now. `hazard.revive` was called before."""
        ...

    def cut_power(self, random: Random) -> None:
        """Undo some of what was not made durable, chosen by `random`; what was durable stays."""
        ...

    def snapshot(self) -> Snapshot:
        """Return a backup of the disk: state and content. A device may be running."""
        ...

    def restore(self, snapshot: Snapshot, *, everything: bool, noticed: bool) -> None:
        """Go back to a backup.

        Args:
            snapshot: What `snapshot` of this machine returned.
            everything: State and content, else the state only.
            noticed: Whether machine id, inodes and the like tell a device at its start; else it cannot know.
        """
        ...

    def clone(self, number: int, *, noticed: bool) -> Machine:
        """Return a second machine with the same disk, device key and clock."""
        ...

    def lose_row(self, random: Random) -> bytes | None:
        """Let one applied item vanish from the state, as by bit rot, trie kept consistent; return its name.

        What is on the disk stays.
        """
        ...

    def unsettled(self) -> AbstractSet[Claim]:
        """Return what is on the disk and not noted as applied in the state that is on it."""
        ...

    def records(self, name: bytes) -> bool:
        """Return whether its state has something under a name, whether that is on the disk or not."""
        ...

    def mint_actor(self) -> ActorId:
        """Return a fresh actor; never the same twice, whatever is restored."""
        ...


class Kind(Protocol):
    """A kind of share."""

    name: str

    def machine(self, number: int, *, mode: str = "send-receive", skew_us: int = 0) -> Machine:
        """Return a new machine with an empty disk."""
        ...

    def operation(self, random: Random, serial: int) -> Operation:
        """Return something that a user may do.

        Args:
            random: The only source of choice.
            serial: Makes the values that it writes unlike all others.
        """
        ...
