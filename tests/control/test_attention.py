"""What a share needs a person for."""

from __future__ import annotations

from typing import Any

import pytest

from p2psyncd.control.attention import share_attention


@pytest.fixture
def share() -> Any:
    return {"name": "My Photos", "state": "idle", "reason": None, "conflicts": 0, "errors": []}


def told(share: Any) -> list[tuple[str, str | None]]:
    return [(one["message"], one["command"]) for one in share_attention(share)]


def test_a_share_that_is_well_needs_nobody(share: Any) -> None:
    assert told(share) == []


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("900 of 1,000 items are gone", "p2psync share approve 'My Photos'"),
        ("it lies on another file system than before", "p2psync share approve 'My Photos'"),
        (
            "it is an older state; `p2psync share approve 'My Photos'` takes it as it is",
            "p2psync share approve 'My Photos'",
        ),
        ("it has no marker", "p2psync doctor"),
    ],
)
def test_a_held_share_says_why_and_what_can_be_done(share: Any, reason: str, command: str) -> None:
    share |= {"state": "held", "reason": reason}
    assert told(share) == [(f"My Photos is held: {reason}", command)]


def test_conflicts_and_the_first_errors_are_listed(share: Any) -> None:
    share["conflicts"] = 2
    share["errors"] = [{"item": f"{n}.txt", "error": "no permission"} for n in range(5)]
    share["errors"][2]["item"] = ""
    assert told(share) == [
        ("My Photos has 2 conflicts.", "p2psync conflict list"),
        ("My Photos: 0.txt: no permission", None),
        ("My Photos: 1.txt: no permission", None),
        ("My Photos: no permission", None),
        ("My Photos: 2 more errors.", "p2psync status --json"),
    ]
    share |= {"conflicts": 1, "errors": share["errors"][:4]}
    assert told(share)[0] == ("My Photos has 1 conflict.", "p2psync conflict list")
    assert told(share)[-1] == ("My Photos: 1 more error.", "p2psync status --json")


def test_other_states_say_their_reason(share: Any) -> None:
    share |= {"state": "error", "reason": "the folder is gone"}
    assert told(share) == [("My Photos: the folder is gone", "p2psync doctor")]
    share |= {"state": "syncing", "reason": "waiting for room on the disk"}
    assert told(share) == [("My Photos: waiting for room on the disk", None)]
    share |= {"state": "paused", "reason": "paused"}
    assert told(share) == [("My Photos: paused", "p2psync share resume 'My Photos'")]


def test_folders_that_cannot_be_watched_are_told_with_the_command_that_helps(share: Any) -> None:
    share["limited"] = {"message": "some folders are not watched", "command": "sudo sysctl x=1"}
    assert told(share) == [("My Photos: some folders are not watched.", "sudo sysctl x=1")]
