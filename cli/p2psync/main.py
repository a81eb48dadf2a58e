"""The client's entry point: all commands, and how a run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from p2psync.escape import escape
from p2psync.render import talk
from p2psync.session import EXIT_INTERRUPTED, Commands, Home, remember_home
from p2psyncd import __version__

__all__ = ["main", "make_app"]

# Which module declares which commands, in the order of the help: a run loads only the one it needs, as all
# of them together would be a third of its start-up time.
THEMES = {
    "up": ("up",),
    "look": ("status", "wait", "sync", "diff", "verify", "events"),
    "pair": ("pair",),
    "devices": ("device",),
    "shares": ("share",),
    "conflicts": ("conflict",),
    "versions": ("history", "restore"),
    "doctor": ("doctor",),
    "demo": ("demo",),
}
ABOUT = "Keeps folders and SQLite databases equal on the devices of one network, directly between them."
EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 usage, 3 the daemon is not running, 4 timed out, 5 refused. "
    "Start with `p2psync up`, or look at `p2psync demo`."
)


def show_version(value: bool) -> None:  # noqa: FBT001  # typer's shape of a callback
    """Print the version and end."""
    if value:
        sys.stdout.write(f"p2psync {__version__}\n")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
]


def needed_themes(arguments: Sequence[str]) -> list[str]:
    """Return the modules that a command line needs: the one of its command, or all if there is any doubt."""
    words = list(arguments)
    if words[:1] == ["--home"]:
        words = words[2:]
    elif words and words[0].startswith("--home="):
        words = words[1:]
    owners = [theme for theme, names in THEMES.items() if words and words[0] in names]
    return owners or list(THEMES)


def make_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the application with the commands that these arguments need: all of them for none."""
    app = typer.Typer(
        name="p2psync",
        help=ABOUT,
        epilog=EPILOG,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    commands = Commands(app)

    @app.callback()
    def root(context: typer.Context, *, home: Home = None, version: Version = False) -> None:
        """Keep what was given before the command."""
        remember_home(context, home)

    for theme in needed_themes(arguments):
        import_module(f"p2psync.{theme}").register(commands)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end with the exit code of the contract.

    Args:
        arguments: Without the program's name; None: the command line's.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets its escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = make_app(arguments)(arguments, prog_name="p2psync", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        talk("")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a person never sees a traceback
        return explain(error)
    return code if isinstance(code, int) else 0


def explain(error: Exception) -> int:
    """Say what is wrong with a command line (or with us), and return the exit code."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            talk(error.format_message())
        else:
            path = context.command_path if context else "p2psync"
            talk(f"p2psync: {escape(error.format_message())} See `{path} --help`.")
        return int(error.exit_code)
    if os.environ.get("P2PSYNC_DEBUG"):
        raise error
    talk(f"p2psync: this should not happen: {escape(repr(error))}")
    talk("Please report it, with what P2PSYNC_DEBUG=1 in the environment shows.")
    return 1


if __name__ == "__main__":
    main()
