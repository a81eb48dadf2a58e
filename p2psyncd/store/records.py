"""What the device's file holds, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from p2psyncd.core.ids import DEVICE_ID_BYTES, SHARE_ID_BYTES, DeviceId, ShareId

__all__ = ["KINDS", "MODES", "EventRecord", "PeerRecord", "Removal", "ShareRecord"]

KINDS = ("folder", "database")
MODES = ("send-receive", "send-only", "receive-only")
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """A paired device."""

    device: DeviceId
    name: str
    certificate: bytes
    """DER."""
    introduced_by: DeviceId | None = None
    """The device that introduced it; None: paired by code."""
    addresses: tuple[str, ...] = ()
    """"ip:port", the last one known to work first."""
    paused: bool = False
    paired_us: int
    last_seen_us: int = 0
    """0: never."""
    found_by: str = ""
    """"mdns", "address" or "inbound"; empty if never seen."""

    def __post_init__(self) -> None:
        """Check what everything else relies on."""
        require(len(self.device) == DEVICE_ID_BYTES, "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A device that was removed, so that no introduction brings it back."""

    device: DeviceId
    removed_us: int
    by: DeviceId
    """The device on which it was removed."""
    everywhere: bool
    """Whether to pass it on to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRecord:
    """A share of this device."""

    id: ShareId
    name: str
    kind: str
    """"folder" or "database"."""
    path: str
    """As `os.fsdecode` gives it."""
    mode: str = "send-receive"
    """"send-receive", "send-only" or "receive-only"."""
    secret: bytes
    """Key of the trie's key hashes, 32 bytes, the same on all devices of the share."""
    paused: bool = False
    with_devices: tuple[DeviceId, ...] | None = None
    """None: all paired devices, later ones included."""
    added_us: int
    settings: Mapping[str, object] = field(default_factory=dict)
    """What JSON can hold."""

    def __post_init__(self) -> None:
        """Check what everything else relies on."""
        require(len(self.id) == SHARE_ID_BYTES, "id")
        require(self.kind in KINDS, "kind")
        require(self.mode in MODES, "mode")
        require(len(self.secret) == SECRET_BYTES, "secret")
        require(all(len(device) == DEVICE_ID_BYTES for device in self.with_devices or ()), "with_devices")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """Something that happened."""

    id: int
    """Grows with every event, never used twice."""
    time_us: int
    kind: str
    fields: Mapping[str, object]
    """What JSON can hold."""


def require(condition: bool, name: str) -> None:  # noqa: FBT001 - an assertion by another name
    """Raise ValueError naming a field whose value is impossible."""
    if not condition:
        msg = f"impossible value of {name}"
        raise ValueError(msg)
