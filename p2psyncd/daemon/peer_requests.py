"""What a person can ask of the control API about other devices: who is paired, pairing, removing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from p2psyncd.control.messages import Device, PairCode, RemoveReport
from p2psyncd.core.ids import DeviceId, format_device_id
from p2psyncd.daemon.mesh import PeerState
from p2psyncd.daemon.report import device_row, time_text
from p2psyncd.errors import BadRequest, NoSuchDevice, PairingFailed, TimedOut
from p2psyncd.net.pairing import join
from p2psyncd.wire.messages import Removed
from p2psyncd.wire.pairing_code import parse_code

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["PeerRequests"]

# How long `pair CODE` looks for the other device when nobody says how long.
JOIN_S = 30.0
# How long a connection that was closed takes to be gone, at most.
DISCONNECT_S = 2.0
ID_TEXT_LEAST = 7


class PeerRequests:
    """See `control.backend.Backend` for what each method promises."""

    def __init__(self, daemon: Supervisor) -> None:
        self.daemon = daemon

    def peers(self) -> list[PeerState]:
        """Return the paired devices by name."""
        return sorted(self.daemon.mesh.peers.values(), key=lambda state: state.record.name)

    def device(self, name: str) -> PeerState:
        """Return a paired device by its name, its ID or a unique beginning of it.

        Raises:
            NoSuchDevice: None, or several.
        """
        wanted = name.replace("-", "").upper()
        found = [state for state in self.peers() if state.record.name == name]
        if not found and len(wanted) >= ID_TEXT_LEAST:
            found = [
                state
                for state in self.peers()
                if format_device_id(state.record.device).replace("-", "").startswith(wanted)
            ]
        if len(found) != 1:
            raise NoSuchDevice(name)
        return found[0]

    def row(self, state: PeerState) -> Device:
        """Return a device as `device list` shows it."""
        return device_row(state, self.daemon.mesh)

    async def pair_show(self, *, introduce: bool) -> PairCode:
        """Begin to show a code."""
        daemon = self.daemon
        shown = daemon.pairing.show(
            introduce=introduce and daemon.config.pairing_introduce,
            taken=daemon.discovery.nameplates() if daemon.discovery is not None else (),
        )
        if daemon.discovery is not None:
            await daemon.discovery.set_nameplate(shown.nameplate)
        return PairCode(code=shown.code, expires=time_text(shown.expires_us))

    async def pair_wait(self, code: str, *, timeout_s: float | None) -> Device:
        """Return the device that joined with this code."""
        try:
            with trio.fail_after(timeout_s if timeout_s is not None else math.inf):
                peer = await self.daemon.pairing.wait(code)
        except trio.TooSlowError:
            raise TimedOut("No device joined") from None
        finally:
            with trio.CancelScope(shield=True):
                await self.pair_cancel(code)
        return self.paired_row(peer.device)

    def paired_row(self, device: DeviceId) -> Device:
        """Return a device that was just paired."""
        state = self.daemon.mesh.peers.get(device)
        if state is None:
            raise PairingFailed("The pairing was undone at once")
        return self.row(state)

    async def pair_cancel(self, code: str) -> None:
        """Withdraw a code."""
        if self.daemon.pairing.withdraw(code) and self.daemon.discovery is not None:
            await self.daemon.discovery.set_nameplate(None)

    async def pair_join(
        self, code: str, *, at: str | None, introduce: bool, timeout_s: float | None
    ) -> Device:
        """Join the device that shows `code`."""
        daemon = self.daemon
        parsed = parse_code(code)
        try:
            with trio.fail_after(timeout_s if timeout_s is not None else JOIN_S):
                addresses = [at] if at is not None else await self.find_nameplate(parsed.nameplate)
                peer = await join(
                    parsed,
                    addresses,
                    identity=daemon.identity,
                    name=daemon.name,
                    introduce=introduce and daemon.config.pairing_introduce,
                    policy=daemon.policy,
                    entropy=daemon.entropy,
                    on_paired=daemon.paired,
                    on_withdrawn=daemon.unpaired,
                    port=daemon.mesh.ports[0],
                )
                daemon.mesh.wake(peer.device)
                await self.until_connected(peer.device)
        except trio.TooSlowError:
            if timeout_s is not None:
                raise TimedOut("The other device was not found") from None
            raise PairingFailed("No device that shows this code was found") from None
        return self.paired_row(peer.device)

    async def find_nameplate(self, nameplate: str) -> list[str]:
        """Return the addresses of the device whose mDNS record shows this number."""
        discovery = self.daemon.discovery
        if discovery is None:
            raise BadRequest("mDNS is off; say where the other device is with --at HOST:PORT")
        discovery.refresh()
        return await discovery.find_nameplate(nameplate)

    async def until_connected(self, device: DeviceId) -> None:
        """Wait a moment for the connection that follows a pairing; a slow one is no failure."""
        mesh = self.daemon.mesh
        with trio.move_on_after(3.0):
            while True:
                changed = mesh.changed.event
                state = mesh.peers.get(device)
                if state is None or state.link is not None:
                    return
                await changed.wait()

    async def devices(self) -> list[Device]:
        """Return the paired devices."""
        return [self.row(state) for state in self.peers()]

    async def device_rename(self, name: str, new_name: str) -> Device:
        """Call a paired device by another name."""
        state = self.device(name)
        if not new_name.strip() or not new_name.isprintable():
            raise BadRequest("A device's name must be printable and not empty")
        if self.daemon.free_name(new_name, state.record.device) != new_name:
            raise BadRequest(f"Another device is called {new_name}")
        return self.row(self.daemon.mesh.put(replace(state.record, name=new_name)))

    async def device_pause(self, name: str) -> Device:
        """Disconnect a device and stay so."""
        mesh = self.daemon.mesh
        state = mesh.put(replace(self.device(name).record, paused=True))
        if state.link is not None:
            state.link.close()
        with trio.move_on_after(DISCONNECT_S):
            while state.link is not None:
                await mesh.changed.event.wait()
        return self.row(state)

    async def device_resume(self, name: str) -> Device:
        """Undo `device_pause`."""
        return self.row(self.daemon.mesh.put(replace(self.device(name).record, paused=False)))

    async def device_remove(self, name: str, *, everywhere: bool) -> RemoveReport:
        """Forget a paired device."""
        daemon = self.daemon
        state = self.device(name)
        device = state.record.device
        if state.link is not None:
            state.link.post(Removed())
            with trio.move_on_after(1.0, shield=True):
                await state.link.drained()
        # Later than its pairing whatever the clocks say.
        removed_us = max(daemon.clock.now_us(), state.record.paired_us + 1)
        daemon.devices.put_removal(device, removed_us, daemon.identity.device, everywhere=everywhere)
        daemon.mesh.drop(device)
        daemon.journal.tell("removed", device=state.record.name, message=f"removed {state.record.name}")
        told = [s.record.name for s in self.peers() if everywhere and s.link is not None]
        later = [s.record.name for s in self.peers() if everywhere and s.link is None]
        return RemoveReport(removed=state.record.name, everywhere=everywhere, told=told, later=later)
