"""Kills of daemons that share a database: at every step of an apply, at every step of a look at what an app wrote, at any moment."""

from __future__ import annotations

import http.client
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2plab.installed import Installed
from p2plab.waiting import pause

from crashrig.devices import CrashDevice
from crashrig.row_rig import RowRig
from crashrig.runs import struck, wait_for_strike_or_rest
from crashrig.shim import ROW_KINDS, Kind
from crashrig.trial import Totals

__all__ = ["MODES", "STEPS", "kill_in_batch", "kill_rows_at_random", "kill_rows_at_steps", "row_rig_on"]

MODES = ("DELETE", "WAL")
STEPS = {
    "apply": {
        Kind.PAGES: (False, True),
        Kind.FLUSH: (False, True),
        Kind.CLEAR: (False, True),
        Kind.RECORD: (False, True),
    },
    "capture": {
        Kind.PAGES: (True,),
        Kind.FLUSH: (True,),
        Kind.RECORD: (False, True),
        Kind.SEND: (False, True),
    },
}
"""At which steps device b is killed while it puts the other app's rows in place, or while it looks at its own app's and sends them."""
MANY = {Kind.PAGES, Kind.RECORD}
"""A batch has many such steps, and few others."""
NAMES = {"apply": "an apply", "capture": "a capture"}
# A bit of everything; each a transaction.
BATCH = (
    "add_person",
    "add_person+edit_person+delete_person",
    "edit_person",
    "replace_person",
    "delete_person",
    "add_order+add_parts+edit_parts",
    "add_line",
    "edit_line",
    "delete_order",
    "claim_name",
    "seize_name",
    "swap_names",
    "set",
    "set",
    "unset",
    "add_parts",
    "edit_parts",
    "delete_parts",
    "add_order",
)
WHILE_DOWN = ("edit_person", "delete_person", "edit_line", "set", "add_person", "edit_parts")
STEPS_MAX = 500
Log = Callable[[str], None]


@contextmanager
def row_rig_on(
    folder: Path,
    installed: Installed,
    shim: Path | None,
    seed: int,
    totals: Totals,
    *,
    mode: str,
    keep: bool = False,
) -> Iterator[RowRig]:
    """Make a rig with databases in a journal mode; everything is ended afterwards, and deleted unless `keep`."""
    place = Path(tempfile.mkdtemp(prefix="p2pr-", dir=folder))
    try:
        rig = RowRig(place, installed, shim, seed, totals, mode=mode)
        try:
            rig.begin()
            yield rig
        finally:
            rig.close()
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


# Kills at every step
def kill_rows_at_steps(
    rig: RowRig, role: str, kinds: dict[Kind, tuple[bool, ...]], log: Log, *, every: int = 1
) -> None:
    """Kill device b before or after the n-th call of a kind, for each n there is; see `STEPS`.

    Args:
        rig: At rest.
        role: "apply" or "capture".
        kinds: For each kind of call, whether to strike after it, before it, or both.
        log: Told how far it got.
        every: 1: each step; more: every so many steps.
    """
    for kind, sides in kinds.items():
        for after in sides:
            at, beyond = 1, 0
            # Batches are alike, not the same: a sweep of every step ends where two in a row have no such step.
            patience = 2 if every == 1 else 1
            stride = every if kind in MANY else 1
            while at < STEPS_MAX and beyond < patience:
                if kill_in_batch(rig, role, kind, at, after=after):
                    at, beyond = at + stride, 0
                else:
                    beyond += 1
            log(
                f"{rig.label}, {role}: {kind.name.lower()}: {'after' if after else 'before'} each step, up to {at - stride}"
            )


def kill_in_batch(rig: RowRig, role: str, kind: Kind, at: int, *, after: bool) -> bool:
    """Kill device b in one batch; return whether that had so many steps."""
    b = rig.b
    process = b.process
    assert process is not None
    if role == "apply":
        silent = {"b": rig.standing(b)}
        # The batch is to come as one: b stands still until a knows all of it.
        process.send_signal(signal.SIGSTOP)
        rig.have("a", actions=BATCH, close=True)
        rig.collect()
        rig.a.detect()
        b.control.arm(kind, at=at, after=after)
        process.send_signal(signal.SIGCONT)
    else:
        silent = {"a": rig.standing(rig.a)}
        b.control.arm(kind, at=at, after=after)
        rig.have("b", actions=BATCH, close=True)
        rig.collect()
        look(b)
    wait_for_strike_or_rest(rig, process)
    fired = b.control.fired
    step = f"{role}, {'after' if after else 'before'} step {at} of {kind.name.lower()}"
    if not fired:
        b.control.disarm()
        rig.check(f"no {step}", silent=silent)
        return False
    what = b.control.what
    process.wait()
    rig.killed(b, f"kill -9 at every step of {NAMES[role]}: {kind.name.lower()}")
    if at % 3 == 0:
        # The app goes on, with what it sees of the batch.
        silent.pop("b", None)
        rig.have("b", actions=WHILE_DOWN, close=True)
    rig.check(f"{step}: {what}", silent=silent)
    return True


def look(device: CrashDevice) -> None:
    """Have a device look at its app's rows, if it lives long enough."""
    try:
        device.detect()
    except (OSError, AssertionError, http.client.HTTPException):
        if not device.control.fired:
            raise


# Kills at random moments
def kill_rows_at_random(rig: RowRig, kills: int) -> None:
    """Kill either device at a moment or a step drawn at random, while both apps work; now and then while it recovers."""
    end = rig.totals.all + kills
    while rig.totals.all < end:
        for _ in range(rig.rng.randint(1, 3)):
            for name in "ab":
                rig.have(name, steps=rig.rng.randint(5, 60), pause_s=rig.rng.choice([0.0, 0.01, 0.03]))
            victim = rig.rng.choice(rig.pair.both)
            kill_at_work(rig, victim)
            if rig.rng.random() < 0.4:
                kill_in_recovery(rig, victim)
            rig.pair.start()
        rig.check("after random kills")


def kill_at_work(rig: RowRig, victim: CrashDevice) -> None:
    """Kill while both apps work."""
    moment = rig.rng.random() < 0.4
    if moment:
        pause(rig.rng.choice([0.02, 0.2, 0.6]) * rig.rng.random())
    else:
        kinds = rig.rng.sample(ROW_KINDS, rig.rng.randint(1, 3))
        victim.control.arm(*kinds, at=rig.rng.randint(1, 120), after=rig.rng.random() < 0.5)
        moment = not struck(victim)
    rig.killed(victim, f"kill -9 at a random {'moment' if moment else 'step'}")


def kill_in_recovery(rig: RowRig, victim: CrashDevice) -> None:
    """Kill a device again while it picks itself up, its app maybe still at work."""
    if rig.rng.random() < 0.7:
        victim.control.arm(*ROW_KINDS, at=rig.rng.randint(1, 100), after=rig.rng.random() < 0.5)
        victim.launch()
        struck(victim)
    else:
        victim.launch()
        pause(rig.rng.uniform(0.2, 0.7))
    rig.killed(victim, "kill -9 in recovery")
