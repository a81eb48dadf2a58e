"""Rows between two installed daemons in a lab of network namespaces: how soon, how many, and what the apps notice of it.

    python tests/bench/rows.py [--only latency,apply,app,away] [--rollback] [--bin VENV] [--tmp DIR]

latency: from an app's commit until a reader on the other device sees the row.
apply:   from the commit of many rows until all are in the other device's file; beside it the same rows, written
         by plain Python upserts in transactions of the same size.
app:     an app that takes its lock first (BEGIN IMMEDIATE, five seconds of patience) makes transactions while the
         other device sends rows, and one that reads before it writes, without patience; counts their errors.
away:    a million updates of a hundred rows while the daemon is off; counts hints, and how long it takes to catch up.

Apps are processes with Python's own sqlite3. Figures depend on the machine and on what else it does; they are read,
never asserted. DIR should be on a real disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lan"))

from p2plab.device import Device, pair, start
from p2plab.installed import Installed, install_wheel
from p2plab.network import Lab
from p2plab.waiting import eventually, pause

SCHEMA = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount INTEGER, note TEXT);
CREATE TABLE stream (id INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE mine (id INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE mark (id INTEGER PRIMARY KEY, n INTEGER);
"""
UPSERT = (
    "INSERT INTO item (id, name, amount, note) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET name = excluded.name, amount = excluded.amount, note = excluded.note"
)
NOTE = "n" * 60
PATIENCE_S = 5.0
WITHIN_S = 300.0
LOOK_S = 0.001
APP_RATE = 350
PEER_RATE = 2000
PEER_TRANSACTIONS = 100


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def app(path: Path, patience_s: float = PATIENCE_S) -> sqlite3.Connection:
    """Open a database as an app does."""
    return sqlite3.connect(path, timeout=patience_s, isolation_level=None)


def number(path: Path, question: str) -> int:
    """Return the number that a reader gets."""
    with closing(app(path)) as reader:
        return int(reader.execute(question).fetchone()[0] or 0)


def records(first: int, count: int) -> Iterator[tuple[int, str, int, str]]:
    """Yield rows of about a hundred bytes."""
    return ((n, f"name {n}", n % 100, NOTE) for n in range(first, first + count))


def upsert(path: Path, first: int, count: int, at_once: int) -> float:
    """Write rows in transactions of a size, and return how long it took."""
    began = time.monotonic()
    with closing(app(path)) as writer:
        for begin in range(first, first + count, at_once):
            writer.execute("BEGIN IMMEDIATE")
            writer.executemany(UPSERT, records(begin, min(at_once, first + count - begin)))
            writer.execute("COMMIT")
    return time.monotonic() - began


@dataclass
class Two:
    """Two devices that share a database."""

    a: Device
    b: Device

    @property
    def here(self) -> Path:
        """The database of the first."""
        return self.a.folder / "app.db"

    @property
    def there(self) -> Path:
        """The database of the second."""
        return self.b.folder / "app.db"

    def settle(self) -> None:
        """Wait until both are in step."""
        for device in (self.a, self.b):
            device.wait(within_s=WITHIN_S)


@contextmanager
def two(folder: Path, installed: Installed, *, wal: bool) -> Iterator[Two]:
    """Start two devices that share a database with no rows."""
    place = Path(tempfile.mkdtemp(prefix="r-", dir=folder))
    with Lab() as lab:
        devices = Two(*(Device(lab.host(n), place / name, installed) for n, name in enumerate("ab")))
        start(devices.a, devices.b)
        try:
            pair(devices.a, devices.b)
            for path in (devices.here, devices.there):
                with closing(app(path)) as writer:
                    writer.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}").fetchall()
                    writer.executescript(SCHEMA)
            devices.a.cli("share", "add", str(devices.here), "--name", "app").ok()
            devices.b.accept("app", devices.there)
            devices.settle()
            yield devices
        finally:
            for device in (devices.a, devices.b):
                if device.process is not None and device.process.poll() is None:
                    device.stop()
    shutil.rmtree(place)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def measure_latency(devices: Two, samples: int) -> None:
    """Commit rows one by one, and look for each on the other device."""
    took = []
    with closing(app(devices.here)) as writer, closing(app(devices.there)) as reader:
        for n in range(1, samples + 1):
            began = time.monotonic()
            writer.execute("INSERT INTO mark VALUES (?, ?)", (n, n))
            committed = time.monotonic()
            while reader.execute("SELECT max(id) FROM mark").fetchone()[0] != n:
                if time.monotonic() - began > WITHIN_S:
                    raise TimeoutError(f"row {n} does not arrive")
                pause(LOOK_S)
            took.append((time.monotonic() - committed) * 1000)
            pause(0.05 + n % 7 * 0.03)
    say(
        f"a committed row until a reader on the peer sees it: p50 {statistics.median(took):.1f} ms, "
        f"p95 {percentile(took, 0.95):.1f} ms, most {max(took):.1f} ms (p50 ≤ 60)"
    )


def measure_apply(devices: Two, folder: Path, *, wal: bool) -> None:
    """Commit rows in transactions of several sizes; wait until all are there."""
    plain = folder / "plain.db"
    first = 1
    for count, at_once in ((20_000, 20_000), (100_000, 100_000), (100_000, 1000)):
        with closing(app(plain)) as writer:
            writer.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}").fetchall()
            writer.executescript(SCHEMA)
        plain_s = upsert(plain, 1, count, at_once)
        plain.unlink()
        began = time.monotonic()
        written_s = upsert(devices.here, first, count, at_once)
        committed = time.monotonic()
        last = first + count - 1
        eventually("all rows", lambda last=last: there(devices) >= last, within_s=WITHIN_S, every_s=0.01)
        ended = time.monotonic()
        first += count
        say(
            f"{count} rows, {at_once} a transaction: committed after {written_s:.2f} s, there {ended - committed:.2f} s later: "
            f"{count / (ended - committed):.0f} rows/s ({count / (ended - began):.0f} from the first statement on); "
            f"plain upserts {count / plain_s:.0f} rows/s"
        )
        devices.settle()
    measure_apart(devices, first)


def measure_apart(devices: Two, first: int) -> None:
    """Write rows while the other device is off; count from when it answers."""
    count = 200_000
    devices.b.stop()
    upsert(devices.here, first, count, 1000)
    devices.a.cli("share", "rescan", "app").ok()
    began = time.monotonic()
    start(devices.b)
    answered = time.monotonic()
    last = first + count - 1
    eventually("all rows", lambda: there(devices) >= last, within_s=WITHIN_S, every_s=0.01)
    took = time.monotonic() - answered
    say(
        f"{count} rows written while the peer was off: {took:.2f} s after it answers: {count / took:.0f} rows/s"
        f" ({time.monotonic() - began:.2f} s from its start) (≥ 20,000 rows/s)"
    )
    devices.settle()


def there(devices: Two) -> int:
    """Return the greatest number that arrived."""
    return number(devices.there, "SELECT max(id) FROM item")


def paced(count: int, rate: float) -> Iterator[int]:
    """Yield numbers at a rate, or as fast as it goes."""
    began = time.monotonic()
    for n in range(count):
        ahead = began + n / rate - time.monotonic()
        if ahead > 0:
            pause(ahead)
        yield n


def immediate_app(path: Path, count: int, done: Connection) -> None:
    """Take the lock first, with patience; send how many failed, and the longest wait."""
    failed, longest = 0, 0.0
    with closing(app(path)) as writer:
        for n in paced(count, APP_RATE):
            began = time.monotonic()
            try:
                writer.execute("BEGIN IMMEDIATE")
                writer.execute("INSERT INTO mine (text) VALUES (?)", (f"mine {n}",))
                writer.execute("COMMIT")
            except sqlite3.OperationalError:
                failed += 1
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
            longest = max(longest, time.monotonic() - began)
    done.send((failed, longest))


def deferred_app(path: Path, count: int, done: Connection) -> None:
    """Read, then write, in one transaction: what cannot wait for a lock once it has read; send how many failed."""
    failed, longest = 0, 0.0
    with closing(app(path)) as writer:
        for n in paced(count, APP_RATE):
            began = time.monotonic()
            try:
                writer.execute("BEGIN")
                writer.execute("SELECT count(*) FROM mark").fetchone()
                writer.execute("INSERT INTO mine (text) VALUES (?)", (f"mine {n}",))
                writer.execute("COMMIT")
            except sqlite3.OperationalError:
                failed += 1
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
            longest = max(longest, time.monotonic() - began)
    done.send((failed, longest))


def measure_app(devices: Two, seconds: float) -> None:
    """Let an app write on one device while the other one sends rows."""
    count = int(APP_RATE * seconds)
    for name, work in (("BEGIN IMMEDIATE", immediate_app), ("read, then write", deferred_app)):
        theirs, ours = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=work, args=(devices.there, count, ours))
        began = time.monotonic()
        process.start()
        sent = 0
        with closing(app(devices.here)) as writer:
            for _ in paced(int(PEER_TRANSACTIONS * seconds), PEER_TRANSACTIONS):
                writer.execute("BEGIN IMMEDIATE")
                writer.executemany(
                    "INSERT INTO stream (text) VALUES (?)", [("s",)] * (PEER_RATE // PEER_TRANSACTIONS)
                )
                writer.execute("COMMIT")
                sent += PEER_RATE // PEER_TRANSACTIONS
        sent_s = time.monotonic() - began
        arrived = number(devices.there, "SELECT count(*) FROM stream")
        failed, longest = theirs.recv()
        process.join()
        took = time.monotonic() - began
        say(
            f"{name}: {count} transactions in {took:.1f} s ({count / took:.0f}/s) while the peer sends {sent / sent_s:.0f} rows/s: "
            f"{failed} errors ({failed / count:.1%}), longest {longest * 1000:.0f} ms; {arrived} of all sent rows were there at the end"
        )
        devices.settle()


def measure_away(devices: Two, updates: int) -> None:
    """Update a hundred rows again and again while the daemon is off."""
    with closing(app(devices.here)) as writer:
        writer.executemany("INSERT OR REPLACE INTO mark VALUES (?, 0)", ((n,) for n in range(100)))
    devices.settle()
    devices.a.stop()
    with closing(app(devices.here)) as writer:
        writer.execute("BEGIN")
        writer.executemany("UPDATE mark SET n = ? WHERE id = ?", ((n, n % 100) for n in range(updates)))
        writer.execute("COMMIT")
        sides = [
            name
            for (name,) in writer.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB '_p2p_h*'"
            )
        ]
        hints = sum(writer.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in sides)
    total = number(devices.here, "SELECT sum(n) FROM mark WHERE id < 100")
    began = time.monotonic()
    start(devices.a)
    answered = time.monotonic()
    eventually(
        "all updates",
        lambda: number(devices.there, "SELECT sum(n) FROM mark WHERE id < 100") == total,
        within_s=WITHIN_S,
        every_s=0.005,
    )
    ended = time.monotonic()
    say(
        f"{updates} updates of 100 rows while the daemon was off: {hints} hints (≤ 100); caught up {ended - answered:.2f} s after it answered, "
        f"{ended - began:.2f} s after its start (< 2 s)"
    )


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="latency,apply,app,away")
    parser.add_argument("--rollback", action="store_true", help="a rollback journal in place of WAL")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the apps write")
    parser.add_argument("--updates", type=int, default=1_000_000)
    parser.add_argument("--bin", type=Path, help="an environment with p2psyncd installed")
    parser.add_argument("--tmp", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    parts = set(options.only.split(","))
    with tempfile.TemporaryDirectory(prefix="p2pr-", dir=options.tmp) as scratch:
        folder = Path(scratch)
        installed = Installed(venv=options.bin.absolute()) if options.bin else install_wheel(folder)
        say("a rollback journal" if options.rollback else "WAL")
        with two(folder, installed, wal=not options.rollback) as devices:
            if "latency" in parts:
                measure_latency(devices, options.samples)
            if "apply" in parts:
                measure_apply(devices, folder, wal=not options.rollback)
            if "app" in parts:
                measure_app(devices, options.seconds)
            if "away" in parts:
                measure_away(devices, options.updates)


if __name__ == "__main__":
    main()
