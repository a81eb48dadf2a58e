from __future__ import annotations

import os
from pathlib import Path

from p2psyncd.sources.folder.fingerprint import (
    SKIPPED,
    fingerprint,
    is_directory_state,
    is_skipped,
    is_special,
    is_trusted,
    matches,
    moved_matches,
    stamped_finely,
    untrusted,
)


def test_an_edit_that_keeps_size_and_mtime_changes_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    before = path.stat()
    state = fingerprint(before)
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not matches(state, after)


def test_a_rename_is_told_from_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    state = fingerprint(path.stat())
    moved = path.rename(tmp_path / "g")
    assert not matches(state, moved.stat())
    assert moved_matches(state, moved.stat())
    moved.write_bytes(b"three")
    assert not moved_matches(state, moved.stat())
    assert not moved_matches(fingerprint(tmp_path.stat()), tmp_path.stat())


def test_a_directory_is_its_mode_and_mtime(tmp_path: Path) -> None:
    state = fingerprint(tmp_path.stat())
    assert is_directory_state(state)
    times = tmp_path.stat().st_mtime_ns
    (tmp_path / "child").mkdir()
    os.utime(tmp_path, ns=(times, times))
    assert matches(state, tmp_path.stat())
    tmp_path.chmod(0o711)
    assert not matches(state, tmp_path.stat())


def test_a_state_that_is_not_trusted_equals_none_that_a_scan_finds(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    state = fingerprint(path.stat())
    doubtful = untrusted(state)
    assert doubtful != state
    assert untrusted(doubtful) == doubtful
    assert is_trusted(state)
    assert not is_trusted(doubtful)
    assert not is_trusted(SKIPPED)
    assert matches(doubtful, path.stat())
    assert is_skipped(SKIPPED)
    assert not is_skipped(state)


def test_special_files_are_known(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert is_special((tmp_path / "fifo").stat().st_mode)
    assert not is_special(tmp_path.stat().st_mode)


def test_the_probe_of_timestamps_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert stamped_finely(directory) in {True, False}
    finally:
        os.close(directory)
    assert not list(tmp_path.iterdir())
