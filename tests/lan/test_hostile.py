"""A paired device that lies, and strangers at the door: nothing leaves the share, nothing is lost, nobody else suffers.

The daemon is a real one on loopback with a real folder; beside the folder lies a canary, a tree whose names, contents
and times must be what they were. After each lie an honest device still gets what there is to get.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from blake3 import blake3
from p2plab.device import Device, pair
from p2plab.liar import NOW_US, BareDaemon, Liar, file_item, frame, tombstone
from p2plab.trees import describe, leftovers
from p2plab.waiting import eventually

from p2psyncd.core.ids import ActorId, DeviceId, ShareId
from p2psyncd.core.item import HLC_MAX, Item, Kind
from p2psyncd.core.knowledge import knowledge_hash
from p2psyncd.core.version import SEQ_MAX, Dot, pack_vector
from p2psyncd.net.admission import UNKNOWN_CONNECTIONS_MAX
from p2psyncd.net.identity import Identity
from p2psyncd.net.listener import Listener
from p2psyncd.net.policy import AddressPolicy
from p2psyncd.net.stream import TlsStream
from p2psyncd.net.transport import dial_stranger
from p2psyncd.sources.folder.attributes import Attributes, encode
from p2psyncd.wire import messages
from p2psyncd.wire.content import (
    BlobAnswer,
    BlobRequest,
    ChunkAnswer,
    ChunkRequest,
    RangeAnswer,
    RangeRequest,
)
from p2psyncd.wire.messages import Ask, Closed, Delta, Done, Hello, Know, Offer, Offers, Summaries, Want

T = TypeVar("T")
MIB = 1024 * 1024
WAIT_S = 30.0
# What floods may add to the daemon's memory: queues and inboxes have room for so much.
GROWTH_BYTES_MAX = 96 * MIB


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, for daemons."""
    made = Path(tempfile.mkdtemp(prefix="p2p-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def canary(folder: Path) -> Iterator[Path]:
    """A tree beside everything that is shared; it must not change."""
    made = folder / "canary"
    (made / "inner").mkdir(parents=True)
    (made / "a").write_text("canary a")
    (made / "inner" / "evil").write_text("canary evil")
    before = describe(made), [path.stat().st_mtime_ns for path in sorted(made.rglob("*"))]
    yield made
    assert (describe(made), [path.stat().st_mtime_ns for path in sorted(made.rglob("*"))]) == before


@pytest.fixture
def maple(folder: Path, canary: Path) -> Iterator[BareDaemon]:
    """A running daemon that shares `docs`."""
    del canary
    daemon = BareDaemon(folder / "maple", "--name", "maple").start()
    try:
        daemon.add_share("docs", a=b"ours a", b=b"ours b")
        yield daemon
        assert daemon.answers()
        code = daemon.stop()
    finally:
        daemon.kill()
        # Shown with the test if it fails.
        sys.stdout.write(daemon.log()[-6000:])
    assert "Traceback" not in daemon.log()
    assert code == 0


@pytest.fixture
async def liar(folder: Path, maple: BareDaemon) -> AsyncIterator[Liar]:
    """A liar that is paired and connected."""
    made = Liar(folder, maple)
    await made.pair()
    async with made.connected():
        yield made


async def until(what: str, probe: Callable[[], T]) -> T:
    """Wait for a condition while the liar goes on."""
    return await trio.to_thread.run_sync(lambda: eventually(what, probe, within_s=WAIT_S))


async def until_it_asks_again(what: str, probe: Callable[[], T], liar: Liar, share: ShareId) -> None:
    """Wait for a condition while the liar keeps saying that it got further: only then it is asked again."""

    async def get_further() -> None:
        while True:
            await tell(liar, share, tombstone(liar, b"never-there"))
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get_further)
        await until(what, probe)
        nursery.cancel_scope.cancel()


def hello(share: ShareId, actor: ActorId, knowledge: dict[ActorId, int], **changes: Any) -> Hello:
    """Return a hello; fields that matter to no test are plausible."""
    values: dict[str, Any] = {
        "share": share,
        "actor": actor,
        "knowledge_hash": knowledge_hash(knowledge),
        "knowledge": pack_vector(knowledge),
        "root": bytes(32),
        "need_items": 0,
        "need_size": 0,
    }
    if "boot" in {one.name for one in fields(Hello)}:
        values["boot"] = messages.Boot(number=1, nonce=os.urandom(8))
    return Hello(**(values | changes))


async def open_session(liar: Liar, knowledge: dict[ActorId, int] | None = None, **changes: Any) -> Hello:
    """Offer the daemon's share back to it, say hello, and return the daemon's hello."""
    offer = await liar.offered()
    await liar.say(Offers(offers=(offer,)))
    known = {liar.actor: NOW_US + 1_000_000} if knowledge is None else knowledge
    await liar.say(hello(offer.share, liar.actor, known, **changes))
    found: Hello = (await liar.heard(Hello))[0]
    return found


async def tell(liar: Liar, share: ShareId, *items: Item) -> None:
    """Send versions."""
    await liar.say(Delta(share=share, items=items, devices=((liar.actor, liar.identity.device),)))


async def still_serves(maple: BareDaemon, folder: Path, name: str = "willow") -> Path:
    """Pair an honest device, share `docs` with it, and see a file arrive each way; return its folder."""

    def serve() -> Path:
        willow = BareDaemon(folder / name, "--name", name).start()
        try:
            maple.pair_with(willow)
            ours, theirs = maple.folder / "docs", willow.folder / "docs"
            eventually("the offer", lambda: any(o["name"] == "docs" for o in willow.get("/v1/shares/offers")))
            willow.post("/v1/shares/accept", name="docs", path=str(theirs), from_device="maple")
            (ours / f"to-{name}").write_text("to")
            eventually("a file arrives", (theirs / f"to-{name}").exists, within_s=WAIT_S)
            (theirs / f"from-{name}").write_text("from")
            eventually("a file comes back", (ours / f"from-{name}").exists, within_s=WAIT_S)
            for path in [path for path in ours.iterdir() if not path.is_symlink() and path.is_file()]:
                path.write_bytes(path.read_bytes() + b"+")
                eventually(
                    f"an edit of {path.name} arrives",
                    lambda path=path: (
                        (theirs / path.name).exists()
                        and (theirs / path.name).read_bytes() == path.read_bytes()
                    ),
                    within_s=WAIT_S,
                )
            return theirs
        finally:
            willow.stop()

    return await trio.to_thread.run_sync(serve)


async def test_the_liar_can_also_be_honest(liar: Liar, maple: BareDaemon, folder: Path) -> None:
    """The other tests rely on this: what it tells arrives, what it is told is right."""
    share = (await open_session(liar)).share
    digest = liar.has(b"from the liar")
    await tell(liar, share, file_item(liar, b"c", digest, 13))
    await until("the file arrives", (maple.folder / "docs" / "c").exists)
    assert (maple.folder / "docs" / "c").read_bytes() == b"from the liar"
    [delta] = await liar.heard(Delta)
    assert sorted(item.key for item in delta.items) == [b"a", b"b"]
    await still_serves(maple, folder)


# What it sends as content


def wrong(content: bytes) -> bytes:
    """Return other bytes of the same length."""
    return bytes(byte ^ 0xFF for byte in content)


def lie_with_blobs(answer: Callable[[bytes, bytes], bytes]) -> Callable[[Any, Any, Liar], bool]:
    """Return a server of contents that answers every request with one frame."""

    def serve(sock: Any, request: Any, liar: Liar) -> bool:
        if not isinstance(request, BlobRequest):
            return False
        digest = request.digests[0]
        frame(sock, answer(digest, liar.contents.get(digest, b"none")))
        return True

    return serve


def drip(sock: Any, request: Any, liar: Liar) -> bool:
    """Send frames that are neither content nor the end, until the daemon has enough."""
    del request, liar
    while True:
        frame(sock, BlobAnswer((), last=False).encode())


def claim_a_huge_frame(sock: Any, request: Any, liar: Liar) -> bool:
    """Announce four gigabytes."""
    del request, liar
    sock.sendall(b"\xff\xff\xff\xff" + b"x" * 1000)
    return False


def send_a_bomb(sock: Any, request: Any, liar: Liar) -> bool:
    """Send the most small values that a frame of the old limit could hold."""
    del request, liar
    size = 64 * MIB
    sock.sendall((size + 5).to_bytes(4, "big") + b"\x9a" + size.to_bytes(4, "big"))
    for _ in range(64):
        sock.sendall(b"\x80" * MIB)
    return False


CONTENT_LIES: dict[str, Callable[[Any, Any, Liar], bool]] = {
    "wrong bytes": lie_with_blobs(
        lambda digest, content: BlobAnswer(((digest, wrong(content)),), last=True).encode()
    ),
    "too short": lie_with_blobs(
        lambda digest, content: BlobAnswer(((digest, content[:-1]),), last=True).encode()
    ),
    "too long": lie_with_blobs(
        lambda digest, content: BlobAnswer(((digest, content + b"x"),), last=True).encode()
    ),
    "nothing": lie_with_blobs(lambda digest, _: BlobAnswer(((digest, b""),), last=True).encode()),
    "not asked for": lie_with_blobs(lambda *_: BlobAnswer(((bytes(32), b""),), last=True).encode()),
    "another answer": lie_with_blobs(lambda *_: RangeAnswer(5).encode()),
    "no CBOR": lie_with_blobs(lambda *_: b"\xff\xff"),
    "no end": drip,
    "a huge frame": claim_a_huge_frame,
    "a bomb": send_a_bomb,
}


@pytest.mark.parametrize("lie", CONTENT_LIES)
async def test_a58_small_content_that_is_not_what_was_told_is_discarded_and_fetched_again(
    liar: Liar, maple: BareDaemon, lie: str
) -> None:
    share = (await open_session(liar)).share
    content = b"what was told" * 100
    lies = 0

    def answer(sock: Any, request: Any) -> bool:
        nonlocal lies
        lies += 1
        return CONTENT_LIES[lie](sock, request, liar) if lies < 3 else liar.answer_honestly(sock, request)

    liar.answer = answer
    before = maple.resident_bytes()
    path = maple.folder / "docs" / "c"
    await tell(liar, share, file_item(liar, b"c", liar.has(content), len(content)))
    await until_it_asks_again("the right content arrives", path.exists, liar, share)
    assert lies >= 3
    assert path.read_bytes() == content
    assert maple.resident_bytes() - before < GROWTH_BYTES_MAX
    assert leftovers(maple.folder / "docs") == []


@pytest.mark.parametrize(
    "lie",
    [
        "wrong bytes",
        "ends early",
        "more than asked",
        "chunks of others",
        "chunks that do not add up",
        "endless chunks",
    ],
)
async def test_a58_large_content_that_is_not_what_was_told_is_discarded_and_fetched_again(
    liar: Liar, maple: BareDaemon, lie: str
) -> None:
    """A large file is replaced, so that chunk lists are asked for."""
    path = maple.folder / "docs" / "big"
    path.write_bytes(os.urandom(2 * MIB))
    await until("it is recorded", lambda: maple.share("docs")["items"] == 3)
    greeted = await open_session(liar)
    deltas = await liar.heard(Delta)
    [known] = [item for delta in deltas for item in delta.items if item.key == b"big"]
    content = os.urandom(2 * MIB)
    lies = 0

    def answer(sock: Any, request: Any) -> bool:
        nonlocal lies
        lies += 1
        if lies > 4:
            return liar.answer_honestly(sock, request)
        match request:
            case ChunkRequest() if lie == "chunks of others":
                frame(
                    sock,
                    ChunkAnswer(
                        b"".join(blake3(b"%d" % n).digest()[:16] + MIB.to_bytes(4, "big") for n in range(2))
                    ).encode(),
                )
            case ChunkRequest() if lie == "chunks that do not add up":
                frame(sock, ChunkAnswer(bytes(16) + (3 * MIB).to_bytes(4, "big")).encode())
            case ChunkRequest() if lie == "endless chunks":
                frame(sock, ChunkAnswer(bytes(20 * 1_000_000)).encode())
            case ChunkRequest():
                frame(
                    sock,
                    ChunkAnswer(
                        None if lie == "wrong bytes" else bytes(16) + (2 * MIB).to_bytes(4, "big")
                    ).encode(),
                )
            case RangeRequest() if lie == "ends early":
                frame(sock, RangeAnswer(MIB).encode())
                sock.sendall(bytes(MIB))
                frame(sock, RangeAnswer(0).encode())
            case RangeRequest() if lie == "more than asked":
                frame(sock, RangeAnswer(2**62).encode())
                sock.sendall(bytes(MIB))
            case RangeRequest():
                for _ in range(2):
                    frame(sock, RangeAnswer(MIB).encode())
                    sock.sendall(bytes(MIB))
            case _:
                return False
        return True

    liar.answer = answer
    old = path.read_bytes()
    item = file_item(
        liar, b"big", liar.has(content), len(content), vector=pack_vector({known.dot.actor: known.dot.seq})
    )
    await tell(liar, greeted.share, item)
    # Whatever is there at any moment is the one or the other.
    arrived = lambda: old != whole(path, {old, content})  # noqa: E731
    await until_it_asks_again("the right content arrives", arrived, liar, greeted.share)
    assert path.read_bytes() == content


def whole(path: Path, contents: set[bytes]) -> bytes:
    """Return a file's content, which must be one of these."""
    found = path.read_bytes()
    assert found in contents
    return found


async def test_a58_a_liar_cannot_keep_content_from_coming_from_elsewhere(
    liar: Liar, maple: BareDaemon, folder: Path
) -> None:
    """The liar tells of a file that an honest device has as well, and sends wrong bytes for it for ever."""
    share = (await open_session(liar)).share
    liar.answer = lambda sock, request: CONTENT_LIES["wrong bytes"](sock, request, liar)
    content = b"to-willow's content"
    await tell(liar, share, file_item(liar, b"c", liar.has(content), len(content)))
    await until("maple asks for it", lambda: "is not what its digest says" in maple.log())
    theirs = await still_serves(maple, folder)
    assert not (theirs / "c").exists()


# Names, kinds and links

HOSTILE_NAMES = [
    b"..",
    b"../canary/a",
    b"a/../../../canary/a",
    b"/etc/p2psync-was-here",
    b"",
    b"a//b",
    b"a/./b",
    b"./a",
    b"d/",
    b"nul\0byte",
    b".p2psync",
    b".p2psync/share",
    b".P2Psync/history/x",
    b"n" * 256,
    b"d/" * 2047 + b"dd",
]


@pytest.mark.parametrize("key", HOSTILE_NAMES, ids=lambda key: repr(key[:20]))
async def test_a_name_that_is_no_path_in_the_share_ends_the_session(
    liar: Liar, maple: BareDaemon, key: bytes
) -> None:
    share = (await open_session(liar)).share
    before = describe(maple.folder / "docs")
    marker = (maple.folder / "docs" / ".p2psync" / "share").read_bytes()
    item = file_item(liar, b"x", liar.has(b"evil"), 4)
    await tell(
        liar, share, file_item(liar, b"fine", liar.has(b"fine"), 4), Item(**values_of(item) | {"key": key})
    )
    # The session ends; of a name that no message may hold, the connection.
    await until(
        "it is refused", lambda: "session_failed" in maple.log() or "connection_refused" in maple.log()
    )
    assert describe(maple.folder / "docs") == before
    assert (maple.folder / "docs" / ".p2psync" / "share").read_bytes() == marker


def values_of(item: Item) -> dict[str, Any]:
    """Return an item's fields."""
    return {one.name: getattr(item, one.name) for one in fields(Item)}


def link_item(liar: Liar, key: bytes, target: bytes) -> Item:
    """Return a symlink's version."""
    meta = encode(Attributes(mode=0o777, mtime_ns=NOW_US * 1000, target=target))
    return file_item(liar, key, blake3(target).digest(), 0, kind=Kind.SYMLINK, meta=meta)


@pytest.mark.parametrize("first", ["link", "file", "together"])
async def test_nothing_is_written_through_a_link_of_the_liars(
    liar: Liar, maple: BareDaemon, folder: Path, first: str
) -> None:
    """A link out of the share, and files below it, in any order."""
    share = (await open_session(liar)).share
    docs = maple.folder / "docs"
    target = os.fsencode(folder / "canary")
    link = link_item(liar, b"d", target)
    inner = [file_item(liar, key, liar.has(b"evil"), 4) for key in (b"d/a", b"d/new", b"d/inner/evil")]
    order = {"link": [[link], inner], "file": [inner, [link]], "together": [[link, *inner]]}[first]
    for step in order:
        await tell(liar, share, *step)
        await until("all of that was looked at", lambda: maple.share("docs")["state"] != "scanning")
    after = [file_item(liar, b"after", liar.has(b"after"), 5)]
    await tell(liar, share, *after)
    await until("what came afterwards is there", (docs / "after").exists)
    # A directory that holds something comes back over a link: either way `d` is in the share.
    assert not (docs / "d").is_symlink() or (docs / "d").readlink() == folder / "canary"
    await still_serves(maple, folder)


async def test_a29_a_directory_swapped_for_a_link_again_and_again_leads_nowhere(
    liar: Liar, maple: BareDaemon, folder: Path
) -> None:
    """While the liar has files written below `d`, `d` is a link to the canary now and then, as fast as it goes."""
    share = (await open_session(liar)).share
    docs = maple.folder / "docs"
    (docs / "d").mkdir()
    await until("it is recorded", lambda: maple.share("docs")["items"] == 3)
    stop = False

    def swap() -> int:
        turns = 0
        while not stop:
            try:
                (docs / "d").rename(folder / "maple" / "aside")
                (docs / "d").symlink_to(folder / "canary")
                (docs / "d").unlink()
                (folder / "maple" / "aside").rename(docs / "d")
            except OSError:
                # The daemon made `d` again in between: that one goes aside, what it holds with it.
                if (docs / "d").is_dir() and not (docs / "d").is_symlink():
                    (docs / "d").rename(folder / "maple" / f"was-{turns}")
                elif (docs / "d").is_symlink():
                    (docs / "d").unlink()
                if (folder / "maple" / "aside").exists() and not (docs / "d").exists():
                    (folder / "maple" / "aside").rename(docs / "d")
            turns += 1
        return turns

    turns: list[int] = []

    async def keep_swapping() -> None:
        turns.append(await trio.to_thread.run_sync(swap))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_swapping)
        for number in range(60):
            content = b"evil %d" % number
            digest = liar.has(content)
            keys = (b"d/a", b"d/inner/evil", b"d/new-%d" % number)
            await tell(liar, share, *(file_item(liar, key, digest, len(content)) for key in keys))
            await trio.sleep(0.02)  # gives the daemon something else to write each time, no more
        stop = True
    assert turns[0] > 100
    # The canary's fixture looks at the canary. Here: what was told can still be had, in the share.
    await tell(liar, share, file_item(liar, b"after", liar.has(b"after"), 5))
    await until("the daemon goes on", (docs / "after").exists)


# Lies about versions and knowledge


async def ours(liar: Liar) -> dict[bytes, Item]:
    """Return what the daemon told of its items."""
    return {item.key: item for delta in await liar.heard(Delta) for item in delta.items}


def on_top_of(item: Item) -> dict[str, Any]:
    """Return the vector of a write that knows another one."""
    return {"vector": pack_vector({item.dot.actor: item.dot.seq})}


POISONS: dict[str, Callable[[Liar, dict[bytes, Item]], list[Item]]] = {
    "the latest time there is": lambda liar, known: [
        file_item(liar, b"a", liar.has(b"late"), 4, hlc=HLC_MAX, **on_top_of(known[b"a"])),
        file_item(liar, b"b", liar.has(b"late, not knowing"), 17, hlc=HLC_MAX),
    ],
    "the greatest number there is": lambda liar, known: [
        file_item(liar, b"a", liar.has(b"n"), 1, dot=Dot(liar.actor, SEQ_MAX), **on_top_of(known[b"a"])),
    ],
    "sizes that add up to too much": lambda liar, _: [
        file_item(liar, b"huge-%d" % n, blake3(b"%d" % n).digest(), SEQ_MAX) for n in range(5)
    ],
    "names as long as they may be": lambda liar, _: [
        tombstone(liar, b"/".join([b"%d" % n * 50] * 80)[:4090]) for n in range(1000, 2500)
    ],
    "targets as long as they may be": lambda liar, _: [
        link_item(liar, b"link-%d" % n, b"x" * 4095) for n in range(900)
    ],
    "vectors as long as they may be": lambda liar, known: [
        file_item(
            liar, b"a", liar.has(b"v"), 1,
            vector=pack_vector({known[b"a"].dot.actor: known[b"a"].dot.seq} | {ActorId(n.to_bytes(8, "big")): SEQ_MAX for n in range(1000)}),
        )
    ],
    "a directory over a file, and back": lambda liar, known: [
        file_item(liar, b"a", b"", 0, kind=Kind.DIRECTORY, **on_top_of(known[b"a"])),
        file_item(liar, b"a/b", liar.has(b"below"), 5, hlc=HLC_MAX),
        tombstone(liar, b"a", hlc=HLC_MAX),
    ],
    "no metadata": lambda liar, known: [file_item(liar, b"a", liar.has(b"m"), 1, meta=b"", **on_top_of(known[b"a"]))],
    "a row in a folder": lambda liar, _: [file_item(liar, b"row", b"", 0, kind=Kind.ROW)],
}  # fmt: skip


@pytest.mark.parametrize("poison", POISONS)
async def test_a_poisoned_version_does_not_keep_honest_devices_from_going_on(
    liar: Liar, maple: BareDaemon, folder: Path, poison: str
) -> None:
    share = (await open_session(liar)).share
    docs = maple.folder / "docs"
    items = POISONS[poison](liar, await ours(liar))
    before = maple.resident_bytes()
    for at in range(0, len(items), 500):
        await tell(liar, share, *items[at : at + 500])
    await tell(liar, share, file_item(liar, b"after", liar.has(b"after"), 5))
    await until("what came afterwards is there", (docs / "after").exists)
    assert_kept(docs, {b"ours a", b"ours b"})
    await still_serves(maple, folder)
    assert maple.resident_bytes() - before < GROWTH_BYTES_MAX


def assert_kept(docs: Path, contents: set[bytes]) -> None:
    """Check that contents are in the share or in its history, under whatever name."""
    # Not rglob: in some Pythons it fails at a link whose target is longer than a path may be.
    paths = [Path(above, name) for above, _, names in os.walk(docs) for name in names]
    found = {path.read_bytes() for path in paths if not path.is_symlink() and path.is_file()}
    assert contents <= found


@pytest.mark.parametrize("whose", ["the liar's", "a stranger's", "everybody's"])
async def test_knowledge_from_the_future_loses_nothing(
    liar: Liar, maple: BareDaemon, folder: Path, whose: str
) -> None:
    """The liar claims to have seen all that anybody will ever write."""
    greeted = await open_session(liar)
    theirs = greeted.actor
    actors = {
        "the liar's": [liar.actor],
        "a stranger's": [ActorId(b"stranger")],
        "everybody's": [theirs, liar.actor],
    }[whose]
    known = {theirs: NOW_US} | dict.fromkeys(actors, SEQ_MAX)
    for _ in range(5):
        for root in (bytes(32), greeted.root):
            await liar.say(
                Done(share=greeted.share, knowledge=pack_vector(known), root=root, need_items=0, need_size=0)
            )
    await until("maple is at peace", lambda: maple.share("docs")["state"] == "idle")
    await still_serves(maple, folder)
    assert_kept(maple.folder / "docs", {b"ours a+", b"ours b+"})


async def test_writes_of_our_own_that_we_never_made_cannot_be_told_to_us(
    liar: Liar, maple: BareDaemon, folder: Path
) -> None:
    greeted = await open_session(liar)
    known = await ours(liar)
    forged = [
        file_item(liar, b"a", liar.has(b"forged"), 6, dot=Dot(greeted.actor, known[b"a"].dot.seq + 10**12)),
        file_item(liar, b"b", liar.has(b"forged"), 6, dot=Dot(greeted.actor, SEQ_MAX)),
        file_item(liar, b"c", liar.has(b"forged"), 6, dot=Dot(greeted.actor, 5)),
    ]
    for item in forged:
        await tell(liar, greeted.share, item)
    await liar.heard(Closed)
    assert_kept(maple.folder / "docs", {b"ours a", b"ours b"})
    await still_serves(maple, folder)


async def test_a_liar_that_deletes_everything_moves_it_to_history(
    liar: Liar, maple: BareDaemon, folder: Path
) -> None:
    """It is a member: it may delete. What it deleted can be had again."""
    share = (await open_session(liar)).share
    docs = maple.folder / "docs"
    known = await ours(liar)
    await tell(liar, share, *(tombstone(liar, key, **on_top_of(item)) for key, item in known.items()))
    await until("both are gone", lambda: not (docs / "a").exists() and not (docs / "b").exists())
    assert_kept(docs, {b"ours a", b"ours b"})
    maple.post("/v1/restore", path=str(docs / "a"))
    assert (docs / "a").read_bytes() == b"ours a"
    await still_serves(maple, folder)


async def test_what_was_said_to_be_forgotten_or_gone_moves_to_history_at_most(
    liar: Liar, maple: BareDaemon, folder: Path
) -> None:
    greeted = await open_session(liar)
    known = await ours(liar)
    everything = pack_vector({item.dot.actor: SEQ_MAX for item in known.values()} | {liar.actor: SEQ_MAX})
    await liar.say(
        messages.Gone(share=greeted.share, entries=tuple((key, item.dot) for key, item in known.items())),
        Know(share=greeted.share, knowledge=everything, forgotten=everything),
    )
    await liar.say(
        hello(greeted.share, liar.actor, {liar.actor: SEQ_MAX}, forgotten=pack_vector({liar.actor: SEQ_MAX}))
    )
    await still_serves(maple, folder)
    kept = {path.read_bytes() for path in (maple.folder / "docs").rglob("*") if path.is_file()}
    # An honest edit added a plus to what was still in its place.
    assert all(kept & {content, content + b"+"} for content in (b"ours a", b"ours b"))


# Floods


def flood_want(liar: Liar, share: ShareId) -> messages.Message:
    del liar
    return Want(share=share, hashes=tuple(os.urandom(8) for _ in range(20_000)))


def flood_done(liar: Liar, share: ShareId) -> messages.Message:
    del liar
    knowledge = {ActorId(os.urandom(8)): 1 for _ in range(4000)}
    return Done(share=share, knowledge=pack_vector(knowledge), root=bytes(32), need_items=0, need_size=0)


def flood_delta(liar: Liar, share: ShareId) -> messages.Message:
    return Delta(share=share, items=tuple(tombstone(liar, b"t") for _ in range(5000)))


def flood_actors(liar: Liar, share: ShareId) -> messages.Message:
    named = tuple((ActorId(os.urandom(8)), DeviceId(bytes(32))) for _ in range(1))
    return Delta(share=share, items=(tombstone(liar, b"t"),), devices=named)


def flood_ask(liar: Liar, share: ShareId) -> messages.Message:
    del liar
    return Ask(share=share, prefixes=tuple(bytes([a, b]) for a in range(16) for b in range(16)), full=True)


def flood_hello(liar: Liar, share: ShareId) -> messages.Message:
    return hello(share, liar.actor, {liar.actor: 1})


def flood_offers(liar: Liar, share: ShareId) -> messages.Message:
    del liar, share
    made = (
        Offer(share=ShareId(os.urandom(16)), name="x" * 200, kind="folder", secret=bytes(32), items=0, size=0)
        for _ in range(4096)
    )
    return Offers(offers=tuple(made))


def flood_closed(liar: Liar, share: ShareId) -> messages.Message:
    del liar
    return Closed(share=share, reason="StateForked")


def flood_removed(liar: Liar, share: ShareId) -> messages.Message:
    del liar, share
    return messages.Introductions(
        devices=(), removed=tuple((DeviceId(os.urandom(32)), NOW_US) for _ in range(300))
    )


def flood_content(liar: Liar, share: ShareId) -> messages.Message:
    del liar, share
    return messages.OpenContent()


def flood_summaries(liar: Liar, share: ShareId) -> messages.Message:
    del liar
    return Summaries(share=share, body=[0, [[b"", bytes(12)]]])


FLOODS = [flood_want, flood_done, flood_delta, flood_actors, flood_ask, flood_hello, flood_offers, flood_closed, flood_removed, flood_content, flood_summaries]  # fmt: skip
FLOOD_BYTES = 8 * MIB
FLOOD_MESSAGES = 1500


READING = [flood_want, flood_done, flood_ask, flood_closed]


@pytest.mark.parametrize(
    ("flood", "reads"),
    [(flood, False) for flood in FLOODS] + [(flood, True) for flood in READING],
    ids=lambda value: value.__name__ if callable(value) else ("reading" if value else "not reading"),
)
async def test_a_flood_of_messages_costs_the_daemon_bounded_memory(
    folder: Path, maple: BareDaemon, flood: Callable[[Liar, ShareId], messages.Message], reads: bool
) -> None:
    liar = Liar(folder, maple)
    await liar.pair()
    before, descriptors = maple.resident_bytes(), maple.descriptors()
    async with liar.connected():
        share = (await open_session(liar)).share
        liar.listening = reads
        sent = count = 0
        # The daemon may hang up, or stop reading: both are answers.
        with trio.move_on_after(10):
            try:
                while sent < FLOOD_BYTES and count < FLOOD_MESSAGES:
                    payload = messages.encode_message(flood(liar, share))
                    sent += len(payload)
                    count += 1
                    await liar.say_bytes(payload)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        assert maple.resident_bytes() - before < GROWTH_BYTES_MAX
    await until("descriptors are given back", lambda: maple.descriptors() <= descriptors + 4)
    await still_serves(maple, folder)


# Strangers


@pytest.fixture
def at(maple: BareDaemon) -> tuple[str, int]:
    """Where maple listens."""
    host, _, port = maple.at.rpartition(":")
    return host, int(port)


def stranger_context(alpn: str | None, *, identity: Identity | None = None) -> ssl.SSLContext:
    """Return what somebody connects with who is not paired."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    if identity is not None:
        context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context


def knock(at: tuple[str, int], say: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Connect, say something, and return all that comes until the other side closes."""
    heard = b""
    raw = socket.create_connection(at, timeout=20)
    sock = context.wrap_socket(raw, do_handshake_on_connect=False) if context is not None else raw
    with sock, contextlib.suppress(ssl.SSLError, ConnectionError):
        if isinstance(sock, ssl.SSLSocket):
            sock.do_handshake()
        sock.sendall(say)
        while chunk := sock.recv(65_536):
            heard += chunk
    return heard


def old_tls() -> ssl.SSLContext:
    """Return a context for TLS 1.2 and nothing newer."""
    context = stranger_context("p2psync/1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


NESTED = b"\x81" * 8000
STRANGERS: dict[str, tuple[bytes, Callable[[Path], ssl.SSLContext | None]]] = {
    "garbage": (os.urandom(20_000), lambda _: None),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", lambda _: None),
    "a huge frame": (b"\xff\xff\xff\xff" * 5000, lambda _: None),
    "half a handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", lambda _: None),
    "no certificate": (b"\0\0\0\x05hello", lambda _: stranger_context("p2psync/1")),
    "no certificate for content": (b"A", lambda _: stranger_context("p2psync-content/1")),
    "another certificate": (
        b"\0\0\0\x05hello",
        lambda folder: stranger_context(
            "p2psync/1", identity=Identity.load_or_create(folder / "stranger", NOW_US)
        ),
    ),
    "a certificate for pairing": (
        b"\0\0\0\x05hello",
        lambda folder: stranger_context(
            "p2psync-pair/1", identity=Identity.load_or_create(folder / "stranger", NOW_US)
        ),
    ),
    "old TLS": (b"hello", lambda _: old_tls()),
    "another protocol": (b"hello", lambda _: stranger_context("h2")),
    "no protocol": (b"hello", lambda _: stranger_context(None)),
    "pairing without a code": (b"\0\0\0\x05hello", lambda _: stranger_context("p2psync-pair/1")),
    "nesting instead of pairing": (
        len(NESTED).to_bytes(4, "big") + NESTED,
        lambda _: stranger_context("p2psync-pair/1"),
    ),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_c3_a_stranger_who_knows_the_address_gets_a_closed_connection(
    maple: BareDaemon, at: tuple[str, int], folder: Path, what: str
) -> None:
    say, context = STRANGERS[what]
    heard = knock(at, say, context(folder))
    assert b"docs" not in heard
    # What pairing shows is one byte that says that it may begin.
    assert heard in {b"", b"\x06"}
    assert maple.peers() == {}


def test_c9_garbage_again_and_again_leaves_memory_and_descriptors_as_they_were(
    maple: BareDaemon, at: tuple[str, int], folder: Path
) -> None:
    made = {
        what: (say, context(folder))
        for what, (say, context) in STRANGERS.items()
        if what != "half a handshake"
    }

    def everything() -> None:
        for say, context in made.values():
            knock(at, say, context)

    for _ in range(3):
        everything()
    before, descriptors = maple.resident_bytes(), maple.descriptors()
    for _ in range(25):
        everything()
    assert maple.resident_bytes() - before < 16 * MIB
    eventually("descriptors are given back", lambda: maple.descriptors() <= descriptors + 2)


async def test_c9_a_flood_of_silent_and_dripping_connections_keeps_no_paired_device_out(
    maple: BareDaemon, at: tuple[str, int], folder: Path
) -> None:
    """They come from the address of the honest device itself, which is the worst case."""
    willow = BareDaemon(folder / "willow", "--name", "willow").start()
    held: list[socket.socket] = []
    try:
        await trio.to_thread.run_sync(lambda: maple.pair_with(willow))
        before, descriptors = maple.resident_bytes(), maple.descriptors()
        await trio.to_thread.run_sync(willow.stop)
        for number in range(300):
            held.append(socket.create_connection(at, timeout=20))
            with contextlib.suppress(ConnectionError):
                held[-1].sendall(b"\x16\x03\x01\x02\x00"[: number % 6])
        assert maple.descriptors() - descriptors < UNKNOWN_CONNECTIONS_MAX + 8
        willow.start()
        await until("willow is connected", lambda: any(p["connected"] for p in maple.peers().values()))
        assert maple.resident_bytes() - before < 32 * MIB
        await until("they are cut off", lambda: maple.descriptors() <= descriptors + 8)
    finally:
        for one in held:
            one.close()
        willow.kill()


@pytest.mark.parametrize(
    "frame_bytes",
    [b"\xff\xff\xff\xff", (8 * 1024 + 1).to_bytes(4, "big"), b"\0\0\0\x03\x01\xff\xff", b"\0\0\0\0"],
)
def test_c9_nonsense_while_a_code_is_shown_costs_the_code_nothing(
    maple: BareDaemon, at: tuple[str, int], folder: Path, frame_bytes: bytes
) -> None:
    with maple.code() as code:
        knock(at, frame_bytes + b"x" * 9000, stranger_context("p2psync-pair/1"))
        willow = BareDaemon(folder / "willow", "--name", "willow").start()
        try:
            willow.post("/v1/pair/join", code=code, at=maple.at, introduce=False, timeout_s=30)
        finally:
            willow.stop()
    assert set(maple.peers()) == {"willow"}


def test_one_guess_at_a_code_and_it_is_gone(maple: BareDaemon, folder: Path) -> None:
    willow = BareDaemon(folder / "willow", "--name", "willow").start()
    try:
        with maple.code() as code:
            number, first, second = code.split("-")
            guess = "-".join((number, second, first))
            assert refusal(willow, guess, maple.at)["code"] == "wrong_code"
            assert refusal(willow, code, maple.at)["code"] in {"code_expired", "wrong_code"}
    finally:
        willow.stop()
    assert maple.peers() == {}


def refusal(daemon: BareDaemon, code: str, at: str) -> dict[str, Any]:
    """Return why a pairing is refused."""
    connection = daemon.connection()
    try:
        body = json.dumps({"code": code, "at": at, "introduce": False, "timeout_s": 30})
        connection.request("POST", "/v1/pair/join", body=body)
        answer = connection.getresponse()
        said = json.loads(answer.read())
    finally:
        connection.close()
    assert answer.status != 200, said
    error: dict[str, Any] = said["error"]
    return error


async def test_c2_someone_in_the_middle_of_a_pairing_makes_it_fail_on_both_sides(
    maple: BareDaemon, folder: Path
) -> None:
    """Mallory answers willow with a certificate of her own and passes every byte on to maple."""
    mallory = Identity.load_or_create(folder / "mallory", NOW_US)
    willow = BareDaemon(folder / "willow", "--name", "willow").start()

    async def relay(one: TlsStream, other: TlsStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await one.receive_some():
                await other.send_all(data)
        await one.aclose()
        await other.aclose()

    async def in_the_middle(stream: TlsStream) -> None:
        real = await dial_stranger(maple.at, timeout_s=10, policy=AddressPolicy())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay, stream, real)
                nursery.start_soon(relay, real, stream)
        finally:
            with trio.CancelScope(shield=True):
                await real.aclose()

    async def nobody(stream: TlsStream) -> None:
        await stream.aclose()

    listener = Listener(
        ["127.0.0.1:0"],
        mallory,
        list,
        AddressPolicy(),
        on_link=nobody,
        on_content=nobody,
        on_pair=in_the_middle,
    )
    try:
        async with trio.open_nursery() as nursery:
            [middle] = await nursery.start(listener.run)
            with maple.code() as code:
                error = await trio.to_thread.run_sync(lambda: refusal(willow, code, middle))
            nursery.cancel_scope.cancel()
    finally:
        willow.stop()
    assert error["exit_code"] == 5
    assert error["code"] == "pairing_intercepted"
    assert maple.peers() == {}


# The control socket: local, its user's only; a broken client harms nobody but itself

CONTROL_NONSENSE = {
    "no http": os.urandom(5000),
    "endless head": b"GET /v1/status HTTP/1.1\r\n" + b"X: " + b"x" * 100_000,
    "negative length": b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "huge body": b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000,
    "deep json": b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000,
    "huge number": b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 100013\r\n\r\n" + b'{"timeout_s":' + b"9" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("what", CONTROL_NONSENSE)
def test_nonsense_on_the_control_socket_is_refused_and_costs_nothing(maple: BareDaemon, what: str) -> None:
    before = maple.resident_bytes()
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(maple.home / "run" / "control.sock"))
            with contextlib.suppress(ConnectionError):
                client.sendall(CONTROL_NONSENSE[what])
                client.shutdown(socket.SHUT_WR)
                heard = client.recv(65_536)
                assert heard == b"" or heard.startswith(b"HTTP/1.1 4")
    assert maple.get("/v1/status")["device"]["name"] == "maple"
    assert maple.resident_bytes() - before < 32 * MIB


# Addresses that are not local


@pytest.mark.lan
def test_c13_an_address_outside_the_attached_networks_is_neither_dialled_nor_answered(
    new_device: Callable[..., Device],
) -> None:
    """Packets could get there and back; the daemon keeps out of it."""
    a, b = new_device("a", 0).start(), new_device("b", 1).start()
    outside = "198.51.100.7"
    for device in (a, b):
        device.host.run(["ip", "route", "add", "198.51.100.0/24", "dev", "eth0"], check=True)
    far = a.host.lab.host(7)
    far.run(["ip", "address", "add", f"{outside}/32", "dev", "eth0"], check=True)
    # Not answered: whoever comes from there is hung up on before a byte of TLS.
    address, port = a.address.rsplit(":", 1)
    asked = far.run([sys.executable, "-c", KNOCK_FROM, outside, address, port])
    assert asked.stdout == "b''\n", asked
    assert "address_not_allowed" in a.log()
    # Not dialled: not for pairing ...
    listening = far.spawn([sys.executable, "-c", LISTEN_AT, outside, "22600"], stdout=-1)
    assert listening.stdout is not None
    assert listening.stdout.readline() == b"listening\n"
    refused = b.cli("pair", "7-amber-falcon", "--at", f"{outside}:22600")
    assert refused.code == 5
    assert "allow" in refused.err
    # ... and not because an address is remembered; `doctor` says so.
    pair(a, b)
    a.stop()
    b.stop()
    with closing(sqlite3.connect(b.home / "state" / "device.db")) as state:
        state.execute("UPDATE peers SET addresses = ?", (json.dumps([f"{outside}:22600"]),))
        state.commit()
    b.options.append("--no-mdns")
    b.start()
    eventually("doctor says so", lambda: "allow" in b.cli("doctor", "--json").out)
    listening.kill()
    assert listening.stdout.read() == b"", "somebody was there"


KNOCK_FROM = """
import socket, sys
with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=10, source_address=(sys.argv[1], 0)) as raw:
    try:
        print(raw.recv(1000))
    except ConnectionError:
        print(b"")
"""
LISTEN_AT = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("listening", flush=True)
    while True:
        server.accept()
        print("somebody", flush=True)
"""
