from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def complete(home: Path) -> Any:
    """What returns the completions that bash would show after these words."""

    def ask(*words: str, environ: dict[str, str] | None = None) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "p2psync.main"],
            env=os.environ
            | {
                "P2PSYNC_HOME": str(home),
                "_P2PSYNC_COMPLETE": "complete_bash",
                "COMP_WORDS": " ".join(["p2psync", *words]),
                "COMP_CWORD": str(len(words)),
            }
            | (environ or {}),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_names_come_from_the_running_daemon(backend: Any, complete: Any, scripted: Any) -> None:
    backend.answers["share_list"] = [
        scripted.PHOTOS | {"name": name} for name in ("Photos", "Papers", "Music", "P\x1bx")
    ]
    assert complete("share", "pause", "P") == ["Photos", "Papers"]
    assert complete("wait", "Ph") == ["Photos"]
    assert complete("device", "pause", "") == ["desk"]
    assert complete("share", "accept", "M") == ["Music"]
    assert complete("conflict", "show", "") == ["c1"]


def test_a_home_on_the_command_line_is_asked(backend: Any, complete: Any, home: Path) -> None:
    del backend
    assert complete("--home", str(home), "device", "pause", "", environ={"P2PSYNC_HOME": "/nowhere"}) == [
        "desk"
    ]
    assert complete("device", "pause", "--home", str(home), "", environ={"P2PSYNC_HOME": "/nowhere"}) == [
        "desk"
    ]


def test_without_a_daemon_there_is_silence(complete: Any) -> None:
    assert complete("share", "pause", "") == []


def test_commands_are_completed(complete: Any) -> None:
    assert complete("sta") == ["status"]
    assert complete("share", "re") == ["resume", "rescan", "remove"]
