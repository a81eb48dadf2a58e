"""The shares of this device: opening, adding, accepting and forgetting them."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.guard import has_room
from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.daemon.config import Config
from p2psyncd.daemon.executor import Executor
from p2psyncd.daemon.forgetting import forget_now_and_then
from p2psyncd.daemon.incarnation import begin, place_of
from p2psyncd.daemon.lost import give_up_lost_contents
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.report import checked_mode
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.daemon.share import FILESYSTEM, RunningShare
from p2psyncd.daemon.transfer import Held, Sent
from p2psyncd.errors import (
    BadRequest,
    DatabasesUnsupported,
    FolderMissing,
    NestedShare,
    NoSuchShare,
    NotAFolder,
    P2psyncError,
    ShareExists,
    ShareHeld,
)
from p2psyncd.sources.folder.conflicts import is_conflict_copy
from p2psyncd.sources.folder.folder import FolderSource
from p2psyncd.sources.folder.guard import check_new_root, create_marker, remove_marker
from p2psyncd.sources.folder.history import HistoryLimits
from p2psyncd.sources.folder.layout import META
from p2psyncd.sources.folder.structure import acceptable, chunks_of, directory_draft
from p2psyncd.store.device import DeviceStore, PeerRecord, ShareRecord
from p2psyncd.store.share import ShareStore
from p2psyncd.wire.codec import INT_MAX
from p2psyncd.wire.messages import Offer, Offers

__all__ = ["Shares"]

log = logging.getLogger(__name__)
T = TypeVar("T")

SQLITE_MAGIC = b"SQLite format 3\x00"
MEMBERS = "members"
SECRET_BYTES = 32
SHARE_ID_BYTES = 16


class Shares:
    """The table of shares and what runs for each."""

    def __init__(
        self,
        *,
        state_dir: Path,
        device: DeviceId,
        devices: DeviceStore,
        config: Config,
        clock: Clock,
        executor: Executor,
        entropy: Callable[[int], bytes],
        on_change: Callable[[], None],
    ) -> None:
        self.folder = state_dir / "shares"
        self.device = device
        self.devices = devices
        self.config = config
        self.clock = clock
        self.executor = executor
        self.entropy = entropy
        self.on_change = on_change
        self.running: dict[ShareId, RunningShare] = {}
        self.broken: dict[ShareId, tuple[ShareRecord, str]] = {}
        """Shares that could not be opened, and why."""
        self.nursery: trio.Nursery | None = None
        self.sessions_of: Callable[[RunningShare], Sequence[SessionDriver]] = lambda share: ()
        """The open sessions of a share; whoever looks after the peers sets it."""
        self.tell_lost: Callable[[RunningShare, bytes], None] = lambda share, key: None
        """Called when a version was given up because no device has its content."""
        self.changing = trio.Lock()
        """Held while shares come or go: what was checked of names and paths stays true meanwhile."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Open every share and keep them running."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for record in self.devices.shares():
                await self.start(record)
            task_status.started()
            await trio.sleep_forever()

    # Looking up

    def all(self) -> list[RunningShare]:
        """Return the running shares by name."""
        return sorted(self.running.values(), key=lambda share: share.record.name)

    def named(self, name: str) -> RunningShare:
        """Return a running share by its name or ID.

        Raises:
            NoSuchShare: There is none.
        """
        for share in self.running.values():
            if name in {share.record.name, share.record.id.hex()}:
                return share
        for record, reason in self.broken.values():
            if name == record.name:
                raise NoSuchShare(f"{name} could not be opened: {reason}")
        raise NoSuchShare(name)

    def holding(self, path: Path) -> tuple[RunningShare, bytes]:
        """Return the share that a path lies in, and its key there.

        Raises:
            NoSuchShare: It lies in none.
        """
        # Shares have real paths. The last part may be a symlink that is shared itself, or one to a share's root.
        real = path.parent.resolve() / path.name
        for share in self.running.values():
            root = Path(share.record.path)
            if root in real.parents:
                return share, os.fsencode(real.relative_to(root).as_posix())
        for share in self.running.values():
            if Path(share.record.path) == real.resolve():
                return share, b""
        raise NoSuchShare(f"{path} is in no share")

    # Who may have what

    def for_device(self, peer: PeerRecord) -> list[RunningShare]:
        """Return the shares that a paired device may have.

        A share goes to the devices it was shared with, else to all; but an introduced device gets only
        what its introducer holds.
        """
        found = []
        for share in self.running.values():
            chosen = share.record.with_devices
            members = self.members(share)
            if chosen is not None:
                allowed = peer.device in chosen or peer.device in members
            elif peer.introduced_by is not None:
                allowed = peer.introduced_by in members or peer.device in members
            else:
                allowed = True
            if allowed:
                found.append(share)
        return found

    def members(self, share: RunningShare) -> set[DeviceId]:
        """Return the devices that are known to hold a share."""
        texts = share.record.settings.get(MEMBERS, [])
        return {DeviceId(bytes.fromhex(text)) for text in texts} if isinstance(texts, list) else set()

    def note_member(self, share: ShareId, device: DeviceId) -> bool:
        """Remember that a device holds a share; return whether that is news."""
        running = self.running.get(share)
        if running is None or device in self.members(running):
            return False
        members = sorted(member.hex() for member in self.members(running) | {device})
        self.update(running, replace(running.record, settings={**running.record.settings, MEMBERS: members}))
        return True

    def offers(self, peer: PeerRecord) -> Offers:
        """Return what a paired device is offered now."""
        return Offers(
            offers=tuple(
                Offer(
                    share=share.record.id,
                    name=share.record.name,
                    kind=share.record.kind,
                    secret=share.record.secret,
                    items=share.replica.totals.items,
                    size=min(share.replica.totals.size, INT_MAX),
                    held=share.replica.phase in {Phase.HELD, Phase.ERROR},
                )
                for share in self.for_device(peer)
                if share.replica.phase is not Phase.PAUSED
            )
        )

    # Adding

    async def add(
        self,
        path: Path,
        *,
        name: str | None,
        kind: str | None,
        mode: str,
        with_devices: Sequence[DeviceId] | None,
    ) -> RunningShare:
        """Share a folder."""
        root = self.usable_root(path, kind)
        if name is not None and not is_name(name):
            raise BadRequest("A share's name must be printable, not empty, and without a slash")
        record = ShareRecord(
            id=ShareId(self.entropy(SHARE_ID_BYTES)),
            name=name or root.name or "root",
            kind="folder",
            path=str(root),
            mode=checked_mode(mode),
            secret=self.entropy(SECRET_BYTES),
            paused=False,
            with_devices=tuple(with_devices) if with_devices is not None else None,
            added_us=self.clock.now_us(),
            settings={},
        )
        return await self.to_the_end(lambda: self.admit(record))

    async def accept(self, offer: Offer, path: Path, *, mode: str, member: DeviceId) -> RunningShare:
        """Join an offered share, merging with whatever is at `path`.

        A share of this device at the same path that nobody else holds yet gives way: two people who
        both began with `p2psync up` want one share, not two.
        """
        return await self.to_the_end(lambda: self.join(offer, path, mode=mode, member=member))

    async def join(self, offer: Offer, path: Path, *, mode: str, member: DeviceId) -> RunningShare:
        """Join an offered share; other changes wait."""
        if offer.kind != "folder":
            raise DatabasesUnsupported(offer.name)
        if offer.share in self.running:
            raise ShareExists(f"{offer.name} is accepted already")
        real = await self.executor.run(lambda: os.path.realpath(path))
        if any(offer.name == one.record.name and one.record.path != real for one in self.running.values()):
            raise ShareExists(offer.name)
        mode = checked_mode(mode)
        await self.give_way(real)
        made = await self.executor.run(lambda: make_folder(path))
        try:
            record = ShareRecord(
                id=offer.share,
                name=offer.name,
                kind="folder",
                path=str(self.usable_root(path, "folder")),
                mode=mode,
                secret=offer.secret,
                paused=False,
                with_devices=None,
                added_us=self.clock.now_us(),
                settings={MEMBERS: [member.hex()]},
            )
            return await self.admit(record)
        except P2psyncError:
            if made:
                with trio.CancelScope(shield=True):  # bounded: one rmdir
                    await self.executor.run(lambda: unmake_folder(path))
            raise

    async def give_way(self, real: str) -> None:
        """Forget a share at exactly this path, if no other device holds it."""
        for share in self.all():
            if share.record.path == real and not self.members(share):
                log.info("share_gives_way share=%s path=%s", share.record.name, real)
                await self.drop(share)

    def usable_root(self, path: Path, kind: str | None) -> Path:
        """Return a folder's real path if it can be a share.

        Raises:
            FolderMissing, NotAFolder, DatabasesUnsupported, NestedShare: It cannot.
        """
        if kind == "database" or is_database(path):
            raise DatabasesUnsupported(str(path))
        root = check_new_root(path)
        known = [share.record for share in self.running.values()]
        known += [record for record, _ in self.broken.values()]
        for record in known:
            other = Path(record.path)
            if root == other or other in root.parents or root in other.parents:
                raise NestedShare(f"{root} and the share {record.name} ({other}) overlap")
        return root

    async def admit(self, record: ShareRecord) -> RunningShare:
        """Write a new share down and start it; other changes wait."""
        self.usable_root(Path(record.path), record.kind)  # another may have come since it was asked for
        if any(record.name == share.record.name for share in self.running.values()):
            raise ShareExists(record.name)
        root = Path(record.path)
        await self.executor.run(lambda: create_marker(root, record.id))
        self.devices.put_share(record)
        share = await self.start(record)
        if share is None:
            _, reason = self.broken.pop(record.id)
            self.devices.remove_share(record.id)
            await self.executor.run(lambda: remove_marker(root))
            raise NotAFolder(f"{root}: {reason}")
        self.on_change()
        return share

    async def start(self, record: ShareRecord) -> RunningShare | None:
        """Open a share and start its tasks; one that cannot be opened is remembered with the reason."""
        try:
            share = await self.executor.run(lambda: self.open(record))
        except (OSError, P2psyncError) as error:
            log.error("share_unusable share=%s error=%s", record.name, error)  # noqa: TRY400  (the reason says it all)
            self.broken[record.id] = (record, str(error))
            return None
        if record.paused:
            # Before anybody is told of it: peers would wait for a session that does not come.
            share.replica.enter(Phase.PAUSED, "paused by `p2psync share pause`")
        self.running[record.id] = share
        assert self.nursery is not None
        self.nursery.start_soon(share.run)
        return share

    def open(self, record: ShareRecord) -> RunningShare:
        """Open a share's store and source; blocks."""
        with ExitStack() as undo:
            share = self.assemble(record, undo)
            undo.pop_all()
        return share

    def assemble(self, record: ShareRecord, undo: ExitStack) -> RunningShare:
        """Open a share's parts; what is opened is closed by `undo` if a later part fails."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.folder / f"{record.id.hex()}.db"
        store = ShareStore.open(
            file,
            share_id=record.id,
            secret=record.secret,
            mint_actor=lambda: ActorId(self.entropy(8)),
            is_conflict=is_conflict_copy,
            received_us=self.clock.now_us,
        )
        undo.callback(store.close)
        catalogue = store.reader()
        undo.callback(catalogue.close)
        noted = store.setting(FILESYSTEM)
        source = FolderSource(
            Path(record.path),
            record.id,
            catalogue,
            self.clock,
            limits=self.limits(),
            filesystem=int(noted) if noted else None,
        )
        source.tidy()
        incarnation = begin(store, source, place_of(file), entropy=self.entropy)
        # Peers learn from this whose writes they see: deltas name the device of each actor.
        store.learn_actors([(store.actor(), self.device)])
        replica = Replica(
            share=record.id,
            store=store,
            source=source,
            directory=directory_draft,
            acceptable=acceptable,
            clock=self.clock,
            executor=self.executor,
            mode=record.mode,
            incarnation=incarnation,
        )
        sent = Sent()
        held = Held(
            with_digest=catalogue.with_digest,
            chunk_list=catalogue.chunk_list,
            source=source,
            chunker=chunks_of,
            sent=sent.count,
            has_room=lambda size: has_room(*source.free_bytes(), size),
        )
        return RunningShare(
            record=record,
            store=store,
            catalogue=catalogue,
            folder=source,
            replica=replica,
            held=held,
            sent=sent,
            clock=self.clock,
            executor=self.executor,
            scan_interval_s=self.config.scan_interval_s,
            keep_house=self.keep_house,
            on_change=self.on_change,
        )

    async def keep_house(self, share: RunningShare) -> None:
        """Do for a share, for ever, what needs a view of its other members."""

        def members() -> set[DeviceId]:
            return self.members(share) & {peer.device for peer in self.devices.peers()}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(
                    forget_now_and_then,
                    share.replica,
                    self.clock,
                    days=self.config.tombstones_days,
                    members=members,
                    sessions=lambda: self.sessions_of(share),
                )
            )
            nursery.start_soon(
                partial(
                    give_up_lost_contents,
                    share.applier,
                    ours=self.device,
                    members=members,
                    tell=lambda key: self.tell_lost(share, key),
                )
            )

    def limits(self) -> HistoryLimits:
        """Return how much history is kept."""
        return HistoryLimits(
            days=self.config.history_days,
            share_percent=self.config.history_share_percent,
            bytes_min=self.config.history_min_mb * 1_000_000,
        )

    # Changing and forgetting

    def update(self, share: RunningShare, record: ShareRecord) -> None:
        """Write a share's changed record down."""
        share.record = record
        self.devices.put_share(record)

    async def restart(self, share: RunningShare, record: ShareRecord) -> RunningShare | None:
        """Stop a share and start it again with another record."""

        async def again() -> RunningShare | None:
            if self.running.get(record.id) is not share:
                raise NoSuchShare(record.name)  # removed, or started anew by somebody else
            self.update(share, record)
            del self.running[record.id]
            self.on_change()
            await share.stop()
            started = await self.start(record)
            self.on_change()
            return started

        return await self.to_the_end(again)

    async def remove(self, share: RunningShare) -> None:
        """Forget a share; its data stays."""
        await self.to_the_end(lambda: self.drop(share))

    async def drop(self, share: RunningShare) -> None:
        """Forget a share; other changes wait."""
        if self.running.pop(share.record.id, None) is None:
            raise NoSuchShare(share.record.name)
        self.on_change()
        await share.stop()
        self.devices.remove_share(share.record.id)
        await self.executor.run(lambda: forget_state(self.folder, share.record.id))
        await self.executor.run(lambda: forget_marker(share))

    async def remove_broken(self, record: ShareRecord) -> None:
        """Forget a share that could not be opened; its data stays, and so does the marker."""
        self.broken.pop(record.id, None)
        self.devices.remove_share(record.id)
        await self.executor.run(lambda: forget_state(self.folder, record.id))

    async def to_the_end(self, change: Callable[[], Awaitable[T]]) -> T:
        """Carry out one change of the table, after any other, even if the client who asked goes away.

        Half of it would leave a share that is written down and not running, or the other way round.
        """
        assert self.nursery is not None
        over = trio.Event()
        results: list[T] = []
        failures: list[Exception] = []

        async def carry_out() -> None:
            try:
                async with self.changing:
                    results.append(await change())
            except Exception as error:  # noqa: BLE001  (handed to the caller below, whatever it is)
                failures.append(error)
            finally:
                over.set()

        self.nursery.start_soon(carry_out)
        await over.wait()
        if failures:
            raise failures[0]
        if not results:
            raise P2psyncError("The daemon is stopping")
        return results[0]


def is_name(name: str) -> bool:
    """Return whether a share may be called so: a peer makes a folder of that name of it."""
    return name.isprintable() and bool(name.strip()) and "/" not in name and name not in {".", ".."}


def is_database(path: Path) -> bool:
    """Return whether a path is an SQLite file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def make_folder(path: Path) -> bool:
    """Make a folder if it is missing; return whether it was.

    Raises:
        FolderMissing: Its parent is missing too, or it cannot be made there.
    """
    if path.exists():
        return False
    try:
        path.mkdir()
    except OSError as error:
        raise FolderMissing(f"{path} cannot be made: {error.strerror}") from error
    return True


def unmake_folder(path: Path) -> None:
    """Take away a folder that was made for nothing; one that holds something by now stays."""
    shutil.rmtree(path / os.fsdecode(META), ignore_errors=True)
    with suppress(OSError):
        path.rmdir()


def forget_state(folder: Path, share: ShareId) -> None:
    """Take a share's state away."""
    file = folder / f"{share.hex()}.db"
    for name in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
        name.unlink(missing_ok=True)


def forget_marker(share: RunningShare) -> None:
    """Take the folder's marker away; a folder that is gone or held needs nothing."""
    try:
        share.folder.check()
        remove_marker(share.folder.root)
    except (OSError, ShareHeld) as error:
        log.info("marker_left share=%s error=%s", share.record.name, error)
