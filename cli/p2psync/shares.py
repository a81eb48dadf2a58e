"""`p2psync share …`: what is shared, and what could be."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from p2psync.client import AnswerError
from p2psync.complete import device_names, offer_names, share_names
from p2psync.escape import escape
from p2psync.render import Paper, columns, count, emit, emit_json, size, talk
from p2psync.session import Commands, Json, Session, Yes, absolute, confirm, usage_error
from p2psync.status import amount, quote
from p2psyncd.control.messages import Compared, Comparison, Offer, ShareStatus, TableComparison
from p2psyncd.errors import Undecided

__all__ = ["register"]


class ModeChoice(StrEnum):
    """Which way changes travel."""

    SEND_RECEIVE = "send-receive"
    SEND_ONLY = "send-only"
    RECEIVE_ONLY = "receive-only"


class KindChoice(StrEnum):
    """What is shared."""

    FOLDER = "folder"
    DATABASE = "database"


ShareArgument = Annotated[str, typer.Argument(metavar="NAME", autocompletion=share_names)]
OfferArgument = Annotated[str, typer.Argument(metavar="NAME", autocompletion=offer_names)]
PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="A folder, or an SQLite database.")]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="N", help="Its name; else PATH's last part.")
]
KindOption = Annotated[KindChoice | None, typer.Option("--kind", help="Found from PATH if not given.")]
ModeOption = Annotated[ModeChoice, typer.Option("--mode", help="Which way changes travel.")]
WithOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="DEVICE",
        help="Share with this device (repeatable); else with all paired ones, later ones included.",
        autocompletion=device_names,
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="DEVICE", help="Whose offer, if several have one.", autocompletion=device_names
    ),
]


WithoutOption = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="TABLE", help="A table of the database that stays local (repeatable)."),
]
CounterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--counter",
        metavar="TABLE.COLUMN",
        help="A column of whole numbers in which what several devices add at once adds up (repeatable; `accept` takes those of `add` along).",
    ),
]
PropagateOption = Annotated[
    bool,
    typer.Option("--propagate-schema", help="Make tables and columns here that other devices come to have."),
]
MergeOption = Annotated[
    bool, typer.Option("--merge", help="Unite the rows of the database at PATH with the share's.")
]
AdoptOption = Annotated[
    bool, typer.Option("--adopt", help="Put the database at PATH aside and take what the others have.")
]
CatchUpOption = Annotated[
    bool,
    typer.Option(
        "--catch-up",
        help="Of a database that was put back from a backup: take what the others have; else the backup counts.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Even if an app keeps the database locked: what is ours stays in it.")
]


def register(commands: Commands) -> None:
    """Declare the commands."""
    group = commands.group("share", "The shares: folders and databases kept equal.")
    group.add("add")(add)
    group.add("list")(show)
    group.add("offers")(offers)
    group.add("accept")(accept)
    group.add("pause")(pause)
    group.add("resume")(resume)
    group.add("rescan")(rescan)
    group.add("remove")(remove)
    group.add("approve")(approve)


def report(share: ShareStatus, said: str, *, as_json: bool) -> None:
    """Print the share as JSON, or say what was done."""
    if as_json:
        emit_json(share)
    else:
        talk(said)


def add(
    session: Session,
    path: PathArgument,
    *,
    name: NameOption = None,
    kind: KindOption = None,
    mode: ModeOption = ModeChoice.SEND_RECEIVE,
    with_devices: WithOption = None,
    without: WithoutOption = None,
    counters: CounterOption = None,
    propagate_schema: PropagateOption = False,
    as_json: Json = False,
) -> None:
    """Share a folder, or an SQLite database, with the paired devices."""
    share: ShareStatus = session.client.post(
        "/v1/shares/add",
        path=absolute(path),
        name=name,
        kind=kind.value if kind else None,
        mode=mode.value,
        with_devices=with_devices or None,
        without=without or None,
        counters=counters or None,
        propagate_schema=propagate_schema,
    )
    whom = escape(", ".join(with_devices)) if with_devices else "all paired devices"
    said = f"{escape(share['name'])} ({escape(share['path'])}) is offered to {whom}."
    report(share, said, as_json=as_json)


def show(session: Session, *, as_json: Json = False) -> None:
    """List the shares of this device."""
    shares: list[ShareStatus] = session.client.get("/v1/shares")
    if as_json:
        emit_json(shares)
        return
    if not shares:
        talk("Nothing is shared. `p2psync share add PATH` shares a folder or a database.")
    rows = [
        (
            share["name"],
            share["state"],
            share["kind"],
            share["mode"],
            count(share["items"], "item"),
            size(share["bytes"]) if share["kind"] == "folder" else "",
            share["path"],
        )
        for share in shares
    ]
    emit(*columns(rows, session.paper, ("NAME", "STATE", "KIND", "MODE", "ITEMS", "SIZE", "PATH")))


def offers(session: Session, *, as_json: Json = False) -> None:
    """List the shares that peers offer and this device has not accepted."""
    found: list[Offer] = session.client.get("/v1/shares/offers")
    if as_json:
        emit_json(found)
        return
    if found:
        talk("`p2psync share accept NAME PATH` joins one.")
    else:
        talk("No connected device offers a share that is not here already.")
    rows = [
        (
            one["name"],
            one["device"],
            one["kind"],
            count(one["items"], "item"),
            size(one["bytes"]) if one["kind"] == "folder" else "",
        )
        for one in found
    ]
    emit(*columns(rows, session.paper, ("NAME", "FROM", "KIND", "ITEMS", "SIZE")))


def accept(
    session: Session,
    name: OfferArgument,
    path: PathArgument,
    *,
    mode: ModeOption = ModeChoice.SEND_RECEIVE,
    from_device: FromOption = None,
    merge: MergeOption = False,
    adopt: AdoptOption = False,
    without: WithoutOption = None,
    counters: CounterOption = None,
    propagate_schema: PropagateOption = False,
    as_json: Json = False,
) -> None:
    """Join an offered share; of folders, what is at PATH already is merged.

    A database that holds rows is compared first, and joined only with --merge or --adopt.
    """
    if merge and adopt:
        raise usage_error("--merge and --adopt exclude each other")
    asked: dict[str, Any] = {
        "name": name,
        "path": absolute(path),
        "mode": mode.value,
        "from_device": from_device,
        "without": without or None,
        "counters": counters or None,
        "propagate_schema": propagate_schema,
    }
    join = "merge" if merge else "adopt" if adopt else None
    try:
        share: ShareStatus = session.client.post("/v1/shares/accept", **asked, join=join)
    except AnswerError as error:
        if error.code != Undecided.wire_code:
            raise
        share = undecided(session, asked, as_json=as_json)
    report(share, f"{escape(share['name'])} is at {escape(share['path'])}.", as_json=as_json)


def undecided(session: Session, asked: dict[str, Any], *, as_json: bool) -> ShareStatus:
    """Compare a database with an offered share, and join it if all is the same.

    Raises:
        AnswerError: Something differs: somebody has to choose.
    """
    talk("There are rows in that database already; they are being compared.")
    found: Comparison = session.client.post(
        "/v1/shares/compare", **{name: asked[name] for name in ("name", "path", "from_device")}
    )
    if found["complete"] and not found["only_here"] + found["only_there"] + found["different"]:
        talk(f"Both hold the same {count(found['identical'], 'row')}.")
        joined: ShareStatus = session.client.post("/v1/shares/accept", **asked, join="merge")
        return joined
    if as_json:
        emit_json(found)
    else:
        emit(*comparison_lines(found, session.paper))
    command = f"p2psync share accept {quote(asked['name'])} {quote(asked['path'])}"
    for line in (
        "",
        f"  {command} --merge",
        "      keeps the rows of both; of two different values one, and lists the other as a conflict",
        f"  {command} --adopt",
        f"      puts this file aside under another name and takes the rows of {found['device']}",
    ):
        talk(escape(line))
    raise AnswerError(
        "nothing was changed; choose one of the two", code=Undecided.wire_code, exit_code=Undecided.exit_code
    )


def comparison_lines(found: Comparison, paper: Paper) -> list[str]:
    """Return a comparison as a table: one line for each table that differs, and the sum."""
    there = f"ONLY ON {found['device']}"

    def line(name: str, one: Compared | TableComparison) -> tuple[str, ...]:
        numbers = (one["identical"], one["only_here"], one["only_there"], one["different"])
        return (name, *(f"{number:,}" for number in numbers))

    rows = [line(one["table"], one) for one in found["tables"]]
    rows.append(line("all" if found["complete"] else "all, and more", found))
    return list(columns(rows, paper, ("TABLE", "IDENTICAL", "ONLY HERE", there, "DIFFERENT")))


def pause(session: Session, name: ShareArgument, *, as_json: Json = False) -> None:
    """Stop watching and exchanging a share until `share resume`."""
    share: ShareStatus = session.client.post("/v1/shares/pause", name=name)
    report(share, f"{escape(share['name'])} is paused.", as_json=as_json)


def resume(session: Session, name: ShareArgument, *, as_json: Json = False) -> None:
    """Go on with a paused share."""
    share: ShareStatus = session.client.post("/v1/shares/resume", name=name)
    report(share, f"{escape(share['name'])} goes on.", as_json=as_json)


def rescan(session: Session, name: ShareArgument, *, as_json: Json = False) -> None:
    """Look at everything in a share again; returns when that is done."""
    share: ShareStatus = session.client.post("/v1/shares/rescan", name=name)
    said = f"{escape(share['name'])} is scanned: {amount(share)}."
    report(share, said, as_json=as_json)


def remove(
    session: Session,
    name: ShareArgument,
    *,
    force: ForceOption = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget a share and leave its data where it is."""
    confirm(
        f"Forget the share {escape(name)}? Its files, conflict copies and history stay where they are; "
        "of a database the rows stay, and what is known of conflicts goes.",
        yes=yes,
    )
    share: ShareStatus = session.client.post("/v1/shares/remove", name=name, force=force)
    said = f"{escape(share['name'])} is no longer shared; its data stays at {escape(share['path'])}"
    if share["kind"] == "folder":
        said += ", and so does what is in its folder `.p2psync` (history), which can be deleted."
    elif force:
        said += "; where it was locked, triggers of ours may be left, which `share add` and `share remove` take out."
    else:
        said += ", with the schema that it had before."
    report(share, said, as_json=as_json)


def why_held(session: Session, name: str) -> str:
    """Return why a share is held, in a sentence, escaped."""
    shares: list[ShareStatus] = session.client.get("/v1/shares")
    for share in shares:
        if share["name"] == name and share["reason"]:
            return escape(f"{name}: {share['reason']}.")
    return ""


def approve(
    session: Session,
    name: ShareArgument,
    *,
    catch_up: CatchUpOption = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Release a held share: what held it (a mass deletion, say) is carried out."""
    # Without a terminal the command itself is the answer: a script that runs it has decided.
    if sys.stdin.isatty() and not yes:
        confirm(f"{why_held(session, name)} Carry it out on all devices?", yes=yes)
    share: ShareStatus = session.client.post("/v1/shares/approve", name=name, catch_up=catch_up)
    report(share, f"{escape(share['name'])} is released.", as_json=as_json)
