"""Looking and waiting: `status`, `wait`, `sync`, `diff`, `verify`, `events`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from p2psync.complete import device_names, share_names
from p2psync.escape import escape
from p2psync.render import columns, count, emit, emit_json, emit_json_line, size, talk
from p2psync.session import Commands, Json, Session, usage_error
from p2psync.status import status_lines
from p2psyncd.control.messages import Diff, Event, Status, SyncReport, Verified, WaitReport

__all__ = ["register"]

ShareChoice = Annotated[
    str | None, typer.Argument(metavar="[SHARE]", help="All shares if not given.", autocompletion=share_names)
]
ShareArgument = Annotated[str, typer.Argument(metavar="SHARE", autocompletion=share_names)]
DeviceChoice = Annotated[
    str | None,
    typer.Argument(metavar="[DEVICE]", help="Each peer if not given.", autocompletion=device_names),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="S", min=0, help="Give up after S seconds.")
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Keep the picture up to date until Ctrl-C.")]
Peers = Annotated[
    int, typer.Option("--peers", metavar="N", min=0, help="At least this many peers must agree.")
]
Once = Annotated[bool, typer.Option("--once", help="Exchange until nothing is missing, then return.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")]
Since = Annotated[int, typer.Option("--since", metavar="ID", min=0, help="Only events after this one.")]
Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most the N newest.")]


def register(commands: Commands) -> None:
    """Declare the commands."""
    commands.add("status")(status)
    commands.add("wait")(wait)
    commands.add("sync")(sync)
    commands.add("diff")(diff)
    commands.add("verify")(verify)
    commands.add("events")(events)


def status(session: Session, *, watch: Watch = False, as_json: Json = False) -> None:
    """Show this device, its peers, its shares, what is moving now, and what needs attention."""
    client = session.client
    if watch:
        from p2psync.watch import watch_status  # noqa: PLC0415  # one look does not need what a live one does

        with suppress(KeyboardInterrupt):  # how a watch is meant to end
            watch_status(client, session.paper, as_json=as_json)
        return
    found: Status = client.get("/v1/status")
    if as_json:
        emit_json(found)
    else:
        emit(*status_lines(found, session.paper))


def wait(
    session: Session,
    share: ShareChoice = None,
    *,
    timeout: Timeout = None,
    peers: Peers = 1,
    as_json: Json = False,
) -> None:
    """Wait until this device and its connected peers are equal; exit code 4 if they are not in time."""
    done: WaitReport = session.client.post("/v1/wait", share=share, timeout_s=timeout, peers=peers)
    if as_json:
        emit_json(done)
        return
    for one in done["shares"]:
        talk(
            f"{escape(one['name'])}: equal on this device and {escape(', '.join(one['peers'])) or 'no peer'}."
        )
    tell_paused(done["paused"])


def tell_paused(names: Sequence[str]) -> None:
    """Say which shares were left out."""
    for name in names:
        talk(f"{escape(name)} is paused on this device, and was not waited for.")


def sync(
    session: Session,
    share: ShareChoice = None,
    *,
    once: Once = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Connect, exchange until nothing is missing, report, and return (with --once)."""
    if not once:
        raise usage_error(
            "the daemon syncs by itself all the time; `p2psync sync --once` waits for one round"
        )
    done: SyncReport = session.client.post("/v1/sync", share=share, timeout_s=timeout)
    if as_json:
        emit_json(done)
        return
    for one in done["shares"]:
        peers = escape(", ".join(one["peers"])) or "no peer"
        emit(
            f"{escape(one['name'])}: {count(one['items'], 'item')}, {size(one['bytes'])}, equal with {peers}"
        )
    received = f"{count(done['received_items'], 'item')}, {size(done['received_bytes'])}"
    tell_paused(done["paused"])
    emit(f"received {received}; sent {count(done['sent_items'], 'item')}, {size(done['sent_bytes'])}")


def diff(
    session: Session, share: ShareArgument, device: DeviceChoice = None, *, as_json: Json = False
) -> None:
    """Show what differs from a peer, found through the Merkle summary."""
    query = {"share": share} if device is None else {"share": share, "device": device}
    found: Diff = session.client.get("/v1/diff", patience_s=None, **query)
    if as_json:
        emit_json(found)
        return
    if not found["devices"]:
        talk(f"No device that shares {escape(share)} is connected, so there is nothing to compare with.")
    for one in found["devices"]:
        name = escape(one["device"])
        if not one["connected"]:
            talk(f"{name} is not connected, or does not share {escape(share)} now (it may have paused it).")
        elif not one["differences"]:
            talk(f"{name}: equal ({count(one['round_trips'], 'round trip')}, {size(one['bytes'])}).")
        else:
            cost = f"{count(one['round_trips'], 'round trip')}, {size(one['bytes'])}"
            talk(f"{name}: {count(len(one['differences']), 'difference')} ({cost}).")
            rows = [(line["item"], line["here"], line["there"]) for line in one["differences"]]
            emit(*columns(rows, session.paper, ("ITEM", "HERE", f"ON {one['device']}")))


def verify(session: Session, share: ShareChoice = None, *, as_json: Json = False) -> None:
    """Read everything again and hold it against the recorded state; exit code 1 if anything is wrong."""
    found: Verified = session.client.post("/v1/verify", share=share)
    if as_json:
        emit_json(found)
    else:
        rows = [(one["share"], one["item"], one["problem"]) for one in found["problems"]]
        emit(*columns(rows, session.paper, ("SHARE", "ITEM", "PROBLEM")))
        read = f"{count(found['items'], 'item')}, {size(found['bytes'])} read"
        talk(f"{read}: {count(len(rows), 'problem') if rows else 'all as recorded'}.")
    if found["problems"]:
        raise typer.Exit(1)


def events(
    session: Session,
    *,
    follow: Follow = False,
    since: Since = 0,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Show what happened, newest last; one JSON object a line with --json."""
    client = session.client
    last = since
    for event in client.get("/v1/events", since=since, limit=limit):
        show_event(event, as_json=as_json)
        last = event["id"]
    if follow:
        with client.follow_events(last) as stream:
            for event in stream:
                show_event(event, as_json=as_json)


def show_event(event: Event, *, as_json: bool) -> None:
    """Print one event."""
    if as_json:
        emit_json_line(event)
    else:
        where = f" [{event['share']}]" if event["share"] else ""
        emit(escape(f"{event['time']}  {event['type']}{where}  {event['message']}"))
