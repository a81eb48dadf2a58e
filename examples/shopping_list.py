"""A shopping list for a household: an ordinary program with an ordinary SQLite file, and not a word about syncing in it.

    python examples/shopping_list.py ~/shopping.db add "oat milk" bread
    python examples/shopping_list.py ~/shopping.db list
    python examples/shopping_list.py ~/shopping.db done bread
    python examples/shopping_list.py ~/shopping.db watch

Shared with `p2psync share add ~/shopping.db` it is one list on all devices, also after a day without a network. What
makes it work well there is what is good for any app: keys, small transactions, and patience with locks.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

# A declared key on every table, so that rows can be told apart. Two devices may both give the number 7 to a new row:
# both rows are kept, and the later one gets another number, so nothing outside of the database may remember it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS shops (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    bought INTEGER NOT NULL DEFAULT 0 CHECK (bought IN (0, 1)),
    shop INTEGER REFERENCES shops (id) ON DELETE SET NULL,
    added TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
"""
# The daemon writes, too, for milliseconds at a time: wait for it instead of failing.
BUSY_TIMEOUT_S = 5.0
LOOK_AGAIN_S = 0.5


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the list; what is done in the block is one transaction, here and on all other devices."""
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        # WAL lets readers go on while somebody writes. IMMEDIATE takes the lock at the start: a transaction
        # that reads first and writes later may find that somebody else was faster, and fail.
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in filter(str.strip, SCHEMA.split(";")):
                connection.execute(statement)
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def add(path: Path, names: list[str], shop: str | None) -> None:
    """Put things on the list."""
    with opened(path) as connection:
        number = None
        if shop is not None:
            connection.execute("INSERT OR IGNORE INTO shops (name) VALUES (?)", (shop,))
            (number,) = connection.execute("SELECT id FROM shops WHERE name = ?", (shop,)).fetchone()
        connection.executemany(
            "INSERT INTO items (name, shop) VALUES (?, ?)", [(name, number) for name in names]
        )


def done(path: Path, names: list[str]) -> None:
    """Tick things off."""
    with opened(path) as connection:
        connection.executemany(
            "UPDATE items SET bought = 1 WHERE name = ? AND NOT bought", [(name,) for name in names]
        )


def tidy(path: Path) -> None:
    """Take off the list what was bought."""
    with opened(path) as connection:
        connection.execute("DELETE FROM items WHERE bought")


def lines(path: Path) -> list[str]:
    """Return the list as text."""
    with opened(path) as connection:
        rows = connection.execute(
            "SELECT items.name, bought, shops.name FROM items LEFT JOIN shops ON shops.id = shop"
            " ORDER BY bought, shops.name, items.name"
        ).fetchall()
    return [
        f"[{'x' if bought else ' '}] {name}" + (f" ({shop})" if shop else "") for name, bought, shop in rows
    ]


def watch(path: Path) -> None:
    """Show the list whenever it changes, whoever changed it."""
    shown: list[str] | None = None
    # `data_version` of an open connection changes with each commit of somebody else; it is cheap to ask.
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        version = None
        while True:
            (now,) = connection.execute("PRAGMA data_version").fetchone()
            if now != version:
                version, before, shown = now, shown, lines(path)
                if shown != before:
                    sys.stdout.write("\n".join(["", *shown, ""]))
                    sys.stdout.flush()
            time.sleep(LOOK_AGAIN_S)  # noqa: TID251  (a program of its own)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help=add.__doc__)
    adding.add_argument("name", nargs="+")
    adding.add_argument("--shop")
    ticking = commands.add_parser("done", help=done.__doc__)
    ticking.add_argument("name", nargs="+")
    commands.add_parser("tidy", help=tidy.__doc__)
    commands.add_parser("list", help=lines.__doc__)
    commands.add_parser("watch", help=watch.__doc__)
    given = parser.parse_args()
    match given.command:
        case "add":
            add(given.file, given.name, given.shop)
        case "done":
            done(given.file, given.name)
        case "tidy":
            tidy(given.file)
        case "list":
            sys.stdout.writelines(f"{line}\n" for line in lines(given.file))
        case _:
            watch(given.file)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
