from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from p2psync.render import Paper
from p2psync.session import Session
from p2psync.watch import live_picture, watch_status

PLAIN = Paper(colour=False, unicode=False, width=80)


@pytest.fixture
def looks(backend: Any) -> Callable[..., Callable[[float], bool]]:
    """What makes the pauses between looks: each brings the next status, the last one ends the watch."""

    def prepare(*statuses: Any) -> Callable[[float], bool]:
        coming = list(statuses)
        backend.answers["status"] = coming.pop(0)

        def pause(timeout: float) -> bool:
            assert timeout > 0
            if not coming:
                return True
            backend.answers["status"] = coming.pop(0)
            return False

        return pause

    return prepare


@pytest.fixture
def three(scripted: Any) -> list[Any]:
    away = deepcopy(scripted.STATUS)
    away["peers"][0]["connected"] = False
    return [scripted.STATUS, scripted.STATUS, away]


def test_without_a_terminal_each_change_is_a_line(
    looks: Any, three: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    watch_status(Session(None).client, PLAIN, as_json=False, pause=looks(*three))
    assert capsys.readouterr().out.splitlines() == [
        "device desk: connected",
        "share Photos: idle, 1,234 items, 4.8 MiB; desk: in sync",
        "device desk: away",
    ]


def test_with_json_each_change_is_an_object(
    looks: Any, three: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    watch_status(Session(None).client, PLAIN, as_json=True, pause=looks(*three))
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [three[0], three[2]]


def test_on_a_terminal_the_picture_is_redrawn(
    looks: Any, three: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    watch_status(Session(None).client, PLAIN, as_json=False, pause=looks(*three))
    assert screen.getvalue().count("laptop") >= 3
    assert "away" in screen.getvalue().rpartition("laptop")[2]


def test_a_picture_is_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "20")
    with live_picture() as draw:
        draw(["x" * 50])
    assert "x" * 21 not in screen.getvalue()


def test_the_command_watches(run: Any, backend: Any) -> None:
    status = backend.answers["status"]
    answered: list[int] = []

    async def stop() -> Any:
        answered.append(1)
        if len(answered) > 1:
            raise RuntimeError
        return status

    backend.answers["status"] = stop
    result = run("status", "--watch")
    assert result.code == 1
    assert result.out.startswith("device desk: connected\n")
