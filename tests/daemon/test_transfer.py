"""Which parts of a large content travel, and what a peer is given."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from blake3 import blake3

from p2psyncd.core.blocks import BlockList, BlockRule, digest_of_block_list
from p2psyncd.core.ids import ActorId, ShareId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.storage import Pending, Stored
from p2psyncd.core.version import Dot
from p2psyncd.daemon.transfer import (
    CHUNK_HASH_BYTES,
    COMPARED_BYTES_MAX,
    CannotStage,
    Held,
    NoRoom,
    Provider,
    Sent,
    fetch_large,
    fetch_small,
    same_block,
)
from p2psyncd.errors import RemoteProtocolError

SHARE = ShareId(b"s" * 16)
OLD = b"aaaabbbbcccc"
NEW = b"aaaaXXbbbbcccc"


def packed(*parts: bytes) -> bytes:
    """Return a chunk list of these parts."""
    return b"".join(
        blake3(part).digest(length=CHUNK_HASH_BYTES) + len(part).to_bytes(4, "big") for part in parts
    )


def stored(content: bytes) -> Stored:
    dot = Dot(ActorId(b"a" * 8), 1)
    digest = blake3(content).digest()
    item = Item(key=b"k", kind=Kind.FILE, digest=digest, size=len(content), meta=b"", dot=dot, hlc=1)
    return Stored(item=item, state=b"here")


class Reader:
    """An opened file of some bytes."""

    def __init__(self, content: bytes, *, shrunk: bool = False) -> None:
        self.content = content
        self.size = len(content)
        self.shrunk = shrunk
        self.closed = False

    def read_at(self, offset: int, length: int) -> bytes:
        if self.shrunk:
            raise OSError("shorter")
        return self.content[offset : offset + length]

    def unchanged(self) -> bool:
        return not self.shrunk

    def close(self) -> None:
        self.closed = True


class Writer:
    """A staged file in memory; fails where it is told to."""

    def __init__(self, size: int, fails: str) -> None:
        self.content = bytearray(size)
        self.fails = fails
        self.ended = ""
        self.resume_at = 0
        self.left: list[int] = []

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        self.fail("write")
        self.content[offset : offset + len(data)] = data

    def leave_zeros(self, end: int) -> None:
        self.left.append(end)

    def commit(self) -> None:
        self.fail("commit")
        self.ended = "committed"

    def abandon(self) -> None:
        self.ended = "abandoned"

    def suspend(self) -> None:
        self.ended = self.ended or "suspended"

    def fail(self, what: str) -> None:
        if self.fails == what:
            raise OSError(errno.ENOSPC, "No space left on device")


class Folder:
    """As much of a source as fetching needs."""

    def __init__(self, old: Reader | None, fails: str = "") -> None:
        self.old = old
        self.fails = fails
        self.resume_at = 0
        self.writers: list[Writer] = []
        self.put: list[bytes] = []

    def reader(self, _: Stored) -> Reader | None:
        return self.old

    def writer(self, _: bytes, size: int) -> Writer:
        made = Writer(size, self.fails)
        made.resume_at = self.resume_at
        self.writers.append(made)
        made.fail("open")
        return made

    def put_content(self, digest: bytes, data: bytes) -> None:
        if self.fails == "put":
            raise OSError(errno.ENOSPC, "No space left on device")
        assert blake3(data).digest() == digest
        self.put.append(data)


class Peer:
    """The asking side of a connection to a peer that holds some bytes."""

    def __init__(self, content: bytes | None, chunks: bytes | None) -> None:
        self.content = content
        self.chunks = chunks
        self.asked: list[tuple[int, int]] = []

    def chunk_list(self, _: ShareId, __: bytes, ___: int) -> bytes | None:
        return self.chunks

    def ranges(
        self, _: ShareId, __: bytes, ranges: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, memoryview]]:
        self.asked = list(ranges)
        if self.content is None:
            return
        for offset, length in ranges:
            yield offset, memoryview(self.content)[offset : offset + length]

    def blobs(self, _: ShareId, digests: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
        for digest in digests:
            known = self.content is not None and blake3(self.content).digest() == digest
            yield digest, self.content if known else None


def held(folder: Folder, known: bytes | None = None, sent: Sent | None = None) -> Held:
    def chunker(reader: Any) -> bytes:
        whole = reader.read_at(0, reader.size)
        return packed(*(whole[at : at + 4] for at in range(0, len(whole), 4)))

    return Held(
        with_digest=lambda digest: [stored(OLD)] if digest == stored(OLD).item.digest else [],
        chunk_list=lambda _: known,
        source=folder,  # type: ignore[arg-type]
        chunker=chunker,
        sent=(sent or Sent()).count,
        has_room=lambda _: True,
    )


def fetch(peer: Peer, folder: Folder, known: bytes | None = None) -> bool:
    new = stored(NEW).item
    pending = [Pending(item=new, base=stored(OLD))]
    return fetch_large(
        peer,  # type: ignore[arg-type]
        SHARE,
        new.digest,
        size=new.size,
        held=held(folder, known),
        pending=pending,
    )


NEW_CHUNKS = packed(b"aaaa", b"XX", b"bbbb", b"cccc")


@pytest.mark.parametrize("known", [None, packed(b"aaaa", b"bbbb", b"cccc")])
def test_only_chunks_that_the_base_lacks_are_asked_for(known: bytes | None) -> None:
    peer, base = Peer(NEW, NEW_CHUNKS), Reader(OLD)
    folder = Folder(base)
    assert fetch(peer, folder, known)
    assert peer.asked == [(4, 2)]
    assert bytes(folder.writers[0].content) == NEW
    assert folder.writers[0].ended == "committed"
    assert base.closed


def test_without_a_usable_base_the_whole_is_asked_for() -> None:
    for base in (None, Reader(OLD, shrunk=True)):
        peer, folder = Peer(NEW, NEW_CHUNKS), Folder(base)
        assert fetch(peer, folder)
        assert sum(length for _, length in peer.asked) == len(NEW)


def test_a_base_that_shrinks_meanwhile_gives_nothing() -> None:
    peer, folder = Peer(NEW, NEW_CHUNKS), Folder(Reader(OLD, shrunk=True))
    assert fetch(peer, folder, packed(b"aaaa", b"bbbb", b"cccc"))
    assert peer.asked == [(0, len(NEW))]


def test_of_a_content_that_broke_off_only_the_rest_is_asked_for() -> None:
    peer, folder = Peer(NEW, NEW_CHUNKS), Folder(Reader(OLD))
    folder.resume_at = 5
    assert fetch(peer, folder)
    assert peer.asked == [(5, len(NEW) - 5)]


def test_what_the_peer_has_not_got_is_put_aside() -> None:
    for peer in (Peer(None, None), Peer(None, NEW_CHUNKS)):
        folder = Folder(Reader(OLD))
        assert not fetch(peer, folder)
        assert folder.writers[0].ended == "suspended"


def test_a_chunk_list_of_another_size_is_refused() -> None:
    folder = Folder(Reader(OLD))
    with pytest.raises(RemoteProtocolError, match="add up"):
        fetch(Peer(NEW, packed(b"aaaa")), folder)
    assert folder.writers[0].ended == "abandoned"


@pytest.mark.parametrize("fails", ["open", "write", "commit"])
def test_a_full_disk_is_told_from_a_broken_connection(fails: str) -> None:
    with pytest.raises(CannotStage, match="No space left"):
        fetch(Peer(NEW, NEW_CHUNKS), Folder(Reader(OLD), fails))
    with pytest.raises(CannotStage, match="No space left"):
        fetch_small(
            Peer(NEW, None),  # type: ignore[arg-type]
            SHARE,
            [stored(NEW).item.digest],
            Folder(None, "put"),  # type: ignore[arg-type]
            lambda _: None,
        )


def test_small_contents_are_staged_and_the_missing_named() -> None:
    folder, notes = Folder(None), []
    wanted = [stored(NEW).item.digest, b"?" * 32]
    missing = fetch_small(Peer(NEW, None), SHARE, wanted, folder, notes.append)  # type: ignore[arg-type]
    assert (missing, folder.put, notes) == ([b"?" * 32], [NEW], [[wanted[0]]])


def test_a_peer_is_given_only_what_is_of_its_shares_and_that_is_counted() -> None:
    sent = Sent()
    digest = stored(OLD).item.digest
    provider = Provider(lambda: {SHARE: held(Folder(Reader(OLD)), sent=sent)})
    given = provider.open(SHARE, digest)
    assert given is not None
    assert given.read_at(4, 4) == b"bbbb"
    assert given.unchanged()
    given.close()
    assert (sent.items, sent.size) == (1, 4)
    assert provider.open(SHARE, b"?" * 32) is None
    assert provider.open(ShareId(b"x" * 16), digest) is None
    assert provider.chunk_list(SHARE, digest) == packed(b"aaaa", b"bbbb", b"cccc")
    assert provider.chunk_list(SHARE, b"?" * 32) is None
    assert provider.chunk_list(ShareId(b"x" * 16), digest) is None
    edited = Provider(lambda: {SHARE: held(Folder(Reader(OLD, shrunk=True)))})
    assert edited.chunk_list(SHARE, digest) is None
    noted = Provider(lambda: {SHARE: held(Folder(None), known=b"noted")})
    assert noted.chunk_list(SHARE, digest) == b"noted"
    assert noted.open(SHARE, digest) is None
    assert sent.items == 1


HUGE = BlockRule(above_bytes=10, block_bytes_min=4, blocks_max=1000)
ZERO_BLOCK = bytes(4)


def block_list(content: bytes) -> bytes:
    """Return the block list of a content that is huge by `HUGE`."""
    made = BlockList()
    for at in range(0, len(content), 4):
        block = content[at : at + 4]
        if block.strip(b"\0"):
            made.add_data(blake3(block).digest())
        else:
            made.add_zeros(1)
    return made.packed()


def fetch_huge(
    peer: Peer,
    folder: Folder,
    content: bytes,
    *,
    room: int = 1000,
    size: int | None = None,
    listed: bytes | None = None,
) -> bool:
    """Fetch a content that is huge by `HUGE`."""
    size = len(content) if size is None else size
    return fetch_large(
        peer,  # type: ignore[arg-type]
        SHARE,
        digest_of_block_list(size, block_list(content) if listed is None else listed),
        size=size,
        held=replace(held(folder), has_room=lambda wanted: wanted <= room),
        pending=[Pending(item=stored(content).item, base=stored(OLD))],
        rule=HUGE,
    )


SPARSE = ZERO_BLOCK * 3 + b"data" + b"more" + ZERO_BLOCK * 20 + b"end!" + ZERO_BLOCK + b"\0\0"


def test_of_a_huge_content_no_zeros_are_asked_for_and_no_room_is_needed_for_them() -> None:
    peer, folder = Peer(SPARSE, block_list(SPARSE)), Folder(None)
    assert fetch_huge(peer, folder, SPARSE, room=12)
    assert peer.asked == [(12, 8), (100, 4)]
    assert bytes(folder.writers[0].content) == SPARSE
    assert folder.writers[0].left == [12, 100, len(SPARSE)]
    assert folder.writers[0].ended == "committed"


def test_a_huge_content_without_data_is_not_asked_for_at_all() -> None:
    empty = bytes(50)
    peer, folder = Peer(empty, block_list(empty)), Folder(None)
    assert fetch_huge(peer, folder, empty, room=0)
    assert peer.asked == []
    assert folder.writers[0].left == [50]
    assert folder.writers[0].ended == "committed"


def test_blocks_that_the_base_has_at_the_same_place_are_not_asked_for() -> None:
    new = b"aaaa" + b"XXXX" + b"cccc" + b"Y" * 4
    peer, base = Peer(new, block_list(new)), Reader(b"aaaabbbbccccd")
    folder = Folder(base)
    assert fetch_huge(peer, folder, new)
    assert peer.asked == [(4, 4), (12, 4)]
    assert bytes(folder.writers[0].content) == new
    assert base.closed


def test_a_base_that_shrank_is_no_base() -> None:
    new = b"aaaabbbbccccdddd"
    peer = Peer(new, block_list(new))
    assert fetch_huge(peer, Folder(Reader(new, shrunk=True)), new)
    assert peer.asked == [(0, 16)]


def test_of_a_huge_transfer_that_broke_off_only_the_rest_comes() -> None:
    peer, folder = Peer(SPARSE, block_list(SPARSE)), Folder(Reader(SPARSE))
    folder.resume_at = 14
    assert fetch_huge(peer, folder, SPARSE, room=10)
    assert peer.asked == [(14, 6), (100, 4)]


def test_a_huge_content_that_has_no_room_waits_for_it() -> None:
    peer, folder = Peer(SPARSE, block_list(SPARSE)), Folder(None)
    with pytest.raises(NoRoom):
        fetch_huge(peer, folder, SPARSE, room=11)
    assert peer.asked == []
    assert folder.writers[0].ended == "suspended"


def test_a_peer_that_has_not_got_a_huge_content_is_believed() -> None:
    folder = Folder(None)
    assert not fetch_huge(Peer(None, None), folder, SPARSE)
    assert not fetch_huge(Peer(None, block_list(SPARSE)), folder, SPARSE)
    assert [writer.ended for writer in folder.writers] == ["suspended", "suspended"]


@pytest.mark.parametrize("listed", [block_list(SPARSE), b"x" * 40, bytes(32) + b"\xff" * 8, b""])
def test_a_hostile_block_list_is_refused_before_anything_is_asked_for(listed: bytes) -> None:
    peer, folder = Peer(NEW, listed), Folder(None)
    with pytest.raises(RemoteProtocolError):
        fetch_huge(peer, folder, NEW)
    # Nor if whoever announced the file made its digest of just that list.
    with pytest.raises(RemoteProtocolError):
        fetch_huge(peer, folder, NEW, listed=listed)
    assert peer.asked == []
    assert [writer.ended for writer in folder.writers] == ["abandoned", "abandoned"]


def test_a_block_too_large_for_memory_is_not_compared() -> None:
    base = Reader(b"")
    base.size = 2 * COMPARED_BYTES_MAX
    assert same_block(base, 0, COMPARED_BYTES_MAX + 1, blake3(b"").digest()) is None
    assert same_block(base, 0, COMPARED_BYTES_MAX, blake3(b"").digest()) == b""
