"""Fresh devices for each LAN test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from p2plab.device import Device, start
from p2plab.installed import Installed
from p2plab.network import Lab

NewDevice = Callable[..., Device]


@pytest.fixture
def new_device(lab: Lab, installed: Installed, short_folder: Path) -> Iterator[NewDevice]:
    """Return a function (name, host number, daemon options) that describes a device; all are ended afterwards."""
    made: list[Device] = []

    def make(name: str, host: int | None = None, *options: str) -> Device:
        device = Device(
            lab.host(len(made) if host is None else host), short_folder / name, installed, *options
        )
        made.append(device)
        return device

    yield make
    for device in made:
        if device.process is not None and device.process.poll() is None:
            device.process.terminate()
    for device in made:
        if device.process is not None:
            device.process.wait(30)


@pytest.fixture
def two(new_device: NewDevice) -> tuple[Device, Device]:
    """Two running devices that know nothing of each other."""
    a, b = new_device("a"), new_device("b")
    start(a, b)
    return a, b
