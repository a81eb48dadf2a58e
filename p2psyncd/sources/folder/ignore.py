"""What `.p2psyncignore` at a share's root leaves out; gitignore's syntax.

An ignored path is not scanned, not reported as deleted and not written: it is as if it were on
another disk. The folder `.p2psync` is no item at all and never comes here.
"""

from __future__ import annotations

import os
from pathlib import Path

from pathspec import GitIgnoreSpec

from p2psyncd.sources.folder.beneath import open_beneath, open_root
from p2psyncd.sources.folder.layout import IGNORE_FILE

__all__ = ["Ignore"]

RULES_BYTES_MAX = 1024 * 1024
# Answers kept: a pattern match costs some 10 µs, a busy log file asks for it with every line.
ANSWERS_MAX = 8192


class Ignore:
    """The rules in force; one thread may refresh while others ask."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: tuple[int, int, int, int] | None = None
        self.spec: GitIgnoreSpec | None = None
        self.answers: dict[tuple[bytes, bool], bool] = {}
        self.generation = 0
        """Grows whenever the rules change: what was scanned under older rules is to be scanned again."""

    def refresh(self) -> None:
        """Read the file again if it changed."""
        seen, rules = self.read()
        if seen == self.seen:
            return
        self.seen = seen
        lines = [line for line in rules.splitlines() if line.strip() and not line.startswith("#")]
        before = self.spec
        self.spec = GitIgnoreSpec.from_lines(lines) if lines else None
        self.answers = {}
        if self.spec != before:
            self.generation += 1

    def read(self) -> tuple[tuple[int, int, int, int] | None, str]:
        """Return the file's identity and its text; (None, "") where there is none that can be read."""
        try:
            root = open_root(self.root)
        except OSError:
            return None, ""
        try:
            opened = open_beneath(root, IGNORE_FILE, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None, ""
        finally:
            os.close(root)
        try:
            status = os.fstat(opened)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            return seen, "" if seen == self.seen else os.fsdecode(os.read(opened, RULES_BYTES_MAX))
        except OSError:
            return None, ""
        finally:
            os.close(opened)

    def ignored(self, key: bytes, *, directory: bool = False) -> bool:
        """Return whether a path, or a directory above it, is left out.

        Args:
            key: The path.
            directory: Whether the path is a directory; the pattern `name/` is for these only.
        """
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
                self.answers = {}
            self.answers[asked] = answer
        return answer
