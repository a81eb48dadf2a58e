"""What goes wrong in a simulation, by name, and how a seed becomes a plan.

A fault is a few steps for a plan. Each plan suffers only some of the faults that are switched on: two
that never come together hide each other's bugs, and a plan with all of them shows little but
devices that lie about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from kinds import Kind
from plan import Plan, Step

__all__ = ["FAULTS", "Fault", "make_plan"]

YEAR_S = 366 * 86_400
SKEWS_S = [0, 0, 0, -3600, 3600, 10 * YEAR_S, -10 * YEAR_S]
LATENCIES_S = [0.0, 0.0, 0.01, 0.2, 3.0]
WAITS_S = [0.001, 0.05, 0.5, 2.0, 15.0, 60.0]
DEVICES = [2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8]
STEPS_MAX = 50
OPERATIONS_LEFT = [0, 1, 2, 3, 5, 8, 13, 30]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    does: str
    weight: float
    """How often, where a user's operation counts 1."""
    steps: Callable[[Random, int], list[Step]]
    """Returns steps for a plan of so many machines; each of them lands somewhere after the one before."""
    files_only: bool = False
    """Whether rows know nothing of it."""


def pair(random: Random, count: int) -> tuple[int, int]:
    a, b = random.sample(range(count), 2)
    return a, b


def cut(random: Random, count: int) -> list[Step]:
    a, b = pair(random, count)
    if random.random() < 0.4:  # a meeting that breaks off before it is over
        slow = random.choice(LATENCIES_S)
        return [("link", a, b, slow), ("pause", random.randrange(1, 80)), ("cut", a, b)]
    again = [("link", a, b, random.choice(LATENCIES_S))] if random.random() < 0.7 else []
    return [("cut", a, b), *again]


def replace(random: Random, count: int) -> list[Step]:
    return [("replace", *pair(random, count))]


def kill(random: Random, count: int) -> list[Step]:
    number = random.randrange(count)
    how = ("kill", number) if random.random() < 0.3 else ("kill", number, random.choice(OPERATIONS_LEFT))
    return [how, ("boot", number)]


def power(random: Random, count: int) -> list[Step]:
    number = random.randrange(count)
    first = [("kill", number, random.choice(OPERATIONS_LEFT))] if random.random() < 0.5 else []
    return [*first, ("power", number, random.randrange(1000)), ("boot", number)]


def restore(random: Random, count: int) -> list[Step]:
    number = random.randrange(count)
    everything, noticed = random.random() < 0.5, random.random() < 0.3
    return [("snapshot", number), ("restore", number, random.randrange(3), everything, noticed)]


def clone(random: Random, count: int) -> list[Step]:
    again = [("repair", count)] if random.random() < 0.5 else []
    links = [("link", count, number, 0.0) for number in range(count) if random.random() < 0.5]
    return [("clone", random.randrange(count), random.random() < 0.3), *links, *again]


def clock(random: Random, count: int) -> list[Step]:
    return [("clock", random.randrange(count), random.choice(SKEWS_S))]


def rot(random: Random, count: int) -> list[Step]:
    return [("rot", random.randrange(count), random.randrange(1000))]


def forget(random: Random, count: int) -> list[Step]:
    number = random.randrange(count)
    return [("isolate", number), ("year",), ("forget", random.choice([0, 30, 365]))]


def year(random: Random, count: int) -> list[Step]:
    number = random.randrange(count)
    other = (number + 1 + random.randrange(count - 1)) % count
    return [("isolate", number), ("year",), ("link", number, other, random.choice(LATENCIES_S))]


def full(random: Random, count: int) -> list[Step]:
    number = random.randrange(count)
    return [("full", number, True), ("full", number, False)]


def copies(random: Random, count: int) -> list[Step]:
    how = random.choice(["edit", "remove", "keep"])
    operation = ("conflict", random.randrange(5), how, b"copy %d" % random.randrange(1_000_000))
    return [("user", random.randrange(count), operation, random.random() < 0.7)]


def none(random: Random, count: int) -> list[Step]:
    return []


FAULTS = {
    "cut": Fault("links are cut, in the midst of a message, and joined again", 0.3, cut),
    "replace": Fault("connections are replaced by new ones", 0.1, replace),
    "delay": Fault("messages take their time", 0.0, none),
    "kill": Fault("a process is killed, at once or before one of its next operations", 0.15, kill),
    "power": Fault("a power cut undoes what was not durable", 0.1, power),
    "restore": Fault("a backup is put back: the state only, or all", 0.1, restore),
    "clone": Fault("a disk is copied to a second machine, and both go on", 0.04, clone),
    "clock": Fault("a clock jumps, by up to ten years; clocks differ", 0.1, clock),
    "rot": Fault("a row vanishes from a state", 0.08, rot),
    "forget": Fault("tombstones are forgotten while a device is away", 0.08, forget),
    "year": Fault("a device is away for a year", 0.05, year),
    "full": Fault("a disk is full for a while", 0.08, full),
    "hints": Fault("changes are seen only by the next full scan", 0.0, none),
    "modes": Fault("some members only send or only receive", 0.0, none),
    "copies": Fault(
        "users edit conflict copies, delete them, or put them in the place of what won", 0.2, copies, True
    ),
}


def make_plan(seed: int, kind: Kind, faults: Sequence[str]) -> Plan:
    """Return the plan of a seed."""
    random = Random(f"{kind.name} {seed}")
    possible = [name for name in faults if not (FAULTS[name].files_only and kind.name == "database")]
    chosen = [name for name in possible if random.random() < 0.5]
    count = random.choice(DEVICES)
    machines = tuple(machine(random, chosen) for _ in range(count))
    steps: list[Step] = [
        ("link", a, b, latency(random, chosen))
        for a in range(count)
        for b in range(a)
        if random.random() < 0.6
    ]
    everyday = [
        everyday_step(random, kind, count, chosen, serial) for serial in range(random.randrange(5, STEPS_MAX))
    ]
    steps += everyday
    for name in chosen:
        for _ in range(len(everyday)):
            if random.random() < FAULTS[name].weight:
                scatter(random, steps, FAULTS[name].steps(random, count))
    return Plan(seed=seed, kind=kind.name, machines=machines, steps=tuple(steps))


def machine(random: Random, faults: Sequence[str]) -> tuple[str, int]:
    """Return mode and clock skew of a machine."""
    mode = random.choice(["send-receive"] * 4 + ["send-only", "receive-only"])
    skew_s = random.choice(SKEWS_S)
    return mode if "modes" in faults else "send-receive", skew_s if "clock" in faults else 0


def latency(random: Random, faults: Sequence[str]) -> float:
    chosen = random.choice(LATENCIES_S)
    return chosen if "delay" in faults else 0.0


def everyday_step(random: Random, kind: Kind, count: int, faults: Sequence[str], serial: int) -> Step:
    """Return something that happens without anything going wrong."""
    choice = random.random()
    number = random.randrange(count)
    if choice < 0.55:
        missed = random.random() < 0.4
        operation = kind.operation(random, serial + 3)
        return ("user", number, operation, not (missed and "hints" in faults))
    if choice < 0.7:
        return ("pause", random.randrange(1, 60))
    if choice < 0.9:
        return ("wait", random.choice(WAITS_S))
    if choice < 0.95:
        return ("scan", number)
    a, b = pair(random, count)
    return ("link", a, b, latency(random, faults))


def scatter(random: Random, steps: list[Step], more: Sequence[Step]) -> None:
    """Put steps in among others, in their order, not too far apart."""
    at = random.randrange(len(steps) + 1)
    for step in more:
        steps.insert(at, step)
        at = min(len(steps), at + 1 + random.randrange(8))
