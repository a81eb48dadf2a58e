"""What is new in a row whose table got other columns: what an app wrote, and what only its migration did.

A migration is no edit. What it put into a new column is as old as the row, and what it moved into a column of another
name as old as it was under the old one. So a device that migrates later than others takes what they have
written into the new columns since, whatever its own migration filled them with.

Nobody tells which is which. A hint says that the app wrote a row; but a table that was rebuilt has no triggers until we
put them in again, and what an app wrote in between passes for its migration's. The functions here are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from p2psyncd.sources.database.rowstate import RowState, Stamp
from p2psyncd.sources.database.values import COLUMN_HASH_BYTES, Cell, canonical_bytes, same_cell

__all__ = ["Changes", "changes_of", "hashes_of"]


@dataclass(slots=True)
class Changes:
    """What is new in a row."""

    written: dict[str, Cell] = field(default_factory=dict)
    """What the app wrote."""
    brought: dict[str, tuple[Cell, Stamp]] = field(default_factory=dict)
    """What its migration put into new columns, and the write as which that counts."""
    unseen: list[str] = field(default_factory=list)
    """Columns that the app wrote, and for which it never saw the value that a peer wrote."""
    wanting: bool = False
    """Whether new columns wait for values that peers wrote."""

    def __bool__(self) -> bool:
        return bool(self.written or self.brought)


def hashes_of(listed: bytes, columns: Collection[str]) -> dict[str, bytes]:
    """Return by column what a row's state says, if it was made of these columns; otherwise nothing."""
    if len(listed) != COLUMN_HASH_BYTES * len(columns):
        return {}
    parts = (listed[at : at + COLUMN_HASH_BYTES] for at in range(0, len(listed), COLUMN_HASH_BYTES))
    return dict(zip(sorted(columns), parts, strict=True))


def changes_of(
    state: RowState,
    now: Mapping[str, Cell],
    *,
    before: Collection[str],
    unchanged: Collection[str],
    filled: Collection[str],
    touched: bool,
) -> Changes:
    """Return what is new in a row.

    Args:
        state: What is recorded of it, which may hold values of columns that were not here.
        now: What is in the file.
        before: The columns that the table had when it was looked at before.
        unchanged: Those of them that hold what they held.
        filled: The columns that hold what their definition fills them with, so that nobody wrote it.
        touched: Whether a hint says that the app wrote the row.
    """
    changes = Changes()
    gone = [name for name in before if name not in now and name in state.cells]
    for name, cell in now.items():
        known = name in state.cells
        if name in unchanged or (known and same_cell(state.cells[name], cell)):
            continue
        if name in before:
            changes.written[name] = cell
            continue
        renamed = last_stamp(state, (old for old in gone if same_cell(state.cells[old], cell)))
        if name in filled or (known and renamed is None and not touched):
            changes.wanting |= known
        elif renamed is None and touched:
            changes.written[name] = cell
            if known and not any(same_cell(state.cells[old], state.cells[name]) for old in gone):
                changes.unseen.append(name)
        elif known and renamed is not None and rank(state, name) >= (renamed, canonical_bytes(cell)):
            changes.wanting = True
        else:
            stamp = renamed or state.base
            assert stamp is not None
            changes.brought[name] = (cell, stamp)
    return changes


def last_stamp(state: RowState, columns: Iterable[str]) -> Stamp | None:
    """Return the last of the writes that set some columns; None if there are none."""
    return max((stamp for name in columns if (stamp := state.stamp(name)) is not None), default=None)


def rank(state: RowState, column: str) -> tuple[Stamp | None, bytes]:
    """Return what decides between a column's value and another one."""
    return state.stamp(column), canonical_bytes(state.cells[column])
