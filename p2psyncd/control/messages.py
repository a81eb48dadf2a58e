"""What travels over the control socket: the JSON shapes that daemon and client share.

Plain dictionaries, described as TypedDicts: the client must start fast, so nothing here costs more than
an import. Fields may be added, never renamed or removed: INTERFACE.md is a contract. Times are RFC 3339
in UTC. Paths and item names are `os.fsdecode` strings; bytes that are not UTF-8 travel as the JSON
escapes of lone surrogates, so `os.fsencode` on the other side gives the same bytes.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

__all__ = [
    "Attention",
    "Check",
    "CheckResult",
    "Compared",
    "Comparison",
    "Conflict",
    "ConflictDetail",
    "ConflictSide",
    "Device",
    "DeviceDiff",
    "Diff",
    "Difference",
    "ErrorBody",
    "Event",
    "FoundBy",
    "ItemError",
    "Join",
    "Keep",
    "Loser",
    "Metric",
    "Mode",
    "Offer",
    "PairCode",
    "PeerStatus",
    "Problem",
    "RemoveReport",
    "Restored",
    "ShareKind",
    "SharePeer",
    "ShareReport",
    "ShareState",
    "ShareStatus",
    "Status",
    "SyncReport",
    "TableComparison",
    "ThisDevice",
    "Verified",
    "Version",
    "WaitReport",
]

ShareKind = Literal["folder", "database"]
Mode = Literal["send-receive", "send-only", "receive-only"]
ShareState = Literal["starting", "idle", "scanning", "syncing", "held", "paused", "error"]
FoundBy = Literal["mdns", "address", "inbound"]
CheckResult = Literal["ok", "warn", "fail"]
Keep = Literal["winner", "loser", "both"]
Join = Literal["merge", "adopt"]


class ErrorBody(TypedDict):
    """The value of `error` in every answer that is not a success."""

    code: str
    """`P2psyncError.wire_code`."""
    exit_code: int
    message: str
    """What the user reads: what happened, what to do next."""


# Status


class ThisDevice(TypedDict):
    """The device that answers."""

    id: str
    name: str
    listen: list[str]
    """`ip:port`, IPv6 in brackets."""


class PeerStatus(TypedDict):
    """One paired device, as `status` shows it."""

    id: str
    name: str
    connected: bool
    address: str | None
    """`ip:port` of the connection, else of the last one; None if there never was one."""
    found_by: FoundBy | None
    last_seen: str | None
    paused: NotRequired[bool]
    trouble: NotRequired[str | None]
    """Why there is no connection, if that is known and a person can do something about it."""


class ItemError(TypedDict):
    """An item that could not be read or applied."""

    item: str
    error: str


class SharePeer(TypedDict):
    """How far one peer of a share is."""

    name: str
    in_sync: bool
    need_items: int
    need_bytes: int


class ShareStatus(TypedDict):
    """One share, as `status` and `share list` show it."""

    name: str
    id: str
    kind: ShareKind
    path: str
    mode: Mode
    state: ShareState
    reason: str | None
    items: int
    bytes: int
    root: str
    """Merkle root in hex; equal on two devices exactly when they hold the same items."""
    need_items: int
    need_bytes: int
    conflicts: int
    errors: list[ItemError]
    peers: list[SharePeer]
    rate_bytes_s: NotRequired[float]
    """Content received lately, bytes per second; 0 or absent when nothing moves."""
    rate_items_s: NotRequired[float]
    """Items applied lately, per second."""
    left_out: NotRequired[dict[str, str]]
    """Tables of a database that are not synced on purpose, and why."""
    counters: NotRequired[list[str]]
    """Columns (TABLE.COLUMN) to which this device's apps add."""
    limited: NotRequired[Attention | None]
    """Why changes here may be found late, and the command against it."""
    hard_links: NotRequired[list[list[str]]]
    """The names of files that have several here (the first hundred files); peers get a file for each name."""


class Attention(TypedDict):
    """Something that needs a person."""

    message: str
    command: str | None
    """The command to run about it."""


class Status(TypedDict):
    """`GET /v1/status`."""

    version: str
    device: ThisDevice
    peers: list[PeerStatus]
    shares: list[ShareStatus]
    attention: NotRequired[list[Attention]]
    """What needs a person: troubles with devices, held shares, errors, conflicts."""
    offers: NotRequired[list[Offer]]
    """Shares that connected peers offer and this device has not accepted."""


# Devices and pairing


class PairCode(TypedDict):
    """A code that is being shown."""

    code: str
    expires: str


class Device(TypedDict):
    """A paired device, as `device list` shows it."""

    id: str
    name: str
    connected: bool
    paused: bool
    address: str | None
    found_by: FoundBy | None
    last_seen: str | None
    paired: str
    """When."""
    introduced_by: str | None
    """Name of the device that introduced it; None: paired by code."""


class RemoveReport(TypedDict):
    """What `device remove` did."""

    removed: str
    everywhere: bool
    told: list[str]
    """Devices that were asked to remove it as well and have heard it."""
    later: list[str]
    """Devices that will hear it when they are seen next."""


# Shares


class Offer(TypedDict):
    """A share that a peer offers and this device has not accepted."""

    name: str
    id: str
    kind: ShareKind
    device: str
    items: int
    bytes: int


class TableComparison(TypedDict):
    """How the rows of one table here and on a peer compare."""

    table: str
    identical: int
    only_here: int
    only_there: int
    different: int
    """Rows of one key with other values."""


class Compared(TypedDict):
    """How the rows of a database here and on a peer compare."""

    identical: int
    only_here: int
    only_there: int
    different: int
    tables: list[TableComparison]
    complete: bool
    """Whether everything that differs was looked at; else there is more of it than in `tables`."""


class Comparison(Compared):
    """`POST /v1/shares/compare`: a database here against an offered share."""

    share: str
    path: str
    device: str
    """The peer that was asked."""


class ShareReport(TypedDict):
    """Where one share stands after `wait` or `sync`."""

    name: str
    root: str
    items: int
    bytes: int
    peers: list[str]
    """Names of the peers that reported the same root and have all content."""


class WaitReport(TypedDict):
    """`wait` succeeded."""

    shares: list[ShareReport]
    paused: list[str]
    """Names of shares that are paused here: nobody waited for them."""


class SyncReport(TypedDict):
    """`sync --once` succeeded."""

    shares: list[ShareReport]
    paused: list[str]
    """As in `WaitReport`."""
    received_items: int
    received_bytes: int
    sent_items: int
    sent_bytes: int


# Conflicts, history, comparison


class Loser(TypedDict):
    """A version that lost."""

    device: str
    time: str
    where: str
    """Folder: path of the conflict copy below the share; database: table, key, column and value."""


class Conflict(TypedDict):
    """One conflict, as `conflict list` shows it."""

    id: str
    share: str
    kind: ShareKind
    item: str
    winner: str
    """Name of the device whose version has the item's name."""
    losers: list[Loser]
    time: str
    resolved: bool


class ConflictSide(TypedDict):
    """One version of a conflict in detail."""

    device: str
    time: str
    where: str
    """Absolute path on this device (folder), or the value (database)."""
    bytes: int
    digest: str


class ConflictDetail(Conflict):
    """`conflict show`: sides[0] is the winner, then the losers in order."""

    sides: list[ConflictSide]


class Version(TypedDict):
    """An earlier version kept in history."""

    version: str
    """What `restore --version` takes."""
    path: str
    time: str
    """When it was replaced or deleted."""
    bytes: int
    reason: str
    """`replaced`, `deleted` or (a row) `lost a conflict`, and by whom."""
    device: str | None
    item: NotRequired[str]
    """In a database: table, primary key, columns and values."""


class Restored(TypedDict):
    """What `restore` did."""

    path: str
    version: str
    replaced: bool
    """Whether something was at the path; it is in history now."""
    count: NotRequired[int]
    """Of a folder: how many files that had been deleted are back."""
    failed: NotRequired[list[str]]
    """Of a folder: what could not be put back, each with the reason."""
    item: NotRequired[str]
    """Of a database: the row."""


class Difference(TypedDict):
    """An item that is not the same on both devices."""

    item: str
    here: str
    """In words: `absent`, `file, 12 bytes, changed 2025-01-01T00:00:00Z` …"""
    there: str


class DeviceDiff(TypedDict):
    """What differs from one peer."""

    device: str
    connected: bool
    differences: list[Difference]
    round_trips: int
    bytes: int
    """What the comparison cost on the wire."""


class Diff(TypedDict):
    """`GET /v1/diff`."""

    share: str
    devices: list[DeviceDiff]


class Problem(TypedDict):
    """Something that `verify` found wrong."""

    share: str
    item: str
    problem: str


class Verified(TypedDict):
    """What `verify` read and found."""

    items: int
    bytes: int
    problems: list[Problem]


# The daemon itself


class Event(TypedDict):
    """Something that happened."""

    id: int
    """Grows by one with each event of this daemon's life."""
    time: str
    type: str
    share: str | None
    device: str | None
    item: str | None
    message: str


class Check(TypedDict):
    """One line of `doctor`."""

    name: str
    ok: CheckResult
    message: str
    advice: str
    """What to do; empty if ok."""


class Metric(TypedDict):
    """One number for Prometheus; the server adds the prefix `p2psync_`."""

    name: str
    help: str
    type: Literal["counter", "gauge"]
    labels: dict[str, str]
    value: float
