"""Rows that an app has just inserted, many at a time: most of what a scan finds.

Of a row with a birth that the store knows nothing of, and that refers to nothing with a birth, there is nothing to be
weighed: its values are what it says. Rows of a table are read with one statement and looked at column by column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from p2psyncd.core.ids import ActorId
from p2psyncd.sources.database.keys import new_birth, pack_table
from p2psyncd.sources.database.look import Sighting
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.values import row_hashes

__all__ = ["NEW_ROWS_MIN", "Births", "new_sightings"]

NEW_ROWS_MIN = 8
"""Fewer rows are as well looked at one by one."""


class Births(dict[int, tuple[bytes, bytes]]):
    """The births that an actor gives: (birth, the same in hexadecimal) by milliseconds since 1970."""

    def __init__(self, actor: ActorId) -> None:
        super().__init__()
        self.actor = actor

    def __missing__(self, ms: int) -> tuple[bytes, bytes]:
        birth = new_birth(ms, self.actor)
        found = self[ms] = (birth, birth.hex().encode())
        return found


def new_sightings(
    rows: Rows, table: Table, touched: Mapping[int, int], births: Births
) -> Iterable[tuple[int, bytes, Sighting]]:
    """Yield number, birth and sighting of new rows of a table with births; none where they are not as most are.

    Args:
        rows: The file's.
        table: The rows'.
        touched: When each was inserted, in milliseconds since 1970, by its number.
        births: Those of the actor that captures them.
    """
    try:
        names, found = rows.read_numbers(table, list(touched))
    except UnicodeError:
        return  # a text that is no valid UTF-8 is read by itself
    columns = list(zip(*found, strict=True))
    numbers = columns[names.index(table.pk[0])] if columns else ()
    if set(map(type, numbers)) != {int}:
        return
    begin = pack_table(table.name)
    for number, values, state in zip(numbers, found, row_hashes(columns), strict=True):
        ms = touched[number]
        birth, suffix = births[ms]
        key = b"%s/%x/%d/%s" % (begin, number >> 8, number, suffix)
        cells = dict(zip(names, values, strict=True))
        yield number, birth, Sighting(table, (number,), cells, state, key, b"", ms, plain=True)
