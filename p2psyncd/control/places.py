"""Where things are: one rule for the daemon and the client, so that they find each other.

In this order:

1. A home (`--home`, else `P2PSYNC_HOME`): everything below one folder.
2. Under systemd, the folders it made and named in `CONFIGURATION_DIRECTORY`, `STATE_DIRECTORY` and
   `RUNTIME_DIRECTORY`: for the system service these are /etc/p2psyncd, /var/lib/p2psyncd and /run/p2psyncd.
3. The user's XDG folders. Without `XDG_RUNTIME_DIR` (cron, a bare ssh) /run/user/UID if it exists, else
   `run` in the state folder: never a folder in /tmp that someone else could have made first.

The identity lies with the state, not with the configuration, because a service's configuration is read-only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Places", "client_sockets", "find_places"]

NAME = "p2psyncd"
SYSTEM_RUN_DIR = Path("/run/p2psyncd")
USER_RUN_DIRS = Path("/run/user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The files and folders of one daemon."""

    config_file: Path
    identity_dir: Path
    state_dir: Path
    socket_path: Path
    home: Path | None = None
    """The one folder, if there is one."""


def find_places(home: Path | None, environ: Mapping[str, str], uid: int) -> Places:
    """Return the places of the daemon that these settings mean.

    Args:
        home: What `--home` gave; goes before `P2PSYNC_HOME`.
        environ: The environment.
        uid: Numeric user ID, for /run/user/UID.
    """
    if home is None and environ.get("P2PSYNC_HOME"):
        home = Path(environ["P2PSYNC_HOME"])
    if home is not None:
        home = Path.cwd() / home
        return Places(
            config_file=home / "config.toml",
            identity_dir=home / "identity",
            state_dir=home / "state",
            socket_path=home / "run" / "control.sock",
            home=home,
        )
    config_dir = given_dir(environ, "CONFIGURATION_DIRECTORY") or xdg_dir("config")
    state_dir = given_dir(environ, "STATE_DIRECTORY") or xdg_dir("state")
    run_dir = given_dir(environ, "RUNTIME_DIRECTORY") or runtime_dir(environ, uid, state_dir)
    return Places(
        config_file=config_dir / "config.toml",
        identity_dir=state_dir / "identity",
        state_dir=state_dir,
        socket_path=run_dir / "control.sock",
    )


def client_sockets(
    home: Path | None, environ: Mapping[str, str], uid: int, user: str, system_run_dir: Path = SYSTEM_RUN_DIR
) -> list[Path]:
    """Return the sockets where a client should look for its daemon, likeliest first.

    Without a home a user's own daemon comes first, then the system's instance for that user, then the
    system's only one (which lets in nobody but its own user and root).
    """
    own = find_places(home, environ, uid)
    if own.home is not None:
        return [own.socket_path]
    return [
        own.socket_path,
        system_run_dir / user / "control.sock",
        system_run_dir / "control.sock",
    ]


def given_dir(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the first folder of systemd's colon-separated list, if it gave one."""
    first = environ.get(variable, "").split(":")[0]
    return Path(first) if first.startswith("/") else None


def xdg_dir(which: str) -> Path:
    """Return this user's `config` or `state` folder for the program."""
    import platformdirs  # noqa: PLC0415  # a client that is told its home starts without it

    if which == "config":
        return platformdirs.user_config_path(NAME, appauthor=False)
    return platformdirs.user_state_path(NAME, appauthor=False)


def runtime_dir(environ: Mapping[str, str], uid: int, state_dir: Path) -> Path:
    """Return the folder for the socket; see the rules above."""
    given = environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        return Path(given) / NAME
    session = USER_RUN_DIRS / str(uid)
    return session / NAME if os.access(session, os.W_OK | os.X_OK) else state_dir / "run"
