"""Scenario B29: kill -9 while rows are put in place, captured or sent. Longer runs: `python -m tests.crash --only database`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crashrig.row_runs import MODES, kill_in_batch, kill_rows_at_random
from crashrig.shim import Kind

if TYPE_CHECKING:
    from conftest import NewRowRig


@pytest.mark.parametrize("mode", MODES)
def test_b29_kill_nine_at_the_steps_of_an_apply_or_a_capture_loses_doubles_and_echoes_nothing(
    new_row_rig: NewRowRig, shim: Path, mode: str
) -> None:
    with new_row_rig(29, shim, mode=mode) as rig:
        # A WAL is cleared away only by who closes the database last, and that may be a reader.
        written = [(Kind.PAGES, 9), (Kind.CLEAR, 1) if mode == "DELETE" else (Kind.FLUSH, 1)]
        for kind, at in (*written, (Kind.RECORD, 12)):
            assert kill_in_batch(rig, "apply", kind, at, after=True), kind
        for kind, at in ((Kind.RECORD, 3), (Kind.SEND, 1)):
            assert kill_in_batch(rig, "capture", kind, at, after=False), kind
        assert rig.totals.all == 5


def test_b29_kill_nine_at_any_moment_leaves_whole_transactions_and_then_equal_tables(
    new_row_rig: NewRowRig, shim: Path
) -> None:
    with new_row_rig(2929, shim, mode="WAL") as rig:
        kill_rows_at_random(rig, 2)
        assert rig.totals.all >= 2
