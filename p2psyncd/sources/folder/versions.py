"""Earlier versions of a whole folder, from what lies in history."""

from __future__ import annotations

from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.history import History, Version, walk
from p2psyncd.sources.folder.layout import HISTORY

__all__ = ["versions_below"]

# A history name is NAME~TIME~TAG.
MARKS = 2


def versions_below(history: History, key: bytes) -> list[Version]:
    """Return the versions of a path and of everything below it, newest first; b"" is the whole share."""
    top = HISTORY + b"/" + key if key else HISTORY
    keys = {key} if key else set()
    with Directories(history.root) as directories:
        try:
            directories.directory(top)
        except OSError:
            found = []  # nothing was ever put away below it
        else:
            found = [path for path, _ in walk(directories, top)]
    keys.update(path[len(HISTORY) + 1 :].rsplit(b"~", MARKS)[0] for path in found)
    versions = [version for one in sorted(keys) for version in history.list(one)]
    return sorted(versions, key=lambda one: (one.replaced_us, one.key), reverse=True)
