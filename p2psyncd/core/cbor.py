"""CBOR of hostile origin, decoded within bounds: plain values only, counted before they are made.

CBOR can say much in few bytes, and a decoder that believes it pays: a frame of 4 MiB of empty lists is 300 MB
of objects, and a decimal fraction of 200 KB took three seconds to compute. So here
- tags are refused, all of them: big integers, fractions, dates, expressions, shared references;
- so are indefinite lengths and nesting beyond what the caller expects;
- a long input is refused when it holds more than `VALUES_MAX` values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import cbor2

from p2psyncd.errors import RemoteProtocolError

__all__ = ["VALUES_MAX", "decode_plain"]

# Four times what the richest message holds (a delta's records, a table of actors). A value that is made of one
# byte costs up to 72 bytes (an empty list and its place in the list around it): 19 MB in all.
VALUES_MAX = 256 * 1024
# Head bytes (RFC 8949, section 3): the major type in the upper three bits, the rest says how long its argument is.
BYTE_STRING, TEXT = 2, 3
ARGUMENT_INLINE_MAX, ARGUMENT_BYTES_8 = 23, 27


def refuse_tag(*_arguments: object) -> NoReturn:
    """Refuse a tag before what it stands for is computed."""
    raise ValueError("tag")


class EveryTag(dict[int, Callable[..., NoReturn]]):
    """A table in which every tag has the same decoder, whatever the library knows by itself."""

    def __missing__(self, tag: int) -> Callable[..., NoReturn]:
        """Return the decoder of a tag."""
        return refuse_tag


EVERY_TAG = EveryTag()


def decode_plain(data: bytes, *, depth_max: int) -> Any:  # noqa: ANN401  (the callers check every part before they use it)
    """Return the decoded value: lists, dictionaries, ints, floats, bytes, strings, booleans, None.

    Args:
        data: Whole; what follows the first value is ignored.
        depth_max: How deep lists may be nested.

    Raises:
        RemoteProtocolError: Not CBOR, or more of it than there may be.
    """
    # Every value takes a byte at least, so what is short needs no counting.
    if len(data) > VALUES_MAX:
        count_values(data)
    try:
        return cbor2.loads(
            data,
            tag_hook=refuse_tag,
            semantic_decoders=EVERY_TAG,
            max_depth=depth_max,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(f"A message cannot be decoded ({type(error).__name__})") from error


def count_values(data: bytes) -> None:
    """Go over the heads of all values, strings skipped whole.

    Raises:
        RemoteProtocolError: There are more than `VALUES_MAX`, or one has an indefinite length.
    """
    at, end, count = 0, len(data), 0
    while at < end:
        count += 1
        if count > VALUES_MAX:
            raise RemoteProtocolError(f"A message holds more than {VALUES_MAX} values")
        major, argument = data[at] >> 5, data[at] & 0x1F
        at += 1
        if argument > ARGUMENT_INLINE_MAX:
            if argument > ARGUMENT_BYTES_8:
                raise RemoteProtocolError("A message has a value of indefinite length")
            size = 1 << (argument - ARGUMENT_INLINE_MAX - 1)
            argument = int.from_bytes(data[at : at + size], "big")
            at += size
        if major in {BYTE_STRING, TEXT}:
            at += argument
