"""Names of conflict copies: `name (conflict 2026-11-23 04-47-12 3f9a2c1b07d1).ext`.

The name is derived from the losing write alone, so that every device that makes the copy makes the
same one.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from p2psyncd.core.item import Item
from p2psyncd.core.version import Dot, unpack_vector
from p2psyncd.sources.folder.attributes import decode_or_plain
from p2psyncd.sources.folder.layout import KEY_BYTES_MAX, NAME_BYTES_MAX

__all__ = [
    "ConflictName",
    "aside_key",
    "copies_begin",
    "is_conflict",
    "is_conflict_copy",
    "is_copy_of",
    "lost_write",
    "parse_conflict",
    "tag_of",
]

CONFLICT = re.compile(
    rb"(?P<stem>.+) \(conflict (?P<time>\d{4}-\d\d-\d\d \d\d-\d\d-\d\d) (?P<tag>[0-9a-f]{12})\)(?P<extension>\.[^./ ]{1,32})?",
    re.DOTALL,
)
MARK = " (conflict {time} {tag})"
BEFORE_MARK = b" (conflict "
TIME_FORMAT = "%Y-%m-%d %H-%M-%S"
# What follows the last dot counts as an extension up to this length, and only without spaces.
EXTENSION_BYTES_MAX = 33
ACTOR_TAG_BYTES = 4
SEQ_TAG_MASK = 0xFFFF
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_9999_S = 253_402_300_799
MARK_BYTES = len(MARK.format(time="2026-11-23 04-47-12", tag="3f9a2c1b07d1"))


class ConflictName(NamedTuple):
    """What the key of a conflict copy says."""

    key: bytes
    """The path that the copy was made of; shortened where the name was too long."""
    time: str
    """When the losing version was written, UTC, `2026-11-23 04-47-12`."""
    tag: str
    """Names the losing write: 8 hex digits of its actor, 4 of its number."""


def tag_of(dot: Dot) -> str:
    """Return 12 hex digits that tell a write from others of the same path and second."""
    return f"{dot.actor[:ACTOR_TAG_BYTES].hex()}{dot.seq & SEQ_TAG_MASK:04x}"


def split_extension(name: bytes) -> tuple[bytes, bytes]:
    """Return (stem, extension with its dot); a leading dot begins no extension."""
    stem, dot, extension = name.rpartition(b".")
    if (
        not dot
        or not stem.strip(b".")
        or not extension
        or b" " in extension
        or len(extension) >= EXTENSION_BYTES_MAX
    ):
        return name, b""
    return stem, dot + extension


def shorten(text: bytes, most: int) -> bytes:
    """Return at most `most` bytes of a name, not cutting through a UTF-8 sequence."""
    if len(text) <= most:
        return text
    cut = most
    while cut > 1 and cut > most - 4 and text[cut] & 0xC0 == 0x80:  # noqa: PLR2004  (a sequence is at most 4 bytes)
        cut -= 1
    return text[:cut]


def aside_key(item: Item) -> bytes:
    """Return the key under which a losing version is kept.

    It names the write that made the content, which is an earlier one where `item` only combines
    others' writes: so two devices that combine the same writes name the copy alike.
    """
    dot = decode_or_plain(item.meta).content
    time_us = item.hlc if dot is None else dot.seq
    dot = dot or item.dot
    seconds = min(time_us // 1_000_000, YEAR_9999_S)
    time = (EPOCH + timedelta(seconds=seconds)).strftime(TIME_FORMAT)
    start, extension = around_mark(item.key)
    return start + MARK.format(time=time, tag=tag_of(dot)).encode() + extension


def around_mark(key: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after the mark in the keys of a path's conflict copies."""
    directory, slash, name = key.rpartition(b"/")
    stem, extension = split_extension(name)
    stem = shorten(stem, NAME_BYTES_MAX - MARK_BYTES - len(extension))
    # Where a path can be no longer the copy lies further up.
    while len(directory) + len(slash) + NAME_BYTES_MAX > KEY_BYTES_MAX:
        directory, slash, _ = directory.rpartition(b"/")
    return directory + slash + stem, extension


def copies_begin(key: bytes) -> bytes:
    """Return how the keys of all conflict copies of a path begin; those of others may begin so, too."""
    return around_mark(key)[0] + BEFORE_MARK


def is_copy_of(copy: bytes, key: bytes) -> bool:
    """Return whether a key names a conflict copy of a path."""
    start, extension = around_mark(key)
    found = parse_conflict(copy)
    return (
        found is not None and copy == start + MARK.format(time=found.time, tag=found.tag).encode() + extension
    )


def parse_conflict(key: bytes) -> ConflictName | None:
    """Return what a conflict copy's key says; None if the key is no conflict copy's."""
    directory, slash, name = key.rpartition(b"/")
    found = CONFLICT.fullmatch(name)
    if found is None:
        return None
    original = found["stem"] + (found["extension"] or b"")
    return ConflictName(directory + slash + original, found["time"].decode(), found["tag"].decode())


def lost_write(copy: Item) -> Dot | None:
    """Return the write whose content a conflict copy was made of, and that its name names.

    A copy that nobody has written to, and a tombstone that says what it deletes, tell it themselves. Of any other it is among
    the writes that it replaced, if no later one of that actor's is.

    Args:
        copy: A conflict copy, or its tombstone.

    Returns:
        None: It cannot be told.
    """
    name = parse_conflict(copy.key)
    if name is None:
        return None
    content = decode_or_plain(copy.meta).content
    known = [Dot(actor, seq) for actor, seq in unpack_vector(copy.vector).items()]
    candidates = [content, *known] if content is not None else known
    return next((dot for dot in candidates if tag_of(dot) == name.tag), None)


def is_conflict_copy(item: Item) -> bool:
    """Return whether an item is a live conflict copy; pure."""
    return item.live and is_conflict(item.key)


def is_conflict(key: bytes) -> bool:
    """Return whether a key names a conflict copy."""
    # The plain search first: this runs for every item that is stored.
    return BEFORE_MARK in key and parse_conflict(key) is not None
