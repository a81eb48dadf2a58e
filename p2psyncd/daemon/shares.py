"""The table of the shares of this device: finding, opening, starting and stopping them; see `admission` for what comes and goes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.daemon.config import Config
from p2psyncd.daemon.copies import copies_of
from p2psyncd.daemon.executor import Executor
from p2psyncd.daemon.forgetting import forget_now_and_then
from p2psyncd.daemon.incarnation import begin, place_of
from p2psyncd.daemon.kinds import SourceKind
from p2psyncd.daemon.lost import give_up_lost_contents
from p2psyncd.daemon.membership import members, shares_for, with_member
from p2psyncd.daemon.replica import Phase, Replica
from p2psyncd.daemon.report import kind_of
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.transfer import Sent
from p2psyncd.errors import NoSuchShare, P2psyncError
from p2psyncd.sources.faults import Faults
from p2psyncd.store.device import DeviceStore, PeerRecord, ShareRecord
from p2psyncd.store.share import ShareStore

__all__ = ["Shares"]

log = logging.getLogger(__name__)
T = TypeVar("T")

REOPEN_S = 60.0


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
        kinds: Mapping[str, SourceKind],
        on_change: Callable[[], None],
    ) -> None:
        self.folder = state_dir / "shares"
        self.device = device
        self.devices = devices
        self.config = config
        self.clock = clock
        self.executor = executor
        self.entropy = entropy
        self.kinds = kinds
        self.on_change = on_change
        self.running: dict[ShareId, RunningShare] = {}
        self.broken: dict[ShareId, tuple[ShareRecord, str]] = {}
        """Shares that could not be opened, and why."""
        self.nursery: trio.Nursery | None = None
        self.sessions_of: Callable[[RunningShare], Sequence[SessionDriver]] = lambda share: ()
        """The open sessions of a share; whoever looks after the peers sets it."""
        self.get_copy: Callable[[RunningShare], Awaitable[None]] = never_over
        """Gets a whole copy of a share's data, where it waits for one, and looks after those that are given."""
        self.tell_conflicts: Callable[[RunningShare], Awaitable[None]] = never_over
        """Tells of a share's conflicts as they arise."""
        self.tell_stops: Callable[[RunningShare], Awaitable[None]] = never_over
        """Tells when a share is held or in error, and when it goes on."""
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
        """Return the shares that a paired device may have; see `shares_for`."""
        return shares_for(self.running.values(), peer)

    def note_member(self, share: ShareId, device: DeviceId) -> bool:
        """Remember that a device holds a share; return whether that is news."""
        running = self.running.get(share)
        if running is None or running.replica.undecided or device in members(running.record):
            return False
        self.update(running, replace(running.record, settings=with_member(running.record, device)))
        return True

    # Opening and starting

    def kind(self, record: ShareRecord) -> SourceKind:
        """Return what it takes to share this."""
        return self.kinds[kind_of(record)]

    async def start(self, record: ShareRecord) -> RunningShare | None:
        """Open a share and start its tasks; one that cannot be opened is remembered with the reason."""
        try:
            share = await self.executor.run(lambda: self.open(record))
        except (OSError, P2psyncError) as error:
            log.error("share_unusable share=%s error=%s", record.name, error)  # noqa: TRY400  (the reason says it all)
            self.broken[record.id] = (record, str(error))
            return None
        # The edge of the share: see `RunningShare.live_on`.
        except Exception as error:  # noqa: BLE001
            self.broken[record.id] = (record, str(Faults().tell(f"opening share {record.name}", error)))
            assert self.nursery is not None
            self.nursery.start_soon(self.start_again, record)
            return None
        if record.paused:
            # Before anybody is told of it: peers would wait for a session that does not come.
            share.replica.enter(Phase.PAUSED, "paused by `p2psync share pause`")
        self.put(share)
        return share

    async def start_again(self, record: ShareRecord) -> None:
        """Try after a while to open a share that could not be opened, for a reason that nobody foresaw."""
        await trio.sleep(REOPEN_S)
        async with self.changing:
            if self.broken.get(record.id, (None,))[0] is record:
                del self.broken[record.id]
                await self.start(record)
                self.on_change()

    def put(self, share: RunningShare) -> None:
        """Let a share that was opened live."""
        self.running[share.record.id] = share
        assert self.nursery is not None
        self.nursery.start_soon(self.keep_running, share)

    async def keep_running(self, share: RunningShare) -> None:
        """Let a share live, and tell when it cannot."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tell_stops, share)
            await share.run()
            nursery.cancel_scope.cancel()

    def open(self, record: ShareRecord) -> RunningShare:
        """Open a share's store and source; blocks."""
        with ExitStack() as undo:
            share = self.assemble(record, undo)
            undo.pop_all()
        return share

    def assemble(self, record: ShareRecord, undo: ExitStack) -> RunningShare:
        """Open a share's parts; what is opened is closed by `undo` if a later part fails."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind = self.kind(record)
        file = self.folder / f"{record.id.hex()}.db"
        store = ShareStore.open(
            file,
            share_id=record.id,
            secret=record.secret,
            mint_actor=lambda: ActorId(self.entropy(8)),
            is_conflict=kind.is_conflict,
            received_us=self.clock.now_us,
            directory=kind.directory,
        )
        undo.callback(store.close)
        catalogue = store.reader()
        undo.callback(catalogue.close)
        opened = kind.open(record, store, catalogue)
        source = opened.source
        source.tidy()
        incarnation = begin(store, source, place_of(file), entropy=self.entropy)
        # Peers learn from this whose writes they see: deltas name the device of each actor.
        store.learn_actors([(store.actor(), self.device)])
        replica = Replica(
            share=record.id,
            store=store,
            source=source,
            directory=opened.directory,
            acceptable=opened.acceptable,
            clock=self.clock,
            executor=self.executor,
            mode=record.mode,
            incarnation=incarnation,
        )
        sent = Sent()
        return RunningShare(
            record=record,
            store=store,
            catalogue=catalogue,
            source=source,
            desk=opened.desk,
            replica=replica,
            held=opened.held(sent.count),
            sent=sent,
            clock=self.clock,
            executor=self.executor,
            scan_interval_s=self.config.scan_interval_s,
            keep_house=self.keep_house,
            on_change=self.on_change,
            copies=opened.copies,
        )

    async def keep_house(self, share: RunningShare) -> None:
        """Do for a share, for ever, what needs a view of its other members."""

        def others() -> set[DeviceId]:
            return members(share.record) & {peer.device for peer in self.devices.peers()}

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.get_copy, share)
            nursery.start_soon(self.tell_conflicts, share)
            nursery.start_soon(
                partial(
                    forget_now_and_then,
                    share.replica,
                    self.clock,
                    days=self.config.tombstones_days,
                    members=others,
                    sessions=lambda: self.sessions_of(share),
                )
            )
            nursery.start_soon(
                partial(
                    give_up_lost_contents,
                    share.applier,
                    ours=self.device,
                    members=others,
                    tell=lambda key: self.tell_lost(share, key),
                )
            )

    # Changing and forgetting

    def update(self, share: RunningShare, record: ShareRecord) -> None:
        """Write a share's changed record down."""
        share.record = record
        self.devices.put_share(record)

    async def set_paused(self, share: RunningShare, *, paused: bool) -> RunningShare | None:
        """Stop a share and start it again, paused or not, unless it is so already."""

        async def again() -> RunningShare | None:
            # Another change may have come before this one.
            now = self.running.get(share.record.id)
            if now is None:
                raise NoSuchShare(share.record.name)
            if now.record.paused == paused:
                return now
            record = replace(now.record, paused=paused)
            self.update(now, record)
            del self.running[record.id]
            self.on_change()
            await now.stop()
            started = await self.start(record)
            self.on_change()
            return started

        return await self.to_the_end(again)

    def forget_state(self, share: ShareId) -> None:
        """Take a share's state away; blocks."""
        file = self.folder / f"{share.hex()}.db"
        for name in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
            name.unlink(missing_ok=True)
        shutil.rmtree(copies_of(self.folder, share), ignore_errors=True)

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


async def never_over(share: RunningShare) -> None:
    """Do nothing: nobody has said how it is done."""
    del share
    await trio.sleep_forever()
