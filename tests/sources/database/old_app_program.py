"""An app whose SQLite is another library than Python's: does with its database what it reads from its standard input.

`python old_app_program.py LIBRARY DATABASE TIMEOUT_S`; one JSON object a line, `{"sql": …, "values": […]}`, and its rows in
one line, or a text that begins with "error: ". The library is called as a C program calls it.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["main"]

OK, ROW, DONE = 0, 100, 101
READWRITE = 2
INTEGER, FLOAT, TEXT, BLOB = 1, 2, 3, 4
# SQLite copies what is bound.
TRANSIENT = ctypes.c_void_p(-1)


class Failed(Exception):
    """SQLite says no."""


class Database:
    """A connection."""

    def __init__(self, library: str, path: str, timeout_s: float) -> None:
        self.sqlite = ctypes.CDLL(library)
        self.sqlite.sqlite3_column_double.restype = ctypes.c_double
        self.sqlite.sqlite3_column_int64.restype = ctypes.c_int64
        for name in ("sqlite3_errmsg", "sqlite3_column_text", "sqlite3_column_blob"):
            getattr(self.sqlite, name).restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p()
        self.check(
            self.sqlite.sqlite3_open_v2(path.encode(), ctypes.byref(self.handle), READWRITE, None), {OK}
        )
        self.sqlite.sqlite3_busy_timeout(self.handle, int(timeout_s * 1000))

    def check(self, code: int, expected: set[int]) -> int:
        """Return a result, if it is an expected one."""
        if code not in expected:
            raise Failed(ctypes.string_at(self.sqlite.sqlite3_errmsg(self.handle)).decode())
        return code

    def run(self, sql: str, values: Sequence[Any]) -> list[list[Any]]:
        """Run one statement and return its rows."""
        statement = ctypes.c_void_p()
        text = sql.encode()
        self.check(
            self.sqlite.sqlite3_prepare_v2(self.handle, text, len(text), ctypes.byref(statement), None), {OK}
        )
        try:
            for at, value in enumerate(values, 1):
                self.check(self.bind(statement, at, value), {OK})
            return list(self.rows(statement))
        finally:
            self.sqlite.sqlite3_finalize(statement)

    def bind(self, statement: ctypes.c_void_p, at: int, value: Any) -> int:
        """Bind a value; return SQLite's result."""
        bound: int
        match value:
            case int():
                bound = self.sqlite.sqlite3_bind_int64(statement, at, ctypes.c_int64(value))
            case float():
                bound = self.sqlite.sqlite3_bind_double(statement, at, ctypes.c_double(value))
            case str():
                data = value.encode()
                bound = self.sqlite.sqlite3_bind_text(statement, at, data, len(data), TRANSIENT)
            case _:
                bound = self.sqlite.sqlite3_bind_null(statement, at)
        return bound

    def rows(self, statement: ctypes.c_void_p) -> Iterator[list[Any]]:
        """Yield a statement's rows."""
        while self.check(self.sqlite.sqlite3_step(statement), {ROW, DONE}) == ROW:
            yield [self.value(statement, at) for at in range(self.sqlite.sqlite3_column_count(statement))]

    def value(self, statement: ctypes.c_void_p, at: int) -> Any:
        """Return a value; a blob as the text of its bytes in hexadecimal digits."""
        kind = self.sqlite.sqlite3_column_type(statement, at)
        if kind == INTEGER:
            return self.sqlite.sqlite3_column_int64(statement, at)
        if kind == FLOAT:
            return self.sqlite.sqlite3_column_double(statement, at)
        if kind == TEXT:
            return self.bytes(statement, at, self.sqlite.sqlite3_column_text).decode()
        return self.bytes(statement, at, self.sqlite.sqlite3_column_blob).hex() if kind == BLOB else None

    def bytes(self, statement: ctypes.c_void_p, at: int, column: Any) -> bytes:
        """Return the bytes of a text or blob."""
        start = column(statement, at)
        return ctypes.string_at(start, self.sqlite.sqlite3_column_bytes(statement, at)) if start else b""

    def close(self) -> None:
        """Close the database; everything is finalized."""
        self.check(self.sqlite.sqlite3_close(self.handle), {OK})


def main(library: str, path: str, timeout_s: str) -> None:
    """Serve until the input ends."""
    database = Database(library, path, float(timeout_s))
    for line in sys.stdin:
        command = json.loads(line)
        answer: Any
        try:
            answer = database.run(command["sql"], command["values"])
        except Failed as failed:
            answer = f"error: {failed}"
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
