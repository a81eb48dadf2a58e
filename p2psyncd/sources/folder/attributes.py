"""The metadata of a path in an item: a CBOR list that only the folder source reads.

`[mode, mtime in ns, target, content dot, mode dot, xattrs]`, more fields may follow. The target is a
symlink's. The extended attributes are a list of `[name, value]`, sorted by name; where there are none
the field is left out. The two dots name the write that made the content, or chose the mode, where that is an
earlier write than the item's own (actor and sequence number, 16 bytes); null: this very write did.
The attributes go with the mode. With the dots two concurrent versions tell which of them changed what: a version's content is old news
to another that covers its content dot, however often either side wrote since.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import cbor2

from p2psyncd.core.cbor import decode_plain
from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.version import SEQ_MAX, Dot
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.folder.xattrs import NAME_BYTES_MAX, NAMESPACE, XATTRS_BYTES_MAX, Xattrs

__all__ = [
    "MODE_BITS",
    "MTIME_MAX",
    "Attributes",
    "capture",
    "content_dot",
    "decode",
    "decode_or_plain",
    "encode",
    "mode_dot",
]

MODE_BITS = 0o7777
MTIME_MAX = 2**63 - 1
TARGET_BYTES_MAX = 4095
FIELDS = 5
DEPTH_MAX = 6
DOT = struct.Struct(">8sQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a path is besides its content."""

    mode: int
    """Permission bits, set-id and sticky bits."""
    mtime_ns: int
    target: bytes | None = None
    """Where a symlink points; None for anything else."""
    content: Dot | None = None
    """The write that made the content, if it was not the item's own."""
    chosen: Dot | None = None
    """The write that chose the mode (and the extended attributes), if it was not the item's own."""
    xattrs: Xattrs = ()
    """Extended attributes, at most `XATTRS_BYTES_MAX`."""

    @property
    def choice(self) -> tuple[int, Xattrs]:
        """What a user chose beside the content: it changes, and is merged, as one."""
        return self.mode, self.xattrs


PLAIN = Attributes(mode=0o600, mtime_ns=0)


def pack_dot(dot: Dot | None) -> bytes | None:
    """Return the 16 bytes of a dot."""
    return None if dot is None else DOT.pack(*dot)


def unpack_dot(packed: object) -> Dot | None:
    """Return the dot of 16 bytes."""
    if packed is None:
        return None
    if type(packed) is not bytes or len(packed) != DOT.size:
        raise RemoteProtocolError("An item's metadata has a broken dot")
    actor, seq = DOT.unpack(packed)
    if seq > SEQ_MAX:
        raise RemoteProtocolError("An item's metadata has a dot out of range")
    return Dot(ActorId(actor), seq)


def encode(attributes: Attributes) -> bytes:
    """Return the metadata as an item carries it."""
    fields: list[object] = [
        attributes.mode,
        attributes.mtime_ns,
        attributes.target,
        pack_dot(attributes.content),
        pack_dot(attributes.chosen),
    ]
    if attributes.xattrs:
        fields.append([list(pair) for pair in attributes.xattrs])
    return cbor2.dumps(fields)


def unpack_xattrs(packed: object) -> Xattrs:
    """Return the checked extended attributes of a list of pairs."""
    if type(packed) is not list:
        raise RemoteProtocolError("An item's metadata has extended attributes that are no list")
    last, total = b"", 0
    for pair in packed:
        if type(pair) is not list or len(pair) != 2 or not all(type(part) is bytes for part in pair):  # noqa: PLR2004
            raise RemoteProtocolError("An item's metadata has an extended attribute that is no pair of bytes")
        name, value = pair
        if (
            not name.startswith(NAMESPACE)
            or not len(NAMESPACE) < len(name) <= NAME_BYTES_MAX
            or b"\0" in name
            or name <= last
        ):
            raise RemoteProtocolError("An item's metadata has an extended attribute of a wrong name")
        last = name
        total += len(name) + len(value)
    if total > XATTRS_BYTES_MAX:
        raise RemoteProtocolError("An item's metadata has too many extended attributes")
    return tuple((name, value) for name, value in packed)


def decode(meta: bytes) -> Attributes:
    """Return the checked metadata of an item.

    Raises:
        RemoteProtocolError: It is not as `encode` makes it.
    """
    fields = decode_plain(meta, depth_max=DEPTH_MAX)
    if type(fields) is not list or len(fields) < FIELDS:
        raise RemoteProtocolError("An item's metadata is not a list of five")
    mode, mtime_ns, target, content, chosen = fields[:FIELDS]
    if not (
        type(mode) is int
        and 0 <= mode <= MODE_BITS
        and type(mtime_ns) is int
        and -MTIME_MAX <= mtime_ns <= MTIME_MAX
        and (
            target is None
            or (type(target) is bytes and 0 < len(target) <= TARGET_BYTES_MAX and b"\0" not in target)
        )
    ):
        raise RemoteProtocolError("An item's metadata has a wrong field")
    return Attributes(
        mode=mode,
        mtime_ns=mtime_ns,
        target=target,
        content=unpack_dot(content),
        chosen=unpack_dot(chosen),
        xattrs=unpack_xattrs(fields[FIELDS]) if len(fields) > FIELDS else (),
    )


def decode_or_plain(meta: bytes) -> Attributes:
    """Return the metadata of an item; where a peer sent nonsense (which is never applied), plain values."""
    try:
        return decode(meta)
    except RemoteProtocolError:
        return PLAIN


def content_dot(item: Item, attributes: Attributes) -> Dot:
    """Return the write that made a version's content."""
    return attributes.content or item.dot


def mode_dot(item: Item, attributes: Attributes) -> Dot:
    """Return the write that chose a version's mode."""
    return attributes.chosen or item.dot


def as_seen(_recorded: Xattrs, seen: Xattrs) -> Xattrs:
    """Return what was seen: the file system takes everything."""
    return seen


def is_between(seen: Xattrs, applied: Xattrs, newest: Xattrs) -> bool:
    """Return whether attributes are those of two versions, some of each: an `apply` that a crash cut short."""
    here, old, new = dict(seen), dict(applied), dict(newest)
    return all(here.get(name) in {old.get(name), new.get(name)} for name in {*here, *old, *new})


def capture(  # noqa: PLR0917  (what there is to know)
    kind: Kind,
    digest: bytes,
    seen: Attributes,
    applied: Item | None,
    newest: Item | None,
    carried: Callable[[Xattrs, Xattrs], Xattrs] = as_seen,
) -> bytes:
    """Return the metadata for what a scan saw.

    Args:
        kind: What it is.
        digest: Digest of the content seen; empty for a directory.
        seen: Mode, mtime, target and extended attributes seen.
        applied: The version that was in place before, if any.
        newest: The newest version known, if any: it may have been put in place without that being noted.
        carried: Given the attributes of a version and those seen, returns the latter with those that are
            missing only because the file system refuses them.
    """
    for item in (applied, newest):
        if item is None or item.kind is not kind or item.digest != digest:
            continue
        known = decode_or_plain(item.meta)
        if (known.mode, known.mtime_ns, known.target) == (seen.mode, seen.mtime_ns, seen.target) and carried(
            known.xattrs, seen.xattrs
        ) == known.xattrs:
            return item.meta
    if applied is None and newest is not None and digest and (newest.kind, newest.digest) == (kind, digest):
        applied = newest
    if applied is None or applied.kind is not kind:
        return encode(seen)
    known = decode_or_plain(applied.meta)
    xattrs = carried(known.xattrs, seen.xattrs)
    if newest is not None and (newest.kind, newest.digest) == (kind, digest) == (
        applied.kind,
        applied.digest,
    ):
        coming = decode_or_plain(newest.meta).xattrs
        if coming != known.xattrs and is_between(xattrs, known.xattrs, coming):
            xattrs = known.xattrs
    now = replace(seen, xattrs=xattrs)
    if applied.digest == digest and (known.mtime_ns, known.target, known.choice) == (
        now.mtime_ns,
        now.target,
        now.choice,
    ):
        return applied.meta
    return encode(
        Attributes(
            mode=seen.mode,
            mtime_ns=seen.mtime_ns,
            target=seen.target,
            xattrs=xattrs,
            content=content_dot(applied, known) if applied.digest == digest else None,
            chosen=mode_dot(applied, known) if known.choice == now.choice else None,
        )
    )
