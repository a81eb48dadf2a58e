"""The real folder source on a simulated disk: a kind of share for the simulation.

Each machine has a disk of its own with the shared folder on it, and beside it the store's file. A device
is the whole replica of the daemon, with `FolderSource` as it is: it scans, stages, exchanges
and syncs through `system`. Watching is not simulated: the world tells the replica where to look, or does not.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

import trio
from filesystem import Disk, DiskState
from folderuser import FolderUser, random_operation, value_of, walk
from kinds import SHARE, Claim, Deed, Operation, Snapshot
from machines import CommonDevice, CommonMachine
from system import System

from p2psyncd.daemon.replica import Phase
from p2psyncd.errors import P2psyncError
from p2psyncd.sources.folder.content import digest_of
from p2psyncd.sources.folder.folder import FolderSource
from p2psyncd.sources.folder.guard import create_marker
from p2psyncd.sources.folder.layout import HISTORY, STAGING
from p2psyncd.sources.folder.structure import acceptable, directory_draft

__all__ = ["FolderDevice", "FolderKind", "FolderMachine"]

T = TypeVar("T")

MOUNT = "/sim"
ROOT = MOUNT + "/share"
GROWS = frozenset({"clone", "create", "mkdir", "symlink", "write"})
READS = frozenset({"list", "read"})


@dataclass(slots=True)
class Backup:
    """A backup of a machine."""

    disk: DiskState
    state: bytes


class SystemExecutor:
    """Runs blocking functions in place, on a simulated kernel."""

    def __init__(self, system: System) -> None:
        self.system = system

    async def run(self, call: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        with self.system.active():
            return call()


class FolderDevice(CommonDevice):
    """A running device on a folder."""

    machine: FolderMachine
    source: FolderSource

    def __init__(self, machine: FolderMachine) -> None:
        self.system = machine.system
        store = machine.open_store()
        with self.system.active():
            source = FolderSource(Path(ROOT), SHARE, store.reader(), machine.clock)
            source.applying.sync_one = self.system.fsync
            source.tidy()
            super().__init__(machine, store, source, directory_draft)
        self.replica.acceptable = lambda item: acceptable(item.key)
        self.replica.executor = SystemExecutor(self.system)

    def content(self, digest: bytes) -> bytes | None:
        """Return a content of this device, as `daemon.transfer.Provider` does."""
        with self.system.active():
            for stored in self.store.with_digest(digest):
                reader = self.source.reader(stored)
                if reader is None:
                    continue
                try:
                    data = reader.read_at(0, reader.size)
                    # What does not have the digest is no answer: the peer would find out, and say so.
                    if reader.unchanged() and digest_of(data) == digest:
                        return data
                except OSError:
                    continue
                finally:
                    reader.close()
        return None

    def put_content(self, digest: bytes, data: bytes) -> None:
        """Stage a content: every other one at once, the rest piece by piece."""
        with self.system.active():
            if digest[0] % 2:
                self.source.put_content(digest, data)
                return
            writer = self.source.writer(digest, len(data))
            try:
                middle = max(len(data) // 2, writer.resume_at)
                writer.write_at(writer.resume_at, data[writer.resume_at : middle])
                writer.write_at(middle, data[middle:])
                writer.commit()
            finally:
                writer.suspend()

    def unrecorded(self) -> set[Claim]:
        user = self.machine.user
        found = ((value_of(inode), inode, key) for key, inode in user.tree())
        claims = [
            (Claim(value, key), digest_of(inode.data)) for value, inode, key in found if value is not None
        ]
        return {claim for claim, digest in claims if not self.is_recorded(claim, digest)}

    def ailments(self) -> list[str]:
        machine = self.machine
        found = super().ailments()
        with self.system.active(), machine.disk.undisturbed():
            try:
                found += [f"{one.key!r}: {one.reason}" for one in self.source.verify()]
            except P2psyncError as error:
                found.append(str(error))
        staging = machine.user.at(STAGING)
        if staging is not None and self.replica.phase is Phase.READY:
            found += [f"left in staging: {name!r}" for name in staging.entries or ()]
        return found + [f"left open: {handle}" for handle in self.system.handles.values()]

    def close(self) -> None:
        self.system.forget(self.machine.disk)
        super().close()


class FolderMachine(CommonMachine):
    """A machine with a shared folder on its disk."""

    def __init__(
        self, number: int, kind: FolderKind, *, mode: str = "send-receive", skew_us: int = 0
    ) -> None:
        super().__init__(number, mode=mode, skew_us=skew_us)
        self.kind = kind
        self.system = System()
        self.disk = Disk(self.clock, number=number + 1, ordered=kind.ordered)
        self.disk.fault = self.pass_through
        self.system.mount(MOUNT, self.disk)
        self.user = FolderUser(self.system, self.disk, ROOT.encode())

    def pass_through(self, name: str) -> None:
        """Let what the world does to this machine strike an operation."""
        if name not in READS:
            self.hazard.operation(name, grows=name in GROWS)

    def prepare(self) -> None:
        """Make the folder a share."""
        with self.disk.undisturbed(), self.system.active():
            self.system.mkdir(ROOT)
            create_marker(Path(ROOT), SHARE)
        self.disk.sync(None)

    # What users do, and what is there
    def operate(self, operation: Operation) -> Deed:
        deed = self.user.operate(operation)
        if self.kind.durable:
            self.disk.sync(None)
        return deed

    def picture(self) -> Mapping[bytes, object]:
        return {
            key: (stat.filemode(inode.mode), value_of(inode))
            for key, inode in self.user.tree()
            if stat.S_IFMT(inode.mode) in {stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR}
        }

    def claims(self) -> AbstractSet[Claim]:
        found = ((value_of(inode), key) for key, inode in self.user.tree())
        return {Claim(value, key) for value, key in found if value is not None}

    def kept(self) -> AbstractSet[bytes]:
        history = self.user.at(HISTORY)
        if history is None or history.entries is None:
            return set()
        found = (value_of(inode) for _, inode in walk(self.disk, history))
        return {value for value in found if value is not None}

    # Processes and disks
    def boot(self) -> FolderDevice:
        return FolderDevice(self)

    def cut_power(self, random: Random) -> None:
        super().cut_power(random)
        self.disk.crash(random, power=True)

    def snapshot(self) -> Snapshot:
        return Backup(self.disk.snapshot(), self.state.newest)

    def restore(self, snapshot: Snapshot, *, everything: bool, noticed: bool) -> None:
        self.rewind(snapshot.state, noticed=noticed)
        if everything:
            self.disk.restore(snapshot.disk)

    def clone(self, number: int, *, noticed: bool) -> FolderMachine:
        other = FolderMachine(number, self.kind, mode=self.mode)
        other.become_copy_of(self, noticed=noticed)
        other.disk.restore(self.disk.snapshot())
        return other


class FolderKind:
    """See the top of the file."""

    name = "folder"

    def __init__(self, *, durable: bool = False, ordered: bool = False) -> None:
        """Choose the disks.

        Args:
            durable: Whether what users write survives a power cut at once.
            ordered: Whether changes survive one in their order; see `filesystem`.
        """
        self.durable = durable
        self.ordered = ordered

    def machine(self, number: int, *, mode: str = "send-receive", skew_us: int = 0) -> FolderMachine:
        machine = FolderMachine(number, self, mode=mode, skew_us=skew_us)
        machine.prepare()
        return machine

    def operation(self, random: Random, serial: int) -> Operation:
        return random_operation(random, serial)
