"""Holds docs/scenarios.md against the code: every scenario has tests, and every such test has its place."""

from __future__ import annotations

import pytest
from table import ROOT, SCENARIOS, Row, functions_of, rows, scenario_tests, where

HINT = "`python tests/scenarios/table.py` brings the table up to date"


def row_of(scenario: str) -> Row:
    [found] = [row for row in rows() if row.scenario == scenario]
    return found


def test_every_scenario_has_one_row() -> None:
    assert [row.scenario for row in rows()] == SCENARIOS
    assert scenario_tests().keys() <= set(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_has_a_test_of_its_name_and_all_of_them_are_in_its_row(scenario: str) -> None:
    row = row_of(scenario)
    own = {test for test in row.tests if test[0].startswith(f"test_{scenario.lower()}_")}
    assert own, f"{scenario} ({row.text}) has no test of its name"
    assert own == set(scenario_tests()[scenario]), HINT


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_test_in_the_table_is_where_the_table_says(scenario: str) -> None:
    row = row_of(scenario)
    for name, file in row.tests:
        assert name in functions_of(ROOT / file), f"no {name} in {file}"
    assert row.places == where(row.tests), HINT
