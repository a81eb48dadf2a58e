"""A trial: two devices that are killed again and again, and what they are blamed for; what files and rows have in common."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from p2plab.installed import Installed

from crashrig.devices import CrashDevice, Pair

__all__ = ["Totals", "Trial"]

# Every so many checks call `p2psync verify` itself, the others the daemon.
CLIENT_EVERY = 10


@dataclass
class Totals:
    """What a run came to."""

    kills: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    own_losses: int = 0
    looks: int = 0
    """How often readers looked at databases."""
    violations: list[str] = field(default_factory=list)

    @property
    def all(self) -> int:
        """How many kills there were."""
        return sum(self.kills.values())

    def lines(self) -> list[str]:
        """Return the totals for people."""
        found = [f"{count:6d}  {kind}" for kind, count in sorted(self.kills.items())]
        found.append(f"{self.all:6d}  kills in all, {self.checks} times held against the journal")
        if self.looks:
            found.append(f"{self.looks:6d}  looks of readers at the databases meanwhile")
        found.append(
            f"{self.own_losses:6d}  files torn by a cut that their writer never synced and nobody else had"
        )
        found.append(f"{len(self.violations):6d}  violations")
        return found + [f"        {line}" for line in self.violations]


class Trial:
    """One pair of devices; `Rig` and `RowRig` say what users do and what must hold."""

    def __init__(
        self,
        folder: Path,
        installed: Installed,
        shim: Path | None,
        seed: int,
        totals: Totals,
        *,
        a_folder: Path | None = None,
        database: str = "",
    ) -> None:
        """Describe both devices; nothing runs yet.

        Args:
            folder: Empty; gets the devices (the path must be short).
            installed: The programs.
            shim: The library that kills at a step; None: kills come from outside only.
            seed: Decides what the users do and when what is killed.
            totals: Where it is counted.
            a_folder: Where device a lives, if not there.
            database: Name of the database that is shared; empty: a folder is.
        """
        self.folder = folder
        self.seed = seed
        self.totals = totals
        self.rng = random.Random(seed)
        self.a = CrashDevice(a_folder or folder / "a", installed, shim, folder, database=database)
        self.b = CrashDevice(folder / "b", installed, shim, folder, database=database)
        self.pair = Pair(self.a, self.b)
        self.hit: set[str] = set()
        """Devices that were killed since both were last equal."""
        self.label = f"seed {seed}"

    def broken(self) -> list[str]:
        """Return what no kill may leave, however shortly; looked for right after one."""
        raise NotImplementedError

    # Killing
    def killed(self, device: CrashDevice, kind: str) -> None:
        """Note a kill, and look at once at what is there."""
        device.kill()
        device.control.disarm()
        self.hit.add(device.name)
        self.totals.kills[kind] += 1
        self.blame(self.broken(), f"right after {kind} of {device.name}")

    def blame(self, violations: list[str], when: str) -> None:
        """Note violations, with how to have them again."""
        self.totals.violations += [
            f"[{self.label}, kill {self.totals.all}, {when}] {one}" for one in violations
        ]

    # Checking
    def settle(self, when: str) -> None:
        """Let both come together; that they do not is a violation."""
        try:
            self.pair.settle()
        except (TimeoutError, AssertionError, RuntimeError) as error:
            self.blame([f"no convergence: {error}; {self.explain()}"], when)
            raise

    def verified(self) -> list[str]:
        """Return what either device finds wrong with its records."""
        by_client = self.totals.checks % CLIENT_EVERY == 1
        return [line for device in self.pair.both for line in device.verified(by_client=by_client)]

    def renewals(self) -> list[str]:
        """Return what the devices said of other actors than they were: mostly why something else is wrong."""
        return [
            f"{device.name} said: {line}"
            for device in self.pair.both
            for line in device.log().splitlines()
            if "renewed" in line or "forked" in line
        ]

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

    def close(self) -> None:
        """End the devices."""
        self.pair.close()
