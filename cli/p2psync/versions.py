"""`p2psync history` and `p2psync restore`: earlier versions that remote changes replaced or deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from p2psync.escape import escape
from p2psync.render import ago, columns, count, emit, emit_json, size, talk
from p2psync.session import Commands, Json, Session, Yes, absolute, confirm
from p2psyncd.control.messages import Restored, Version

__all__ = ["register"]

PathArgument = Annotated[
    Path,
    typer.Argument(metavar="PATH", help="A file in a share, which need not exist now; or a shared database."),
]
VersionOption = Annotated[
    str | None, typer.Option("--version", metavar="V", help="As `history` shows it; else the newest.")
]


def register(commands: Commands) -> None:
    """Declare the commands."""
    commands.add("history")(history)
    commands.add("restore")(restore)


def history(session: Session, path: PathArgument, *, as_json: Json = False) -> None:
    """List the earlier versions kept of a file or of everything in a folder; the deleted rows of a database."""
    found: list[Version] = session.client.get("/v1/history", path=absolute(path))
    if as_json:
        emit_json(found)
        return
    if not found:
        talk("No earlier version is kept: nothing that a peer changed here was replaced or deleted.")
    rows = [
        (
            one["version"],
            ago(one["time"]),
            size(one["bytes"]),
            one["reason"] if one["device"] is None else f"{one['reason']} by {one['device']}",
            one.get("item", one["path"]),
        )
        for one in found
    ]
    emit(*columns(rows, session.paper, ("VERSION", "WHEN", "SIZE", "WHY", "WHAT")))


def restore(
    session: Session,
    path: PathArgument,
    *,
    version: VersionOption = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put an earlier version back in place; what is there goes to history.

    Of a folder: the newest version of every file in it that was deleted. Of a database: one row, as it was.
    """
    full = absolute(path)
    if version is None and Path(full).is_dir() and not Path(full).is_symlink():
        confirm(f"Put all files back that were deleted in {escape(full)} and are kept?", yes=yes)
    elif os.path.lexists(full):
        which = f"version {escape(version)}" if version else "an earlier version"
        confirm(
            f"Put {which} back in {escape(full)}? It replaces the file, or, of a shared database, one row.",
            yes=yes,
        )
    done: Restored = session.client.post("/v1/restore", path=full, version=version)
    if as_json:
        emit_json(done)
        return
    if "count" in done:
        talk(f"{count(done['count'], 'deleted file')} back in {escape(done['path'])}.")
        for one in done.get("failed", []):
            talk(f"not back: {escape(one)}")
        return
    if "item" in done:
        talk(
            f"{escape(done['item'])} in {escape(done['path'])} is back as of version {escape(done['version'])}."
        )
        return
    was = "; what was there is in history" if done["replaced"] else ""
    talk(f"{escape(done['path'])} is back as of version {escape(done['version'])}{was}.")
