from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from p2psyncd.control.places import Places, find_places
from p2psyncd.daemon.home import open_home
from p2psyncd.errors import HomeLocked, HomeUnusable


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return find_places(tmp_path / "home", {}, 0)


def test_the_folders_are_private(places: Places) -> None:
    with open_home(places, 1):
        for folder in (places.state_dir, places.identity_dir, places.socket_path.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((places.state_dir / "lock").stat().st_mode) == 0o600


def test_a_folder_that_others_can_enter_is_tightened(places: Places) -> None:
    places.identity_dir.mkdir(parents=True)
    places.identity_dir.chmod(0o755)
    with open_home(places, 1):
        assert stat.S_IMODE(places.identity_dir.stat().st_mode) == 0o700


def test_a_second_daemon_learns_which_process_holds_the_home(places: Places) -> None:
    with (
        open_home(places, os.getpid()),
        pytest.raises(HomeLocked, match=rf"process {os.getpid()} \(\w+"),
        open_home(places, 2),
    ):
        pass
    with open_home(places, 3):
        pass


@pytest.mark.parametrize(
    ("written", "named"), [("", "another process"), ("4194305\n", "process 4194305"), ("x" * 40, "another")]
)
def test_a_lock_without_a_living_name_is_still_a_lock(places: Places, written: str, named: str) -> None:
    with open_home(places, 1):
        (places.state_dir / "lock").write_text(written)
        with pytest.raises(HomeLocked, match=named), open_home(places, 2):
            pass


def test_a_killed_daemon_leaves_no_lock(places: Places) -> None:
    program = (
        "import os, sys; from pathlib import Path; from p2psyncd.control.places import find_places;"
        "from p2psyncd.daemon.home import open_home\n"
        "with open_home(find_places(Path(sys.argv[1]), {}, 0), os.getpid()): os.kill(os.getpid(), 9)"
    )
    assert places.home is not None
    assert subprocess.run([sys.executable, "-c", program, places.home], check=False).returncode == -9
    with open_home(places, 1):
        pass


@pytest.mark.parametrize("blocked", ["state", "identity", "run"])
def test_what_is_in_the_way_is_named(places: Places, blocked: str) -> None:
    assert places.home is not None
    places.home.mkdir()
    (places.home / blocked).write_text("mine")
    with pytest.raises(HomeUnusable, match=blocked), open_home(places, 1):
        pass
    assert (places.home / blocked).read_text() == "mine"


def test_a_lock_file_that_cannot_be_opened_is_named(places: Places) -> None:
    (places.state_dir / "lock").mkdir(parents=True)
    with pytest.raises(HomeUnusable, match="lock"), open_home(places, 1):
        pass


def test_a_lock_that_is_a_link_is_not_followed(places: Places, tmp_path: Path) -> None:
    places.state_dir.mkdir(parents=True)
    (tmp_path / "victim").write_text("mine")
    (places.state_dir / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(HomeUnusable), open_home(places, 1):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_folder_of_someone_else_is_refused(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(HomeUnusable, match="belongs to another user"), open_home(places, 1):
        pass


def test_a_disk_that_is_full_when_the_lock_is_written_is_named(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(HomeUnusable, match="No space left"), open_home(places, 1):
        pass
