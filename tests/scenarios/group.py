"""Some devices that share one folder: what they do to it, and whether all of them end with the same."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from daemons import WAIT_S, Daemon, share
from p2plab.trees import differences, leftovers

from p2psyncd.control.messages import Conflict, ShareStatus
from p2psyncd.daemon.config import ListenAddress

__all__ = ["ORDERS", "Group", "contents", "put", "texts"]

# A look costs a question to each daemon; between two of them something has to have happened.
LOOK_S = 0.02
# Ten thousand files on a machine with other work; nothing waits so long unless it is broken.
SETTLE_S = 120.0
HISTORY = Path(".p2psync/history")
# Who of two did something first must not matter, beyond who has the name in the end.
ORDERS = pytest.mark.parametrize("first", [0, 1], ids=["here first", "there first"])


@dataclass
class Group:
    """Devices in a row: each shares the folder with the next."""

    daemons: list[Daemon]
    name: str = "f"
    parted: bool = False
    received: dict[str, tuple[int, int]] = field(default_factory=dict)

    def folder(self, number: int) -> Path:
        """Return one device's folder."""
        return self.daemons[number].folder / self.name

    @property
    def folders(self) -> list[Path]:
        """Return the folders of all."""
        return [self.folder(number) for number in range(len(self.daemons))]

    async def begin(self, **files: str) -> list[Path]:
        """Share a folder with these files (see `Daemon.make`) and return everybody's."""
        self.daemons[0].make(self.name, **files)
        for owner, taker in pairwise(self.daemons):
            await share(owner, taker, self.name)
        await self.settle()
        self.count()
        return self.folders

    # Apart and together

    async def part(self) -> None:
        """Cut the connections: what happens now, happens on both sides at once."""
        for one, other in pairwise(self.daemons):
            await one.backend.device_pause(other.name)
            await other.until(lambda o=other, c=one: not o.connected_to(c), "disconnected")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        self.parted = True

    async def stop(self, number: int) -> None:
        """Stop a device that will listen at the same place when it is started again."""
        daemon = self.daemons[number]
        host, _, port = daemon.at.rpartition(":")
        daemon.config = replace(daemon.config, listen=(ListenAddress(host=host, port=int(port)),))
        await daemon.stop()

    async def noted(self, *numbers: int) -> None:
        """Wait until devices have made versions of what was done to their folders."""
        for number in numbers or range(len(self.daemons)):
            await self.daemons[number].backend.share_rescan(self.name)
        # A file's times come from a clock that ticks a few hundred times a second: what is done
        # within one tick was done at once, and who wins is then nobody's to say.
        folder = self.daemons[0].folder
        await trio.to_thread.run_sync(tick, folder / "tick")

    async def meet(self) -> None:
        """Connect again and wait until nothing moves any more."""
        for one, other in pairwise(self.daemons):
            if self.parted:
                await one.backend.device_resume(other.name)
            await one.until(lambda o=one, c=other: o.connected_to(c), "connected")  # type: ignore[misc]  # as above
        self.parted = False
        await self.settle()

    async def settle(self) -> None:
        """Wait until all have the same root, and everybody knows that of its neighbours."""
        roots: list[str] = []
        with trio.move_on_after(SETTLE_S):
            while True:
                for daemon in self.daemons:
                    await daemon.backend.wait(self.name, timeout_s=SETTLE_S, peers=1)
                rows = [await self.row(number) for number in range(len(self.daemons))]
                roots = [row["root"] for row in rows]
                if len(set(roots)) == 1 and all(peer["in_sync"] for row in rows for peer in row["peers"]):
                    return
                await trio.sleep(LOOK_S)
        raise AssertionError(f"no agreement: {roots}")

    async def row(self, number: int) -> ShareStatus:
        """Return the share as a device's `status` shows it."""
        rows = await self.daemons[number].backend.share_list()
        return next(row for row in rows if row["name"] == self.name)

    # What must hold

    async def same(self, *, conflicts: int = 0) -> dict[str, str | None]:
        """Settle, check that everything is equal and well on all devices, and return what they hold.

        That is: names, bytes, modes, times and targets; roots; the lists of conflicts; what the records
        say against what lies on the disk; nothing left in staging, nothing needed, no errors.
        """
        await self.settle()
        first, *others = self.folders
        for other in others:
            assert differences(first, other) == []
        listed = [await self.conflict_places(number) for number in range(len(self.daemons))]
        for number, daemon in enumerate(self.daemons):
            row = await self.row(number)
            assert (row["state"], row["reason"], row["errors"]) == ("idle", None, []), daemon.name
            assert (row["need_items"], row["need_bytes"]) == (0, 0), daemon.name
            assert (await daemon.backend.verify(self.name))["problems"] == [], daemon.name
            assert row["conflicts"] == conflicts, (daemon.name, listed[number])
            assert listed[number] == listed[0], daemon.name
        # Staging is emptied once nothing is wanted.
        await self.until(lambda: not any(map(leftovers, self.folders)), "staging to be emptied")
        return contents(first)

    async def until(self, check: Callable[[], bool], what: str) -> None:
        """Return once something holds that no daemon tells of."""
        with trio.move_on_after(WAIT_S):
            while not check():  # noqa: ASYNC110  (see above)
                await trio.sleep(LOOK_S)
            return
        raise AssertionError(f"waited in vain for {what}")

    async def told(self, ask: Callable[[], Awaitable[list[str]]]) -> str:
        """Ask until there is an answer, and return its first line."""
        with trio.fail_after(WAIT_S):
            while not (answer := await ask()):  # noqa: ASYNC110  (no daemon tells of it)
                await trio.sleep(LOOK_S)
        return answer[0]

    async def conflicts(self, number: int = 0) -> list[Conflict]:
        """Return the conflicts that a device lists."""
        return await self.daemons[number].backend.conflicts(include_resolved=False)

    async def conflict_places(self, number: int) -> list[tuple[str, str, list[str]]]:
        """Return what must be equal everywhere: a device is named only by those that know it."""
        return [
            (one["id"], one["item"], [loser["where"] for loser in one["losers"]])
            for one in await self.conflicts(number)
        ]

    def kept(self, number: int) -> list[str]:
        """Return the contents in a device's history, sorted."""
        history = self.folder(number) / HISTORY
        return sorted(path.read_text() for path in history.rglob("*") if path.is_file())

    # What travelled

    def count(self) -> None:
        """Count contents from now on."""
        self.received = {daemon.name: self.fetched(daemon) for daemon in self.daemons}

    def fetched(self, daemon: Daemon) -> tuple[int, int]:
        """Return how many contents and content bytes a device has fetched since it was started."""
        applier = daemon.running(self.name).applier
        return applier.received_items, applier.received_bytes

    def travelled(self) -> tuple[int, int]:
        """Return how many contents, and bytes of them, were fetched since `count`; restarts are not minded."""
        now = [self.fetched(daemon) for daemon in self.daemons]
        then = [self.received[daemon.name] for daemon in self.daemons]
        return sum(n[0] - t[0] for n, t in zip(now, then, strict=True)), sum(
            n[1] - t[1] for n, t in zip(now, then, strict=True)
        )


def contents(root: Path) -> dict[str, str | None]:
    """Return what a folder holds by name: the text of a file, `→ target` of a link, None for a directory."""
    found: dict[str, str | None] = {}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] != ".p2psync":
            # What goes at this moment is not there: whoever waits for something looks again.
            with suppress(FileNotFoundError):
                found[str(relative)] = content(path)
    return found


def content(path: Path) -> str | None:
    """Return what one path holds."""
    if path.is_symlink():
        return f"→ {os.readlink(path)}"  # noqa: PTH115  (text as it is)
    return None if path.is_dir() else path.read_text("utf-8", "surrogateescape")


def put(path: Path, text: str, *, age_s: float = 0.0) -> None:
    """Write a file as a program that saves it does, with a time of its own if `age_s` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if age_s:
        when = path.stat().st_mtime_ns - int(age_s * 1e9)
        os.utime(path, ns=(when, when))


def texts(found: dict[str, str | None]) -> Sequence[str]:
    """Return the contents of files and links, sorted."""
    return sorted(text for text in found.values() if text is not None)


def tick(probe: Path) -> None:
    """Return once what is done to files here has later times than anything before; blocks."""
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.touch()
    probe.unlink()
