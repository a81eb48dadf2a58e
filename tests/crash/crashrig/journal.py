"""What the users wrote, where and when: the oracle's memory.

Every content is unlike all others and known by its digest, so that whatever lies in a folder can be
told: whole and whose, or torn. Contents follow from their serial number, and so from the seed.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

__all__ = ["Content", "Journal", "Removal", "contents_below", "digest_at", "digest_of"]

PRIVATE = ".p2psync"


def digest_of(data: bytes) -> bytes:
    """Return the digest of a content."""
    return blake2b(data, digest_size=16).digest()


def digest_at(path: Path) -> bytes:
    """Return the digest of a file's content or of a link's target."""
    if path.is_symlink():
        return digest_of(b"->" + os.fsencode(path.readlink()))
    return digest_of(path.read_bytes())


def contents_below(root: Path) -> dict[str, bytes]:
    """Return the digest of every file and link below a folder, by relative path; what vanishes meanwhile is left out."""
    found: dict[str, bytes] = {}
    for folder, folders, files in os.walk(root):
        if Path(folder) == root and PRIVATE in folders:
            folders.remove(PRIVATE)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*files, *links]:
            path = Path(folder) / name
            try:
                found[str(path.relative_to(root))] = digest_at(path)
            except FileNotFoundError:
                continue
    return found


@dataclass(slots=True)
class Content:
    """Something a user wrote."""

    serial: int
    side: str
    path: str
    durable: bool
    in_place: bool
    """Written into an existing file: if that was replaced at the same moment, the bytes are in history."""


@dataclass(slots=True)
class Removal:
    """A user replaced or deleted a content, seeing it."""

    side: str
    durable: bool


@dataclass
class Journal:
    """Both users' work."""

    seed: int
    contents: dict[bytes, Content] = field(default_factory=dict)
    removals: dict[bytes, list[Removal]] = field(default_factory=dict)
    touched: set[bytes] = field(default_factory=set)
    """Contents that were renamed or given another mode since both sides were last equal: such a write
    and a concurrent removal do not undo each other."""
    copies: Counter[bytes] = field(default_factory=Counter)
    """How often each content was there when both sides were last equal."""
    last_write: dict[str, bytes] = field(default_factory=dict)
    """What a path was given last, unless something else was done to it since."""
    unsynced: dict[str, set[bytes]] = field(default_factory=dict)
    """By name: what was written last, if that was since both sides were last equal and was not made durable."""
    lines: list[str] = field(default_factory=list)
    serial: int = 0

    def make(self, size: int) -> bytes:
        """Return a new content."""
        self.serial += 1
        head = b"crash rig %d %d %d\n" % (self.seed, self.serial, size)
        return head + random.Random(self.serial * 1_000_003 + self.seed).randbytes(size)

    def wrote(
        self, side: str, op: str, path: str, data: bytes, *, durable: bool, in_place: bool = False
    ) -> None:
        """Note that a user gave a path a content."""
        digest = digest_of(data)
        self.contents[digest] = Content(self.serial, side, path, durable, in_place)
        self.last_write[path] = digest
        self.unsynced.pop(Path(path).name, None)
        if not durable:
            self.unsynced[Path(path).name] = {digest}
        self.say(side, op, path, digest, durable=durable)

    def removed(self, side: str, op: str, path: str, digests: Iterable[bytes], *, durable: bool) -> None:
        """Note that a user replaced or deleted contents."""
        for digest in digests:
            self.removals.setdefault(digest, []).append(Removal(side, durable))
            self.say(side, op, path, digest, durable=durable)

    def moved(self, side: str, op: str, old: str, new: str, digests: Iterable[bytes]) -> None:
        """Note that a user renamed something, or gave it another mode."""
        digests = list(digests)
        self.touched.update(digests)
        self.forget_path(old)
        for digest in digests:
            self.unsynced.setdefault(Path(new).name, set()).add(digest)
            self.say(side, op, f"{old} -> {new}", digest, durable=False)

    def forget_path(self, path: str) -> None:
        """Expect nothing more of a path and what lies below."""
        for known in [one for one in self.last_write if one == path or one.startswith(path + "/")]:
            del self.last_write[known]

    def say(self, side: str, op: str, path: str, digest: bytes, *, durable: bool) -> None:
        """Keep a line for people."""
        mark = " (synced)" if durable else ""
        self.lines.append(f"{side} {op} {path!r} {digest.hex()[:8]}{mark}")

    def about(self, digest: bytes) -> list[str]:
        """Return the lines that speak of a content."""
        mark = digest.hex()[:8]
        return [line for line in self.lines if mark in line]

    def agree(self, tree: dict[str, bytes]) -> None:
        """Begin anew from a state that both sides have."""
        self.copies = Counter(tree.values())
        self.touched.clear()
        self.unsynced.clear()
        self.last_write.clear()
        here = set(tree.values())
        for digest in here:
            self.removals.pop(digest, None)
            if digest not in self.contents:
                self.contents[digest] = Content(0, "?", "?", durable=True, in_place=False)
        for digest in self.contents.keys() - here:
            self.removals.setdefault(digest, []).append(Removal("?", durable=True))
        for content in self.contents.values():
            content.durable = True
