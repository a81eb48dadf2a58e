"""A daemon on the loopback interface, and a peer that is rightly paired with it and says whatever it likes.

The liar is made of the project's own identity, TLS, link and content code, so that its lies arrive where honest
words would; what it says is up to the test.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from blake3 import blake3

from p2plab.device import UnixConnection
from p2plab.waiting import eventually
from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import Dot
from p2psyncd.daemon.mesh import DIALLER_ANSWERS, DIALLER_ASKS
from p2psyncd.daemon.peerlink import Self, greet
from p2psyncd.net.identity import Identity
from p2psyncd.net.pairing import PairedPeer, join
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.tls import CONTENT_ALPN, MAIN_ALPN
from p2psyncd.net.transport import Link, dial
from p2psyncd.sources.folder.attributes import Attributes, encode
from p2psyncd.wire.content import (
    BlobAnswer,
    BlobRequest,
    ChunkAnswer,
    ChunkRequest,
    RangeAnswer,
    RangeRequest,
    decode_request,
)
from p2psyncd.wire.messages import (
    Message,
    Offer,
    Offers,
    OpenContent,
    Ping,
    Pong,
    decode_message,
    encode_message,
)
from p2psyncd.wire.pairing_code import parse_code

__all__ = ["NOW_US", "BareDaemon", "Liar", "file_item", "tombstone"]

NOW_US = 1_790_000_000_000_000
WAIT_S = 30.0
CHUNK_BYTES = 256 * 1024
MAIN = "import sys; from p2psyncd.main import main; sys.exit(main())"


class BareDaemon:
    """A daemon of this checkout, without mDNS, listening on loopback."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = folder / "log"

    def start(self) -> BareDaemon:
        """Start and wait until it answers."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("P2PSYNC")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    MAIN,
                    "--home",
                    str(self.home),
                    "--no-mdns",
                    "--listen",
                    "127.0.0.1:0",
                    *self.options,
                ],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        try:
            eventually("the daemon answers", self.answers)
        except BaseException:
            self.kill()
            raise
        return self

    def answers(self) -> bool:
        """Return whether it answers; fails if it ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self.process.returncode}:\n{self.log()[-6000:]}")
        try:
            self.get("/v1/status")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def stop(self) -> int:
        """Stop it and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(30)
        self.process = None
        return code

    def kill(self) -> None:
        """End it, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def log(self) -> str:
        """Return what it wrote to stderr."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # What it costs

    def resident_bytes(self) -> int:
        """Return how much memory it holds."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * 4096

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        assert self.process is not None
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    # Talking to it

    def connection(self) -> UnixConnection:
        """Return a new connection to the control socket."""
        return UnixConnection(self.home / "run" / "control.sock", timeout_s=WAIT_S)

    def get(self, path: str, /) -> Any:
        """GET a JSON document."""
        return self.ask("GET", path)

    def post(self, path: str, /, **fields: object) -> Any:
        """POST JSON and return the answer."""
        return self.ask("POST", path, json.dumps(fields))

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        """Ask, and fail with what the daemon says if it refuses."""
        connection = self.connection()
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        finally:
            connection.close()
        assert answer.status == 200, said
        return said

    @contextlib.contextmanager
    def code(self, *, introduce: bool = False) -> Iterator[str]:
        """Show a pairing code for the length of a block."""
        connection = self.connection()
        try:
            connection.request("POST", "/v1/pair/show", body=json.dumps({"introduce": introduce}))
            answer = connection.getresponse()
            yield str(json.loads(answer.readline())["code"])
        finally:
            connection.close()

    @property
    def at(self) -> str:
        """Where it listens."""
        return str(self.get("/v1/status")["device"]["listen"][0])

    def add_share(self, name: str, **files: bytes) -> Path:
        """Make a folder with files and share it; return once they are recorded."""
        path = self.folder / name
        path.mkdir()
        for file, content in files.items():
            (path / file).write_bytes(content)
        self.post("/v1/shares/add", path=str(path), name=name)
        eventually("the files are recorded", lambda: self.share(name)["items"] >= len(files))
        return path

    def share(self, name: str) -> Any:
        """Return a share's status."""
        return next(share for share in self.get("/v1/status")["shares"] if share["name"] == name)

    def peers(self) -> dict[str, Any]:
        """Return the paired devices by name."""
        return {peer["name"]: peer for peer in self.get("/v1/status")["peers"]}

    def pair_with(self, other: BareDaemon) -> None:
        """Pair with another daemon and wait until both are connected."""
        with self.code() as code:
            other.post("/v1/pair/join", code=code, at=self.at, introduce=False, timeout_s=WAIT_S)
        for one in (self, other):
            eventually(
                "both are connected", lambda one=one: any(p["connected"] for p in one.peers().values())
            )


@dataclass
class Said:
    """What the daemon said to the liar."""

    messages: list[Message] = field(default_factory=list)
    came: trio.Event = field(default_factory=trio.Event)

    def add(self, message: Message) -> None:
        """Note a message."""
        self.messages.append(message)
        self.came.set()
        self.came = trio.Event()


class Liar:
    """A paired device without a daemon."""

    def __init__(self, folder: Path, daemon: BareDaemon, name: str = "liar") -> None:
        self.identity = Identity.load_or_create(folder / name, NOW_US)
        self.daemon = daemon
        self.name = name
        self.peer: PairedPeer | None = None
        self.policy = AddressPolicy()
        self.actor = ActorId(os.urandom(8))
        self.serial = 0
        self.contents: dict[bytes, bytes] = {}
        self.link: Link | None = None
        self.said = Said()
        self.listening = True
        """Whether what the daemon says is read."""
        self.answer: Callable[[ssl.SSLSocket, object], bool] = self.answer_honestly

    async def pair(self, *, introduce: bool = False) -> None:
        """Be paired by code, as anybody's device is."""
        with self.daemon.code(introduce=introduce) as code:
            self.peer = await join(
                parse_code(code),
                [self.daemon.at],
                identity=self.identity,
                name=self.name,
                introduce=introduce,
                policy=self.policy,
                entropy=os.urandom,
                on_paired=lambda peer: None,
            )

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Liar]:
        """Be connected and greeted for the length of a block; contents are served, messages noted."""
        assert self.peer is not None
        stream = await dial(
            self.daemon.at,
            self.identity,
            self.peer.certificate,
            MAIN_ALPN,
            timeout_s=WAIT_S,
            policy=self.policy,
        )
        self.link = Link(stream)
        self.said = Said()
        us = Self(
            device=self.identity.device,
            name=self.name,
            instance=os.urandom(8),
            ports=(),
            introduces=True,
            now_us=lambda: NOW_US,
        )
        try:
            await greet(self.link, us)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.listen, nursery)
                yield self
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(2, shield=True):
                await self.link.aclose()

    async def listen(self, nursery: trio.Nursery) -> None:
        """Note what comes, answer pings, and open content connections when asked to."""
        assert self.link is not None
        try:
            while True:
                while not self.listening:  # noqa: ASYNC110  (a plain switch for tests)
                    await trio.sleep(0.02)
                message = decode_message(await self.link.receive())
                if isinstance(message, Ping):
                    await self.link.send(encode_message(Pong(clock_us=NOW_US)))
                elif isinstance(message, OpenContent):
                    nursery.start_soon(self.serve_content)
                self.said.add(message)
        except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
            self.said.add(Pong(clock_us=NOW_US))  # so that whoever waits looks again

    async def say(self, *messages: Message) -> None:
        """Send messages."""
        assert self.link is not None
        await self.link.send_many([encode_message(message) for message in messages])

    async def say_bytes(self, payload: bytes) -> None:
        """Send a payload that is no message."""
        assert self.link is not None
        await self.link.send(payload)

    async def heard(self, cls: type[Message], *, count: int = 1) -> list[Any]:
        """Return the messages of a type, once so many have come."""
        with trio.fail_after(WAIT_S):
            while True:
                came = self.said.came
                found = [message for message in self.said.messages if isinstance(message, cls)]
                if len(found) >= count:
                    return found
                await came.wait()

    async def offered(self) -> Offer:
        """Return the first share that the daemon offers."""
        while True:
            for offers in reversed(await self.heard(Offers)):
                if offers.offers:
                    found: Offer = offers.offers[0]
                    return found
            await trio.sleep(0.02)

    # What is told of items

    def dot(self) -> Dot:
        """Return the name of a new write."""
        self.serial += 1
        return Dot(self.actor, NOW_US + self.serial)

    def has(self, content: bytes) -> bytes:
        """Have a content to give, and return its digest."""
        digest = blake3(content).digest()
        self.contents[digest] = content
        return digest

    # Content

    async def open_content(self, role: bytes) -> ssl.SSLSocket:
        """Dial a content connection."""
        assert self.peer is not None
        stream = await dial(
            self.daemon.at,
            self.identity,
            self.peer.certificate,
            CONTENT_ALPN,
            timeout_s=WAIT_S,
            policy=self.policy,
        )
        await stream.send_all(role)
        sock = stream.detach_blocking()
        sock.settimeout(WAIT_S)
        return sock

    async def serve_content(self) -> None:
        """Answer on a content connection until the daemon closes it."""
        try:
            sock = await self.open_content(DIALLER_ANSWERS)
        except OSError:
            return
        try:
            # Ends when the socket does, at the latest with the test's daemon.
            await trio.to_thread.run_sync(self.answer_all, sock, abandon_on_cancel=True)
        finally:
            sock.close()

    def answer_all(self, sock: ssl.SSLSocket) -> None:
        """Answer requests; blocks."""
        try:
            while (head := receive(sock, 4)) and self.answer(
                sock, decode_request(receive(sock, int.from_bytes(head, "big")))
            ):
                pass
        except (OSError, ValueError):
            return

    def answer_honestly(self, sock: ssl.SSLSocket, request: object) -> bool:
        """Give what there is."""
        match request:
            case BlobRequest():
                blobs = tuple((digest, self.contents.get(digest)) for digest in request.digests)
                frame(sock, BlobAnswer(blobs, last=True).encode())
            case ChunkRequest():
                content = self.contents.get(request.digest)
                if content is None:
                    frame(sock, ChunkAnswer(None).encode())
                    return True
                steps = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
                chunks = b"".join(blake3(step).digest()[:16] + len(step).to_bytes(4, "big") for step in steps)
                frame(sock, ChunkAnswer(chunks).encode())
            case RangeRequest():
                content = self.contents.get(request.digest, b"")
                for offset, length in request.ranges:
                    part = content[offset : offset + length]
                    for at in range(0, len(part), 1 << 20):
                        step = part[at : at + (1 << 20)]
                        frame(sock, RangeAnswer(len(step)).encode())
                        sock.sendall(step)
        return True

    async def ask_content(self) -> ssl.SSLSocket:
        """Open a content connection to ask on."""
        return await self.open_content(DIALLER_ASKS)


def receive(sock: ssl.SSLSocket, size: int) -> bytes:
    """Return so many bytes; fewer at the end."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def frame(sock: ssl.SSLSocket, payload: bytes) -> None:
    """Send one framed payload."""
    sock.sendall(len(payload).to_bytes(4, "big") + payload)


def file_item(liar: Liar, key: bytes, digest: bytes, size: int, **changes: Any) -> Item:
    """Return a file's version as the liar tells it."""
    values: dict[str, Any] = {
        "key": key,
        "kind": Kind.FILE,
        "digest": digest,
        "size": size,
        "meta": encode(Attributes(mode=0o644, mtime_ns=NOW_US * 1000)),
        "dot": liar.dot(),
        "hlc": NOW_US + liar.serial,
    }
    return Item(**(values | changes))


def tombstone(liar: Liar, key: bytes, **changes: Any) -> Item:
    """Return a deletion as the liar tells it."""
    values: dict[str, Any] = {
        "key": key,
        "kind": Kind.TOMBSTONE,
        "digest": b"",
        "size": 0,
        "meta": b"",
        "dot": liar.dot(),
        "hlc": NOW_US + liar.serial,
    }
    return Item(**(values | changes))
