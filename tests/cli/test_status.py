from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from p2psync.render import Paper
from p2psync.status import changes, status_lines

NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
PLAIN = Paper(colour=False, unicode=False, width=80)


@pytest.fixture
def status(scripted: ModuleType) -> Any:
    return deepcopy(scripted.STATUS)


@pytest.fixture
def share(status: Any) -> Any:
    return status["shares"][0]


def shown(status: Any) -> str:
    return "\n".join(status_lines(status, PLAIN, NOW))


def test_when_all_is_well_the_picture_is_short(status: Any) -> None:
    assert status_lines(status, PLAIN, NOW) == [
        "laptop  AAAAAAA-BBBBBBB",
        "p2psyncd 0.1.0, listening on 192.168.1.5:22600",
        "",
        "Devices",
        "  * desk  connected, 192.168.1.7:22600 (mdns)",
        "",
        "Shares",
        "  Photos  idle  /home/ada/Photos (folder)",
        "    1,234 items, 4.8 MiB",
        "    desk: in sync",
    ]


def test_files_with_several_names_are_named_once_each_and_escaped(status: Any, share: Any) -> None:
    share["hard_links"] = [[f"{n}/a", f"{n}/\x1b[2J", f"{n}/c", f"{n}/d", f"{n}/e"] for n in range(5)]
    [line] = [line for line in status_lines(status, PLAIN, NOW) if "hard links" in line]
    assert line.startswith(
        "    hard links, each name synced as a file of its own: 0/a = 0/\\x1b[2J = 0/c = 0/d; 1/a"
    )
    assert line.endswith("; 2 more")
    assert "0/e" not in line


def test_a_fresh_device_is_told_how_to_begin(status: Any) -> None:
    status |= {"peers": [], "shares": []}
    status["device"]["listen"] = []
    text = shown(status)
    assert "listening on nothing" in text
    assert "No device is paired.  -> p2psync pair" in text
    assert "Nothing is shared.  -> p2psync share add PATH" in text


def test_what_moves_has_a_bar_a_rate_and_a_time(status: Any, share: Any) -> None:
    share |= {"state": "syncing", "need_items": 10, "need_bytes": 1_250_000, "rate_bytes_s": 125_000.0}
    text = shown(status)
    assert "; needs 10 items, 1.2 MiB" in text
    assert "##################......  75 %  122 KiB/s  11 s left" in text


def test_many_small_files_are_measured_by_their_number(status: Any, share: Any) -> None:
    share |= {"state": "syncing", "need_items": 617, "need_bytes": 0, "rate_items_s": 61.7}
    assert "50 %  61 items/s  11 s left" in shown(status)


def test_the_slower_of_bytes_and_items_tells_the_time_left(status: Any, share: Any) -> None:
    share |= {"state": "syncing", "need_items": 600, "need_bytes": 1000}
    share |= {"rate_items_s": 10.0, "rate_bytes_s": 1000.0}
    assert "1 min 1 s left" in shown(status)


def test_without_a_rate_there_is_no_guess(status: Any, share: Any) -> None:
    share |= {"state": "syncing", "items": 0, "bytes": 0, "need_items": 5, "need_bytes": 5}
    assert "left" not in shown(status)
    assert "  0 %" in shown(status)


def test_peers_away_and_paused_and_behind_are_told_apart(status: Any, share: Any) -> None:
    status["peers"][0] |= {"connected": False, "last_seen": "2025-06-01T11:00:00Z"}
    assert "- desk  away, last seen 1 h ago" in shown(status)
    status["peers"][0] |= {"paused": True, "last_seen": None}
    assert "- desk  paused, last seen never" in shown(status)
    share["peers"] = [
        {"name": "desk", "in_sync": False, "need_items": 1, "need_bytes": 2048},
        {"name": "phone", "in_sync": False, "need_items": 0, "need_bytes": 0},
    ]
    assert "desk: needs 1 item, 2.0 KiB; phone: not in sync" in shown(status)


def test_attention_is_what_the_daemon_says_and_what_is_offered(status: Any, share: Any) -> None:
    share |= {"name": "My Photos", "mode": "receive-only"}
    status["attention"] = [
        {"message": "My Photos is held: why", "command": "p2psync share approve 'My Photos'"}
    ]
    status["offers"] = [{"name": "My Notes", "device": "desk"}]
    text = shown(status)
    assert "My Photos is held: why  -> p2psync share approve 'My Photos'" in text
    assert "desk offers My Notes.  -> p2psync share accept 'My Notes' PATH --from desk" in text
    assert "(folder, receive-only)" in text


def test_names_from_elsewhere_cannot_reach_the_terminal_raw(status: Any, share: Any) -> None:
    evil = "x\x1b]0;owned\x07\u202e\n"
    status["peers"][0] |= {"name": evil, "address": evil, "trouble": evil}
    status["device"]["name"] = evil
    share |= {"name": evil, "path": evil, "state": "held", "reason": evil}
    share["errors"] = [{"item": evil, "error": evil}]
    share["peers"][0]["name"] = evil
    for paper in (PLAIN, Paper(colour=True, unicode=True, width=80)):
        for line in [*status_lines(status, paper, NOW), *changes(None, status)]:
            bare = line.replace("\x1b[0m", "")
            assert "\x1b]" not in bare
            assert not {"\x07", "\u202e", "\n"} & set(bare)


def test_changes_are_told_a_line_each(status: Any, share: Any) -> None:
    before = deepcopy(status)
    assert changes(before, status) == []
    status["peers"][0]["connected"] = False
    share |= {"conflicts": 1, "errors": [{"item": "a", "error": "b"}], "reason": "no room"}
    assert changes(before, status) == [
        "device desk: away",
        "share Photos: idle, 1,234 items, 4.8 MiB; 1 conflict; 1 error; no room; desk: in sync",
    ]
    status |= {"shares": [], "peers": []}
    assert changes(before, status) == ["device desk: gone", "share Photos: gone"]
