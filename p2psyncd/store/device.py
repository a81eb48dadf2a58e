"""The device's own storage: peers, removals, shares, events and settings, in one SQLite file.

Unlike a share's, it may be called from any thread at any time.
"""

# ruff: noqa: S608 - what is put into the SQL are constants of this module.
from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import apsw

from p2psyncd.core.ids import DEVICE_ID_BYTES, DeviceId, ShareId
from p2psyncd.errors import NoSuchDevice, ShareExists
from p2psyncd.store.database import Database, Row
from p2psyncd.store.records import EventRecord, PeerRecord, Removal, ShareRecord

__all__ = ["DeviceStore", "EventRecord", "PeerRecord", "Removal", "ShareRecord"]

EVENTS_MAX = 10_000
ADDRESSES_MAX = 8

PEER = "device, name, certificate, introduced_by, addresses, paused, paired_us, last_seen_us, found_by"
SHARE = "id, name, kind, path, mode, secret, paused, with_devices, added_us, settings"
EVENT = "id, time_us, kind, fields"


class DeviceStore:
    """What belongs to the device and not to a share. Losing it would unpair everything, so every change is durable."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(cls, path: Path | str) -> DeviceStore:
        """Open the device's file, making it if there is none.

        Raises:
            StateCorrupt: It is damaged; it is named.
            StateTooNew: A newer version wrote it.
            HomeUnusable: It can be neither opened nor made.
        """
        return cls(Database.open(path, kind="device", shared=True))

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes inside the block one durable step; nests."""
        with self.database.transaction(durable=True):
            yield

    # Peers
    def peers(self) -> list[PeerRecord]:
        """Return the paired devices, by name."""
        return [peer_of(row) for row in self.database.rows(f"SELECT {PEER} FROM peers ORDER BY name, device")]

    def peer(self, device: DeviceId) -> PeerRecord | None:
        """Return a paired device."""
        row = self.database.found(f"SELECT {PEER} FROM peers WHERE device = ?", (device,))
        return None if row is None else peer_of(row)

    def put_peer(self, peer: PeerRecord) -> None:
        """Add or replace a paired device."""
        values = (
            peer.device,
            peer.name,
            peer.certificate,
            peer.introduced_by,
            json.dumps(peer.addresses[:ADDRESSES_MAX]),
            int(peer.paused),
            peer.paired_us,
            peer.last_seen_us,
            peer.found_by,
        )
        with self.transaction():
            self.database.run(f"INSERT OR REPLACE INTO peers ({PEER}) VALUES (?,?,?,?,?,?,?,?,?)", values)

    def remove_peer(self, device: DeviceId) -> None:
        """Forget a paired device, if it is one; see `put_removal` for remembering that."""
        with self.transaction():
            self.database.run("DELETE FROM peers WHERE device = ?", (device,))

    def rename_peer(self, device: DeviceId, name: str) -> None:
        """Give a paired device another name.

        Raises:
            NoSuchDevice: It is not paired.
        """
        with self.transaction():
            if not self.database.rows(
                "UPDATE peers SET name = ? WHERE device = ? RETURNING 1", (name, device)
            ):
                raise NoSuchDevice

    def note_seen(self, device: DeviceId, address: str | None, found_by: str, now_us: int) -> None:
        """Note when, where and how a peer was last seen; nothing if it is not paired (any more).

        Args:
            device: The peer.
            address: "ip:port" that worked, kept in front of up to seven earlier ones; None: none to tell.
            found_by: "mdns", "address" or "inbound".
            now_us: The wall clock, microseconds since 1970.
        """
        # It happens with every connection and is worth no waiting for the disk.
        with self.database.transaction(durable=False):
            peer = self.peer(device)
            if peer is None:
                return
            known = peer.addresses
            if address is not None:
                known = (address, *(other for other in known if other != address))[:ADDRESSES_MAX]
            self.database.run(
                "UPDATE peers SET addresses = ?, last_seen_us = ?, found_by = ? WHERE device = ?",
                (json.dumps(known), now_us, found_by, device),
            )

    # Removals
    def removals(self) -> list[Removal]:
        """Return the devices that were removed, oldest first."""
        rows = self.database.rows(
            "SELECT device, removed_us, removed_by, everywhere FROM removals ORDER BY removed_us, device"
        )
        return [removal_of(row) for row in rows]

    def count_removals(self) -> int:
        """Return how many devices were removed."""
        (count,) = self.database.row("SELECT count(*) FROM removals")
        return int(count)

    def removed(self, device: DeviceId) -> Removal | None:
        """Return when and by whom a device was removed, if it was."""
        row = self.database.found(
            "SELECT device, removed_us, removed_by, everywhere FROM removals WHERE device = ?", (device,)
        )
        return None if row is None else removal_of(row)

    def put_removal(self, device: DeviceId, removed_us: int, by: DeviceId, *, everywhere: bool) -> None:
        """Remember that a device was removed; of two removals the later counts, and it stays everywhere if one was."""
        with self.transaction():
            self.database.run(
                "INSERT INTO removals AS old (device, removed_us, removed_by, everywhere) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (device) DO UPDATE SET everywhere = max(old.everywhere, excluded.everywhere),"
                " removed_by = iif(excluded.removed_us > old.removed_us, excluded.removed_by, old.removed_by),"
                " removed_us = max(old.removed_us, excluded.removed_us)",
                (device, removed_us, by, int(everywhere)),
            )

    def forget_removal(self, device: DeviceId) -> None:
        """Let a device be known again, as when it is paired by code."""
        with self.transaction():
            self.database.run("DELETE FROM removals WHERE device = ?", (device,))

    # Shares
    def shares(self) -> list[ShareRecord]:
        """Return the shares, by name."""
        return [share_of(row) for row in self.database.rows(f"SELECT {SHARE} FROM shares ORDER BY name")]

    def share(self, name_or_id: str | ShareId) -> ShareRecord | None:
        """Return a share by its name (text) or ID (16 bytes)."""
        column = "name" if isinstance(name_or_id, str) else "id"
        row = self.database.found(f"SELECT {SHARE} FROM shares WHERE {column} = ?", (name_or_id,))
        return None if row is None else share_of(row)

    def put_share(self, share: ShareRecord) -> None:
        """Add or replace a share.

        Raises:
            ShareExists: Another share has the name.
        """
        devices = None if share.with_devices is None else b"".join(share.with_devices)
        values = (
            share.id,
            share.name,
            share.kind,
            os.fsencode(share.path),
            share.mode,
            share.secret,
            int(share.paused),
            devices,
            share.added_us,
            json.dumps(dict(share.settings)),
        )
        with self.transaction():
            self.database.run("DELETE FROM shares WHERE id = ?", (share.id,))
            try:
                self.database.run(f"INSERT INTO shares ({SHARE}) VALUES (?,?,?,?,?,?,?,?,?,?)", values)
            except apsw.ConstraintError as error:
                raise ShareExists(share.name) from error

    def remove_share(self, share: ShareId) -> None:
        """Forget a share, if there is one."""
        with self.transaction():
            self.database.run("DELETE FROM shares WHERE id = ?", (share,))

    # Events
    def append_event(self, kind: str, fields: Mapping[str, object], now_us: int) -> EventRecord:
        """Note that something happened; the newest 10,000 are kept.

        Args:
            kind: What, one word.
            fields: More of it; what JSON can hold.
            now_us: The wall clock, microseconds since 1970.
        """
        # A power cut may take the last events along: they are for people to read.
        with self.database.transaction(durable=False):
            (number,) = self.database.row(
                "INSERT INTO events (time_us, kind, fields) VALUES (?, ?, ?) RETURNING id",
                (now_us, kind, json.dumps(dict(fields))),
            )
            self.database.run("DELETE FROM events WHERE id <= ?", (number - EVENTS_MAX,))
        return EventRecord(id=number, time_us=now_us, kind=kind, fields=dict(fields))

    def events_since(self, number: int, limit: int) -> list[EventRecord]:
        """Return the first `limit` events with an ID above `number`, oldest first."""
        rows = self.database.rows(
            f"SELECT {EVENT} FROM events WHERE id > ? ORDER BY id LIMIT ?", (number, limit)
        )
        return [event_of(row) for row in rows]

    def newest_events(self, limit: int) -> list[EventRecord]:
        """Return the newest `limit` events, oldest first."""
        rows = self.database.rows(f"SELECT {EVENT} FROM events ORDER BY id DESC LIMIT ?", (limit,))
        return [event_of(row) for row in reversed(rows)]

    # Settings
    def setting(self, name: str) -> bytes | None:
        """Return a stored value of the device."""
        row = self.database.found("SELECT value FROM settings WHERE name = ?", (name,))
        return None if row is None else row[0]

    def set_setting(self, name: str, value: bytes) -> None:
        """Store a value of the device."""
        with self.transaction():
            self.database.run("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))


def peer_of(row: Row) -> PeerRecord:
    """Return the peer that a row of `PEER` columns says."""
    device, name, certificate, introduced_by, addresses, paused, paired_us, last_seen_us, found_by = row
    return PeerRecord(
        device=device,
        name=name,
        certificate=certificate,
        introduced_by=introduced_by,
        addresses=tuple(json.loads(addresses)),
        paused=bool(paused),
        paired_us=paired_us,
        last_seen_us=last_seen_us,
        found_by=found_by,
    )


def removal_of(row: Row) -> Removal:
    """Return the removal that a row says."""
    device, removed_us, by, everywhere = row
    return Removal(device=device, removed_us=removed_us, by=by, everywhere=bool(everywhere))


def share_of(row: Row) -> ShareRecord:
    """Return the share that a row of `SHARE` columns says."""
    number, name, kind, path, mode, secret, paused, devices, added_us, settings = row
    return ShareRecord(
        id=number,
        name=name,
        kind=kind,
        path=os.fsdecode(path),
        mode=mode,
        secret=secret,
        paused=bool(paused),
        with_devices=None
        if devices is None
        else tuple(
            DeviceId(devices[at : at + DEVICE_ID_BYTES]) for at in range(0, len(devices), DEVICE_ID_BYTES)
        ),
        added_us=added_us,
        settings=json.loads(settings),
    )


def event_of(row: Row) -> EventRecord:
    """Return the event that a row of `EVENT` columns says."""
    number, time_us, kind, fields = row
    return EventRecord(id=number, time_us=time_us, kind=kind, fields=json.loads(fields))
