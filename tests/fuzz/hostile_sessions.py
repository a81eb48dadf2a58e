"""Whole sessions with a hostile peer: well-formed lies in any order, and honest messages changed on their way.

On our side stand the real session table, replica, ledger, applier and store, over the simulation's folder in memory
or over a real one (with a canary beside it). What must hold afterwards: nothing but `RemoteProtocolError` came out;
every content that our user wrote is in the folder or in its history; and an honest device that comes next agrees
with us on everything, both ways.
"""

from __future__ import annotations

import faulthandler
import os
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import cbor2
import corpus
import trio
from blake3 import blake3
from decoding import HANG_S
from memory import SHARE, Connection, Device, Events, MemoryLink, MemorySource, Node
from mutations import mutate_bytes, mutate_value
from trio.testing import MockClock

from p2psyncd.core.ids import DeviceId
from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Pending
from p2psyncd.core.version import pack_vector
from p2psyncd.daemon.applier import Applier
from p2psyncd.daemon.sessiontable import SessionTable
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.folder.attributes import decode
from p2psyncd.sources.folder.folder import FolderSource
from p2psyncd.sources.folder.guard import create_marker
from p2psyncd.sources.folder.structure import acceptable, directory_draft
from p2psyncd.sources.source import Failed, Outcome
from p2psyncd.wire.messages import (
    Ask,
    Closed,
    Delta,
    Done,
    Gone,
    Hello,
    Know,
    Message,
    Summaries,
    Want,
    decode_message,
    encode_message,
)

__all__ = ["SessionTotals", "run_sessions"]

LIAR = DeviceId(b"\x02" * 32)
SCRIPT_MESSAGES_MAX = 30
HONEST_S = 300
FOLDER_EVERY = 20
"""One session in so many has a real folder on our side."""


@dataclass(slots=True)
class SessionTotals:
    """What a run came to."""

    sessions: int = 0
    folders: int = 0
    refused: int = 0
    messages: Counter[str] = field(default_factory=Counter)


class CarefulSource(MemorySource):
    """A folder in memory that, like a real one, refuses metadata that it cannot read."""

    def apply_one(self, pending: Pending) -> Outcome:
        if pending.item.live:
            try:
                decode(pending.item.meta)
            except RemoteProtocolError as error:
                return Failed(key=pending.item.key, reason=error.detail)
        return super().apply_one(pending)


class Ours(Device):
    """Our side, with a folder in memory."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.source.__class__ = CarefulSource
        self.replica.acceptable = lambda item: acceptable(item.key)

    def write(self, key: bytes, content: bytes) -> None:
        self.source.edit(key, content)

    def contents(self) -> set[bytes]:
        """Return what is in the folder and in history."""
        return {node.content for node in self.source.nodes.values()} | {
            one for _, one in self.source.discarded
        }


def files_below(root: Path) -> list[Path]:
    """Return the files below a folder; a loop, because the liar's folders may lie a thousand deep in one another."""
    found: list[Path] = []
    left = [str(root)]
    while left:
        # Deeper than a path can say lies nothing of our user's.
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    found.append(Path(entry.path))
    return found


class ReadableFolder(FolderSource):
    """A real folder whose contents the simulation can pass on."""

    @property
    def nodes(self) -> dict[bytes, Node]:
        """Return its files, as the folder in memory has them."""
        return {
            os.fsencode(path.relative_to(self.root)): Node(Kind.FILE, path.read_bytes())
            for path in files_below(self.root)
            if ".p2psync" not in path.parts
        }


class OursOnDisk(Device):
    """Our side, with a real folder."""

    def __init__(self, number: int, root: Path) -> None:
        super().__init__(number)
        self.root = root
        create_marker(root, SHARE)
        self.source = ReadableFolder(root, SHARE, self.store, self.clock)  # type: ignore[assignment]
        self.replica.source = self.source
        self.replica.ledger.source = self.source
        self.replica.acceptable = lambda item: acceptable(item.key)
        self.replica.directory = directory_draft
        self.applier = Applier(self.replica)

    def write(self, key: bytes, content: bytes) -> None:
        path = self.root / os.fsdecode(key)
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)

    def contents(self) -> set[bytes]:
        """Return what is in the folder and in history."""
        return {path.read_bytes() for path in files_below(self.root)}


class LiarLink(MemoryLink):
    """What we say to the liar: it answers our questions with a summary of its own making."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.answers: list[Message] = []

    def post(self, message: Message) -> None:
        assert decode_message(encode_message(message))
        if isinstance(message, Ask):
            body = corpus.summary(self.rng, message.prefixes)
            self.answers.append(Summaries(share=SHARE, body=body))


class TamperingLink(MemoryLink):
    """An honest peer's messages, some of them changed, doubled, held back or swallowed."""

    def __init__(self, rng: random.Random, totals: SessionTotals) -> None:
        super().__init__()
        self.rng = rng
        self.totals = totals

    async def carry(self, nursery: trio.Nursery) -> None:
        assert self.target is not None
        async for payload in self.receive:
            rolled = self.rng.random()
            payloads = [payload]
            if rolled < 0.15:
                payloads = [cbor2.dumps(mutate_value(self.rng, cbor2.loads(payload)))]
            elif rolled < 0.2:
                payloads = [mutate_bytes(self.rng, payload)]
            elif rolled < 0.25:
                payloads = [payload, payload]
            elif rolled < 0.3:
                payloads = []
            elif rolled < 0.35:
                payloads = [encode_message(lie(self.rng)), payload]
            for one in payloads:
                message = decode_message(one)
                self.totals.messages[type(message).__name__] += 1
                if hasattr(message, "share"):
                    await self.target.dispatch(message, nursery)


def lie(rng: random.Random) -> Message:
    """Return a message of a session."""
    kinds = (Delta, Delta, Delta, Done, Done, Ask, Want, Summaries, Know, Gone, Closed, Hello)
    return corpus.message_of(rng.choice(kinds), rng)


async def play(ours: Device, rng: random.Random, totals: SessionTotals) -> None:
    """Let a liar speak to us, by a script made up as it goes."""
    link = LiarLink(rng)
    table = SessionTable(
        link,
        Events(ours),
        ours=ours.device,
        peer=LIAR,
        offered=lambda share: share == SHARE,
        on_progress=lambda: None,
    )
    async with trio.open_nursery() as nursery:
        table.open(nursery)
        nursery.start_soon(give, ours, rng)
        for number in range(rng.randrange(3, SCRIPT_MESSAGES_MAX)):
            message = corpus.message_of(Hello, rng) if number == 0 and rng.random() < 0.95 else lie(rng)
            driver = table.drivers.get(SHARE)
            if isinstance(message, Done) and driver is not None and rng.random() < 0.7:
                message = agreeing(ours, driver.session.knows(ours.replica.standing), message, rng)
            if link.answers and rng.random() < 0.8:
                message = link.answers.pop()
            totals.messages[type(message).__name__] += 1
            await table.dispatch(decode_message(encode_message(message)), nursery)  # type: ignore[arg-type]
            await trio.sleep(rng.choice((0, 0, 0, 0.01, 0.4, 40)))
        nursery.cancel_scope.cancel()
    ours.applier.release(LIAR)


def agreeing(ours: Device, known: dict[bytes, int], done: Done, rng: random.Random) -> Done:
    """Return a `Done` that names what we know, so that roots are compared."""
    root = ours.replica.standing.root if rng.random() < 0.4 else done.root
    return Done(
        share=SHARE,
        knowledge=pack_vector(known),  # type: ignore[arg-type]
        root=root,
        need_items=done.need_items,
        need_size=done.need_size,
    )


async def give(ours: Device, rng: random.Random) -> None:
    """Give us contents: the right ones, wrong ones, or none."""
    contents = {blake3(content).digest(): content for content in corpus.CONTENTS}
    while True:
        event = ours.applier.work.event
        batch = ours.applier.take_batch(LIAR, large=1 << 62)
        if not batch:
            await event.wait()
            continue
        came, missing = [], []
        for wanted in batch:
            content = contents.get(wanted.digest)
            lying = rng.random() < 0.3
            try:
                # The folder in memory believes what it gets.
                if content is None or (lying and isinstance(ours, Ours)):
                    missing.append(wanted.digest)
                    continue
                ours.source.put_content(wanted.digest, content + b"!" if lying else content)
                came.append(wanted.digest)
            except RemoteProtocolError:
                missing.append(wanted.digest)
        ours.applier.arrived(came)
        ours.applier.missing(LIAR, missing)


async def tamper(ours: Device, rng: random.Random, totals: SessionTotals) -> None:
    """Let an honest device speak to us through somebody who changes what it says."""
    other = Ours(2)
    for key in rng.sample(corpus.KEYS, 4):
        if b"/" not in key:
            other.write(key, b"other " + key)
    await other.scan()
    connection = Connection(ours, other)
    link = TamperingLink(rng, totals)
    link.target = connection.table_a
    connection.b_to_a = connection.table_b.link = link
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.applier.run)
        with trio.move_on_after(rng.choice((0.2, 2, 60))):
            await connection.run()
        nursery.cancel_scope.cancel()
    other.close()


async def honest(ours: Ours | OursOnDisk, mark: str) -> None:
    """Meet an honest device: it must come to agree with us, and edits must travel both ways."""
    third = Ours(3)
    third.write(b"from-third", b"third")
    await third.scan()
    ours.write(b"from-ours", b"ours again")
    await ours.scan()
    connection = Connection(ours, third)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(third.applier.run)
        nursery.start_soon(connection.run)
        with trio.move_on_after(HONEST_S) as patience:
            while not agree(ours, third) or b"third" not in ours.contents():  # noqa: ASYNC110  (virtual time)
                await trio.sleep(1)
        failures = [*connection.table_a.failures.values(), *connection.table_b.failures.values()]
        assert not patience.cancelled_caught, f"{mark}: no agreement with an honest device: {failures}"
        nursery.cancel_scope.cancel()
    assert b"ours again" in third.contents(), mark
    third.close()


def agree(one: Device, other: Device) -> bool:
    """Return whether two devices know the same, and know it."""
    ours, theirs = one.replica.standing, other.replica.standing
    return ours.root == theirs.root and dict(ours.knowledge) == dict(theirs.knowledge)


async def one(seed: str, totals: SessionTotals, root: Path | None) -> None:
    """Run one session and look at what it left."""
    rng = random.Random(seed)
    ours = Ours(1) if root is None else OursOnDisk(1, root)
    written = set()
    for key in (b"a", b"d/a", b"g", b"l"):
        content = b"ours " + key
        ours.write(key, content)
        written.add(content)
    await ours.scan()
    act = play if rng.random() < 0.6 else tamper
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.applier.run)
            try:
                await act(ours, rng, totals)
            except* RemoteProtocolError:
                totals.refused += 1
            await trio.sleep(1)
            if root is not None:
                await ours.scan()
            missing = written - ours.contents()
            assert not missing, f"{seed}: lost {missing}"
            await honest(ours, seed)
            missing = written - ours.contents()
            assert not missing, f"{seed}: lost {missing} afterwards"
            nursery.cancel_scope.cancel()
    finally:
        ours.close()


@contextmanager
def canary(folder: Path) -> Iterator[Path]:
    """Make a share's root beside a tree that must not change."""
    beside = folder / "beside"
    (beside / "d").mkdir(parents=True)
    (beside / "d" / "a").write_text("canary")
    (folder / "root").mkdir()

    def look() -> list[tuple[str, int, bytes]]:
        found = [folder / "beside", *sorted((folder / "beside").rglob("*")), *sorted(folder.iterdir())]
        found.remove(folder / "root")
        return [
            (str(path), path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in found
        ]

    before = look()
    yield folder / "root"
    assert look() == before


def run_sessions(count: int, seed: int) -> SessionTotals:
    """Run so many sessions, the same for the same seed.

    Raises:
        BaseExceptionGroup: Something else than `RemoteProtocolError` came out, or something was lost; a note names the session.
    """
    totals = SessionTotals()
    for number in range(count):
        mark = f"{seed}/{number}"
        # Two that answer each other for ever do so without a moment of virtual time.
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            run_one(mark, totals, on_disk=number % FOLDER_EVERY == 0)
        except BaseException as error:
            error.add_note(f"session {mark}")
            raise
        totals.sessions += 1
    faulthandler.cancel_dump_traceback_later()
    return totals


def run_one(mark: str, totals: SessionTotals, *, on_disk: bool) -> None:
    """Run one session."""
    clock = MockClock(autojump_threshold=0)
    if not on_disk:
        trio.run(one, mark, totals, None, clock=clock)
        return
    totals.folders += 1
    folder = Path(tempfile.mkdtemp(prefix="p2pfuzz-"))
    try:
        with canary(folder) as root:
            trio.run(one, mark, totals, root, clock=clock)
    finally:
        # Not shutil's, which calls itself once for each folder inside another.
        subprocess.run(["rm", "-rf", "--", str(folder)], check=True)
