"""The long form of the fuzz tests: `python -m tests.fuzz --inputs 1000000 --sessions 10000 --seed 1`.

With `--guided` decoder inputs are chosen by coverage, where atheris is installed (it is not needed for anything else).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "simulation")]

from decoding import resident_bytes, run_decoders  # noqa: E402  (found by the path above)
from hostile_sessions import run_sessions  # noqa: E402
from targets import TARGETS  # noqa: E402

from p2psyncd.errors import RemoteProtocolError  # noqa: E402

# The first runs fill caches; what comes afterwards may not grow by more than this.
GROWTH_BYTES_MAX = 64 * 1024 * 1024
WARM_UP = 20


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def grown(before: int) -> int:
    """Return by how much this process grew; fails if that is too much."""
    growth = resident_bytes() - before
    if growth > GROWTH_BYTES_MAX:
        raise AssertionError(f"grew by {growth} bytes")
    return growth


def decoders(count: int, seed: int) -> None:
    """Feed the decoders and say what came of it."""
    run_decoders(min(count // WARM_UP, 20_000), seed)
    before = resident_bytes()
    totals = run_decoders(count, seed + 1)
    say(
        f"decoders: {totals.inputs} inputs, {totals.input_bytes} bytes: {totals.accepted.total()} accepted, "
        f"{totals.refused.total()} refused, 0 anything else; {totals.peak_bytes} bytes at most for one input, "
        f"{grown(before)} bytes grown"
    )
    for name in sorted(totals.refused):
        say(f"  {name}: {totals.accepted[name]} accepted, {totals.refused[name]} refused")


def sessions(count: int, seed: int) -> None:
    """Run hostile sessions and say what came of it."""
    run_sessions(min(count, WARM_UP), seed)
    before = resident_bytes()
    totals = run_sessions(count, seed + 1)
    said = ", ".join(f"{name} {number}" for name, number in totals.messages.most_common())
    say(
        f"sessions: {totals.sessions}, {totals.folders} of them with a real folder; {totals.messages.total()} hostile messages "
        f"({said}); {totals.refused} ended the connection, 0 anything else; nothing lost, nothing outside the root, "
        f"every one followed by an honest device that came to agree; {grown(before)} bytes grown"
    )


def guided(count: int) -> None:
    """Let atheris choose the inputs."""
    atheris = importlib.import_module("atheris")  # only here: it is not to be had everywhere
    targets = list(TARGETS.values())

    def feed(data: bytes) -> None:
        if data:
            try:
                targets[data[0] % len(targets)].accept(data[1:])
            except RemoteProtocolError:
                return

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-runs={count}", "-max_len=4096"], feed)
    atheris.Fuzz()


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="with atheris, decoders only")
    options = parser.parse_args()
    # Refusals are what is being looked for: they would fill the terminal.
    logging.disable(logging.CRITICAL)
    if options.guided:
        guided(options.inputs)
        return
    if options.inputs:
        decoders(options.inputs, options.seed)
    if options.sessions:
        sessions(options.sessions, options.seed)


if __name__ == "__main__":
    main()
