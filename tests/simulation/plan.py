"""What happens in one simulation, as plain data: machines and steps. A plan is printed, cut down and replayed as it is."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["Plan", "Step"]

Step = tuple[Any, ...]
"""A name and arguments, all plain literals; see `world.World.take`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """See the top of the file."""

    seed: int
    """Of the scheduler, and of how the network cuts messages up."""
    kind: str
    machines: tuple[tuple[str, int], ...]
    """Mode and clock skew in seconds, for each machine there is at first."""
    steps: tuple[Step, ...]

    def with_steps(self, steps: Sequence[Step]) -> Plan:
        return replace(self, steps=tuple(steps))

    def text(self) -> str:
        """Return the plan as a Python literal."""
        lines = [f'{{"seed": {self.seed}, "kind": {self.kind!r},', f' "machines": {self.machines!r},']
        steps = "\n".join(f"  {step!r}," for step in self.steps)
        return "\n".join([*lines, ' "steps": (', steps, " )}"]) + "\n"

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Return the plan that `text` wrote; lines that begin with # are passed over."""
        fields = ast.literal_eval("\n".join(line for line in text.splitlines() if not line.startswith("#")))
        return cls(**fields)

    @classmethod
    def read(cls, path: Path) -> Plan:
        return cls.parse(path.read_text("utf-8"))
