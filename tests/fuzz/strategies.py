"""The makers of `corpus` as hypothesis strategies: what is found shrinks."""

from __future__ import annotations

import corpus
from hypothesis import strategies as st
from mutations import mutate_bytes
from targets import TARGETS, Target, feed

from p2psyncd.wire.messages import Message

__all__ = ["inputs", "items", "messages", "mutated"]

randoms = st.randoms(use_true_random=False, note_method_calls=False)


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Messages of one type."""
    return randoms.map(lambda rng: corpus.message_of(cls, rng))


items = randoms.map(corpus.item)
mutated = randoms.map(lambda rng: mutate_bytes(rng, corpus.pairing_message(rng)))


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Inputs of one decoder: valid, changed, or nothing like it."""
    target: Target = TARGETS[name]
    return randoms.map(lambda rng: feed(target, rng))
