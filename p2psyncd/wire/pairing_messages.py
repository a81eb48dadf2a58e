"""The messages of pairing: a type byte, then fields behind two-byte lengths.

They come from strangers, so the layout has no nesting, a message has at most 8 KiB, and every field's
size is checked before it is used. Fields beyond the known ones are ignored, for later versions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2psyncd.errors import RemoteProtocolError

__all__ = [
    "CERTIFICATE_BYTES_MAX",
    "NAME_BYTES_MAX",
    "PAIRING_FRAME_BYTES_MAX",
    "Card",
    "Kind",
    "clean_name",
    "open_card",
    "pack",
    "seal_card",
    "unpack",
]

PAIRING_FRAME_BYTES_MAX = 8 * 1024
CERTIFICATE_BYTES_MAX = 4 * 1024
NAME_BYTES_MAX = 255
FIELDS_MAX = 16
LENGTH_BYTES = 2
# Every key seals one message only, so the nonce need not vary.
NONCE = bytes(12)
INTRODUCE = 1


class Kind(enum.Enum):
    """The first byte of a message and how many fields it has at least."""

    OPEN = (1, 4)  # version, nameplate, fingerprint, SPAKE2 share
    ANSWER = (2, 3)  # version, fingerprint, SPAKE2 share
    CONFIRM = (3, 2)  # key confirmation, sealed card
    STORED = (4, 0)
    DONE = (5, 0)
    ABORT = (6, 0)

    @property
    def code(self) -> int:
        """The byte on the wire."""
        return self.value[0]

    @property
    def fields(self) -> int:
        """How many fields a message of this kind has at least."""
        return self.value[1]


KINDS = {kind.code: kind for kind in Kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a device tells of itself under the derived key."""

    name: str
    certificate: bytes
    introduce: bool
    """Whether it wants introductions to and from the other device's peers."""
    port: int
    """Where it listens, for dialling it back; 0 when it does not say."""


def pack(kind: Kind, *fields: bytes) -> bytes:
    """Return a message of this kind."""
    return bytes([kind.code]) + join_fields(*fields)


def join_fields(*fields: bytes) -> bytes:
    """Return the fields, each behind its length."""
    return b"".join(len(field).to_bytes(LENGTH_BYTES, "big") + field for field in fields)


def unpack(data: bytes) -> tuple[Kind, list[bytes]]:
    """Return a message's kind and fields.

    Raises:
        RemoteProtocolError: Too long, cut, of an unknown kind, or with too few or too many fields.
    """
    if not data or len(data) > PAIRING_FRAME_BYTES_MAX:
        msg = f"a pairing message of {len(data)} bytes"
        raise RemoteProtocolError(msg)
    kind = KINDS.get(data[0])
    if kind is None:
        msg = f"a pairing message of the unknown kind {data[0]}"
        raise RemoteProtocolError(msg)
    fields = split_fields(data, 1)
    if len(fields) < kind.fields:
        msg = f"a pairing message {kind.name} with {len(fields)} fields"
        raise RemoteProtocolError(msg)
    return kind, fields


def split_fields(data: bytes, at: int) -> list[bytes]:
    """Return the length-prefixed fields of `data` from `at` to its end."""
    fields: list[bytes] = []
    while at < len(data):
        start = at + LENGTH_BYTES
        end = start + int.from_bytes(data[at:start], "big")
        if start > len(data) or end > len(data) or len(fields) == FIELDS_MAX:
            msg = "a pairing message with a wrong length"
            raise RemoteProtocolError(msg)
        fields.append(data[start:end])
        at = end
    return fields


def clean_name(name: str) -> str:
    """Return a device name as it may travel: printable, at most `NAME_BYTES_MAX` bytes, never empty."""
    printable = "".join(character for character in name if character.isprintable()).strip()
    cut = printable.encode("utf-8")[:NAME_BYTES_MAX].decode("utf-8", "ignore").strip()
    return cut or "unnamed"


def seal_card(key: bytes, card: Card, transcript: bytes) -> bytes:
    """Return the card, readable only under the derived key and bound to the transcript."""
    flags = INTRODUCE if card.introduce else 0
    name = clean_name(card.name).encode("utf-8")
    plain = join_fields(name, card.certificate, bytes([flags]), card.port.to_bytes(LENGTH_BYTES, "big"))
    return ChaCha20Poly1305(key).encrypt(NONCE, plain, transcript)


def open_card(key: bytes, sealed: bytes, transcript: bytes) -> Card | None:
    """Return the other device's card, or None when it was not sealed under this key.

    Raises:
        RemoteProtocolError: Rightly sealed, but not a card.
    """
    try:
        plain = ChaCha20Poly1305(key).decrypt(NONCE, sealed, transcript)
    except InvalidTag:
        return None
    match split_fields(plain, 0):
        case [name, certificate, flags, port, *_] if (
            0 < len(certificate) <= CERTIFICATE_BYTES_MAX and len(flags) == 1 and len(port) == LENGTH_BYTES
        ):
            return Card(
                name=read_name(name),
                certificate=certificate,
                introduce=bool(flags[0] & INTRODUCE),
                port=int.from_bytes(port, "big"),
            )
        case _:
            msg = "a card without name, certificate, flags and port"
            raise RemoteProtocolError(msg)


def read_name(data: bytes) -> str:
    """Return a device name that came from a peer."""
    try:
        name = data.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if not name or len(data) > NAME_BYTES_MAX or clean_name(name) != name:
        msg = "a device name that is empty, too long or not printable"
        raise RemoteProtocolError(msg)
    return name
