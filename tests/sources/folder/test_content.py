from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3

from p2psyncd.sources.folder import content
from p2psyncd.sources.folder.content import (
    CHUNKED_BYTES_MIN,
    EMPTY_DIGEST,
    digest_and_chunks,
    digest_of,
    read_content,
)

ENTRY = 20


@pytest.fixture
def folder(tmp_path: Path) -> int:
    """A descriptor of the temporary folder."""
    opened = os.open(tmp_path, os.O_RDONLY)
    yield opened
    os.close(opened)


def chunks_of(packed: bytes) -> list[tuple[bytes, int]]:
    return [
        (packed[at : at + 16], int.from_bytes(packed[at + 16 : at + ENTRY], "big"))
        for at in range(0, len(packed), ENTRY)
    ]


def test_a_small_file_has_a_digest_and_no_chunks(tmp_path: Path, folder: int) -> None:
    (tmp_path / "f").write_bytes(b"data")
    found = read_content(folder, b"f")
    assert found is not None
    assert (found.digest, found.chunks) == (blake3(b"data").digest(), b"")
    assert found.status.st_size == 4
    (tmp_path / "empty").touch()
    empty = read_content(folder, b"empty")
    assert empty is not None
    assert empty.digest == EMPTY_DIGEST == digest_of(b"")


def test_the_chunks_of_a_large_file_are_its_bytes(tmp_path: Path, folder: int) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(data)
    found = read_content(folder, b"f")
    assert found is not None
    assert found.digest == blake3(data).digest()
    at = 0
    for digest, length in chunks_of(found.chunks):
        assert blake3(data[at : at + length]).digest(16) == digest
        assert length <= 256 * 1024
        at += length
    assert at == len(data)


def test_bytes_put_in_front_leave_most_chunks_alone(tmp_path: Path, folder: int) -> None:
    data = os.urandom(4_000_000)
    (tmp_path / "old").write_bytes(data)
    (tmp_path / "new").write_bytes(os.urandom(1000) + data)
    old, new = read_content(folder, b"old"), read_content(folder, b"new")
    assert old is not None
    assert new is not None
    known = set(chunks_of(old.chunks))
    fresh = sum(length for digest, length in chunks_of(new.chunks) if (digest, length) not in known)
    assert fresh < 600_000


@pytest.mark.parametrize("size", [100, CHUNKED_BYTES_MIN + 100])
def test_a_file_that_changes_once_while_it_is_read_is_read_again(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * size)
    looks = []

    def changing(before: os.stat_result, after: os.stat_result) -> bool:
        looks.append(after)
        if len(looks) == 1:
            path.write_bytes(b"b" * size)
            return False
        return (before.st_ctime_ns, before.st_size) == (after.st_ctime_ns, after.st_size)

    monkeypatch.setattr(content, "unchanged", changing)
    found = read_content(folder, b"f")
    assert found is not None
    assert found.digest == blake3(b"b" * size).digest()


def test_a_file_that_keeps_changing_is_left_for_later(
    tmp_path: Path, folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"a")
    monkeypatch.setattr(content, "unchanged", lambda *_: False)
    assert read_content(folder, b"f") is None


def test_what_is_no_regular_file_is_not_read(tmp_path: Path, folder: int) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_content(folder, b"fifo") is None
    (tmp_path / "link").symlink_to("fifo")
    with pytest.raises(OSError, match="symbolic links"):
        read_content(folder, b"link")


def test_a_large_file_is_chunked_from_its_start_whatever_was_read_before(tmp_path: Path) -> None:
    data = os.urandom(500_000)
    (tmp_path / "f").write_bytes(data)
    with (tmp_path / "f").open("rb") as opened:
        opened.read(1000)
        digest, chunks, size = digest_and_chunks(opened.fileno())
    assert (digest, size) == (blake3(data).digest(), len(data))
    assert sum(length for _, length in chunks_of(chunks)) == size
