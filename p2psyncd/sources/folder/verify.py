"""Verification: everything is read again and held against what is recorded."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2psyncd.core.item import Kind
from p2psyncd.core.storage import Stored
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.catalogue import Catalogue, known_of
from p2psyncd.sources.folder.content import digest_of, read_content
from p2psyncd.sources.folder.fingerprint import (
    is_directory_state,
    is_live_state,
    is_skipped,
    is_trusted,
    matches,
)
from p2psyncd.sources.folder.ignore import Ignore

__all__ = ["Problem", "verify"]

KEYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one item on disk."""

    key: bytes
    reason: str


def verify(directories: Directories, catalogue: Catalogue, ignore: Ignore) -> Iterator[Problem]:
    """Yield what differs from the record, in no particular order.

    A change that a scan has not found yet shows too; scan first.
    """
    waiting = [b""]
    while waiting:
        listed = [entry for entry in catalogue.listing(waiting.pop()) if entry.state]
        keys = []
        for entry in listed:
            directory = is_directory_state(entry.state)
            if is_skipped(entry.state) or ignore.ignored(entry.key, directory=directory):
                continue
            keys.append(entry.key)
            if directory:
                waiting.append(entry.key)
        for at in range(0, len(keys), KEYS_AT_ONCE):
            yield from verify_keys(directories, catalogue, keys[at : at + KEYS_AT_ONCE])


def verify_keys(directories: Directories, catalogue: Catalogue, keys: Sequence[bytes]) -> Iterator[Problem]:
    """Yield what is wrong with these items."""
    for key, known in known_of(catalogue, keys).items():
        if known.applied is None:
            continue
        try:
            reason = verify_one(directories, known.applied)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
        if reason:
            yield Problem(key=key, reason=reason)


def verify_one(directories: Directories, stored: Stored) -> str:
    """Return what is wrong with one item; empty if nothing is."""
    item = stored.item
    status = directories.status(item.key)
    if status is None:
        return "missing"
    directory, name = directories.parent(item.key)
    match item.kind:
        case Kind.DIRECTORY:
            return "" if stat.S_ISDIR(status.st_mode) else "not a folder any more"
        case Kind.SYMLINK:
            if not stat.S_ISLNK(status.st_mode):
                return "not a symlink any more"
            same = digest_of(os.readlink(name, dir_fd=directory)) == item.digest
        case _:
            if not stat.S_ISREG(status.st_mode):
                return "not a file any more"
            if is_live_state(stored.state):
                return ""  # a database in use: its file alone is not its content
            content = read_content(directory, name)
            same = content is not None and content.digest == item.digest
    if same:
        return ""
    if is_trusted(stored.state) and matches(stored.state, status):
        return (
            "the content differs from the record, though its times do not: a hidden edit, or a failing disk"
        )
    return "the content differs from the record: edited a moment ago, or while p2psyncd did not look"
