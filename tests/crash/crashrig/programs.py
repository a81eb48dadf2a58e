"""Apps in processes of their own: started, told what to do, and asked what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["Program"]


class Program:
    """A program that answers each line with one; both are JSON."""

    def __init__(self, name: str, *arguments: object) -> None:
        """Start it; it ends with this process at the latest.

        Args:
            name: Of the module beside this one.
            arguments: On its command line.
        """
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *map(str, arguments)]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.asked = 0
        """How often it is still to answer."""

    def send(self, **command: Any) -> None:
        """Have it do something, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        self.asked += 1

    def answers(self) -> list[Any]:
        """Wait until it has done all that it was told, and return what came of it."""
        assert self.process.stdout is not None
        found = []
        while self.asked:
            found.append(json.loads(self.process.stdout.readline()))
            self.asked -= 1
        return found

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
