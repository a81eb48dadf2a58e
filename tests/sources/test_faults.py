"""What nobody foresaw is told of once in full, and in short to people."""

from __future__ import annotations

import pytest

from p2psyncd.sources.faults import Faults


def fail(text: str) -> None:
    raise KeyError(text)


def caught(text: str) -> KeyError:
    try:
        fail(text)
    except KeyError as error:
        return error
    raise AssertionError


def test_the_same_error_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    said = [str(faults.tell("a row", caught(text))) for text in ("one", "two")]
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert "KeyError at test_faults.py:11: 'one'" in said[0]
    assert "'two'" in said[1]


def test_of_a_group_the_first_error_is_told(caplog: pytest.LogCaptureFixture) -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [caught("one")]), ValueError("another")])
    assert "KeyError at test_faults.py" in str(Faults().tell("a share", group))
    assert len(caplog.records) == 1


def test_an_error_that_was_never_raised_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    assert "ValueError at ?" in str(Faults().tell("a row", ValueError()))
    assert caplog.records
