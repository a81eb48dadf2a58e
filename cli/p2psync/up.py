"""`p2psync up`: the short way in. Everything it does can be done with the other commands, too."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from p2psync.client import AnswerError, Client
from p2psync.escape import escape
from p2psync.launch import Child, stopped_by_signals
from p2psync.render import Paper, emit, talk
from p2psync.session import Commands, Session, absolute
from p2psync.status import changes, quote, status_lines
from p2psync.watch import REDRAW_S, live_picture
from p2psyncd.control.messages import Device, Offer, ShareStatus, Status
from p2psyncd.errors import DaemonNotRunning, P2psyncError

__all__ = ["CodeShower", "register"]

# A peer that is already paired needs about this long to be found and to say what it offers.
OFFERS_S_MAX = 3.0
# Each wrong guess burns a code; who guesses more often than a person mistypes gets no new one.
BURNED_MAX = 3
BURNED_PAUSE_S = 1.0

PathArgument = Annotated[
    Path | None, typer.Argument(metavar="[PATH]", help="The folder to share; else ~/Sync.")
]


def register(commands: Commands) -> None:
    """Declare the command."""
    commands.add("up")(up)


def up(session: Session, path: PathArgument = None) -> None:
    """Start here: run the daemon, share a folder, show a pairing code, and show what happens.

    Starts the daemon if none runs, shares PATH (~/Sync if not given) if nothing is shared yet, shows a
    pairing code while no device is paired, then the live status. Ctrl-C stops what it started.
    """
    client = session.client
    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        child: Child | None = None
        try:
            try:
                status: Status = client.get("/v1/status")
            except DaemonNotRunning:
                talk("Starting the daemon.")
                child = stack.enter_context(Child(session.home))
                status = child.wait_ready(client)
            share_something(client, status, path)
            live(client, session.paper, child)
        except KeyboardInterrupt:
            talk("\nStopping the daemon." if child else "\nThe daemon goes on; `p2psync status` shows it.")


def share_something(client: Client, status: Status, path: Path | None) -> None:
    """Share a folder if nothing is shared, unless there is something to accept instead."""
    if status["shares"]:
        full = absolute(path) if path else None
        if full and all(share["path"] != full for share in status["shares"]):
            talk(
                f"Something is shared already. To share this as well: p2psync share add {escape(quote(full))}"
            )
        return
    if path is None and status["peers"] and offered(client, OFFERS_S_MAX):
        return
    folder = Path(absolute(path)) if path else Path.home() / "Sync"
    if not folder.exists():
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise AnswerError(f"cannot make {folder}: {error.strerror}. Give another PATH.") from error
        talk(f"Made {escape(str(folder))}.")
    share: ShareStatus = client.post("/v1/shares/add", path=str(folder))
    talk(f"Sharing {escape(share['path'])} as {escape(share['name'])}.")


def offered(client: Client, patience_s: float = 0) -> list[Offer]:
    """Return what peers offer, waiting a moment for the first offer."""
    pause = threading.Event().wait
    while True:
        offers: list[Offer] = client.get("/v1/shares/offers")
        if offers or patience_s <= 0:
            return offers
        pause(REDRAW_S)
        patience_s -= REDRAW_S


def offer_lines(offers: list[Offer], status: Status) -> list[str]:
    """Say how to accept each offer.

    Two devices that were both started with `up` each share a folder of the same name: then one joins the
    other's share at the same place, and its own, which nobody else holds, gives way (its files stay).
    """
    places = {share["name"]: share["path"] for share in status["shares"]}
    ids = {peer["name"]: peer["id"] for peer in status["peers"]}
    lines = []
    for one in offers:
        name, device = quote(one["name"]), quote(one["device"])
        if one["name"] in places and status["device"]["id"] < ids.get(one["device"], ""):
            # Only one of the two may be told to join: if both did at once, each would have the other's old share.
            said = f"can join {one['name']} of this device; its own screen says how."
        elif one["name"] in places:
            accept = f"p2psync share accept {name} {quote(places[one['name']])} --from {device}"
            said = f"offers {one['name']}, too. To join it with yours: {accept}"
        else:
            said = f"offers {one['name']}. To have it here: p2psync share accept {name} ~/{name}"
        lines.append(escape(f"{one['device']} {said}"))
    return lines


class CodeShower:
    """Shows a pairing code from a thread of its own until a device has joined.

    The thread ends with the program: closing its connection is what withdraws the code.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.code: str | None = None
        self.burned = 0
        self.displaced = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Show one code after the other: each is valid for some minutes only."""
        pause = threading.Event().wait
        while self.burned < BURNED_MAX:
            try:
                with self.client.shown_code(introduce=True) as lines:
                    self.code = str(next(lines)["code"])
                    joined: Device | None = next(lines, None)
                if joined is not None:
                    return
            except AnswerError as error:
                self.burned += error.code == "wrong_code"
                if error.code == "code_expired" and "another code" in str(error):
                    self.displaced = (
                        True  # `p2psync pair` runs elsewhere: two that show would take turns for ever
                    )
                    return
                pause(BURNED_PAUSE_S)
            except P2psyncError:
                return
            finally:
                self.code = None

    def lines(self) -> list[str]:
        """Return what the person at the other device needs to know."""
        if self.burned >= BURNED_MAX:
            return ["Wrong codes were tried, so no new one is shown. `p2psync pair` shows one."]
        if self.displaced:
            return ["Another code is being shown; use that one, or `p2psync pair` for a new one."]
        if self.code is None:
            return []
        return [f"To pair a device, run there:  p2psync pair {escape(self.code)}"]


def live(client: Client, paper: Paper, child: Child | None) -> None:
    """Show status, code and offers until interrupted, or until the daemon stops."""
    pause = threading.Event().wait
    redrawn = sys.stdout.isatty()
    shower: CodeShower | None = None
    before: Status | None = None
    said: list[str] = []
    with live_picture() if redrawn else nullcontext(None) as picture:
        while True:
            try:
                status: Status = client.get("/v1/status")
                offers = offered(client)
            except DaemonNotRunning:
                if child is None:
                    raise
                raise child.ended("the daemon stopped") from None
            if not status["peers"] and shower is None:
                shower = CodeShower(client)
            notes = shower.lines() if shower and not status["peers"] else []
            notes += offer_lines(offers, status)
            status.pop("offers", None)  # the notes say more
            if picture:
                picture([*status_lines(status, paper), "", *(paper.style(note, "bold") for note in notes)])
            else:
                emit(*changes(before, status), *(note for note in notes if note not in said))
            before, said = status, notes
            pause(REDRAW_S)
