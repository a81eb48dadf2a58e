"""Scenarios A38 to A40: parts that cannot be read, disks that are full, folders that cannot be written to."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from group import Group, contents, put

from p2psyncd.daemon import fetcher

SOON_S = 0.5


def run(*command: object) -> str:
    """Run a command; return what it complains about."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{command[0]} failed"


@pytest.fixture
def mounted() -> Iterator[Callable[[Path, int], None]]:
    """Mounts a small file system in memory; needs root."""
    places: list[Path] = []

    def mount(place: Path, size_mb: int) -> None:
        trouble = run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "none", place)
        if trouble:
            pytest.skip(f"no file system can be mounted here ({trouble}); run as root")
        places.append(place)

    yield mount
    for place in places:
        run("umount", "--lazy", place)


@pytest.fixture
def protected() -> Iterator[Callable[[Path], None]]:
    """Makes a folder that not even root can write to."""
    places: list[Path] = []

    def protect(place: Path) -> None:
        trouble = run("chattr", "+i", place)
        if trouble:
            pytest.skip(f"no folder can be protected here ({trouble}); run as root on ext4")
        places.append(place)

    yield protect
    for place in places:
        run("chattr", "-i", place)


async def test_a38_a_subtree_that_cannot_be_known_is_not_deleted_and_the_rest_goes_on(
    pair: Group, mounted: Callable[[Path, int], None]
) -> None:
    here, there = await pair.begin()
    put(here / "d" / "a.txt", "below")
    put(here / "b.txt", "beside")
    await pair.noted(0)
    await pair.settle()
    mounted(here / "d", 1)
    put(here / "b.txt", "edited beside")
    await pair.noted(0)
    await pair.settle()
    assert contents(there) == {"d": None, "d/a.txt": "below", "b.txt": "edited beside"}
    errors = {one["item"]: one["error"] for one in (await pair.row(0))["errors"]}
    assert "another file system is mounted here" in errors["d"]


async def test_a39_a_full_disk_keeps_the_old_file_says_why_and_goes_on_when_there_is_room(
    pair: Group, mounted: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "STAGING_RETRY_S", SOON_S)
    here = pair.daemons[0].make("f", a_txt="old")
    there = pair.daemons[1].make("f")
    mounted(there, 400)
    await pair.begin()
    filler = there / ".p2psync" / "filler"
    filler.write_bytes(bytes(200 * 1024 * 1024))  # less is free now than what always stays free
    put(here / "a.txt", "new " * 1000)
    await pair.noted(0)

    async def why() -> list[str]:
        return [one["error"] for one in (await pair.row(1))["errors"] if one["item"] == "a.txt"]

    assert "The disk is nearly full" in await pair.told(why)
    assert contents(there)["a.txt"] == "old"
    filler.unlink()
    await pair.settle()
    assert contents(there)["a.txt"] == "new " * 1000
    assert contents(here) == contents(there)


async def test_a40_in_a_protected_folder_items_fail_and_the_others_go_on(
    pair: Group, protected: Callable[[Path], None]
) -> None:
    here, there = await pair.begin()
    put(here / "d" / "a.txt", "old")
    await pair.noted(0)
    await pair.settle()
    protected(there / "d")
    put(here / "d" / "a.txt", "new")
    put(here / "z.txt", "beside")
    await pair.noted(0)
    await pair.until(lambda: contents(there).get("z.txt") == "beside", "the file beside")

    async def why() -> list[str]:
        return [one["error"] for one in (await pair.row(1))["errors"] if one["item"] == "d/a.txt"]

    assert "not permitted here" in await pair.told(why)
    assert contents(there)["d/a.txt"] == "old"
