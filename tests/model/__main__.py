"""`python -m tests.model --examples 300`: the property of `property.py` on other examples every time."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lan")]

from cluster import Cluster  # noqa: E402  (found on the path made above)
from p2plab.installed import install_wheel  # noqa: E402
from p2plab.network import Lab, why_no_lab  # noqa: E402
from property import Command, examples, run_example  # noqa: E402


def main() -> int:
    """Run so many examples; print what they came to, or the trace that nothing explains."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=main.__doc__)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="of the examples (default: any)")
    options = parser.parse_args()
    why_not = why_no_lab()
    if why_not is not None:
        sys.exit(why_not)
    chosen = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    folder = Path(tempfile.mkdtemp(prefix="model-"))
    folder.chmod(0o755)
    try:
        installed = install_wheel(folder)
        with Lab() as lab:
            cluster = Cluster(lab, folder, installed)
            try:
                run(cluster, options.examples, chosen)
            except BaseException:
                sys.stdout.writelines(cluster.logs())
                raise
            cluster.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def run(cluster: Cluster, count: int, chosen: int) -> None:
    """Run the property and report."""
    cluster.begin()
    done = {"examples": 0, "commands": 0, "observations": 0}

    @seed(chosen)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(examples)
    def holds(example: list[Command]) -> None:
        done["observations"] += run_example(cluster, example)
        done["examples"] += 1
        done["commands"] += len(example)
        if done["examples"] % 25 == 0:
            sys.stdout.write(f"{done}\n")
            sys.stdout.flush()

    holds()
    sys.stdout.write(f"seed {chosen}: {done}, every observation has an explanation\n")


if __name__ == "__main__":
    sys.exit(main())
