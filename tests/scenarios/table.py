"""The table in docs/scenarios.md: read, compared with the tests, and written again.

`python tests/scenarios/table.py` brings it up to date after a scenario's test came, went or was renamed:
the texts and the tests of other names stay as they are.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

__all__ = ["ROOT", "SCENARIOS", "Row", "functions_of", "rows", "scenario_tests", "where"]

ROOT = Path(__file__).parent.parent.parent
TABLE = ROOT / "docs" / "scenarios.md"
ROW = re.compile(r"^\| ([ABC]\d+) \| (.+) \| (.*) \| (.*) \|$")
LINK = re.compile(r"\[`(test_\w+)`\]\(\.\./([\w/.]+)\)")
NAME = re.compile(r"test_([abc]\d+)_")
COUNTS = {"A": 65, "B": 35, "C": 13}
SCENARIOS = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
PLACES = {
    "crash": "crash",
    "daemon": "daemons",
    "lan": "LAN",
    "scenarios": "daemons",
    "simulation": "simulation",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    scenario: str
    text: str
    tests: tuple[tuple[str, str], ...]
    """Names, and the files that they are in."""
    places: str

    def line(self) -> str:
        """Return the line."""
        links = "<br>".join(f"[`{name}`](../{file})" for name, file in self.tests)
        return f"| {self.scenario} | {self.text} | {links} | {self.places} |"


def parse(line: str) -> Row | None:
    """Return the row that a line holds, if it does."""
    match = ROW.match(line)
    if match is None:
        return None
    scenario, text, shown, places = match.groups()
    return Row(scenario, text, tuple(LINK.findall(shown)), places)


def rows() -> list[Row]:
    """Return all rows."""
    return [row for line in TABLE.read_text().splitlines() if (row := parse(line))]


@cache
def functions_of(file: Path) -> dict[str, bool]:
    """Return the names of the functions that a file defines, in order, and whether they are marked for the LAN."""
    tree = ast.parse(file.read_text())
    marks = [node for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    whole = any("mark.lan" in ast.unparse(mark) for mark in marks)
    return {
        node.name: whole or any("mark.lan" in ast.unparse(one) for one in node.decorator_list)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def where(tests: tuple[tuple[str, str], ...]) -> str:
    """Return where tests run."""
    places = [
        "LAN" if functions_of(ROOT / file).get(name) else PLACES.get(Path(file).parts[1], "pure")
        for name, file in tests
    ]
    return ", ".join(dict.fromkeys(places))


@cache
def scenario_tests() -> dict[str, list[tuple[str, str]]]:
    """Return the tests that are named after a scenario, and their files."""
    found: dict[str, list[tuple[str, str]]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in functions_of(file):
            if match := NAME.match(name):
                place = file.relative_to(ROOT).as_posix()
                found.setdefault(match[1].upper(), []).append((name, place))
    return found


def renewed(row: Row) -> Row:
    """Return a row with the tests that there are."""
    others = [(name, file) for name, file in row.tests if not NAME.match(name)]
    tests = (*scenario_tests().get(row.scenario, ()), *others)
    return replace(row, tests=tests, places=where(tests))


def write() -> None:
    """Bring the table up to date."""
    lines = TABLE.read_text().splitlines()
    TABLE.write_text(
        "\n".join(renewed(row).line() if (row := parse(line)) else line for line in lines) + "\n"
    )


if __name__ == "__main__":
    write()
