"""The messages of the main connection, `p2psync/1`: what they say and how they look.

A message is a CBOR list: its type's number, then its fields. A receiver ignores fields beyond those
it knows, so that a later version may add some; a type that it does not know is refused by its number.
docs/protocol.md lists the same in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from p2psyncd.core.ids import DEVICE_ID_BYTES, DeviceId, ShareId
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.codec import decode, encode, take_bool, take_bytes, take_int, take_list, take_text
from p2psyncd.wire.session_messages import (
    Ask,
    Boot,
    Closed,
    Delta,
    Done,
    Gone,
    Hello,
    Know,
    SessionMessage,
    ShareMessage,
    Summaries,
    Want,
    take_share,
)
from p2psyncd.wire.snapshot_messages import (
    SnapshotMessage,
    SnapshotReady,
    SnapshotRefused,
    SnapshotWanted,
)

__all__ = [
    "Ask",
    "Boot",
    "Closed",
    "Delta",
    "Done",
    "Gone",
    "Greeting",
    "Hello",
    "Introduced",
    "Introductions",
    "Know",
    "Message",
    "Offer",
    "Offers",
    "OpenContent",
    "Ping",
    "Pong",
    "Refusal",
    "Removed",
    "SessionMessage",
    "ShareMessage",
    "SnapshotMessage",
    "SnapshotReady",
    "SnapshotRefused",
    "SnapshotWanted",
    "Summaries",
    "Want",
    "decode_message",
    "encode_message",
]

NAME_MAX = 256
COUNTER_MAX, COUNTERS_MAX = 2048, 256
TEXT_MAX = 4096
CERTIFICATE_BYTES_MAX = 4096
INSTANCE_BYTES = 8
LISTS_MAX = 4096
# Microseconds since 1970; far below what SQLite can hold, for a later pairing or removal counts on from it.
TIME_MAX = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """First on every main connection, from both sides."""

    TYPE: ClassVar[int] = 0
    versions: tuple[int, ...]
    name: str
    instance: bytes
    """8 random bytes of this run of the daemon: tells a restarted peer from a second connection."""
    ports: tuple[int, ...]
    """Ports the sender listens on, for a peer that was reached the other way round."""
    introduces: bool
    clock_us: int
    """What the sender's clock says, microseconds since 1970."""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [
            list(self.versions),
            self.name,
            self.instance,
            list(self.ports),
            self.introduces,
            self.clock_us,
        ]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Greeting:
        """Return the checked message."""
        return cls(
            versions=tuple(take_int(v, "version") for v in take_list(fields[0], "versions", most=64)),
            name=take_text(fields[1], "name", most=NAME_MAX),
            instance=take_bytes(fields[2], "instance", least=INSTANCE_BYTES, most=INSTANCE_BYTES),
            ports=tuple(take_int(p, "port", most=65_535) for p in take_list(fields[3], "ports", most=64)),
            introduces=take_bool(fields[4], "introduces"),
            clock_us=take_stamp(fields[5]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the sender is about to close the connection."""

    TYPE: ClassVar[int] = 1
    code: str
    text: str

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.code, self.text]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Refusal:
        """Return the checked message."""
        return cls(
            code=take_text(fields[0], "code", most=NAME_MAX), text=take_text(fields[1], "text", most=TEXT_MAX)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A share that the sender holds and would keep equal with the receiver."""

    share: ShareId
    name: str
    kind: str
    secret: bytes
    """Key of the share's key hashes, 32 bytes; only members ever see it."""
    items: int
    size: int
    held: bool = False
    """Whether the sender holds the share, so that nothing of it is exchanged for now."""
    copies: bool = False
    """Whether the sender gives copies of it: see `SnapshotWanted`."""
    counters: tuple[str, ...] | None = None
    """Columns (TABLE.COLUMN) of a database in which additions add up: all devices must know them alike. None: the sender
    says nothing of them."""


def take_counters(packed: object) -> tuple[str, ...]:
    """Return the checked names of counters."""
    names = take_list(packed, "counters", most=COUNTERS_MAX)
    found = tuple(take_text(name, "counter", most=COUNTER_MAX) for name in names)
    if not all(all(name.rpartition(".")) for name in found):
        raise RemoteProtocolError("A counter is not named as TABLE.COLUMN")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """All shares that the sender offers to the receiver now; replaces what it said before."""

    TYPE: ClassVar[int] = 2
    offers: tuple[Offer, ...]

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [
            [
                [o.share, o.name, o.kind, o.secret, o.items, o.size, o.held, o.copies]
                + ([list(o.counters)] if o.counters is not None else [])
                for o in self.offers
            ]
        ]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Offers:
        """Return the checked message."""
        offers = []
        for row in take_list(fields[0], "offers", most=LISTS_MAX):
            share, name, kind, secret, items, size, *more = take_list(row, "offer", least=6, most=64)
            offers.append(
                Offer(
                    share=take_share(share),
                    name=take_text(name, "name", most=NAME_MAX),
                    kind=take_text(kind, "kind", most=NAME_MAX),
                    secret=take_bytes(secret, "secret", least=32, most=32),
                    items=take_int(items, "items"),
                    size=take_int(size, "size"),
                    held=more[:1] == [True],
                    copies=more[1:2] == [True],
                    counters=take_counters(more[2]) if more[2:] else None,
                )
            )
        return cls(offers=tuple(offers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduced:
    """A device that the sender is paired with."""

    device: DeviceId
    name: str
    certificate: bytes
    addresses: tuple[str, ...]
    paired_us: int = 0
    """When somebody last paired it by code, as far as the sender knows; a removal from before that is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Introductions:
    """Devices that the sender is paired with, and devices that were removed everywhere."""

    TYPE: ClassVar[int] = 3
    devices: tuple[Introduced, ...]
    removed: tuple[tuple[DeviceId, int], ...]
    """Device and when it was removed, microseconds since 1970."""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [
            [[d.device, d.name, d.certificate, list(d.addresses), d.paired_us] for d in self.devices],
            [[device, when_us] for device, when_us in self.removed],
        ]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Introductions:
        """Return the checked message."""
        devices = []
        for row in take_list(fields[0], "devices", most=LISTS_MAX):
            device, name, certificate, addresses = take_list(row, "device", least=4, most=64)[:4]
            devices.append(
                Introduced(
                    device=take_device(device),
                    name=take_text(name, "name", most=NAME_MAX),
                    certificate=take_bytes(certificate, "certificate", most=CERTIFICATE_BYTES_MAX),
                    addresses=tuple(
                        take_text(a, "address", most=NAME_MAX)
                        for a in take_list(addresses, "addresses", most=64)
                    ),
                    paired_us=take_stamp(row[4]) if len(row) > 4 else 0,  # noqa: PLR2004
                )
            )
        removed = []
        for row in take_list(fields[1], "removed", most=LISTS_MAX):
            device, when_us = take_list(row, "removed", least=2, most=64)[:2]
            removed.append((take_device(device), take_stamp(when_us)))
        return cls(devices=tuple(devices), removed=tuple(removed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Asks for a `Pong`."""

    TYPE: ClassVar[int] = 12

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return []

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Ping:
        """Return the message."""
        del fields
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Answers a `Ping`."""

    TYPE: ClassVar[int] = 13
    clock_us: int
    """As in a `Greeting`."""

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return [self.clock_us]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Pong:
        """Return the checked message."""
        return cls(clock_us=take_stamp(fields[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenContent:
    """Asks the side that dialled to dial a content connection on which the sender fetches."""

    TYPE: ClassVar[int] = 14

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return []

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> OpenContent:
        """Return the message."""
        del fields
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """The sender has removed the receiver from its devices."""

    TYPE: ClassVar[int] = 15

    def fields(self) -> list[Any]:
        """Return the fields in order."""
        return []

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Removed:
        """Return the message."""
        del fields
        return cls()


Message = (
    ShareMessage
    | SnapshotMessage
    | Greeting
    | Refusal
    | Offers
    | Introductions
    | Ping
    | Pong
    | OpenContent
    | Removed
)

CLASSES: tuple[type[Message], ...] = (
    Greeting,
    Refusal,
    Offers,
    Introductions,
    Hello,
    Know,
    Delta,
    Done,
    Ask,
    Summaries,
    Want,
    Closed,
    Ping,
    Pong,
    OpenContent,
    Removed,
    Gone,
    SnapshotWanted,
    SnapshotReady,
    SnapshotRefused,
)
PARSERS: dict[int, Callable[[Sequence[Any]], Message]] = {cls.TYPE: cls.parse for cls in CLASSES}
NAMES = {cls.TYPE: cls.__name__ for cls in CLASSES}


def take_device(value: object) -> DeviceId:
    """Return a checked device ID."""
    return DeviceId(take_bytes(value, "device", least=DEVICE_ID_BYTES, most=DEVICE_ID_BYTES))


def take_stamp(value: object) -> int:
    """Return a time that a device tells; a nonsensical future is cut to one that can be counted on from."""
    return min(take_int(value, "time"), TIME_MAX)


def encode_message(message: Message) -> bytes:
    """Return a message's payload, to be framed."""
    return encode([message.TYPE, *message.fields()])


def decode_message(payload: bytes) -> Message:
    """Return the checked message of a payload.

    Raises:
        RemoteProtocolError: Anything in it is not as docs/protocol.md says.
    """
    fields = take_list(decode(payload), "message", least=1, most=64)
    number = take_int(fields[0], "type")
    parse = PARSERS.get(number)
    if parse is None:
        raise RemoteProtocolError(f"A message has an unknown type ({number})")
    try:
        return parse(fields[1:])
    except IndexError as error:
        raise RemoteProtocolError(f"A message lacks fields ({NAMES[number]})") from error
