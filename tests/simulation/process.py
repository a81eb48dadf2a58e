"""A device's process in the world: what `daemon.share` does around a replica, without the daemon."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio
from kinds import Claim, Device, Killed, Machine

from p2psyncd.core.ids import DeviceId
from p2psyncd.daemon.lost import give_up_lost_contents
from p2psyncd.daemon.replica import EVERYTHING, Phase
from p2psyncd.daemon.share import leaves
from p2psyncd.daemon.signal import Signal
from p2psyncd.errors import P2psyncError, ShareHeld
from p2psyncd.sources.source import Dirty

__all__ = ["Process"]

# As the daemon does: a path is read when it has been quiet for a moment; what failed is tried again.
QUIET_S = 0.02
BUSY_S = 1.0
RETRY_S = 10.0
STUCK = {Phase.HELD, Phase.ERROR}


class Process:
    """A running device; `run` is its life."""

    def __init__(
        self, machine: Machine, on_change: Callable[[], None], members: Callable[[], set[DeviceId]]
    ) -> None:
        self.machine = machine
        self.on_change = on_change
        self.members = members
        self.key = machine.device
        self.device: Device = machine.boot()
        self.hints = EVERYTHING
        self.hinted = Signal()
        self.later = Dirty()
        """Where to look again in a moment."""
        self.later_came = Signal()
        self.phase_changed = Signal()
        self.scope = trio.CancelScope()
        self.gone = trio.Event()
        self.troubles: list[str] = []
        """Why sessions failed."""
        self.on_stamped_again: Callable[[set[Claim], set[bytes]], None] = lambda claims, unseen: None
        self.actor = self.device.store.actor()
        """Whom it was last told to write as."""
        self.scanned = False
        """Whether it has looked at all that is there."""
        self.given_up: list[bytes] = []
        self.unsettled: set[Claim] = set()
        """What the process left behind without a note that it was put there."""

    @property
    def lives(self) -> bool:
        return not self.machine.hazard.dead and not self.gone.is_set()

    def note_trouble(self, trouble: str) -> None:
        self.troubles.append(trouble)

    def notice(self, dirty: Dirty) -> None:
        """Take a hint, as from a watch."""
        old = self.hints
        self.hints = Dirty(keys=old.keys | dirty.keys, subtrees=old.subtrees | dirty.subtrees)
        self.hinted.fire()

    async def run(self) -> None:
        """Live until killed or cancelled."""
        try:
            with self.scope:
                while True:
                    await self.live_on()
        except* Killed:
            pass
        finally:
            self.tell_if_another_actor()  # killed right after the commit, it could not say so itself
            self.unsettled = self.device.unsettled()
            self.device.close()
            self.gone.set()

    async def live_on(self) -> None:
        """Live until something fails that is not one item's; then rest."""
        try:
            async with trio.open_nursery() as nursery:
                self.notice(EVERYTHING)
                nursery.start_soon(self.capture)
                nursery.start_soon(self.device.applier.run)
                nursery.start_soon(self.look_after_what_is_stuck)
                nursery.start_soon(self.give_up)
                nursery.start_soon(self.tell_of_another_actor)
                if self.device.comes_back:
                    nursery.start_soon(self.come_back)
        except* (OSError, P2psyncError) as group:
            self.enter(Phase.ERROR, "; ".join(str(error) for error in leaves(group)))
        await trio.sleep(RETRY_S)

    async def capture(self) -> None:
        """Look wherever a hint points to."""
        replica = self.device.replica
        while True:
            hinted = self.hinted.event
            if not self.hints.keys and not self.hints.subtrees:
                await hinted.wait()
                continue
            await trio.sleep(QUIET_S)
            dirty, self.hints = self.hints, Dirty()
            try:
                await replica.scan(EVERYTHING if replica.phase in STUCK else dirty)
            except ShareHeld as held:
                self.enter(Phase.HELD, held.detail or held.message)
            except (OSError, P2psyncError) as error:
                self.enter(Phase.ERROR, str(error))
            else:
                self.scanned = True
                self.look_again(self.device.busy())
                if replica.phase is not Phase.READY:
                    self.enter(Phase.READY)

    def look_again(self, busy: Dirty) -> None:
        """Come back to what would not hold still."""
        if busy.keys or busy.subtrees:
            self.later = Dirty(keys=self.later.keys | busy.keys, subtrees=self.later.subtrees | busy.subtrees)
            self.later_came.fire()

    async def come_back(self) -> None:
        """Turn what was busy into hints, after a pause."""
        while True:
            came = self.later_came.event
            if not (self.later.keys or self.later.subtrees):
                await came.wait()
            await trio.sleep(BUSY_S)
            later, self.later = self.later, Dirty()
            self.notice(later)

    async def tell_of_another_actor(self) -> None:
        """Tell what was stamped again, whenever the replica has gone on as another actor."""
        replica = self.device.replica
        while True:
            changed = replica.signal.event
            self.tell_if_another_actor()
            await changed.wait()

    def tell_if_another_actor(self) -> None:
        """Tell what was stamped again if the state has another actor than it had."""
        actor = self.device.store.actor()
        if actor != self.actor:
            self.actor = actor
            self.on_stamped_again(self.device.own(), self.device.unseen())

    async def give_up(self) -> None:
        """Give up contents that nobody has."""
        await give_up_lost_contents(
            self.device.applier, ours=self.key, members=self.members, tell=self.given_up.append
        )

    def enter(self, phase: Phase, reason: str = "") -> None:
        self.device.replica.enter(phase, reason)
        self.phase_changed.fire()
        self.on_change()

    async def look_after_what_is_stuck(self) -> None:
        """Scan in full a while after the share was held or failed."""
        replica = self.device.replica
        while True:
            changed = replica.signal.event
            if replica.phase in STUCK:
                self.phase_changed.fire()
                await trio.sleep(RETRY_S)
                if replica.phase is Phase.HELD and self.device.comes_back:
                    with suppress(OSError, P2psyncError):
                        await replica.executor.run(self.device.approve)
                self.notice(EVERYTHING)
            await changed.wait()
