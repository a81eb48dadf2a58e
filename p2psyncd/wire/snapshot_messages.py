"""The messages by which a device that has nothing yet gets a copy of a database, instead of each row by itself.

They are no part of a session: a copy is asked for before the first one. Its bytes travel over a content connection,
like those of any content. They look as `wire.messages` says; docs/protocol.md lists them in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from p2psyncd.core.ids import ShareId
from p2psyncd.core.item import DIGEST_BYTES
from p2psyncd.wire.codec import take_bytes, take_int, take_text
from p2psyncd.wire.session_messages import take_share

__all__ = ["SnapshotMessage", "SnapshotReady", "SnapshotRefused", "SnapshotWanted"]

TEXT_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotWanted:
    """Asks for a copy of a database. Only who offers copies (`Offer.copies`) understands it."""

    TYPE: ClassVar[int] = 17
    share: ShareId

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> SnapshotWanted:
        """Return the checked message."""
        return cls(share=take_share(fields[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReady:
    """The copy is there: it can be fetched by its digest for some minutes."""

    TYPE: ClassVar[int] = 18
    share: ShareId
    digest: bytes
    size: int

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, self.digest, self.size]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> SnapshotReady:
        """Return the checked message."""
        return cls(
            share=take_share(fields[0]),
            digest=take_bytes(fields[1], "digest", least=DIGEST_BYTES, most=DIGEST_BYTES),
            size=take_int(fields[2], "size"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRefused:
    """There is no copy to be had here; the rows come with the session."""

    TYPE: ClassVar[int] = 19
    share: ShareId
    reason: str

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.share, self.reason]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> SnapshotRefused:
        """Return the checked message."""
        return cls(share=take_share(fields[0]), reason=take_text(fields[1], "reason", most=TEXT_MAX))


SnapshotMessage = SnapshotWanted | SnapshotReady | SnapshotRefused
