"""What must not be lost: conflicts, history, held shares, damage, and what a restart finds."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemons import WAIT_S, Daemon, Lab, share, tree

from p2psyncd.core.ids import ActorId
from p2psyncd.daemon import stuck
from p2psyncd.daemon.replica import Phase
from p2psyncd.errors import BadRequest, NoSuchConflict, NoSuchItem, NoSuchShare, NotHeld, ShareHeld, TimedOut
from p2psyncd.sources.folder.fingerprint import fingerprint

if TYPE_CHECKING:
    from p2psyncd.control.messages import Conflict

MANY = 120


async def in_conflict(maple: Daemon, willow: Daemon) -> tuple[Path, Path, Conflict]:
    """Have both write one file while they cannot talk; return both folders and the conflict as maple lists it."""
    here = maple.make("f", note_txt="first")
    there = await share(maple, willow)
    await maple.backend.device_pause("willow")
    (here / "note.txt").write_text("maple's")
    await maple.backend.share_rescan("f")
    (there / "note.txt").write_text("willow's")
    await willow.backend.share_rescan("f")
    await maple.backend.device_resume("willow")
    await maple.until(lambda: maple.connected_to(willow), "connected")
    await both_settled(maple, willow)
    assert tree(here) == tree(there)
    assert sorted(text for text in tree(here).values() if text) == ["maple's", "willow's"]
    [conflict] = await maple.backend.conflicts(include_resolved=False)
    return here, there, conflict


async def both_settled(maple: Daemon, willow: Daemon) -> None:
    for daemon in (maple, willow, maple):
        await daemon.wait()


async def test_both_devices_list_the_same_conflict(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, _, conflict = await in_conflict(maple, willow)
    [theirs] = await willow.backend.conflicts(include_resolved=False)
    assert theirs == conflict
    assert (conflict["item"], conflict["winner"], conflict["share"]) == ("note.txt", "willow", "f")
    assert [loser["device"] for loser in conflict["losers"]] == ["maple"]
    detail = await maple.backend.conflict_show(conflict["id"][:4])
    assert [(here / side["where"]).read_text() for side in detail["sides"]] == ["willow's", "maple's"]
    assert detail["sides"][0]["where"] == str(here / "note.txt")
    status = await maple.backend.status()
    assert status["shares"][0]["conflicts"] == 1
    assert [one["message"] for one in status["attention"]] == ["f has 1 conflict."]
    for daemon in (maple, willow):
        told = await daemon.event("conflict")
        assert (told["item"], told["share"]) == ("note.txt", "f")
        assert conflict["id"] in told["message"]


async def test_keeping_the_winner_takes_the_copy_away_everywhere(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there, conflict = await in_conflict(maple, willow)
    resolved = await maple.backend.conflict_resolve(conflict["id"], keep="winner", loser=0)
    assert resolved["resolved"]
    await both_settled(maple, willow)
    assert tree(here) == tree(there) == {"note.txt": "willow's"}
    assert await willow.backend.conflicts(include_resolved=False) == []
    assert [one["id"] for one in await maple.backend.conflicts(include_resolved=True)] == [conflict["id"]]
    told = await maple.event("conflict_resolved")
    assert (told["message"], told["item"]) == ("the conflict of note.txt is resolved", "note.txt")


async def test_keeping_the_loser_gives_it_the_name(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there, conflict = await in_conflict(maple, willow)
    with pytest.raises(BadRequest, match="1 losers"):
        await willow.backend.conflict_resolve(conflict["id"], keep="loser", loser=1)
    await willow.backend.conflict_resolve(conflict["id"], keep="loser", loser=0)
    await both_settled(maple, willow)
    assert tree(here) == tree(there) == {"note.txt": "maple's"}
    kept = await willow.backend.history(str(there / "note.txt"))
    assert "willow's" in {(await put_back(willow, there, version["version"])) for version in kept}


async def put_back(daemon: Daemon, root: Path, version: str) -> str:
    await daemon.backend.restore(str(root / "note.txt"), version=version)
    return (root / "note.txt").read_text()


async def test_keeping_both_gives_the_copy_an_ordinary_name(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there, conflict = await in_conflict(maple, willow)
    await maple.backend.conflict_resolve(conflict["id"], keep="both", loser=0)
    await both_settled(maple, willow)
    assert tree(here) == tree(there)
    assert sorted(text for text in tree(here).values() if text) == ["maple's", "willow's"]
    assert await willow.backend.conflicts(include_resolved=False) == []
    for conflict_id in (conflict["id"], ""):
        with pytest.raises(NoSuchConflict):
            await maple.backend.conflict_show(conflict_id)


async def test_what_a_peer_replaced_or_deleted_can_be_had_again(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    (here / "a.txt").write_text("two")
    await maple.wait()
    (here / "a.txt").unlink()
    await maple.wait()
    assert tree(there) == {}
    versions = await willow.backend.history(str(there / "a.txt"))
    assert [(version["bytes"], version["reason"]) for version in versions] == [(3, "deleted"), (3, "deleted")]
    assert await willow.backend.history(str(there)) == versions
    restored = await willow.backend.restore(str(there / "a.txt"), version=versions[1]["version"])
    assert restored == {"path": str(there / "a.txt"), "version": versions[1]["version"], "replaced": False}
    await willow.wait()
    assert tree(here) == tree(there) == {"a.txt": "one"}
    assert (await willow.backend.restore(str(there / "a.txt"), version=None))["replaced"]
    await willow.wait()
    assert tree(here) == {"a.txt": "two"}
    with pytest.raises(NoSuchItem):
        await willow.backend.restore(str(there / "a.txt"), version="20200101-000000~nothing")
    with pytest.raises(NoSuchItem):
        await willow.backend.restore(str(there / "b.txt"), version=None)
    with pytest.raises(NoSuchShare):
        await willow.backend.history("/")


async def test_verify_finds_what_changed_behind_our_back(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    here = maple.make("f", a_txt="aaaa", b_txt="bbbb")
    await maple.backend.share_add(str(here), name=None, kind=None, mode="send-receive", with_devices=[])
    assert (await maple.backend.verify("f"))["problems"] == []
    running = maple.running("f")
    # A disk that rots leaves every time as it was: what the store notes of the file is made to say so.
    file = here / "a.txt"
    was = file.stat()
    async with running.busy, running.replica.lock:
        file.write_text("aaab")
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
        running.store.set_state([(b"a.txt", fingerprint(file.stat()))])
    found = await maple.backend.verify("f")
    assert [(one["share"], one["item"]) for one in found["problems"]] == [("f", "a.txt")]
    assert (found["items"], found["bytes"]) == (2, 8)


async def test_a_share_whose_marker_is_gone_is_held_and_comes_back_with_it(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck, "GOES_ON_S", 0.0)
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    marker = there / ".p2psync" / "share"
    text = marker.read_text()
    marker.unlink()
    (there / "a.txt").unlink()
    with pytest.raises(ShareHeld, match="no marker"):
        await willow.backend.share_rescan("f")
    [row] = await willow.backend.share_list()
    assert row["state"] == "held"
    assert "no marker" in str(row["reason"])
    assert tree(here) == {"a.txt": "one"}
    with pytest.raises(ShareHeld):
        await willow.backend.wait("f", timeout_s=WAIT_S, peers=0)
    with pytest.raises(ShareHeld):
        await willow.backend.share_approve("f")
    assert any(one["ok"] == "fail" and one["name"] == "share f" for one in await willow.backend.doctor())
    marker.write_text(text)
    (there / "a.txt").write_text("one")
    await willow.backend.share_rescan("f")
    await both_settled(maple, willow)
    assert tree(here) == tree(there)
    assert (await willow.event("share_goes_on"))["share"] == "f"
    told = [e for e in await willow.backend.events(since=0, limit=99) if e["type"].startswith("share_")]
    # Once, however often it was looked at.
    assert [one["type"] for one in told[1:]] == ["share_held", "share_goes_on"]
    assert "no marker" in told[1]["message"]


async def many_gone(maple: Daemon, willow: Daemon) -> tuple[Path, Path]:
    """Have most of a share vanish while its daemon is down."""
    here = maple.make("f", **{f"n{number}_txt": str(number) for number in range(MANY)})
    there = await share(maple, willow)
    await willow.stop()
    for number in range(MANY - 1):
        (there / f"n{number}.txt").unlink()
    await willow.start()
    await willow.until(lambda: willow.running("f").replica.phase is Phase.HELD, "held")
    return here, there


async def test_a_mass_deletion_is_held_until_it_is_approved(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = await many_gone(maple, willow)
    assert f"{MANY - 1} of {MANY} items are gone" in willow.running("f").replica.reason
    assert len(tree(here)) == MANY
    await willow.backend.share_approve("f")
    await willow.until(lambda: willow.connected_to(maple), "connected")
    await both_settled(maple, willow)
    assert len(tree(here)) == len(tree(there)) == 1
    with pytest.raises(NotHeld, match="not held"):
        await willow.backend.share_approve("f")


async def test_approving_deletes_only_what_is_still_gone(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = await many_gone(maple, willow)
    # Half of it was only slow to come: the disk is there now.
    for number in range(MANY - 10):
        shutil.copy2(here / f"n{number}.txt", there)
    await willow.backend.share_approve("f")
    await willow.until(lambda: willow.connected_to(maple), "connected")
    await both_settled(maple, willow)
    assert len(tree(here)) == len(tree(there)) == MANY - 9


async def test_what_was_held_is_forgotten_when_the_files_come_back(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here, there = await many_gone(maple, willow)
    for number in range(MANY):
        shutil.copy2(here / f"n{number}.txt", there)
    await willow.backend.share_rescan("f")
    assert willow.running("f").replica.phase is Phase.READY
    (there / ".p2psync" / "share").unlink()
    with pytest.raises(ShareHeld):
        await willow.backend.share_rescan("f")
    with pytest.raises(ShareHeld):
        await willow.backend.share_approve("f")
    assert len(tree(here)) == MANY


async def test_a_daemon_starts_without_the_disk_of_a_share_and_holds_it(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    await willow.stop()
    there.rename(willow.folder / "unplugged")
    await willow.start()
    await willow.until(lambda: willow.running("f").replica.phase is Phase.HELD, "held")
    assert "missing" in willow.running("f").replica.reason
    assert [one["ok"] for one in await willow.backend.doctor() if one["name"] == "disk of f"] == ["warn"]
    (willow.folder / "unplugged").rename(there)
    await willow.backend.share_rescan("f")
    await willow.until(lambda: willow.connected_to(maple), "connected")
    await both_settled(maple, willow)
    assert tree(here) == tree(there) == {"a.txt": "one"}


async def test_a_share_with_damaged_state_is_named_and_the_others_go_on(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    maple.make("f", a_txt="one")
    maple.make("g", b_txt="two")
    await share(maple, willow, "f")
    await share(maple, willow, "g")
    file = willow.places.state_dir / "shares" / f"{willow.running('f').record.id.hex()}.db"
    await willow.stop()
    file.write_bytes(b"nonsense" * 1000)
    for more in ("-wal", "-shm"):
        file.with_name(file.name + more).unlink(missing_ok=True)
    await willow.start()
    rows = {row["name"]: row for row in await willow.backend.share_list()}
    assert rows["f"]["state"] == "error"
    assert "damaged" in str(rows["f"]["reason"])
    await willow.until(lambda: willow.connected_to(maple), "connected")
    await willow.wait("g")
    with pytest.raises(NoSuchShare, match="could not be opened"):
        await willow.backend.share_rescan("f")
    with pytest.raises(TimedOut, match="f could not be opened"):
        await willow.backend.wait(None, timeout_s=1, peers=1)
    assert any(one["name"] == "share f" and one["ok"] == "fail" for one in await willow.backend.doctor())
    # Removed and accepted again, it merges.
    assert (await willow.backend.share_remove("f"))["state"] == "error"
    await share(maple, willow, "f")
    assert tree(willow.folder / "f") == {"a.txt": "one"}
    assert await willow.backend.conflicts(include_resolved=False) == []


async def test_a_device_whose_state_was_put_back_goes_on_as_another_actor_and_rolls_nobody_back(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    await willow.stop()
    state = willow.places.state_dir / "shares"
    backup = willow.folder / "backup"
    shutil.copytree(state, backup)
    await willow.start()
    (there / "b.txt").write_text("written after the backup")
    (there / "c.txt").write_text("deleted after the backup")
    await willow.until(lambda: willow.connected_to(maple), "connected")
    await willow.wait()
    (there / "c.txt").unlink()
    await willow.wait()
    actor = willow.running("f").replica.standing.actor
    await willow.stop()
    shutil.rmtree(state)
    shutil.copytree(backup, state)
    await willow.start()
    await willow.wait()
    assert willow.running("f").replica.standing.actor != actor
    assert tree(here) == tree(there) == {"a.txt": "one", "b.txt": "written after the backup"}
    assert await willow.backend.conflicts(include_resolved=False) == []


async def test_who_claims_to_know_writes_we_never_made_makes_us_another_actor(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    maple.make("f", a_txt="one")
    await share(maple, willow)
    actor: ActorId = willow.running("f").replica.standing.actor
    before = willow.running("f").replica.standing.knowledge.get(actor, -1)
    replica = maple.running("f").replica
    await replica.commit({**replica.standing.knowledge, actor: before + 10**16}, {})
    (maple.folder / "f" / "b.txt").write_text("two")
    await maple.backend.share_rescan("f")
    await willow.until(lambda: willow.running("f").replica.standing.actor != actor, "another actor")
    await willow.wait()
    assert tree(willow.folder / "f") == {"a.txt": "one", "b.txt": "two"}
    # What it writes under the new name is news to everybody.
    (willow.folder / "f" / "c.txt").write_text("three")
    await willow.wait()
    assert tree(maple.folder / "f") == tree(willow.folder / "f")


async def test_databases_of_other_programs_are_not_needed_to_restart(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    here = maple.make("f", a_txt="one")
    await maple.backend.share_add(str(here), name=None, kind=None, mode="send-receive", with_devices=[])
    await maple.restart()
    await maple.wait(peers=0)
    with sqlite3.connect(maple.places.state_dir / "device.db") as connection:
        assert connection.execute("SELECT count(*) FROM shares").fetchone() == (1,)
    connection.close()
    assert [event["type"] for event in await maple.backend.events(since=0, limit=10)] == [
        "ready",
        "share_added",
        "ready",
    ]


async def test_a_folder_that_a_peer_deleted_comes_back_with_all_that_was_below_it(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    here = maple.make("f", z_txt="stays")
    (here / "d" / "deep").mkdir(parents=True)
    for name, text in (("d/a.txt", "a"), ("d/deep/b.txt", "b")):
        (here / name).write_text(text)
    there = await share(maple, willow)
    before = tree(there)
    shutil.rmtree(here / "d")
    await maple.wait()
    await willow.wait()
    assert tree(there) == {"z.txt": "stays"}
    restored = await willow.backend.restore(str(there / "d"), version=None)
    assert not restored["replaced"]
    await willow.wait()
    await maple.wait()
    assert tree(here) == tree(there) == before
    for nothing in ("never", "d", "."):
        with pytest.raises(NoSuchItem, match="Nothing that was deleted in"):
            await willow.backend.restore(str(there / nothing), version=None)


async def test_what_a_peer_deleted_anywhere_in_a_share_comes_back_and_what_is_there_stays(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="a", b_txt="old", c_txt="c")
    there = await share(maple, willow)
    (here / "b.txt").write_text("new")
    (here / "a.txt").unlink()
    await maple.wait()
    (here / "c.txt").unlink()
    await maple.wait()
    await willow.wait()
    restored = await willow.backend.restore(str(there), version=None)
    assert (restored["count"], restored["replaced"]) == (2, False)
    await willow.wait()
    await maple.wait()
    assert tree(here) == tree(there) == {"a.txt": "a", "b.txt": "new", "c.txt": "c"}


async def test_one_file_that_cannot_come_back_keeps_no_other_from_it(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="a", z_txt="z")
    (here / "d").mkdir()
    (here / "d" / "in.txt").write_text("in")
    there = await share(maple, willow)
    shutil.rmtree(here / "d")
    (here / "a.txt").unlink()
    (here / "d").write_text("a file has the name of the folder")
    await maple.wait()
    await willow.wait()
    restored = await willow.backend.restore(str(there), version=None)
    assert (restored["count"], restored["failed"]) == (1, ["d/in.txt: Not a directory"])
    assert tree(there) == {"a.txt": "a", "d": "a file has the name of the folder", "z.txt": "z"}
    assert not list((there / ".p2psync" / "staging").iterdir())


async def test_a_link_to_a_folder_is_restored_as_what_it_is(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f")
    for name in ("one", "two"):
        (here / name).mkdir()
    (here / "current").symlink_to("one")
    there = await share(maple, willow)
    (here / "new").symlink_to("two")
    (here / "new").rename(here / "current")
    await maple.wait()
    await willow.wait()
    assert (there / "current").readlink() == Path("two")
    restored = await willow.backend.restore(str(there / "current"), version=None)
    assert restored["replaced"]
    assert (there / "current").readlink() == Path("one")
