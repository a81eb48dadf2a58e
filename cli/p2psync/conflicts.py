"""`p2psync conflict …`: what was changed on two devices at once, kept until someone decides."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from p2psync.complete import conflict_ids
from p2psync.escape import escape
from p2psync.render import ago, columns, emit, emit_json, size, talk
from p2psync.session import Commands, Json, Session, Yes, confirm
from p2psyncd.control.messages import Conflict, ConflictDetail

__all__ = ["register"]


class KeepChoice(StrEnum):
    """Which version to keep."""

    WINNER = "winner"
    LOSER = "loser"
    BOTH = "both"


IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="As `conflict list` shows it.", autocompletion=conflict_ids)
]
All = Annotated[bool, typer.Option("--all", help="Resolved ones as well.")]
Keep = Annotated[
    KeepChoice,
    typer.Option("--keep", help="The version in place, a loser in its place, or (of files) all as they are."),
]
LoserOption = Annotated[
    int, typer.Option("--loser", metavar="N", min=1, help="Which copy, if there are several.")
]


def register(commands: Commands) -> None:
    """Declare the commands."""
    group = commands.group("conflict", "Conflicts: what two devices changed at once.")
    group.add("list")(show_all)
    group.add("show")(show)
    group.add("resolve")(resolve)


def show_all(session: Session, *, include_resolved: All = False, as_json: Json = False) -> None:
    """List the conflicts that nobody has resolved."""
    found: list[Conflict] = session.client.get("/v1/conflicts", all=int(include_resolved))
    if as_json:
        emit_json(found)
        return
    if not found:
        talk("There are no conflicts.")
    rows = [
        (
            one["id"],
            one["share"],
            one["item"],
            one["winner"],
            ", ".join(loser["device"] for loser in one["losers"]),
            ago(one["time"]) + (" (resolved)" if one["resolved"] else ""),
        )
        for one in found
    ]
    emit(*columns(rows, session.paper, ("ID", "SHARE", "ITEM", "IN PLACE", "KEPT ASIDE", "WHEN")))


def show(session: Session, conflict: IdArgument, *, as_json: Json = False) -> None:
    """Show the versions of one conflict."""
    found: ConflictDetail = session.client.get("/v1/conflicts/show", id=conflict)
    if as_json:
        emit_json(found)
        return
    paper = session.paper
    state = "resolved" if found["resolved"] else "not resolved"
    emit(f"{paper.style(found['item'], 'bold')} in {escape(found['share'])}, {state}")
    rows = [
        (
            "winner" if at == 0 else f"loser {at}",
            side["device"],
            ago(side["time"]),
            size(side["bytes"]) if found["kind"] == "folder" else "",
            side["where"],
        )
        for at, side in enumerate(found["sides"])
    ]
    emit(*columns(rows, paper, ("VERSION", "BY", "WHEN", "SIZE", "WHERE")))
    if not found["resolved"]:
        both = "|both" if found["kind"] == "folder" else ""
        talk(f"p2psync conflict resolve {escape(found['id'])} --keep winner|loser{both}")


def resolve(
    session: Session,
    conflict: IdArgument,
    *,
    keep: Keep = KeepChoice.WINNER,
    loser: LoserOption = 1,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Resolve a conflict; files that are given up stay in history for a while, values of a database do not."""
    if keep is not KeepChoice.BOTH:
        kept = "the version in place" if keep is KeepChoice.WINNER else f"loser {loser}"
        confirm(
            f"Keep {kept} of conflict {escape(conflict)} and give the others up? (Files go into history. A row of a "
            "database that stands in the way of the one kept is deleted, with what refers to it, on all devices.)",
            yes=yes,
        )
    done: Conflict = session.client.post(
        "/v1/conflicts/resolve", id=conflict, keep=keep.value, loser=loser - 1
    )
    if as_json:
        emit_json(done)
    else:
        talk(f"The conflict of {escape(done['item'])} is resolved.")
