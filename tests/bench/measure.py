"""Timed figures of two installed daemons in a lab of network namespaces; prints a small table.

    python tests/bench/measure.py [--files 10000] [--runs 1] [--only first,edit] [--bin VENV] [--tmp DIR]

Figures depend on the machine and on what else it does; they are read, never asserted. Run it with the
environment that ./test makes (.venv/bin/python). DIR should be on a real disk: durability is part of what is measured.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lan"))

from p2plab.device import Device, start
from p2plab.installed import Installed, install_wheel
from p2plab.network import Lab
from p2plab.trees import small_files
from p2plab.waiting import eventually, pause

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.001


@dataclass
class Figures:
    """What was measured, by name, with the target beside it."""

    targets: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float, target: str = "") -> None:
        self.targets[name] = target
        self.values.setdefault(name, []).append(value)
        sys.stderr.write(f"  {name}: {value:.4g}\n")

    def table(self) -> str:
        lines = [f"{'':<46} {'median':>9} {'least':>9} {'most':>9}  target"]
        for name, values in self.values.items():
            low, mid, high = min(values), statistics.median(values), max(values)
            lines.append(f"{name:<46} {mid:>9.4g} {low:>9.4g} {high:>9.4g}  {self.targets[name]}")
        return "\n".join(lines)


@contextmanager
def stopwatch(done: Callable[[float], None]) -> Iterator[None]:
    began = time.monotonic()
    yield
    done(time.monotonic() - began)


@contextmanager
def two_devices(tmp: Path, installed: Installed) -> Iterator[tuple[Device, Device]]:
    folder = Path(tempfile.mkdtemp(prefix="m-", dir=tmp))
    with Lab() as lab:
        a, b = (Device(lab.host(n), folder / name, installed) for n, name in enumerate("ab"))
        start(a, b)
        try:
            yield a, b
        finally:
            for device in (a, b):
                if device.process is not None and device.process.poll() is None:
                    device.stop()
    shutil.rmtree(folder)


def process_memory_mb(device: Device) -> float:
    assert device.process is not None
    status = Path(f"/proc/{device.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024


def process_cpu_s(device: Device) -> float:
    assert device.process is not None
    fields = Path(f"/proc/{device.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def measure_pairing(a: Device, b: Device, figures: Figures) -> None:
    showing, code = a.show_code()
    with stopwatch(lambda s: figures.add("pair: code entered to connected, s", s, "≤ 5")):
        b.cli("pair", code).ok()
        eventually("connected", lambda: a.connected_to(b) and b.connected_to(a), every_s=0.01)
    showing.wait(10)


def sizes(root: Path) -> dict[str, int]:
    return {
        str(p.relative_to(root)): p.stat().st_size for p in root.rglob("*.bin") if ".p2psync" not in p.parts
    }


def measure_first_sync(a: Device, b: Device, figures: Figures, files: int) -> None:
    small_files(a.folder / "f", folders=100, files=files // 100, least=1024, most=16384)
    want = sizes(a.folder / "f")
    theirs = b.folder / "f"
    os.sync()
    cpu = process_cpu_s(a) + process_cpu_s(b)
    with stopwatch(lambda s: figures.add(f"first sync of {files} files, s", s, "≤ 4")):
        a.cli("share", "add", str(a.folder / "f")).ok()
        b.accept("f", theirs)
        eventually(
            "b has all",
            lambda: b.share("f")["items"] >= len(want) and b.share("f")["need_items"] == 0,
            within_s=300,
        )
    assert sizes(theirs) == want
    figures.add("first sync: CPU of both daemons, s", process_cpu_s(a) + process_cpu_s(b) - cpu)
    a.wait()


def measure_edits(a: Device, b: Device, figures: Figures, samples: int) -> None:
    rng = random.Random(3)
    files = sorted((a.folder / "f").rglob("*.bin"))
    took = []
    for k in range(samples):
        path = rng.choice(files)
        theirs = b.folder / "f" / path.relative_to(a.folder / "f")
        data = rng.randbytes(4096 + k)
        began = time.monotonic()
        path.write_bytes(data)
        eventually(
            "b has the edit", lambda theirs=theirs, data=data: theirs.read_bytes() == data, every_s=LOOK_S
        )
        took.append((time.monotonic() - began) * 1000)
        pause(0.1 + rng.random() * 0.3)
    took.sort()
    figures.add("edit until the peer has it, p50, ms", statistics.median(took), "≤ 60")
    figures.add("edit until the peer has it, p95, ms", took[int(len(took) * 0.95)], "≤ 200")


def measure_reconnect(a: Device, b: Device, figures: Figures) -> None:
    """Everything on the wire from a restart of b until both are in step: mDNS, TLS handshake and all."""
    b.stop()
    eventually("a saw b go", lambda: not a.connected_to(b))
    before = b.host.counters()
    with stopwatch(lambda s: figures.add("restart until in step, s", s)):
        b.start()
        b.wait()
    traffic = b.host.counters() - before
    figures.add("reconnect, nothing changed, messages, bytes", b.message_bytes(), "≤ 2000")
    figures.add(
        "reconnect, nothing changed, all traffic, bytes", traffic.both_ways_bytes, "2 KB + TLS + mDNS"
    )


def measure_rename(a: Device, b: Device, figures: Figures) -> None:
    extra = a.folder / "f" / "thousand"
    small_files(extra, folders=1, files=1000, least=1024, most=16384, seed=9)
    a.wait()
    before = a.host.counters()
    with stopwatch(lambda s: figures.add("rename of a folder of 1,000 files, s", s)):
        (extra / "dir000").rename(extra / "moved")
        eventually(
            "b has it",
            lambda: (
                (b.folder / "f" / "thousand" / "moved").exists()
                and not (b.folder / "f" / "thousand" / "dir000").exists()
            ),
        )
        a.wait()
    figures.add(
        "rename of a folder of 1,000 files, KB", (a.host.counters() - before).both_ways_bytes / 1000, "≤ 250"
    )


def measure_client(a: Device, figures: Figures, samples: int) -> None:
    took = []
    for _ in range(samples):
        with stopwatch(lambda s: took.append(s * 1000)):
            a.cli("status").ok()
    figures.add("client: p2psync status, ms", statistics.median(took), "≤ 250")


def measure_rest(a: Device, b: Device, figures: Figures, seconds: float) -> None:
    cpu = process_cpu_s(a) + process_cpu_s(b)
    pause(seconds)
    used = (process_cpu_s(a) + process_cpu_s(b) - cpu) / 2 / seconds * 100
    figures.add("at rest: CPU of one daemon, %", used, "< 0.5")
    figures.add("at rest: RSS of the sender, MB", process_memory_mb(a), "≤ 90")
    figures.add("at rest: RSS of the receiver, MB", process_memory_mb(b), "≤ 90")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--samples", type=int, default=40, help="edits measured")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds at rest")
    parser.add_argument("--only", default="first,edit,reconnect,rename,client,rest")
    parser.add_argument(
        "--bin", type=Path, help="a virtual environment with p2psyncd; else the wheel is built"
    )
    parser.add_argument("--tmp", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    parts = set(arguments.only.split(","))
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="p2pbench-", dir=arguments.tmp) as scratch:
        installed = (
            Installed(venv=arguments.bin.absolute()) if arguments.bin else install_wheel(Path(scratch))
        )
        for run in range(arguments.runs):
            sys.stderr.write(f"run {run + 1}\n")
            with two_devices(Path(scratch), installed) as (a, b):
                measure_pairing(a, b, figures)
                measure_first_sync(a, b, figures, arguments.files)
                if "edit" in parts:
                    measure_edits(a, b, figures, arguments.samples)
                if "client" in parts:
                    measure_client(a, figures, 10)
                if "rest" in parts:
                    measure_rest(a, b, figures, arguments.idle)
                if "rename" in parts:
                    measure_rename(a, b, figures)
                if "reconnect" in parts:
                    measure_reconnect(a, b, figures)
    sys.stdout.write(figures.table() + "\n")


if __name__ == "__main__":
    main()
