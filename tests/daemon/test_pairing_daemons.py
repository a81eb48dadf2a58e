"""Pairing, introductions and removals between whole daemons."""

from __future__ import annotations

import pytest
import trio
from daemons import WAIT_S, Daemon, Lab, connect, offered, share, tree

from p2psyncd.errors import (
    AddressNotAllowed,
    BadRequest,
    CodeExpired,
    NoSuchDevice,
    PairingError,
    TimedOut,
    WrongCode,
)
from p2psyncd.wire.pairing_code import CODE_ENTROPY_BYTES, make_code

LIFETIME_S = 300


def wrong(code: str) -> str:
    """Return a well-formed code of the same nameplate that is another one."""
    number = code.split("-", maxsplit=1)[0]
    guesses = (make_code(number, bytes([n]) * CODE_ENTROPY_BYTES).text for n in range(2))
    return next(guess for guess in guesses if guess != code)


async def test_two_devices_pair_by_code_and_see_each_other(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    [at_maple] = await maple.backend.devices()
    [at_willow] = await willow.backend.devices()
    assert (at_maple["name"], at_willow["name"]) == ("willow", "maple")
    assert at_maple["connected"]
    assert at_willow["connected"]
    assert at_maple["introduced_by"] is None
    assert (await willow.backend.status())["peers"][0]["address"]
    assert [event["type"] for event in await maple.backend.events(since=0, limit=50)].count("paired") == 1


async def test_a_wrong_code_burns_the_one_that_is_shown(lab: Lab) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    shown = await maple.backend.pair_show(introduce=True)
    with pytest.raises(WrongCode):
        await willow.backend.pair_join(wrong(shown["code"]), at=maple.at, introduce=True, timeout_s=WAIT_S)
    with pytest.raises(WrongCode):
        await maple.backend.pair_wait(shown["code"], timeout_s=WAIT_S)
    with pytest.raises(CodeExpired):
        await willow.backend.pair_join(shown["code"], at=maple.at, introduce=True, timeout_s=WAIT_S)
    assert await maple.backend.devices() == []
    assert await willow.backend.devices() == []


async def test_a_code_is_no_longer_valid_after_five_minutes(lab: Lab) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    shown = await maple.backend.pair_show(introduce=True)
    maple.clock.ahead_s = LIFETIME_S + 1
    with pytest.raises(CodeExpired):
        await willow.backend.pair_join(shown["code"], at=maple.at, introduce=True, timeout_s=WAIT_S)
    with pytest.raises(CodeExpired):
        await maple.backend.pair_wait(shown["code"], timeout_s=WAIT_S)


async def test_of_two_who_join_at_once_one_is_paired(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    willow, birch = await lab.daemon("willow"), await lab.daemon("birch")
    shown = await maple.backend.pair_show(introduce=True)
    outcomes: list[str] = []

    async def try_to_join(who: Daemon) -> None:
        try:
            await who.backend.pair_join(shown["code"], at=maple.at, introduce=True, timeout_s=WAIT_S)
        except PairingError:
            outcomes.append("refused")
        else:
            outcomes.append("paired")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(try_to_join, willow)
        nursery.start_soon(try_to_join, birch)
    assert sorted(outcomes) == ["paired", "refused"]
    assert len(await maple.backend.devices()) == 1


async def test_nobody_came_in_time(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    shown = await maple.backend.pair_show(introduce=True)
    with pytest.raises(TimedOut, match="No device joined"):
        await maple.backend.pair_wait(shown["code"], timeout_s=0.01)
    with pytest.raises(CodeExpired):
        await maple.backend.pair_wait(shown["code"], timeout_s=WAIT_S)


async def test_joining_says_what_is_wrong_with_the_place(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    code = (await maple.backend.pair_show(introduce=True))["code"]
    with pytest.raises(BadRequest, match="--at"):
        await maple.backend.pair_join(code, at=None, introduce=True, timeout_s=WAIT_S)
    with pytest.raises(AddressNotAllowed):
        await maple.backend.pair_join(code, at="8.8.8.8:22600", introduce=True, timeout_s=WAIT_S)
    with pytest.raises(PairingError):
        await maple.backend.pair_join(code, at="127.0.0.1:1", introduce=True, timeout_s=WAIT_S)
    with pytest.raises(PairingError, match="very device"):
        await maple.backend.pair_join(code, at=maple.at, introduce=True, timeout_s=WAIT_S)


async def test_a_device_is_renamed_on_this_device_only(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    assert (await maple.backend.device_rename("willow", "kitchen"))["name"] == "kitchen"
    assert [row["name"] for row in await willow.backend.devices()] == ["maple"]
    await maple.restart()
    [row] = await maple.backend.devices()
    assert row["name"] == "kitchen"
    with pytest.raises(NoSuchDevice):
        await maple.backend.device_rename("willow", "x")
    for bad in ("", "two\nlines", "maple"):
        with pytest.raises(BadRequest):
            await maple.backend.device_rename(row["id"][:9], bad)


async def test_a_paused_device_is_disconnected_until_it_is_resumed(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    assert (await maple.backend.device_pause("willow"))["paused"]
    await willow.until(lambda: not willow.connected_to(maple), "disconnected")
    assert not maple.connected_to(willow)
    assert not (await maple.backend.device_resume("willow"))["paused"]
    await willow.until(lambda: willow.connected_to(maple), "connected again")


async def test_a_removed_device_is_told_and_says_so(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    report = await maple.backend.device_remove("willow", everywhere=False)
    assert report == {"removed": "willow", "everywhere": False, "told": [], "later": []}
    assert await maple.backend.devices() == []
    await willow.until(lambda: not willow.connected_to(maple), "disconnected")
    status = await willow.backend.status()
    assert "maple" in str(status["peers"][0]["trouble"])
    assert status["attention"][0]["command"] == "p2psync pair"
    assert any(check["name"] == "device maple" for check in await willow.backend.doctor())


async def test_a_device_that_was_removed_can_be_paired_again(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    await maple.backend.device_remove("willow", everywhere=False)
    await willow.until(lambda: not willow.connected_to(maple), "disconnected")
    await connect(maple, willow)
    assert (await willow.backend.status())["peers"][0]["trouble"] is None


async def three_by_introduction(lab: Lab) -> tuple[Daemon, Daemon, Daemon]:
    """Return three connected devices; the second and the third know each other through the first."""
    maple, willow, birch = [await lab.daemon(name) for name in ("maple", "willow", "birch")]
    await connect(maple, willow)
    await connect(maple, birch)
    await willow.until(lambda: willow.connected_to(birch), "introduced")
    await birch.until(lambda: birch.connected_to(willow), "introduced")
    return maple, willow, birch


async def test_three_devices_need_one_code_each(lab: Lab) -> None:
    _, willow, birch = await three_by_introduction(lab)
    rows = {row["name"]: row for row in await willow.backend.devices()}
    assert rows["birch"]["introduced_by"] == "maple"
    assert rows["maple"]["introduced_by"] is None
    assert (await birch.event("introduced"))["message"] == "maple introduced willow"


async def test_an_introduced_device_gets_only_what_its_introducer_holds(lab: Lab) -> None:
    maple, willow, birch = await three_by_introduction(lab)
    willow.make("private", secret="x")
    await willow.backend.share_add(
        str(willow.folder / "private"), name=None, kind=None, mode="send-receive", with_devices=[]
    )
    maple.make("common", a_txt="from maple")
    await share(maple, willow, "common")
    await offered(willow, maple, "private")
    # Birch is offered the common one by both, and the private one by nobody.
    await offered(maple, birch, "common")
    await offered(willow, birch, "common")
    assert {offer["name"] for offer in await birch.backend.share_offers()} == {"common"}
    # Once maple holds it, so may birch.
    await share(willow, maple, "private")
    await offered(willow, birch, "private")


async def test_three_devices_hold_one_share_and_every_edit_reaches_all(lab: Lab) -> None:
    maple, willow, birch = await three_by_introduction(lab)
    path = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    also = await share(maple, birch)
    (there / "b.txt").write_text("two")
    await willow.wait(peers=2)
    assert tree(path) == tree(there) == tree(also) == {"a.txt": "one", "b.txt": "two"}


async def test_a_removal_everywhere_reaches_the_introduced(lab: Lab) -> None:
    maple, willow, birch = await three_by_introduction(lab)
    report = await maple.backend.device_remove("birch", everywhere=True)
    assert report["told"] == ["willow"]
    await willow.until(lambda: willow.peer(birch) is None, "removed by introduction")
    assert (await willow.event("removed"))["message"] == "maple removed birch everywhere"
    # It is not introduced again by anybody.
    assert [row["name"] for row in await willow.backend.devices()] == ["maple"]
    # Paired again by code it stays, whatever was said before.
    await connect(willow, birch)
    await willow.restart()
    await willow.until(lambda: willow.connected_to(birch) and willow.connected_to(maple), "connected")
    assert {row["name"] for row in await willow.backend.devices()} == {"birch", "maple"}


async def test_a_device_removed_everywhere_and_paired_again_by_code_is_introduced_again(lab: Lab) -> None:
    maple, willow, birch = await three_by_introduction(lab)
    # The clocks are wrong in the worst way: what is done later is stamped earlier.
    maple.clock.ahead_s = 86400.0
    await maple.backend.device_remove("birch", everywhere=True)
    await willow.until(lambda: willow.peer(birch) is None, "removed by introduction")
    maple.clock.ahead_s = -86400.0
    await connect(maple, birch)
    await willow.until(lambda: willow.connected_to(birch), "introduced again")
    rows = {row["name"]: row for row in await willow.backend.devices()}
    assert rows["birch"]["introduced_by"] == "maple"
    # Removed once more, on the other: maple keeps what it paired by code, and yet does not bring it back.
    await willow.backend.device_remove("birch", everywhere=True)
    assert willow.peer(birch) is None
    await maple.restart()
    await maple.until(lambda: maple.connected_to(willow), "connected")
    assert [row["name"] for row in await willow.backend.devices()] == ["maple"]


async def test_a_device_removed_here_alone_is_not_brought_back_by_others(lab: Lab) -> None:
    maple, willow, birch = await three_by_introduction(lab)
    await willow.backend.device_remove("birch", everywhere=False)
    await maple.backend.device_remove("birch", everywhere=False)
    await connect(maple, birch)
    maple.make("f", a_txt="x")
    await share(maple, willow)  # what maple says of birch has come by then
    assert willow.peer(birch) is None
    assert willow.supervisor.devices.removed(birch.supervisor.identity.device) is not None


async def test_without_introductions_everybody_stays_a_stranger(lab: Lab) -> None:
    maple, willow, birch = [await lab.daemon(name) for name in ("maple", "willow", "birch")]
    await connect(maple, willow, introduce=False)
    await connect(maple, birch)
    maple.make("f", a_txt="x")
    await share(maple, birch)
    assert birch.peer(willow) is None
    assert willow.peer(birch) is None


async def test_a_device_that_was_stopped_is_found_again(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    maple.make("f", a_txt="x")
    there = await share(maple, willow)
    await willow.stop()
    await maple.until(lambda: not maple.connected_to(willow), "gone")
    (there / "a.txt").write_text("edited while down")
    await willow.start()
    await willow.until(lambda: willow.connected_to(maple), "back")
    await willow.wait()
    assert tree(maple.folder / "f") == {"a.txt": "edited while down"}
