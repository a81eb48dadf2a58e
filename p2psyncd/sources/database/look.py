"""What a scan is asked to look at, and what it sees there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from p2psyncd.sources.database.hints import Hint
from p2psyncd.sources.database.schema import Table
from p2psyncd.sources.database.show import Place
from p2psyncd.sources.database.values import Value
from p2psyncd.sources.source import ItemError, Observation, Unapplied

__all__ = ["Finding", "Look", "Sighting", "Told"]

Finding = Observation | ItemError | Unapplied


class Told(NamedTuple):
    """What a hint turned out to be about."""

    ms: int
    n: int
    key: bytes
    state: bytes
    times: int = 1
    """How often it was found so, one time after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What to look at, and how."""

    hints: Sequence[Hint] = ()
    compare: Collection[str] = ()
    """Tables of which every row is compared, hinted or not."""
    known: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The tables that were looked at before, and the columns that they had."""
    baseline: bool = False
    """Whether this is what was there before the share was."""
    catch_up: bool = False
    """Whether what differs is older, and gives way to what the store knows."""
    older: bool = False
    """Whether the store may be older than the file: what differs, and no hint tells of, is then perhaps what a peer wrote."""
    approved: bool = False
    """Whether a person has let the file count as it is: whoever wrote what differs had not seen what it replaces."""
    told: Mapping[tuple[str, Place], Told] = field(default_factory=dict)
    """What an earlier scan found in hinted rows."""
    served: Mapping[tuple[str, Place], Told] = field(default_factory=dict)
    """The same, of rows that are to be looked at although nobody wrote them since."""
    counters: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The columns to which an app's writes add, by table."""
    keyless: Collection[str] = ()
    """Tables that may have rows with NULL in their key."""


class Sighting(NamedTuple):
    """A row of the file, or the lack of one."""

    table: Table
    place: Place
    values: dict[str, Value] | None
    state: bytes
    """The state of what is in the file; empty if nothing is."""
    key: bytes
    listed: bytes
    """The state that the store lists for the key; empty if nothing is applied."""
    ms: int
    touched: bool = True
    """Whether a hint says that the app wrote it."""
    plain: bool = False
    """Whether it is a new row that refers to none with a birth, its values sorted by name."""
