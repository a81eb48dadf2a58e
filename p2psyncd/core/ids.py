"""Identifiers: devices, shares and actors, and how a person reads a device's."""

from __future__ import annotations

import base64
from typing import NewType

__all__ = [
    "ACTOR_ID_BYTES",
    "BASELINE_ACTOR",
    "DEVICE_ID_BYTES",
    "SHARE_ID_BYTES",
    "ActorId",
    "DeviceId",
    "ShareId",
    "format_device_id",
    "parse_device_id",
    "short_device_id",
]

ActorId = NewType("ActorId", bytes)
DeviceId = NewType("DeviceId", bytes)
ShareId = NewType("ShareId", bytes)

ACTOR_ID_BYTES = 8
DEVICE_ID_BYTES = 32
SHARE_ID_BYTES = 16

BASELINE_ACTOR = ActorId(bytes(ACTOR_ID_BYTES))
"""Nobody's: what was there on both sides before they met has this writer, so that equal things are equal entries."""

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
GROUP = 7
# 52 base32 characters in four runs of 13, each followed by a check character: 56 = 8 groups of 7.
RUN = 13


def check_character(run: str) -> str:
    """Return the Luhn mod 32 character of one run; it catches any single wrong character."""
    total = 0
    for position, character in enumerate(reversed(run)):
        doubled = ALPHABET.index(character) * (2 if position % 2 == 0 else 1)
        total += doubled // 32 + doubled % 32
    return ALPHABET[-total % 32]


def format_device_id(device: DeviceId) -> str:
    """Return a device ID as eight dashed groups of seven characters, check characters included.

    Args:
        device: 32 bytes, the SHA-256 of the device's public key.
    """
    text = base64.b32encode(device).decode("ascii").rstrip("=")
    runs = [text[at : at + RUN] for at in range(0, len(text), RUN)]
    checked = "".join(run + check_character(run) for run in runs)
    return "-".join(checked[at : at + GROUP] for at in range(0, len(checked), GROUP))


def short_device_id(device: DeviceId) -> str:
    """Return the first group: enough to tell a few devices apart, not to identify one."""
    return format_device_id(device)[:GROUP]


def parse_device_id(text: str) -> DeviceId:
    """Return the 32 bytes that `format_device_id` wrote.

    Raises:
        ValueError: Not 56 characters of base32, or a check character is wrong.
    """
    plain = text.replace("-", "").replace(" ", "").upper()
    step = RUN + 1
    if len(plain) != 4 * step or any(character not in ALPHABET for character in plain):
        msg = f"not a device ID: {text!r}"
        raise ValueError(msg)
    runs = [plain[at : at + step] for at in range(0, len(plain), step)]
    if any(check_character(run[:-1]) != run[-1] for run in runs):
        msg = f"a character of the device ID is wrong: {text!r}"
        raise ValueError(msg)
    device = DeviceId(base64.b32decode("".join(run[:-1] for run in runs) + "===="))
    # Base32 ignores the last character's unused bits, and one device must not have several spellings.
    if format_device_id(device).replace("-", "") != plain:
        msg = f"not a device ID: {text!r}"
        raise ValueError(msg)
    return device
