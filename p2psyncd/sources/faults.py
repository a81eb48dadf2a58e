"""Errors that nobody foresaw: told of once in full, and in short to people.

Errors are caught by name everywhere. What is left is a mistake of ours, met by a schema, a row or a peer that nobody thought of. It must
not take along what has nothing to do with it: other rows, other shares, the daemon. Where such an error is stopped
(at one row, one session of a share, one share), it comes here, so that it is neither silent nor told every time that it is tried again.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from p2psyncd.errors import P2psyncError, ShareFault

__all__ = ["ROW_FAULTS", "Faults"]

log = logging.getLogger(__name__)

# What the decision about one row may raise if that row is none that anybody thought of.
ROW_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Faults:
    """Tells of each fault once."""

    def __init__(self) -> None:
        self.told: set[tuple[str, str]] = set()

    def tell(self, what: str, error: Exception) -> ShareFault:
        """Log an error with its traceback, if that is news; return what people read.

        Args:
            what: What did not come about because of it, for the log.
            error: It; a group counts as its first error.
        """
        first = first_of(error)
        name = type(first).__name__
        where = place_of(first)
        if (name, where) not in self.told:
            self.told.add((name, where))
            log.error("fault what=%s error=%s at=%s", what, name, where, exc_info=error)
        return ShareFault(f"{name} at {where}: {first}".rstrip(": "))

    def reason(self, what: str, error: Exception) -> str:
        """Do the same, and return why one item failed."""
        return f"nobody foresaw this: {self.tell(what, error).detail}; report it with the daemon's log"


def first_of(error: Exception) -> Exception:
    """Return the first error in a group, however deep; of one that was translated what it was."""
    if isinstance(error, ExceptionGroup):
        return first_of(error.exceptions[0])
    cause = error.__cause__ if isinstance(error, P2psyncError) else None
    return cause if isinstance(cause, Exception) else error


def place_of(error: Exception) -> str:
    """Return where an error was raised, as "file:line"."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
