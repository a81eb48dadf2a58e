"""What `.p2psyncignore` at a share's root leaves out; gitignore's syntax.

An ignored path is not scanned, not reported as deleted and not written: it is as if it were on
another disk. The folder `.p2psync` is no item at all and never comes here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pathspec import GitIgnoreSpec

from p2psyncd.sources.folder.beneath import Directories, open_beneath, open_root
from p2psyncd.sources.folder.fingerprint import is_special
from p2psyncd.sources.folder.layout import IGNORE_FILE

__all__ = ["Ignore", "Rules", "holds_only_ignored"]

RULES_BYTES_MAX = 1024 * 1024
# Answers kept: a pattern match costs some 10 µs, a busy log file asks for it with every line.
ANSWERS_MAX = 8192

Identity = tuple[int, int, int, int]


class Rules:
    """The rules of one state of the file; they never change, so that any thread may ask."""

    def __init__(self, text: str, seen: Identity | None) -> None:
        self.seen = seen
        self.lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.spec = GitIgnoreSpec.from_lines(self.lines) if self.lines else None
        self.answers: dict[tuple[bytes, bool], bool] = {}

    def ignored(self, key: bytes, *, directory: bool) -> bool:
        """Return whether a path, or a directory above it, is left out."""
        if self.spec is None:
            return False
        asked = (key, directory)
        answer = self.answers.get(asked)
        if answer is None:
            above = key.rpartition(b"/")[0]
            answer = (bool(above) and self.ignored(above, directory=True)) or self.spec.match_file(
                os.fsdecode(key) + "/" * directory
            )
            if len(self.answers) >= ANSWERS_MAX:
                self.answers.clear()
            self.answers[asked] = answer
        return answer


class Ignore:
    """The rules in force; scanning, applying and watching threads ask and refresh at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rules = Rules("", None)
        self.generation = 0
        """Grows whenever the rules change: what was scanned under older rules is to be scanned again."""

    def refresh(self) -> None:
        """Read the file again if it changed."""
        before = self.rules
        try:
            text, seen = self.read(before)
        except OSError:
            text, seen = "", None
        if seen == before.seen:
            return
        rules = Rules(text, seen)
        self.rules = rules
        if rules.lines != before.lines:
            self.generation += 1

    def read(self, before: Rules) -> tuple[str, Identity | None]:
        """Return the file's text and its identity; no text if it is still what `before` was made of.

        Raises:
            OSError: There is none, or it cannot be read.
        """
        root = open_root(self.root)
        try:
            opened = open_beneath(root, IGNORE_FILE, os.O_RDONLY | os.O_NONBLOCK)
        finally:
            os.close(root)
        try:
            status = os.fstat(opened)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            return "" if seen == before.seen else os.fsdecode(os.read(opened, RULES_BYTES_MAX)), seen
        finally:
            os.close(opened)

    def ignored(self, key: bytes, *, directory: bool = False) -> bool:
        """Return whether a path, or a directory above it, is left out.

        Args:
            key: The path.
            directory: Whether the path is a directory; the pattern `name/` is for these only.
        """
        return self.rules.ignored(key, directory=directory)


def holds_only_ignored(directories: Directories, ignore: Ignore, directory: bytes) -> bool:
    """Return whether a directory has entries, and all of them are ignored or cannot be synced."""
    try:
        with os.scandir(directories.directory(directory)) as found:
            entries = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in found]
    except OSError:
        return False
    for name, mode in entries:
        key = directory + b"/" + os.fsencode(name)
        is_directory = stat.S_ISDIR(mode)
        if is_special(mode) or ignore.ignored(key, directory=is_directory):
            continue
        if not (is_directory and holds_only_ignored(directories, ignore, key)):
            return False
    return bool(entries)
