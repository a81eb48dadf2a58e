"""`p2psync device …`: the paired devices."""

from __future__ import annotations

from typing import Annotated

import typer

from p2psync.complete import device_names
from p2psync.escape import escape
from p2psync.render import ago, columns, emit, emit_json, talk
from p2psync.session import Commands, Json, Session, Yes, confirm, usage_error
from p2psyncd.control.messages import Device, RemoveReport

__all__ = ["register"]

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The device's name, or its ID.", autocompletion=device_names)
]
NewName = Annotated[str, typer.Argument(metavar="NEW", help="What to call it on this device.")]
Everywhere = Annotated[
    bool, typer.Option("--everywhere", help="Ask the devices it was introduced to as well.")
]


def register(commands: Commands) -> None:
    """Declare the commands."""
    group = commands.group("device", "The paired devices.")
    group.add("list")(show)
    group.add("rename")(rename)
    group.add("pause")(pause)
    group.add("resume")(resume)
    group.add("remove")(remove)


def show(session: Session, *, as_json: Json = False) -> None:
    """List the paired devices, with who introduced them."""
    devices: list[Device] = session.client.get("/v1/devices")
    if as_json:
        emit_json(devices)
        return
    if not devices:
        talk("No device is paired. `p2psync pair` shows a code to pair one.")
    rows = [
        (
            device["name"],
            state(device),
            device["address"] or "",
            "by code" if device["introduced_by"] is None else f"introduced by {device['introduced_by']}",
            device["id"],
        )
        for device in devices
    ]
    emit(*columns(rows, session.paper, ("NAME", "STATE", "ADDRESS", "PAIRED", "ID")))


def state(device: Device) -> str:
    """Return whether a device is here, in words."""
    if device["connected"]:
        return "connected"
    return f"{'paused' if device['paused'] else 'away'}, seen {ago(device['last_seen'])}"


def rename(session: Session, name: NameArgument, new_name: NewName, *, as_json: Json = False) -> None:
    """Call a paired device by another name on this device."""
    if not new_name.strip():
        raise usage_error("a device needs a name that is not empty")
    device: Device = session.client.post("/v1/devices/rename", name=name, new_name=new_name)
    report(device, f"{escape(name)} is called {escape(device['name'])} now.", as_json=as_json)


def pause(session: Session, name: NameArgument, *, as_json: Json = False) -> None:
    """Disconnect a device until `device resume`."""
    device: Device = session.client.post("/v1/devices/pause", name=name)
    report(device, f"{escape(device['name'])} is paused.", as_json=as_json)


def resume(session: Session, name: NameArgument, *, as_json: Json = False) -> None:
    """Connect to a paused device again."""
    device: Device = session.client.post("/v1/devices/resume", name=name)
    report(device, f"{escape(device['name'])} is no longer paused.", as_json=as_json)


def report(device: Device, said: str, *, as_json: bool) -> None:
    """Print the device as JSON, or say what was done."""
    if as_json:
        emit_json(device)
    else:
        talk(said)


def remove(
    session: Session,
    name: NameArgument,
    *,
    everywhere: Everywhere = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget a paired device: it is refused from now on. Files stay on both sides."""
    where = "here and on the devices it was introduced to" if everywhere else "here"
    confirm(f"Remove {escape(name)} {where}? It has to be paired again to come back.", yes=yes)
    done: RemoveReport = session.client.post("/v1/devices/remove", name=name, everywhere=everywhere)
    if as_json:
        emit_json(done)
        return
    talk(f"{escape(done['removed'])} is removed.")
    if not everywhere:
        talk(
            "Devices that still know it go on with it, and pass its changes on; --everywhere asks them to forget it, too."
        )
    if done["told"]:
        talk(f"Also by: {escape(', '.join(done['told']))}.")
    if done["later"]:
        talk(f"To be told when they are seen next: {escape(', '.join(done['later']))}.")
