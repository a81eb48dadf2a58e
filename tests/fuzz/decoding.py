"""Feeding the decoders: the loop, and what it counts."""

from __future__ import annotations

import faulthandler
import gc
import random
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from targets import TARGETS, Target, feed

from p2psyncd.daemon.memory import give_back
from p2psyncd.errors import RemoteProtocolError

__all__ = ["Totals", "resident_bytes", "run_decoders"]

# A hang is no assertion on time: after this long the stack is printed and the process ends.
HANG_S = 60
# Every so many inputs are decoded under a watch on memory.
WATCHED_EVERY = 200
PEAK_BYTES_MAX = 32 * 1024 * 1024


@dataclass(slots=True)
class Totals:
    """What a run came to."""

    inputs: int = 0
    input_bytes: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    """The most that decoding one input took."""


def resident_bytes() -> int:
    """Return the memory that this process holds now, what is free within it given back."""
    gc.collect()
    give_back()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def run_decoders(count: int, seed: int, only: str | None = None) -> Totals:
    """Feed so many inputs, the same for the same seed, to all decoders in turn.

    Raises:
        AssertionError: A decoder raised something else than `RemoteProtocolError`, or took too much memory; the
            message holds the input.
    """
    rng = random.Random(seed)
    totals = Totals()
    names = [only] if only else list(TARGETS)
    for number in range(count):
        if number % 1000 == 0:
            faulthandler.dump_traceback_later(HANG_S, exit=True)
        name = names[number % len(names)]
        one(name, TARGETS[name], rng, totals, watched=number % WATCHED_EVERY < len(names))
    faulthandler.cancel_dump_traceback_later()
    return totals


def one(name: str, target: Target, rng: random.Random, totals: Totals, *, watched: bool) -> None:
    """Feed one input."""
    data = feed(target, rng)
    totals.inputs += 1
    totals.input_bytes += len(data)
    if watched:
        tracemalloc.start()
    try:
        target.accept(data)
    except RemoteProtocolError:
        totals.refused[name] += 1
    except Exception as error:
        shown = data.hex() if len(data) <= 4000 else f"{data[:2000].hex()}… ({len(data)} bytes)"
        raise AssertionError(f"{name}: {error!r} came out of {shown}") from error
    else:
        totals.accepted[name] += 1
    finally:
        if watched:
            totals.peak_bytes = max(totals.peak_bytes, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert totals.peak_bytes <= PEAK_BYTES_MAX, f"{name}: {totals.peak_bytes} bytes for {len(data)}"
