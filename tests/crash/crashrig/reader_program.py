"""An app that only reads, again and again: what comes in one transaction must never be seen in part.

`python reader_program.py DATABASE`; looks until its input ends, and for each line that comes in answers with one: how often it looked
since the last one, and what it saw that must not be seen.
"""

from __future__ import annotations

import json
import select
import sqlite3
import sys
from contextlib import closing

__all__ = ["main", "misplaced", "partial"]

EVERY_S = 0.02
LOOKS = 2
"""So often with one connection: whoever closes a database last clears its WAL away, and that is to be the daemon mostly."""
PARTIAL = """
SELECT 'parts ' || token || ': ' || count(*) || ' rows, ' || count(DISTINCT round) || ' values'
  FROM parts GROUP BY token HAVING count(*) <> 5 OR count(DISTINCT round) <> 1
"""
MISPLACED = """
SELECT 'line ' || l.token || ' of ' || l.belongs || ' is shown with ' || coalesce(o.token, 'no order')
  FROM lines l LEFT JOIN orders o ON o.id = l."order" WHERE o.token IS NOT l.belongs
"""


def partial(connection: sqlite3.Connection) -> list[str]:
    """Return what is there only in part, of rows that one app alone writes."""
    return [text for (text,) in connection.execute(PARTIAL)]


def misplaced(connection: sqlite3.Connection) -> list[str]:
    """Return children that are with another parent than their own, or with none."""
    return [text for (text,) in connection.execute(MISPLACED)]


def main(path: str) -> None:
    """Look, and answer."""
    looks, seen = 0, set[str]()
    while True:
        with closing(sqlite3.connect(path, timeout=60.0, isolation_level=None)) as connection:
            for _ in range(LOOKS):
                seen.update(partial(connection))
                looks += 1
        if select.select([sys.stdin], [], [], EVERY_S)[0]:
            if not sys.stdin.readline():
                return
            sys.stdout.write(json.dumps({"looks": looks, "seen": sorted(seen)}) + "\n")
            sys.stdout.flush()
            looks, seen = 0, set()


if __name__ == "__main__":
    main(sys.argv[1])
