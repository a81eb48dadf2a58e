"""The kinds of runs: kills at random moments, kills at every step of an apply, power cuts."""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p2plab.installed import Installed
from p2plab.waiting import eventually, pause

from crashrig.devices import CrashDevice
from crashrig.disk import Disk
from crashrig.oracle import torn
from crashrig.rig import Rig
from crashrig.shim import FILE_KINDS, Kind
from crashrig.trial import Totals, Trial

__all__ = [
    "DISKS",
    "kill_at_random",
    "kill_at_steps",
    "power_cuts",
    "rig_on",
    "struck",
    "wait_for_strike_or_rest",
]

# (file system, mount options): how long what is written stays in memory, and whether data may come after names.
DISKS = (
    ("ext4", ""),
    ("ext4", "data=writeback,commit=1"),
    ("ext4", "data=writeback,commit=30,noauto_da_alloc"),
    ("ext4", "commit=1"),
    ("xfs", ""),
)
STRIKE_WITHIN_S = 3.0
# A step that no batch has: the sweep over a kind is over long before.
STEPS_MAX = 800
# A batch writes its state in hundreds of small steps, a page each.
RECORD_STRIDE = 5
Log = Callable[[str], None]


@contextmanager
def rig_on(
    folder: Path,
    installed: Installed,
    shim: Path | None,
    seed: int,
    totals: Totals,
    *,
    kind: str | None = None,
    options: str = "",
    keep: bool = False,
) -> Iterator[Rig]:
    """Make a rig, device a on a disk of its own if `kind` names a file system; everything is ended afterwards,
    and deleted unless `keep`."""
    place = Path(tempfile.mkdtemp(prefix="p2pc-", dir=folder))
    try:
        disk = Disk(place / "image", place / "d", kind=kind, options=options) if kind else None
        try:
            rig = Rig(place, installed, shim, seed, totals, disk=disk)
            rig.label = f"seed {seed}" + (f", {kind} {options}" if kind else "")
            try:
                rig.begin()
                yield rig
            finally:
                rig.close()
        finally:
            if disk is not None:
                disk.close()
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


# Kills at random moments
def kill_at_random(rig: Rig, kills: int) -> None:
    """Kill either device, under load, at a moment or a step drawn at random; now and then while it recovers."""
    end = rig.totals.all + kills
    while rig.totals.all < end:
        for _ in range(rig.rng.randint(1, 4)):
            victim = rig.rng.choice(rig.pair.both)
            if rig.rng.random() < 0.5:
                kill_at_a_moment(rig, victim)
            else:
                kill_at_a_step(rig, victim)
            if rig.rng.random() < 0.3:
                kill_in_recovery(rig, victim)
            if rig.rng.random() < 0.3:
                rig.work(10)  # while it is down
            rig.pair.start()
        rig.check("after random kills")


def kill_at_a_moment(rig: Rig, victim: CrashDevice) -> None:
    """Kill while both users work."""
    rig.work(rig.rng.randint(5, 50), pause_s=rig.rng.choice([0.0, 0.005, 0.03]))
    pause(rig.rng.choice([0.0, 0.02, 0.1]) * rig.rng.random())
    rig.killed(victim, "kill -9 at a random moment")


def kill_at_a_step(rig: Rig, victim: CrashDevice) -> None:
    """Kill at a step while both users work."""
    kinds = rig.rng.sample(FILE_KINDS, rig.rng.randint(1, 3))
    victim.control.arm(*kinds, at=rig.rng.randint(1, 60), after=rig.rng.random() < 0.5)
    rig.work(rig.rng.randint(20, 60), pause_s=0.01)
    struck(victim)
    rig.killed(victim, "kill -9 at a random step" if victim.control.fired else "kill -9 at a random moment")


def struck(victim: CrashDevice) -> bool:
    """Wait until the shim has struck; False if there is nothing more to strike at."""
    try:
        eventually("it was struck", lambda: victim.control.fired or not victim.runs, within_s=STRIKE_WITHIN_S)
    except TimeoutError:
        return False
    return True


def kill_in_recovery(rig: Rig, victim: CrashDevice) -> None:
    """Kill a device again while it picks itself up."""
    if rig.rng.random() < 0.5:
        victim.control.arm(*FILE_KINDS, at=rig.rng.randint(1, 80), after=rig.rng.random() < 0.5)
        victim.launch()
        struck(victim)
    else:
        victim.launch()
        pause(rig.rng.uniform(0.2, 0.7))
    rig.killed(victim, "kill -9 in recovery")


# Kills at every step
def kill_at_steps(rig: Rig, kinds: dict[Kind, tuple[bool, ...]], log: Log, *, every: int = 1) -> None:
    """Let device b apply a batch, and kill it before or after the n-th call of a kind, for each n there is.

    Args:
        rig: At rest.
        kinds: For each kind of call, whether to strike after it, before it, or both.
        log: Told how far it got.
        every: 1: each step; more: every so many steps.
    """
    for kind, sides in kinds.items():
        for after in sides:
            stride = every * RECORD_STRIDE if kind is Kind.RECORD and every > 1 else every
            at, beyond = 1, 0
            # Batches are alike, not the same: a sweep of every step ends where two in a row have no such step.
            patience = 2 if every == 1 else 1
            while at < STEPS_MAX and beyond < patience:
                if kill_in_batch(rig, kind, at, after=after):
                    at, beyond = at + stride, 0
                else:
                    beyond += 1
            log(f"{kind.name.lower()}: {'after' if after else 'before'} each step, up to {at - stride}")


def kill_in_batch(rig: Rig, kind: Kind, at: int, *, after: bool) -> bool:
    """Kill device b in one batch; return whether the batch had so many steps."""
    b = rig.b
    process = b.process
    assert process is not None
    # The batch is to come as one: b stands still until a knows all of it.
    process.send_signal(signal.SIGSTOP)
    write_batch(rig)
    rig.a.detect()
    b.control.arm(kind, at=at, after=after)
    process.send_signal(signal.SIGCONT)
    wait_for_strike_or_rest(rig, process)
    fired = b.control.fired
    step = f"{'after' if after else 'before'} step {at} of {kind.name.lower()}"
    if fired:
        what = b.control.what
        process.wait()
        rig.killed(b, f"kill -9 at every step: {kind.name.lower()}")
        rig.check(f"{step}: {what}")
    else:
        b.control.disarm()
        rig.check(f"no {step}")
    return fired


def wait_for_strike_or_rest(rig: Trial, process: subprocess.Popen[bytes]) -> None:
    """Wait until b is dead, or both hold the same."""

    def over() -> bool:
        if rig.b.control.fired or process.poll() is not None:
            return True
        try:
            return rig.a.settled_with(rig.b) and rig.b.settled_with(rig.a)
        except (OSError, AssertionError, ValueError, http.client.HTTPException):
            return False  # it died while it was asked

    eventually("b is struck, or done with the batch", over, within_s=60, every_s=0.01)


def write_batch(rig: Rig) -> None:
    """Change a bit of everything on device a, and one of the same files on b."""
    a, b = rig.users["a"], rig.users["b"]
    for path in a.files()[:-40][:12]:
        a.delete(path)  # keeps the batches alike
    for _ in range(4):
        a.create()
    a.large()
    a.new_tree(a.root)
    for action in (a.replace, a.replace, a.replace, a.edit_in_place, a.delete, a.delete, a.rename, a.rename):
        action()
    a.link()
    a.rename_folder()
    a.delete_folder()
    a.change_mode()
    # One conflict: both replace what both have.
    both = rig.a.root / "both-0", rig.b.root / "both-0"
    if all(path.exists() for path in both):
        b.replace(both[1])
        a.replace(both[0])
    else:
        a.create(path=both[0])


# Power cuts
def power_cuts(rig: Rig, cuts: int) -> None:
    """Cut the power of device a, under load."""
    for _ in range(cuts):
        rig.work(rig.rng.randint(5, 60), pause_s=rig.rng.choice([0.0, 0.0, 0.01, 0.05]))
        if rig.rng.random() < 0.3:
            rig.a.detect()  # what is unsynced is announced, and on its way
        pause(rig.rng.choice([0.0, 0.05, 0.3, 1.2]) * rig.rng.random())
        rig.power_cut()
        rig.blame(torn(rig.b.root, rig.journal), "right after a power cut, on the other device")
        rig.totals.kills[f"power cut: {rig.label.partition(', ')[2].strip()}"] += 1
        if rig.rng.random() < 0.3:
            rig.work_of("b", 10)
        rig.check("after a power cut")
