"""Starting a daemon as a child, for the commands that do not need one to run already."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from p2psync.client import AnswerError, Client
from p2psyncd.control.messages import Status
from p2psyncd.errors import DaemonNotRunning

__all__ = ["Child", "daemon_command", "stopped_by_signals"]

READY_S_MAX = 30.0
ASK_EVERY_S = 0.05
# What systemd grants a service by default is ten times that; a person at a terminal waits less.
STOP_S_MAX = 10.0
# Between closing its socket and being gone.
ENDING_S_MAX = 5.0
LINES_KEPT = 20
EXIT_CODES = range(1, 6)


def daemon_command() -> list[str]:
    """Return how to start the daemon: the program beside this one, else the one in PATH, else the module."""
    for beside in (Path(sys.executable), Path(sys.argv[0])):
        program = beside.parent / "p2psyncd"
        if program.is_file():
            return [str(program)]
    found = shutil.which("p2psyncd")
    return [found] if found else [sys.executable, "-m", "p2psyncd.main"]


class Child:
    """A daemon that lives as long as the block it is used in.

    It has a session of its own, so that Ctrl-C reaches only this client, which then stops it in order.
    """

    def __init__(self, home: Path | None, *options: str, command: Sequence[str] | None = None) -> None:
        given = [] if home is None else ["--home", str(home)]
        self.command = [*(command or daemon_command()), *given, *options]
        self.said: deque[str] = deque(maxlen=LINES_KEPT)

    def __enter__(self) -> Self:
        try:
            self.process = subprocess.Popen(  # noqa: S603  # our own program, no shell
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise AnswerError(f"cannot start {self.command[0]}: {error.strerror}") from error
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.listener.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def listen(self) -> None:
        """Keep the daemon's last words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.decode("utf-8", "backslashreplace").rstrip())

    def wait_ready(self, client: Client) -> Status:
        """Return the first status of the daemon.

        Raises:
            AnswerError: It ended before, with its own words, or takes too long.
        """
        pause = threading.Event().wait
        for _ in range(int(READY_S_MAX / ASK_EVERY_S)):
            try:
                status: Status = client.get("/v1/status")
            except DaemonNotRunning:
                self.check_alive()
                pause(ASK_EVERY_S)
            else:
                return status
        raise AnswerError("the daemon started but does not answer; run `p2psync doctor`")

    def check_alive(self) -> None:
        """Return if the daemon runs.

        Raises:
            AnswerError: It ended.
        """
        if self.process.poll() is not None:
            raise self.ended("the daemon did not start")

    def ended(self, what: str) -> AnswerError:
        """Return the error of a daemon that ended (or is about to), with its last words."""
        try:
            code = self.process.wait(ENDING_S_MAX)
        except subprocess.TimeoutExpired:
            return AnswerError(f"{what}: it no longer answers")
        self.listener.join()
        if code < 0:
            # What it logged last has nothing to do with that.
            return AnswerError(
                f"{what}: it was killed ({signal.Signals(-code).name}). Nothing is lost by that; start it again"
            )
        last = self.said[-1].removeprefix("p2psyncd: ") if self.said else f"it ended with code {code}"
        return AnswerError(f"{what}: {last}", exit_code=code if code in EXIT_CODES else 1)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Treat a closed terminal and a plain kill like Ctrl-C, so that what was started is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
