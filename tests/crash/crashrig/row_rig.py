"""Two devices that share a database, an app and a reader on each, and the oracle: what every kind of run on rows is made of."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from p2plab.installed import Installed

from crashrig.app_program import SCHEMA
from crashrig.devices import SHARE, CrashDevice
from crashrig.programs import Program
from crashrig.reader_program import misplaced, partial
from crashrig.row_oracle import Listed, judge_rows
from crashrig.rows import RowJournal, differences, dump, opened, unsound
from crashrig.trial import Totals, Trial

__all__ = ["RowRig", "Standing"]

DATABASE = "app.db"
STORE = (
    "SELECT s.value, coalesce(k.seq, -1) FROM settings s JOIN actors a ON a.actor = s.value"
    " LEFT JOIN knowledge k ON k.actor = a.ref WHERE s.name = '.actor'"
)
Standing = tuple[str, int, str]
"""Of a device: its actor, the number of its last write, and the root."""


class RowRig(Trial):
    """One pair of devices at work on rows."""

    def __init__(
        self,
        folder: Path,
        installed: Installed,
        shim: Path | None,
        seed: int,
        totals: Totals,
        *,
        mode: str = "DELETE",
    ) -> None:
        """Make both databases, and start what works on them.

        Args:
            folder: Empty; gets the devices (the path must be short).
            installed: The programs.
            shim: The library that kills at a step.
            seed: Decides what the apps do and when what is killed.
            totals: Where it is counted.
            mode: The journal mode of both databases.
        """
        super().__init__(folder, installed, shim, seed, totals, database=DATABASE)
        self.label = f"seed {seed}, {mode}"
        self.journal = RowJournal()
        for device in self.pair.both:
            with closing(opened(device.shared)) as connection:
                connection.execute(f"PRAGMA journal_mode = {mode}")
                connection.executescript(SCHEMA)
        self.apps = {one.name: Program("app_program", one.shared, one.name, seed) for one in self.pair.both}
        self.readers = {one.name: Program("reader_program", one.shared) for one in self.pair.both}

    def begin(self) -> None:
        """Pair the devices and let the apps make something to work on."""
        self.have("a", steps=40)
        self.collect()
        self.pair.introduce()
        for name in "ab":
            self.have(name, steps=20, close=True)
        self.check("after the start")

    # Apps
    def have(
        self,
        name: str,
        *,
        steps: int = 0,
        pause_s: float = 0.0,
        actions: tuple[str, ...] = (),
        close: bool = False,
    ) -> None:
        """Have an app work, without waiting for it; `app_program` says what it can do."""
        self.apps[name].send(steps=steps, pause_s=pause_s, actions=actions, close=close)

    def collect(self) -> None:
        """Wait until the apps have done all that, and take it into the journal."""
        for name, app in self.apps.items():
            for answer in app.answers():
                self.journal.take(name, answer["records"])
                self.blame([f"the app of {name} met {error}" for error in answer["errors"]], "at work")

    # Looking
    def broken(self) -> list[str]:
        """Return transactions that are there in part, and what SQLite says against the files."""
        found = []
        for device in self.pair.both:
            with closing(opened(device.shared)) as connection:
                found += [f"partial: {device.name}: {line}" for line in partial(connection)]
            found += unsound(device.shared)
        return found

    def misplaced(self) -> list[str]:
        """Return children that are not with their own parents; at rest, all are."""
        with closing(opened(self.b.shared)) as connection:
            return [f"misplaced: {line}" for line in misplaced(connection)]

    def seen_in_part(self) -> list[str]:
        """Return what the readers saw since they were last asked."""
        found = []
        for name, reader in self.readers.items():
            reader.send()
            [answer] = reader.answers()
            self.totals.looks += answer["looks"]
            found += [f"a reader of {name} saw {line}" for line in answer["seen"]]
        return found

    def standing(self, device: CrashDevice) -> Standing:
        """Return how many versions a device has made, and of what it holds."""
        [state] = (device.home / "state" / "shares").glob("*.db")
        with closing(sqlite3.connect(f"file:{quote(str(state))}?mode=ro", uri=True)) as connection:
            [(actor, seq)] = connection.execute(STORE)
        return actor.hex(), seq, str(device.share(SHARE)["root"])

    def listed(self, device: CrashDevice) -> Listed:
        """Return the conflicts and the history that a device lists."""
        conflicts = device.get("/v1/conflicts")
        return Listed(
            conflicts=[device.get(f"/v1/conflicts/show?id={one['id']}") for one in conflicts],
            history=device.get(f"/v1/history?path={quote(str(device.shared))}"),
        )

    # Checking
    def check(self, when: str, *, silent: dict[str, Standing] | None = None) -> None:
        """Let both come together, then hold everything against the journal.

        Args:
            when: For what is blamed on them.
            silent: How devices stood that have had nothing to write since.
        """
        self.collect()
        self.settle(when)
        a, b = (dump(device.shared) for device in self.pair.both)
        found = differences(a, b) + self.broken() + self.seen_in_part() + self.misplaced() + self.verified()
        listed = [self.listed(device) for device in self.pair.both]
        ours, theirs = ({one["id"] for one in each.conflicts} for each in listed)
        if ours != theirs:
            found.append(f"differs: the conflicts: {[each.conflicts for each in listed]}")
        found += judge_rows(self.journal, b, listed[1])
        found += self.echoes(silent or {})
        self.totals.checks += 1
        self.blame(found + (self.renewals() if found else []), when)
        self.hit.clear()

    def echoes(self, silent: dict[str, Standing]) -> list[str]:
        """Return the versions that were made of what nobody wrote."""
        found = []
        before = {device.name: self.standing(device) for device in self.pair.both}
        for name, then in silent.items():
            if then[:2] != before[name][:2]:
                found.append(f"echo: {name} wrote nothing, and was {then[:2]}, is {before[name][:2]}")
        for device in self.pair.both:
            device.detect()
        for device in self.pair.both:
            now = self.standing(device)
            if now != before[device.name]:
                found.append(f"echo: {device.name} looked again, and was {before[device.name]}, is {now}")
        return found

    def close(self) -> None:
        """End the programs and the devices."""
        for program in [*self.readers.values(), *self.apps.values()]:
            program.close()
        super().close()
