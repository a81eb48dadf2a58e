"""The desk of a shared folder: every conflict copy is a conflict, until it is gone; earlier versions lie in history.

Nothing is kept about a conflict but the copy itself, whose name tells the item and the losing write.
So all devices list the same conflicts, and resolving one anywhere resolves it everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from p2psyncd.control.messages import Check, ItemError, Keep, Restored, ShareStatus, Version
from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item
from p2psyncd.core.storage import ShareStorage, Stored
from p2psyncd.core.version import Dot
from p2psyncd.daemon.desk import FoundConflict, Side, check
from p2psyncd.daemon.report import ERRORS_SHOWN_MAX, text_of_key, time_text
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import NoSuchItem
from p2psyncd.sources.folder import history as kept
from p2psyncd.sources.folder.conflicts import parse_conflict, tag_of
from p2psyncd.sources.folder.folder import FolderSource
from p2psyncd.sources.folder.history import History
from p2psyncd.sources.folder.resolve import discard_copy, promote_copy, rename_copy
from p2psyncd.sources.folder.versions import versions_below

__all__ = ["FolderDesk"]

ID_BYTES = 6
TAG_ACTOR_DIGITS = 8
# A line is to be read.
DATABASES_NAMED = 5


class FolderDesk:
    """See `Desk`."""

    def __init__(self, share: RunningShare, source: FolderSource) -> None:
        self.share = share
        self.source = source
        self.root = source.root

    def name_of(self, key: bytes) -> str:
        """Return a path below the share."""
        return text_of_key(key)

    # Conflicts

    @property
    def conflicts(self) -> int:
        """How many conflict copies there are."""
        return self.share.replica.totals.conflicts

    def find_conflicts(self, store: ShareStorage) -> list[FoundConflict]:
        """Return the conflicts: the copies, by the item that they are copies of; blocks."""
        groups: dict[bytes, list[Stored]] = {}
        for stored in store.conflicts():
            parsed = parse_conflict(stored.item.key)
            if parsed is not None:
                groups.setdefault(parsed.key, []).append(stored)
        actors = [store.actor(), *store.actor_devices()]
        found = []
        for key, copies in groups.items():
            winner = store.get(key)
            copies.sort(key=lambda copy: (copy.item.hlc, copy.item.dot))
            live = winner is not None and winner.item.live
            found.append(
                FoundConflict(
                    id=blake3(bytes(self.share.record.id) + key).hexdigest(length=ID_BYTES),
                    key=key,
                    item=text_of_key(key),
                    winner=self.side(winner.item, winner.item.dot.actor) if winner and live else None,
                    losers=tuple(self.side(copy.item, loser_actor(copy.item, actors)) for copy in copies),
                    handles=tuple(copy.item.key for copy in copies),
                    since_us=copies[0].item.hlc,
                )
            )
        return found

    def side(self, item: Item, actor: ActorId | None) -> Side:
        """Return a version, or the copy of one."""
        return Side(
            actor=actor,
            time=loser_time(item),
            where=text_of_key(item.key),
            place=str(self.root / os.fsdecode(item.key)),
            written_us=item.hlc,
            size=item.size,
            digest=item.digest,
        )

    async def resolve(self, found: FoundConflict, *, keep: Keep, loser: int) -> None:
        """Carry out a person's choice; see `Desk.resolve`."""
        history = self.source.history

        def settle() -> None:
            carry_out(history, found.key, found.handles, keep=keep, loser=loser)

        async with self.share.replica.lock:
            await self.share.executor.run(settle)
        await self.share.detect()

    # Earlier versions

    async def versions(self, key: bytes) -> list[Version]:
        """Return the earlier versions of a file, or of everything below a folder, newest first."""
        history = self.source.history
        found = await self.share.executor.run(lambda: versions_below(history, key))
        return [self.version_row(one) for one in found]

    def version_row(self, one: kept.Version) -> Version:
        """Return a version as `history` shows it."""
        path = self.root / os.fsdecode(one.key)
        return Version(
            version=one.version,
            path=str(path),
            time=time_text(one.replaced_us),
            bytes=one.size,
            reason="replaced" if os.path.lexists(path) else "deleted",
            device=None,
        )

    async def restore(self, key: bytes, version: str | None) -> Restored:
        """Put an earlier version back in place; see `Desk.restore`."""
        history = self.source.history
        path = self.root / os.fsdecode(key)

        def put_back() -> Restored:
            folder = path.is_dir() and not path.is_symlink()
            if version is None and (folder or not (os.path.lexists(path) or history.list(key))):
                chosen, count, failed = put_back_tree(history, self.root, key)
                return Restored(path=str(path), version=chosen, replaced=False, count=count, failed=failed)
            chosen, replaced = put_version_back(history, key, path, version)
            return Restored(path=str(path), version=chosen, replaced=replaced)

        async with self.share.replica.lock:
            restored = await self.share.executor.run(put_back)
        await self.share.detect()
        return restored

    # Health

    def errors(self) -> Iterator[ItemError]:
        """Give nothing: what is wrong with a file is found by reading or applying it."""
        yield from ()

    def describe(self, row: ShareStatus) -> None:
        """Add the files that have several names."""
        groups = self.source.hard_links[:ERRORS_SHOWN_MAX]
        row["hard_links"] = [[text_of_key(key) for key in names] for names in groups]

    def checks(self) -> list[Check]:
        """Return whether everything is watched, and which databases are in use."""
        name, source = self.share.record.name, self.source
        in_use = [text_of_key(key) for key in source.databases_in_use]
        return [
            check(
                f"watching {name}",
                source.limited or "",
                f"Raise the limit: `{source.limited_command}`; it is noticed within a minute",
                fine="every folder is watched",
            ),
            check(
                f"databases in {name}",
                f"in use by a program: {', '.join(in_use[:DATABASES_NAMED])}" if in_use else "",
                "Peers get snapshots of it, and their changes wait until it is closed here: "
                "close the program, or move the file out of this folder and share it as a database",
                fine="no SQLite file is in use",
            ),
        ]


def loser_actor(copy: Item, actors: Iterable[ActorId]) -> ActorId | None:
    """Return who wrote the losing version, as far as its tag tells."""
    parsed = parse_conflict(copy.key)
    tag = parsed.tag[:TAG_ACTOR_DIGITS] if parsed is not None else ""
    return next((actor for actor in actors if tag_of(Dot(actor, 0)).startswith(tag)), None)


def loser_time(copy: Item) -> str:
    """Return when the losing version was written, RFC 3339."""
    parsed = parse_conflict(copy.key)
    if parsed is None:
        return time_text(copy.hlc)
    day, clock = parsed.time.split(" ")
    return f"{day}T{clock.replace('-', ':')}Z"


def carry_out(history: History, key: bytes, copies: Iterable[bytes], *, keep: Keep, loser: int) -> None:
    """Do what a person chose; blocks."""
    for place, copy in enumerate(copies):
        if keep == "both":
            rename_copy(history, copy)
        elif keep == "loser" and place == loser:
            promote_copy(history, copy, key)
        else:
            discard_copy(history, copy)


def put_version_back(history: History, key: bytes, path: Path, version: str | None) -> tuple[str, bool]:
    """Put an earlier version back; return which, and whether something was in its place; blocks.

    Raises:
        NoSuchItem: Nothing (or not that version) is kept.
    """
    found = history.list(key) if key else []
    if not found:
        raise NoSuchItem(f"No earlier version of {path} is kept")
    chosen = version if version is not None else found[0].version
    replaced = os.path.lexists(path)
    history.restore(key, chosen)
    return chosen, replaced


def put_back_tree(history: History, root: Path, key: bytes) -> tuple[str, int, list[str]]:
    """Put the newest version of everything back that is missing below a folder.

    What is there stays as it is. The folder may be the share's own.

    Returns:
        The last version's name, how many files are back, and what could not be put back, each with the reason.

    Raises:
        NoSuchItem: Nothing that is missing is kept.
        OSError: None of it can be put back.
    """
    newest: dict[bytes, kept.Version] = {}
    for one in versions_below(history, key):
        newest.setdefault(one.key, one)
    missing = {below: one for below, one in newest.items() if not os.path.lexists(root / os.fsdecode(below))}
    if not missing:
        raise NoSuchItem(f"Nothing that was deleted in {root / os.fsdecode(key)} is kept")
    back: list[str] = []
    failed: list[tuple[bytes, OSError]] = []
    for below, one in missing.items():
        try:
            history.restore(below, one.version)
        except OSError as error:
            # Something has the name of its folder by now, say: the others come back all the same.
            failed.append((below, error))
        else:
            back.append(one.version)
    if not back:
        raise failed[0][1]
    return back[0], len(back), [f"{text_of_key(key)}: {error.strerror or error}" for key, error in failed]
