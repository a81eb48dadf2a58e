"""Values that nobody changes, and that are made by the million."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

__all__ = ["frozen"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class a dataclass that type checkers take for frozen.

    What `dataclass(frozen=True)` does against changes while a program runs makes each new value two to three times as dear
    (0.5 and 1.1 µs for an item), and a row that is passed on is some ten values. mypy finds every change before.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
