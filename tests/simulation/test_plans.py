"""Plans that once failed: the shortest forms of what the simulation found, one a file in `plans/`."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan import Plan
from runner import run_plan

PLANS = sorted((Path(__file__).parent / "plans").glob("*.plan"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_what_failed_once_holds(path: Path) -> None:
    violation = run_plan(Plan.read(path))
    assert violation is None, violation
