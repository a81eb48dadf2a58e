"""What the daemon can say about its own health, and its numbers."""

from __future__ import annotations

import datetime as dt
import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from p2psyncd.control.messages import Check, ItemError, Metric, ShareStatus
from p2psyncd.daemon.desk import check
from p2psyncd.daemon.replica import Phase
from p2psyncd.daemon.report import checked_mode, clock_trouble, kind_of
from p2psyncd.errors import P2psyncError
from p2psyncd.store.device import ShareRecord

if TYPE_CHECKING:
    from p2psyncd.daemon.supervisor import Supervisor

__all__ = ["broken_row", "checks", "metrics"]

# A certificate or a build is never from before this; a clock that says so lost its battery.
CLOCK_LEAST = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
MIB = 1024 * 1024
DISK_LEAST_BYTES = 256 * MIB
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def broken_row(record: ShareRecord, reason: str) -> ShareStatus:
    """Return a share that could not be opened, as `status` shows it."""
    return ShareStatus(
        name=record.name,
        id=record.id.hex(),
        kind=kind_of(record),
        path=record.path,
        mode=checked_mode(record.mode),
        state="error",
        reason=reason,
        items=0,
        bytes=0,
        root="",
        need_items=0,
        need_bytes=0,
        conflicts=0,
        errors=[ItemError(item="", error=reason)],
        peers=[],
    )


async def checks(daemon: Supervisor) -> list[Check]:
    """Return the daemon's own checks."""
    discovery = daemon.discovery
    state = discovery.state if discovery is not None else "off"
    now = dt.datetime.fromtimestamp(daemon.clock.now_us() / 1_000_000, dt.UTC)
    found = [
        check("listening", "", "", fine=", ".join(daemon.listening)),
        check(
            "mdns",
            "mDNS is off by configuration" if state == "off" else "" if state == "running" else state,
            "Devices are found by address only: `p2psync pair CODE --at HOST:PORT`; "
            "check that an interface is up and allows multicast",
            fine="announcing and browsing",
        ),
        check(
            "clock",
            f"the clock says {now:%Y-%m-%d}" if now < CLOCK_LEAST else "",
            "Set the clock (`timedatectl set-ntp true`): concurrent edits are decided by it",
            fine=f"{now:%Y-%m-%d %H:%M:%S} UTC",
        ),
    ]
    found.append(config_check(daemon))
    for share in daemon.shares.all():
        found += share_checks(share.record, share.replica.phase, share.replica.reason)
        found += await daemon.executor.run(share.desk.checks)
    for record, reason in daemon.shares.broken.values():
        found.append(
            check(f"share {record.name}", reason, "Mend what it says and restart", fine="", fatal=True)
        )
    for peer in daemon.mesh.peers.values():
        if clocks := clock_trouble(peer):
            advice = "Set it (`timedatectl set-ntp true`): concurrent edits are decided by it"
            found.append(check(f"clock of {peer.record.name}", clocks, advice, fine=""))
        if peer.trouble:
            advice = f"`{peer.trouble_command}`" if peer.trouble_command else ""
            found.append(check(f"device {peer.record.name}", peer.trouble, advice, fine=""))
    return found


def config_check(daemon: Supervisor) -> Check:
    """Return whether the configuration could be read again now: what is wrong is not first seen at the next start."""
    trouble = ""
    try:
        daemon.load_config()
    except P2psyncError as error:
        trouble = error.message
    return check(
        "configuration",
        trouble,
        "The daemon goes on with what it read last; it would not start with this one",
        fine=str(daemon.places.config_file),
        fatal=bool(trouble),
    )


def share_checks(record: ShareRecord, phase: Phase, reason: str) -> list[Check]:
    """Return the checks of one share."""
    held = phase in {Phase.HELD, Phase.ERROR}
    found = [
        check(
            f"share {record.name}",
            f"{phase.value}: {reason}" if held else "",
            f"Look at {record.path}; `p2psync share approve {record.name}` if this is what you want",
            fine=phase.value,
            fatal=held,
        )
    ]
    try:
        free = shutil.disk_usage(record.path).free
    except OSError as error:
        found.append(
            check(
                f"disk of {record.name}",
                f"{error.strerror}: {record.path}",
                "Mount its disk, or put it back",
                fine="",
            )
        )
    else:
        found.append(
            check(
                f"disk of {record.name}",
                f"only {free // MIB:,} MiB are free" if free < DISK_LEAST_BYTES else "",
                "Make room: fetching stops below 256 MiB",
                fine=f"{free // MIB:,} MiB free",
            )
        )
    return found


def resident_bytes() -> int:
    """Return the memory this process holds now, in bytes."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * PAGE_BYTES


def metric(name: str, text: str, value: float, kind: str = "gauge", **labels: str) -> Metric:
    """Return one number."""
    return Metric(
        name=name, help=text, type="counter" if kind == "counter" else "gauge", labels=labels, value=value
    )


def metrics(daemon: Supervisor) -> list[Metric]:
    """Return the numbers for Prometheus."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = [
        metric("resident_bytes", "Memory in use.", resident_bytes()),
        metric("cpu_seconds_total", "Processor time.", usage.ru_utime + usage.ru_stime, "counter"),
        metric("peers", "Paired devices.", len(daemon.mesh.peers)),
        metric("peers_connected", "Connected devices.", len(daemon.mesh.links())),
    ]
    for share in daemon.shares.all():
        name, totals, applier = share.record.name, share.replica.totals, share.applier
        found += [
            metric("share_items", "Live items.", totals.items, share=name),
            metric("share_bytes", "Bytes of live files (none in databases).", totals.size, share=name),
            metric("share_need_items", "Items known but not here.", totals.pending_items, share=name),
            metric("share_need_bytes", "Bytes known but not here.", totals.pending_size, share=name),
            metric("share_conflicts", "Items with conflicts.", share.desk.conflicts, share=name),
            metric(
                "content_received_items_total",
                "Contents fetched from peers.",
                applier.received_items,
                "counter",
                share=name,
            ),
            metric(
                "content_received_bytes_total",
                "Content bytes fetched from peers.",
                applier.received_bytes,
                "counter",
                share=name,
            ),
            metric(
                "content_sent_items_total",
                "Contents given to peers.",
                share.sent.items,
                "counter",
                share=name,
            ),
            metric(
                "content_sent_bytes_total",
                "Content bytes given to peers.",
                share.sent.size,
                "counter",
                share=name,
            ),
        ]
    for link in daemon.mesh.links():
        peer = daemon.mesh.describe(link.device)
        found += [
            metric(
                "message_bytes_sent_total", "Main connection, sent.", link.sent_bytes, "counter", peer=peer
            ),
            metric(
                "message_bytes_received_total",
                "Main connection, received.",
                link.received_bytes,
                "counter",
                peer=peer,
            ),
        ]
    return found
