"""How things are written for a person: colours if there is a terminal, columns, sizes, times, bars."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO
from unicodedata import combining, east_asian_width

from p2psync.escape import escape

__all__ = [
    "Paper",
    "ago",
    "columns",
    "count",
    "emit",
    "emit_json",
    "emit_json_line",
    "size",
    "span",
    "talk",
]

STYLES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
BAR_CELLS = 24
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
UNIT_STEP = 1024
# From here on a decimal place says nothing.
DECIMALS_BELOW = 10
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
MOMENTS_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What can be written on: a terminal, or a file."""

    colour: bool
    unicode: bool
    width: int

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Paper:
        """Return what this stream can show; https://no-color.org is followed."""
        terminal = stream.isatty()
        width = 80
        if terminal:
            with suppress(OSError, ValueError):
                width = os.get_terminal_size(stream.fileno()).columns
        return cls(
            colour=terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb",
            unicode=(stream.encoding or "ascii").lower().startswith("utf"),
            width=width,
        )

    def style(self, text: str, *styles: str) -> str:
        """Return escaped text in these styles, plain where there is no colour."""
        plain = escape(text)
        if not self.colour or not styles:
            return plain
        codes = ";".join(str(STYLES[style]) for style in styles)
        return f"\x1b[{codes}m{plain}\x1b[0m"

    def sign(self, fancy: str, plain: str) -> str:
        """Return a sign, or what stands for it where there is no Unicode."""
        return fancy if self.unicode else plain

    def bar(self, fraction: float) -> str:
        """Return a progress bar with its percentage."""
        clipped = min(max(fraction, 0.0), 1.0)
        full = int(clipped * BAR_CELLS)
        cells = self.sign("█", "#") * full + self.sign("░", ".") * (BAR_CELLS - full)
        return f"{self.style(cells, 'cyan')} {int(clipped * 100):3d} %"


def emit(*lines: str) -> None:
    """Write lines of data to stdout; what came from elsewhere in them is escaped already."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def emit_json(value: object) -> None:
    """Write one JSON document to stdout, in ASCII: safe for any terminal and any encoding."""
    emit(json.dumps(value, indent=2))


def emit_json_line(value: object) -> None:
    """Write one JSON document as one line."""
    emit(json.dumps(value))


def talk(text: str) -> None:
    """Say something to the person at stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def width_of(text: str) -> int:
    """Return how many cells text without escapes takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def columns(rows: Sequence[Sequence[str]], paper: Paper, head: Sequence[str] = ()) -> list[str]:
    """Return rows as aligned columns; cells are escaped here.

    Args:
        rows: Cells as they came.
        paper: For the head's style.
        head: Names of the columns, left out when there are no rows.
    """
    if not rows:
        return []
    table = [[escape(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    widths = [max(width_of(row[at]) for row in table) for at in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [cell + " " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    if head and paper.colour:
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    return lines


def size(number: float) -> str:
    """Return bytes in words: `3.2 GiB`."""
    value, unit = float(number), 0
    while value >= UNIT_STEP and unit < len(UNITS) - 1:
        value, unit = value / UNIT_STEP, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if unit and value < DECIMALS_BELOW else f"{int(value)} {UNITS[unit]}"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 item`, `12,345 items`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """Return a time span in its two largest units: `1 h 20 min`."""
    whole = max(int(seconds), 0)
    if whole < MINUTE_S:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // MINUTE_S} min {whole % MINUTE_S} s"
    if whole < DAY_S:
        return f"{whole // HOUR_S} h {whole % HOUR_S // MINUTE_S} min"
    return f"{whole // DAY_S} d {whole % DAY_S // HOUR_S} h"


def ago(when: str | None, now: datetime | None = None) -> str:
    """Return how long ago an RFC 3339 time was, in its largest unit."""
    if when is None:
        return "never"
    try:
        then = datetime.fromisoformat(when)
    except ValueError:
        return when
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    if seconds < -MOMENTS_S:
        # Said by a device whose clock is ahead of ours.
        return "in the future"
    if seconds < MOMENTS_S:
        return "just now"
    return f"{span(seconds).split(' ')[0]} {span(seconds).split(' ')[1]} ago"
