"""Records: what of a hostile delta is believed at all."""

from __future__ import annotations

import pytest

from p2psyncd.core.ids import ActorId, DeviceId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import Dot, pack_vector
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.records import VECTOR_ACTORS_MAX, pack_records, unpack_records

WRITER = ActorId(b"writer..")
DEVICE = DeviceId(b"d" * 32)


def item(vector: bytes = b"") -> Item:
    return Item(
        key=b"k", kind=Kind.TOMBSTONE, digest=b"", size=0, meta=b"", dot=Dot(WRITER, 5), vector=vector, hlc=1
    )


def test_only_actors_that_wrote_something_are_learned() -> None:
    table, records = pack_records([item()], {WRITER: DEVICE})
    made_up = [[number.to_bytes(8, "big"), DEVICE] for number in range(1000)]
    assert unpack_records([*table, *made_up], records)[1] == [(WRITER, DEVICE)]
    assert unpack_records(made_up, [])[1] == []


def test_a_vector_has_bounds() -> None:
    def vector(count: int) -> bytes:
        return pack_vector({ActorId(number.to_bytes(8, "big")): 1 for number in range(count)})

    table, records = pack_records([item(vector(VECTOR_ACTORS_MAX))], {})
    assert len(unpack_records(table, records)[0][0].vector) == 16 * VECTOR_ACTORS_MAX
    table, records = pack_records([item(vector(VECTOR_ACTORS_MAX + 1))], {})
    with pytest.raises(RemoteProtocolError):
        unpack_records(table, records)
