from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Item, Kind, supersede
from p2psyncd.core.version import Dot
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.folder.attributes import (
    Attributes,
    capture,
    content_dot,
    decode,
    decode_or_plain,
    encode,
    mode_dot,
)

dots = st.builds(Dot, st.binary(min_size=8, max_size=8).map(ActorId), st.integers(0, 2**63 - 1))
names = st.binary(min_size=1, max_size=250).filter(lambda name: b"\0" not in name).map(b"user.".__add__)
xattrs = st.dictionaries(names, st.binary(max_size=200), max_size=5).map(
    lambda made: tuple(sorted(made.items()))
)
attributes = st.builds(
    Attributes,
    mode=st.integers(0, 0o7777),
    mtime_ns=st.integers(-(2**62), 2**62),
    target=st.none() | st.binary(min_size=1, max_size=50).filter(lambda target: b"\0" not in target),
    content=st.none() | dots,
    chosen=st.none() | dots,
    xattrs=xattrs,
)


@given(attributes)
def test_what_was_encoded_decodes_to_the_same(one: Attributes) -> None:
    assert decode(encode(one)) == one


@given(attributes)
def test_fields_of_a_later_version_are_passed_over(one: Attributes) -> None:
    fields = cbor2.loads(encode(one))
    known = fields if one.xattrs else [*fields, []]
    assert decode(cbor2.dumps([*known, {"later": 1}])) == one


@given(st.binary(max_size=60))
def test_garbage_is_the_peers_fault(garbage: bytes) -> None:
    try:
        decode(garbage)
    except RemoteProtocolError:
        assert decode_or_plain(garbage).mode == 0o600


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [0o644, 0, None, None],
        [0o100644, 0, None, None, None],
        [-1, 0, None, None, None],
        [0o644, 2**70, None, None, None],
        [0o644, 0, b"", None, None],
        [0o644, 0, b"a\0b", None, None],
        [0o644, 0, None, b"short", None],
        [0o644, 0, None, None, b"a" * 8 + b"\xff" * 8],
        [True, 0, None, None, None],
        "text",
    ],
)
def test_a_wrong_field_is_refused(fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(cbor2.dumps(fields))


FIRST = Dot(ActorId(b"actor--1"), 10)
SECOND = Dot(ActorId(b"actor--2"), 20)


def version(digest: bytes, mode: int, dot: Dot, **dotted: Dot) -> Item:
    meta = encode(Attributes(mode=mode, mtime_ns=5, **dotted))
    return supersede(Draft(key=b"f", kind=Kind.FILE, digest=digest, meta=meta), dot, dot.seq)


def seen(mode: int = 0o644, mtime_ns: int = 5) -> Attributes:
    return Attributes(mode=mode, mtime_ns=mtime_ns)


def test_a_first_capture_names_no_earlier_write() -> None:
    assert decode(capture(Kind.FILE, b"D" * 32, seen(), None, None)) == seen()


def test_a_change_of_metadata_names_the_write_that_made_the_content() -> None:
    base = version(b"D" * 32, 0o644, FIRST)
    changed = decode(capture(Kind.FILE, b"D" * 32, seen(mode=0o755), base, base))
    assert changed.content == FIRST
    assert changed.chosen is None
    later = version(b"D" * 32, 0o755, SECOND, content=FIRST)
    assert content_dot(later, decode(later.meta)) == FIRST
    assert mode_dot(later, decode(later.meta)) == SECOND
    touched = decode(capture(Kind.FILE, b"D" * 32, seen(mode=0o755, mtime_ns=9), later, later))
    assert (touched.content, touched.chosen) == (FIRST, SECOND)


def test_an_edit_names_the_write_that_chose_the_mode() -> None:
    base = version(b"D" * 32, 0o644, FIRST)
    edited = decode(capture(Kind.FILE, b"E" * 32, seen(mtime_ns=9), base, base))
    assert (edited.content, edited.chosen) == (None, FIRST)


def test_what_equals_a_known_version_gets_its_metadata_to_the_byte() -> None:
    base = version(b"D" * 32, 0o644, FIRST)
    waiting = version(b"E" * 32, 0o600, SECOND, chosen=FIRST)
    assert capture(Kind.FILE, b"D" * 32, seen(), base, waiting) == base.meta
    assert capture(Kind.FILE, b"E" * 32, seen(mode=0o600), base, waiting) == waiting.meta


def test_another_kind_has_no_earlier_write() -> None:
    base = version(b"D" * 32, 0o644, FIRST)
    link = Attributes(mode=0o777, mtime_ns=5, target=b"t")
    assert decode(capture(Kind.SYMLINK, b"T" * 32, link, base, base)) == link
