from __future__ import annotations

import itertools

import pytest

from p2psyncd.sources.folder.quiet import REMEMBERED_MAX, QuietWindow


@pytest.fixture
def window() -> QuietWindow:
    """An empty window."""
    return QuietWindow()


def releases(window: QuietWindow, changes: list[float], until_s: float, step_s: float = 0.001) -> list[float]:
    """When a path that changes at these times is read."""
    found, waiting = [], sorted(changes)
    for tick in range(int(until_s / step_s)):
        now_s = tick * step_s
        while waiting and waiting[0] <= now_s + 1e-9:
            window.changed(b"f", waiting.pop(0))
        if window.take_due(now_s + 1e-9):
            found.append(round(now_s, 3))
    return found


def test_a_closed_file_is_due_at_once(window: QuietWindow) -> None:
    window.complete(b"f", 1.0)
    assert window.take_due(1.0) == {b"f"}
    assert window.take_due(9.0) == set()


def test_closing_again_at_once_waits_for_the_window(window: QuietWindow) -> None:
    window.complete(b"f", 1.0)
    window.take_due(1.0)
    window.complete(b"f", 1.005)
    assert window.take_due(1.010) == set()
    assert window.wake_s == pytest.approx(1.020)
    assert window.take_due(1.0201) == {b"f"}


def test_another_change_waits_until_it_is_quiet(window: QuietWindow) -> None:
    assert releases(window, [0.0], 0.1) == [0.02]
    assert releases(QuietWindow(), [0.0, 0.015], 0.1) == [0.035]


def test_a_close_ends_the_waiting(window: QuietWindow) -> None:
    window.changed(b"f", 1.0)
    window.complete(b"f", 1.001)
    assert window.take_due(1.001) == {b"f"}


def test_a_path_that_never_rests_is_read_now_and_then(window: QuietWindow) -> None:
    found = releases(window, [number / 100 for number in range(2000)], 20.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert found[0] <= 0.041
    assert all(later >= earlier * 0.9 for earlier, later in itertools.pairwise(gaps))
    assert max(gaps) <= 2.1
    assert gaps[-1] >= 1.0
    assert len(found) < 20


def test_a_path_written_often_without_a_close_is_read_less_and_less_often(window: QuietWindow) -> None:
    found = releases(window, [number / 5 for number in range(100)], 20.0)
    assert found[0] == 0.02
    assert found[-1] - found[-2] >= 0.99


def test_a_path_left_alone_is_new_again(window: QuietWindow) -> None:
    found = releases(window, [0.0, 0.1, 0.3, 10.0], 11.0)
    assert found[-1] == pytest.approx(10.02)


def test_without_changes_nothing_wakes(window: QuietWindow) -> None:
    assert window.wake_s == float("inf")
    window.complete(b"f", 1.0)
    window.take_due(1.0)
    assert window.wake_s == float("inf")


def test_what_was_read_is_not_remembered_forever(window: QuietWindow) -> None:
    for number in range(REMEMBERED_MAX + 10):
        window.complete(b"%d" % number, number / 1000)
        window.take_due(number / 1000)
    assert len(window.released) <= REMEMBERED_MAX
