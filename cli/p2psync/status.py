"""Status for a person: this device, its peers, its shares, what moves now, what needs attention."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from p2psync.escape import escape
from p2psync.render import Paper, ago, count, size, span
from p2psyncd.control.messages import Attention, PeerStatus, ShareStatus, Status

__all__ = ["amount", "attention", "changes", "quote", "status_lines"]

LINKS_SHOWN = 3
NAMES_SHOWN = 4
STATE_STYLES = {
    "idle": "green",
    "syncing": "cyan",
    "scanning": "cyan",
    "starting": "cyan",
    "held": "yellow",
    "paused": "dim",
    "error": "red",
}


def status_lines(status: Status, paper: Paper, now: datetime | None = None) -> list[str]:
    """Return the whole picture as lines."""
    device = status["device"]
    lines = [
        f"{paper.style(device['name'], 'bold')}  {paper.style(device['id'], 'dim')}",
        paper.style(f"p2psyncd {status['version']}, listening on {', '.join(device['listen']) or 'nothing'}"),
        "",
        paper.style("Devices", "bold"),
    ]
    lines += [peer_line(peer, paper, now) for peer in status["peers"]] or ["  none paired"]
    lines += ["", paper.style("Shares", "bold")]
    shares = [line for share in status["shares"] for line in share_lines(share, paper)]
    lines += shares or ["  none"]
    needed = attention(status)
    if needed:
        lines += ["", paper.style("Needs attention", "bold", "yellow")]
        for one in needed:
            command = (
                f"  {paper.sign('→', '->')} {paper.style(one['command'], 'cyan')}" if one["command"] else ""
            )
            lines.append(f"  {escape(one['message'])}{command}")
    return lines


def peer_line(peer: PeerStatus, paper: Paper, now: datetime | None) -> str:
    """Return one device."""
    name = paper.style(peer["name"], "bold")
    if peer["connected"]:
        sign = paper.style(paper.sign("●", "*"), "green")
        found = f" ({peer['found_by']})" if peer["found_by"] else ""
        return f"  {sign} {name}  connected, {escape(peer['address'] or '')}{found}"
    sign = paper.style(paper.sign("○", "-"), "dim")
    state = "paused" if peer.get("paused") else "away"
    return f"  {sign} {name}  {state}, last seen {escape(ago(peer['last_seen'], now))}"


def share_lines(share: ShareStatus, paper: Paper) -> list[str]:
    """Return one share: what it is, how much it holds, what it needs, and how far its peers are."""
    state = paper.style(share["state"], STATE_STYLES[share["state"]])
    mode = "" if share["mode"] == "send-receive" else f", {share['mode']}"
    lines = [
        f"  {paper.style(share['name'], 'bold')}  {state}  {escape(share['path'])} ({share['kind']}{mode})",
        f"    {amount(share)}{need(share)}",
    ]
    if share["need_items"] and share["state"] == "syncing":
        lines.append(f"    {progress(share, paper)}")
    if share["peers"]:
        lines.append(f"    {escape('; '.join(peer_states(share)))}")
    if share.get("hard_links"):
        lines.append(f"    {escape(hard_links(share))}")
    return lines


def hard_links(share: ShareStatus) -> str:
    """Say which files have several names: on other devices each is a file of its own."""
    groups = share["hard_links"]
    shown = [" = ".join(names[:NAMES_SHOWN]) for names in groups[:LINKS_SHOWN]]
    more = f"; {len(groups) - LINKS_SHOWN} more" if len(groups) > LINKS_SHOWN else ""
    return f"hard links, each name synced as a file of its own: {'; '.join(shown)}{more}"


def amount(share: ShareStatus) -> str:
    """Return how much a share holds: a database's rows have no content apart."""
    if share["kind"] == "database":
        return count(share["items"], "item")
    return f"{count(share['items'], 'item')}, {size(share['bytes'])}"


def need(share: ShareStatus) -> str:
    """Return what is missing here, if anything is."""
    if not share["need_items"]:
        return ""
    if share["kind"] == "database":
        return f"; needs {count(share['need_items'], 'item')}"
    return f"; needs {count(share['need_items'], 'item')}, {size(share['need_bytes'])}"


def progress(share: ShareStatus, paper: Paper) -> str:
    """Return bar, rate and time left of what is being received."""
    by_bytes = share["need_bytes"] > 0 and share["bytes"] > 0
    total, missing = (
        (share["bytes"], share["need_bytes"]) if by_bytes else (share["items"], share["need_items"])
    )
    line = paper.bar(1 - missing / total if total else 0.0)
    rate = share.get("rate_bytes_s", 0.0)
    items_rate = share.get("rate_items_s", 0.0)
    if rate >= 1:
        line += f"  {size(rate)}/s"
    elif items_rate >= 1:
        line += f"  {int(items_rate):,} items/s"
    # Small files are bound by their number, large ones by their bytes: the slower of the two tells.
    left = [missing / per_s for missing, per_s in zip(needs(share), (rate, items_rate), strict=True) if per_s]
    return f"{line}  {span(max(left) + 1)} left" if left else line


def needs(share: ShareStatus) -> tuple[int, int]:
    """Return the bytes and the items that are missing."""
    return share["need_bytes"], share["need_items"]


def peer_states(share: ShareStatus) -> Iterator[str]:
    """Say how far each peer of a share is."""
    for peer in share["peers"]:
        if peer["in_sync"]:
            yield f"{peer['name']}: in sync"
        elif peer["need_items"]:
            yield f"{peer['name']}: needs {count(peer['need_items'], 'item')}, {size(peer['need_bytes'])}"
        else:
            yield f"{peer['name']}: not in sync"


def attention(status: Status) -> list[Attention]:
    """Return what needs a person, with the command to run: what the daemon says, and what is still to be set up."""
    found: list[Attention] = list(status.get("attention", []))
    if not status["peers"]:
        found.append({"message": "No device is paired.", "command": "p2psync pair"})
    if not status["shares"] and not status.get("offers"):
        found.append({"message": "Nothing is shared.", "command": "p2psync share add PATH"})
    found += [
        {
            "message": f"{offer['device']} offers {offer['name']}.",
            "command": f"p2psync share accept {quote(offer['name'])} PATH --from {quote(offer['device'])}",
        }
        for offer in status.get("offers", [])
    ]
    return found


def quote(name: str) -> str:
    """Return a name as a shell takes it."""
    import shlex  # noqa: PLC0415  # only where a command is suggested

    return shlex.quote(name)


def changes(before: Status | None, after: Status) -> list[str]:
    """Return what changed between two looks, a line for each thing; all of it the first time."""
    old = facts(before) if before else {}
    new = facts(after)
    lines = [f"{key}: {value}" for key, value in new.items() if old.get(key) != value]
    return lines + [f"{key}: gone" for key in old if key not in new]


def facts(status: Status) -> dict[str, str]:
    """Return what `changes` compares, by name, escaped."""
    found = {}
    for peer in status["peers"]:
        state = "connected" if peer["connected"] else "paused" if peer.get("paused") else "away"
        found[escape(f"device {peer['name']}")] = state
    for share in status["shares"]:
        parts = [f"{share['state']}, {amount(share)}{need(share)}"]
        if share["conflicts"]:
            parts.append(count(share["conflicts"], "conflict"))
        if share["errors"]:
            parts.append(count(len(share["errors"]), "error"))
        if share["reason"]:
            parts.append(share["reason"])
        parts += peer_states(share)
        found[escape(f"share {share['name']}")] = escape("; ".join(parts))
    return found
