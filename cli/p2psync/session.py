"""What every command shares: which daemon is meant, how commands are declared, how they end.

A command is a function whose first argument is a `Session`. `Commands.add` gives it the option `--home`,
hands it the session, and turns errors into one line on stderr and the exit code of the contract.
"""

from __future__ import annotations

import inspect
import os
import pwd
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from p2psync.client import AnswerError, Client
from p2psync.escape import escape
from p2psync.render import Paper, talk
from p2psyncd.control.places import Places, client_sockets, find_places
from p2psyncd.errors import P2psyncError

__all__ = [
    "EXIT_INTERRUPTED",
    "Commands",
    "Home",
    "Json",
    "Session",
    "Yes",
    "absolute",
    "confirm",
    "remember_home",
    "usage_error",
    "user_name",
]

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

Home = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The daemon's home folder, as in P2PSYNC_HOME."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the client."""

    home: Path | None

    @property
    def places(self) -> Places:
        """Where the daemon that is meant keeps its things."""
        return find_places(self.home, os.environ, os.getuid())

    @property
    def client(self) -> Client:
        """What talks to the daemon."""
        return Client(client_sockets(self.home, os.environ, os.getuid(), user_name()))

    @property
    def paper(self) -> Paper:
        """What data is written on."""
        return Paper.of(sys.stdout)


def user_name() -> str:
    """Return this user's name; the number where there is none (as in some containers)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class Commands:
    """A typer application, or a group in it, whose commands take a session."""

    def __init__(self, app: typer.Typer) -> None:
        self.app = app
        app.callback()(remember_home)

    def add(self, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Declare a command."""

        def declare(function: Callable[..., None]) -> Callable[..., None]:
            self.app.command(name, help=inspect.getdoc(function))(with_session(function))
            return function

        return declare

    def group(self, name: str, about: str) -> Commands:
        """Declare a group of commands."""
        inner = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
        group = Commands(inner)
        self.app.add_typer(inner, name=name, help=about)
        return group


def remember_home(context: typer.Context, home: Home = None) -> None:
    """Keep a `--home` given before the command; the innermost one counts."""
    if home is not None:
        context.obj = home


def with_session(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function as typer takes it: the session gone, the context and `--home` added."""

    def run(context: typer.Context, home: Path | None, **arguments: object) -> None:
        try:
            function(Session(home or context.obj), **arguments)
        except P2psyncError as error:
            fail(error)
        except KeyboardInterrupt:
            talk("")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    signature = inspect.signature(function, eval_str=True)
    own = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("home", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Home),
    ]
    taken = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in list(signature.parameters.values())[1:]
    ]
    run.__signature__ = inspect.Signature([*taken, *own])  # type: ignore[attr-defined]  # what inspect reads
    run.__annotations__ = {one.name: one.annotation for one in [*taken, *own]}
    return run


def fail(error: P2psyncError) -> NoReturn:
    """Say what happened and what to do next, and end with the error's exit code."""
    talk(f"p2psync: {escape(error.message)}")
    raise typer.Exit(error.exit_code)


def usage_error(message: str) -> AnswerError:
    """Return the error for a command line that makes no sense."""
    return AnswerError(message, code="usage", exit_code=EXIT_USAGE)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; return only if the answer is yes.

    Args:
        question: Escaped text.
        yes: Whether `--yes` was given.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise usage_error("this needs a confirmation and there is no terminal to ask on; give --yes to do it")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        talk("p2psync: nothing was changed.")
        raise typer.Exit(1)


def absolute(path: Path) -> str:
    """Return a path as seen from here, in full.

    Only `..` is resolved (through symlinks, as the shell's user means it): a last part that is a symlink
    is what is meant, not where it leads.
    """
    full = Path.cwd() / path
    if ".." in full.parts:
        full = full.resolve() if full.name == ".." else full.parent.resolve() / full.name
    return str(full)
