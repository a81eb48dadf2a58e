"""How a row is named: `table/bucket/key[/birth]`.

Each part is percent-encoded, so that it holds no slash, percent sign, number sign or control byte.
- *bucket*: the key without its lowest eight bits, in hexadecimal, for a key of one integer; else `-`. Rows that
  were written one after the other share a part of the Merkle trie by it.
- *key*: the parts of the primary key, joined by commas: an integer is decimal, text begins with `'`, a blob with
  `x` (hexadecimal), a real with `r` (its bits), NULL is `n`, a reference `@` with the parent's number and birth.
- *birth*: when, and by which actor, a row of a table with integer keys was inserted: two devices give one number
  to different rows.

A name is canonical: keys that SQLite takes for equal in their columns (collation; 1 and 1.0) have one, and any two
others have two. A key of more than `KEY_TEXT_MAX` bytes is named by its hash. The functions here are pure.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from blake3 import blake3

from p2psyncd.core.ids import ActorId
from p2psyncd.sources.database.values import (
    BIRTH_BYTES,
    INTEGER_MAX,
    INTEGER_MIN,
    Cell,
    RawText,
    Ref,
    text_of,
)

__all__ = [
    "FRESH_COUNT",
    "FRESH_MIN",
    "NAME_BYTES_MAX",
    "SCHEMA_TABLE",
    "RowKey",
    "bucket_of",
    "collate",
    "fresh_pk",
    "identities",
    "is_acceptable",
    "new_birth",
    "pack_key",
    "plain_key",
    "unpack_key",
]

SCHEMA_TABLE = "#schema"
"""The pseudo-table whose rows are tables, indexes, views and triggers. Its name stands in keys as it is, which no
other name does; a table of an app that is called so cannot be told from it."""
NAME_BYTES_MAX = 1024
"""A table's or column's name, in UTF-8."""
FRESH_MIN, FRESH_COUNT = 1_000_000_000, 1_000_000_000
"""Rows whose number is another row's get one from here: above what counting rows reaches, and within 31 bits."""

# With a table's name of 1024 bytes, all escaped, a whole key has 4096 at most: what a record may have.
KEY_TEXT_MAX = 1000
PARTS_MAX = 2000
NO_BUCKET = b"-"
EMPTY_NAME = b"%"
ESCAPED = re.compile(rb"[\x00-\x1f\x7f%/#,]")
ESCAPED_RAW = re.compile(rb"[\x00-\x1f\x7f-\xff%/#,]")
ESCAPE = re.compile(rb"%([0-9A-F]{2})")
HASHED = re.compile(rb"h[0-9a-f]{64}")
INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
REF = re.compile(rb"@(0|-?[1-9][0-9]{0,18})\.((?:[0-9a-f]{2})*)")
# Most keys: a table with a plain name, and one integer.
PLAIN = re.compile(
    rb"([A-Za-z_][A-Za-z0-9_]{0,200})/(-?[0-9a-f]{1,15})/(0|-?[1-9][0-9]{0,18})(?:/([0-9a-f]{20}))?"
)
DOUBLE = struct.Struct(">d")
MILLISECONDS_MAX = 2**48 - 1
ACTOR_BYTES = 4


@dataclass(frozen=True, slots=True)
class RowKey:
    """What a key names."""

    table: str
    pk: tuple[Cell, ...]
    """The primary key's values, canonical; empty where the key holds only their hash."""
    birth: bytes = b""
    """Empty: a row that was there at the first sight of its table, or of a table without births."""


def escape(data: bytes, pattern: re.Pattern[bytes] = ESCAPED) -> bytes:
    """Return bytes percent-encoded."""
    return pattern.sub(lambda found: b"%%%02X" % ord(found[0]), data)


def unescape(data: bytes) -> bytes:
    """Return the bytes that `escape` encoded."""
    return ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), data)


@lru_cache(maxsize=1024)
def pack_table(table: str) -> bytes:
    """Return the first part of the keys of a table's rows."""
    if table == SCHEMA_TABLE:
        return table.encode()
    name = table.encode()
    if len(name) > NAME_BYTES_MAX:
        raise ValueError("a table's name is too long")
    return escape(name) or EMPTY_NAME


@lru_cache(maxsize=1024)
def unpack_table(part: bytes) -> str:
    """Return the table's name of a key's first part."""
    if part == SCHEMA_TABLE.encode():
        return SCHEMA_TABLE
    return "" if part == EMPTY_NAME else unescape(part).decode()


def collate(data: bytes, collation: str) -> bytes:
    """Return what stands for all texts that a collation takes for equal."""
    match collation.upper():
        case "BINARY":
            return data
        case "NOCASE":
            # SQLite compares ASCII letters alike, stops at a NUL, and then compares lengths.
            head, nul, tail = data.partition(b"\0")
            return head.lower() + nul + bytes(len(tail))
        case "RTRIM":
            return data.rstrip(b" ")
        case _:
            raise ValueError(f"an unknown collation: {collation}")


def pack_part(cell: Cell, collation: str) -> bytes:
    """Return one value of a primary key as the key has it."""
    kind = type(cell)
    if kind is float and cell.is_integer() and INTEGER_MIN <= cell <= INTEGER_MAX:  # type: ignore[union-attr, operator]
        # The greatest float that passes is below 2**63: 2**63 itself is above the greatest integer.
        cell, kind = int(cell), int  # type: ignore[arg-type]
    if kind is int:
        if not INTEGER_MIN <= cell <= INTEGER_MAX:  # type: ignore[operator]
            raise ValueError("a number is beyond 64 bits")
        return str(cell).encode()
    if kind is str or kind is RawText:
        data = cell.encode() if kind is str else cell.data  # type: ignore[union-attr]
        text = text_of(collate(data, collation))
        return b"'" + (escape(text.encode()) if isinstance(text, str) else escape(text.data, ESCAPED_RAW))
    match cell:
        case None:
            return b"n"
        case bytes():
            return b"x" + cell.hex().encode()
        case Ref(pk, birth) if INTEGER_MIN <= pk <= INTEGER_MAX and len(birth) == BIRTH_BYTES:
            return b"@%d.%s" % (pk, birth.hex().encode())
        case float() if not math.isnan(cell):
            return b"r" + DOUBLE.pack(cell).hex().encode()
        case _:
            raise ValueError("a key holds what no column does")


def pack_key(table: str, pk: Sequence[Cell], birth: bytes = b"", *, collations: Sequence[str] = ()) -> bytes:
    """Return the name of a row.

    Args:
        table: The table's name as the schema has it.
        pk: The values of the primary key, in its order.
        birth: `BIRTH_BYTES`, for a key of one integer; else empty.
        collations: The columns' collations; BINARY where there are none.

    Raises:
        ValueError: Nothing can have such a key: a collation that is not SQLite's own, a name that is too long.
    """
    if len(pk) == 1 and type(pk[0]) is int and not collations and len(birth) in {0, BIRTH_BYTES}:
        plain = identities(table, pk[0])  # as most keys are
        return b"%s/%s" % (plain, birth.hex().encode()) if birth else plain
    if not 0 < len(pk) <= PARTS_MAX or (collations and len(collations) != len(pk)):
        raise ValueError("a key has a wrong number of parts")
    parts = [pack_part(cell, collations[at] if collations else "BINARY") for at, cell in enumerate(pk)]
    text = b",".join(parts)
    bucket = NO_BUCKET
    if len(parts) == 1 and text[0] in b"-0123456789":
        bucket = b"%x" % (int(text) >> 8)
    elif birth:
        raise ValueError("only a row with an integer for its key has a birth")
    if len(text) > KEY_TEXT_MAX:
        text = b"h" + blake3(text).hexdigest().encode()
    key = b"%s/%s/%s" % (pack_table(table), bucket, text)
    if not birth:
        return key
    if len(birth) != BIRTH_BYTES:
        raise ValueError("a birth has a wrong length")
    return key + b"/" + birth.hex().encode()


def unpack_part(part: bytes) -> Cell:
    """Return the value that a part of a key stands for; a part that is not canonical gives anything, or ValueError."""
    match part[:1]:
        case b"'":
            return text_of(unescape(part[1:]))
        case b"x":
            return bytes.fromhex(part[1:].decode())
        case b"r":
            (real,) = (
                DOUBLE.unpack(bytes.fromhex(part[1:].decode()))
                if len(part) == 1 + 2 * DOUBLE.size
                else (0.0,)
            )
            return float(real)
        case b"n":
            return None
        case b"@":
            found = REF.fullmatch(part)
            if found is None:
                raise ValueError("a reference in a key is broken")
            return Ref(int(found[1]), bytes.fromhex(found[2].decode()))
        case _:
            if INTEGER.fullmatch(part) is None:
                raise ValueError("a part of a key is broken")
            return int(part)


def match_plain(key: bytes) -> re.Match[bytes] | None:
    """Return table, bucket, number and birth of a key as most are; None if it is no such key."""
    plain = PLAIN.fullmatch(key)
    if plain is not None:
        number = int(plain[3])
        if INTEGER_MIN <= number <= INTEGER_MAX and plain[2] == b"%x" % (number >> 8):
            return plain
    return None


def unpack_key(key: bytes) -> RowKey:
    """Return what a key names.

    Raises:
        ValueError: It is not as `pack_key` makes it.
    """
    plain = match_plain(key)
    if plain is not None:
        birth = bytes.fromhex(plain[4].decode()) if plain[4] else b""
        return RowKey(plain[1].decode(), (int(plain[3]),), birth)
    name, _, rest = key.partition(b"/")
    _bucket, _, rest = rest.partition(b"/")
    text, slash, birth_text = rest.partition(b"/")
    table = unpack_table(name)
    if HASHED.fullmatch(text):
        if key != b"%s/%s/%s" % (pack_table(table), NO_BUCKET, text):
            raise ValueError("a key is not canonical")
        return RowKey(table, ())
    if bool(slash) != bool(birth_text) or len(text) > KEY_TEXT_MAX:
        raise ValueError("a key is broken")
    birth = bytes.fromhex(birth_text.decode())
    pk = tuple(unpack_part(part) for part in text.split(b","))
    if pack_key(table, pk, birth) != key:
        raise ValueError("a key is not canonical")
    return RowKey(table, pk, birth)


def is_acceptable(key: bytes) -> bool:
    """Return whether a peer's key is one that `pack_key` makes."""
    try:
        if match_plain(key) is None:
            unpack_key(key)
    except ValueError:
        return False
    return True


def bucket_of(key: bytes) -> bytes:
    """Return the table and bucket of a key: rows that were written one after the other have one."""
    table, _, rest = key.partition(b"/")
    return table + b"/" + rest.partition(b"/")[0]


def identities(table: str, pk: int) -> bytes:
    """Return the key that all rows of one number begin with: it, or it and a slash and the birth.

    Raises:
        ValueError: No row has such a number.
    """
    if not INTEGER_MIN <= pk <= INTEGER_MAX:
        raise ValueError("a number is beyond 64 bits")
    return b"%s/%x/%d" % (pack_table(table), pk >> 8, pk)


def plain_key(key: bytes) -> bytes | None:
    """Return the name that a row has where its birth, and those of its parents, are not known; None if that is its name."""
    plain = PLAIN.fullmatch(key)
    if plain is not None:
        return key[: plain.start(4) - 1] if plain[4] else None
    at = unpack_key(key)
    if at.birth:
        return key.rpartition(b"/")[0]
    if any(type(part) is Ref for part in at.pk):
        return pack_key(at.table, [part.pk if isinstance(part, Ref) else part for part in at.pk])
    return None


def new_birth(ms: int, actor: ActorId) -> bytes:
    """Return the birth of a row that was inserted now.

    Args:
        ms: Milliseconds since 1970.
        actor: Who inserted it.
    """
    return min(max(ms, 0), MILLISECONDS_MAX).to_bytes(BIRTH_BYTES - ACTOR_BYTES, "big") + actor[:ACTOR_BYTES]


def fresh_pk(table: str, pk: int, birth: bytes, attempt: int = 0) -> int:
    """Return the number that a row is shown with where its own is another row's.

    Args:
        table: The table's name.
        pk: The number that it was inserted with.
        birth: Its birth.
        attempt: How many of these numbers are taken.
    """
    spread = blake3(pack_key(table, (pk,), birth)).digest(length=8)
    return FRESH_MIN + (int.from_bytes(spread, "big") + attempt) % FRESH_COUNT
