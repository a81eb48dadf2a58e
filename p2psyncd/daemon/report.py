"""What the daemon says of itself to the control API: plain dictionaries from live objects."""

from __future__ import annotations

import datetime as dt
import os
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from p2psyncd.control.attention import share_attention
from p2psyncd.control.messages import (
    Attention,
    Device,
    FoundBy,
    ItemError,
    Mode,
    PeerStatus,
    ShareKind,
    SharePeer,
    ShareReport,
    ShareState,
    ShareStatus,
)
from p2psyncd.core.ids import format_device_id
from p2psyncd.daemon.membership import counters_named
from p2psyncd.daemon.mesh import Mesh, PeerState
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.sessions import SessionDriver
from p2psyncd.daemon.share import RunningShare
from p2psyncd.errors import BadRequest
from p2psyncd.store.device import ShareRecord

__all__ = [
    "ERRORS_SHOWN_MAX",
    "Rates",
    "attention_of",
    "checked_mode",
    "clock_trouble",
    "device_row",
    "drivers_of",
    "kind_of",
    "missing_of",
    "peer_status",
    "share_report",
    "share_status",
    "text_of_key",
    "time_text",
]

# As many as a person can look at; `status` is no place for ten thousand.
ERRORS_SHOWN_MAX = 100
RATE_WINDOW_S = 3.0
# Nobody edits one thing on two devices within a minute and knows which came later.
CLOCKS_APART_S = 60
LAST_MOMENT = dt.datetime.max.replace(tzinfo=dt.UTC)
"""The last one that RFC 3339 can write; a peer may claim later ones (up to `HLC_MAX`)."""


def time_text(when_us: int) -> str:
    """Return microseconds since 1970 as RFC 3339 in UTC; what lies past the year 9999 is its last moment."""
    start = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    moment = start + dt.timedelta(
        microseconds=min(when_us, (LAST_MOMENT - start) // dt.timedelta(microseconds=1))
    )
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text_of_key(key: bytes) -> str:
    """Return an item's key as text; what is not UTF-8 becomes lone surrogates."""
    return os.fsdecode(key)


def kind_of(record: ShareRecord) -> ShareKind:
    """Return what kind of share it is."""
    return "database" if record.kind == "database" else "folder"


@dataclass(slots=True)
class Rates:
    """How fast content came lately."""

    samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def note(self, now_s: float, items: int, size: int) -> tuple[float, float]:
        """Return (items, bytes) per second over the last seconds, given the totals so far."""
        self.samples.append((now_s, items, size))
        while len(self.samples) > 1 and now_s - self.samples[0][0] > RATE_WINDOW_S:
            self.samples.popleft()
        then, items_then, size_then = self.samples[0]
        passed = now_s - then
        if passed <= 0:
            return 0.0, 0.0
        return (items - items_then) / passed, (size - size_then) / passed


def drivers_of(mesh: Mesh, share: RunningShare) -> list[tuple[PeerState, SessionDriver]]:
    """Return the sessions of a share, with the peers they are with."""
    found = []
    for state in mesh.peers.values():
        driver = state.link.drivers.get(share.replica.share) if state.link is not None else None
        if driver is not None:
            found.append((state, driver))
    return found


def session_troubles(mesh: Mesh, share: RunningShare) -> list[tuple[PeerState, str]]:
    """Return why sessions of a share with connected peers failed."""
    found = []
    for state in mesh.peers.values():
        trouble = state.link.failures.get(share.replica.share) if state.link is not None else None
        if trouble is not None:
            found.append((state, trouble))
    return found


def share_state(share: RunningShare) -> tuple[ShareState, str | None]:
    """Return the state and the reason for it."""
    replica = share.replica
    if share.arriving is not None:
        return "syncing", "waiting: a copy of it is on its way from another device"
    waiting = f"waiting: {share.waiting}" if share.waiting else None
    match replica.phase:
        case Phase.READY:
            if replica.totals.pending_items and share.applier.active:
                return "syncing", waiting
            return "idle", waiting
        case Phase.STARTING:
            return "starting", waiting
        case Phase.SCANNING:
            return "scanning", waiting
        case Phase.HELD:
            return "held", f"{named(replica.reason, share)}{what_to_do(share)}"
        case Phase.PAUSED:
            return "paused", replica.reason
        case Phase.ERROR:
            return "error", replica.reason


def named(reason: str, share: RunningShare) -> str:
    """Return a reason with the share's name in the commands that it names: a source does not know it."""
    return reason.replace("share approve NAME", f"share approve {shlex.quote(share.record.name)}")


def what_to_do(share: RunningShare) -> str:
    """Return what a person can do about a share that is held, where the reason itself does not say it."""
    if not share.replica.held_deletions:
        return ""
    approve = f"p2psync share approve {shlex.quote(share.record.name)}"
    return f". If that is meant, `{approve}` deletes them there too; if not, put them back and it goes on"


def holding_peers(mesh: Mesh, share: RunningShare) -> list[str]:
    """Return the names of connected devices that hold this share themselves."""
    return [
        state.record.name
        for state in mesh.peers.values()
        if state.link is not None
        and (offer := state.link.offers.get(share.replica.share)) is not None
        and offer.held
    ]


def counter_troubles(mesh: Mesh, share: RunningShare) -> Iterator[ItemError]:
    """Yield the columns that add up on one side only: what both add at once is lost there, or counted on one of them alone."""
    ours = set(counters_named(share.record))
    for state in mesh.peers.values():
        offer = state.link.offers.get(share.replica.share) if state.link is not None else None
        theirs = offer.counters if offer is not None and share.record.kind == "database" else None
        for name in sorted(ours ^ set(theirs)) if theirs is not None else ():
            there = f"on {state.record.name}"
            yes, no = ("here", there) if name in ours else (there, "here")
            yield ItemError(
                item=name,
                error=f"is a counter {yes}, and none {no}: what is added at once does not add up. "
                f"Remove the share {no} (the file stays), and accept it again",
            )


def share_errors(share: RunningShare, mesh: Mesh) -> list[ItemError]:
    """Return what could not be read or applied, and with whom nothing can be exchanged."""
    replica = share.replica
    together = {**replica.errors, **share.applier.failures}
    troubles = [
        ItemError(item="", error=f"{state.record.name}: {trouble}")
        for state, trouble in session_troubles(mesh, share)
    ]
    troubles += [
        ItemError(item="", error=f"{name} holds this share; `p2psync status` there says why")
        for name in holding_peers(mesh, share)
    ]
    troubles += islice(counter_troubles(mesh, share), ERRORS_SHOWN_MAX)
    troubles += islice(share.desk.errors(), ERRORS_SHOWN_MAX)
    return troubles + [
        ItemError(item=share.desk.name_of(key), error=reason)
        for key, reason in sorted(together.items())[:ERRORS_SHOWN_MAX]
    ]


def share_status(share: RunningShare, mesh: Mesh, rates: tuple[float, float]) -> ShareStatus:
    """Return one share as `status` shows it."""
    replica, totals = share.replica, share.replica.totals
    state, reason = share_state(share)
    peers: list[SharePeer] = []
    for peer_state, driver in drivers_of(mesh, share):
        peer = driver.session.peer
        peers.append(
            SharePeer(
                name=peer_state.record.name,
                in_sync=driver.in_sync,
                need_items=peer.need_items if peer is not None else 0,
                need_bytes=peer.need_size if peer is not None else 0,
            )
        )
    row = ShareStatus(
        name=share.record.name,
        id=share.record.id.hex(),
        kind=kind_of(share.record),
        path=share.record.path,
        mode=checked_mode(share.record.mode),
        state=state,
        reason=reason,
        items=totals.items,
        bytes=totals.size,
        root=replica.standing.root.hex(),
        need_items=totals.pending_items,
        need_bytes=totals.pending_size + (share.arriving.missing if share.arriving is not None else 0),
        conflicts=share.desk.conflicts,
        errors=share_errors(share, mesh),
        peers=peers,
        rate_items_s=rates[0],
        rate_bytes_s=rates[1],
        limited=limited_of(share),
    )
    share.desk.describe(row)
    return row


def limited_of(share: RunningShare) -> Attention | None:
    """Return why changes of a share may be found late, if they may."""
    source = share.source
    return Attention(message=source.limited, command=source.limited_command) if source.limited else None


def peer_status(state: PeerState) -> PeerStatus:
    """Return one paired device as `status` shows it."""
    record, link = state.record, state.link
    return PeerStatus(
        id=format_device_id(record.device),
        name=record.name,
        connected=link is not None,
        address=link.address if link is not None else (record.addresses[0] if record.addresses else None),
        found_by=found_by(link.found_by if link is not None else record.found_by),
        last_seen=time_text(record.last_seen_us) if record.last_seen_us else None,
        paused=record.paused,
        trouble=state.trouble,
    )


def found_by(text: str) -> FoundBy | None:
    """Return how a device was found, if that is known."""
    match text:
        case "mdns" | "address" | "inbound":
            return text
        case _:
            return None


def device_row(state: PeerState, mesh: Mesh) -> Device:
    """Return one paired device as `device list` shows it."""
    record = state.record
    status = peer_status(state)
    return Device(
        id=status["id"],
        name=record.name,
        connected=status["connected"],
        paused=record.paused,
        address=status["address"],
        found_by=status["found_by"],
        last_seen=status["last_seen"],
        paired=time_text(record.paired_us),
        introduced_by=mesh.describe(record.introduced_by) if record.introduced_by is not None else None,
    )


def attention_of(
    mesh: Mesh, discovery_state: str, shares: Sequence[ShareStatus], config_trouble: str = ""
) -> list[Attention]:
    """Return what needs a person."""
    found: list[Attention] = [
        Attention(message=f"{state.record.name}: {state.trouble}", command=state.trouble_command)
        for state in mesh.peers.values()
        if state.trouble
    ]
    found += [
        Attention(message=f"{state.record.name}: {trouble}", command="timedatectl set-ntp true")
        for state in mesh.peers.values()
        if (trouble := clock_trouble(state))
    ]
    if discovery_state.startswith("failed"):
        found.append(
            Attention(
                message=f"mDNS does not work ({discovery_state.partition(': ')[2]}); "
                "devices are found by their last addresses only",
                command="p2psync doctor",
            )
        )
    if config_trouble:
        found.append(
            Attention(message=f"The old configuration stays: {config_trouble}", command="p2psync doctor")
        )
    for share in shares:
        found += share_attention(share)
    return found


def clock_trouble(state: PeerState) -> str:
    """Return what is wrong with a connected device's clock, or with ours, in words; empty if they agree."""
    apart_s = state.link.clock_ahead_us // 1_000_000 if state.link is not None else 0
    if abs(apart_s) <= CLOCKS_APART_S:
        return ""
    span = dt.timedelta(seconds=abs(apart_s))
    side = "ahead of" if apart_s > 0 else "behind"
    return (
        f"its clock is {span} {side} this one's: of changes made on both at once the one that a clock says is later "
        "wins, so set the one that is wrong"
    )


def missing_of(share: RunningShare, mesh: Mesh, least: int) -> str:
    """Return what keeps a share from being equal everywhere, in words; empty if nothing does."""
    name = share.record.name
    state, reason = share_state(share)
    if state in {"starting", "scanning", "held", "error"}:
        return f"{name} is {state}" + (f" ({reason})" if reason else "")
    if state == "paused":
        return ""
    if reason:
        return f"{name} is {reason}"
    totals = share.replica.totals
    if totals.pending_items:
        return f"{name} needs {totals.pending_items} items ({totals.pending_size} bytes)"
    return missing_at_peers(share, mesh, least)


def missing_at_peers(share: RunningShare, mesh: Mesh, least: int) -> str:
    """Return what keeps connected peers from being equal to this device, in words; empty if nothing does."""
    name = share.record.name
    troubles = session_troubles(mesh, share)
    if troubles:
        return f"{name}: {troubles[0][0].record.name}: {troubles[0][1].rstrip('.')}"
    drivers = drivers_of(mesh, share)
    for peer_state, driver in drivers:
        peer = driver.session.peer
        if peer is None:
            return f"{name}: {peer_state.record.name} has not said how it stands"
        if peer.need_items:
            return f"{name}: {peer_state.record.name} needs {peer.need_items} items"
        if not driver.in_sync:
            return f"{name}: {peer_state.record.name} does not hold the same yet"
    if len(drivers) < least and (holding := holding_peers(mesh, share)):
        return f"{name}: {holding[0]} holds it; `p2psync status` there says why"
    if len(drivers) < least:
        return f"{name}: {len(drivers)} of at least {least} peers are connected, not counting any that have paused it"
    return ""


def share_report(share: RunningShare, mesh: Mesh) -> ShareReport:
    """Return where a share stands."""
    totals = share.replica.totals
    return ShareReport(
        name=share.record.name,
        root=share.replica.standing.root.hex(),
        items=totals.items,
        bytes=totals.size,
        peers=in_sync_names(drivers_of(mesh, share)),
    )


def in_sync_names(drivers: Iterable[tuple[PeerState, SessionDriver]]) -> list[str]:
    """Return the names of the peers that are in sync."""
    return sorted(state.record.name for state, driver in drivers if driver.in_sync)


def checked_mode(mode: str) -> Mode:
    """Return a mode.

    Raises:
        BadRequest: It is none.
    """
    match mode:
        case "send-receive" | "send-only" | "receive-only":
            return mode
        case _:
            raise BadRequest(f"{mode} is no mode; use send-receive, send-only or receive-only")
