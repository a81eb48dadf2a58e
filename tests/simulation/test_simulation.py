"""The simulation itself, and what the engine must withstand: hundreds of seeds here, thousands by hand (see `runner`)."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import pytest
from faults import FAULTS, make_plan
from kinds import Claim, Deed
from memory_kind import MemoryKind, MemoryMachine
from mutants import MUTANTS
from oracle import Oracle
from plan import Plan
from runner import chosen_faults, kind_named, run_plan
from shrink import shrink

KIND = MemoryKind()
ALL = list(FAULTS)
HERE = Path(__file__).parent
SEEDS = [1, 2, 3, 4]
PRINT_TRACE = """
import sys
sys.path.insert(0, sys.argv[1])
from test_simulation import fingerprints
print(*fingerprints())
"""


def fingerprint(seed: int) -> str:
    """Return a hash of everything that happens in the plan of a seed, every message included."""
    trace: list[str] = []
    violation = run_plan(make_plan(seed, KIND, ALL), trace)
    return blake2b("\n".join([*trace, str(violation)]).encode(), digest_size=8).hexdigest()


def fingerprints() -> list[str]:
    return [fingerprint(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def first() -> list[str]:
    return fingerprints()


# One seed, one trace


def test_a_seed_gives_the_same_trace_every_time(first: list[str]) -> None:
    assert fingerprints() == first
    assert len(set(first)) == len(SEEDS), "different seeds give different traces"


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_gives_the_same_trace_in_another_process(first: list[str], hash_seed: str) -> None:
    """Sets and dicts of bytes are in another order there."""
    found = subprocess.run(
        [sys.executable, "-c", PRINT_TRACE, str(HERE)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == first


def test_a_plan_is_the_same_after_it_was_written_and_read() -> None:
    for seed in range(50):
        plan = make_plan(seed, KIND, ALL)
        assert Plan.parse("# a note\n" + plan.text()) == plan


# The engine as it is


@pytest.mark.parametrize("start", range(0, 120, 12))
def test_nothing_is_lost_and_all_agree_in_the_end_whatever_goes_wrong(start: int) -> None:
    for seed in range(start, start + 12):
        violation = run_plan(make_plan(seed, KIND, ALL))
        assert violation is None, f"seed {seed}: {violation}"


@pytest.mark.parametrize("fault", ["none", *ALL])
def test_nothing_is_lost_and_all_agree_in_the_end_when_one_thing_goes_wrong(fault: str) -> None:
    for seed in range(1_000, 1_012):
        violation = run_plan(make_plan(seed, KIND, chosen_faults(fault)))
        assert violation is None, f"seed {seed}: {violation}"


# Engines that are broken on purpose


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_engine_is_found_out(name: str) -> None:
    mutant = MUTANTS[name]
    kind, faults = kind_named(mutant.kind), chosen_faults(mutant.faults)
    plans = (make_plan(seed, kind, faults) for seed in mutant.seeds)
    with mutant.applied():
        plan = next((plan for plan in plans if run_plan(plan)), None)
    assert plan is not None
    assert run_plan(plan) is None


def test_a_failing_plan_is_cut_down_to_what_it_takes() -> None:
    mutant = MUTANTS["blind-exchange"]
    with mutant.applied():
        plans = (make_plan(seed, KIND, chosen_faults(mutant.faults)) for seed in mutant.seeds)
        plan, violation = next((p, v) for p in plans if (v := run_plan(p)) is not None)
        small, still = shrink(plan, violation.what, run_plan, seconds=10)
        assert still is not None
        assert still.what == violation.what
        assert len(small.steps) < len(plan.steps)
    assert run_plan(small) is None, "it fails only because the engine is broken"


# The oracle


def test_the_oracle_wants_a_value_until_somebody_takes_it_away_knowingly() -> None:
    oracle, machine = Oracle(), MemoryMachine(0)
    claim = Claim(b"value", b"name")
    oracle.note(Deed(wrote=(claim,)), machine, unsettled=set())
    assert set(oracle.claims) == {claim}
    oracle.note(Deed(deleted=(claim,)), machine, unsettled=set())
    assert not oracle.claims
    assert set(oracle.deleted) == {claim}


async def test_the_oracle_doubts_what_a_machine_that_was_set_back_writes_until_it_is_found_out() -> None:
    oracle, machine = Oracle(), MemoryMachine(0)
    doubtful, sure = Claim(b"doubtful", b"a"), Claim(b"sure", b"b")
    oracle.set_back.add(machine.number)
    oracle.note(machine.operate(("edit", b"a", b"doubtful", True)), machine, unsettled=set())
    oracle.found_out(machine, [])
    oracle.note(machine.operate(("edit", b"b", b"sure", True)), machine, unsettled=set())
    assert set(oracle.claims) == {doubtful, sure}
    assert oracle.doubtful == {doubtful}


async def test_the_oracle_asks_for_nothing_that_only_a_receive_only_device_has_and_does_not_know_of() -> None:
    oracle, writer = Oracle(), MemoryMachine(0)
    receiver = MemoryMachine(1, mode="receive-only")
    oracle.note(writer.operate(("edit", b"a", b"value", True)), writer, unsettled=set())
    receiver.operate(("edit", b"a", b"value", True))
    oracle.review([writer, receiver], receiver)
    assert set(oracle.claims) == {Claim(b"value", b"a")}
    writer.operate(("remove", b"a"))  # as a disaster would
    oracle.review([writer, receiver], writer)
    assert not oracle.claims


async def test_the_oracle_forgoes_what_no_disk_holds_after_a_disaster() -> None:
    oracle, machine = Oracle(), MemoryMachine(0)
    kept, gone = Claim(b"kept", b"a"), Claim(b"gone", b"b")
    oracle.note(machine.operate(("edit", b"a", b"kept", True)), machine, unsettled=set())
    oracle.note(Deed(wrote=(gone,)), machine, unsettled=set())
    oracle.review([machine], machine)
    assert set(oracle.claims) == {kept}
    assert oracle.perished == {gone}
