"""Reading what a client sent: every argument by name and type, and nothing left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from p2psyncd.errors import BadRequest

__all__ = ["Arguments"]

Choice = TypeVar("Choice", bound=str)
# A signed 64-bit number is what SQLite and every JSON reader can hold.
WHOLE_MAX = 2**63 - 1
WHOLE_DIGITS_MAX = 18
# Thirty years; more is a mistake, and floats beyond that upset timers.
SECONDS_MAX = 1e9
TRUE = ("1", "true", "yes")
FALSE = ("0", "false", "no", "")


class Arguments:
    """The arguments of one request, from a JSON body or from a query string.

    Query strings know only text, so text is also read as a flag or a number where one is expected.
    Every method raises `BadRequest`, naming the argument, if it is missing or not of the type.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = dict(values)

    def take(self, name: str) -> object:
        """Return and remove a value; None if it was not given (or given as null)."""
        return self.values.pop(name, None)

    def text(self, name: str) -> str:
        """Return text that must be there and not be empty."""
        value = self.text_or_none(name)
        if not value:
            raise BadRequest(f"`{name}` is missing")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return text, or None."""
        value = self.take(name)
        if value is None or isinstance(value, str):
            return value
        raise BadRequest(f"`{name}` must be text")

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, empty if not given."""
        value = self.take(name)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        raise BadRequest(f"`{name}` must be a list of texts")

    def path(self, name: str) -> str:
        """Return an absolute path: the client resolves it, as only the client knows where its user stands."""
        value = self.text(name)
        if not value.startswith("/") or "\0" in value:
            raise BadRequest(f"`{name}` must be an absolute path")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a flag."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if value in TRUE or value in FALSE:
            return value in TRUE
        raise BadRequest(f"`{name}` must be true or false")

    def whole(self, name: str, *, default: int, at_least: int = 0) -> int:
        """Return a whole number."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= WHOLE_DIGITS_MAX:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= WHOLE_MAX:
            raise BadRequest(f"`{name}` must be a whole number of at least {at_least}")
        return value

    def seconds(self, name: str) -> float | None:
        """Return a time span in seconds, or None for no limit."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= SECONDS_MAX:
            return float(value)
        raise BadRequest(f"`{name}` must be a number of seconds")

    def one_of(self, name: str, choices: tuple[Choice, ...], default: Choice) -> Choice:
        """Return one of the choices."""
        return self.one_of_or_none(name, choices) or default

    def one_of_or_none(self, name: str, choices: tuple[Choice, ...]) -> Choice | None:
        """Return one of the choices, or None."""
        value = self.take(name)
        if value is None:
            return None
        for choice in choices:
            if value == choice:
                return choice
        raise BadRequest(f"`{name}` must be one of {', '.join(choices)}")

    def done(self) -> None:
        """Say that everything known was read: what is left is a mistake."""
        if self.values:
            raise BadRequest(f"unknown argument `{next(iter(self.values))}`")
