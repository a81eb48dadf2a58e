"""What one transaction of an apply does, and how the store notes it beforehand: see `apply`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from p2psyncd.core.version import Dot
from p2psyncd.sources.database.show import Place, as_value
from p2psyncd.sources.database.values import Value, from_wire, to_wire
from p2psyncd.sources.source import Applied, Outcome, Restated

__all__ = ["Change", "Step", "packed_step", "unpacked_step"]

Change = Place | bytes | None


@dataclass(slots=True)
class Step:
    """What one transaction does."""

    outcomes: list[Outcome] = field(default_factory=list)
    dots: dict[bytes, Dot] = field(default_factory=dict)
    """Which versions were put in place."""
    changes: dict[bytes, Change] = field(default_factory=dict)
    """What becomes of the exceptions in `Places`."""
    unsettled: set[bytes] = field(default_factory=set)
    wrote: bool = False


def packed_step(step: Step) -> list[Any]:
    """Return a step as it is stored."""
    outcomes = [
        [one.key, one.state, *(step.dots[one.key] if isinstance(one, Applied) else ())]
        for one in step.outcomes
        if isinstance(one, Applied | Restated)
    ]
    changes = {key: packed_change(change) for key, change in step.changes.items()}
    return [outcomes, changes, sorted(step.unsettled)]


def packed_change(change: Change) -> Any:  # noqa: ANN401  (CBOR's own types)
    """Return a change as it is stored."""
    return [to_wire(part) for part in change] if isinstance(change, tuple) else change


def unpacked_step(packed: list[Any]) -> Step:
    """Return a stored step."""
    outcomes: list[Outcome] = []
    dots: dict[bytes, Dot] = {}
    for key, state, *dot in packed[0]:
        outcomes.append(Applied(key=key, state=state) if dot else Restated(key=key, state=state))
        if dot:
            dots[key] = Dot(*dot)
    changes: Mapping[bytes, Any] = packed[1]
    return Step(
        outcomes=outcomes,
        dots=dots,
        changes={
            key: tuple(value_of(part) for part in change) if isinstance(change, list) else change
            for key, change in changes.items()
        },
        unsettled=set(packed[2]),
        wrote=True,
    )


def value_of(packed: object) -> Value:
    """Return a stored value."""
    return as_value(from_wire(packed))
