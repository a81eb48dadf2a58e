"""Daemons of the tests: started and stopped in this process, asked through their backend."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from p2psyncd.control.messages import Event
from p2psyncd.control.places import Places, find_places
from p2psyncd.daemon.backend import DaemonBackend
from p2psyncd.daemon.config import Config, ListenAddress
from p2psyncd.daemon.executor import ThreadExecutor
from p2psyncd.daemon.home import open_home
from p2psyncd.daemon.mesh import PeerState
from p2psyncd.daemon.notify import Notifier
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.signal import first_of
from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["WAIT_S", "Daemon", "Lab", "connect", "offered", "share", "tree"]

# Generous: other work shares the machine. Nothing waits so long unless it is broken.
WAIT_S = 90.0
CONFIG = Config(listen=(ListenAddress(host="127.0.0.1", port=0),), mdns=False, scan_interval_s=0)


class AdjustableClock:
    """The real clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + int(self.ahead_s * 1_000_000)

    def monotonic_s(self) -> float:
        return time.monotonic() + self.ahead_s


class ReadyNotifier(Notifier):
    """Says to the test what a real one says to systemd."""

    def __init__(self) -> None:
        super().__init__({})
        self.came = trio.Event()

    def ready(self) -> None:
        self.came.set()


@dataclass
class Daemon:
    """One device; it can be stopped and started again with the same home."""

    name: str
    folder: Path
    nursery: trio.Nursery
    config: Config = CONFIG
    clock: AdjustableClock = field(default_factory=AdjustableClock)
    supervisor: Any = None
    done: trio.Event = field(default_factory=trio.Event)

    @property
    def places(self) -> Places:
        return find_places(self.folder / "home", {}, 0)

    @property
    def backend(self) -> DaemonBackend:
        return DaemonBackend(self.supervisor)

    @property
    def at(self) -> str:
        return str(self.supervisor.listening[0])

    async def start(self) -> None:
        notifier = ReadyNotifier()
        self.done = trio.Event()
        self.nursery.start_soon(self.live, notifier)
        with trio.fail_after(WAIT_S):
            await notifier.came.wait()

    async def live(self, notifier: ReadyNotifier) -> None:
        try:
            with open_home(self.places, 1):
                self.supervisor = Supervisor(
                    config=self.config,
                    load_config=lambda: self.config,
                    places=self.places,
                    name=self.name,
                    clock=self.clock,
                    executor=ThreadExecutor(),
                    entropy=secrets.token_bytes,
                    notifier=notifier,
                )
                await self.supervisor.run()
        finally:
            self.done.set()

    async def stop(self) -> None:
        """Stop as SIGTERM does."""
        if self.supervisor is not None:
            self.supervisor.stopping.set()
            with trio.fail_after(WAIT_S):
                await self.done.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def make(self, name: str, **files: str) -> Path:
        """Make a folder with files; underscores in their names stand for dots."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        for file, text in files.items():
            (path / file.replace("_", ".")).write_text(text)
        return path

    def running(self, name: str) -> RunningShare:
        return self.supervisor.shares.named(name)  # type: ignore[no-any-return]

    def peer(self, other: Daemon) -> PeerState | None:
        return self.supervisor.mesh.peers.get(other.supervisor.identity.device)  # type: ignore[no-any-return]

    def connected_to(self, other: Daemon) -> bool:
        state = self.peer(other)
        return state is not None and state.link is not None

    async def until(self, check: Callable[[], bool], what: str = "") -> None:
        """Return once `check` holds; it is asked again whenever a peer or a share gets further."""
        with trio.move_on_after(WAIT_S):
            while True:
                events = [self.supervisor.mesh.changed.event]
                events += [one.replica.signal.event for one in self.supervisor.shares.all()]
                if check():
                    return
                await first_of(events)
        raise AssertionError(f"{self.name} waited in vain: {what}\n{await self.backend.status()}")

    async def wait(self, share: str | None = None, *, peers: int = 1) -> Any:
        return await self.backend.wait(share, timeout_s=WAIT_S, peers=peers)

    async def event(self, kind: str, since: int = 0) -> Event:
        """Return the first event of a kind, waiting for it if it has not happened yet."""
        with trio.fail_after(WAIT_S):
            async with self.backend.follow_events(since) as events:
                async for event in events:
                    if event["type"] == kind:
                        return event
        raise AssertionError(kind)


class Lab:
    """The daemons of one test."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.nursery = nursery
        self.daemons: list[Daemon] = []

    async def daemon(self, name: str, **settings: Any) -> Daemon:
        (self.folder / name).mkdir()
        made = Daemon(name, self.folder / name, self.nursery, config=replace(CONFIG, **settings))
        self.daemons.append(made)
        await made.start()
        return made

    async def stop(self) -> None:
        for daemon in self.daemons:
            if not daemon.done.is_set():
                await daemon.stop()


async def connect(host: Daemon, joiner: Daemon, *, introduce: bool = True) -> None:
    """Pair two devices by code and wait until both are connected."""
    shown = await host.backend.pair_show(introduce=introduce)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: host.backend.pair_wait(shown["code"], timeout_s=WAIT_S))
        await joiner.backend.pair_join(shown["code"], at=host.at, introduce=introduce, timeout_s=WAIT_S)
    await host.until(lambda: host.connected_to(joiner), "connected")
    await joiner.until(lambda: joiner.connected_to(host), "connected")


async def share(owner: Daemon, taker: Daemon, name: str = "f", *, mode: str = "send-receive") -> Path:
    """Have `taker` accept a share of `owner` (added if it is not one), and wait until both are equal."""
    known = {row["name"] for row in await owner.backend.share_list()}
    if name not in known:
        path = owner.make(name)
        await owner.backend.share_add(str(path), name=name, kind=None, mode="send-receive", with_devices=[])
    await offered(owner, taker, name)
    path = taker.folder / name
    await taker.backend.share_accept(name, str(path), mode=mode, from_device=owner.name)  # type: ignore[arg-type]
    await taker.wait(name)
    await owner.wait(name)
    return path


async def offered(owner: Daemon, taker: Daemon, name: str) -> None:
    """Wait until an offer has come."""
    await taker.until(
        lambda: any(
            offer.name == name and state.record.name == owner.name for state, offer in taker.backend.offers()
        ),
        f"offer of {name}",
    )


def tree(root: Path) -> dict[str, str | None]:
    """Return what a folder holds: the text of each file, None for a directory."""
    return {
        path.relative_to(root).as_posix(): path.read_text("utf-8", "surrogateescape")
        if path.is_file()
        else None
        for path in sorted(root.rglob("*"))
        if ".p2psync" not in path.relative_to(root).parts
    }
