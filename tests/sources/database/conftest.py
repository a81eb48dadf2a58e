"""An app of its own process: plain Python with the standard library's SQLite, as any app would use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Makes `two_files` importable for the tests here (tests have no packages).
sys.path.insert(0, str(Path(__file__).parent))

PROGRAM = Path(__file__).with_name("app_program.py")


class App:
    """An app that has a database open."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", PROGRAM, path, str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, **command: Any) -> None:
        """Have it do something, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        """Wait until it is done and return what came of it; an error is a string that begins with "error: "."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def try_to(self, sql: str, *values: Any) -> Any:
        """Run a statement; return its rows, or its error."""
        self.send(sql=sql, values=values)
        return self.receive()

    def run(self, sql: str, *values: Any) -> list[list[Any]]:
        """Run a statement and return its rows."""
        found = self.try_to(sql, *values)
        assert isinstance(found, list), found
        return found

    def close(self) -> None:
        """Close the database and end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.close()


Apps = Callable[..., App]


@pytest.fixture
def apps() -> Iterator[Apps]:
    """Starts apps; those that still run in the end are closed."""
    started: list[App] = []

    def start(path: Path, timeout_s: float = 5.0) -> App:
        started.append(App(path, timeout_s))
        return started[-1]

    yield start
    for app in started:
        if app.process.poll() is None:
            app.close()
