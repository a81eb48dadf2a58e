"""Long runs of the crash rig: `python -m tests.crash --kills 500` at the checkout's root, as root for power cuts.

Prints totals by kind of kill, and each violation with the seed that has it again (`--seed`, `--only`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "lan"))

from crashrig.devices import installed_here
from crashrig.disk import why_no_disk
from crashrig.row_runs import MODES, kill_rows_at_random, kill_rows_at_steps, row_rig_on
from crashrig.row_runs import STEPS as ROW_STEPS
from crashrig.runs import DISKS, kill_at_random, kill_at_steps, power_cuts, rig_on
from crashrig.shim import Kind, compile_shim, why_no_compiler
from crashrig.trial import Totals
from p2plab.installed import Installed, install_wheel

CUT_SHARE = 0.15
DATABASE_SHARE = 0.3
STEPS = {
    Kind.STAGE: (False, True),
    Kind.SYNC: (False, True),
    Kind.EXCHANGE: (False, True),
    Kind.RECORD: (False, True),
    Kind.TREE: (False, True),
}


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    made.add_argument("--kills", type=int, default=500, help="at least so many in all (default: 500)")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--only", choices=["random", "steps", "cuts", "database"], help="one kind of run")
    made.add_argument("--every", type=int, default=1, help="kill at every so many steps only")
    made.add_argument(
        "--programs", type=Path, metavar="DIR", help="environment whose bin/p2psyncd runs (default: this one)"
    )
    made.add_argument("--keep", action="store_true", help="keep the devices' folders where a run stopped")
    return made


def main() -> int:
    """Run; 1 if anything was violated."""
    options = parser().parse_args()
    totals = Totals()
    folder = Path(tempfile.mkdtemp(prefix="p2pcrash-"))
    try:
        run(options, folder, totals)
    except KeyboardInterrupt:
        say("stopped by hand")
    except (TimeoutError, AssertionError, RuntimeError) as error:
        say(f"stopped: {error}")
        totals.violations = totals.violations or [str(error)]
    finally:
        if options.keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for line in totals.lines():
        say(line)
    return 1 if totals.violations else 0


def run(options: argparse.Namespace, folder: Path, totals: Totals) -> None:
    """Do the runs that were asked for."""
    installed = installed_here(options.programs or Path(sys.prefix)) or install_wheel(folder)
    if options.only in {None, "cuts"}:
        cut(options, folder, installed, totals)
    if options.only == "cuts":
        return
    reason = why_no_compiler()
    if reason:
        say(f"left out: kills at steps ({reason})")
    shim = None if reason else compile_shim(folder)
    if options.only in {None, "database"}:
        kill_databases(options, folder, installed, shim, totals)
    if options.only == "database":
        return
    if shim and options.only in {None, "steps"}:
        with rig_on(folder, installed, shim, options.seed, totals, keep=options.keep) as rig:
            kill_at_steps(rig, STEPS, say, every=options.every)
        say(f"{totals.all} kills so far, {len(totals.violations)} violations")
    if options.only in {None, "random"}:
        with rig_on(folder, installed, shim, options.seed, totals, keep=options.keep) as rig:
            kill_at_random(rig, max(options.kills - totals.all, 1 if options.only is None else options.kills))


def kill_databases(
    options: argparse.Namespace, folder: Path, installed: Installed, shim: Path | None, totals: Totals
) -> None:
    """Kill daemons that share a database, in both journal modes; all by themselves, or for a share of the kills."""
    wanted = options.kills * (1.0 if options.only else DATABASE_SHARE) / len(MODES)
    for mode in MODES:
        begun = totals.all
        for role, kinds in ROW_STEPS.items() if shim else ():
            with row_rig_on(
                folder, installed, shim, options.seed, totals, mode=mode, keep=options.keep
            ) as rig:
                kill_rows_at_steps(rig, role, kinds, say, every=options.every)
            say(f"{totals.all} kills so far, {len(totals.violations)} violations")
        with row_rig_on(folder, installed, shim, options.seed, totals, mode=mode, keep=options.keep) as rig:
            kill_rows_at_random(rig, max(options.kills // 20, round(wanted) - (totals.all - begun)))
        say(f"{totals.all} kills so far, {len(totals.violations)} violations")


def cut(options: argparse.Namespace, folder: Path, installed: Installed, totals: Totals) -> None:
    """Cut power on each kind of disk."""
    for kind in ("ext4", "xfs"):
        reason = why_no_disk(kind)
        if reason:
            say(f"left out: power cuts on {kind} ({reason})")
            continue
        disks = [(name, mount) for name, mount in DISKS if name == kind]
        wanted = options.kills * (1.0 if options.only else CUT_SHARE)
        for number, (name, mount) in enumerate(disks):
            seed = options.seed * 100 + number
            with rig_on(
                folder, installed, None, seed, totals, kind=name, options=mount, keep=options.keep
            ) as rig:
                power_cuts(rig, max(1, round(wanted / len(DISKS))))
            say(f"{totals.all} kills so far, {len(totals.violations)} violations")


if __name__ == "__main__":
    sys.exit(main())
