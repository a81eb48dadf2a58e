"""Some devices that share one database: what apps do to it, and whether all of them end with the same.

An app here is in the daemons' process and uses their SQLite library: a process does not lock itself out, and two
libraries in one know nothing of each other. `Program` is an app of its own process, with a library of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw
import trio
from daemons import WAIT_S, Daemon, offered
from group import Group

__all__ = [
    "PROGRAM",
    "Program",
    "Tables",
    "cells",
    "dump",
    "execute",
    "opened",
    "program",
    "query",
    "schema_of",
]

PROGRAM = Path(__file__).parent.parent / "sources" / "database" / "app_program.py"
OURS = "name GLOB '_p2p_*' OR tbl_name GLOB '_p2p_*'"
Dump = dict[str, list[str]]


@dataclass
class Tables(Group):
    """Devices in a row: each shares the database with the next."""

    name: str = "app"
    errors: list[str] = field(default_factory=list)
    """What the devices tell of items in the end; nothing else may be told."""
    own: frozenset[str] = frozenset()
    """Tables that each device has for itself."""

    def file(self, number: int) -> Path:
        """Return one device's database."""
        return self.daemons[number].folder / "app.db"

    @property
    def files(self) -> list[Path]:
        """Return the databases of all."""
        return [self.file(number) for number in range(len(self.daemons))]

    async def begin_with(
        self, ddl: str, *statements: str, journal: str = "DELETE", **options: Any
    ) -> list[Path]:
        """Make the tables everywhere, rows on the first device only; share, and return everybody's file."""
        for number in range(len(self.daemons)):
            query(self.file(number), f"PRAGMA journal_mode = {journal}")
            self.do(number, ddl)
        self.do(0, *statements)
        return await self.share(**options)

    async def share(self, *, join: str | None = None, **options: Any) -> list[Path]:
        """Share the databases that there are, and return them; `join` says what becomes of rows of the others."""
        for number, (owner, taker) in enumerate(pairwise(self.daemons)):
            if number == 0:
                given: dict[str, Any] = {"kind": None, "mode": "send-receive", "with_devices": []}
                await owner.backend.share_add(str(self.file(0)), name=self.name, **given, **options)
            await offered(owner, taker, self.name)
            await taker.backend.share_accept(
                self.name,
                str(self.file(number + 1)),
                mode="send-receive",
                from_device=owner.name,
                join=join,
                **options,
            )
            await taker.wait(self.name)
        await self.settle()
        return self.files

    # Apps

    def do(self, number: int, *statements: str, **options: Any) -> None:
        """Be an app of one device for one transaction; see `execute`."""
        execute(self.file(number), *statements, **options)

    def ask(self, number: int, question: str) -> list[tuple[Any, ...]]:
        """Return what an app of one device reads."""
        return query(self.file(number), question)

    async def done(self, number: int, *statements: str, **options: Any) -> None:
        """Do something and have it noted: what is done next on any device is later."""
        self.do(number, *statements, **options)
        await self.noted(number)

    # What must hold

    async def same(self, *, conflicts: int = 0) -> Dump:  # type: ignore[override]  # rows instead of files
        """Settle, check that everything is equal and well on all devices, and return what they hold.

        That is: the rows with their types and bits; roots; the lists of conflicts; what the records say
        against the rows; nothing that waits, no errors but those that are expected.
        """
        await self.settle()
        first, *others = [
            {name: rows for name, rows in dump(file).items() if name not in self.own} for file in self.files
        ]
        for other in others:
            assert other == first
        listed = [await self.conflict_places(number) for number in range(len(self.daemons))]
        for number, daemon in enumerate(self.daemons):
            row = await self.row(number)
            assert (row["state"], row["reason"]) == ("idle", None), daemon.name
            assert [error["item"] for error in row["errors"]] == self.errors, daemon.name
            assert (row["need_items"], row["need_bytes"]) == (0, 0), daemon.name
            assert (await daemon.backend.verify(self.name))["problems"] == [], daemon.name
            assert row["conflicts"] == conflicts, (daemon.name, listed[number])
            assert listed[number] == listed[0], daemon.name
            assert query(self.file(number), "PRAGMA integrity_check") == [("ok",)], daemon.name
        return first

    def versions(self) -> list[int]:
        """Return the number of each device's last version; the first one's says nothing."""
        return [made_by(daemon) for daemon in self.daemons]


def made_by(daemon: Daemon) -> int:
    """Return how many versions a device has made of the database."""
    standing = daemon.running("app").replica.standing
    return standing.knowledge.get(standing.actor, -1)


def execute(path: Path, *statements: str, foreign_keys: bool = True, recursive: bool = False) -> None:
    """Do one transaction on a database."""
    with closing(opened(path)) as connection:
        connection.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
        connection.execute(f"PRAGMA recursive_triggers = {int(recursive)}")
        # Not apsw's own way: it waits for a lock without letting other threads run, and one of them may hold that.
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        connection.execute("COMMIT")


def query(path: Path, question: str) -> list[tuple[Any, ...]]:
    """Return the rows that a question gives."""
    with closing(opened(path)) as connection:
        return connection.execute(question).fetchall()


def opened(path: Path, vfs: str | None = None) -> apsw.Connection:
    """Open a database as an app does, each statement a transaction of its own, and waiting for whoever holds it."""
    connection = apsw.Connection(str(path), vfs=vfs)
    connection.set_busy_timeout(int(WAIT_S * 1000))
    return connection


def dump(path: Path) -> Dump:
    """Return the rows of an app's tables, each value with its type and all its bits; what we left out is not there."""
    with closing(opened(path)) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
                " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT GLOB '_p2p_*' ORDER BY name"
            )
        ]
        return {name: rows_of(connection, name) for name in names}


def rows_of(connection: apsw.Connection, table: str) -> list[str]:
    """Return a table's rows, sorted."""
    columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_xinfo(?)", (table,))]
    # A text may be invalid UTF-8.
    parts = ", ".join(
        f'typeof("{name}"), CASE typeof("{name}") WHEN \'text\' THEN CAST("{name}" AS BLOB) ELSE "{name}" END'
        for name in columns
    )
    rows = connection.execute(f'SELECT {parts} FROM "{table}"').fetchall()
    return sorted(
        repr(
            tuple(
                value.decode("utf-8", "surrogateescape")
                if isinstance(value, bytes) and kind == "text"
                else value
                for kind, value in zip(row[::2], row[1::2], strict=True)
            )
        )
        for row in rows
    )


def schema_of(path: Path) -> list[tuple[Any, ...]]:
    """Return all that a file's schema holds."""
    return query(path, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid")


class Program:
    """An app in a process of its own: plain Python, and the SQLite that came with it; or another program like that."""

    def __init__(
        self, path: Path, timeout_s: float = WAIT_S, *, script: Sequence[str | Path] = (PROGRAM,)
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", *script, path, str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, **command: Any) -> None:
        """Have it do something, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait until it is done and return what came of it; an error is a text that begins with "error: "; blocks."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    async def run(self, sql: str, *values: Any) -> Any:
        """Run a statement; return its rows, or its error."""
        self.send(sql=sql, values=values)
        return await trio.to_thread.run_sync(self.answer)

    def close(self) -> None:
        """Close its database and end it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def program(
    path: Path, timeout_s: float = WAIT_S, *, script: Sequence[str | Path] = (PROGRAM,)
) -> Iterator[Program]:
    """Start an app, and end it."""
    with closing(Program(path, timeout_s, script=script)) as started:
        yield started


def cells(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Return rows as `dump` gives them."""
    return sorted(map(repr, rows))
