"""`p2psync pair`: show a code and wait, or join the device that shows one."""

from __future__ import annotations

import sys
from datetime import datetime
from ipaddress import ip_address
from typing import Annotated

import typer

from p2psync.client import AnswerError, Client
from p2psync.escape import escape
from p2psync.render import emit, emit_json, talk
from p2psync.session import Commands, Json, Session, usage_error
from p2psyncd.control.messages import Device, PairCode, Status
from p2psyncd.errors import P2psyncError

__all__ = ["reachable_address", "register"]

CodeArgument = Annotated[str, typer.Argument(metavar="[CODE]", help="What the other device shows.")]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="HOST:PORT", help="Where the other device is, if it is not found by itself."
    ),
]
Introduce = Annotated[
    bool,
    typer.Option("--introduce/--no-introduce", help="Introduce each other to the devices already paired."),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="S", min=0, help="Give up after S seconds.")
]


def register(commands: Commands) -> None:
    """Declare the command."""
    commands.add("pair")(pair)


def pair(
    session: Session,
    code: CodeArgument = "",
    *,
    at: At = None,
    timeout: Timeout = None,
    introduce: Introduce = True,
    as_json: Json = False,
) -> None:
    """Pair this device with another one: show a code, or join the device that shows CODE.

    Without CODE the code is the first line of stdout, and the command waits until a device has joined.
    """
    if code:
        if sys.stderr.isatty():  # looking may take half a minute: a person should know that it does
            talk(f"Looking for the device that shows {escape(code)} …")
        device: Device = session.client.post(
            "/v1/pair/join", code=code, at=at, introduce=introduce, timeout_s=timeout
        )
    elif at:
        raise usage_error("--at belongs to a CODE: give the code that the other device shows")
    else:
        device = show(session.client, timeout, introduce=introduce, as_json=as_json)
    if as_json:
        emit_json(device)
    else:
        talk(f"Paired with {escape(device['name'])}.")


def show(client: Client, timeout_s: float | None, *, introduce: bool, as_json: bool) -> Device:
    """Show a code until a device has joined, and return that device."""
    with client.shown_code(introduce=introduce, timeout_s=timeout_s) as lines:
        shown: PairCode = next(lines)
        code = escape(shown["code"])
        if as_json:
            talk(code)
        else:
            emit(code)
        talk(f"On the other device run:  p2psync pair {code}")
        address = reachable_address(client)
        if address:
            talk(f"If it does not find this one:  p2psync pair {code} --at {escape(address)}")
        talk(f"Waiting until {local_time(shown['expires'])}; Ctrl-C withdraws the code.")
        device: Device | None = next(lines, None)
    if device is None:
        raise AnswerError("the daemon ended the pairing without a word; see its log")
    return device


def reachable_address(client: Client) -> str | None:
    """Return an address of this device for `--at`; None if there is none worth naming."""
    try:
        status: Status = client.get("/v1/status")
    except P2psyncError:
        return None
    listen = [one for one in status["device"]["listen"] if not is_wildcard(one)]
    return min(listen, key=distance, default=None)


def is_wildcard(address: str) -> bool:
    """Return whether an address means all of this device's: no use to another one."""
    return address.rpartition(":")[0].strip("[]") in {"0.0.0.0", "::"}  # noqa: S104  # compared, never bound


def distance(address: str) -> int:
    """Rank addresses: those of the network first, then link-local ones, loopback last."""
    host = address.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        parsed = ip_address(host)
    except ValueError:
        return 1
    return 3 if parsed.is_loopback else 2 if parsed.is_link_local else 0 if parsed.version == 4 else 1  # noqa: PLR2004  # ranks


def local_time(when: str) -> str:
    """Return the clock time here of an RFC 3339 time."""
    try:
        return datetime.fromisoformat(when).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return escape(when)
