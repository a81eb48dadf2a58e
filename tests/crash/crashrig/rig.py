"""Two devices, two users of a folder and the oracle, brought together: what every kind of run on files is made of."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from p2plab.installed import Installed
from p2plab.trees import differences, leftovers
from p2plab.waiting import eventually, pause

from crashrig.devices import SHARE, CrashDevice
from crashrig.disk import Disk
from crashrig.journal import Journal, contents_below
from crashrig.oracle import Cut, judge, torn
from crashrig.trial import Totals, Trial
from crashrig.user import User

__all__ = ["Rig"]

TIDY_S = 20.0
BACKGROUND = ".part"


class Rig(Trial):
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
        a_folder = (disk.mountpoint if disk else folder) / "a"
        super().__init__(folder, installed, shim, seed, totals, a_folder=a_folder)
        self.disk = disk
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

    def broken(self) -> list[str]:
        """Return contents that nobody wrote."""
        return [line for one in self.pair.both for line in torn(one.root, self.journal)]

    # Checking
    def check(self, when: str) -> None:
        """Let both come together, then hold everything against the journal."""
        self.settle(when)
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
        found = verdict.violations + differences(self.a.root, self.b.root) + self.verified()
        for device in self.pair.both:
            found += self.stray(device)
        if found:
            found += self.renewals()
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
