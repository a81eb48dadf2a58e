"""Unix socket addresses of any length.

The kernel takes 107 bytes of path. A longer one is reached through a descriptor of its folder, so that a
home can lie as deep as its user likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ADDRESS_BYTES_MAX", "short_address"]

# sizeof(sockaddr_un.sun_path) on Linux, without the closing zero byte.
ADDRESS_BYTES_MAX = 107


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Give a path for bind or connect that means `path` and is short enough, valid inside the block.

    Raises:
        OSError: The folder of `path` cannot be opened.
    """
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
