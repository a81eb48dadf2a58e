"""Block lists: canonical, bounded, and refused where they are anything else."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.blocks import (
    BLOCK_ENTRY_BYTES,
    RULE,
    BlockList,
    BlockRule,
    check_block_list,
    data_blocks,
    digest_of_block_list,
)
from p2psyncd.errors import RemoteProtocolError

SMALL = BlockRule(above_bytes=10, block_bytes_min=8, blocks_max=100)
ZEROS = bytes(32)
DIGEST = blake3(b"a block").digest()


def entry(digest: bytes, count: int) -> bytes:
    return digest + count.to_bytes(8, "big")


def check(size: int, packed: bytes) -> None:
    """Check a list whose digest is right: whoever announced the file made it."""
    check_block_list(size, packed, digest_of_block_list(size, packed), SMALL)


@given(blocks=st.lists(st.booleans(), max_size=100))
def test_a_list_says_where_the_data_is_however_the_zeros_were_added(blocks: list[bool]) -> None:
    made = BlockList()
    for is_data in blocks:
        if is_data:
            made.add_data(DIGEST)
        else:
            made.add_zeros(1)
    packed = made.packed()
    size = 8 * len(blocks)
    check(size, packed)
    assert [offset // 8 for offset, _, _ in data_blocks(size, packed, SMALL)] == [
        number for number, is_data in enumerate(blocks) if is_data
    ]


def test_the_last_block_may_be_shorter() -> None:
    packed = entry(ZEROS, 3) + entry(DIGEST, 1)
    check(30, packed)
    assert list(data_blocks(30, packed, SMALL)) == [(24, 6, DIGEST)]


@pytest.mark.parametrize(
    "packed",
    [
        entry(ZEROS, 2**64 - 1),
        entry(ZEROS, 5),
        entry(ZEROS, 3),
        entry(ZEROS, 4) + entry(ZEROS, 0),
        entry(ZEROS, 2) + entry(ZEROS, 2),
        entry(DIGEST, 4),
        entry(DIGEST, 0) + entry(ZEROS, 4),
        entry(ZEROS, 4)[:-1],
        entry(ZEROS, 4) + b"x",
        entry(ZEROS, 3) + entry(DIGEST, 1) * 1000,
        b"",
    ],
)
def test_lists_that_no_device_makes_are_refused(packed: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        check(30, packed)


def test_a_list_of_another_content_or_size_is_refused() -> None:
    packed = entry(ZEROS, 4)
    digest = digest_of_block_list(30, packed)
    check_block_list(30, packed, digest, SMALL)
    with pytest.raises(RemoteProtocolError, match="digest"):
        check_block_list(31, packed, digest, SMALL)
    with pytest.raises(RemoteProtocolError, match="digest"):
        check_block_list(30, entry(ZEROS, 3) + entry(DIGEST, 1), digest, SMALL)


def test_a_digest_of_a_list_is_no_plain_digest() -> None:
    packed = entry(ZEROS, 4)
    assert digest_of_block_list(30, packed) != blake3((30).to_bytes(8, "big") + packed).digest()


def test_what_is_huge_and_how_large_its_blocks_are_follows_from_the_size() -> None:
    gib = 1024**3
    assert not RULE.applies(16 * gib)
    assert RULE.applies(16 * gib + 1)
    assert RULE.block_bytes(16 * gib + 1) == RULE.block_bytes(1024 * gib) == 1024**2
    assert RULE.block_bytes(1024 * gib + 1) == 2 * 1024**2
    assert RULE.blocks(10**12) == 953_675


@pytest.mark.parametrize("size", [2**35, 10**12, 2**44 + 1, 2**63 - 1])
def test_no_list_has_more_than_a_million_entries(size: int) -> None:
    assert RULE.blocks(size) <= RULE.blocks_max
    assert (
        (RULE.blocks(size) - 1) * RULE.block_bytes(size) < size <= RULE.blocks(size) * RULE.block_bytes(size)
    )
    assert BLOCK_ENTRY_BYTES * RULE.blocks_max < 64 * 1024**2


def test_a_run_costs_one_entry_whatever_it_says() -> None:
    size = 2**62
    packed = entry(ZEROS, RULE.blocks(size))
    check_block_list(size, packed, digest_of_block_list(size, packed))
    assert list(data_blocks(size, packed)) == []
