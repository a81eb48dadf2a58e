"""Hard links: which names of the share are one file.

Each name is an item of its own, and peers get a file for each. What has to be known of the others is that
the kernel tells of a change only under the name by which it was made, though the content changed under
all of them. Scans keep this map; a full one finds every pair, a look at single keys adds to it.
"""

from __future__ import annotations

import os
import stat

__all__ = ["HardLinks"]


class HardLinks:
    """Names by file, and files by name; written by the replica's thread, read by any."""

    def __init__(self) -> None:
        self.inodes: dict[bytes, int] = {}
        self.names: dict[int, set[bytes]] = {}
        self.searched: dict[int, int] = {}
        """How many names a file had when the share was searched for them: the others are outside."""

    def note(self, key: bytes, status: os.stat_result) -> bool:
        """Note what has a key; return whether it is a file with several names."""
        if not stat.S_ISREG(status.st_mode) or status.st_nlink == 1:
            self.forget(key)
            return False
        self.add(key, status.st_ino)
        return True

    def add(self, key: bytes, inode: int) -> None:
        """Note that a key is a name of a file."""
        if self.inodes.get(key) != inode:
            self.forget(key)
            self.inodes[key] = inode
            self.names.setdefault(inode, set()).add(key)

    def forget(self, key: bytes) -> int | None:
        """Note that a key is no name of a file with several any more; return of which it was."""
        inode = self.inodes.pop(key, None)
        if inode is not None:
            self.names[inode].discard(key)
            if not self.names[inode]:
                del self.names[inode]
                self.searched.pop(inode, None)
        return inode

    def to_search(self, inode: int, count: int) -> bool:
        """Return whether the share may hold names of a file with `count` of them that are not known here."""
        if len(self.names.get(inode, ())) >= count or self.searched.get(inode) == count:
            return False
        self.searched[inode] = count
        return True

    def groups(self) -> list[list[bytes]]:
        """Return the names of each file that has several in the share."""
        names = [sorted(one.copy()) for one in self.names.copy().values()]
        return sorted(one for one in names if len(one) > 1)
