"""How shares come and go: adding one, accepting one that a peer offers, forgetting one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.daemon.kinds import Choice, SourceKind
from p2psyncd.daemon.membership import MEMBERS, members
from p2psyncd.daemon.report import checked_mode
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.shares import Shares
from p2psyncd.errors import (
    AlreadyShared,
    BadRequest,
    DatabaseBusy,
    DatabaseInUse,
    HoldsOurState,
    KindUnsupported,
    NestedShare,
    NoSuchShare,
    NotAFolder,
    P2psyncError,
    ShareExists,
)
from p2psyncd.store.device import ShareRecord
from p2psyncd.wire.messages import Offer

__all__ = ["Admission"]

log = logging.getLogger(__name__)

SECRET_BYTES = 32
SHARE_ID_BYTES = 16


class Admission:
    """Changes the table of shares; one change at a time, each to its end."""

    def __init__(
        self, shares: Shares, *, entropy: Callable[[int], bytes], private: Collection[Path] = ()
    ) -> None:
        """Begin; `private`: the folders of the daemon's own, which are never shared."""
        self.shares = shares
        self.private = private
        self.kinds: Mapping[str, SourceKind] = shares.kinds
        self.clock = shares.clock
        self.executor = shares.executor
        self.devices = shares.devices
        self.entropy = entropy

    # Adding

    async def add(
        self,
        path: Path,
        *,
        name: str | None,
        kind: str | None,
        mode: str,
        with_devices: Sequence[DeviceId] | None,
        settings: Mapping[str, object] | None = None,
    ) -> RunningShare:
        """Share a folder or a database.

        Args:
            path: What is shared.
            name: Its name; None: the last part of the path.
            kind: "folder" or "database"; None: what the path shows.
            mode: Which way changes travel.
            with_devices: Whom it is shared with; None: all.
            settings: What this kind of share is told.
        """
        if name is not None and not is_name(name):
            raise BadRequest("A share's name must be printable, not empty, and without a slash")
        checked = checked_mode(mode)

        async def begin() -> RunningShare:
            found = kind if kind is not None else await self.executor.run(lambda: kind_at(path))
            with refused(path):
                root = await self.executor.run(lambda: self.usable(path, found))
                await self.executor.run(lambda: self.kinds[found].check_settings(root, settings or {}))
            record = ShareRecord(
                id=ShareId(self.entropy(SHARE_ID_BYTES)),
                name=name or root.name or "root",
                kind=found,
                path=str(root),
                mode=checked,
                secret=self.entropy(SECRET_BYTES),
                paused=False,
                with_devices=tuple(with_devices) if with_devices is not None else None,
                added_us=self.clock.now_us(),
                settings=dict(settings or {}),
            )
            return await self.admit(record)

        return await self.shares.to_the_end(begin)

    def usable(self, path: Path, kind: str) -> Path:
        """Return the real path of what can be shared; blocks.

        Raises:
            HoldsOurState: It would be what the daemon itself lives on.
            AlreadyShared: It is a share.
            NestedShare: It overlaps another share.
            P2psyncError: It cannot be shared for what it is.
        """
        one = self.kinds.get(kind)
        if one is None:
            raise KindUnsupported(str(path))
        self.keep_out(path)
        root = one.check_new(path)
        known = [share.record for share in self.shares.running.values()]
        known += [record for record, _ in self.shares.broken.values()]
        for record in known:
            if str(root) == record.path:
                raise AlreadyShared(f"{root} is the share {record.name}")
            if one.overlaps(root, record):
                raise NestedShare(f"{root} and the share {record.name} ({record.path}) overlap")
        for folder in self.private:
            if folder.resolve().is_relative_to(root):
                raise HoldsOurState(f"{root} holds {folder}")
        return root

    def keep_out(self, path: Path) -> None:
        """Raise HoldsOurState for what is the daemon's own: it is not even opened, as the daemon has it open."""
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(folder.resolve()) for folder in self.private):
            raise HoldsOurState(f"{real} is the daemon's own")

    async def accept(
        self,
        offer: Offer,
        path: Path,
        *,
        mode: str,
        member: DeviceId,
        choice: Choice | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> RunningShare:
        """Join an offered share, merging with whatever is at `path` (a database only if `choice` says so).

        A share of this device at the same path that nobody else holds yet gives way: two people who
        both began with `p2psync up` want one share, not two.
        """
        return await self.shares.to_the_end(
            lambda: self.join(offer, path, mode=mode, member=member, choice=choice, settings=settings or {})
        )

    async def join(
        self,
        offer: Offer,
        path: Path,
        *,
        mode: str,
        member: DeviceId,
        choice: Choice | None,
        settings: Mapping[str, object],
    ) -> RunningShare:
        """Join an offered share; other changes wait."""
        kind = self.kinds.get(offer.kind)
        if kind is None:
            raise KindUnsupported(offer.name)
        if offer.share in self.shares.running:
            raise ShareExists(f"{offer.name} is accepted already")
        real = await self.executor.run(lambda: os.path.realpath(path))
        if any(offer.name == one.record.name and one.record.path != real for one in self.shares.all()):
            raise ShareExists(offer.name)
        mode = checked_mode(mode)
        with refused(path):
            await self.executor.run(lambda: self.keep_out(path))
            await self.executor.run(lambda: kind.check_choice(path, choice, settings))
        await self.give_way(real)
        with refused(path):
            made = await self.executor.run(lambda: kind.make(path, choice, settings))
        try:
            with refused(path):
                root = await self.executor.run(lambda: self.usable(path, offer.kind))
            record = ShareRecord(
                id=offer.share,
                name=offer.name,
                kind=offer.kind,
                path=str(root),
                mode=mode,
                secret=offer.secret,
                paused=False,
                with_devices=None,
                added_us=self.clock.now_us(),
                settings={**settings, MEMBERS: [member.hex()]},
            )
            return await self.admit(record)
        except (OSError, P2psyncError):
            if made:
                with trio.CancelScope(shield=True):  # bounded: one rmdir
                    await self.executor.run(lambda: kind.unmake(path))
            raise

    async def give_way(self, real: str) -> None:
        """Forget a share at exactly this path, if no other device holds it."""
        for share in self.shares.all():
            if share.record.path == real and not members(share.record):
                log.info("share_gives_way share=%s path=%s", share.record.name, real)
                await self.drop(share, force=False)

    async def admit(self, record: ShareRecord) -> RunningShare:
        """Write a new share down and start it; other changes wait."""
        kind = self.shares.kind(record)
        if any(record.name == share.record.name for share in self.shares.all()):
            raise ShareExists(record.name)
        # What a comparison left behind that was cut short is no state of this share.
        await self.executor.run(lambda: self.shares.forget_state(record.id))
        await self.executor.run(lambda: kind.mark(record))
        self.devices.put_share(record)
        share = await self.shares.start(record)
        if share is None:
            _, reason = self.shares.broken.pop(record.id)
            self.devices.remove_share(record.id)
            await self.executor.run(lambda: kind.unmark(record, None))
            raise NotAFolder(f"{record.path}: {reason}")
        self.shares.on_change()
        return share

    # Forgetting

    async def remove(self, share: RunningShare, *, force: bool = False) -> None:
        """Forget a share; its data stays.

        Args:
            share: Which.
            force: Forget it even if what is ours cannot be taken out of its data now.

        Raises:
            OSError, P2psyncError: It cannot be taken out now; the share goes on.
        """
        await self.shares.to_the_end(lambda: self.drop(share, force=force))

    async def drop(self, share: RunningShare, *, force: bool) -> None:
        """Forget a share; other changes wait."""
        record, shares = share.record, self.shares
        if shares.running.pop(record.id, None) is None:
            raise NoSuchShare(record.name)
        shares.on_change()
        await share.stop()
        trouble: OSError | P2psyncError | None = None
        try:
            await self.executor.run(lambda: shares.kind(record).unmark(record, share.source))
        except (OSError, P2psyncError) as error:
            trouble = error
        if trouble is not None:
            if not force:
                await shares.start(record)
                shares.on_change()
                if isinstance(trouble, DatabaseBusy):
                    raise DatabaseInUse(trouble.detail) from trouble
                raise trouble
            log.warning("share_left_marks share=%s error=%s", record.name, trouble)
        self.devices.remove_share(record.id)
        await self.executor.run(lambda: shares.forget_state(record.id))

    async def remove_broken(self, record: ShareRecord) -> None:
        """Forget a share that could not be opened; its data stays."""
        self.shares.broken.pop(record.id, None)
        self.devices.remove_share(record.id)
        await self.executor.run(lambda: self.shares.kind(record).unmark(record, None))
        await self.executor.run(lambda: self.shares.forget_state(record.id))


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Raise NotAFolder where the system refuses to let a path be looked at or written."""
    try:
        yield
    except OSError as error:
        raise NotAFolder(f"{error.filename or path}: {error.strerror or error}") from error


def kind_at(path: Path) -> str:
    """Return what kind of share a path is for; blocks. Whether a file is a database is for SQLite to say."""
    try:
        return "database" if path.is_file() else "folder"
    except OSError:  # it cannot be looked at: what can be said of it is said when it is opened
        return "folder"


def is_name(name: str) -> bool:
    """Return whether a share may be called so: a peer makes a folder of that name of it."""
    return name.isprintable() and bool(name.strip()) and "/" not in name and name not in {".", ".."}
