"""The daemon's program: the only place where the real clock, paths, sockets and randomness are chosen."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from p2psyncd import __version__
from p2psyncd.control.places import find_places
from p2psyncd.daemon.config import Config, load_config, override, parse_listen
from p2psyncd.daemon.executor import ThreadExecutor
from p2psyncd.daemon.home import open_home
from p2psyncd.daemon.notify import Notifier
from p2psyncd.daemon.supervisor import Supervisor
from p2psyncd.errors import ConfigError, P2psyncError

__all__ = ["SystemClock", "main"]

log = logging.getLogger("p2psyncd")

# New objects that are still there, before Python looks for cycles (its own default: 700).
GARBAGE_OBJECTS = 100_000


class SystemClock:
    """The real clock."""

    def now_us(self) -> int:
        """Return the wall clock, microseconds since 1970 (UTC)."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """Return seconds that only ever grow."""
        return time.monotonic()


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def parser() -> argparse.ArgumentParser:
    """Return the command line of `p2psyncd`."""
    made = argparse.ArgumentParser(
        prog="p2psyncd",
        description="Keeps shared folders equal on paired devices of the local network. "
        "Runs in the foreground; use `p2psync` to talk to it.",
        allow_abbrev=False,
    )
    made.add_argument("--home", type=Path, metavar="DIR", help="keep everything below this folder")
    made.add_argument("--name", metavar="NAME", help="this device's name (default: the host's)")
    made.add_argument(
        "--listen",
        action="append",
        metavar="HOST:PORT",
        help="where to listen; repeatable; port 0: any free one",
    )
    made.add_argument(
        "--interface",
        action="append",
        metavar="IFACE|IP",
        help="limit mDNS and listening to this interface; repeatable",
    )
    made.add_argument("--no-mdns", action="store_true", help="neither announce nor look for devices by mDNS")
    made.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    made.add_argument("--log-format", choices=["text", "json"])
    made.add_argument("--version", action="version", version=f"p2psyncd {__version__}")
    return made


def read_settings(options: argparse.Namespace, config_file: Path) -> Config:
    """Return the configuration: the file, then the command line over it.

    Raises:
        ConfigError: Either cannot be used.
    """
    try:
        listen = tuple(parse_listen(text) for text in options.listen) if options.listen else None
    except ValueError as error:
        raise ConfigError(f"--listen: {error}") from error
    return override(
        load_config(config_file),
        name=options.name,
        listen=listen,
        interfaces=tuple(options.interface) if options.interface else None,
        mdns=False if options.no_mdns else None,
        log_level=options.log_level,
        log_format=options.log_format,
    )


def set_up_logging(config: Config) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("p2psyncd").setLevel(config.log_level.upper())


async def obey_signals(supervisor: Supervisor, *, task_status: trio.TaskStatus[None]) -> None:
    """Stop on SIGTERM and SIGINT; read the configuration again on SIGHUP."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            if number == signal.SIGHUP:
                try:
                    supervisor.reload()
                except ConfigError as error:
                    log.error("reload_failed error=%s", error)  # noqa: TRY400  (the message says it all)
            else:
                supervisor.stopping.set()


async def run_daemon(supervisor: Supervisor) -> None:
    """Run until told to stop."""
    async with trio.open_nursery() as nursery:
        await nursery.start(obey_signals, supervisor)
        await supervisor.run()
        nursery.cancel_scope.cancel()


def collect_seldom() -> None:
    """Have Python look for cycles after many more new objects than it does by default.

    What a batch of items is made of has none, and looking at all of it again and again took a third of the time
    in which rows are applied. What trio leaves in cycles is little.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def first_error(error: BaseException) -> P2psyncError | None:
    """Return the first error of ours in a group, however deep."""
    if isinstance(error, P2psyncError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found = first_error(inner)
            if found is not None:
                return found
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit code."""
    options = parser().parse_args(arguments)
    places = find_places(options.home, os.environ, os.getuid())
    try:
        config = read_settings(options, places.config_file)
        set_up_logging(config)
        with open_home(places, os.getpid()):
            supervisor = Supervisor(
                config=config,
                load_config=lambda: read_settings(options, places.config_file),
                places=places,
                name=config.name or socket.gethostname() or "device",
                clock=SystemClock(),
                executor=ThreadExecutor(),
                entropy=secrets.token_bytes,
                notifier=Notifier(os.environ),
            )
            collect_seldom()
            trio.run(run_daemon, supervisor)
    except (P2psyncError, BaseExceptionGroup) as error:
        ours = first_error(error)
        if ours is None:
            raise
        print(f"p2psyncd: {ours.message}", file=sys.stderr)  # noqa: T201  (the user reads this)
        return ours.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
