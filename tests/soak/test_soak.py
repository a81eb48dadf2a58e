"""The soak in its short form, and that it notices what grows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from p2plab.installed import Installed
from p2plab.network import Lab

sys.path.insert(0, str(Path(__file__).parent))

from soak_load import BOUNDS, Sample, Soak, grown

# A workload, not a time: eight of each trouble. The first rounds fill caches and trees.
ROUNDS = 48
WARM_UP = 12
STILL = Sample(rss_kib=80_000, descriptors=40, threads=6, state_kib=900, wal_kib=4000, history_kib=900)


@pytest.mark.parametrize("name", BOUNDS)
def test_what_grows_in_every_round_is_noticed(name: str) -> None:
    still = [replace(STILL, rss_kib=80_000 + n % 7) for n in range(30)]
    assert grown(still) == []
    value = getattr(STILL, name)
    step = BOUNDS[name].part * value / 10 + BOUNDS[name].plus / 10
    growing = [replace(STILL, **{name: value + round(n * step)}) for n in range(30)]
    assert [text.split()[0] for text in grown(growing)] == [name]


@pytest.mark.lan
def test_two_daemons_live_through_trouble_and_nothing_grows(
    lab: Lab, installed: Installed, short_folder: Path
) -> None:
    soak = Soak(lab, short_folder, installed, seed=20)
    try:
        soak.begin()
        for _ in range(ROUNDS):
            soak.round()
        soak.end()
        assert {name: grown(samples[WARM_UP:]) for name, samples in soak.samples.items()} == {
            "a": [],
            "b": [],
        }
    finally:
        # Shown with the test if it fails.
        sys.stdout.write(soak.report() if soak.rounds else "")
        for device in soak.devices:
            sys.stdout.write(f"--- log of {device.name}\n{device.log()[-6000:]}\n")
