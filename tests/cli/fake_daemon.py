"""Stands in for p2psyncd where the client starts one: pairs and copies through files beside its home.

The environment variable FAKE makes it misbehave: `port-taken`, `silent`, `deaf` (never answers), `stubborn`
(ignores SIGTERM), `dies` (ends after some answers).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import trio

from p2psync import demo
from p2psyncd.control.server import serve

spec = importlib.util.spec_from_file_location(
    "tests_scripted", Path(__file__).parent.parent / "control" / "scripted.py"
)
assert spec is not None
assert spec.loader is not None
scripted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scripted)

FAKE = os.environ.get("FAKE", "")
ANSWERS_BEFORE_DEATH = 3


def make_backend(options: argparse.Namespace) -> Any:
    backend = scripted.ScriptedBackend()
    around = options.home.parent.parent
    shares: list[Any] = []
    answered: list[int] = []

    async def status() -> Any:
        answered.append(1)
        if FAKE == "dies" and len(answered) > ANSWERS_BEFORE_DEATH:
            sys.stderr.write("p2psyncd: the disk caught fire\n")
            sys.stderr.flush()
            os._exit(1)
        device = {"id": "AAAAAAA", "name": options.name, "listen": [f"127.0.0.1:{os.getpid()}"]}
        return scripted.STATUS | {"device": device, "shares": shares, "peers": []}

    async def share_add(path: str, *, name: str | None, **_: Any) -> Any:
        shares.append(scripted.PHOTOS | {"path": path, "name": name or Path(path).name})
        return shares[-1]

    async def share_accept(name: str, path: str, **_: Any) -> Any:
        return await share_add(path, name=name)

    async def pair_join(*_: Any, **__: Any) -> Any:
        (around / "paired").touch()
        return scripted.DESK

    async def pair_wait(*_: Any, **__: Any) -> Any:
        # The other device is another process; a file is all they have in common.
        while not (around / "paired").exists():  # noqa: ASYNC110
            await trio.sleep(0.01)
        return scripted.DESK

    async def wait(*_: Any, **__: Any) -> Any:
        folders = [folder for folder in around.glob("*/Files") if FAKE != "lossy"]
        for source in folders:
            for target in folders:
                if source != target:
                    shutil.copytree(source, target, dirs_exist_ok=True)
        unite([folder.parent / "shopping.db" for folder in around.glob("*/Files")])
        return scripted.ANSWERS["wait"]

    offer = scripted.ANSWERS["share_offers"][0]
    backend.answers |= {
        "status": status,
        "share_add": share_add,
        "share_accept": share_accept,
        "share_offers": [offer | {"name": name} for name in ("Files", "shopping.db")]
        if options.no_mdns
        else [],
        "pair_join": pair_join,
        "wait": wait,
    }
    backend.pair_wait = pair_wait
    return backend


def unite(databases: list[Path]) -> None:
    """Give all of the demo's databases the rows of all."""
    rows: dict[int, tuple[str, int]] = {}
    for path in databases:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(demo.SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS"))
            for number, item, bought in connection.execute("SELECT id, item, bought FROM shopping"):
                rows[number] = (item, max(bought, rows.get(number, ("", 0))[1]))
    for path in databases:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany(
                "INSERT OR REPLACE INTO shopping VALUES (?, ?, ?)",
                [(number, item, bought) for number, (item, bought) in rows.items()],
            )


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--name", default="laptop")
    parser.add_argument("--no-mdns", action="store_true")
    parser.add_argument("--listen")
    options = parser.parse_args()
    if FAKE == "port-taken":
        sys.stderr.write("a line of the log\np2psyncd: 22600. The port is taken.\n")
        sys.exit(1)
    if FAKE == "silent":
        sys.exit(7)
    run = options.home / "run"
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            if FAKE != "deaf":
                await nursery.start(serve, make_backend(options), run / "control.sock")
            async for _ in signals:
                if FAKE != "stubborn":
                    nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
