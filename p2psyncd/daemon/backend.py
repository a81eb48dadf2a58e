"""Answers the control API: every method is one thing that a person can ask of the daemon."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2psyncd import __version__
from p2psyncd.control.messages import (
    Check,
    Conflict,
    ConflictDetail,
    Device,
    Diff,
    Event,
    Keep,
    Metric,
    Mode,
    Offer,
    PairCode,
    RemoveReport,
    Restored,
    ShareKind,
    ShareStatus,
    Status,
    SyncReport,
    ThisDevice,
    Verified,
    Version,
    WaitReport,
)
from p2psyncd.core.ids import DeviceId, format_device_id
from p2psyncd.daemon import comparing, conflicts, health, verifying
from p2psyncd.daemon.mesh import PeerState
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.report import (
    Rates,
    attention_of,
    device_row,
    missing_of,
    peer_status,
    share_report,
    share_status,
    time_text,
)
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.signal import first_of
from p2psyncd.errors import (
    BadRequest,
    NoSuchDevice,
    NoSuchOffer,
    NotHeld,
    PairingFailed,
    ShareHeld,
    TimedOut,
)
from p2psyncd.net.pairing import join
from p2psyncd.wire import messages as wire
from p2psyncd.wire.messages import Removed
from p2psyncd.wire.pairing_code import parse_code

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["DaemonBackend"]

# How long `pair CODE` looks for the other device when nobody says how long.
JOIN_S = 30.0
# `wait` looks again at least this often: a state without a signal (an error that goes away) is seen too.
WAIT_LOOK_S = 1.0
# How long a connection that was closed takes to be gone, at most.
DISCONNECT_S = 2.0
ID_TEXT_LEAST = 7


class DaemonBackend:
    """See `control.backend.Backend` for what each method promises."""

    def __init__(self, daemon: Supervisor) -> None:
        self.daemon = daemon
        self.rates: dict[bytes, Rates] = {}

    # This device and its peers

    async def status(self) -> Status:
        """Return the whole picture."""
        daemon = self.daemon
        state = daemon.discovery.state if daemon.discovery is not None else "off"
        shares = await self.share_list()
        return Status(
            version=__version__,
            device=ThisDevice(
                id=format_device_id(daemon.identity.device), name=daemon.name, listen=daemon.listening
            ),
            peers=[peer_status(peer) for peer in self.peers()],
            shares=shares,
            attention=attention_of(daemon.mesh, state, shares, daemon.config_trouble),
            offers=await self.share_offers(),
        )

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

    # Shares

    def share_row(self, share: RunningShare) -> ShareStatus:
        """Return a share as `status` shows it."""
        rates = self.rates.setdefault(share.record.id, Rates())
        applier = share.applier
        now = self.daemon.clock.monotonic_s()
        return share_status(
            share, self.daemon.mesh, rates.note(now, applier.received_items, applier.received_bytes)
        )

    async def share_add(
        self, path: str, *, name: str | None, kind: ShareKind | None, mode: Mode, with_devices: list[str]
    ) -> ShareStatus:
        """Share a folder."""
        chosen = [self.device(one).record.device for one in with_devices] if with_devices else None
        share = await self.daemon.admission.add(
            Path(path), name=name, kind=kind, mode=mode, with_devices=chosen
        )
        self.daemon.journal.tell(
            "share_added", share=share.record.name, message=f"shares {share.record.path}"
        )
        return self.share_row(share)

    async def share_list(self) -> list[ShareStatus]:
        """Return the shares of this device."""
        shares = self.daemon.shares
        rows = [self.share_row(share) for share in shares.all()]
        rows += [health.broken_row(record, reason) for record, reason in shares.broken.values()]
        return sorted(rows, key=lambda row: row["name"])

    def offers(self) -> list[tuple[PeerState, wire.Offer]]:
        """Return what connected peers offer and this device has not accepted."""
        known = {*self.daemon.shares.running, *self.daemon.shares.broken}
        return [
            (state, offer)
            for state in self.peers()
            if state.link is not None
            for offer in state.link.offers.values()
            if offer.share not in known
        ]

    async def share_offers(self) -> list[Offer]:
        """Return what is offered."""
        return [
            Offer(
                name=offer.name,
                id=offer.share.hex(),
                kind="database" if offer.kind == "database" else "folder",
                device=state.record.name,
                items=offer.items,
                bytes=offer.size,
            )
            for state, offer in self.offers()
        ]

    async def share_accept(self, name: str, path: str, *, mode: Mode, from_device: str | None) -> ShareStatus:
        """Join an offered share."""
        wanted = self.device(from_device).record.device if from_device is not None else None
        found = {
            offer.share: (state, offer)
            for state, offer in self.offers()
            if name in {offer.name, offer.share.hex()} and wanted in {None, state.record.device}
        }
        if len(found) > 1:
            raise BadRequest(f"Several shares called {name} are offered; choose one with --from DEVICE")
        if not found:
            raise NoSuchOffer(name)
        ((state, offer),) = found.values()
        share = await self.daemon.admission.accept(offer, Path(path), mode=mode, member=state.record.device)
        self.daemon.journal.tell(
            "share_accepted", share=share.record.name, device=state.record.name, message=f"at {path}"
        )
        return self.share_row(share)

    async def share_pause(self, name: str) -> ShareStatus:
        """Stop watching and exchanging a share."""
        return await self.share_restart(name, paused=True)

    async def share_resume(self, name: str) -> ShareStatus:
        """Undo `share_pause`."""
        return await self.share_restart(name, paused=False)

    async def share_restart(self, name: str, *, paused: bool) -> ShareStatus:
        """Start a share anew, paused or not."""
        share = self.daemon.shares.named(name)
        if share.record.paused != paused:
            again = await self.daemon.shares.restart(share, replace(share.record, paused=paused))
            share = again if again is not None else self.daemon.shares.named(name)
        return self.share_row(share)

    async def share_rescan(self, name: str) -> ShareStatus:
        """Scan a share in full."""
        share = self.daemon.shares.named(name)
        if share.replica.phase is Phase.PAUSED:
            raise BadRequest(f"{name} is paused; `p2psync share resume {name}` looks for changes as well")
        await share.detect()
        return self.share_row(share)

    async def share_remove(self, name: str) -> ShareStatus:
        """Forget a share and leave its data."""
        for record, reason in self.daemon.shares.broken.values():
            if name in {record.name, record.id.hex()}:
                await self.daemon.admission.remove_broken(record)
                return health.broken_row(record, reason)
        share = self.daemon.shares.named(name)
        row = self.share_row(share)
        await self.daemon.admission.remove(share)
        self.daemon.journal.tell("share_removed", share=name, message="its data stays")
        return row

    async def share_approve(self, name: str) -> ShareStatus:
        """Release a held share."""
        share = self.daemon.shares.named(name)
        if share.replica.phase is not Phase.HELD:
            raise NotHeld(f"{name} is not held")
        await share.approve()
        return self.share_row(share)

    # Waiting

    def chosen(self, name: str | None) -> list[RunningShare]:
        """Return one share, or all."""
        return [self.daemon.shares.named(name)] if name is not None else self.daemon.shares.all()

    async def wait(self, share: str | None, *, timeout_s: float | None, peers: int) -> WaitReport:
        """Return when everything is detected, nothing is needed, and peers agree."""
        shares = self.chosen(share)
        missing = ["nothing was looked at yet"]
        try:
            with trio.fail_after(timeout_s if timeout_s is not None else math.inf):
                for one in shares:
                    if one.replica.phase is not Phase.PAUSED:
                        await one.detect()
                while missing:
                    shares = self.chosen(share)  # one may have been paused, resumed or removed meanwhile
                    events = [one.replica.signal.event for one in shares] + [self.daemon.mesh.changed.event]
                    missing = [text for one in shares if (text := missing_of(one, self.daemon.mesh, peers))]
                    if share is None:
                        broken = self.daemon.shares.broken.values()
                        missing += [
                            f"{record.name} could not be opened ({reason})" for record, reason in broken
                        ]
                    for one in shares:
                        if one.replica.phase is Phase.HELD:
                            raise ShareHeld(f"{one.record.name}: {one.replica.reason}")
                    if missing:
                        with trio.move_on_after(WAIT_LOOK_S):
                            await first_of(events)
        except trio.TooSlowError:
            raise TimedOut("; ".join(missing)) from None
        return WaitReport(shares=[share_report(one, self.daemon.mesh) for one in shares])

    async def sync_once(self, share: str | None, *, timeout_s: float | None) -> SyncReport:
        """Connect, exchange until nothing is missing, and report."""
        shares = self.chosen(share)
        before = [(one.applier.received_items, one.applier.received_bytes) for one in shares]
        sent = [(one.sent.items, one.sent.size) for one in shares]
        self.daemon.mesh.addresses_changed()
        report = await self.wait(share, timeout_s=timeout_s, peers=1)
        return SyncReport(
            shares=report["shares"],
            received_items=sum(
                one.applier.received_items - b[0] for one, b in zip(shares, before, strict=True)
            ),
            received_bytes=sum(
                one.applier.received_bytes - b[1] for one, b in zip(shares, before, strict=True)
            ),
            sent_items=sum(one.sent.items - s[0] for one, s in zip(shares, sent, strict=True)),
            sent_bytes=sum(one.sent.size - s[1] for one, s in zip(shares, sent, strict=True)),
        )

    # Conflicts, history, comparison

    async def conflicts(self, *, include_resolved: bool) -> list[Conflict]:
        """Return the conflicts of all shares."""
        return await conflicts.listing(self.daemon, include_resolved=include_resolved)

    async def conflict_show(self, conflict: str) -> ConflictDetail:
        """Return one conflict in detail."""
        return await conflicts.show(self.daemon, conflict)

    async def conflict_resolve(self, conflict: str, *, keep: Keep, loser: int) -> Conflict:
        """Resolve a conflict."""
        return await conflicts.resolve(self.daemon, conflict, keep=keep, loser=loser)

    async def history(self, path: str) -> list[Version]:
        """Return earlier versions."""
        share, key = self.daemon.shares.holding(Path(path))
        return await share.desk.versions(key)

    async def restore(self, path: str, *, version: str | None) -> Restored:
        """Put an earlier version back."""
        share, key = self.daemon.shares.holding(Path(path))
        return await share.desk.restore(key, version)

    async def diff(self, share: str, device: str | None) -> Diff:
        """Compare a share with a peer."""
        wanted = self.device(device) if device is not None else None
        return await comparing.diff(self.daemon, self.daemon.shares.named(share), wanted)

    async def verify(self, share: str | None) -> Verified:
        """Read everything again."""
        return await verifying.verify(self.chosen(share))

    # The daemon itself

    async def events(self, *, since: int, limit: int) -> list[Event]:
        """Return the newest events."""
        return self.daemon.journal.newest(since=since, limit=limit)

    def follow_events(self, since: int) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Open a stream of events."""
        return self.daemon.journal.follow(since)

    async def doctor(self) -> list[Check]:
        """Return what the daemon can say about its own health."""
        return await health.checks(self.daemon)

    async def metrics(self) -> list[Metric]:
        """Return the numbers for Prometheus."""
        return health.metrics(self.daemon)

    async def reload(self) -> None:
        """Read the configuration again."""
        self.daemon.reload()

    async def shutdown(self) -> None:
        """Ask the daemon to stop."""
        self.daemon.stopping.set()
