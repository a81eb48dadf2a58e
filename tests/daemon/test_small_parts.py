"""The daemon's small parts: signals, rates, the journal, names of times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from p2psyncd.core.item import HLC_MAX
from p2psyncd.daemon.executor import InlineExecutor, ThreadExecutor
from p2psyncd.daemon.journal import FOLLOWER_EVENTS_MAX, Journal
from p2psyncd.daemon.report import Rates, text_of_key, time_text
from p2psyncd.daemon.signal import Signal, first_of
from p2psyncd.store.device import DeviceStore


class Clock:
    def now_us(self) -> int:
        return 1_700_000_000_123_456

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def journal() -> Iterator[Journal]:
    devices = DeviceStore.open(":memory:")
    yield Journal(devices, Clock())
    devices.close()


async def test_a_signal_wakes_everyone_who_waits() -> None:
    signal = Signal()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await signal.event.wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
        signal.fire()
    assert sorted(woken) == [0, 1, 2]


async def test_the_first_of_several_events_is_enough(autojump_clock: MockClock) -> None:
    a, b = trio.Event(), trio.Event()
    b.set()
    with trio.fail_after(1):
        await first_of([a, b])


def test_rates_are_taken_over_the_last_seconds() -> None:
    rates = Rates()
    assert rates.note(0.0, 0, 0) == (0.0, 0.0)
    assert rates.note(2.0, 20, 2000) == (10.0, 1000.0)
    assert rates.note(10.0, 20, 2000) == (0.0, 0.0)


def test_times_are_rfc_3339_in_utc() -> None:
    assert time_text(1_700_000_000_123_456) == "2023-11-14T22:13:20.123Z"


def test_times_that_rfc_3339_cannot_write_are_the_last_that_it_can() -> None:
    assert time_text(253_402_300_799_999_999) == "9999-12-31T23:59:59.999Z"
    assert time_text(HLC_MAX) == "9999-12-31T23:59:59.999Z"


def test_a_name_that_is_not_utf8_is_text_nevertheless() -> None:
    assert text_of_key(b"caf\xe9") == "caf\udce9"


async def test_executors_return_what_the_call_returns() -> None:
    assert await InlineExecutor().run(lambda: 5) == 5
    assert await ThreadExecutor().run(lambda: 6) == 6


def test_the_journal_keeps_what_happened(journal: Journal) -> None:
    journal.tell("ready", message="one")
    journal.tell("paired", message="two", device="desk")
    newest = journal.newest(since=0, limit=10)
    assert [(e["type"], e["message"], e["device"]) for e in newest] == [
        ("ready", "one", None),
        ("paired", "two", "desk"),
    ]
    assert journal.newest(since=newest[0]["id"], limit=10) == newest[1:]
    assert newest[0]["time"] == "2023-11-14T22:13:20.123Z"


async def test_a_follower_gets_the_kept_events_and_then_the_new_ones(journal: Journal) -> None:
    journal.tell("ready", message="kept")
    async with journal.follow(0) as stream:
        journal.tell("ready", message="new")
        got = [(await anext(stream))["message"], (await anext(stream))["message"]]
    assert got == ["kept", "new"]
    journal.tell("ready", message="nobody follows")


async def test_a_follower_that_is_too_slow_loses_the_oldest_and_sees_it_by_the_ids(journal: Journal) -> None:
    async with journal.follow(0) as stream:
        for number in range(FOLLOWER_EVENTS_MAX + 5):
            journal.tell("ready", message=str(number))
        assert (await anext(stream))["id"] == 6
