"""Runs seeds, many at a time in several processes, and says what it found.

`python -m tests.simulation --help` from the project's root.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from databases import DatabaseKind
from deterministic import run
from faults import FAULTS, make_plan
from kinds import Kind
from memory_kind import MemoryKind
from mutants import MUTANTS
from oracle import Violation
from plan import Plan
from shrink import shrink
from sizes import sized
from world import live

__all__ = ["Result", "kind_named", "main", "run_plan"]

SHRINK_S = 60.0
BATCH = 10


@dataclass(frozen=True)
class Result:
    """What came of one seed."""

    seed: int
    violation: str = ""
    """What kind of thing does not hold; empty: all holds."""
    detail: str = ""


def kind_named(name: str) -> Kind:
    """Return a kind of share."""
    if name == "folder":
        from folders import FolderKind  # noqa: PLC0415 - it replaces what the folder source calls

        return FolderKind()
    if name == "database":
        return DatabaseKind()
    return MemoryKind()


def run_plan(plan: Plan, trace: list[str] | None = None) -> Violation | None:
    """Take a plan through, and return what does not hold."""
    log = logging.getLogger("p2psyncd")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with sized(plan.seed):
            return run(plan.seed, live, plan, kind_named(plan.kind), [] if trace is None else trace)
    finally:
        log.setLevel(level)


def run_seeds(task: tuple[Sequence[int], str, Sequence[str], str]) -> list[Result]:
    """Run some seeds; for worker processes."""
    seeds, kind, faults, mutant = task
    results = []
    with ExitStack() as stack:
        if mutant:
            stack.enter_context(MUTANTS[mutant].applied())
        for seed in seeds:
            violation = run_plan(make_plan(seed, kind_named(kind), faults))
            results.append(
                Result(seed) if violation is None else Result(seed, violation.what, str(violation))
            )
    return results


def say(text: object) -> None:
    """Tell the person who waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def chosen_faults(text: str) -> list[str]:
    """Return the faults that a command line names: "all", "none", or names with commas; -name leaves one out."""
    names = text.split(",")
    if unknown := [n for n in names if n.removeprefix("-") not in {*FAULTS, "all", "none"}]:
        sys.exit(f"no fault is called {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    everything = "all" in names or all(name.startswith("-") for name in names)
    return [n for n in FAULTS if (everything or n in names) and f"-{n}" not in names]


def batches(
    options: argparse.Namespace, faults: Sequence[str]
) -> Iterator[tuple[list[int], str, Sequence[str], str]]:
    """Yield the work of worker processes, until seeds or minutes are used up."""
    seeds = (
        count(options.first)
        if not options.seeds
        else iter(range(options.first, options.first + options.seeds))
    )
    end = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    while time.monotonic() < end and (part := list(islice(seeds, BATCH))):
        yield part, options.kind, faults, options.mutant


def search(options: argparse.Namespace) -> list[Result]:
    """Run seeds and report on the way; return what did not hold."""
    faults = chosen_faults(options.faults)
    begun = told = time.monotonic()
    done, bad = 0, []
    work = batches(options, faults)
    context = multiprocessing.get_context("fork")
    with context.Pool(options.jobs) as pool:
        while wave := [pool.apply_async(run_seeds, (task,)) for task in islice(work, options.jobs * 2)]:
            for result in (one for pending in wave for one in pending.get()):
                done += 1
                if result.violation:
                    bad.append(result)
                    say(f"seed {result.seed}: {result.detail.splitlines()[0][:200]}")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(pace(done, bad, begun))
            if bad and (options.mutant or len(bad) >= options.most):
                break
    say(f"{options.kind}, faults {','.join(faults)}: {pace(done, bad, begun)}")
    for what, times in Counter(result.violation for result in bad).most_common():
        say(f"  {times} times: {what}")
    return bad


def pace(done: int, bad: Sequence[Result], begun: float) -> str:
    passed = max(time.monotonic() - begun, 0.001)
    return f"{done} seeds in {passed:.0f} s ({done / passed * 3600:.0f} an hour), {len(bad)} violations"


def explain(options: argparse.Namespace, results: Sequence[Result]) -> None:
    """Cut the first finding of each sort down and write it to a file."""
    faults = chosen_faults(options.faults)
    seen: set[str] = set()
    options.out.mkdir(parents=True, exist_ok=True)
    for result in sorted(results, key=lambda one: one.seed):
        if result.violation in seen or len(seen) >= 3:
            continue
        seen.add(result.violation)
        plan = make_plan(result.seed, kind_named(options.kind), faults)
        small, violation = shrink(plan, result.violation, run_plan, seconds=SHRINK_S)
        name = result.violation.replace(" ", "-")
        path = options.out / f"{options.kind}-{result.seed}-{name}.plan"
        # Plans are kept in the repository: where the code lay that crashed is no part of one, and replaying it tells.
        found = result.violation if result.violation.startswith("crash") else str(violation or result.detail)
        note = "".join(f"# {line}\n" for line in found.splitlines())
        path.write_text(f"# seed {result.seed} of {','.join(faults)}\n{note}{small.text()}", "utf-8")
        say(f"\n{path.read_text('utf-8')}\nreplay: python -m tests.simulation --replay {path}")


def replay(path: Path, mutant: str) -> int:
    """Take a written plan through, and print what happens."""
    trace: list[str] = []
    with ExitStack() as stack:
        if mutant:
            stack.enter_context(MUTANTS[mutant].applied())
        violation = run_plan(Plan.read(path), trace)
    say("\n".join(line[:300] for line in trace))
    say(violation or "all holds")
    return 1 if violation else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=0, help="how many (default: 1000, or what --minutes allow)"
    )
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="SEED", help="the first seed")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--kind", choices=["memory", "folder", "database"], help="default: memory, or the mutant's"
    )
    parser.add_argument(
        "--faults",
        help="all (or what brings the mutant to light), none, or: "
        + ",".join(FAULTS)
        + "; -name leaves one out",
    )
    parser.add_argument(
        "--mutant", default="", choices=["", *MUTANTS], help="break the engine in this way first"
    )
    parser.add_argument("--most", type=int, default=20, help="stop after so many violations")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for plans that fail")
    parser.add_argument("--replay", type=Path, help="take a written plan through")
    options = parser.parse_args(arguments)
    mutant = MUTANTS.get(options.mutant)
    options.kind = options.kind or (mutant.kind if mutant else "memory")
    options.faults = options.faults or (mutant.faults if mutant else "all")
    if options.replay:
        return replay(options.replay, options.mutant)
    if not options.seeds and not options.minutes:
        options.seeds = 1000
    bad = search(options)
    if options.mutant:
        say(f"{options.mutant}: found by seed {bad[0].seed}" if bad else f"{options.mutant}: not found")
        return 0 if bad else 1
    explain(options, bad)
    return 1 if bad else 0
