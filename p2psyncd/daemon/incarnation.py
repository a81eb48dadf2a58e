"""Which incarnation of a replica this is: noticing that an older state was put back, or a disk copied.

Sequence numbers and knowledge belong to an actor. If a replica went on from an older state as the
same actor, it would claim to know what it wrote after that state was saved, and does not. So every
opening of the state is numbered and has a nonce, which is kept in the state, beside the data
(`Source.put_witness`), and by every peer that meets it; and before the first write, the state is held
against where it lies and what lies beside it. Any doubt makes a new actor, which costs 16 bytes.
See docs/design.md, "Restore and clone".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from p2psyncd.core.ids import ActorId
from p2psyncd.core.storage import ShareStorage
from p2psyncd.sources.source import Source
from p2psyncd.wire.messages import Boot

__all__ = ["Incarnation", "Place", "begin", "place_of"]

log = logging.getLogger(__name__)

# The dot keeps them apart from the settings that a source keeps in the state.
PLACE, BOOT, RUNNING, BASE, ACKNOWLEDGED = ".place", ".boot", ".running", ".base", ".acknowledged"
FIRST, MET = ".first", ".met"
NONCE_BYTES = 8
NUMBER_BYTES = 8
MACHINE_ID = Path("/etc/machine-id")
KERNEL_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a state lies."""

    identity: bytes
    """Changes when the file is copied or the disk goes to another machine."""
    kernel_boot: bytes
    """Changes when the machine starts: after a power cut the state may lack its last transactions."""


class Incarnation:
    """One opening of a replica's state."""

    def __init__(
        self, store: ShareStorage, boot: Boot, *, base: int, written: int, mint: Callable[[], ActorId]
    ) -> None:
        """Take an opening that `begin` numbered.

        Args:
            store: The state.
            boot: Its number and nonce.
            base: Our last write that is surely no other's: the last one before the first opening
                that no peer has met; -1 if there is none.
            written: Our last write before this opening; -1 if there is none.
            mint: Makes a new actor.
        """
        self.store = store
        self.boot = boot
        self.base = base
        self.written = written
        self.mint = mint
        self.acknowledged = False
        self.met = False

    def meet(self) -> None:
        """Note that a peer knows of this opening: the next ones are held against what it has from us; blocks."""
        if not self.met:
            self.store.set_setting(MET, b"1")
            self.met = True

    def acknowledge(self) -> None:
        """Note that a peer has met this opening and agreed; blocks."""
        self.store.set_setting(ACKNOWLEDGED, b"1")
        self.acknowledged = True

    def renewed(self) -> None:
        """Note that another actor goes on from here; blocks."""
        self.base = self.written = -1
        self.store.set_setting(BASE, b"-1")
        self.store.set_setting(MET, b"1")

    def close(self) -> None:
        """Note that the state ends whole; blocks, in the last durable transaction."""
        with self.store.transaction(durable=True):
            self.store.set_setting(RUNNING, b"")


def begin(
    store: ShareStorage, source: Source, place: Place, *, entropy: Callable[[int], bytes]
) -> Incarnation:
    """Number this opening of the state; go on as a new actor if it may be an older one, or a copy; blocks.

    Args:
        store: The state, before anything else is written to it.
        source: The data it stands for.
        place: Where the state lies now.
        entropy: Returns so many random bytes.
    """

    def mint() -> ActorId:
        return ActorId(entropy(len(store.actor())))

    last = store.setting(BOOT)
    why = doubt(store, source.witness(), place) if last else ""
    number = int.from_bytes(last[:NUMBER_BYTES], "big") if last else 0
    with store.transaction(durable=True):
        if why:
            log.warning("actor_renewed reason=%s", why)
            store.renew_actor(mint())
        written = store.knowledge().get(store.actor(), -1)
        if why or not last or store.setting(MET):
            # Of several openings that nobody met the first one counts: what they wrote says nothing about it.
            store.set_setting(FIRST, b"%d" % (written + 1))
        started = int(store.setting(FIRST) or b"%d" % (written + 1))
        now = Boot(number=number + 1, nonce=entropy(NONCE_BYTES), started=started)
        store.set_setting(MET, b"")
        if why or not last or store.setting(ACKNOWLEDGED):
            store.set_setting(BASE, b"%d" % written)
        store.set_setting(ACKNOWLEDGED, b"")
        store.set_setting(BOOT, packed(now))
        store.set_setting(PLACE, place.identity)
        store.set_setting(RUNNING, place.kernel_boot)
    source.put_witness(packed(now))
    return Incarnation(store, now, base=int(store.setting(BASE) or b"-1"), written=written, mint=mint)


def doubt(store: ShareStorage, witness: bytes | None, place: Place) -> str:
    """Return why the state may be an older one or a copy; empty if nothing speaks for that."""
    if store.setting(PLACE) != place.identity:
        return "the state lies on another machine or disk, or was copied"
    if witness is not None and witness != store.setting(BOOT):
        return "the state is not the one that was last used with this data"
    running = store.setting(RUNNING)
    if running and running != place.kernel_boot:
        return "the machine stopped without a clean end: the last writes may be missing"
    return ""


def packed(boot: Boot) -> bytes:
    """Return a boot as it is kept in the state and beside the data."""
    return boot.number.to_bytes(NUMBER_BYTES, "big") + boot.nonce


def place_of(state: Path) -> Place:
    """Return where a state file lies; blocks."""
    status = state.stat()
    # Not the device's number, which may change with every start of the machine.
    identity = b"%s %d" % (read_or_empty(MACHINE_ID), status.st_ino)
    return Place(identity=blake3(identity).digest(length=16), kernel_boot=read_or_empty(KERNEL_BOOT_ID))


def read_or_empty(path: Path) -> bytes:
    """Return a small file's text, or nothing where there is none."""
    try:
        return path.read_bytes().strip()
    except OSError:
        return b""
