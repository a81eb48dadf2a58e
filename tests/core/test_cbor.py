"""What decoding hostile CBOR may cost."""

from __future__ import annotations

import tracemalloc

import cbor2
import pytest

from p2psyncd.core.cbor import VALUES_MAX, decode_plain
from p2psyncd.errors import RemoteProtocolError

FRAME_BYTES = 4 * 1024 * 1024


def byte_string(data: bytes) -> bytes:
    return b"\x5a" + len(data).to_bytes(4, "big") + data


def array_head(count: int) -> bytes:
    return b"\x9a" + count.to_bytes(4, "big")


def tag_head(tag: int) -> bytes:
    return b"\xdb" + tag.to_bytes(8, "big")


def test_plain_values_come_back() -> None:
    value = [1, -1, b"bytes", "text", True, None, 1.5, [[[2**63]]], {"a": 1}]
    assert decode_plain(cbor2.dumps(value), depth_max=8) == value


def test_a_long_message_of_long_strings_comes_back() -> None:
    value = [b"x" * 70_000, "y" * 300, [b"z" * (VALUES_MAX + 1)], list(range(70_000)), -(2**40)]
    assert decode_plain(cbor2.dumps(value), depth_max=8) == value


@pytest.mark.parametrize("tag", [*range(400), 1004, 43000, 55799, 2**16, 2**32, 2**64 - 1])
def test_no_tag_is_understood(tag: int) -> None:
    for body in (b"\x01", b"\x41x", b"\x61x", b"\x80", b"\x82\x01\x02", b"\x82\x01\xc2\x41\xff"):
        with pytest.raises(RemoteProtocolError):
            decode_plain(tag_head(tag) + body, depth_max=8)


def test_a_fraction_that_takes_long_to_compute_is_not_computed() -> None:
    # Before tags were refused this took three seconds, and twenty minutes at a frame's full length.
    fraction = b"\xc4\x82\x01\xc2" + byte_string(b"\xff" * (FRAME_BYTES - 9))
    with pytest.raises(RemoteProtocolError):
        decode_plain(fraction, depth_max=8)


@pytest.mark.parametrize("value", [b"\x80", b"\xa0", b"\x00", b"\x40", b"\x60", b"\xf6", b"\x81\x80"])
def test_a_frame_of_tiny_values_is_refused_before_they_are_made(value: bytes) -> None:
    count = (FRAME_BYTES - 5) // len(value)
    data = array_head(count) + value * count
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode_plain(data, depth_max=8)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_is_short_enough_to_be_decoded_uncounted_stays_small() -> None:
    data = array_head(VALUES_MAX - 5) + b"\x80" * (VALUES_MAX - 5)
    tracemalloc.start()
    try:
        decode_plain(data, depth_max=8)
        assert tracemalloc.get_traced_memory()[1] < 24_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x9f\x01\xff",
        b"\x5f\x41x\xff",
        b"\x9b" + b"\xff" * 8,
        b"\x5b\x3f" + b"\xff" * 7,
        b"\xbb\x3f" + b"\xff" * 7,
        b"\x81" * 9 + b"\x00",
        b"\xa2\x01\x00\x01\x00",
        b"\xa1\x80\x00",
        b"\x63\xed\xa0\x80",
        b"\xff",
        b"\x1c",
        b"\x82" + byte_string(b"x" * VALUES_MAX) + b"\x9f\xff",
        b"\x82" + byte_string(b"x" * VALUES_MAX) + b"\x1f",
    ],
)
def test_what_is_not_plain_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_plain(data, depth_max=8)
