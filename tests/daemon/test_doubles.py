"""Two machines under one identity: found out, refused, told, and accepted again once one of them is left."""

from __future__ import annotations

import shutil

import pytest
import trio
from daemons import WAIT_S, Daemon, Lab, connect, share, tree

from p2psyncd.daemon import doubles
from p2psyncd.daemon import mesh as mesh_module
from p2psyncd.daemon.doubles import FORGET_S, Lives

OLD, NEW, NEWER = b"instance", b"restarts", b"restart2"


def greeted(lives: Lives, instance: bytes, now_s: float, begun_s: float | None = None) -> list[str]:
    """Note a greeting, of a connection that began a moment before unless said otherwise."""
    begun_s = now_s - 0.01 if begun_s is None else begun_s
    lives.greeted(instance, begun_s=begun_s, now_s=now_s, host=instance.decode("latin-1"))
    return lives.overlapping(now_s)


def test_a_daemon_that_restarts_and_reconnects_is_one_daemon() -> None:
    lives = Lives()
    for n, instance in enumerate((OLD, OLD, NEW, NEW, NEWER, NEWER)):
        assert greeted(lives, instance, float(n)) == []
        lives.heard(instance, n + 0.5)
        assert lives.overlapping(n + 0.6) == []


def test_an_instance_that_comes_back_after_another_one_is_a_second_daemon() -> None:
    lives = Lives()
    assert greeted(lives, OLD, 1.0) == []
    assert greeted(lives, NEW, 2.0) == []
    assert greeted(lives, OLD, 3.0) == ["instance", "restarts"]
    # As long as both come back.
    for n in range(4, 200, 10):
        assert greeted(lives, OLD if n % 20 == 4 else NEW, float(n)) == ["instance", "restarts"]


def test_last_words_of_the_old_daemon_that_are_read_late_are_none() -> None:
    lives = Lives()
    assert greeted(lives, OLD, 1.0) == []
    assert greeted(lives, NEW, 3.0) == []
    # Its connection began before the new one greeted.
    assert greeted(lives, OLD, 3.5, begun_s=2.9) == []


def test_the_one_that_is_left_is_accepted_once_the_other_was_silent_for_long_enough() -> None:
    lives = Lives()
    for n, instance in enumerate((OLD, NEW, OLD, NEW)):
        greeted(lives, instance, float(n))
    assert greeted(lives, OLD, 2.0 + FORGET_S)
    assert greeted(lives, OLD, 3.1 + FORGET_S) == []
    # It may restart meanwhile: that does not make it two.
    assert greeted(lives, NEWER, 4.0 + FORGET_S) == []


def test_a_machine_put_back_to_an_earlier_moment_is_one_again_after_a_while() -> None:
    lives = Lives()
    assert greeted(lives, OLD, 0.0) == []
    assert greeted(lives, NEW, 100.0) == []
    lives.heard(NEW, 130.0)
    # What was forgotten meanwhile looks new; the other is never heard again.
    assert greeted(lives, OLD, 131.0) == []
    assert greeted(lives, OLD, 140.0) == []


def test_what_is_remembered_is_bounded() -> None:
    lives = Lives()
    for n in range(1000):
        greeted(lives, n.to_bytes(8, "big"), 0.0, begun_s=-1.0)
    assert len(lives.lives) == doubles.INSTANCES_MAX


async def clone(lab: Lab, daemon: Daemon, name: str) -> Daemon:
    """Return a daemon whose home is a copy of another's, as it is while that one is stopped."""
    await daemon.stop()
    folder = lab.folder / name
    folder.mkdir()
    shutil.copytree(daemon.folder / "home", folder / "home", ignore=shutil.ignore_patterns("*.sock"))
    made = Daemon(daemon.name, folder, lab.nursery, config=daemon.config)
    lab.daemons.append(made)
    await daemon.start()
    return made


async def troubled(daemon: Daemon, what: str) -> str:
    """Wait until a peer's trouble holds these words, and return the message that `status` shows."""
    with trio.fail_after(WAIT_S):
        while True:
            changed = daemon.supervisor.mesh.changed.event
            status = await daemon.backend.status()
            for one in status["attention"]:
                if what in one["message"]:
                    assert one["command"] is None
                    return one["message"]
            with trio.move_on_after(0.2):
                await changed.wait()


async def test_two_daemons_of_one_identity_are_both_refused_and_told_what_to_do(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubles, "FORGET_S", 2.0)
    monkeypatch.setattr(mesh_module, "RETRY_S", 0.2)
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    await connect(maple, willow)
    maple.make("f", a_txt="kept")
    path = await share(maple, willow)
    copy = await clone(lab, willow, "copy")
    await willow.until(lambda: willow.connected_to(maple), "back")
    await copy.start()
    seen = await troubled(maple, "willow is alive twice, at 127.0.0.1")
    for one in (willow, copy):
        assert "identity" in await troubled(one, "pair it anew")
        assert not one.connected_to(maple)
        assert any("identity" in check["message"] for check in await one.backend.doctor())
    assert "its files stay" in seen
    # The copy becomes a device of its own; nobody has to do anything about the other one.
    await copy.stop()
    shutil.rmtree(copy.folder / "home" / "identity")
    await willow.until(lambda: willow.connected_to(maple), "accepted again")
    assert (await maple.backend.status())["attention"] == []
    assert (await willow.backend.status())["attention"] == []
    copy.name = "birch"
    await copy.start()
    assert copy.supervisor.identity.device != willow.supervisor.identity.device
    await connect(maple, copy)
    assert maple.connected_to(willow)
    await maple.wait("f")
    assert tree(path) == tree(maple.folder / "f") == {"a.txt": "kept"}


async def test_a_daemon_that_is_restarted_again_and_again_is_never_taken_for_two(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    for _ in range(5):
        await willow.restart()
        await maple.until(lambda: maple.connected_to(willow), "connected")
        await willow.until(lambda: willow.connected_to(maple), "connected")
    assert not [
        event for event in await maple.backend.events(since=0, limit=100) if event["type"] == "trouble"
    ]
