"""Whether a database file is still what it was, and what to say if it is not.

Each of our transactions raises the number in the file's watermark (`hints.Mark`), whatever else it does, and the
share's state keeps the last one. So a backup that is put in the file's place tells by its number that
it is older, with whatever inode it comes: its rows must be taken neither for edits nor for how things are.
The mark is looked at in the very transaction that reads or writes; inode and path are `file`'s to check.

A number that is ahead of the state's, under the nonce that the state knows, is this opening's: the state notes
a number after the file has it, and a killed process did not get to that. Under another nonce the *state* is older;
and so it is where the file was written to by a process that had a state which had come further: the hints that this
one dropped are about rows that the older state does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import assert_never

import apsw
import cbor2

from p2psyncd.errors import DatabaseUnavailable, NotApprovable, ShareHeld
from p2psyncd.sources.database.file import DatabaseAccess
from p2psyncd.sources.database.hints import Mark, following, read_mark, write_mark
from p2psyncd.sources.database.names import MARK_TABLE
from p2psyncd.sources.database.opening import missing
from p2psyncd.sources.database.show import Catalogue, Settings

__all__ = ["FileGuard", "Known", "Verdict", "judge", "why"]

NAME = "database-mark"


class Verdict(Enum):
    """What a file is, compared with what the state knows of it."""

    SAME = "same"
    """What it was, and what apps made of it since."""
    AHEAD = "ahead"
    """It is newer than the state: a backup of that was put back. Every row is to be compared."""
    RESTORED = "restored"
    """An older backup of it was put in its place."""
    REPLACED = "replaced"
    """Another database, or one that was made anew."""
    COPIED = "copied"
    """Another device's file."""
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the state knows of the file."""

    number: int
    nonce: bytes
    inode: int
    """0: not known."""

    @classmethod
    def load(cls, settings: Catalogue) -> Known | None:
        """Return what is kept; None where nothing is."""
        packed = settings.setting(NAME)
        if not packed:
            return None
        number, nonce, inode = cbor2.loads(packed)
        return cls(number=number, nonce=nonce, inode=inode)

    def packed(self) -> bytes:
        """Return this as it is kept."""
        return cbor2.dumps([self.number, self.nonce, self.inode])


def judge(
    mark: Mark | None, known: Known | None, *, share: bytes, device: bytes, arrival: int | None = None
) -> Verdict:
    """Return what a file with this watermark is; pure.

    Args:
        mark: The file's; None where it has none.
        known: What the state knows; None while it is to take the file as it is.
        share: Whose file it must be.
        device: This device.
        arrival: How far the state has come; None if that is not in question.
    """
    if known is None:
        return Verdict.SAME
    if mark is None or mark.share != share:
        return Verdict.REPLACED
    if mark.device != device:
        return Verdict.COPIED
    if mark.nonce == known.nonce:
        if mark.number < known.number:
            return Verdict.RESTORED
        return Verdict.AHEAD if arrival is not None and mark.arrival > arrival else Verdict.SAME
    return Verdict.RESTORED if mark.number <= known.number else Verdict.AHEAD


def why(verdict: Verdict, path: Path) -> str:
    """Return in words why a share is held, and what the person can do; empty if it need not be."""
    take = (
        "`p2psync share approve NAME` takes it as it is now: its rows go to all devices as new writes, what they replace there is "
        "listed as conflicts, and rows that it has not are deleted everywhere (they stay in history)"
    )
    catch_up = "`p2psync share approve NAME --catch-up` brings it up to date from what the share knows"
    match verdict:
        case Verdict.SAME | Verdict.AHEAD:
            return ""
        case Verdict.RESTORED:
            return f"{path} is an older state of itself: a backup was put in its place. {take}; {catch_up}"
        case Verdict.REPLACED:
            return f"{path} is another database than the one that was shared. {take}; {catch_up}"
        case Verdict.COPIED:
            return f"{path} is a copy of another device's file. {take}; {catch_up}"
        case Verdict.GONE:
            return missing(path)
        case _:
            assert_never(verdict)


class FileGuard:
    """Looks at each transaction of a file, and numbers those that write; set as the file's `keeper`."""

    def __init__(
        self,
        access: DatabaseAccess,
        known: Known | None,
        *,
        share: bytes,
        device: bytes,
        arrival: Callable[[], int],
    ) -> None:
        self.access = access
        self.arrival = arrival
        """Returns how far the state has come."""
        self.looked = False
        """Whether the file was looked at since the state was opened: it gets no older from then on."""
        self.first = -1
        """The number that it had then; -1: it had none."""
        self.known = known
        self.share = share
        self.device = device
        self.highest = known.number if known is not None else 0
        """The greatest number that was ever given, also to a file that was there before."""
        self.doubtful = False
        """Whether every row is to be compared: the file was found to be newer than the state, or moved."""
        self.saved = known
        self.began = -1
        """The number that the transaction found."""
        self.next: Known | None = None

    def check(self) -> None:
        """Look whether the file is there, and if it is a new one, what it is; cheap while it is the same.

        Raises:
            ShareHeld: It is not what was shared; the reason says what to do.
        """
        found = self.access.look()
        if found is None:
            raise NotApprovable(why(Verdict.GONE, self.access.path))
        before = self.access.identity
        if found == before:
            return
        self.access.identity = found
        try:
            with self.access.reading():  # which judges it
                pass
        except DatabaseUnavailable:
            self.access.identity = before  # whoever goes on to read it says so
        except BaseException:
            self.access.identity = before
            raise
        else:
            self.doubtful |= self.known is not None and self.known.inode not in {0, found.inode}
            if self.known is not None:
                self.known = Known(number=self.known.number, nonce=self.known.nonce, inode=found.inode)

    def expected(self) -> Known | None:
        """See `file.Keeper`."""
        return self.known

    def look(self, connection: apsw.Connection, expected: object) -> None:
        """Judge what a connection sees, in its transaction.

        Raises:
            ShareHeld: It is not what was shared; the reason says what to do.
        """
        mark = read_mark(connection)
        self.began = mark.number if mark is not None else -1
        known = expected if isinstance(expected, Known) else None
        arrival = None if self.looked else self.arrival()
        verdict = judge(mark, known, share=self.share, device=self.device, arrival=arrival)
        if reason := why(verdict, self.access.path):
            raise ShareHeld(reason)
        if not self.looked:
            self.looked, self.first = True, self.began
        self.doubtful |= verdict is Verdict.AHEAD

    def committing(self, connection: apsw.Connection) -> None:
        """Number a transaction that is about to be committed, unless it has numbered itself."""
        self.next = None
        mark = read_mark(connection)
        if mark is None:
            return  # there is nothing of ours in the file (any more)
        number = mark.number
        ours = (mark.share, mark.device) == (self.share, self.device)
        if not ours or number == self.began or number <= self.highest:
            number = following(max(number, self.highest))
            connection.execute(
                f"UPDATE main.{MARK_TABLE} SET share = ?, device = ?, number = ?",  # noqa: S608  (our own name)
                (self.share, self.device, number),
            )
        connection.execute(f"UPDATE main.{MARK_TABLE} SET arrival = ?", (self.arrival(),))  # noqa: S608  (our own name)
        found = self.access.identity
        # Where nobody has looked which file it is, it is still to be told from the one that was known.
        inode = found.inode if found is not None else self.known.inode if self.known is not None else 0
        self.next = Known(number=number, nonce=mark.nonce, inode=inode)

    def committed(self) -> None:
        """Note the number, now that the file has it."""
        self.known = self.next
        if self.known is not None:
            self.highest = self.known.number

    def save(self, settings: Settings) -> None:
        """Keep in the state what is known, if that is news."""
        if self.known != self.saved:
            settings.set_setting(NAME, self.known.packed() if self.known is not None else b"")
            self.saved = self.known

    def accept(self, note: Callable[[int], None] = lambda number: None) -> None:
        """Take the file as it is now (a person approved it), and make it this device's.

        Args:
            note: Is told the number that the file will have, right before; what it keeps counts once the file has that.

        Raises:
            ShareHeld: There is none.
            DatabaseUnavailable: It cannot be written.
        """
        found = self.access.look()
        if found is None:
            raise ShareHeld(why(Verdict.GONE, self.access.path))
        if self.known is None:
            self.access.identity = found
            note(-1)
            return  # nothing was ever written to it
        before = self.known, self.access.identity
        self.known, self.access.identity = None, found
        try:
            with self.access.writing(quiet=True) as connection:
                mark = read_mark(connection)
                number = following(max(mark.number if mark is not None else 0, self.highest))
                note(number)
                if mark is not None:
                    write_mark(connection, number, mark.nonce)
        except BaseException:
            self.known, self.access.identity = before
            raise
