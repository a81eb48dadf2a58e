"""Fresh devices for each LAN test."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from p2plab.device import Device, start
from p2plab.installed import Installed
from p2plab.network import Lab

NewDevice = Callable[..., Device]


def last_words(device: Device) -> str:
    """Return the status, or why there is none."""
    try:
        return device.get_text("/v1/status")
    except (OSError, http.client.HTTPException) as error:
        return repr(error)


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
            # Shown with the test if it fails, as its log is.
            sys.stdout.write(f"--- {device.name}: {last_words(device)}\n")
            device.process.terminate()
    for device in made:
        if device.process is not None:
            device.process.wait(30)
        sys.stdout.write(f"--- log of {device.name}\n{device.log()[-6000:]}\n")


@pytest.fixture
def two(new_device: NewDevice) -> tuple[Device, Device]:
    """Two running devices that know nothing of each other."""
    a, b = new_device("a"), new_device("b")
    start(a, b)
    return a, b
