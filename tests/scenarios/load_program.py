"""An app that is busy, in a process of its own: makes many transactions at a pace, and says how many failed.

`python load_program.py DATABASE TIMEOUT_S`; one JSON object a line, one answer a line: `{"how": …, "count": …, "rate": …, "rows": …}`
makes `count` transactions, at most `rate` a second, each of `rows` rows, and answers with the errors. `how` is

- "immediate": takes its lock first;
- "deferred": reads, works a little with what it read, and writes, all in one transaction, as many a framework does; it never tries again.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["main"]


def paced(count: int, rate: float) -> Iterator[int]:
    """Yield numbers at a pace."""
    for number in range(count):
        yield number
        time.sleep(1 / rate)  # noqa: TID251  (the pace of an app; nothing waits for it)


def transact(connection: sqlite3.Connection, how: str, table: str, rows: int) -> None:
    """Make one transaction."""
    connection.execute("BEGIN IMMEDIATE" if how == "immediate" else "BEGIN")
    first = 0
    if how == "deferred":
        first = sum(len(text) for (text,) in connection.execute("SELECT text FROM setting"))
    connection.executemany(f"INSERT INTO {table} (text) VALUES (?)", [(f"{first} text",)] * rows)
    connection.execute("COMMIT")


def work(
    connection: sqlite3.Connection, *, how: str, table: str, count: int, rate: float, rows: int
) -> list[str]:
    """Make transactions; return the errors."""
    errors = []
    for _ in paced(count, rate):
        try:
            transact(connection, how, table, rows)
        except sqlite3.Error as error:
            errors.append(str(error))
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    return errors


def main(path: str, timeout_s: str) -> None:
    """Serve until the input ends."""
    connection = sqlite3.connect(path, timeout=float(timeout_s), isolation_level=None)
    # What most apps and frameworks set with WAL; without it each commit waits for the disk.
    connection.execute("PRAGMA synchronous = NORMAL")
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        sys.stdout.write(json.dumps(work(connection, **command)) + "\n")
        sys.stdout.flush()
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
