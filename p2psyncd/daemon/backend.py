"""Answers the control API: every method is one thing that a person can ask of the daemon; see also the modules that it is made of."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from p2psyncd import __version__
from p2psyncd.control.messages import (
    Check,
    Conflict,
    ConflictDetail,
    Diff,
    Event,
    Keep,
    Metric,
    Restored,
    Status,
    SyncReport,
    ThisDevice,
    Verified,
    Version,
    WaitReport,
)
from p2psyncd.core.ids import format_device_id
from p2psyncd.daemon import comparing, conflicts, health, verifying
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.report import attention_of, missing_of, peer_status, share_report
from p2psyncd.daemon.share import RunningShare
from p2psyncd.daemon.share_requests import ShareRequests
from p2psyncd.daemon.signal import first_of
from p2psyncd.errors import ShareHeld, SharePaused, TimedOut

__all__ = ["DaemonBackend"]

# `wait` looks again at least this often: a state without a signal (an error that goes away) is seen too.
WAIT_LOOK_S = 1.0


class DaemonBackend(ShareRequests):
    """See `control.backend.Backend` for what each method promises."""

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
                    if shares and all(one.replica.phase is Phase.PAUSED for one in shares):
                        raise SharePaused(f"{shares[0].record.name} is paused on this device")
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
        waited = [one for one in shares if one.replica.phase is not Phase.PAUSED]
        return WaitReport(
            shares=[share_report(one, self.daemon.mesh) for one in waited],
            paused=[one.record.name for one in shares if one not in waited],
        )

    async def sync_once(self, share: str | None, *, timeout_s: float | None) -> SyncReport:
        """Connect, exchange until nothing is missing, and report."""
        shares = self.chosen(share)
        before = [(one.applier.received_items, one.applier.received_bytes) for one in shares]
        sent = [(one.sent.items, one.sent.size) for one in shares]
        self.daemon.mesh.addresses_changed()
        report = await self.wait(share, timeout_s=timeout_s, peers=1)
        return SyncReport(
            shares=report["shares"],
            paused=report["paused"],
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
