"""Rows in words: which row it is, and what its columns hold, as SQL would write it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from p2psyncd.sources.database.keys import SCHEMA_TABLE, unpack_key
from p2psyncd.sources.database.names import literal
from p2psyncd.sources.database.values import Cell, RawText, Ref

__all__ = ["cells_text", "row_name", "table_of", "value_text"]

# A line is to be read; who wants the whole value looks into the database.
TEXT_SHOWN_MAX = 120


def table_of(key: bytes) -> str:
    """Return the table that a key's row is in; the schema's own objects have one in name."""
    try:
        table = unpack_key(key).table
    except ValueError:
        return ""
    return "schema" if table == SCHEMA_TABLE else table


def row_name(key: bytes, place: Collection[Cell] = ()) -> str:
    """Return a row as "table key".

    Args:
        key: The item's key.
        place: The values of its key columns here, where they are others than in the key.
    """
    try:
        at = unpack_key(key)
    except ValueError:
        return key.decode(errors="backslashreplace")
    if at.table == SCHEMA_TABLE:
        return " ".join(["schema", *(str(part) for part in at.pk)])
    parts = [plain_text(part) for part in (place or at.pk)]
    return f"{at.table} {','.join(parts) or 'with a long key'}"


def plain_text(cell: Cell) -> str:
    """Return a key's value: text without quotes, a reference as the number that it was born with."""
    match cell:
        case str():
            return shortened(cell)
        case Ref():
            return str(cell.pk)
        case _:
            return value_text(cell)


def value_text(cell: Cell) -> str:
    """Return a value as an SQL literal, shortened."""
    match cell:
        case None:
            return "NULL"
        case str():
            return literal(shortened(cell))
        case bytes():
            return f"x'{shortened(cell.hex())}'"
        case RawText():
            return literal(shortened(cell.data.decode(errors="backslashreplace")))
        case Ref():
            return str(cell.pk)
        case _:
            return repr(cell)


def shortened(text: str) -> str:
    """Return as much of a text as fits into a line."""
    return text if len(text) <= TEXT_SHOWN_MAX else f"{text[:TEXT_SHOWN_MAX]}…"


def cells_text(cells: Mapping[str, Cell], columns: Iterable[str] | None = None) -> str:
    """Return columns with their values, all or some."""
    names = list(cells) if columns is None else [name for name in columns if name in cells]
    return ", ".join(f"{name}: {value_text(cells[name])}" for name in names)
