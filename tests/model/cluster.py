"""Real daemons for the model: three devices in namespaces of their own, one share, and a user who reads and writes files.

Only `replace`, `delete`, `read` and `look` touch what the model sees, and they are plain file operations in the share's
folder. Files are exchanged with one outside the share (`renameat2`), so that what a write replaced is
known without doubt: a read just before would leave a moment in which anything may come in.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from file_model import MISSING, Value
from p2plab.device import Device, UnixConnection, pair, start
from p2plab.installed import Installed
from p2plab.network import Lab
from p2plab.waiting import eventually

__all__ = ["NODES", "Cluster"]

NODES = 3
SHARE = "s"
WAIT_S = 90.0
AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
LIBC = ctypes.CDLL(None, use_errno=True)


class Cluster:
    """Paired devices with an equal share."""

    def __init__(self, lab: Lab, folder: Path, installed: Installed) -> None:
        self.devices = [Device(lab.host(n), folder / name, installed) for n, name in enumerate("abc"[:NODES])]
        self.cut_off: set[int] = set()
        self.files = 0
        self.writes = 0

    def begin(self) -> None:
        """Start, pair and share."""
        start(*self.devices)
        first, *others = self.devices
        for other in others:
            pair(first, other)
        (first.folder / SHARE).mkdir()
        first.share_folder(first.folder / SHARE, SHARE, *others)
        self.rest()

    def fresh_name(self) -> str:
        """Return a name of a file that no example had yet."""
        self.files += 1
        return f"file{self.files:06d}"

    def fresh_value(self) -> str:
        """Return a value that was never written before."""
        self.writes += 1
        return f"v{self.writes}"

    # What the model sees

    def path(self, node: int, name: str) -> Path:
        """Return a file's path on a node."""
        return self.devices[node].folder / SHARE / name

    def read(self, node: int, name: str) -> Value:
        """Return what a file holds."""
        try:
            return self.path(node, name).read_text()
        except FileNotFoundError:
            return MISSING

    def replace(self, node: int, name: str, value: str) -> Value:
        """Give a file a new value; return what it held at that very moment."""
        path, fresh = self.path(node, name), self.devices[node].folder / "fresh"
        fresh.write_text(value)
        while True:
            try:
                rename(fresh, path, RENAME_EXCHANGE)
            except FileNotFoundError:
                with suppress(FileExistsError):
                    rename(fresh, path, RENAME_NOREPLACE)
                    return MISSING
            else:
                return fresh.read_text()

    def delete(self, node: int, name: str) -> Value:
        """Delete a file; return what it held at that very moment."""
        gone = self.devices[node].folder / "gone"
        try:
            self.path(node, name).rename(gone)
        except FileNotFoundError:
            return MISSING
        return gone.read_text()

    def look(self, node: int, name: str) -> set[str]:
        """Return the values of a file's conflict files."""
        return {path.read_text() for path in self.path(node, name).parent.glob(f"{name} (conflict *")}

    # Trouble, and rest

    def cut(self, node: int) -> None:
        """Pull a node's cable."""
        if node not in self.cut_off:
            self.devices[node].host.cut()
            self.cut_off.add(node)

    def join(self, node: int) -> None:
        """Plug it in again."""
        if node in self.cut_off:
            self.devices[node].host.join()
            self.cut_off.remove(node)

    def restart(self, node: int, *, kill: bool) -> None:
        """End a daemon, politely or not, and start it again."""
        device = self.devices[node]
        if kill:
            device.kill()
        else:
            assert device.stop() == 0
        device.start()

    def rest(self) -> None:
        """Connect everything and wait until `p2psync wait` says on every device that all are equal."""
        for node in list(self.cut_off):
            self.join(node)
        for device in self.devices:
            eventually(
                f"{device.name} is connected to all",
                lambda device=device: all(p["connected"] for p in device.status()["peers"]),  # type: ignore[misc]
                within_s=90,
            )
        # What the first round brings about (a conflict copy, say) is over when the second one has passed.
        for device in (*self.devices, *self.devices):
            wait(device)

    def logs(self) -> Iterable[str]:
        """Yield the end of each daemon's log."""
        for device in self.devices:
            yield f"--- log of {device.name}\n{device.log()[-6000:]}\n"

    def end(self) -> None:
        """Stop the daemons."""
        for device in self.devices:
            if device.process is not None:
                device.stop()


def wait(device: Device) -> None:
    """What `p2psync wait --peers 2` asks of the daemon (starting the client three times would take longer than it)."""
    connection = UnixConnection(device.socket_path, timeout_s=WAIT_S + 10)
    try:
        asked = {"timeout_s": WAIT_S, "peers": NODES - 1}
        connection.request("POST", "/v1/wait", json.dumps(asked), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 200, f"{device.name}: {body}"


def rename(source: Path, target: Path, flags: int) -> None:
    """renameat2(2)."""
    if LIBC.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
