"""What a row's columns hold: SQLite's values, exactly, and references to rows whose number differs from device to device.

Nothing is converted: 1, 1.0 and '1' are three values, text that is not valid UTF-8 stays the bytes that it is, and a
float keeps its bits. On the wire a value is itself; what CBOR has no type for is a list: `[bytes]` is text that is not
UTF-8, `[number, birth]` a reference. The functions here are pure.

A row's *state* is eight bytes for each column, in the order of the columns' names: the store keeps it, so that a scan
sees which columns changed without keeping the row a second time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
from blake3 import blake3

__all__ = [
    "BIRTH_BYTES",
    "COLUMN_HASH_BYTES",
    "INTEGER_MAX",
    "INTEGER_MIN",
    "Cell",
    "RawText",
    "Ref",
    "Value",
    "canonical_bytes",
    "column_hash",
    "column_hashes",
    "from_wire",
    "row_hash",
    "row_hashes",
    "same_cell",
    "text_of",
    "to_wire",
]

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
BIRTH_BYTES = 10
"""Six bytes of milliseconds since 1970, four of the actor."""
COLUMN_HASH_BYTES = 8
# Text and blobs of the same bytes are two values.
TEXT_HASH_KEY = b"p2psyncd column of text".ljust(32, b"\0")
BLOB_HASH_KEY = b"p2psyncd column of a blob".ljust(32, b"\0")
NULL_HASH = bytes(COLUMN_HASH_BYTES)
# Numbers are spread by an odd factor: two integers never share a hash, and neither do two floats. The odd
# constants are the first bits of the fractions of the square roots of 2, 3, 5 and 7.
INTEGER_FACTOR, INTEGER_OFFSET = 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B
REAL_FACTOR, REAL_OFFSET = 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1
WORD = 2**64 - 1
DOUBLE = struct.Struct(">d")


@dataclass(frozen=True, slots=True)
class RawText:
    """TEXT that is not valid UTF-8: its bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to a row with a birth: its number may be another one on this device."""

    pk: int
    """The number that it was inserted with."""
    birth: bytes


Value = None | int | float | str | bytes | RawText
"""What a column of SQLite holds."""
Cell = Value | Ref
"""What an item holds for it."""


def to_wire(cell: Cell) -> Any:  # noqa: ANN401  (CBOR's own types)
    """Return a cell as CBOR has it."""
    kind = type(cell)
    if kind is RawText:
        return [cell.data]  # type: ignore[union-attr]
    if kind is Ref:
        return [cell.pk, cell.birth]  # type: ignore[union-attr]
    return cell


def from_wire(value: object) -> Cell:
    """Return the cell of a decoded CBOR value.

    Raises:
        ValueError: It is not as `to_wire` makes it.
    """
    kind = type(value)
    if value is None or kind is str or kind is bytes:
        return value  # type: ignore[return-value]
    if kind is int:
        if not INTEGER_MIN <= value <= INTEGER_MAX:  # type: ignore[operator]
            raise ValueError("a number is beyond 64 bits")
        return value  # type: ignore[return-value]
    if kind is float:
        if math.isnan(value):  # type: ignore[arg-type]
            raise ValueError("not a number: SQLite has NULL instead")
        return value  # type: ignore[return-value]
    if isinstance(value, list):
        return from_list(value)
    raise ValueError(f"no value of a column: {kind.__name__}")


def from_list(parts: list[object]) -> RawText | Ref:
    """Return the cell that a list stands for."""
    match parts:
        case [bytes(data)]:
            text = text_of(data)
            if isinstance(text, str):
                raise ValueError("text is marked as no UTF-8, and is")  # noqa: TRY004  (a peer's value, not a caller's type)
            return text
        case [int(pk), bytes(birth)] if type(pk) is int:
            if not INTEGER_MIN <= pk <= INTEGER_MAX or len(birth) != BIRTH_BYTES:
                raise ValueError("a reference is out of range")
            return Ref(pk, birth)
        case _:
            raise ValueError("a list that is no value of a column")


def text_of(data: bytes, encoding: str = "UTF-8") -> str | RawText:
    """Return the text of some bytes, whether they are UTF-8 (or the encoding of a file) or not."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return RawText(data)


def canonical_bytes(cell: Cell) -> bytes:
    """Return a cell's bytes on the wire: equal exactly when two cells are the same."""
    return cbor2.dumps(to_wire(cell))


def same_cell(a: Cell, b: Cell) -> bool:
    """Return whether two cells are the same, type and bits: 1 is not 1.0, and 0.0 is not -0.0."""
    if a is b:
        return True
    if type(a) is not type(b) or a != b:
        return False
    return type(a) is not float or math.copysign(1, a) == math.copysign(1, b)  # type: ignore[arg-type]


def column_hash(value: Value) -> bytes:
    """Return 8 bytes that differ where two values do, in type or bits."""
    kind = type(value)
    if kind is str:
        return blake3(value.encode(), key=TEXT_HASH_KEY).digest(length=COLUMN_HASH_BYTES)  # type: ignore[union-attr]
    if kind is int:
        return ((value * INTEGER_FACTOR + INTEGER_OFFSET) & WORD).to_bytes(8, "big")  # type: ignore[operator]
    if value is None:
        return NULL_HASH
    if kind is bytes:
        return blake3(value, key=BLOB_HASH_KEY).digest(length=COLUMN_HASH_BYTES)  # type: ignore[arg-type]
    if kind is float:
        bits = int.from_bytes(DOUBLE.pack(value), "big")
        return ((bits * REAL_FACTOR + REAL_OFFSET) & WORD).to_bytes(8, "big")
    if isinstance(value, RawText):
        return blake3(value.data, key=TEXT_HASH_KEY).digest(length=COLUMN_HASH_BYTES)
    raise TypeError(f"no value of a column: {kind.__name__}")


def column_hashes(values: Sequence[Value], kinds: Collection[type]) -> list[bytes]:
    """Return what `column_hash` returns of the values of many rows for a column, given the types that they are of."""
    if kinds == {str}:
        key, size = TEXT_HASH_KEY, COLUMN_HASH_BYTES
        return [blake3(value.encode(), key=key).digest(length=size) for value in values]  # type: ignore[union-attr]
    if kinds == {int}:
        factor, offset, word = INTEGER_FACTOR, INTEGER_OFFSET, WORD
        return [((value * factor + offset) & word).to_bytes(8, "big") for value in values]  # type: ignore[operator]
    return [column_hash(value) for value in values]


def row_hashes(columns: Sequence[Sequence[Value]]) -> list[bytes]:
    """Return the states of many rows, given the values of each of their columns, in the order of the columns' names."""
    hashes = [column_hashes(values, set(map(type, values))) for values in columns]
    return list(map(b"".join, zip(*hashes, strict=True)))


def row_hash(values: Mapping[str, Value]) -> bytes:
    """Return the state of a row that is shown: its columns' hashes in the order of their names."""
    return b"".join([column_hash(values[name]) for name in sorted(values)])
