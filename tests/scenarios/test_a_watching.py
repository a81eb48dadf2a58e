"""Scenarios A32, A54 and A55: the kernel tells less than everything, and nothing is missed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from group import Group, contents, put
from p2plab.device import Device, pair, start
from p2plab.installed import Installed
from p2plab.network import Lab as Network
from p2plab.waiting import eventually

from p2psync.render import Paper
from p2psync.status import status_lines

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
FOLDERS = 12
WATCHES = 5
# The daemon's own program; only the minute between two scans of what is not watched is shorter.
PROGRAM = """
import sys
from p2psyncd.sources.folder import watch
from p2psyncd.main import main
watch.UNWATCHED_SCAN_S = 0.5
sys.exit(main(sys.argv[1:]))
"""
LIMITED = 'echo "$1" >/proc/sys/user/{limit} && shift && exec "$@"'


class LimitedDevice(Device):
    """A device with a user namespace of its own, in which the kernel grants less than it may need."""

    limit = "max_inotify_watches"
    number = WATCHES

    def launch(self) -> subprocess.Popen[bytes]:
        namespace = ["unshare", "--user", "--map-root-user", "sh", "-c", LIMITED.format(limit=self.limit)]
        daemon = [self.installed.python, "-c", PROGRAM, "--name", self.name]
        with self.log_path.open("ab") as log:
            self.process = self.host.spawn(
                [*namespace, "sh", str(self.number), *daemon],
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        return self.process

    def allow(self, number: int) -> None:
        """Raise the limit while the daemon runs."""
        assert self.process is not None
        inside = ["nsenter", "--target", str(self.process.pid), "--user", "--preserve-credentials"]
        script = f"echo {number} >/proc/sys/user/{self.limit}"
        done = self.host.run([*inside, "sh", "-ec", script])
        assert done.returncode == 0, done.stderr


@pytest.fixture
def limited(installed: Installed, short_folder: Path) -> Iterator[Callable[[str], tuple[Device, Device]]]:
    """Returns a function (limit) that starts and pairs two devices, the first of which is short of it."""
    made: list[Device] = []
    with Network() as network:

        def make(limit: str) -> tuple[Device, Device]:
            a = LimitedDevice(network.host(0), short_folder / "a", installed)
            a.limit, a.number = limit, WATCHES if limit == "max_inotify_watches" else 0
            b = Device(network.host(1), short_folder / "b", installed)
            made.extend((a, b))
            start(a, b)
            pair(a, b)
            return a, b

        yield make
        for device in made:
            sys.stdout.write(f"--- log of {device.name}\n{device.log()[-4000:]}\n")
            if device.process is not None and device.process.poll() is None:
                device.process.terminate()
                device.process.wait(30)


def queued_max() -> int:
    """Return how many events the kernel keeps for a reader."""
    return int(QUEUE.read_text())


def told(device: Device) -> str:
    """Return what a device's status calls a person's attention to about watching."""
    found = [one for one in device.status()["attention"] if "found by a scan" in one["message"]]
    return "\n".join(f"{one['message']} {one['command']}" for one in found)


@pytest.mark.lan
@pytest.mark.parametrize(
    ("limit", "setting"),
    [
        ("max_inotify_watches", "fs.inotify.max_user_watches=1048576"),
        ("max_inotify_instances", "fs.inotify.max_user_instances=1024"),
    ],
)
def test_a55_a_limit_of_watches_is_told_and_what_is_not_watched_is_found_by_scanning(
    limited: Callable[[str], tuple[LimitedDevice, Device]], limit: str, setting: str
) -> None:
    a, b = limited(limit)
    ours, theirs = a.folder / "f", b.folder / "f"
    for number in range(FOLDERS):
        put(ours / f"d{number}" / "deep" / "file", "old")
    a.share_folder(ours, "f", b)
    b.wait()
    # In words, and with the command that helps: in `status`, in its JSON, and in `doctor`.
    eventually("status says so", lambda: told(a))
    assert f"sudo sysctl {setting}" in told(a)
    shown = a.cli("status").ok().out
    assert "f: " in shown
    assert "so changes" in " ".join(shown.split())
    assert f"sudo sysctl {setting}" in " ".join(shown.split())
    doctor = " ".join(a.cli("doctor").out.split())
    assert "watching f" in doctor
    assert f"sudo sysctl {setting}" in doctor
    # Changes in every folder, most of which are not watched; nobody asks for a scan.
    for number in range(FOLDERS):
        put(ours / f"d{number}" / "deep" / "file", "new")
        put(ours / f"d{number}" / "more" / "file", "made")
    (ours / "d7" / "deep").rename(ours / "d7" / "moved")
    eventually("all of it is on the other side", lambda: contents(theirs) == contents(ours))
    assert told(a)
    # Once there are watches enough, everything is watched, and nothing is said any more.
    a.allow(1000)
    eventually("nothing is said any more", lambda: not told(a))
    assert "sysctl" not in a.cli("doctor").out
    put(ours / "d11" / "more" / "file", "edited")
    eventually("the edit is there", lambda: contents(theirs) == contents(ours))
    assert b.share("f")["errors"] == a.share("f")["errors"] == []


async def test_a54_nothing_is_missed_where_the_kernels_queue_overflows(
    pair: Group, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = await pair.begin(edited_txt="old", deleted_txt="old", moved_txt="moved")
    put(here / "busy" / "0", "much changed")
    put(here / "busy" / "1", "much changed")
    await pair.until(lambda: contents(there) == contents(here), "the beginning")
    # No step of the event loop in between: the daemon cannot read while this goes on, the queue fills, and
    # the kernel drops all that comes after. Two files by turns, because it joins equal events.
    for number in range(queued_max() + 1000):
        os.utime(here / "busy" / str(number % 2), ns=(number, number))
    put(here / "edited.txt", "new")
    (here / "deleted.txt").unlink()
    (here / "moved.txt").rename(here / "elsewhere.txt")
    put(here / "new" / "deep" / "file.txt", "first")
    (here / "busy" / "0").chmod(0o600)
    await pair.until(lambda: contents(there) == contents(here), "what the kernel did not tell of")
    assert "watch_overflow" in caplog.text
    assert contents(there)["new/deep/file.txt"] == "first"
    # The directories whose making nobody told of are watched now.
    put(here / "new" / "deep" / "file.txt", "second")
    await pair.until(lambda: contents(there) == contents(here), "an edit in a new directory")
    assert sorted(await pair.same()) == [
        *("busy", "busy/0", "busy/1", "edited.txt", "elsewhere.txt", "new", "new/deep"),
        "new/deep/file.txt",
    ]


async def test_a32_a_hard_linked_pair_is_told_once_and_an_edit_by_one_name_is_found_under_the_other(
    pair: Group,
) -> None:
    here, there = await pair.begin(first_txt="old", z_txt="z")

    async def links() -> list[list[str]]:
        return (await pair.row(0)).get("hard_links", [])

    # Made in front of the watch, which tells of the new name only; nobody asks for a scan from here on.
    put(here / "d" / "other.txt", "also old")
    (here / "second.txt").hardlink_to(here / "first.txt")
    await pair.until(lambda: contents(there) == contents(here), "the second name")
    for text, edited in (("by its first name", "first.txt"), ("by its second", "second.txt")):
        with (here / edited).open("w") as file:  # in place, in a folder that no scan looks at as a whole
            file.write(text)
        await pair.until(lambda: contents(there) == contents(here), f"an edit {text}")
        assert contents(there)["first.txt"] == contents(there)["second.txt"] == text
    assert await links() == [["first.txt", "second.txt"]]
    assert (await pair.row(0))["errors"] == []
    assert (await pair.row(1)).get("hard_links") == []
    shown = status_lines(await pair.daemons[0].backend.status(), Paper(colour=False, unicode=False, width=80))
    assert [line.strip() for line in shown if "hard links" in line] == [
        "hard links, each name synced as a file of its own: first.txt = second.txt"
    ]
    # A start finds them again; a third name in another folder, and one outside the share.
    await pair.stop(0)
    await pair.daemons[0].start()
    await pair.meet()
    assert await links() == [["first.txt", "second.txt"]]
    (here / "d" / "third.txt").hardlink_to(here / "first.txt")
    (here.parent / "outside.txt").hardlink_to(here / "z.txt")
    await pair.until(lambda: contents(there) == contents(here), "the third name")
    with (here / "first.txt").open("a") as file:
        file.write(", and more")
    await pair.until(lambda: contents(there) == contents(here), "an edit under three names")
    assert contents(there)["d/third.txt"] == "by its second, and more"
    assert await links() == [["d/third.txt", "first.txt", "second.txt"]]
    # Deleted names are names no more.
    (here / "d" / "third.txt").unlink()
    (here / "second.txt").unlink()
    await pair.until(lambda: contents(there) == contents(here), "the deletions")
    assert await links() == []
    assert await pair.same() == {
        "d": None,
        "d/other.txt": "also old",
        "first.txt": "by its second, and more",
        "z.txt": "z",
    }
