"""Scenarios A34, A35 and A37: what looks like a lost disk holds the share, and nothing is deleted anywhere."""

from __future__ import annotations

import shutil

import pytest
from group import Group, contents, put

from p2psyncd.daemon.replica import Phase
from p2psyncd.errors import NotHeld, ShareHeld

MANY = 120


def many(count: int = MANY) -> dict[str, str]:
    return {f"n{number}_txt": str(number) for number in range(count)}


async def held(pair: Group, number: int = 1) -> str:
    """Wait until a device holds the share; return why, as `status` says it."""
    daemon = pair.daemons[number]
    await pair.until(lambda: daemon.running("f").replica.phase is Phase.HELD, "the share to be held")
    row = await pair.row(number)
    assert row["state"] == "held"
    return str(row["reason"])


async def neighbour_says(pair: Group) -> str:
    """Wait until the other device's status says that this share stands still over there; return the words."""
    willow = pair.daemons[1].name

    async def trouble() -> list[str]:
        return [one["error"] for one in (await pair.row(0))["errors"] if willow in one["error"]]

    return await pair.told(trouble)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_a34_a_share_whose_root_is_gone_is_held_and_nothing_is_deleted(
    pair: Group, running: bool
) -> None:
    here, there = await pair.begin(**many(5))
    willow = pair.daemons[1]
    if not running:
        await willow.stop()
    # What an unmounted disk leaves: the empty folder that it was mounted on.
    there.rename(willow.folder / "disk")
    there.mkdir()
    if not running:
        await willow.start()
    reason = await held(pair)
    assert "is its disk mounted?" in reason
    assert "goes on by itself" in reason
    with pytest.raises(ShareHeld):
        await willow.backend.share_approve("f")
    put(here / "new.txt", "written meanwhile")
    await pair.daemons[0].backend.share_rescan("f")
    assert len(contents(here)) == 6
    assert "holds this share" in await neighbour_says(pair)
    # The disk is mounted again: it goes on by itself, and what was written meanwhile arrives.
    there.rmdir()
    (willow.folder / "disk").rename(there)
    await willow.backend.share_rescan("f")
    await pair.meet()
    found = await pair.same()
    assert len(found) == 6
    assert found["new.txt"] == "written meanwhile"


async def test_a34_a_share_whose_marker_is_gone_is_held_though_the_files_are_there(pair: Group) -> None:
    _, there = await pair.begin(**many(5))
    (there / ".p2psync" / "share").unlink()
    with pytest.raises(ShareHeld, match="no marker"):
        await pair.daemons[1].backend.share_rescan("f")
    assert "no marker" in await held(pair)
    assert len(contents(there)) == 5


@pytest.mark.parametrize("count", [20, MANY])
async def test_a35_a_share_that_holds_only_its_marker_is_held(pair: Group, count: int) -> None:
    here, there = await pair.begin(**many(count))
    willow = pair.daemons[1]
    await willow.stop()
    for path in there.iterdir():
        if path.name != ".p2psync":
            path.unlink()
    await willow.start()
    assert f"{count} of {count} items are gone" in await held(pair)
    assert "share approve f" in await held(pair)
    assert len(contents(here)) == count
    # Looking again changes nothing, and neither does waiting.
    for call in (willow.backend.share_rescan("f"), willow.backend.wait("f", timeout_s=5, peers=0)):
        with pytest.raises(ShareHeld):
            await call
    assert len(contents(here)) == count
    # The files come back: nothing to approve any more.
    for path in here.glob("*.txt"):
        shutil.copy2(path, there)
    await willow.backend.share_rescan("f")
    await pair.meet()
    assert len(await pair.same()) == count
    with pytest.raises(NotHeld):
        await willow.backend.share_approve("f")


async def test_a37_a_mass_delete_is_held_until_it_is_approved_and_then_carried_out(pair: Group) -> None:
    here, there = await pair.begin(**many())
    maple, willow = pair.daemons
    await willow.stop()
    for number in range(MANY - 1):
        (there / f"n{number}.txt").unlink()
    await willow.start()
    reason = await held(pair)
    assert f"{MANY - 1} of {MANY} items are gone" in reason
    assert "p2psync share approve f" in reason
    assert len(contents(here)) == MANY
    assert "holds this share" in await neighbour_says(pair)
    await willow.backend.share_approve("f")
    await pair.meet()
    assert await pair.same() == {f"n{MANY - 1}.txt": str(MANY - 1)}
    # The other device keeps what it deleted for a peer.
    assert len(pair.kept(0)) == MANY - 1
    assert (await maple.backend.status())["attention"] == []


async def test_a37_what_is_deleted_in_front_of_the_running_daemon_is_passed_on_and_kept_in_history(
    pair: Group,
) -> None:
    here, there = await pair.begin(**many())
    # Every deletion was told of by the kernel: somebody did it (docs/decisions/0005). It is no accident of a disk.
    for path in there.glob("*.txt"):
        path.unlink()
    await pair.until(lambda: not list(here.glob("*.txt")), "the deletions")
    assert await pair.same() == {}
    assert len(pair.kept(0)) == MANY
    assert pair.kept(1) == []


async def test_a37_deletions_that_were_told_of_do_not_hold_the_share_of_who_waits_for_them(
    pair: Group,
) -> None:
    here, there = await pair.begin(**many())
    for number in range(MANY):
        put(here / "d" / "e" / f"{number}", str(number))
    await pair.settle()
    # At once: what the kernel told of them has not been worked off yet.
    for path in there.glob("*.txt"):
        path.unlink()
    shutil.rmtree(there / "d")
    await pair.daemons[1].wait("f")
    assert await pair.same() == {}
    assert contents(here) == {}
