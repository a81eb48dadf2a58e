"""Scenarios A48, A49, A51, A52, A57, A65: state lost, put back or out of date; devices that come and go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from daemons import Daemon, connect, offered, share
from group import Group, contents, put, texts

from p2psyncd.errors import NoSuchShare

DAY_S = 86_400.0
FILES = {"a_txt": "one", "b_txt": "two", "c_txt": "three"}
TREE = {"a.txt": "one", "b.txt": "two", "c.txt": "three"}


def state_of(daemon: Daemon) -> Path:
    return daemon.places.state_dir


@pytest.mark.parametrize("lost", ["shares", "."], ids=["of the share", "of the device"])
async def test_a48_a_deleted_state_database_merges_with_the_peers_again(pair: Group, lost: str) -> None:
    here, there = await pair.begin(**FILES)
    maple, willow = pair.daemons
    await willow.stop()
    # Meanwhile one more on each side, and an edit here.
    put(here / "a.txt", "one, edited")
    put(here / "new-here.txt", "new here")
    put(there / "new-there.txt", "new there")
    await maple.backend.share_rescan("f")
    shutil.rmtree(state_of(willow) / lost)
    await willow.start()
    if lost == ".":
        # The device's own state is gone as well: it knows neither its peers nor its shares.
        await connect(maple, willow)
        await offered(maple, willow, "f")
        await willow.backend.share_accept("f", str(there), mode="send-receive", from_device=None)
    await maple.until(lambda: maple.connected_to(willow), "connected")
    await pair.settle()
    found = await pair.same(conflicts=1)
    [conflict] = await pair.conflicts()
    # Nobody knows any more that one.txt here came after the one there: both contents are kept.
    assert conflict["item"] == "a.txt"
    del found[conflict["losers"][0]["where"]]
    assert found.pop("a.txt") in {"one", "one, edited"}
    assert found == {
        "b.txt": "two",
        "c.txt": "three",
        "new-here.txt": "new here",
        "new-there.txt": "new there",
    }
    # Equal files stayed where they are: what travelled is what one side had not got at all.
    assert {daemon.name: pair.fetched(daemon)[0] for daemon in pair.daemons} == {"maple": 2, "willow": 2}


@pytest.mark.parametrize("data", [False, True], ids=["state only", "state and data"])
async def test_a49_a_state_put_back_from_a_backup_is_found_out_and_rolls_nobody_back(
    pair: Group, data: bool
) -> None:
    here, there = await pair.begin(**FILES)
    willow = pair.daemons[1]
    await willow.stop()
    backup = willow.folder / "backup"
    shutil.copytree(state_of(willow), backup / "state")
    shutil.copytree(there, backup / "data")
    await willow.start()
    await pair.meet()
    actor = willow.running("f").replica.standing.actor
    # A month of work on both sides.
    put(here / "a.txt", "edited here")
    put(there / "b.txt", "edited there")
    (here / "c.txt").unlink()
    put(there / "new.txt", "new there")
    after = await pair.same()
    await willow.stop()
    shutil.rmtree(state_of(willow))
    shutil.copytree(backup / "state", state_of(willow))
    if data:
        shutil.rmtree(there)
        shutil.copytree(backup / "data", there)
    await willow.start()
    await pair.meet()
    assert await pair.same() == after
    assert after == {"a.txt": "edited here", "b.txt": "edited there", "new.txt": "new there"}
    assert willow.running("f").replica.standing.actor != actor
    # What it writes from now on is news to everybody.
    put(there / "a.txt", "after the backup")
    assert (await pair.same())["a.txt"] == "after the backup"


async def test_a51_who_was_away_longer_than_tombstones_are_kept_brings_nothing_deleted_back(
    pair: Group,
) -> None:
    here, there = await pair.begin(**FILES, edited_txt="old", kept_txt="kept")
    put(here / "d" / "deep.txt", "deep")
    await pair.settle()
    maple, willow = pair.daemons
    await pair.stop(1)
    for name in ("a.txt", "b.txt", "edited.txt"):
        (here / name).unlink()
    shutil.rmtree(here / "d")
    await maple.backend.share_rescan("f")
    put(here / "later.txt", "later")
    await maple.backend.share_rescan("f")
    # More than a year later the deletions are forgotten here.
    await pair.stop(0)
    maple.clock.ahead_s += 400 * DAY_S
    willow.clock.ahead_s += 400 * DAY_S
    await maple.start()
    store = maple.running("f").store
    await pair.until(lambda: store.get(b"a.txt") is None, "the tombstones to be forgotten")
    # New work was done on the other side meanwhile, also on one of the deleted files.
    put(there / "offline.txt", "offline work")
    put(there / "edited.txt", "edited offline")
    (there / "kept.txt").rename(there / "renamed.txt")
    await willow.start()
    await pair.meet()
    assert await pair.same() == {
        "c.txt": "three",
        "edited.txt": "edited offline",
        "later.txt": "later",
        "offline.txt": "offline work",
        "renamed.txt": "kept",
    }
    # What was taken away here is in this device's history.
    assert pair.kept(1) == ["deep", "one", "two"]


async def test_a52_in_a_row_the_third_gets_the_firsts_files_from_the_second(row: Group) -> None:
    maple, willow, birch = row.daemons
    here = maple.make("f", **FILES)
    put(here / "d" / "deep.txt", "deep")
    await share(maple, willow)
    await maple.stop()
    await share(willow, birch)
    await Group([willow, birch]).settle()
    found = await Group([willow, birch]).same()
    assert found == {**TREE, "d": None, "d/deep.txt": "deep"}
    assert willow.running("f").sent.items == 4
    # And back, once the first is there again and the third is gone.
    put(birch.folder / "f" / "from-birch.txt", "from birch")
    await Group([willow, birch]).settle()
    await birch.stop()
    await maple.start()
    pair = Group([maple, willow])
    await pair.meet()
    assert await pair.same() == {**found, "from-birch.txt": "from birch"}


async def test_a57_the_data_stays_where_the_peer_removes_the_share(pair: Group) -> None:
    here, there = await pair.begin(**FILES)
    maple, willow = pair.daemons
    await maple.backend.share_remove("f")
    await willow.until(lambda: not willow.peer(maple).link.drivers, "the end of the session")  # type: ignore[union-attr]  # it is connected
    put(there / "more.txt", "more")
    await willow.wait(peers=0)
    assert contents(there) == {**TREE, "more.txt": "more"}
    assert contents(here) == TREE
    with pytest.raises(NoSuchShare):
        await maple.backend.share_rescan("f")
    row = await pair.row(1)
    assert (row["state"], row["items"]) == ("idle", 4)


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a57_the_data_stays_where_the_device_is_unpaired(pair: Group, everywhere: bool) -> None:
    here, there = await pair.begin(**FILES)
    maple, willow = pair.daemons
    await maple.backend.device_remove("willow", everywhere=everywhere)
    await willow.until(lambda: not willow.connected_to(maple), "disconnected")
    (here / "a.txt").unlink()
    put(there / "b.txt", "edited")
    await maple.wait(peers=0)
    await willow.wait(peers=0)
    assert contents(here) == {"b.txt": "two", "c.txt": "three"}
    assert contents(there) == {**TREE, "b.txt": "edited"}


async def test_a65_a_share_accepted_into_a_folder_with_files_is_the_union_and_overwrites_nothing(
    pair: Group,
) -> None:
    maple, willow = pair.daemons
    here = maple.make("f", same_txt="same", here_txt="here", both_txt="maple's")
    there = willow.make("f", same_txt="same", there_txt="there", both_txt="willow's")
    put(here / "d" / "equal", "equal")
    put(there / "d" / "equal", "equal", age_s=1000)
    (here / "link").symlink_to("same.txt")
    (there / "link").symlink_to("same.txt")
    os.utime(here / "same.txt", ns=(0, 10**18))
    (there / "same.txt").chmod(0o600)
    await maple.backend.share_add(str(here), name="f", kind=None, mode="send-receive", with_devices=[])
    await offered(maple, willow, "f")
    await willow.backend.share_accept("f", str(there), mode="send-receive", from_device=None)
    found = await pair.same(conflicts=1)
    [conflict] = await pair.conflicts()
    assert conflict["item"] == "both.txt"
    assert {found.pop("both.txt"), found.pop(conflict["losers"][0]["where"])} == {"maple's", "willow's"}
    assert found == {
        "d": None,
        "d/equal": "equal",
        "here.txt": "here",
        "link": "→ same.txt",
        "same.txt": "same",
        "there.txt": "there",
    }
    assert texts(found) == ["equal", "here", "same", "there", "→ same.txt"]
    # Nothing was overwritten that is not beside it as well; equal files stayed where they are.
    assert {*pair.kept(0), *pair.kept(1)} <= {"maple's", "willow's"}
    assert sorted(pair.fetched(daemon)[0] for daemon in pair.daemons) == [2, 2]
