from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.errors import BadRequest, MistypedCode, P2psyncError
from p2psyncd.wire.pairing_code import Code, free_nameplate, make_code, parse_code
from p2psyncd.wire.words import EVEN, ODD, WORDS_PER_LIST


def test_the_lists_hold_two_times_256_short_plain_words() -> None:
    words = EVEN + ODD
    assert len(EVEN) == len(ODD) == WORDS_PER_LIST == 256
    assert len(set(words)) == 512
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 8 for word in words)


def test_no_two_words_differ_in_one_letter_only() -> None:
    def neighbours(word: str) -> set[str]:
        """The word with each letter left out or replaced by a gap: words one edit apart share one."""
        gone = {word[:at] + word[at + 1 :] for at in range(len(word))}
        gaps = {word[:at] + "?" + word[at + 1 :] for at in range(len(word))}
        return gone | gaps | {word}

    for one, other in itertools.combinations(EVEN + ODD, 2):
        if abs(len(one) - len(other)) > 1:
            continue
        if len(one) == len(other):
            assert sum(a != b for a, b in zip(one, other, strict=True)) > 1, (one, other)
        else:
            longer, shorter = sorted((one, other), key=len, reverse=True)
            assert shorter not in neighbours(longer), (one, other)


@given(nameplate=st.integers(min_value=1, max_value=9999), entropy=st.binary(min_size=2, max_size=2))
def test_every_code_survives_being_read_and_typed(nameplate: int, entropy: bytes) -> None:
    code = make_code(str(nameplate), entropy)
    assert parse_code(code.text) == code
    assert parse_code(f"  {code.text.upper().replace('-', '  ')} ") == code
    assert repr(code) == f"Code(nameplate='{nameplate}')"


def test_every_pair_of_entropy_bytes_gives_another_code() -> None:
    codes = {make_code("1", bytes([a, b])).text for a in range(256) for b in range(256)}
    assert len(codes) == 65536


@pytest.mark.parametrize(
    "typed",
    ["", "7", "amber-falcon", "7-amber", "7-amber-falcon-9", "0-amber-falcon", "x-amber-falcon", "7-ämber-falcon",
     "7-amber-falcon" * 20, "12345-amber-falcon", "\x1b[31m7"],
)  # fmt: skip
def test_what_is_no_code_says_what_a_code_looks_like(typed: str) -> None:
    with pytest.raises(BadRequest, match="7-amber-falcon"):
        parse_code(typed)


@pytest.mark.parametrize(("typed", "meant"), [("7-ambr-falcon", "amber"), ("7-amber-flacon", "falcon")])
def test_a_slip_of_the_finger_is_said_before_it_costs_the_code(typed: str, meant: str) -> None:
    with pytest.raises(MistypedCode, match=meant) as caught:
        parse_code(typed)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "typed", ["7-wrong-guess", "7-falcon-amber", "7-foo-bar", "1-wrong-code", "7-aaaa-bbbb"]
)
def test_other_words_are_a_guess(typed: str) -> None:
    assert parse_code(typed).text == typed


def test_an_error_about_a_code_is_one_readable_line() -> None:
    with pytest.raises(P2psyncError) as caught:
        parse_code("7\namber\x1b")
    assert "\x1b" not in caught.value.message


@given(taken=st.sets(st.integers(min_value=1, max_value=99)), entropy=st.binary(min_size=4, max_size=4))
def test_a_nameplate_is_free_while_one_is(taken: set[int], entropy: bytes) -> None:
    number = free_nameplate({str(one) for one in taken}, entropy)
    assert 1 <= int(number) <= 99
    assert int(number) not in taken or len(taken) == 99


def test_a_code_needs_a_nameplate_and_two_bytes() -> None:
    with pytest.raises(ValueError, match="nameplate"):
        make_code("0", b"ab")
    with pytest.raises(ValueError, match="entropy"):
        make_code("1", b"a")
    assert Code(nameplate="7", words=("amber", "falcon")).password == b"7-amber-falcon"


def test_leading_zeros_of_the_number_do_not_matter() -> None:
    assert parse_code("007-amber-falcon").text == "7-amber-falcon"
