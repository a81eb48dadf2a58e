"""Settling a conflict by hand, and what the engine asks about a folder's shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2psyncd.core.ids import ActorId, ShareId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import Dot
from p2psyncd.errors import NoSuchItem
from p2psyncd.sources.folder.attributes import Attributes, decode_or_plain
from p2psyncd.sources.folder.guard import create_marker
from p2psyncd.sources.folder.history import History, HistoryLimits
from p2psyncd.sources.folder.resolve import discard_copy, kept_key, promote_copy, rename_copy
from p2psyncd.sources.folder.structure import acceptable, directory_draft
from p2psyncd.sources.folder.versions import versions_below

COPY = b"d/note (conflict 2026-11-23 04-47-12 3f9a2c1b07d1).txt"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000

    def now_us(self) -> int:
        self.now += 1_000_000
        return self.now

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def history(tmp_path: Path) -> History:
    """The history of a folder in which `d/note.txt` is in conflict."""
    create_marker(tmp_path, ShareId(b"s" * 16))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "note.txt").write_text("winner")
    (tmp_path / COPY.decode()).write_text("loser")
    return History(tmp_path, Clock(), HistoryLimits())


def texts(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / "d").iterdir()}


def test_a_discarded_copy_is_in_history(history: History, tmp_path: Path) -> None:
    discard_copy(history, COPY)
    assert texts(tmp_path) == {"note.txt": "winner"}
    assert [version.key for version in versions_below(history, b"d")] == [COPY]
    with pytest.raises(NoSuchItem):
        discard_copy(history, COPY)


def test_a_promoted_copy_has_the_name_and_the_winner_is_in_history(history: History, tmp_path: Path) -> None:
    promote_copy(history, COPY, b"d/note.txt")
    assert texts(tmp_path) == {"note.txt": "loser"}
    [kept] = versions_below(history, b"")
    assert (kept.key, kept.size) == (b"d/note.txt", len("winner"))
    with pytest.raises(NoSuchItem):
        promote_copy(history, COPY, b"d/note.txt")


def test_a_copy_is_promoted_to_a_name_that_is_free(history: History, tmp_path: Path) -> None:
    (tmp_path / "d" / "note.txt").unlink()
    promote_copy(history, COPY, b"d/note.txt")
    assert texts(tmp_path) == {"note.txt": "loser"}
    assert versions_below(history, b"d/note.txt") == []


def test_a_copy_that_stays_has_an_ordinary_name(history: History, tmp_path: Path) -> None:
    key = rename_copy(history, COPY)
    assert key == kept_key(COPY) == b"d/note (kept 2026-11-23 04-47-12 3f9a2c1b07d1).txt"
    assert texts(tmp_path).keys() == {"note.txt", "note (kept 2026-11-23 04-47-12 3f9a2c1b07d1).txt"}
    with pytest.raises(NoSuchItem):
        rename_copy(history, COPY)
    with pytest.raises(NoSuchItem):
        kept_key(b"d/note.txt")


def test_only_paths_inside_the_share_are_acceptable() -> None:
    assert acceptable(b"a/b")
    for key in (b"", b"/a", b"../a", b"a/../b", b"a//b", b".p2psync/share"):
        assert not acceptable(key)


def test_a_directory_that_comes_back_has_what_it_had() -> None:
    def old(kind: Kind, meta: bytes = b"") -> Item:
        dot = Dot(ActorId(b"a" * 8), 1)
        return Item(key=b"d", kind=kind, digest=b"", size=0, meta=meta, dot=dot, hlc=7)

    first = directory_draft(b"d", None)
    assert decode_or_plain(first.meta) == Attributes(mode=0o755, mtime_ns=0)
    assert directory_draft(b"d", old(Kind.DIRECTORY, b"its own")).meta == b"its own"
    assert decode_or_plain(directory_draft(b"d", old(Kind.TOMBSTONE)).meta).mtime_ns == 7000
