from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TextIO

import pytest

from p2psync.render import Paper, ago, columns, count, size, span

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
PLAIN = Paper(colour=False, unicode=False, width=80)
FANCY = Paper(colour=True, unicode=True, width=80)


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        yield stream
    os.close(leader)


def test_a_terminal_has_colour_unless_its_user_says_no(terminal: TextIO) -> None:
    assert Paper.of(terminal, {}).colour
    assert not Paper.of(terminal, {"NO_COLOR": "1"}).colour
    assert not Paper.of(terminal, {"TERM": "dumb"}).colour
    assert Paper.of(terminal, {"NO_COLOR": ""}).colour


def test_a_file_has_no_colour() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert Paper.of(stream, {}) == PLAIN


def test_styled_text_is_escaped_first() -> None:
    assert FANCY.style("a\x1bb", "bold", "red") == "\x1b[1;31ma\\x1bb\x1b[0m"
    assert FANCY.style("a") == "a"
    assert PLAIN.style("a\x1bb", "bold") == "a\\x1bb"


def test_a_bar_is_as_long_as_its_fraction_says() -> None:
    assert PLAIN.bar(0) == "." * 24 + "   0 %"
    assert PLAIN.bar(0.5) == "#" * 12 + "." * 12 + "  50 %"
    assert PLAIN.bar(7) == "#" * 24 + " 100 %"
    assert "█" in FANCY.bar(0.5)


def test_columns_line_up_with_wide_and_combined_characters() -> None:
    assert columns([("日本", "x"), ("e\u0301e", "y")], PLAIN) == ["日本  x", "e\u0301e    y"]
    assert columns([("a\nb", "")], PLAIN, ("NAME", "")) == ["NAME", "a\\nb"]
    assert columns([], PLAIN, ("NAME",)) == []
    assert columns([("a",)], FANCY, ("N",))[0] == "\x1b[1mN\x1b[0m"


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5_000_000, "4.8 MiB"), (50_000_000, "47 MiB")],
)
def test_sizes_are_short(number: int, words: str) -> None:
    assert size(number) == words


def test_the_largest_unit_has_no_end() -> None:
    assert size(1024.0**7) == "1048576 PiB"


def test_counts_agree_with_their_noun() -> None:
    assert [count(1, "item"), count(12345, "item"), count(2, "copy", "copies")] == [
        "1 item",
        "12,345 items",
        "2 copies",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (59.9, "59 s"), (80, "1 min 20 s"), (7500, "2 h 5 min"), (90_000, "1 d 1 h")],
)
def test_time_spans_have_two_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (None, "never"),
        ("2025-06-01T11:59:58Z", "just now"),
        ("2025-06-01T12:00:01Z", "just now"),
        ("2025-06-01T13:00:00Z", "in the future"),
        ("9999-12-31T23:59:59.999Z", "in the future"),
        ("2025-06-01T11:57:00Z", "3 min ago"),
        ("2025-06-01T11:57:00", "3 min ago"),
        ("2025-05-30T12:00:00+00:00", "2 d ago"),
        ("yesterday", "yesterday"),
    ],
)
def test_times_are_told_from_now(when: str | None, words: str) -> None:
    assert ago(when, NOW) == words
