from __future__ import annotations

from pathlib import Path

import pytest

from p2psyncd.control import places
from p2psyncd.control.places import client_sockets, find_places


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/ada/.config")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/ada/.local/state")
    monkeypatch.setattr(places, "USER_RUN_DIRS", tmp_path)


def test_a_home_holds_everything() -> None:
    found = find_places(Path("/h"), {"P2PSYNC_HOME": "/other", "STATE_DIRECTORY": "/s"}, 1000)
    assert found.home == Path("/h")
    assert found.config_file == Path("/h/config.toml")
    assert found.identity_dir == Path("/h/identity")
    assert found.state_dir == Path("/h/state")
    assert found.socket_path == Path("/h/run/control.sock")


def test_the_environment_names_a_home_too_and_it_may_be_relative(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_places(None, {"P2PSYNC_HOME": "h"}, 1000).state_dir == tmp_path / "h" / "state"


def test_a_user_has_xdg_folders() -> None:
    found = find_places(None, {"XDG_RUNTIME_DIR": "/run/user/7", "P2PSYNC_HOME": ""}, 1000)
    assert found.home is None
    assert found.config_file == Path("/home/ada/.config/p2psyncd/config.toml")
    assert found.state_dir == Path("/home/ada/.local/state/p2psyncd")
    assert found.identity_dir == Path("/home/ada/.local/state/p2psyncd/identity")
    assert found.socket_path == Path("/run/user/7/p2psyncd/control.sock")


def test_without_a_session_variable_the_session_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "1000").mkdir()
    assert find_places(None, {}, 1000).socket_path == tmp_path / "1000/p2psyncd/control.sock"


def test_without_any_session_the_socket_lies_with_the_state() -> None:
    expected = Path("/home/ada/.local/state/p2psyncd/run/control.sock")
    assert find_places(None, {"XDG_RUNTIME_DIR": "relative"}, 1000).socket_path == expected


def test_the_system_service_uses_what_systemd_made() -> None:
    environ = {
        "CONFIGURATION_DIRECTORY": "/etc/p2psyncd",
        "STATE_DIRECTORY": "/var/lib/p2psyncd:/var/lib/more",
        "RUNTIME_DIRECTORY": "/run/p2psyncd",
    }
    found = find_places(None, environ, 999)
    assert found.config_file == Path("/etc/p2psyncd/config.toml")
    assert found.state_dir == Path("/var/lib/p2psyncd")
    assert found.identity_dir == Path("/var/lib/p2psyncd/identity")
    assert found.socket_path == Path("/run/p2psyncd/control.sock")


def test_a_client_looks_for_its_own_daemon_first_then_for_the_systems() -> None:
    assert client_sockets(None, {"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "ada") == [
        Path("/run/user/7/p2psyncd/control.sock"),
        Path("/run/p2psyncd/ada/control.sock"),
        Path("/run/p2psyncd/control.sock"),
    ]
    assert client_sockets(Path("/h"), {}, 7, "ada") == [Path("/h/run/control.sock")]
