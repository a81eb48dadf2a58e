"""Content connections: what is asked comes, verified by nobody here, bounded by everybody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import cbor2
import pytest
from blake3 import blake3

from p2psyncd.core.ids import ShareId
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.net.content import RANGES_PER_REQUEST, ContentClient, Readable, serve_waiting
from p2psyncd.wire.content import (
    BlobAnswer,
    BlobRequest,
    ChunkAnswer,
    ChunkRequest,
    RangeAnswer,
    RangeRequest,
    decode_request,
)

SHARE = ShareId(b"s" * 16)


class Plain(socket.socket):
    """A plain socket with the one call that only TLS has."""

    def pending(self) -> int:
        return 0


def pair() -> tuple[Plain, Plain]:
    a, b = socket.socketpair()
    return Plain(fileno=a.detach()), Plain(fileno=b.detach())


@dataclass
class Bytes:
    data: bytes
    size: int
    steady: bool = True

    def read_at(self, offset: int, length: int) -> bytes:
        if offset + length > len(self.data):
            raise OSError("shorter now")
        return self.data[offset : offset + length]

    def unchanged(self) -> bool:
        return self.steady

    def close(self) -> None:
        pass


class Shelf:
    """A provider with contents by digest."""

    def __init__(self, *contents: bytes) -> None:
        self.readers: dict[bytes, Bytes] = {blake3(c).digest(): Bytes(c, len(c)) for c in contents}

    def open(self, share: ShareId, digest: bytes) -> Readable | None:
        return self.readers.get(digest) if share == SHARE else None

    def chunk_list(self, share: ShareId, digest: bytes) -> bytes | None:
        return b"c" * 20 if digest in self.readers and share == SHARE else None


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(*(b"content %d" % n for n in range(700)), b"z" * 3_000_000)


@pytest.fixture
def client(shelf: Shelf) -> Iterator[ContentClient]:
    ours, theirs = pair()
    ended: list[BaseException] = []

    def answer() -> None:
        try:
            while serve_waiting(theirs, shelf):  # type: ignore[arg-type]
                pass
        except (OSError, RemoteProtocolError) as error:
            ended.append(error)
        finally:
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    ours.settimeout(20)
    try:
        yield ContentClient(ours)  # type: ignore[arg-type]
    finally:
        ours.close()
        thread.join(20)
        assert not thread.is_alive()


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def test_many_small_contents_come_in_few_frames_and_each_once(client: ContentClient) -> None:
    wanted = [digest(b"content %d" % n) for n in range(700)]
    got = dict(client.blobs(SHARE, wanted))
    assert got == {digest(b"content %d" % n): b"content %d" % n for n in range(700)}


def test_what_is_not_there_is_said_to_be_missing(client: ContentClient) -> None:
    absent = digest(b"never seen")
    assert dict(client.blobs(SHARE, [absent, digest(b"content 1")])) == {
        absent: None,
        digest(b"content 1"): b"content 1",
    }


def test_another_share_gets_nothing(client: ContentClient) -> None:
    other = ShareId(b"o" * 16)
    assert dict(client.blobs(other, [digest(b"content 1")])) == {digest(b"content 1"): None}
    assert client.chunk_list(other, digest(b"content 1"), 9) is None
    assert list(client.ranges(other, digest(b"content 1"), [(0, 3)])) == []


def test_a_file_that_changed_under_the_readers_hands_is_not_sent(client: ContentClient, shelf: Shelf) -> None:
    wanted = digest(b"content 1")
    shelf.readers[wanted].steady = False
    assert dict(client.blobs(SHARE, [wanted])) == {wanted: None}
    shelf.readers[digest(b"content 2")].data = b"x"
    assert dict(client.blobs(SHARE, [digest(b"content 2")])) == {digest(b"content 2"): None}


def test_a_large_content_is_not_sent_as_a_blob(client: ContentClient) -> None:
    wanted = digest(b"z" * 3_000_000)
    assert dict(client.blobs(SHARE, [wanted])) == {wanted: None}


def test_ranges_come_in_order_and_whole(client: ContentClient) -> None:
    wanted = digest(b"z" * 3_000_000)
    parts = [(at, len(data)) for at, data in client.ranges(SHARE, wanted, [(10, 2_500_000), (2_999_999, 1)])]
    assert parts == [(10, 1_048_576), (1_048_586, 1_048_576), (2_097_162, 402_848), (2_999_999, 1)]


def test_more_ranges_than_fit_a_request_come_in_order_and_whole(client: ContentClient) -> None:
    ranges = [(n * 100 % 2_000_000, 3) for n in range(2 * RANGES_PER_REQUEST + 7)]
    got = [(offset, len(part)) for offset, part in client.ranges(SHARE, digest(b"z" * 3_000_000), ranges)]
    assert got == ranges
    assert list(client.ranges(SHARE, digest(b"z" * 3_000_000), [])) == []


def test_the_list_of_a_content_of_any_size_can_be_waited_for(client: ContentClient) -> None:
    patience = client.sock.gettimeout()
    assert client.chunk_list(SHARE, digest(b"z" * 3_000_000), 2**63 - 1) == b"c" * 20
    assert client.sock.gettimeout() == patience


def test_ranges_end_early_when_the_file_shrank(client: ContentClient, shelf: Shelf) -> None:
    wanted = digest(b"z" * 3_000_000)
    shelf.readers[wanted].data = b"z" * 1_500_000
    assert [at for at, _ in client.ranges(SHARE, wanted, [(0, 3_000_000)])] == [0]
    # The connection is still good.
    assert client.chunk_list(SHARE, wanted, 9) == b"c" * 20


@pytest.mark.parametrize(
    "request_",
    [
        BlobRequest(SHARE, (b"d" * 32,)),
        ChunkRequest(SHARE, b"d" * 32),
        RangeRequest(SHARE, b"d" * 32, ((0, 5), (9, 1))),
    ],
)
def test_requests_come_back_equal(request_: BlobRequest | ChunkRequest | RangeRequest) -> None:
    assert decode_request(request_.encode()) == request_


def test_answers_come_back_equal() -> None:
    blobs = BlobAnswer(((b"d" * 32, b"x"), (b"e" * 32, None)), last=True)
    assert BlobAnswer.decode(blobs.encode()) == blobs
    assert ChunkAnswer.decode(ChunkAnswer(b"c" * 40).encode()) == ChunkAnswer(b"c" * 40)
    assert RangeAnswer.decode(RangeAnswer(7).encode()) == RangeAnswer(7)


@pytest.mark.parametrize(
    "evil", [b"", b"\xff", cbor2.dumps([9]), cbor2.dumps([0]), cbor2.dumps([2, SHARE, b"d" * 32, [[-1, 2]]])]
)
def test_hostile_requests_are_refused(evil: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_request(evil)


def test_a_broken_chunk_list_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        ChunkAnswer.decode(cbor2.dumps([b"c" * 19]))


def test_a_content_that_was_not_asked_for_is_refused() -> None:
    ours, theirs = pair()
    answer = BlobAnswer(((b"e" * 32, b"x"),), last=True).encode()
    theirs.sendall(len(answer).to_bytes(4, "big") + answer)
    with ours, theirs, pytest.raises(RemoteProtocolError, match="not asked"):
        list(ContentClient(ours).blobs(SHARE, [b"d" * 32]))  # type: ignore[arg-type]


def test_a_peer_that_closes_in_between_is_an_os_error() -> None:
    ours, theirs = pair()
    theirs.close()
    with ours, pytest.raises(OSError, match=r"closed|Broken pipe"):
        list(ContentClient(ours).blobs(SHARE, [b"d" * 32]))  # type: ignore[arg-type]


def test_an_oversized_request_is_refused_before_it_is_read() -> None:
    ours, theirs = pair()
    theirs.sendall((2**31).to_bytes(4, "big"))
    with ours, theirs, pytest.raises(RemoteProtocolError, match="2147483648"):
        serve_waiting(ours, Shelf())  # type: ignore[arg-type]


def test_an_answer_that_brings_nothing_and_does_not_end_is_refused() -> None:
    """Else a liar could keep a thread and a content for ever, at a few bytes a minute."""
    ours, theirs = pair()
    payload = BlobAnswer((), last=False).encode()
    with ours, theirs:
        theirs.sendall(len(payload).to_bytes(4, "big") + payload)
        with pytest.raises(RemoteProtocolError):
            next(ContentClient(ours).blobs(SHARE, [digest(b"x")]))  # type: ignore[arg-type]  # a plain socket


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(300_000, 40), (300_000, 1_000_000), (0, 1000), (17 * 1024**3, 40_000), (2**62, 3_000_000)],
)
def test_a_chunk_list_longer_than_its_content_can_have_is_not_read(size: int, chunks: int) -> None:
    ours, theirs = pair()
    with ours, theirs:
        theirs.sendall((20 * chunks + 6).to_bytes(4, "big"))
        with pytest.raises(RemoteProtocolError, match="frame"):
            ContentClient(ours).chunk_list(SHARE, digest(b"x"), size)  # type: ignore[arg-type]  # a plain socket
