from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psync.escape import escape

# Surrogates too: that is how bytes that are not UTF-8 arrive.
anything = st.text(st.characters(exclude_categories=()))


@given(anything)
def test_what_is_escaped_is_visible_and_moves_nothing(text: str) -> None:
    for one in escape(text):
        assert unicodedata.category(one) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        assert one == " " or unicodedata.category(one) != "Zs"


@given(anything, anything)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(anything)
def test_what_is_escaped_can_be_printed_anywhere(text: str) -> None:
    escape(text).encode("utf-8")


@given(st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="\\")))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a b", "a b"),
        ("Grüße 日本 🌲", "Grüße 日本 🌲"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x07\x7f", "\\x1b[2J\\x07\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("\u2066\u200b\ufeff\xa0", "\\u2066\\u200b\\ufeff\\xa0"),
        ("back\\slash", "back\\\\slash"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\udce9"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_a_reader_sees_what_is_there(raw: str, shown: str) -> None:
    assert escape(raw) == shown
