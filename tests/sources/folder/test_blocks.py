"""Huge files: a digest of what is in them, whatever of it lies on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.blocks import BlockRule, check_block_list, data_blocks
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.folder.blocks import read_block_list
from p2psyncd.sources.folder.content import digest_of_descriptor, read_content
from p2psyncd.sources.folder.staging import StagedWriter, Staging

PAGE = 4096
BLOCK = 4 * PAGE
RULE = BlockRule(above_bytes=2 * BLOCK, block_bytes_min=BLOCK, blocks_max=1000)
# A file of the tests is above what travels whole, or it would have no list.
SIZE = 40 * BLOCK + 100


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the temporary folder."""
    opened = os.open(tmp_path, os.O_RDONLY)
    yield opened
    os.close(opened)


def write(path: Path, pieces: dict[int, bytes], size: int, *, holes: bool) -> None:
    """Write pieces at offsets; the rest is holes, or zeros that were written."""
    with path.open("wb") as file:
        if holes:
            file.truncate(size)
        else:
            file.write(bytes(size))
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)


def both(tmp_path: Path, folder: int, pieces: dict[int, bytes], size: int = SIZE) -> tuple[bytes, bytes]:
    """Return digest and list of a file, which must be the same with holes and with zeros."""
    found = []
    for name, holes in (("sparse", True), ("written", False)):
        write(tmp_path / name, pieces, size, holes=holes)
        content = read_content(folder, name.encode(), RULE)
        assert content is not None
        found.append((content.digest, content.chunks))
    assert (tmp_path / "sparse").read_bytes() == (tmp_path / "written").read_bytes()
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    "pieces",
    [
        {},
        {0: b"head"},
        {SIZE - 1: b"t"},
        {0: b"head", 7 * BLOCK - 2: b"over an edge", SIZE - 100: b"x" * 100},
        {3 * BLOCK: bytes(2 * BLOCK)},
        {BLOCK * n: b"data" for n in range(0, 40, 2)},
        {0: b"all" * (SIZE // 3)},
    ],
)
def test_holes_and_written_zeros_have_one_digest(
    tmp_path: Path, folder: int, pieces: dict[int, bytes]
) -> None:
    digest, packed = both(tmp_path, folder, pieces)
    check_block_list(SIZE, packed, digest, RULE)
    content = (tmp_path / "sparse").read_bytes()
    wanted = [
        (at, min(BLOCK, SIZE - at), blake3(content[at : at + BLOCK]).digest())
        for at in range(0, SIZE, BLOCK)
        if content[at : at + BLOCK].strip(b"\0")
    ]
    assert list(data_blocks(SIZE, packed, RULE)) == wanted


@given(
    pieces=st.dictionaries(st.integers(0, SIZE - 9), st.sampled_from([b"x", b"\0", b"12345678"]), max_size=6),
    other=st.integers(0, SIZE - 1),
)
def test_one_changed_byte_changes_the_digest(
    tmp_path_factory: pytest.TempPathFactory, pieces: dict[int, bytes], other: int
) -> None:
    path = tmp_path_factory.mktemp("d") / "f"
    write(path, pieces, SIZE, holes=True)
    with path.open("r+b") as file:
        before, _ = digest_of_descriptor(file.fileno(), rule=RULE)
        old = os.pread(file.fileno(), 1, other)
        os.pwrite(file.fileno(), bytes([old[0] ^ 1]), other)
        changed, _ = digest_of_descriptor(file.fileno(), rule=RULE)
        os.pwrite(file.fileno(), old, other)
        again, _ = digest_of_descriptor(file.fileno(), rule=RULE)
    assert before == again != changed


def test_the_size_is_part_of_the_digest(tmp_path: Path, folder: int) -> None:
    # The same blocks: only the last one's length differs.
    assert both(tmp_path, folder, {}, SIZE)[0] != both(tmp_path, folder, {}, SIZE + 1)[0]


def test_a_file_up_to_the_limit_keeps_its_plain_digest(tmp_path: Path) -> None:
    data = os.urandom(RULE.above_bytes)
    path = tmp_path / "f"
    path.write_bytes(data)
    with path.open("r+b") as file:
        assert digest_of_descriptor(file.fileno(), rule=RULE)[0] == blake3(data).digest()
        os.pwrite(file.fileno(), b"x", len(data))
        assert digest_of_descriptor(file.fileno(), rule=RULE)[0] != blake3(data + b"x").digest()


def test_a_file_that_shrank_meanwhile_is_not_taken_for_zeros(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (3 * BLOCK + 1))
    with path.open("rb") as file:
        _, got = read_block_list(file.fileno(), 3 * BLOCK + 2, RULE)
    assert got == 3 * BLOCK + 1


def test_a_huge_content_is_staged_with_its_holes(tmp_path: Path, folder: int) -> None:
    pieces = {BLOCK: b"x" * BLOCK, 20 * BLOCK: b"y" * BLOCK}
    digest, _ = both(tmp_path, folder, pieces)
    writer = StagedWriter(Staging(tmp_path), digest, SIZE, RULE)
    for offset, data in pieces.items():
        writer.leave_zeros(offset)
        writer.write_at(offset, data)
    writer.leave_zeros(SIZE)
    writer.commit()
    staged = tmp_path / ".p2psync/staging" / digest.hex()
    assert staged.read_bytes() == (tmp_path / "sparse").read_bytes()
    assert staged.stat().st_blocks * 512 <= 3 * BLOCK


def test_a_huge_content_that_broke_off_goes_on_behind_its_holes(tmp_path: Path, folder: int) -> None:
    size = 300 * BLOCK
    rest = size - BLOCK
    digest, _ = both(
        tmp_path, folder, {BLOCK: b"x" * BLOCK, 200 * BLOCK: b"y" * BLOCK, rest: b"z" * BLOCK}, size
    )
    staging = Staging(tmp_path)
    first = StagedWriter(staging, digest, size, RULE)
    for offset, data in ((BLOCK, b"x" * BLOCK), (200 * BLOCK, b"y" * BLOCK)):
        first.leave_zeros(offset)
        first.write_at(offset, data)
    first.suspend()
    second = StagedWriter(staging, digest, size, RULE)
    assert second.resume_at == 201 * BLOCK
    second.leave_zeros(rest)
    second.write_at(rest, b"z" * BLOCK)
    second.commit()
    assert staging.has(digest)


def test_a_hole_that_should_not_be_there_is_found(tmp_path: Path, folder: int) -> None:
    digest, _ = both(tmp_path, folder, {5 * BLOCK: b"x"})
    writer = StagedWriter(Staging(tmp_path), digest, SIZE, RULE)
    with pytest.raises(RemoteProtocolError, match="beyond"):
        writer.leave_zeros(SIZE + 1)
    writer.leave_zeros(SIZE)
    with pytest.raises(RemoteProtocolError, match="digest"):
        writer.commit()
