"""The daemon's own `main`, with a clock that a file sets wrong: `python clocked_daemon.py OFFSET_FILE [OPTION…]`.

The daemon takes time from the one clock that its `main` hands in, so putting another one there is all that a changed
system clock would do; the monotonic clock and the times of files stay as they are.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from p2psyncd import main as program
from p2psyncd.daemon import forgetting, share

# The file is read again after so long.
LOOK_S = 0.2


class JumpingClock(program.SystemClock):
    """The system's clock, and as many seconds as the file says."""

    path = Path(sys.argv[1])

    def __init__(self) -> None:
        self.looked_s = 0.0
        self.offset_us = 0

    def now_us(self) -> int:
        if time.monotonic() - self.looked_s > LOOK_S:
            self.looked_s = time.monotonic()
            self.offset_us = int(self.path.read_text()) * 1_000_000
        return super().now_us() + self.offset_us


if __name__ == "__main__":
    program.SystemClock = JumpingClock  # type: ignore[misc]
    # Hours are compressed: what happens every ten minutes happens every ten seconds.
    share.HISTORY_FIRST_S, share.HISTORY_S = 1.0, 10.0
    forgetting.FORGETTING_S = 5.0
    sys.exit(program.main(sys.argv[2:]))
