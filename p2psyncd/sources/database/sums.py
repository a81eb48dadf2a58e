"""Columns to which devices add, where a person has said so: a stock, a score, a number of visits.

Such a column holds what the last write that *set* it left (`start`), and what was added since, by actor. An app knows nothing
of it: it writes 7 where it read 5, and that counts as 2 more. Additions of devices that did not know of each other
add up; a value that was set without knowing of the other one wins or loses as in any column.

Each actor's additions are kept as one number with the number of its last write, and its own next one beside it; of one actor's
the later stand for all. So a column's sum is as long as there are actors that added to it. The functions here are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from p2psyncd.core.ids import ACTOR_ID_BYTES
from p2psyncd.core.version import SEQ_MAX
from p2psyncd.sources.database.values import INTEGER_MAX, INTEGER_MIN, Cell

__all__ = ["ADDITIONS_MAX", "OWN", "Addition", "Sum", "added", "named", "taken", "united", "wire_sums"]

ADDITIONS_MAX = 64
"""How many additions a column keeps apart; past that a write sets it."""
OWN = b""
"""The actor of an addition by the very item that carries it, which gets its name later. In place of a number it has a
*salt* that tells writers apart: two that add the same to the same value have not written the same."""
SALT_MAX = 2**32 - 1


class Addition(NamedTuple):
    """What an actor has added up to one of its writes, or with it."""

    actor: bytes
    seq: int
    amount: int


@dataclass(frozen=True, slots=True)
class Sum:
    """What a column's value is made of."""

    start: int
    additions: tuple[Addition, ...]
    """Sorted; several of one actor add up."""

    @property
    def total(self) -> int:
        """What the column shows: no number that SQLite cannot hold."""
        total = self.start + sum(one.amount for one in self.additions)
        return min(max(total, INTEGER_MIN), INTEGER_MAX)


def added(before: Cell, after: Cell, known: Sum | None, *, salt: int) -> Sum | None:
    """Return the sum after a write of the item itself; None if it sets the column instead.

    Args:
        before: What the column held.
        after: What the write left in it.
        known: What `before` is made of; None: of one write.
        salt: Tells this writer from others, 32 bits.
    """
    if type(before) is not int or type(after) is not int:
        return None
    known = known or Sum(before, ())
    folded = [Addition(actor, seq, amount) for actor, (seq, amount) in by_actor(known.additions).items()]
    found = Sum(known.start, tuple(sorted([*folded, Addition(OWN, salt, after - before)])))
    fits = INTEGER_MIN <= after - before <= INTEGER_MAX and len(found.additions) <= ADDITIONS_MAX
    return found if fits and found.total == after else None


def by_actor(additions: Iterable[Addition]) -> dict[bytes, tuple[int, int]]:
    """Return up to which write, and how much, each actor has added."""
    found: dict[bytes, tuple[int, int]] = {}
    for actor, seq, amount in additions:
        last, before = found.get(actor, (seq, 0))
        found[actor] = (max(last, seq), before + amount)
    return found


def united(a: Sum, b: Sum) -> Sum | None:
    """Return what two versions of one sum make; None if they do not begin alike, or are too long together."""
    if a.start != b.start:
        return None
    ours, theirs = by_actor(a.additions), by_actor(b.additions)
    kept: list[Addition] = []
    for actor in {*ours, *theirs}:
        # Later additions of an actor stand for its earlier ones.
        later = b if ours.get(actor, (-1, 0)) < theirs.get(actor, (-1, 0)) else a
        kept += [one for one in later.additions if one.actor == actor]
    return Sum(a.start, tuple(sorted(kept))) if len(kept) <= ADDITIONS_MAX else None


# Packing


def wire_sums(sums: Mapping[str, Sum], columns: Iterable[str]) -> list[list[Any]]:
    """Return sums as CBOR has them: [place of the column, start, [[actor or null, seq, amount]]]."""
    return [
        [place, sums[name].start, [[one.actor or None, one.seq, one.amount] for one in sums[name].additions]]
        for place, name in enumerate(columns)
        if name in sums
    ]


def taken(packed: Sequence[Any], cells: Mapping[str, Cell]) -> dict[str, Sum]:
    """Return checked sums.

    Raises:
        ValueError: They are not as `wire_sums` makes them, or do not fit to what the columns hold.
    """
    names = list(cells)
    found: dict[str, Sum] = {}
    last = -1
    for one in packed:
        match one:
            case [int(place), int(start), list(additions)] if (
                last < place < len(names) and 0 < len(additions) <= ADDITIONS_MAX and is_number(start)
            ):
                made = Sum(start, tuple(map(take_addition, additions)))
                cell = cells[names[place]]
                if (
                    list(made.additions) != sorted(set(made.additions))
                    or type(cell) is not int
                    or made.total != cell
                ):
                    raise ValueError("a sum is wrong")
                found[names[place]] = made
                last = place
            case _:
                raise ValueError("a sum is broken")
    return found


def take_addition(packed: object) -> Addition:
    """Return a checked addition."""
    match packed:
        case [None, int(salt), int(amount)] if (
            type(salt) is int and 0 <= salt <= SALT_MAX and is_number(amount)
        ):
            return Addition(OWN, salt, amount)
        case [bytes(actor), int(seq), int(amount)] if (
            len(actor) == ACTOR_ID_BYTES and type(seq) is int and 0 <= seq <= SEQ_MAX and is_number(amount)
        ):
            return Addition(actor, seq, amount)
        case _:
            raise ValueError("an addition is broken")


def is_number(value: object) -> bool:
    """Return whether a decoded value is an integer of SQLite's."""
    return type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX


def named(sums: Mapping[str, Sum], actor: bytes, seq: int) -> dict[str, Sum]:
    """Return sums in which the item's own additions have its name."""
    return {
        name: Sum(
            one.start,
            tuple(
                sorted(
                    Addition(actor, seq, each.amount) if each.actor == OWN else each for each in one.additions
                )
            ),
        )
        for name, one in sums.items()
    }
