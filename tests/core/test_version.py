from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.version import SEQ_MAX, join_vectors, pack_vector, unpack_vector
from p2psyncd.errors import RemoteProtocolError

actors = st.binary(min_size=8, max_size=8).map(ActorId)
# Few actors and small numbers, so that vectors meet; and some large ones.
vectors = st.dictionaries(
    st.sampled_from([ActorId(bytes([n]) * 8) for n in range(5)]) | actors,
    st.integers(0, 5) | st.integers(0, SEQ_MAX),
    max_size=6,
)


@given(vector=vectors)
def test_a_vector_reads_back_as_it_was_packed(vector: dict[ActorId, int]) -> None:
    assert unpack_vector(pack_vector(vector)) == vector
    assert len(pack_vector(vector)) == 16 * len(vector)


@given(data=st.binary(max_size=100))
def test_whatever_unpacks_packs_to_the_same_bytes(data: bytes) -> None:
    try:
        vector = unpack_vector(data)
    except RemoteProtocolError:
        return
    assert pack_vector(vector) == data


@pytest.mark.parametrize(
    "packed",
    [
        b"short",
        b"b" * 8 + bytes(8) + b"a" * 8 + bytes(8),
        (b"a" * 8 + bytes(8)) * 2,
        b"a" * 8 + b"\xff" * 8,
    ],
    ids=["a part of an entry", "unsorted", "an actor twice", "a number above SEQ_MAX"],
)
def test_what_is_not_canonical_is_refused(packed: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_vector(packed)


@given(a=vectors, b=vectors, c=vectors)
def test_joining_is_commutative_associative_and_idempotent(
    a: dict[ActorId, int], b: dict[ActorId, int], c: dict[ActorId, int]
) -> None:
    assert join_vectors(a, b) == join_vectors(b, a)
    assert join_vectors(join_vectors(a, b), c) == join_vectors(a, join_vectors(b, c)) == join_vectors(a, b, c)
    assert join_vectors(a, a) == join_vectors(a) == a
    assert join_vectors() == {}


@given(a=vectors, b=vectors)
def test_a_join_is_the_least_vector_above_both(a: dict[ActorId, int], b: dict[ActorId, int]) -> None:
    joined = join_vectors(a, b)
    assert joined.keys() == a.keys() | b.keys()
    assert all(seq == max(a.get(actor, -1), b.get(actor, -1)) for actor, seq in joined.items())


@given(a=vectors)
def test_joining_leaves_its_parts_alone(a: dict[ActorId, int]) -> None:
    before = dict(a)
    join_vectors(a, {ActorId(b"a" * 8): 1})[ActorId(b"b" * 8)] = 2
    assert a == before
