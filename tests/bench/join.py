"""How long an empty device takes to join a large database, against a plain copy of the file over the same link.

    python tests/bench/join.py [--rows 1000000] [--rate 1gbit] [--rollback] [--bin VENV] [--tmp DIR]

Two installed daemons in a lab of network namespaces. Counted from the moment at which the offered share is accepted:
until all rows can be read from the file, and until `wait` says that both are in sync. The plain copy is one TCP
connection that one program writes the file into and another one reads it from, with an fsync at the end.

Figures depend on the machine and on what else it does; they are read, never asserted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "lan"))

from p2plab.device import Device, UnixConnection, pair, start
from p2plab.installed import Installed, install_wheel
from p2plab.network import Lab
from p2plab.waiting import eventually

SCHEMA = """
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT, age INTEGER, note TEXT);
CREATE INDEX by_name ON person (name);
"""
SEND = """
import socket, sys
with socket.create_server(("", 7000)) as server:
    print("up", flush=True)
    for _ in range(int(sys.argv[2])):
        with server.accept()[0] as connection, open(sys.argv[1], "rb") as file:
            connection.sendfile(file)
"""
RECEIVE = """
import os, socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], 7000)) as connection, open(sys.argv[2], "wb", buffering=0) as file:
    buffer = bytearray(1 << 20)
    while size := connection.recv_into(buffer):
        file.write(memoryview(buffer)[:size])
    written = time.monotonic()
    os.fsync(file.fileno())
print(written - began, time.monotonic() - began)
"""
COPIES = 3
WITHIN_S = 400.0
MB = 1_000_000


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def make(path: Path, rows: int, *, wal: bool) -> None:
    """Make a database with rows of about 100 bytes, index included."""
    rng = random.Random(1)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}").fetchall()
        connection.executescript(SCHEMA)
        connection.executemany(
            "INSERT INTO person VALUES (?, ?, ?, ?, ?)",
            (
                (n, f"name {rng.randrange(10**6)}", f"m{n}@x.org", rng.randrange(99), rng.randbytes(20).hex())
                for n in range(1, rows + 1)
            ),
        )


def plain_copies(lab: Lab, path: Path, target: Path) -> list[tuple[float, float]]:
    """Return how long plain copies took: until the last byte was written, and until it was on the disk."""
    sender = lab.host(0).spawn([sys.executable, "-c", SEND, str(path), str(COPIES)], stdout=subprocess.PIPE)
    assert sender.stdout is not None
    sender.stdout.readline()
    found = []
    for _ in range(COPIES):
        run = [sys.executable, "-c", RECEIVE, lab.host(0).ip, str(target)]
        first, last = lab.host(1).run(run, check=True).stdout.split()
        found.append((float(first), float(last)))
        target.unlink()
    return found


def post(device: Device, target: str, **fields: Any) -> Any:
    """Ask the control API, without a client's start."""
    connection = UnixConnection(device.socket_path, timeout_s=WITHIN_S)
    try:
        connection.request("POST", target, json.dumps(fields), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    assert answer.status == 200, body
    return json.loads(body)


def rows_in(path: Path) -> int:
    """Return the greatest number in the database; 0 while it is empty or locked."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            return int(connection.execute("SELECT max(id) FROM person").fetchone()[0] or 0)
    except sqlite3.OperationalError:
        return 0


class Memory:
    """Looks how large a process becomes."""

    def __init__(self, device: Device) -> None:
        assert device.process is not None
        self.status = Path(f"/proc/{device.process.pid}/status")
        self.first = self.most = self.now()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def now(self) -> float:
        line = next(one for one in self.status.read_text().splitlines() if one.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def look(self) -> None:
        while not self.over.wait(0.1):
            self.most = max(self.most, self.now())

    def stop(self) -> float:
        """Return by how many MB it grew at most."""
        self.over.set()
        self.thread.join()
        return self.most - self.first


def measure(lab: Lab, folder: Path, installed: Installed, options: argparse.Namespace) -> None:
    """Measure and print."""
    a, b = (Device(lab.host(n), folder / name, installed) for n, name in enumerate("ab"))
    if options.rate:
        for number in (0, 1):
            shape = ["root", "tbf", "rate", options.rate, "burst", "1mb", "latency", "50ms"]
            lab.in_switch(["tc", "qdisc", "add", "dev", f"p{number}", *shape])
    here, there = a.folder / "app.db", b.folder / "app.db"
    make(here, options.rows, wal=not options.rollback)
    size = here.stat().st_size
    say(f"{options.rows} rows, {size / MB:.0f} MB, link {options.rate or 'without a limit'}")
    copies = plain_copies(lab, here, b.folder / "copy")
    copy_s, durable_s = sorted(copies)[len(copies) // 2]
    say(f"plain copy: {copy_s:.2f} s, {durable_s:.2f} s with its fsync")
    start(a, b)
    pair(a, b)
    began = time.monotonic()
    post(a, "/v1/shares/add", path=str(here), name="app")
    a.cli("wait", "--peers", "0", "--timeout", str(WITHIN_S), timeout_s=WITHIN_S).ok()
    say(f"added on a, all rows known: {time.monotonic() - began:.1f} s")
    eventually("b is offered it", lambda: b.get("/v1/shares/offers"), within_s=30)
    memories = [Memory(a), Memory(b)]
    began = time.monotonic()
    post(b, "/v1/shares/accept", name="app", path=str(there))
    accepted_s = time.monotonic() - began
    eventually("all rows", lambda: rows_in(there) >= options.rows, within_s=WITHIN_S, every_s=0.005)
    place_s = time.monotonic() - began
    b.cli("wait", "--timeout", str(WITHIN_S), timeout_s=WITHIN_S).ok()
    sync_s = time.monotonic() - began
    grown = [memory.stop() for memory in memories]
    say(f"accepted: {accepted_s:.2f} s")
    say(
        f"all rows in place: {place_s:.2f} s, {place_s / durable_s:.1f} times the copy ({place_s / copy_s:.1f} without fsync)"
    )
    say(f"in sync: {sync_s:.1f} s")
    say(f"memory grew by {grown[0]:.0f} MB (a) and {grown[1]:.0f} MB (b)")
    say(f"messages: {b.message_bytes() / 1000:.0f} KB")
    roots = [device.share("app")["root"] for device in (a, b)]
    assert roots[0] == roots[1], roots
    for device in (a, b):
        device.stop()


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", default="", help="what the link carries, as tc says it: 1gbit, 100mbit")
    parser.add_argument("--rollback", action="store_true", help="a rollback journal in place of WAL")
    parser.add_argument("--bin", type=Path, help="an environment with p2psyncd installed")
    parser.add_argument("--tmp", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="j-", dir=options.tmp))
    try:
        installed = Installed(venv=options.bin) if options.bin else install_wheel(folder)
        with Lab() as lab:
            measure(lab, folder, installed, options)
    except BaseException:
        for log in folder.glob("*/log"):
            say(log.read_text()[-4000:])
        raise
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
