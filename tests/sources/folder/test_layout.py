from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.errors import PathUnsafe
from p2psyncd.sources.folder.layout import ancestors, check_key, is_below, is_own, split_key

UNSAFE = [
    b"",
    b"/etc/passwd",
    b"a/../../x",
    b"..",
    b".",
    b"./a",
    b"a//b",
    b"a/",
    b"a\0b",
    b".p2psync",
    b".p2psync/share",
    b".P2PSYNC/share",
    b"n" * 256,
    b"/".join([b"d" * 200] * 21),
]


@pytest.mark.parametrize("key", UNSAFE, ids=lambda key: repr(key[:20]))
def test_a_key_that_leads_elsewhere_is_refused(key: bytes) -> None:
    with pytest.raises(PathUnsafe):
        check_key(key)


@pytest.mark.parametrize(
    "key", [b"a", b"a/b/c", b"..a", b"a..", b"a/.p2psync/x", b".p2psyncignore", b"\xff\n", b"n" * 255]
)
def test_an_odd_but_harmless_key_is_taken(key: bytes) -> None:
    check_key(key)


@given(st.lists(st.sampled_from([b"a", b"..", b".", b"", b"b\0", b".p2psync", b"x" * 300]), max_size=6))
def test_a_key_that_is_taken_stays_below_the_root(names: list[bytes]) -> None:
    key = b"/".join(names)
    try:
        check_key(key)
    except PathUnsafe:
        return
    assert os.path.normpath(b"/root/" + key) == b"/root/" + key
    assert not is_own(key.split(b"/")[0])


def test_a_key_is_taken_apart() -> None:
    assert split_key(b"a/b/c") == (b"a/b", b"c")
    assert split_key(b"c") == (b"", b"c")
    assert ancestors(b"a/b/c") == [b"a/b", b"a"]
    assert ancestors(b"a") == []
    assert is_below(b"a/b", b"a")
    assert is_below(b"a", b"a")
    assert is_below(b"ab", b"")
    assert not is_below(b"ab", b"a")
