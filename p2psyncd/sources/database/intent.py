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
    """Return a step as it is stored: what is put in place as columns, which takes half the time of rows."""
    applied = [one for one in step.outcomes if isinstance(one, Applied)]
    dots = [step.dots[one.key] for one in applied]
    actors = {actor: place for place, actor in enumerate(dict.fromkeys(actor for actor, _ in dots))}
    return [
        [one.key for one in applied],
        [one.state for one in applied],
        list(actors),
        [actors[actor] for actor, _ in dots],
        [seq for _, seq in dots],
        [[one.key, one.state] for one in step.outcomes if isinstance(one, Restated)],
        {key: packed_change(change) for key, change in step.changes.items()},
        sorted(step.unsettled),
    ]


def packed_change(change: Change) -> Any:  # noqa: ANN401  (CBOR's own types)
    """Return a change as it is stored."""
    return [to_wire(part) for part in change] if isinstance(change, tuple) else change


def unpacked_step(packed: list[Any]) -> Step:
    """Return a stored step."""
    keys, states, actors, places, seqs, restated, packed_changes, unsettled = packed
    outcomes: list[Outcome] = [Applied(key=key, state=state) for key, state in zip(keys, states, strict=True)]
    outcomes += [Restated(key=key, state=state) for key, state in restated]
    changes: Mapping[bytes, Any] = packed_changes
    return Step(
        outcomes=outcomes,
        dots={key: Dot(actors[place], seq) for key, place, seq in zip(keys, places, seqs, strict=True)},
        changes={
            key: tuple(value_of(part) for part in change) if isinstance(change, list) else change
            for key, change in changes.items()
        },
        unsettled=set(unsettled),
        wrote=True,
    )


def value_of(packed: object) -> Value:
    """Return a stored value."""
    return as_value(from_wire(packed))
