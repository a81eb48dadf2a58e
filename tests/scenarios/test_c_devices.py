"""Devices and people: codes, removals, moves between networks, things that go wrong at the start, many devices.

Where programs, exit codes, networks or machines matter, real daemons run in the lab (`lan`); what is about devices
among themselves is asked of whole daemons in this process.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import trio
from daemons import WAIT_S, Daemon, Lab, connect, offered, share, tree
from p2plab.device import Device, Result, pair, start
from p2plab.installed import Installed
from p2plab.network import Lab as Network
from p2plab.trees import describe, differences
from p2plab.waiting import eventually

from p2psyncd.errors import CodeExpired, DeviceRefused, WrongCode
from p2psyncd.net.tls import MAIN_ALPN
from p2psyncd.net.transport import dial
from p2psyncd.wire.pairing_code import CODE_ENTROPY_BYTES, make_code

NewDevice = Callable[..., Device]
LIFETIME_S = 300
KEPT = {b"identity", b"config.toml"}
# The daemon's own program, with something about it changed beforehand.
CHANGED = "import sys\n{change}\nfrom p2psyncd.main import main\nsys.exit(main(sys.argv[1:]))\n"


class ChangedDevice(Device):
    """A device whose daemon is started with `change` made to its modules."""

    change = ""

    def launch(self) -> object:  # type: ignore[override]  # a Popen, of the same daemon
        with self.log_path.open("ab") as log:
            self.process = self.host.spawn(
                [self.installed.python, "-c", CHANGED.format(change=self.change), "--name", self.name],
                env=self.environ(),
                stdin=-3,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        return self.process


@pytest.fixture
def new_device(installed: Installed, short_folder: Path) -> Iterator[NewDevice]:
    """Return a function (name, class, folder) that describes a device on a machine of its own."""
    made: list[Device] = []
    with Network() as network:

        def make(name: str, *options: str, kind: type[Device] = Device, folder: Path | None = None) -> Device:
            device = kind(network.host(len(made)), folder or short_folder / name, installed, *options)
            made.append(device)
            return device

        yield make
        for device in made:
            sys.stdout.write(f"--- log of {device.name}\n{device.log()[-4000:]}\n")
            if device.process is not None and device.process.poll() is None:
                device.process.terminate()
                device.process.wait(30)


def ended(device: Device) -> Result:
    """Run a daemon that is expected to end by itself."""
    process = device.launch()
    code = process.wait(30)
    device.process = None
    return Result(code=code, out="", err=device.log())


def shared(a: Device, b: Device) -> tuple[Path, Path]:
    """Pair two running devices and let them share a folder `s` with a file in it."""
    pair(a, b)
    ours = a.folder / "s"
    ours.mkdir()
    (ours / "kept").write_text("kept")
    a.share_folder(ours, "s", b)
    a.wait()
    return ours, b.folder / "s"


def attention(device: Device) -> str:
    """Return all that a device's status calls a person's attention to."""
    return "\n".join(one["message"] for one in device.status()["attention"])


# One identity on two machines


class Copy(ChangedDevice):
    """A machine made from a copy of another one's disk: it sees the copy where the original was."""

    original = Path()

    def environ(self, *, covered: bool = False) -> dict[str, str]:
        return {**super().environ(covered=covered), "P2PSYNC_HOME": str(self.original / "home")}


@pytest.mark.lan
def test_a50_a_cloned_machine_is_found_out_and_neither_loses_anything(
    new_device: NewDevice, short_folder: Path
) -> None:
    class Hasty(ChangedDevice):
        """Forgives as soon as one of the two was silent for three seconds, so that the test need not wait a minute."""

        change = (
            "from p2psyncd.daemon import doubles\n"
            "doubles.FORGET_S, doubles.RETRY_S = 3.0, 0.5\n"
            "from p2psyncd.daemon import mesh"
        )

    a, b = new_device("a", kind=Hasty), new_device("b", kind=Hasty)
    start(a, b)
    ours, theirs = shared(a, b)
    assert b.stop() == 0
    (short_folder / "copy").mkdir()
    folder = short_folder / "copy" / "b"
    shutil.copytree(b.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    Copy.original, Copy.change = b.folder, Hasty.change
    copy = new_device("b", kind=Copy, folder=folder)
    copy.host.run(["mount", "--bind", str(folder), str(b.folder)], check=True)
    for device, name in ((b, "from-b"), (copy, "from-copy")):
        (device.folder / "s" / name).write_text(name)
        device.start()
    eventually("a refuses both", lambda: "b is alive twice" in attention(a))
    for device in (b, copy):
        eventually("it is told", lambda device=device: "move its `identity` folder away" in attention(device))
        assert not device.connected_to(a)
        assert "alive twice" in device.cli("status").ok().out
        assert (device.folder / "s" / "kept").read_text() == "kept"
    assert (theirs / "from-b").read_text() == "from-b"
    assert (folder / "s" / "from-copy").read_text() == "from-copy"
    # What the message says: the copy becomes a device of its own, and its files stay.
    assert copy.stop() == 0
    (folder / "home" / "identity").rename(folder / "home" / "identity-of-b")
    copy.start()
    showing, code = a.show_code()
    copy.cli("pair", code, "--at", a.address).ok()
    assert showing.wait(30) == 0
    eventually("nobody is refused any more", lambda: a.connected_to(b) and not attention(a), within_s=60)
    names = ("kept", "from-b", "from-copy")
    for folder_of in (ours, theirs, folder / "s"):
        eventually(f"{folder_of} has all", lambda f=folder_of: all((f / name).exists() for name in names))
    a.wait("--peers", "2")
    assert differences(ours, theirs) == differences(ours, folder / "s") == []


# Codes


def wrong_ones(code: str) -> list[str]:
    """Return well-formed codes of the same number: one with another first word, one with both words other."""
    number, first, second = code.split("-")
    others = [make_code(number, bytes([n]) * CODE_ENTROPY_BYTES).text.split("-") for n in range(4)]
    [_, one, two] = next(other for other in others if other[1] != first and other[2] != second)
    return [f"{number}-{one}-{second}", f"{number}-{one}-{two}"]


@pytest.mark.lan
def test_c1_a_code_that_is_wrong_used_or_withdrawn_says_so_and_pairs_nobody(new_device: NewDevice) -> None:
    a, b, c = (new_device(name) for name in "abc")
    start(a, b, c)
    before = {path: entry for path, entry in describe(c.home).items() if b"identity" in path}
    said = []
    for place in range(2):
        showing, code = a.show_code()
        guess = c.cli("pair", wrong_ones(code)[place], "--at", a.address)
        assert guess.code == 5, guess
        assert showing.wait(10) == 5
        said.append(guess.err)
        # The right one is burnt.
        late = c.cli("pair", code, "--at", a.address)
        assert late.code == 5, late
    # A guesser who had one word right hears the same as one who had none.
    assert said[0] == said[1]
    assert "code" in said[0]
    showing, code = a.show_code()
    b.cli("pair", code, "--at", a.address).ok()
    assert showing.wait(10) == 0
    used = c.cli("pair", code, "--at", a.address)
    showing, code = a.show_code("--timeout", "1")
    assert showing.wait(20) == 4
    withdrawn = c.cli("pair", code, "--at", a.address)
    for answer in (used, withdrawn):
        assert answer.code == 5, answer
        assert "p2psync pair" in answer.err
    assert c.status()["peers"] == []
    assert [peer["name"] for peer in a.status()["peers"]] == ["b"]
    assert {path: entry for path, entry in describe(c.home).items() if b"identity" in path} == before


@pytest.mark.lan
def test_c1_of_two_devices_that_show_codes_at_once_each_is_found_by_its_own(new_device: NewDevice) -> None:
    a, b, c = (new_device(name) for name in "abc")
    start(a, b, c)
    of_a, code_a = a.show_code("--no-introduce")
    of_b, code_b = b.show_code("--no-introduce")
    assert code_a.split("-")[0] != code_b.split("-")[0]
    c.cli("pair", code_b).ok()
    assert of_b.wait(10) == 0
    assert [peer["name"] for peer in c.status()["peers"]] == ["b"]
    assert a.status()["peers"] == []
    c.cli("pair", code_a).ok()
    assert of_a.wait(10) == 0
    assert {peer["name"] for peer in c.status()["peers"]} == {"a", "b"}


async def test_c1_a_code_is_over_after_five_minutes_and_after_a_guess(lab: Lab) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    code = (await maple.backend.pair_show(introduce=True))["code"]
    with pytest.raises(WrongCode):
        await willow.backend.pair_join(wrong_ones(code)[0], at=maple.at, introduce=True, timeout_s=WAIT_S)
    with pytest.raises(CodeExpired):
        await willow.backend.pair_join(code, at=maple.at, introduce=True, timeout_s=WAIT_S)
    code = (await maple.backend.pair_show(introduce=True))["code"]
    maple.clock.ahead_s = LIFETIME_S + 1
    with pytest.raises(CodeExpired):
        await willow.backend.pair_join(code, at=maple.at, introduce=True, timeout_s=WAIT_S)
    assert await maple.backend.devices() == await willow.backend.devices() == []


# Removed, moved, asleep


@pytest.mark.lan
def test_c4_a_device_removed_on_one_side_is_refused_at_once_and_says_so(new_device: NewDevice) -> None:
    a, b = new_device("a"), new_device("b")
    start(a, b)
    ours, theirs = shared(a, b)
    a.cli("device", "remove", "b", "--yes").ok()
    eventually("b says that it was removed", lambda: "a has removed this device" in attention(b))
    assert not b.connected_to(a)
    assert b.peer("a")["trouble"]
    shown = b.cli("status").ok().out
    assert shown.count("a has removed this device") == 1
    (theirs / "new").write_text("stays here")
    b.stop()
    b.start()
    eventually("b is refused after a restart, too", lambda: "Pair them again" in attention(b))
    assert a.status()["peers"] == []
    assert not (ours / "new").exists()
    assert (ours / "kept").exists()
    assert (theirs / "kept").exists()


@pytest.mark.lan
def test_c5_a_new_address_another_cable_and_a_sleep_are_got_over(new_device: NewDevice) -> None:
    a, b = new_device("a"), new_device("b")
    start(a, b)
    ours, theirs = shared(a, b)

    def meet_again(what: str) -> None:
        (ours / what).write_text(what)
        eventually(f"b has what was written after {what}", (theirs / what).exists, within_s=60)
        (theirs / f"{what}-back").write_text(what)
        eventually(f"and a has b's after {what}", (ours / f"{what}-back").exists, within_s=60)

    b.host.run(["ip", "address", "flush", "dev", "eth0"], check=True)
    b.host.run(["ip", "address", "add", "10.77.0.200/24", "broadcast", "+", "dev", "eth0"], check=True)
    b.host.run(["ip", "route", "replace", "224.0.0.0/4", "dev", "eth0"], check=True)
    meet_again("another-address")
    assert "10.77.0.200" in (a.peer("b")["address"] or "")

    # From the cable to the wireless network: another interface, another address, the old one goes down.
    switch, pid = b.host.lab.in_switch, str(b.host.namespace.holder.pid)
    switch(["ip", "link", "add", "w1", "type", "veth", "peer", "name", "wlan0", "netns", pid])
    switch(["ip", "link", "set", "w1", "master", "br0", "up"])
    b.host.run(["ip", "address", "add", "10.77.0.201/24", "broadcast", "+", "dev", "wlan0"], check=True)
    b.host.run(["ip", "link", "set", "eth0", "down"], check=True)
    b.host.run(["ip", "address", "flush", "dev", "eth0"], check=True)
    b.host.run(["ip", "link", "set", "wlan0", "up"], check=True)
    b.host.run(["ip", "route", "replace", "224.0.0.0/4", "dev", "wlan0"], check=True)
    meet_again("wireless")

    # Asleep while the other side went away and came back: the connection that b wakes up with is dead.
    assert b.process is not None
    b.process.send_signal(signal.SIGSTOP)
    a.kill()
    a.start()
    b.process.send_signal(signal.SIGCONT)
    meet_again("sleep")
    # The same daemon woke up: nobody takes it for a copy.
    assert attention(a) == attention(b) == ""


# What can be wrong at the start


@pytest.mark.lan
def test_c6_a_second_daemon_with_the_same_home_ends_and_names_the_first(new_device: NewDevice) -> None:
    a = new_device("a").start()
    assert a.process is not None
    done = a.host.run([a.installed.daemon, "--listen", "127.0.0.1:0"], env=a.environ(), cwd=a.folder)
    assert done.returncode == 1
    assert str(a.process.pid) in done.stderr
    assert "Traceback" not in done.stderr
    assert a.status()["device"]["name"] == "a"


def take_port(device: Device) -> None:
    """Let another program have the port."""
    code = "import socket; s = socket.create_server(('', 22600)); print('taken', flush=True); s.accept()"
    taker = device.host.spawn([sys.executable, "-c", code], stdout=-1)
    assert taker.stdout is not None
    assert taker.stdout.readline() == b"taken\n"


def make_state_read_only(device: Device) -> None:
    """Mount the state read-only, which holds for root, too."""
    state = str(device.home / "state")
    device.host.run(["mount", "--bind", state, state], check=True)
    device.host.run(["mount", "-o", "remount,bind,ro", state], check=True)


def break_config(device: Device) -> None:
    (device.home / "config.toml").write_text("name = [\n")


def break_databases(device: Device) -> None:
    for database in (device.home / "state").rglob("*.db*"):
        database.write_bytes(b"no database" * 1000)


def untouchable(device: Device) -> dict[bytes, object]:
    """Return what a daemon that cannot run leaves alone: the files, the identity and the configuration."""
    home = describe(device.home)
    return {**describe(device.folder / "s"), **{p: e for p, e in home.items() if p.split(b"/")[0] in KEPT}}


@pytest.mark.lan
@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (take_port, ["22600", "--listen"]),
        (make_state_read_only, ["state"]),
        (break_config, ["config.toml"]),
        (break_databases, ["device.db", "your files are not touched"]),
    ],
)
def test_c7_what_is_wrong_at_the_start_is_said_clearly_and_touches_no_data(
    new_device: NewDevice, break_it: Callable[[Device], None], said: list[str]
) -> None:
    a = new_device("a").start()
    (a.folder / "s").mkdir()
    (a.folder / "s" / "kept").write_text("kept")
    a.cli("share", "add", str(a.folder / "s")).ok()
    assert a.stop() == 0
    a.log_path.unlink()
    break_it(a)
    before = untouchable(a)
    result = ended(a)
    assert result.code == 1
    for words in said:
        assert words in result.err
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()[-1]) < 400
    assert untouchable(a) == before


@pytest.mark.lan
def test_c7_without_multicast_devices_still_meet_by_address_and_status_says_so(new_device: NewDevice) -> None:
    a, b = new_device("a"), new_device("b")
    for device in (a, b):
        device.host.run(["ip", "route", "del", "224.0.0.0/4"], check=True)
        device.host.run(["ip", "link", "set", "eth0", "multicast", "off"], check=True)
    start(a, b)
    pair(a, b, "--at", a.address)
    assert "mDNS does not work" in attention(a)
    assert "mDNS" in a.cli("status").ok().out


@pytest.mark.lan
def test_c8_a_newer_version_works_on_the_common_one_or_says_who_must_upgrade(new_device: NewDevice) -> None:
    class Newer(ChangedDevice):
        """Speaks only a version to come."""

        change = "from p2psyncd.daemon import peerlink\npeerlink.PROTOCOL_VERSION = 99"

    class Both(ChangedDevice):
        """Speaks a version to come, and ours."""

        change = (
            "from p2psyncd.daemon import peerlink\n"
            "class Versions(peerlink.Greeting):\n"
            "    def fields(self):\n"
            "        return [[99, *self.versions], *super().fields()[1:]]\n"
            "peerlink.Greeting = Versions\n"
            "from p2psyncd.wire import messages\n"
            "messages.PARSERS[0] = Versions.parse"
        )

    a, newer, both = new_device("a"), new_device("newer", kind=Newer), new_device("both", kind=Both)
    start(a, newer, both)
    ours, theirs = shared(a, both)
    (theirs / "back").write_text("back")
    both.wait()
    assert differences(ours, theirs) == []
    # Pairing is older than any version: who must upgrade is known afterwards, by both.
    showing, code = a.show_code("--no-introduce")
    newer.cli("pair", code)
    showing.wait(30)
    for device in (a, newer):
        eventually(
            "who must upgrade",
            lambda device=device: "a speaks an older protocol" in attention(device),
        )
        assert "Upgrade p2psyncd" in attention(device)
    assert a.connected_to(both)


# Many devices


def all_connected(daemons: list[Daemon]) -> bool:
    return all(one.connected_to(other) and other.connected_to(one) for one, other in combinations(daemons, 2))


async def mesh_of(lab: Lab, count: int, *, chain: bool) -> list[Daemon]:
    """Return so many devices, every pair connected, made by one code each: in a chain, or all with the first."""
    daemons = [await lab.daemon(f"device{n}") for n in range(count)]
    pairs = pairwise(daemons) if chain else ((daemons[0], other) for other in daemons[1:])
    for shows, joins in pairs:
        await connect(shows, joins)
    for daemon in daemons:
        await daemon.until(
            lambda daemon=daemon: all(daemon is o or daemon.connected_to(o) for o in daemons),  # type: ignore[misc]
            "connected to all",
        )
    return daemons


async def test_c10_ten_devices_get_one_edit_once_each(lab: Lab) -> None:
    daemons = await mesh_of(lab, 10, chain=False)
    first, *others = daemons
    path = first.make("f", a_txt="one")
    for other in others:
        await share(first, other)
    for daemon in daemons:
        await daemon.wait(peers=len(others))

    def received() -> list[int]:
        return [daemon.running("f").applier.received_items for daemon in daemons]

    before = received()
    (path / "a.txt").write_text("an edit")
    await first.wait(peers=len(others))
    for daemon in daemons:
        await daemon.wait(peers=len(others))
        assert tree(daemon.folder / "f") == {"a.txt": "an edit"}
    assert [now - then for now, then in zip(received(), before, strict=True)] == [0, *[1] * len(others)]


async def test_c11_five_devices_with_one_code_each_are_offered_what_their_introducer_holds(lab: Lab) -> None:
    daemons = await mesh_of(lab, 5, chain=True)
    assert all_connected(daemons)
    first, second, *rest = daemons
    for name, devices in (("private", []), ("public", [other.name for other in daemons[1:]])):
        first.make(name, a_txt="x")
        path = str(first.folder / name)
        await first.backend.share_add(path, name=None, kind=None, mode="send-receive", with_devices=devices)
    await offered(first, second, "private")
    # The others know the first one through the second, which does not hold it (yet). What is shared with them by name
    # they are offered, whoever introduced them.
    for other in rest:
        await offered(first, other, "public")
        assert {offer["name"] for offer in await other.backend.share_offers()} == {"public"}
    await share(first, second, "private")
    await offered(first, rest[0], "private")


async def test_c12_a_device_removed_everywhere_is_refused_by_those_that_were_off_too(lab: Lab) -> None:
    maple, willow, birch, aspen = daemons = await mesh_of(lab, 4, chain=False)
    await aspen.stop()
    report = await maple.backend.device_remove(birch.name, everywhere=True)
    assert report["told"] == [willow.name]
    assert report["later"] == [aspen.name]
    await willow.until(lambda: willow.peer(birch) is None, "removed")
    await birch.stop()
    # Maple, where it was removed, is off when aspen comes back: willow has it to tell.
    await maple.stop()
    await aspen.start()
    await aspen.until(lambda: aspen.peer(birch) is None, "removed where it was off")
    await birch.start()
    for daemon in (willow, aspen):
        with pytest.raises(DeviceRefused), trio.fail_after(WAIT_S):
            await dial(
                daemon.at,
                birch.supervisor.identity,
                daemon.supervisor.identity.certificate,
                MAIN_ALPN,
                timeout_s=WAIT_S,
                policy=birch.supervisor.policy,
            )
    assert len(daemons) == 4
