from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.summary import BranchNode, LeafNode, Summary, leaf_shape, prefixes_from_wire
from p2psyncd.errors import RemoteProtocolError

LEAF = [b"", bytes(14)]
BRANCH = [b"", 0b11, bytes(16)]


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (None, [b""]),
        ([0], [b""]),
        ([2, [LEAF]], [b""]),
        ([0, LEAF], [b""]),
        ([0, [LEAF] * 3000], [b""]),
        ([0, []], [b""]),
        ([0, [None]], [b""]),
        ([0, [[b"", b"", b"", b""]]], [b""]),
        ([0, [["", b""]]], [b""]),
        ([0, [[b"\x10", b""]]], [b"\x10"]),
        ([0, [[bytes(33), b""]]], [bytes(33)]),
        ([0, [[b"", bytes(13)]]], [b""]),
        ([0, [[b"", bytes(14 * 33)]]], [b""]),
        ([0, [[b"", b"b" * 14 + b"a" * 14]]], [b""]),
        ([0, [[b"\x03", b"\x40" * 14]]], [b"\x03"]),
        ([1, [LEAF]], [b""]),
        ([0, [[b"", 0, b""]]], [b""]),
        ([0, [[b"", 1 << 16, bytes(8)]]], [b""]),
        ([0, [[b"", -1, bytes(8)]]], [b""]),
        ([0, [[b"", 0b11, bytes(8)]]], [b""]),
        ([0, [[bytes(32), 1, bytes(8)]]], [bytes(32)]),
        ([0, [[b"", 0b11, b""], [b"\x00", b""]]], [b""]),
        ([0, [BRANCH, [b"\x00", b""]]], [b""]),
        ([0, [[b"\x01", b""], [b"\x00", b""]]], [b"\x00", b"\x01"]),
        ([0, [LEAF, LEAF]], [b""]),
        ([0, [LEAF]], [b"\x00"]),
        ([0, [[b"\x00", b""]]], [b"\x00", b"\x01"]),
    ],
)
def test_a_summary_that_is_none_is_refused(value: object, asked: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        Summary.from_wire(value, asked)


def test_summaries_that_are_right_are_taken() -> None:
    assert Summary.from_wire([0, [LEAF]], [b""]).nodes == (LeafNode(prefix=b"", entries=bytes(14)),)
    assert Summary.from_wire([0, [BRANCH]], [b""]).nodes == (
        BranchNode(prefix=b"", bitmap=3, hashes=bytes(16)),
    )
    expanded = [[b"", 0b11, b""], [b"\x00", b""], [b"\x01", b""]]
    assert len(Summary.from_wire([1, expanded], [b""]).nodes) == 3


@pytest.mark.parametrize(
    "value",
    [None, [], [b"\x01", b"\x00"], [b"", b""], [b"\x10"], [1], [bytes(33)], [b"%d" % n for n in range(1025)]],
)
def test_a_question_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        prefixes_from_wire(value)


@given(
    value=st.recursive(
        st.none() | st.integers() | st.binary(max_size=64) | st.booleans() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=20,
    )
)
def test_nothing_that_decodes_does_more_than_be_refused(value: object) -> None:
    try:
        summary = Summary.from_wire(value, [b""])
    except RemoteProtocolError:
        return
    assert summary.nodes[0].prefix == b""


@given(depth=st.integers(0, 32), full_width=st.booleans())
def test_a_leafs_receiver_knows_8_to_16_bytes_of_every_key_hash(depth: int, full_width: bool) -> None:
    skip, key_width, entry_width = leaf_shape(bytes(depth), full_width=full_width)
    assert skip == depth // 2
    assert max(8, skip) <= key_width <= 16
    assert (key_width, entry_width) == (16, 32) or not full_width
