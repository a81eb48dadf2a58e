"""CBOR with limits: what a peer sends is hostile until it was checked here and in `messages`.

A frame is at most `frames.FRAME_BYTES_MAX` long before it comes here. What decoding may cost is bounded
in `core.cbor`; here are the checks of single fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cbor2

from p2psyncd.core.cbor import decode_plain
from p2psyncd.errors import RemoteProtocolError

__all__ = ["decode", "encode", "take_bool", "take_bytes", "take_int", "take_list", "take_text"]

# The deepest message (a delta's record with its vector) nests 5 deep; 8 leaves room for extensions.
DEPTH_MAX = 8
INT_MAX = 2**63 - 1


def encode(value: object) -> bytes:
    """Return the CBOR encoding of plain lists, ints, bytes, strings, booleans and None."""
    return cbor2.dumps(value)


def decode(data: bytes) -> Any:  # noqa: ANN401  (the callers check every part before they use it)
    """Return the decoded value.

    Raises:
        RemoteProtocolError: Not CBOR, too much of it, nested too deep, tagged, or of indefinite length.
    """
    return decode_plain(data, depth_max=DEPTH_MAX)


def wrong(what: str) -> RemoteProtocolError:
    """Return the error for a field that is not what it must be."""
    return RemoteProtocolError(f"A message has a wrong field: {what}")


def take_int(value: object, what: str, *, most: int = INT_MAX) -> int:
    """Return a checked integer from 0 to `most`."""
    if type(value) is not int or not 0 <= value <= most:
        raise wrong(what)
    return value


def take_bytes(value: object, what: str, *, least: int = 0, most: int) -> bytes:
    """Return checked bytes of a bounded length."""
    if type(value) is not bytes or not least <= len(value) <= most:
        raise wrong(what)
    return value


def take_text(value: object, what: str, *, most: int) -> str:
    """Return a checked string of at most `most` characters."""
    if type(value) is not str or len(value) > most:
        raise wrong(what)
    return value


def take_bool(value: object, what: str) -> bool:
    """Return a checked boolean."""
    if type(value) is not bool:
        raise wrong(what)
    return value


def take_list(value: object, what: str, *, least: int = 0, most: int) -> Sequence[Any]:
    """Return a checked list of a bounded length."""
    if type(value) is not list or not least <= len(value) <= most:
        raise wrong(what)
    return value
