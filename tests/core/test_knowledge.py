from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.knowledge import KNOWLEDGE_HASH_BYTES, covers, includes, join, knowledge_hash
from p2psyncd.core.version import Dot

actors = st.sampled_from([ActorId(bytes([n]) * 8) for n in range(4)])
knowledges = st.dictionaries(actors, st.integers(0, 6), max_size=4)
dots = st.builds(Dot, actors, st.integers(0, 7))


@given(a=knowledges, b=knowledges)
def test_a_join_includes_both_and_nothing_more(a: dict[ActorId, int], b: dict[ActorId, int]) -> None:
    joined = join(a, b)
    assert includes(joined, a)
    assert includes(joined, b)
    assert all(includes(other, joined) for other in (a, b) if includes(other, a) and includes(other, b))


@given(a=knowledges, b=knowledges, dot=dots)
def test_a_join_covers_what_either_covers(a: dict[ActorId, int], b: dict[ActorId, int], dot: Dot) -> None:
    assert covers(join(a, b), dot) == (covers(a, dot) or covers(b, dot))


@given(a=knowledges, b=knowledges, dot=dots)
def test_what_includes_another_covers_all_that_it_covers(
    a: dict[ActorId, int], b: dict[ActorId, int], dot: Dot
) -> None:
    if includes(a, b) and covers(b, dot):
        assert covers(a, dot)


@given(a=knowledges, b=knowledges)
def test_including_each_other_means_being_equal(a: dict[ActorId, int], b: dict[ActorId, int]) -> None:
    assert (includes(a, b) and includes(b, a)) == (a == b)


@given(a=knowledges, b=knowledges)
def test_hashes_are_equal_when_the_knowledge_is(a: dict[ActorId, int], b: dict[ActorId, int]) -> None:
    assert (knowledge_hash(a) == knowledge_hash(b)) == (a == b)
    assert len(knowledge_hash(a)) == KNOWLEDGE_HASH_BYTES


def test_the_hash_does_not_depend_on_the_order_of_learning() -> None:
    first, second = ActorId(b"a" * 8), ActorId(b"b" * 8)
    assert knowledge_hash({first: 1, second: 2}) == knowledge_hash({second: 2, first: 1})
