"""What a peer may make a device remember of others."""

from __future__ import annotations

import os

import pytest
from daemons import Daemon

from p2psyncd.core.ids import DeviceId
from p2psyncd.daemon import supervisor
from p2psyncd.net.identity import Identity
from p2psyncd.wire.messages import Introduced, Introductions

NOW_US = 1_790_000_000_000_000


def introductions(
    daemon: Daemon, *devices: Introduced, removed: tuple[tuple[DeviceId, int], ...] = ()
) -> None:
    """Have willow introduce devices to maple."""
    [willow] = daemon.supervisor.mesh.peers
    daemon.supervisor.introduced(willow, Introductions(devices=devices, removed=removed))


def stranger(daemon: Daemon, number: int, name: str) -> Introduced:
    identity = Identity.load_or_create(daemon.folder / f"stranger-{number}", NOW_US)
    return Introduced(
        device=identity.device,
        name=name,
        certificate=identity.certificate,
        addresses=tuple(f"10.0.0.{n}:1" for n in range(60)),
        paired_us=NOW_US,
    )


async def test_removals_of_devices_that_nobody_ever_met_are_bounded(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept for ever and passed on: an honest peer refuses a message with too many."""
    monkeypatch.setattr(supervisor, "REMOVALS_MAX", 10)
    maple, willow = two
    for _ in range(5):
        introductions(maple, removed=tuple((DeviceId(os.urandom(32)), NOW_US) for _ in range(7)))
    [state] = maple.supervisor.mesh.peers.values()
    assert len(maple.supervisor.introductions_for(state.record.device).removed) == 10
    await willow.until(lambda: willow.connected_to(maple), "the link lives")


async def test_introduced_devices_are_bounded_and_their_names_can_be_shown(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PEERS_MAX", 3)
    maple, _ = two
    introductions(maple, *(stranger(maple, n, "evil\n2026-01-01 ERROR \x1b[2J") for n in range(5)))
    records = [state.record for state in maple.supervisor.mesh.peers.values()]
    assert len(records) == 3
    assert all(record.name.isprintable() for record in records)
    assert all(len(record.addresses) <= 8 for record in records)
