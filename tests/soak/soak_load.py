"""The soak: two daemons live through hours of work and trouble in minutes, and nothing may grow.

A *round* is: changes on both devices (edits, new trees, renames, deletions), and in turn a pulled cable, a restart or a
`kill -9` of the second daemon, and a clock that jumps; then both wait until they are equal, and the trees are
compared. After each round every number that must stay flat is read: resident memory, descriptors, threads, and the
bytes of the state files, of their write-ahead logs and of the history. The names that files are given come from a bounded set, so
that whatever grows is the daemon's doing.

Only the second daemon is ever restarted: the first one's memory covers the whole run.

Clocks jump by `clocked_daemon.py`: the daemon's `main` with another clock, whose offset is in a file. (libfaketime made the daemons
ten times slower; time namespaces do not cover the wall clock.)
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from p2plab.device import Device, pair, start
from p2plab.installed import Installed
from p2plab.network import Lab
from p2plab.trees import differences
from p2plab.waiting import eventually

__all__ = ["BOUNDS", "Bound", "Sample", "Soak", "grown", "table"]

LAUNCHER = Path(__file__).with_name("clocked_daemon.py")
CONFIG = "[history]\nshare_percent = 10\nmin_mb = 1\n"
SHARE = "s"
FOLDERS, FILES = 20, 25
FEW_FILES = 150
CHANGES = 15
# Seconds that a clock is off; zero again in between.
JUMPS_S = (3600, 0, -3600, 0, 2 * 86_400, 0, 40 * 86_400, 0)
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one daemon held at the end of a round."""

    rss_kib: int
    descriptors: int
    threads: int
    state_kib: int
    wal_kib: int
    history_kib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How much a median may grow between the first and the last third."""

    part: float
    plus: float

    def allows(self, first: float, last: float) -> bool:
        """Return whether this is no growth."""
        return last <= first * (1 + self.part) + self.plus


BOUNDS = {
    "rss_kib": Bound(part=0.10, plus=12 * 1024),
    "descriptors": Bound(part=0.0, plus=3),
    "threads": Bound(part=0.0, plus=4),
    "state_kib": Bound(part=0.25, plus=1024),
    # Checkpoints come every 16 MiB (store/database.py): a log is anything up to that.
    "wal_kib": Bound(part=0.0, plus=17 * 1024),
    # History rises and falls with its pruning: up to 9 MiB in twenty minutes that ended where they began.
    "history_kib": Bound(part=0.25, plus=12 * 1024),
}


def thirds(samples: list[Sample], name: str) -> tuple[float, float]:
    """Return the medians of a number's first and last third."""
    values = [getattr(sample, name) for sample in samples]
    part = max(1, len(values) // 3)
    return statistics.median(values[:part]), statistics.median(values[-part:])


def grown(samples: list[Sample]) -> list[str]:
    """Return which numbers grew beyond their bounds, in words."""
    found = []
    for name, bound in BOUNDS.items():
        first, last = thirds(samples, name)
        if not bound.allows(first, last):
            found.append(f"{name} grew from {first:g} to {last:g}")
    return found


def table(named: dict[str, list[Sample]]) -> str:
    """Return a table of medians and greatest values, for people."""
    lines = [f"{'':14}{'first third':>14}{'last third':>14}{'greatest':>12}"]
    for name, samples in named.items():
        for field in fields(Sample):
            first, last = thirds(samples, field.name)
            most = max(getattr(sample, field.name) for sample in samples)
            lines.append(f"{name} {field.name:12}{first:>14g}{last:>14g}{most:>12g}")
    return "\n".join(lines)


class ClockedDevice(Device):
    """A device whose daemon's clock can jump."""

    @property
    def offset_path(self) -> Path:
        """Holds the offset in seconds."""
        return self.folder / "offset"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the daemon under its clock, without waiting for it."""
        if not self.offset_path.exists():
            self.jump(0)
        with self.log_path.open("ab") as log:
            self.process = self.host.spawn(
                [
                    self.installed.python,
                    str(LAUNCHER),
                    str(self.offset_path),
                    "--name",
                    self.name,
                    *self.options,
                ],
                env=self.environ(covered=True),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        return self.process

    def jump(self, offset_s: int) -> None:
        """Set the clock so far from the real one."""
        fresh = self.offset_path.with_suffix(".new")
        fresh.write_text(f"{offset_s}\n")
        fresh.replace(self.offset_path)

    def sample(self) -> Sample:
        """Read what the daemon holds now."""
        assert self.process is not None
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        state = files_below(self.home / "state")
        return Sample(
            rss_kib=int(status["VmRSS"].split()[0]),
            descriptors=len(list((proc / "fd").iterdir())),
            threads=int(status["Threads"]),
            state_kib=kib(path for path in state if path.suffix == ".db"),
            wal_kib=kib(path for path in state if path.name.endswith("-wal")),
            history_kib=kib(files_below(self.folder / SHARE / ".p2psync")),
        )


def files_below(root: Path) -> list[Path]:
    """Return the files below a folder; what goes away meanwhile is passed over."""
    return [Path(folder) / name for folder, _, names in os.walk(root) for name in names]


def kib(paths: Iterable[Path]) -> int:
    """Return the bytes of files, in KiB; what goes away meanwhile counts nothing."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total // 1024


class Changes:
    """Random changes in one device's folder; names come from a bounded set."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.rng = rng

    def make(self, times: int) -> None:
        """Make so many changes."""
        actions: list[tuple[int, Callable[[], None]]] = [
            (35, self.write),
            (10, self.append),
            (12, self.delete),
            (12, self.rename),
            (4, self.new_tree),
            (3, self.delete_tree),
            (4, self.rename_tree),
        ]
        while len(self.files()) < FEW_FILES:
            self.new_tree()
        for _ in range(times):
            [action] = self.rng.choices([a for _, a in actions], [w for w, _ in actions])
            # The other device's changes come in between: what is gone is gone.
            with suppress(FileNotFoundError, FileExistsError, NotADirectoryError, OSError):
                action()

    def files(self) -> list[Path]:
        return sorted(self.root.glob("d*/f*"))

    def folder(self) -> Path:
        return self.root / f"d{self.rng.randrange(FOLDERS):02d}"

    def slot(self) -> Path:
        return self.folder() / f"f{self.rng.randrange(FILES):02d}"

    def data(self) -> bytes:
        # Some are large enough to travel in chunks.
        most = 600_000 if self.rng.random() < 0.03 else 8_000
        return self.rng.randbytes(self.rng.randint(0, most))

    def write(self) -> None:
        path = self.slot()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.data())

    def append(self) -> None:
        path = self.rng.choice(self.files())
        if path.stat().st_size > 1_000_000:
            path.unlink()
            return
        with path.open("ab") as file:
            file.write(self.rng.randbytes(500))

    def delete(self) -> None:
        self.rng.choice(self.files()).unlink()

    def rename(self) -> None:
        self.rng.choice(self.files()).rename(self.slot())

    def new_tree(self) -> None:
        folder = self.folder()
        folder.mkdir(exist_ok=True)
        for n in self.rng.sample(range(FILES), 15):
            (folder / f"f{n:02d}").write_bytes(self.data())

    def delete_tree(self) -> None:
        shutil.rmtree(self.folder())

    def rename_tree(self) -> None:
        self.folder().rename(self.folder())

    def delete_conflict_copies(self) -> int:
        """Delete the conflict copies, as a person would after a look; return how many there were."""
        copies = [path for path in self.root.rglob("* (conflict *") if ".p2psync" not in path.parts]
        for path in copies:
            path.unlink(missing_ok=True)
        return len(copies)


class Soak:
    """Two daemons, and their life."""

    def __init__(self, lab: Lab, folder: Path, installed: Installed, seed: int) -> None:
        self.rng = random.Random(seed)
        self.devices = [ClockedDevice(lab.host(n), folder / name, installed) for n, name in enumerate("ab")]
        self.roots = [device.folder / SHARE for device in self.devices]
        self.changes = [Changes(root, self.rng) for root in self.roots]
        self.samples: dict[str, list[Sample]] = {device.name: [] for device in self.devices}
        self.rounds = 0
        self.counts = {"changes": 0, "cuts": 0, "restarts": 0, "kills": 0, "jumps": 0, "conflict copies": 0}

    def begin(self) -> None:
        """Start, pair and share."""
        a, b = self.devices
        for device in self.devices:
            (device.home / "config.toml").write_text(CONFIG)
        start(*self.devices)
        pair(a, b)
        self.roots[0].mkdir()
        self.changes[0].make(CHANGES)
        a.share_folder(self.roots[0], SHARE, b)
        self.settle()

    def change(self) -> None:
        """Change something on both devices."""
        for changes in self.changes:
            changes.make(CHANGES)
            self.counts["changes"] += CHANGES

    def settle(self) -> None:
        """Wait until both are equal, delete the conflict copies, and compare."""
        a, b = self.devices
        eventually("both are connected", lambda: a.connected_to(b) and b.connected_to(a), within_s=120)
        a.wait(within_s=120)
        copies = self.changes[0].delete_conflict_copies()
        self.counts["conflict copies"] += copies
        for device in self.devices:
            device.wait(within_s=120)
        assert differences(*self.roots) == []

    def round(self) -> None:
        """Live through one round."""
        _, b = self.devices
        turn = self.rounds % 6
        if turn == 1:
            b.host.cut()
            self.change()
            b.host.join()
            self.counts["cuts"] += 1
        elif turn == 3:
            self.change()
            if self.rounds % 12 == 3:
                assert b.stop() == 0
                self.counts["restarts"] += 1
            else:
                b.kill()
                self.counts["kills"] += 1
            self.change()
            b.start()
        elif turn == 5:
            jump = JUMPS_S[self.counts["jumps"] % len(JUMPS_S)]
            self.rng.choice(self.devices).jump(jump)
            self.counts["jumps"] += 1
            self.change()
        self.change()
        self.settle()
        for device in self.devices:
            self.samples[device.name].append(device.sample())
        self.rounds += 1

    def end(self) -> None:
        """Hold everything against everything, once more and in full."""
        for device in self.devices:
            device.cli("verify", timeout_s=300).ok()
        assert self.devices[0].root(SHARE) == self.devices[1].root(SHARE)
        assert differences(*self.roots) == []
        for device in self.devices:
            wrong = [
                line
                for line in device.log().splitlines()
                if " ERROR " in line or " CRITICAL " in line or "Traceback" in line
            ]
            assert wrong == [], f"{device.name}: {wrong[:5]}"
            assert device.stop() == 0

    def report(self) -> str:
        """Return what was done and what it came to."""
        done = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        last = asdict(self.samples["a"][-1]) if self.samples["a"] else {}
        return f"{self.rounds} rounds: {done}\n{table(self.samples)}\nlast of a: {last}"
