"""`p2psync demo`: two throw-away devices on this machine, to see and to play with."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from p2psync.client import AnswerError, Client
from p2psync.escape import escape
from p2psync.launch import Child, stopped_by_signals
from p2psync.render import columns, emit, size, talk
from p2psync.session import Commands, Session
from p2psync.status import changes, quote
from p2psync.watch import REDRAW_S
from p2psyncd.control.messages import Device, Offer, PairCode, Status

__all__ = ["register"]

SHARE = "Files"
LIST = "shopping.db"
SCHEMA = "CREATE TABLE shopping (id INTEGER PRIMARY KEY, item TEXT NOT NULL, bought INTEGER DEFAULT 0)"
TRY_WRITE = "INSERT INTO shopping (item) VALUES ('tea')"
TRY_READ = "SELECT item, bought FROM shopping"
BUSY_S = 10.0
OFFER_S_MAX = 15.0
EQUAL_S_MAX = 30.0

Once = Annotated[bool, typer.Option("--once", help="Show it and end, for scripts.")]


def register(commands: Commands) -> None:
    """Declare the command."""
    commands.add("demo")(demo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """One of the two devices."""

    name: str
    home: Path
    folder: Path
    database: Path
    client: Client

    @classmethod
    def under(cls, base: Path, name: str) -> Toy:
        """Return a device that has everything below one folder."""
        home = base / name / "home"
        return cls(
            name=name,
            home=home,
            folder=base / name / SHARE,
            database=base / name / LIST,
            client=Session(home).client,
        )

    def child(self) -> Child:
        """Return its daemon, which only this machine can reach."""
        return Child(self.home, "--name", self.name, "--no-mdns", "--listen", "127.0.0.1:0")

    def files(self) -> dict[str, bytes]:
        """Return what its folder holds, without the share's own marker and staging."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and ".p2psync" not in path.relative_to(self.folder).parts
        }

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Do what any app does with its database: open, read or write, close."""
        with closing(sqlite3.connect(self.database, timeout=BUSY_S)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def rows(self) -> list[tuple[object, ...]]:
        """Return the shopping list."""
        return self.sql("SELECT item, bought FROM shopping ORDER BY item")


def demo(session: Session, *, once: Once = False) -> None:
    """Run two throw-away devices on this machine, paired, with a folder and a database shared between them.

    They live in a temporary folder, talk over the loopback interface only, and are gone after Ctrl-C.
    """
    del session  # The demo has homes of its own and leaves the real one alone.
    base = Path(tempfile.mkdtemp(prefix="p2psync-demo-"))
    try:
        with stopped_by_signals():
            run(Toy.under(base, "maple"), Toy.under(base, "willow"), once=once)
    except KeyboardInterrupt:
        talk("\nThe demo is over.")
    finally:
        shutil.rmtree(base, ignore_errors=True)


def run(first: Toy, second: Toy, *, once: bool) -> None:
    """Start, pair, share, and show that both are equal."""
    for toy in (first, second):
        toy.folder.mkdir(parents=True)
    talk("Starting two devices.")
    with first.child() as one, second.child() as other:
        status = one.wait_ready(first.client)
        other.wait_ready(second.client)
        pair(first, second, status["device"]["listen"])
        share(first, second)
        write(first, second)
        show(first, second)
        if not once:
            play(first, second)


def pair(first: Toy, second: Toy, listen: list[str]) -> None:
    """Pair the two as a person would: one shows a code, the other types it."""
    with first.client.shown_code(introduce=True) as lines:
        shown: PairCode = next(lines)
        talk(f"{first.name} shows the code {escape(shown['code'])}; {second.name} types it.")
        second.client.post("/v1/pair/join", code=shown["code"], at=listen[0], introduce=True)
        joined: Device | None = next(lines, None)
    if joined is None:
        raise AnswerError("the two devices did not pair; see `p2psync doctor`")
    talk("They are paired.")


def share(first: Toy, second: Toy) -> None:
    """Share a folder and a database from one, and accept both on the other."""
    first.sql(SCHEMA)
    first.sql("INSERT INTO shopping (item) VALUES ('bread'), ('oat milk')")
    first.client.post("/v1/shares/add", path=str(first.folder), name=SHARE)
    first.client.post("/v1/shares/add", path=str(first.database), name=LIST)
    pause = threading.Event().wait
    for _ in range(int(OFFER_S_MAX / REDRAW_S)):
        offers: list[Offer] = second.client.get("/v1/shares/offers")
        if {offer["name"] for offer in offers} >= {SHARE, LIST}:
            break
        pause(REDRAW_S)
    second.client.post("/v1/shares/accept", name=SHARE, path=str(second.folder))
    second.client.post("/v1/shares/accept", name=LIST, path=str(second.database))
    talk(f"{first.name} shares the folder {SHARE} and the database {LIST}; {second.name} has accepted both.")
    second.client.post("/v1/wait", share=LIST, timeout_s=EQUAL_S_MAX, peers=1)


def write(first: Toy, second: Toy) -> None:
    """Make a few files and rows on each side, and wait until they are on both."""
    second.sql("INSERT INTO shopping (item) VALUES ('apples')")
    first.sql("UPDATE shopping SET bought = 1 WHERE item = 'bread'")
    (first.folder / "notes").mkdir()
    (first.folder / "notes" / "today.txt").write_text("Water the trees.\n", encoding="utf-8")
    for toy in (first, second):
        (toy.folder / f"hello from {toy.name}.txt").write_text(f"Hello from {toy.name}!\n", encoding="utf-8")
    for name in (SHARE, LIST):
        for toy in (first, second):
            toy.client.post("/v1/wait", share=name, timeout_s=EQUAL_S_MAX, peers=1)


def show(first: Toy, second: Toy) -> None:
    """Show what both hold, and what to try.

    Raises:
        AnswerError: They are not equal.
    """
    ours, theirs = first.files(), second.files()
    if ours != theirs:
        raise AnswerError("the two folders are not equal; please report this")
    if first.rows() != second.rows():
        raise AnswerError("the two databases are not equal; please report this")
    emit(f"Equal on both devices: {len(ours)} files, and a database with {len(first.rows())} rows.")
    paper = Session(None).paper
    emit(*columns([(f"  {name}", size(len(content))) for name, content in ours.items()], paper))
    emit(f"  {LIST}: " + ", ".join(f"{item}{' (bought)' if bought else ''}" for item, bought in first.rows()))
    emit("", "Where they are:")
    emit(f"  {first.name:8}{quote(str(first.folder))}", f"  {second.name:8}{quote(str(second.folder))}")
    emit("", "To play with, in another terminal:")
    emit(f"  echo hi > {quote(str(first.folder / 'hi.txt'))}; ls {quote(str(second.folder))}")
    emit(f"  {sql_command(second, TRY_WRITE)}", f"  {sql_command(first, TRY_READ)}")
    for toy in (first, second):
        emit(f"  p2psync --home {quote(str(toy.home))} status --watch")
    emit(f"  p2psync --home {quote(str(second.home))} events --follow")


def sql_command(toy: Toy, statement: str) -> str:
    """Return a command that runs a statement: with SQLite's own program if it is here, else with Python."""
    if shutil.which("sqlite3"):
        return f'sqlite3 {quote(str(toy.database))} "{statement}"'
    program = f"import sqlite3; c = sqlite3.connect({str(toy.database)!r}); print(*c.execute({statement!r})); c.commit()"
    return f"python3 -c {quote(program)}"


def play(first: Toy, second: Toy) -> None:
    """Say what happens on either device until interrupted."""
    talk("\nCtrl-C ends the demo and removes everything.")
    pause = threading.Event().wait
    before: dict[str, Status] = {}
    while True:
        for toy in (first, second):
            status: Status = toy.client.get("/v1/status")
            if toy.name in before:
                emit(*(f"{toy.name}: {line}" for line in changes(before[toy.name], status)))
            before[toy.name] = status
        pause(REDRAW_S)
