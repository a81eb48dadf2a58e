"""`p2psync doctor`: what may stand in the way, and what to do about it; works without a daemon, too."""

from __future__ import annotations

import typer

from p2psync.checks import outside_checks
from p2psync.escape import escape
from p2psync.render import Paper, count, emit, emit_json
from p2psync.session import Commands, Json, Session
from p2psyncd.control.messages import Check, CheckResult
from p2psyncd.errors import DaemonNotRunning, P2psyncError

__all__ = ["register"]

SIGNS: dict[CheckResult, tuple[str, str, str]] = {
    "ok": ("✓", "ok  ", "green"),
    "warn": ("!", "warn", "yellow"),
    "fail": ("✗", "FAIL", "red"),
}


def register(commands: Commands) -> None:
    """Declare the command."""
    commands.add("doctor")(doctor)


def doctor(session: Session, *, as_json: Json = False) -> None:
    """Check everything that syncing needs, and say what to do; exit code 1 if something must be done."""
    inside = daemon_checks(session)
    running = inside[0]["ok"] == "ok"
    checks = merge(inside, outside_checks(session.places, running=running))
    if as_json:
        emit_json(checks)
    else:
        paper = session.paper
        for check in checks:
            emit(*check_lines(check, paper))
        bad = sum(check["ok"] != "ok" for check in checks)
        emit("", f"{count(bad, 'thing')} to look at." if bad else "All is well.")
    if any(check["ok"] == "fail" for check in checks):
        raise typer.Exit(1)


def daemon_checks(session: Session) -> list[Check]:
    """Return whether the daemon runs, and then what it says about itself."""
    try:
        own: list[Check] = session.client.get("/v1/doctor")
    except DaemonNotRunning as error:
        advice = "Start it with `p2psync up`, or its systemd unit if that is installed."
        return [{"name": "daemon", "ok": "warn", "message": error.detail or "not running", "advice": advice}]
    except P2psyncError as error:
        return [{"name": "daemon", "ok": "fail", "message": error.message, "advice": "See its log."}]
    return [{"name": "daemon", "ok": "ok", "message": "running and answering", "advice": ""}, *own]


def merge(inside: list[Check], outside: list[Check]) -> list[Check]:
    """Return all checks; where both looked at one thing, the daemon knows better."""
    known = {check["name"] for check in inside}
    return inside + [check for check in outside if check["name"] not in known]


def check_lines(check: Check, paper: Paper) -> list[str]:
    """Return one check, with its advice below."""
    fancy, plain, style = SIGNS[check["ok"]]
    sign = paper.style(paper.sign(fancy, plain), style)
    lines = [f"{sign} {paper.style(check['name'], 'bold')}: {escape(check['message'])}"]
    if check["advice"]:
        lines.append(f"    {paper.sign('→', '->')} {escape(check['advice'])}")
    return lines
