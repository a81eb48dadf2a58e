"""An app in a process of its own: does with its database what it reads from its standard input.

`python app_program.py DATABASE TIMEOUT_S`; one JSON object a line, one answer a line. `{"sql": …, "values": […]}` answers
with the rows; `{"load": N}` makes N transactions, says "loading" once it is at it, and answers with its errors.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from typing import Any

__all__ = ["main"]


def tell(what: Any) -> None:
    """Write an answer."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def load(connection: sqlite3.Connection, count: int) -> list[str]:
    """Make transactions as an app does that takes its lock first; return the errors."""
    errors = []
    for number in range(count):
        if number == 1:
            tell("loading")
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO t(text) VALUES (?)", (f"app {number}",))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            errors.append(str(error))
    return errors


def answer(connection: sqlite3.Connection, command: dict[str, Any]) -> Any:
    """Carry out a command."""
    if "load" in command:
        return load(connection, command["load"])
    try:
        return connection.execute(command["sql"], command["values"]).fetchall()
    except sqlite3.Error as error:
        return f"error: {error}"


def main(path: str, timeout_s: str) -> None:
    """Serve until the input ends."""
    connection = sqlite3.connect(path, timeout=float(timeout_s), isolation_level=None)
    for line in sys.stdin:
        tell(answer(connection, json.loads(line)))
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
