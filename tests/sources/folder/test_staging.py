from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.folder import staging as staging_module
from p2psyncd.sources.folder.content import EMPTY_DIGEST
from p2psyncd.sources.folder.staging import StagedWriter, Staging


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    """The staging folder of a share that has none yet."""
    return Staging(tmp_path)


def names(staging: Staging) -> list[str]:
    return sorted(path.name for path in Path(os.fsdecode(staging.folder)).iterdir())


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def test_a_small_content_is_staged_under_its_digest(staging: Staging) -> None:
    staging.put_content(digest(b"data"), b"data")
    staging.put_content(digest(b"data"), b"data")
    assert names(staging) == [digest(b"data").hex()]
    assert staging.has(digest(b"data"))
    assert staging.has(EMPTY_DIGEST)
    assert not staging.has(digest(b"other"))


def test_bytes_that_are_not_what_their_digest_says_are_discarded(staging: Staging) -> None:
    with pytest.raises(RemoteProtocolError):
        staging.put_content(digest(b"data"), b"other")
    assert not staging.has(digest(b"data"))


def test_pieces_in_any_order_become_the_content(staging: Staging) -> None:
    data = os.urandom(100_000)
    for order in ([0, 1, 2, 3], [3, 0, 2, 1], [0, 0, 1, 2, 3], [1, 2, 3, 0]):
        writer = staging_module.StagedWriter(staging, digest(data), len(data))
        for piece in order:
            writer.write_at(piece * 25_000, memoryview(data)[piece * 25_000 : (piece + 1) * 25_000])
        writer.commit()
        writer.abandon()
        assert names(staging) == [digest(data).hex()]
        staging.tidy()


def test_a_piece_that_was_wrong_first_is_made_good(staging: Staging) -> None:
    writer = staging_module.StagedWriter(staging, digest(b"good!"), 5)
    writer.write_at(0, b"bad??")
    writer.write_at(0, b"good!")
    writer.commit()
    assert staging.has(digest(b"good!"))


@pytest.mark.parametrize("data", [b"short", b"wrong!!!"])
def test_a_content_that_is_not_whole_or_not_right_is_discarded(staging: Staging, data: bytes) -> None:
    writer = staging_module.StagedWriter(staging, digest(b"expected"), 8)
    writer.write_at(0, data)
    with pytest.raises(RemoteProtocolError):
        writer.commit()
    assert names(staging) == []


def test_a_piece_beyond_the_end_is_the_peers_fault(staging: Staging) -> None:
    writer = staging_module.StagedWriter(staging, digest(b"data"), 4)
    for offset, data in ((3, b"ab"), (-1, b"a")):
        with pytest.raises(RemoteProtocolError):
            writer.write_at(offset, data)
    writer.abandon()
    assert names(staging) == []


def test_runs_of_zeros_become_holes(staging: Staging) -> None:
    data = b"head" + bytes(3_000_000) + b"middle" + bytes(2_000_000)
    writer = staging_module.StagedWriter(staging, digest(data), len(data))
    for at in range(0, len(data), 65_536):
        writer.write_at(at, memoryview(data)[at : at + 65_536])
    writer.commit()
    path = Path(os.fsdecode(staging.path(digest(data).hex().encode())))
    assert path.read_bytes() == data
    assert path.stat().st_blocks * 512 < 1_000_000


def test_zeros_over_what_came_before_are_written(staging: Staging) -> None:
    data = bytes(8192)
    writer = staging_module.StagedWriter(staging, digest(data), len(data))
    writer.write_at(0, b"x" * 8192)
    writer.write_at(0, data)
    writer.commit()


def test_what_was_left_behind_under_a_contents_name_is_replaced(staging: Staging) -> None:
    staging.put_content(digest(b"data"), b"data")
    path = Path(os.fsdecode(staging.path(digest(b"data").hex().encode())))
    path.write_bytes(b"half")
    staging.staged.clear()
    staging.put_content(digest(b"data"), b"data")
    assert path.read_bytes() == b"data"
    assert staging.has(digest(b"data"))


def test_a_full_disk_leaves_nothing_behind(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        staging.put_content(digest(b"data"), b"data")
    assert names(staging) == []


def test_short_writes_are_continued(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    staging.put_content(digest(b"more than three"), b"more than three")
    monkeypatch.undo()
    path = Path(os.fsdecode(staging.path(digest(b"more than three").hex().encode())))
    assert path.read_bytes() == b"more than three"


def test_a_copy_is_taken_only_if_it_is_what_it_should_be(staging: Staging, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    with (tmp_path / "f").open("rb") as source:
        assert staging.copy_in(digest(b"other"), source.fileno()) is None
        name = staging.copy_in(digest(b"data"), source.fileno())
        assert name is not None
    assert names(staging) == [name.decode()]


def test_tidying_keeps_what_is_still_wanted(staging: Staging) -> None:
    assert staging.tidy() == 0
    staging.put_content(digest(b"one"), b"one")
    staging.put_content(digest(b"two"), b"two")
    staging_module.StagedWriter(staging, digest(b"three"), 5)
    assert staging.tidy([digest(b"one"), digest(b"never came")]) == 2
    assert names(staging) == [digest(b"one").hex()]
    assert staging.staged == {digest(b"one")}
    assert staging.tidy() == 1
    assert not staging.has(digest(b"one"))


LARGE = bytes(range(256)) * 12_288  # 3 MiB
STEP = 1024 * 1024


def writer_of(staging: Staging) -> StagedWriter:
    return StagedWriter(staging, digest(LARGE), len(LARGE))


def test_a_transfer_that_broke_off_goes_on_where_it_ended(staging: Staging) -> None:
    first = writer_of(staging)
    first.write_at(0, LARGE[:STEP])
    first.write_at(STEP, LARGE[STEP : 2 * STEP])
    first.suspend()
    assert names(staging) == [digest(LARGE).hex() + ".part"]

    second = writer_of(staging)
    assert second.resume_at == 2 * STEP
    second.write_at(2 * STEP, LARGE[2 * STEP :])
    second.commit()
    assert names(staging) == [digest(LARGE).hex()]
    assert Path(os.fsdecode(staging.path(digest(LARGE).hex().encode()))).read_bytes() == LARGE


def test_a_beginning_that_went_bad_is_thrown_away_with_the_rest(staging: Staging) -> None:
    first = writer_of(staging)
    first.write_at(0, b"x" * STEP)
    first.suspend()
    second = writer_of(staging)
    second.write_at(STEP, LARGE[STEP:])
    with pytest.raises(RemoteProtocolError):
        second.commit()
    assert names(staging) == []
    assert writer_of(staging).resume_at == 0


@pytest.mark.parametrize("offset", [0, 2 * STEP])
def test_little_or_with_a_gap_is_not_kept(staging: Staging, offset: int) -> None:
    writer = writer_of(staging)
    writer.write_at(offset, LARGE[offset : offset + 1000])
    writer.suspend()
    writer.suspend()
    assert names(staging) == []


def test_a_beginning_is_kept_over_a_restart_for_a_day(tmp_path: Path) -> None:
    now = [0.0]
    staging = Staging(tmp_path, lambda: now[0])
    writer = writer_of(staging)
    writer.write_at(0, LARGE[:STEP])
    writer.suspend()
    now[0] = (Path(os.fsdecode(staging.folder)) / f"{digest(LARGE).hex()}.part").stat().st_mtime + 3600
    assert Staging(tmp_path, lambda: now[0]).tidy() == 0
    now[0] += 86_400
    assert Staging(tmp_path, lambda: now[0]).tidy() == 1
    assert names(staging) == []


def test_holes_inside_a_piece_are_left_out(staging: Staging) -> None:
    step = staging_module.HOLE_STEP_BYTES
    data = b"x" * step + bytes(10 * step) + b"y" * 10 + bytes(20 * step) + b"z" + bytes(step)
    writer = StagedWriter(staging, digest(data), len(data))
    writer.write_at(0, memoryview(data))
    writer.commit()
    staged = Path(os.fsdecode(staging.path(digest(data).hex().encode())))
    assert staged.read_bytes() == data
    assert staged.stat().st_blocks * 512 <= 5 * step


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([b"\0", b"x"]), st.integers(1, 3 * staging_module.HOLE_STEP_BYTES)),
        max_size=6,
    )
)
def test_the_runs_of_a_piece_are_the_piece(pieces: list[tuple[bytes, int]]) -> None:
    data = b"".join(byte * length for byte, length in pieces)
    runs = list(staging_module.runs_of(data))
    assert b"".join(bytes(end - start) if hole else data[start:end] for start, end, hole in runs) == data
    assert all(start < end for start, end, _ in runs if data)
    assert all(one[2] != other[2] for one, other in pairwise(runs))
