"""Settling a conflict by hand: the user's choice as ordinary local changes; what is given up goes to history."""

from __future__ import annotations

import os

from p2psyncd.core.ids import ActorId
from p2psyncd.core.version import Dot
from p2psyncd.errors import NoSuchItem
from p2psyncd.sources.folder.beneath import Directories, exchange, rename_new
from p2psyncd.sources.folder.conflicts import parse_conflict
from p2psyncd.sources.folder.history import History
from p2psyncd.sources.folder.layout import check_key, split_key

__all__ = ["discard_copy", "kept_key", "promote_copy", "rename_copy"]

LOCAL_ACTOR = ActorId(b"\0" * 8)


def discard_copy(history: History, copy: bytes) -> None:
    """Move a conflict copy to history.

    Raises:
        NoSuchItem: It is gone already.
    """
    check_key(copy)
    directory, name = split_key(copy)
    with Directories(history.root) as directories:
        try:
            history.move_in(directories, directory, name, copy, Dot(LOCAL_ACTOR, history.clock.now_us()))
        except FileNotFoundError as error:
            raise NoSuchItem(os.fsdecode(copy)) from error


def promote_copy(history: History, copy: bytes, key: bytes) -> None:
    """Give a conflict copy the item's name; what had it goes to history."""
    check_key(copy)
    check_key(key)
    with Directories(history.root) as directories:
        from_directory, from_name = split_key(copy)
        to_directory, to_name = split_key(key)
        if directories.status(copy) is None:
            raise NoSuchItem(os.fsdecode(copy))
        if directories.status(key) is None:
            rename_new(
                directories.directory(from_directory), from_name, directories.directory(to_directory), to_name
            )
            return
        # First under its new name's history, then one exchange: at no moment does the name stand for nothing.
        slot = history.move_in(
            directories, from_directory, from_name, key, Dot(LOCAL_ACTOR, history.clock.now_us())
        )
        slot_directory, slot_name = directories.parent(slot)
        exchange(slot_directory, slot_name, directories.directory(to_directory), to_name)


def kept_key(copy: bytes) -> bytes:
    """Return the name under which a conflict copy stays when both versions are to stay."""
    parsed = parse_conflict(copy)
    if parsed is None:
        raise NoSuchItem(os.fsdecode(copy))
    return b" (kept ".join(copy.rsplit(b" (conflict ", 1))


def rename_copy(history: History, copy: bytes) -> bytes:
    """Give a conflict copy a name that is no conflict's; return it."""
    key = kept_key(copy)
    with Directories(history.root) as directories:
        directory, name = split_key(copy)
        try:
            rename_new(
                directories.directory(directory), name, directories.directory(directory), split_key(key)[1]
            )
        except FileNotFoundError as error:
            raise NoSuchItem(os.fsdecode(copy)) from error
    return key
