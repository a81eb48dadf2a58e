"""Shares between whole daemons: adding, accepting, edits both ways, modes, pausing, waiting."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
import trio
from daemons import WAIT_S, Daemon, Lab, connect, offered, share, tree

from p2psyncd.daemon.config import Config
from p2psyncd.errors import (
    AlreadyShared,
    BadRequest,
    ConfigError,
    FolderMissing,
    HoldsOurState,
    NestedShare,
    NoSuchOffer,
    NoSuchShare,
    NotADatabase,
    NotAFolder,
    P2psyncError,
    ShareExists,
    SharePaused,
    TimedOut,
)


async def add(daemon: Daemon, path: Path, **more: object) -> None:
    given = {"name": None, "kind": None, "mode": "send-receive", "with_devices": []} | more
    await daemon.backend.share_add(str(path), **given)  # type: ignore[arg-type]


async def test_what_one_shares_the_other_gets_and_gives_back(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one", b_txt="two")
    (here / "deep" / "er").mkdir(parents=True)
    (here / "deep" / "er" / "c.txt").write_text("three")
    there = await share(maple, willow)
    assert tree(there) == tree(here) != {}

    (there / "a.txt").write_text("edited by willow")
    (here / "b.txt").unlink()
    (here / "deep" / "er").rename(here / "moved")
    await willow.wait()
    await maple.wait()
    await willow.wait()
    assert tree(there) == tree(here)
    assert tree(here) == {
        "a.txt": "edited by willow",
        "deep": None,
        "moved": None,
        "moved/c.txt": "three",
    }
    [ours], [theirs] = await maple.backend.share_list(), await willow.backend.share_list()
    assert ours["root"] == theirs["root"]
    assert (ours["items"], ours["state"], ours["need_items"]) == (4, "idle", 0)
    assert ours["peers"] == [{"name": "willow", "in_sync": True, "need_items": 0, "need_bytes": 0}]


async def test_a_rename_sends_no_content(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="content" * 100)
    there = await share(maple, willow)
    before = maple.running("f").sent.items
    (here / "a.txt").rename(here / "z.txt")
    await maple.wait()
    assert tree(there) == {"z.txt": "content" * 100}
    assert maple.running("f").sent.items == before


async def test_an_edit_is_pushed_without_anybody_asking(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f")
    there = await share(maple, willow)
    (here / "new.txt").write_text("hello")
    await willow.until(lambda: tree(there) == {"new.txt": "hello"}, "the new file")


async def test_accepting_into_a_folder_with_files_is_a_union(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", same_txt="same", here_txt="here", both_txt="maple's")
    there = willow.make("f", same_txt="same", there_txt="there", both_txt="willow's")
    os.utime(here / "same.txt", ns=(0, 10**18))
    os.utime(there / "same.txt", ns=(0, 10**18))
    await share(maple, willow)
    await maple.wait()
    assert tree(here) == tree(there)
    texts = sorted(text for text in tree(here).values() if text)
    assert texts == ["here", "maple's", "same", "there", "willow's"]
    [conflict] = await maple.backend.conflicts(include_resolved=False)
    assert conflict["item"] == "both.txt"


async def test_a_share_that_nobody_else_holds_gives_way_to_an_offer(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    maple.make("f", a_txt="a")
    there = willow.make("f", b_txt="b")
    await add(willow, there, name="f")
    await share(maple, willow)
    await maple.wait()
    assert tree(maple.folder / "f") == tree(there) == {"a.txt": "a", "b.txt": "b"}
    assert len(await willow.backend.share_list()) == 1


async def test_what_cannot_be_shared_is_refused_and_nothing_is_left_on_disk(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    outer = maple.make("outer")
    inner = outer / "inner"
    inner.mkdir()
    await add(maple, outer)
    database = maple.folder / "notes.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    (maple.folder / "plain.db").write_text("no database")
    other = maple.make("other")
    refused = [
        (inner, {}, NestedShare),
        (maple.folder, {"name": "above"}, NestedShare),
        (outer, {"name": "again"}, AlreadyShared),
        (maple.folder / "nowhere", {}, FolderMissing),
        (maple.folder / "plain.db", {}, NotADatabase),
        (database, {"kind": "folder"}, NotAFolder),
        (maple.folder / "plain.db", {"kind": "database"}, NotADatabase),
        (other, {"kind": "database"}, NotAFolder),
        (other, {"name": "outer"}, ShareExists),
        (other, {"mode": "sideways"}, BadRequest),
        (maple.places.state_dir, {}, HoldsOurState),
        (maple.places.state_dir / "shares", {}, HoldsOurState),
        (maple.places.state_dir / "device.db", {}, HoldsOurState),
        (maple.places.identity_dir / "key.pem", {}, HoldsOurState),
        (maple.folder / "home", {"name": "home"}, HoldsOurState),
    ]
    before = sorted(path for path in maple.folder.rglob("*") if "home" not in path.parts)
    for path, more, error in refused:
        with pytest.raises(error):
            await add(maple, path, **more)
    assert sorted(path for path in maple.folder.rglob("*") if "home" not in path.parts) == before
    assert [row["name"] for row in await maple.backend.share_list()] == ["outer"]


async def test_of_two_shares_of_one_name_added_at_once_one_is_refused(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    outcomes: list[str] = []

    async def attempt(path: Path) -> None:
        try:
            await add(maple, path, name="same")
        except ShareExists:
            outcomes.append("refused")
        else:
            outcomes.append("added")

    async with trio.open_nursery() as nursery:
        for name in ("one", "two", "three"):
            nursery.start_soon(attempt, maple.make(name))
    assert sorted(outcomes) == ["added", "refused", "refused"]


async def test_an_offer_is_refused_where_it_cannot_go(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    await add(maple, maple.make("f", a_txt="x"))
    await offered(maple, willow, "f")
    own = willow.make("own")
    await add(willow, own)

    async def accept(name: str, path: Path, **more: str) -> None:
        given = {"mode": "send-receive", "from_device": None} | more
        await willow.backend.share_accept(name, str(path), **given)  # type: ignore[arg-type]

    with pytest.raises(NoSuchOffer):
        await accept("g", willow.folder / "g")
    with pytest.raises(NoSuchOffer):
        await accept("own", willow.folder / "g")  # nobody else's share of that name
    with pytest.raises(FolderMissing):
        await accept("f", willow.folder / "no" / "parent")
    with pytest.raises(NestedShare):
        await accept("f", own / "inside")
    assert not (own / "inside").exists()
    with pytest.raises(BadRequest):
        await accept("f", willow.folder / "f", mode="sideways")
    assert not (willow.folder / "f").exists()
    # By its ID, from a device that is named.
    offer = (await willow.backend.share_offers())[0]
    await accept(offer["id"], willow.folder / "f", from_device="maple")
    assert await willow.backend.share_offers() == []
    for name in ("f", offer["id"]):
        with pytest.raises(AlreadyShared, match="f is at"):
            await accept(name, willow.folder / "g")
    with pytest.raises(FolderMissing):
        await add(willow, willow.folder / ("x" * 300))


async def test_an_offer_of_a_name_that_is_taken_leaves_no_folder(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    await add(maple, maple.make("f"))
    await add(willow, willow.make("mine"), name="f")
    await offered(maple, willow, "f")
    with pytest.raises(ShareExists):
        await willow.backend.share_accept(
            "f", str(willow.folder / "new"), mode="send-receive", from_device=None
        )
    assert not (willow.folder / "new").exists()
    assert [row["path"] for row in await willow.backend.share_list()] == [str(willow.folder / "mine")]


async def test_two_offers_of_one_name_must_be_told_apart(lab: Lab) -> None:
    maple, willow, birch = [await lab.daemon(name) for name in ("maple", "willow", "birch")]
    await connect(maple, birch, introduce=False)
    await connect(willow, birch, introduce=False)
    for owner in (maple, willow):
        await add(owner, owner.make("f", who_txt=owner.name))
        await offered(owner, birch, "f")
    with pytest.raises(BadRequest, match="--from"):
        await birch.backend.share_accept("f", str(birch.folder / "f"), mode="send-receive", from_device=None)
    there = await share(willow, birch)
    assert tree(there) == {"who.txt": "willow"}


async def test_a_share_for_chosen_devices_is_offered_to_them_only(lab: Lab) -> None:
    maple, willow, birch = [await lab.daemon(name) for name in ("maple", "willow", "birch")]
    await connect(maple, willow)
    await connect(maple, birch)
    await add(maple, maple.make("f"), with_devices=["birch"])
    await offered(maple, birch, "f")
    assert await willow.backend.share_offers() == []


async def test_a_receive_only_device_keeps_its_edits_to_itself(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow, mode="receive-only")
    (there / "own.txt").write_text("mine")
    (here / "b.txt").write_text("two")
    await maple.wait()
    assert tree(here) == {"a.txt": "one", "b.txt": "two"}
    assert tree(there) == {"a.txt": "one", "b.txt": "two", "own.txt": "mine"}
    # A local edit is replaced, and kept in history.
    (there / "a.txt").write_text("edited on the receiver")
    await willow.backend.share_rescan("f")
    (here / "a.txt").write_text("newer")
    await maple.wait()
    assert (there / "a.txt").read_text() == "newer"
    [kept] = await willow.backend.history(str(there / "a.txt"))
    assert kept["reason"] == "replaced"


async def test_a_send_only_device_takes_nothing(lab: Lab) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    await connect(maple, willow)
    here = maple.make("f", a_txt="one")
    await add(maple, here, mode="send-only")
    await offered(maple, willow, "f")
    there = willow.folder / "f"
    await willow.backend.share_accept("f", str(there), mode="send-receive", from_device=None)
    await willow.until((there / "a.txt").exists, "the file")
    (there / "b.txt").write_text("from willow")
    await willow.backend.share_rescan("f")
    (here / "c.txt").write_text("three")
    await willow.until((there / "c.txt").exists, "the third file")
    assert tree(here) == {"a.txt": "one", "c.txt": "three"}
    [difference] = (await maple.backend.diff("f", "willow"))["devices"][0]["differences"]
    assert (difference["item"], difference["here"]) == ("b.txt", "absent")
    assert difference["there"].startswith("file, 11 bytes")


async def test_diff_names_nothing_between_equal_devices(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    maple.make("f", a_txt="x")
    await share(maple, willow)
    diff = await maple.backend.diff("f", None)
    assert diff["share"] == "f"
    [row] = diff["devices"]
    assert (row["device"], row["connected"], row["differences"]) == ("willow", True, [])
    assert row["bytes"] > 0
    await maple.backend.device_pause("willow")
    assert (await maple.backend.diff("f", "willow"))["devices"][0]["connected"] is False


async def test_a_paused_share_stands_still_until_it_is_resumed(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    row = await willow.backend.share_pause("f")
    assert row["state"] == "paused"
    for asked in ("f", None):
        with pytest.raises(SharePaused, match="f is paused on this device"):
            await willow.wait(asked)
    (willow.folder / "other").mkdir()
    await add(willow, willow.folder / "other")
    report = await willow.wait(peers=0)
    assert ([one["name"] for one in report["shares"]], report["paused"]) == (["other"], ["f"])
    await willow.backend.share_remove("other")
    with pytest.raises(
        TimedOut, match="0 of at least 1 peers are connected, not counting any that have paused it"
    ):
        await maple.backend.wait("f", timeout_s=0.5, peers=1)
    (there / "b.txt").write_text("while paused")
    (here / "c.txt").write_text("meanwhile")
    await maple.wait(peers=0)
    assert not (there / "c.txt").exists()
    with pytest.raises(BadRequest, match="resume"):
        await willow.backend.share_rescan("f")
    await willow.backend.verify("f")
    assert (await willow.backend.share_list())[0]["state"] == "paused"
    await willow.restart()
    assert (await willow.backend.share_list())[0]["state"] == "paused"
    assert (await willow.backend.share_resume("f"))["state"] != "paused"
    await willow.until(lambda: willow.connected_to(maple), "connected")
    await willow.wait()
    await maple.wait()
    assert tree(here) == tree(there) == {"a.txt": "one", "b.txt": "while paused", "c.txt": "meanwhile"}


async def test_a_removed_share_leaves_its_data_and_can_be_accepted_again(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    assert (await willow.backend.share_remove("f"))["name"] == "f"
    assert tree(there) == {"a.txt": "one"}
    assert not (there / ".p2psync" / "share").exists()
    with pytest.raises(NoSuchShare):
        await willow.backend.share_rescan("f")
    (there / "b.txt").write_text("between")
    await share(maple, willow)
    await maple.wait()
    assert tree(here) == {"a.txt": "one", "b.txt": "between"}


async def test_waiting_in_vain_says_what_is_missing(two: tuple[Daemon, Daemon]) -> None:
    maple, _ = two
    await add(maple, maple.make("f"))
    with pytest.raises(TimedOut, match="f: 0 of at least 1 peers are connected"):
        await maple.backend.wait(None, timeout_s=0.3, peers=1)
    report = await maple.backend.wait("f", timeout_s=WAIT_S, peers=0)
    assert report["shares"][0]["peers"] == []
    with pytest.raises(NoSuchShare):
        await maple.backend.wait("g", timeout_s=1, peers=0)


async def test_syncing_once_reports_what_moved(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="12345")
    there = await share(maple, willow)
    (there / "b.txt").write_text("1234567")
    report = await willow.backend.sync_once("f", timeout_s=WAIT_S)
    assert report["shares"][0]["peers"] == ["maple"]
    assert tree(here)["b.txt"] == "1234567"
    assert (report["sent_items"], report["sent_bytes"]) == (1, 7)
    assert report["received_items"] == 0


async def test_a_client_that_goes_away_in_the_middle_leaves_no_share_stopped(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    maple.make("f", a_txt="x")
    await share(maple, willow)
    for action in (maple.backend.share_pause, maple.backend.share_resume):
        with trio.CancelScope() as client:
            client.cancel()
            await action("f")
        # The next change comes after the first is done.
    with trio.CancelScope() as client:
        client.cancel()
        await maple.backend.share_add(
            str(maple.make("g")), name=None, kind=None, mode="send-receive", with_devices=[]
        )
    await maple.until(
        lambda: {one.record.name for one in maple.supervisor.shares.all()} == {"f", "g"}, "both"
    )
    await maple.wait("f")


async def test_hints_are_not_lost_with_the_client_that_was_looking(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f")
    there = await share(maple, willow)
    running = maple.running("f")
    async with running.busy:
        # The watch has told of it, and the client has taken it on, but the scan does not begin.
        (here / "a.txt").write_text("x")
    with trio.CancelScope() as client:
        client.cancel()
        await running.detect()
    await willow.until(lambda: tree(there) == {"a.txt": "x"}, "the file")


async def test_shares_are_found_by_paths_below_them(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    real = maple.make("f", a_txt="x")
    (maple.folder / "link").symlink_to(real)
    await add(maple, maple.folder / "link", name="f")
    shares = maple.supervisor.shares
    for path in (real / "a.txt", maple.folder / "link" / "a.txt", real / "x" / ".." / "a.txt"):
        assert shares.holding(path)[1] == b"a.txt"
    assert shares.holding(maple.folder / "link")[1] == b""
    with pytest.raises(NoSuchShare):
        shares.holding(maple.folder)
    with pytest.raises(P2psyncError):
        shares.holding(real / ".." / "elsewhere")


async def test_a_share_needs_a_name_that_a_folder_may_have(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    for name in ("", " ", "a/b", "..", "new\nline", "\x1b[31m"):
        with pytest.raises(BadRequest, match="must be printable"):
            await add(maple, maple.make("f"), name=name)
    assert await maple.backend.share_list() == []


async def test_a_configuration_that_cannot_be_read_again_is_told_and_the_old_one_stays(lab: Lab) -> None:
    maple = await lab.daemon("maple")

    def broken() -> Config:
        raise ConfigError("`listne` is no key")

    good = maple.supervisor.load_config
    maple.supervisor.load_config = broken
    [check] = [one for one in await maple.backend.doctor() if one["name"] == "configuration"]
    assert (check["ok"], "listne" in check["message"]) == ("fail", True)
    with pytest.raises(ConfigError):
        await maple.backend.reload()
    [told] = (await maple.backend.status())["attention"]
    assert "listne" in told["message"]
    maple.supervisor.load_config = good
    await maple.backend.reload()
    assert (await maple.backend.status())["attention"] == []
    assert all(one["ok"] != "fail" for one in await maple.backend.doctor())
