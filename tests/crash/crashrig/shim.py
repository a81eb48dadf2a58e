"""The shim that kills a daemon at a chosen step: compiling it, and arming it through a mapped file."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from enum import IntEnum
from pathlib import Path

__all__ = ["FILE_KINDS", "ROW_KINDS", "Control", "Kind", "compile_shim", "why_no_compiler"]

SOURCE = Path(__file__).with_name("shim.c")
FIRED, MATCHED, COUNTS = 4, 5, 6


class Kind(IntEnum):
    """A kind of call, as the shim tells them apart."""

    STAGE = 0
    """Content written into staging, or a copy made there."""
    SYNC = 1
    """Something in the share made durable."""
    EXCHANGE = 2
    """A thing renamed: into staging, into its place, into history."""
    RECORD = 3
    """The share's state written or made durable."""
    TREE = 4
    """Directories, links, modes, times, removals."""
    PAGES = 5
    """Pages written into an app's database, its journal or its WAL."""
    FLUSH = 6
    """These made durable."""
    CLEAR = 7
    """A journal or WAL taken away, or anything of the database cut."""
    SEND = 8
    """Something sent to a peer."""


FILE_KINDS = (Kind.STAGE, Kind.SYNC, Kind.EXCHANGE, Kind.RECORD, Kind.TREE)
"""What an apply of files has."""
ROW_KINDS = (Kind.PAGES, Kind.FLUSH, Kind.CLEAR, Kind.RECORD, Kind.SEND)
"""What an apply of rows, or a look at an app's rows, has."""
FIELDS = struct.Struct(f"={COUNTS + len(Kind)}I480s")


def why_no_compiler() -> str | None:
    """Return why the shim cannot be compiled here; None where it can."""
    if shutil.which("gcc") is None:
        return "apt-get install gcc libc6-dev"
    tried = subprocess.run(
        ["gcc", "-xc", "-fsyntax-only", "-"],
        input="#include <stdio.h>\n",
        text=True,
        capture_output=True,
        check=False,
    )
    return None if tried.returncode == 0 else "apt-get install libc6-dev"


def compile_shim(folder: Path) -> Path:
    """Compile the shim into a folder and return the library's path."""
    library = folder / "shim.so"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"],
        check=True,
    )
    return library


class Control:
    """What the shim in one daemon is to do, and what it saw."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(FIELDS.size))
        self.path = path
        with path.open("r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), FIELDS.size)

    def arm(self, *kinds: Kind, at: int = 0, after: bool = False) -> None:
        """Begin to count; strike at the `at`-th call of these kinds (0: never)."""
        self.disarm()
        mask = sum(1 << kind for kind in kinds)
        self.mapped[: FIELDS.size] = FIELDS.pack(0, mask, at, int(after), *[0] * (2 + len(Kind)), b"")
        self.mapped[0:4] = struct.pack("=I", 1)

    def disarm(self) -> None:
        """Count no more; what was counted stays."""
        self.mapped[0:4] = bytes(4)

    def fields(self) -> tuple[int, ...]:
        """Return the numbers in the control file."""
        return FIELDS.unpack(self.mapped[: FIELDS.size])[:-1]

    @property
    def fired(self) -> bool:
        """Whether it struck."""
        return bool(self.fields()[FIRED])

    @property
    def matched(self) -> int:
        """How many calls of the chosen kinds it saw."""
        return int(self.fields()[MATCHED])

    def count(self, kind: Kind) -> int:
        """Return how many calls of a kind it saw while armed."""
        return int(self.fields()[COUNTS + kind])

    @property
    def what(self) -> str:
        """The call at which it struck."""
        return str(FIELDS.unpack(self.mapped[: FIELDS.size])[-1].rstrip(b"\0").decode(errors="replace"))

    def close(self) -> None:
        """Unmap the file."""
        self.mapped.close()
