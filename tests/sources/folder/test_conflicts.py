from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Item, Kind, supersede
from p2psyncd.core.version import Dot
from p2psyncd.sources.folder.attributes import Attributes, encode
from p2psyncd.sources.folder.conflicts import (
    aside_key,
    copies_begin,
    is_conflict,
    is_copy_of,
    parse_conflict,
    tag_of,
)
from p2psyncd.sources.folder.layout import KEY_BYTES_MAX, check_key

ACTOR = ActorId(bytes.fromhex("3f9a2c1b00000000"))
TIME_US = 1_795_409_232_000_000  # 2026-11-23 04:47:12 UTC


def version(key: bytes, *, seq: int = 0x07D1, time_us: int = TIME_US, content: Dot | None = None) -> Item:
    meta = encode(Attributes(mode=0o644, mtime_ns=0, content=content))
    return supersede(Draft(key=key, kind=Kind.FILE, digest=b"D" * 32, meta=meta), Dot(ACTOR, seq), time_us)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"d/report.txt", b"d/report (conflict 2026-11-23 04-47-12 3f9a2c1b07d1).txt"),
        (b"Makefile", b"Makefile (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)"),
        (b".bashrc", b".bashrc (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)"),
        (b"a.tar.gz", b"a.tar (conflict 2026-11-23 04-47-12 3f9a2c1b07d1).gz"),
        (b"v1. draft", b"v1. draft (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)"),
        (b"ends.", b"ends. (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)"),
        (b"..x", b"..x (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)"),
    ],
)
def test_a_conflict_copys_name_says_when_and_who(key: bytes, name: bytes) -> None:
    assert aside_key(version(key)) == name
    assert is_conflict(name)
    parsed = parse_conflict(name)
    assert parsed is not None
    assert parsed.key == key
    assert (parsed.time, parsed.tag) == ("2026-11-23 04-47-12", "3f9a2c1b07d1")


def test_a_copy_of_a_combined_version_is_named_after_the_write_that_made_its_content() -> None:
    made = Dot(ActorId(b"\x01" * 8), TIME_US + 5_000_000)
    assert b"04-47-17 01010101" in aside_key(version(b"f", content=made))


@given(st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_the_name_fits_whatever_the_original(name: bytes) -> None:
    key = aside_key(version(b"dir/" + name))
    assert key.startswith(b"dir/")
    assert len(key) - 4 <= 255
    parsed = parse_conflict(key)
    assert parsed is not None
    assert len(name) > 200 or parsed.key == b"dir/" + name


@given(st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_the_copies_of_a_path_are_found_by_its_name(name: bytes) -> None:
    key = b"dir/" + name
    copy = aside_key(version(key))
    assert copy.startswith(copies_begin(key))
    assert is_copy_of(copy, key)
    assert not is_copy_of(copy, key + b"x")
    assert not is_copy_of(key, key)


def test_copies_of_another_extension_begin_alike_and_are_others() -> None:
    copy = aside_key(version(b"d/report.txt"))
    assert copy.startswith(copies_begin(b"d/report.md"))
    assert not is_copy_of(copy, b"d/report.md")


def test_shortening_does_not_cut_through_a_character() -> None:
    for more in range(4):
        name = ("x" * more + "ü" * 127 + ".ods").encode()[:255]
        aside_key(version(name)).decode()


def test_a_conflict_on_a_conflict_copy_has_both_marks() -> None:
    once = aside_key(version(b"f.txt"))
    twice = aside_key(version(once, seq=0x0AAA))
    parsed = parse_conflict(twice)
    assert parsed is not None
    assert parsed.key == once


@pytest.mark.parametrize(
    "key",
    [
        b"f.txt",
        b"f (conflict).txt",
        b"f (conflict 2026-11-23 04-47-12 3f9a).txt",
        b"d (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)/f",
        b" (conflict 2026-11-23 04-47-12 3f9a2c1b07d1)",
    ],
)
def test_other_names_are_no_conflict(key: bytes) -> None:
    assert not is_conflict(key)


def test_a_clock_thousands_of_years_ahead_still_makes_a_name() -> None:
    assert is_conflict(aside_key(version(b"f", time_us=2**62)))
    assert tag_of(Dot(ACTOR, 2**62 + 5)) == "3f9a2c1b0005"


@pytest.mark.parametrize("component", [b"d", b"d" * 200, b"d" * 255])
def test_a_copy_of_what_lies_at_the_end_of_the_longest_path_lies_further_up(component: bytes) -> None:
    parts = [component] * (KEY_BYTES_MAX // (len(component) + 1))
    key = b"/".join([*parts, b"f.txt"])[:KEY_BYTES_MAX]
    copy = aside_key(version(key))
    check_key(copy)
    assert is_conflict(copy)
    assert key.startswith(copy.rpartition(b"/")[0] + b"/")
    assert parse_conflict(copy) is not None
