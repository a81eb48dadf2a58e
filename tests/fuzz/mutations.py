"""Hostile variations: of bytes, and of the values inside CBOR, where most of the structure is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

__all__ = ["mutate_bytes", "mutate_value", "nonsense"]

INTERESTING_INTS = (
    -(2**64),
    -(2**63) - 1,
    -(2**63),
    -1,
    0,
    1,
    2,
    23,
    24,
    255,
    256,
    65_535,
    65_536,
    2**31,
    2**32,
    2**53 + 1,
    2**62,
    2**62 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
LENGTHS = (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 255, 256, 257, 4095, 4096, 4097, 70_000)
TEXTS = (
    "",
    ".",
    "..",
    "\x00",
    "\x1b[2J",
    "a\nb",
    "\u202e",
    "x" * 300,
    "127.0.0.1:1",
    "[::1]:0",
    "8.8.8.8:53",
)
NAMES = (
    b"..",
    b"../x",
    b"/etc/passwd",
    b"a//b",
    b"a/./b",
    b".p2psync/share",
    b".P2PSYNC/x",
    b"n\0ul",
    b"n" * 256,
    b"d/" * 2000 + b"f",
    b"\xff\xfe",
)
TAGGED = b"\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00"


def nonsense(rng: random.Random) -> Any:
    """Return a value that hardly any field expects."""
    pick = rng.randrange(12)
    values: list[Any] = [
        rng.choice(INTERESTING_INTS),
        rng.randbytes(rng.choice(LENGTHS)),
        rng.choice(TEXTS),
        rng.choice(NAMES),
        None,
        rng.random() < 0.5,
        rng.choice((0.0, -0.5, float("inf"), float("nan"))),
        [],
        {},
        {"a": [1], b"b": {}},
        [[[[[[[[[[]]]]]]]]]],
        [0] * rng.choice((1, 2, 9, 1025, 5000)),
    ]
    return values[pick]


def mutate_value(rng: random.Random, value: Any, *, depth: int = 0) -> Any:
    """Return the value with one thing in it changed, somewhere in the tree."""
    if isinstance(value, list | tuple) and value and (depth == 0 or rng.random() < 0.85):
        return mutate_list(rng, list(value), depth)
    if isinstance(value, bool) or value is None:
        return nonsense(rng)
    if isinstance(value, int):
        steps = (1, -1, 256, 2**32)
        return rng.choice((nonsense(rng), rng.choice(INTERESTING_INTS), value + rng.choice(steps)))
    if isinstance(value, bytes):
        return mutate_bytes(rng, value) if rng.random() < 0.7 else nonsense(rng)
    if isinstance(value, str):
        return rng.choice((value + "\x00", value[:-1], value * 2, rng.choice(TEXTS), nonsense(rng)))
    return nonsense(rng)


def mutate_list(rng: random.Random, value: list[Any], depth: int) -> list[Any]:
    """Return the list with a part changed, moved, doubled or gone."""
    at = rng.randrange(len(value))
    match rng.randrange(10):
        case 0:
            del value[at]
        case 1:
            value.insert(at, value[rng.randrange(len(value))])
        case 2:
            other = rng.randrange(len(value))
            value[at], value[other] = value[other], value[at]
        case 3:
            value *= rng.choice((2, 3, 40))
        case 4:
            value[at] = nonsense(rng)
        case _:
            value[at] = mutate_value(rng, value[at], depth=depth + 1)
    return value


def flip(rng: random.Random, data: bytearray) -> None:
    """Change single bits."""
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(rng: random.Random, data: bytearray) -> None:
    """Take a run of bytes out."""
    if data:
        at = rng.randrange(len(data))
        del data[at : at + rng.choice((1, 1, 2, 8, 64, len(data)))]


def add(rng: random.Random, data: bytearray) -> None:
    """Put bytes in: random ones, heads of CBOR that claim much, or a copy of others."""
    at = rng.randrange(len(data) + 1)
    inserts = (
        rng.randbytes(rng.choice((1, 2, 8, 32))),
        b"\x9a\xff\xff\xff\xff",
        b"\x5b\x7f" + b"\xff" * 7,
        b"\xbb" + b"\xff" * 8,
        b"\x9f",
        b"\x81" * 30,
        b"\x80" * 500,
        TAGGED,
        b"\xc4\x82\x19\xff\xff\xc2\x42\xff\xff",
        b"\xff\xff\xff\xff",
        bytes(data[at : at + 40]),
    )
    data[at:at] = rng.choice(inserts)


def overwrite(rng: random.Random, data: bytearray) -> None:
    """Replace a number in place."""
    if data:
        at = rng.randrange(len(data))
        size = rng.choice((1, 2, 4, 8))
        number = rng.choice(INTERESTING_INTS) % 256**size
        data[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))


STEPS: tuple[Callable[[random.Random, bytearray], None], ...] = (flip, cut, add, overwrite)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with one to three things changed."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(STEPS)(rng, changed)
    return bytes(changed)
