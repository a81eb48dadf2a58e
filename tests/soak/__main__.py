"""`python -m tests.soak --minutes 20`: see soak_load.py."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lan")]

from p2plab.installed import install_wheel  # noqa: E402  (found on the path made above)
from p2plab.network import Lab, why_no_lab  # noqa: E402
from soak_load import Soak, grown  # noqa: E402

# The first rounds fill caches, pools and the trees themselves.
WARM_UP = 10


def main() -> int:
    """Soak for so many minutes, print a table every minute, and exit 1 if anything grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    why_not = why_no_lab()
    if why_not is not None:
        sys.exit(why_not)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    folder.chmod(0o755)
    try:
        installed = install_wheel(folder)
        with Lab() as lab:
            soak = Soak(lab, folder, installed, options.seed)
            try:
                return run(soak, options.minutes * 60)
            except BaseException:
                for device in soak.devices:
                    sys.stdout.write(f"--- log of {device.name}\n{device.log()[-8000:]}\n")
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(soak: Soak, length_s: float) -> int:
    """Live through rounds until the time is over, then judge."""
    soak.begin()
    end = time.monotonic() + length_s
    said = time.monotonic()
    while time.monotonic() < end:
        soak.round()
        if time.monotonic() - said > 60:
            said = time.monotonic()
            sys.stdout.write(f"{soak.report()}\n\n")
            sys.stdout.flush()
    soak.end()
    found = [f"{name}: {what}" for name, samples in soak.samples.items() for what in grown(samples[WARM_UP:])]
    sys.stdout.write(f"{soak.report()}\n{'; '.join(found) or 'nothing grew, all is equal, no errors'}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
