"""Names for the shell to complete, asked of the running daemon; silence if there is none."""

from __future__ import annotations

from pathlib import Path

import typer

from p2psync.session import Session
from p2psyncd.errors import P2psyncError

__all__ = ["conflict_ids", "device_names", "offer_names", "share_names"]

# A person waits for each press of the tab key.
PATIENCE_S = 0.5


def ask(context: typer.Context, path: str, field: str, incomplete: str) -> list[str]:
    """Return the values of a field that begin with what was typed and that a person could type."""
    home = context.find_root().params.get("home") or context.params.get("home")
    try:
        found = Session(Path(home) if home else None).client.get(path, patience_s=PATIENCE_S)
    except P2psyncError:
        return []
    names = [str(one[field]) for one in found]
    return [name for name in names if name.startswith(incomplete) and name.isprintable()]


def share_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the shares of this device."""
    return ask(context, "/v1/shares", "name", incomplete)


def offer_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the shares that peers offer."""
    return ask(context, "/v1/shares/offers", "name", incomplete)


def device_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the paired devices."""
    return ask(context, "/v1/devices", "name", incomplete)


def conflict_ids(context: typer.Context, incomplete: str) -> list[str]:
    """Return the conflicts that are not resolved."""
    return ask(context, "/v1/conflicts", "id", incomplete)
