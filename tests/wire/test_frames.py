from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.frames import FRAME_BYTES_MAX, FrameDecoder, encode_frame, encode_frames

payload_lists = st.lists(st.binary(max_size=200), max_size=20)


@given(payloads=payload_lists, cuts=st.lists(st.integers(min_value=0, max_value=5000), max_size=30))
def test_any_split_of_the_bytes_gives_the_same_frames(payloads: list[bytes], cuts: list[int]) -> None:
    stream = encode_frames(payloads)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    decoder = FrameDecoder()
    received: list[bytes] = []
    for start, end in itertools.pairwise(edges):
        received += decoder.feed(stream[start:end])
    assert received == payloads
    assert not decoder.midway


@given(payloads=payload_lists)
def test_one_byte_at_a_time_gives_the_same_frames(payloads: list[bytes]) -> None:
    decoder = FrameDecoder()
    received = [frame for byte in encode_frames(payloads) for frame in decoder.feed(bytes([byte]))]
    assert received == payloads


def test_a_frame_in_progress_is_midway() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode_frame(b"abc")[:-1]) == []
    assert decoder.midway
    assert decoder.feed(b"c") == [b"abc"]
    assert not decoder.midway


def test_a_frame_of_exactly_the_limit_passes() -> None:
    assert FrameDecoder(3).feed(encode_frame(b"abc")) == [b"abc"]


def test_a_frame_over_the_limit_is_refused_at_its_header() -> None:
    decoder = FrameDecoder(8192)
    with pytest.raises(RemoteProtocolError, match="4294967295"):
        decoder.feed(b"\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError, match="given up"):
        decoder.feed(b"")


def test_frames_before_a_too_long_one_do_not_hide_it() -> None:
    decoder = FrameDecoder(10)
    with pytest.raises(RemoteProtocolError):
        decoder.feed(encode_frame(b"good") + b"\x00\x01\x00\x00")


def test_our_own_payload_over_the_limit_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_frame(bytes(FRAME_BYTES_MAX + 1))


def test_a_large_frame_in_small_pieces_is_held_about_once() -> None:
    frame = encode_frame(bytes(FRAME_BYTES_MAX))
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        received = [got for at in range(0, len(frame), 16384) for got in decoder.feed(frame[at : at + 16384])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(got) for got in received] == [FRAME_BYTES_MAX]
    # The buffer, its growth while it is moved, and the payload cut out of it.
    assert peak < 4 * FRAME_BYTES_MAX
