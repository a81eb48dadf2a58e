"""Two devices, two users and the oracle, brought together: what every kind of run is made of."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from p2plab.installed import Installed
from p2plab.trees import differences, leftovers
from p2plab.waiting import eventually, pause

from crashrig.devices import SHARE, CrashDevice, Pair
from crashrig.disk import Disk
from crashrig.journal import Journal, contents_below
from crashrig.oracle import Cut, judge, torn
from crashrig.user import User

__all__ = ["Rig", "Totals"]

TIDY_S = 20.0
# Every so many checks call `p2psync verify` itself, the others the daemon.
CLIENT_EVERY = 10
BACKGROUND = ".part"


@dataclass
class Totals:
    """What a run came to."""

    kills: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    own_losses: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def all(self) -> int:
        """How many kills there were."""
        return sum(self.kills.values())

    def lines(self) -> list[str]:
        """Return the totals for people."""
        found = [f"{count:6d}  {kind}" for kind, count in sorted(self.kills.items())]
        found.append(f"{self.all:6d}  kills in all, {self.checks} times held against the journal")
        found.append(
            f"{self.own_losses:6d}  files torn by a cut that their writer never synced and nobody else had"
        )
        found.append(f"{len(self.violations):6d}  violations")
        return found + [f"        {line}" for line in self.violations]


class Rig:
    """One pair of devices at work."""

    def __init__(
        self,
        folder: Path,
        installed: Installed,
        shim: Path | None,
        seed: int,
        totals: Totals,
        *,
        disk: Disk | None = None,
    ) -> None:
        """Start both devices.

        Args:
            folder: Empty; gets the devices (the path must be short).
            installed: The programs.
            shim: The library that kills at a step; None: kills come from outside only.
            seed: Decides what the users do and when what is killed.
            totals: Where it is counted.
            disk: Where device a lives, if its power will be cut.
        """
        self.folder = folder
        self.seed = seed
        self.totals = totals
        self.disk = disk
        self.rng = random.Random(seed)
        a_folder = (disk.mountpoint if disk else folder) / "a"
        self.a = CrashDevice(a_folder, installed, shim, folder)
        self.b = CrashDevice(folder / "b", installed, shim, folder)
        self.pair = Pair(self.a, self.b)
        self.journal = Journal(seed)
        alone = disk is not None
        self.users = {
            device.name: User(
                device.name,
                device.root,
                device.room,
                self.journal,
                random.Random(f"{seed} {device.name}"),
                alone=alone,
                synced=0.3 if alone else 0.0,
            )
            for device in self.pair.both
        }
        self.cut: Cut | None = None
        self.hit: set[str] = set()
        """Devices that were killed since both were last equal."""
        self.label = f"seed {seed}"

    def begin(self) -> None:
        """Pair the devices and let the users make something to work on."""
        self.pair.introduce()
        self.work(60)
        self.check("after the start")

    def work(self, steps: int, pause_s: float = 0.0) -> None:
        """Let both users work."""
        for _ in range(steps):
            self.users[self.rng.choice("ab")].step()
            if pause_s:
                pause(self.rng.uniform(0, pause_s))

    def work_of(self, name: str, steps: int) -> None:
        """Let one user work."""
        for _ in range(steps):
            self.users[name].step()

    # Killing
    def killed(self, device: CrashDevice, kind: str) -> None:
        """Note a kill, and look at once at what is there."""
        device.kill()
        device.control.disarm()
        self.hit.add(device.name)
        self.totals.kills[kind] += 1
        for one in self.pair.both:
            self.blame(torn(one.root, self.journal), f"right after {kind} of {device.name}")

    def blame(self, violations: list[str], when: str) -> None:
        """Note violations, with how to have them again."""
        self.totals.violations += [
            f"[{self.label}, kill {self.totals.all}, {when}] {one}" for one in violations
        ]

    # Checking
    def check(self, when: str) -> None:
        """Let both come together, then hold everything against the journal."""
        try:
            self.pair.settle()
        except (TimeoutError, AssertionError, RuntimeError) as error:
            self.blame([f"no convergence: {error}; {self.explain()}"], when)
            raise
        for user in self.users.values():
            user.tidy_room()
        tree = contents_below(self.b.root)
        history = {
            digest
            for device in self.pair.both
            for digest in contents_below(device.root / ".p2psync" / "history").values()
        }
        verdict = judge(self.journal, tree, history=history, killed=self.hit, cut=self.cut)
        self.totals.checks += 1
        self.totals.own_losses += verdict.own_losses
        found = verdict.violations + differences(self.a.root, self.b.root)
        for device in self.pair.both:
            found += device.verified(by_client=self.totals.checks % CLIENT_EVERY == 1)
            found += self.stray(device)
        if found:
            found += [
                f"{device.name} said: {line}"
                for device in self.pair.both
                for line in device.log().splitlines()
                if "renewed" in line or "forked" in line
            ]
        self.blame(found, when)
        self.journal.agree(tree)
        self.cut = None
        self.hit.clear()

    def stray(self, device: CrashDevice) -> list[str]:
        """Return temporary files that stay; the beginning of a large transfer may."""

        def left() -> list[str]:
            return [path for path in leftovers(device.root) if not path.endswith(BACKGROUND)]

        try:
            eventually("nothing stray is left", lambda: not left(), within_s=TIDY_S)
        except TimeoutError:
            return [f"stray: {path}" for path in left()]
        return []

    def explain(self) -> str:
        """Return what both devices say of their share."""
        said = []
        for device in self.pair.both:
            try:
                status = device.status()
                said.append(f"{device.name}: {status['shares']} {status['peers']}")
            except (OSError, AssertionError) as error:
                said.append(f"{device.name}: {error!r}")
        return " | ".join(said)

    def power_cut(self) -> None:
        """Cut the power of device a, note what b had by then, and bring a's disk back; nobody runs on it yet."""
        assert self.disk is not None
        self.disk.cut()
        self.cut = Cut("a", contents_below(self.b.root))
        self.hit.add("a")
        self.a.kill()
        self.disk.replug()
        if self.disk.moved and self.disk.kind == "xfs":
            self.approve_disk()
        # What the user was about to put in place is not in the share; a cut takes what it wants of it.
        shutil.rmtree(self.a.room, ignore_errors=True)
        self.a.room.mkdir(exist_ok=True)

    def approve_disk(self) -> None:
        """Say that the disk may lie elsewhere now: the same disk on another device is one on XFS, and held."""
        self.a.start()
        held = eventually("a says how it stands", lambda: self.a.share(SHARE))
        eventually("a has looked", lambda: self.a.share(SHARE)["state"] in {"held", "idle"})
        if held and self.a.share(SHARE)["state"] == "held":
            self.a.post("/v1/shares/approve", {"name": SHARE})

    def close(self) -> None:
        """End the devices."""
        self.pair.close()
