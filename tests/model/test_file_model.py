"""The model itself: what it explains, and what it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from file_model import MISSING, Impossible, Possible


def world_with(value: str, *, nodes: int = 2) -> Possible:
    """Return a world in which every node holds a value."""
    world = Possible(nodes)
    world.write(0, value, found=MISSING)
    world.stabilize([value] * nodes, [set()] * nodes)
    return world


def test_a_write_reaches_the_other_node_sooner_or_later() -> None:
    world = Possible(2)
    world.write(0, "a", found=MISSING)
    world.read(1, MISSING)
    world.read(1, "a")
    world.stabilize(["a", "a"], [set(), set()])


def test_a_value_does_not_come_back() -> None:
    world = world_with("a")
    world.write(1, "b", found="a")
    world.read(0, "b")
    with pytest.raises(Impossible, match="reads a"):
        world.read(0, "a")


def test_a_value_that_nobody_wrote_is_never_read() -> None:
    with pytest.raises(Impossible):
        world_with("a").read(1, "x")


@pytest.mark.parametrize(("winner", "loser"), [("b", "c"), ("c", "b")])
def test_of_two_concurrent_writes_either_wins_and_the_other_is_a_conflict(winner: str, loser: str) -> None:
    world = world_with("a")
    world.write(0, "b", found="a")
    world.write(1, "c", found="a")
    world.stabilize([winner] * 2, [{loser}] * 2)


@pytest.mark.parametrize(
    ("values", "conflicts"),
    [
        (["b", "b"], [set(), set()]),  # lost
        (["b", "b"], [{"c"}, set()]),  # not on every node
        (["b", "c"], [set(), set()]),  # not equal
        (["b", "b"], [{"a", "c"}, {"a", "c"}]),  # what was replaced knowingly is no conflict
        (["a", "a"], [{"b", "c"}, {"b", "c"}]),
        ([MISSING, MISSING], [{"b", "c"}, {"b", "c"}]),
    ],
)
def test_nothing_else_comes_of_two_concurrent_writes(
    values: list[str | None], conflicts: list[set[str]]
) -> None:
    world = world_with("a")
    world.write(0, "b", found="a")
    world.write(1, "c", found="a")
    with pytest.raises(Impossible):
        world.stabilize(values, conflicts)


def test_a_write_over_the_other_ones_value_is_no_conflict() -> None:
    world = world_with("a")
    world.write(0, "b", found="a")
    world.write(1, "c", found="b")
    with pytest.raises(Impossible):
        world.stabilize(["c", "c"], [{"b"}, {"b"}])


def test_an_edit_beats_a_deletion_without_a_conflict() -> None:
    world = world_with("a")
    world.write(0, MISSING, found="a")
    world.write(1, "b", found="a")
    world.stabilize(["b", "b"], [set(), set()])


def test_a_deletion_does_not_win_over_an_edit_that_it_did_not_know() -> None:
    world = world_with("a")
    world.write(1, "b", found="a")
    world.write(0, MISSING, found="a")
    with pytest.raises(Impossible):
        world.stabilize([MISSING, MISSING], [set(), set()])


def test_a_deletion_of_what_was_known_stands() -> None:
    world = world_with("a")
    world.write(1, MISSING, found="a")
    world.stabilize([MISSING, MISSING], [set(), set()])
    with pytest.raises(Impossible):
        world.read(0, "a")


def test_three_concurrent_writes_leave_two_conflicts_on_every_node() -> None:
    world = world_with("x", nodes=3)
    for number, value in enumerate("abc"):
        world.write(number, value, found="x")
    world.stabilize(["c"] * 3, [{"a", "b"}] * 3)


def test_a_copy_of_what_the_file_itself_holds_again_is_no_matter() -> None:
    world = world_with("a")
    world.stabilize(["a", "a"], [{"a"}, {"a"}])
