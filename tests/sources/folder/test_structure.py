"""How the engine writes a directory that must be there."""

from __future__ import annotations

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import HLC_MAX, Item, Kind
from p2psyncd.core.version import Dot
from p2psyncd.sources.folder.attributes import MTIME_MAX, decode
from p2psyncd.sources.folder.structure import directory_draft


def test_a_directory_in_place_of_a_version_from_the_end_of_time_has_metadata_that_can_be_read() -> None:
    old = Item(
        key=b"d",
        kind=Kind.TOMBSTONE,
        digest=b"",
        size=0,
        meta=b"",
        dot=Dot(ActorId(b"a" * 8), 1),
        hlc=HLC_MAX,
    )
    assert decode(directory_draft(b"d", old).meta).mtime_ns == MTIME_MAX
