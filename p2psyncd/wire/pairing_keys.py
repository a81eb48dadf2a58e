"""The keys of one pairing exchange: SPAKE2, and what both sides derive from it and the transcript."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError  # type: ignore[import-untyped]
from spake2.ed25519_basic import NotOnCurve  # type: ignore[import-untyped]

from p2psyncd.errors import ProtocolTooOld, RemoteProtocolError

__all__ = [
    "PAIRING_VERSION",
    "VERSION_FIELD",
    "Keys",
    "derive_keys",
    "expect_sizes",
    "expect_version",
    "fingerprint",
    "spake_key",
]

PAIRING_VERSION = 1
VERSION_FIELD = bytes([PAIRING_VERSION])
FINGERPRINT_BYTES = 32
SHARE_BYTES = 33
KEY_BYTES = 32
LABEL = b"p2psync pairing 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What both sides derive from the SPAKE2 key and the transcript."""

    joiner_mac: bytes
    host_mac: bytes
    joiner_seal: bytes
    host_seal: bytes
    transcript: bytes


def fingerprint(certificate: bytes) -> bytes:
    """Return what stands for a certificate (DER) in the transcript."""
    return hashlib.sha256(certificate).digest()


def derive_keys(secret: bytes, opening: bytes, answer: bytes) -> Keys:
    """Return the keys of an exchange; any byte that differs in it gives other keys."""
    transcript = hashlib.sha256(LABEL + hashlib.sha256(opening).digest() + answer).digest()

    def key(label: bytes) -> bytes:
        info = LABEL + b" " + label
        return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=transcript, info=info).derive(secret)

    def mac(label: bytes) -> bytes:
        return hmac.digest(key(label), transcript, "sha256")

    return Keys(
        joiner_mac=mac(b"joiner mac"),
        host_mac=mac(b"host mac"),
        joiner_seal=key(b"joiner seal"),
        host_seal=key(b"host seal"),
        transcript=transcript,
    )


def expect_version(field: bytes) -> None:
    """Refuse a pairing of another version, saying which side is behind."""
    version = int.from_bytes(field, "big")
    if version != PAIRING_VERSION:
        behind = "this device" if version > PAIRING_VERSION else "the other device"
        msg = f"pairing version {version} here {PAIRING_VERSION}: {behind} is behind"
        raise ProtocolTooOld(msg)


def expect_sizes(print_: bytes, share: bytes) -> None:
    """Refuse a fingerprint or SPAKE2 share of a wrong size before it is computed with."""
    if len(print_) != FINGERPRINT_BYTES or len(share) != SHARE_BYTES:
        msg = "a pairing message with a wrong size"
        raise RemoteProtocolError(msg)


def spake_key(exchange: SPAKE2_A | SPAKE2_B, share: bytes) -> bytes:
    """Return the shared key, of which nothing is known until it is confirmed."""
    try:
        return bytes(exchange.finish(share))
    # The library raises ValueError, AssertionError and its own errors for points that are not on the curve.
    except (SPAKEError, ValueError, AssertionError, NotOnCurve) as error:
        msg = "a pairing message with a share that is not a point"
        raise RemoteProtocolError(msg) from error
