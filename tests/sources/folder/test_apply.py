from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from p2psyncd.core.item import Draft, Item, Kind
from p2psyncd.core.storage import Stored
from p2psyncd.errors import ShareHeld
from p2psyncd.sources.folder import folders
from p2psyncd.sources.folder.attributes import Attributes, encode
from p2psyncd.sources.folder.fingerprint import SKIPPED, is_trusted
from p2psyncd.sources.source import Applied, Dirty, Failed, Observation, Outcome, Surprised

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Device, Lab


def arrive(device: Device, *drafts: Draft) -> list[Item]:
    """Let versions from elsewhere become pending."""
    items = []
    for draft in drafts:
        known = device.storage.items.get(draft.key)
        item = device.version(draft, *([known.item] if known else []))
        device.storage.put_pending(item)
        items.append(item)
    return items


def contents(*data: bytes) -> dict[bytes, bytes]:
    return {blake3(one).digest(): one for one in data}


def by_key(outcomes: list[Outcome]) -> dict[bytes, Outcome]:
    return {outcome.key: outcome for outcome in outcomes}


def applied(outcomes: list[Outcome]) -> bool:
    return all(isinstance(outcome, Applied) for outcome in outcomes)


def editing(device: Device, key: bytes, change: Callable[[], object], *, times: int = 1) -> None:
    """Let a local program do something between the last look at a key and the step that replaces it."""
    left = [times]

    def between(at: bytes) -> None:
        if at == key and left[0]:
            left[0] -= 1
            change()

    device.source.applying.between = between


def test_new_things_get_content_mode_and_time(here: Device, lab: Lab) -> None:
    arrive(
        here,
        lab.directory(b"d", mode=0o750),
        lab.file(b"d/f", b"content", mode=0o640),
        lab.file(b"empty", b""),
        lab.symlink(b"d/link", b"/outside\xff"),
    )
    outcomes = here.apply(contents(b"content"))
    assert applied(outcomes)
    tree = here.tree()
    assert tree[b"d"] == ("0o40750", lab.MTIME_NS, None)
    assert tree[b"d/f"] == ("0o100640", lab.MTIME_NS, b"content")
    assert tree[b"empty"] == ("0o100644", lab.MTIME_NS, b"")
    assert tree[b"d/link"] == ("0o120777", lab.MTIME_NS, b"/outside\xff")
    assert here.fetched == [b"d/f"]
    assert here.staged() == []
    assert not here.look()


def test_a_replaced_file_goes_to_history(here: Device, lab: Lab) -> None:
    here.write("d/f", "old")
    here.scan()
    arrive(here, lab.file(b"d/f", b"new"))
    assert applied(here.apply(contents(b"new")))
    assert here.read("d/f") == b"new"
    assert here.history() == [b"old"]
    assert not here.look()


def test_a_deleted_file_goes_to_history_and_its_directories_go(here: Device, lab: Lab) -> None:
    here.write("a/b/f", "old")
    here.path("a/link").symlink_to("b")
    here.scan()
    arrive(
        here, lab.tombstone(b"a"), lab.tombstone(b"a/b"), lab.tombstone(b"a/b/f"), lab.tombstone(b"a/link")
    )
    assert applied(here.apply({}))
    assert here.tree() == {}
    assert sorted(here.history()) == [b"b", b"old"]
    assert not here.look()


def test_what_is_gone_already_counts_as_deleted(here: Device, lab: Lab) -> None:
    here.write("a/f", "old")
    here.scan()
    arrive(here, lab.tombstone(b"a"), lab.tombstone(b"a/f"), lab.tombstone(b"never/was"))
    shutil.rmtree(here.path("a"))
    assert applied(here.apply({}))


def test_the_directorys_time_is_as_before_when_its_entries_were_changed(here: Device, lab: Lab) -> None:
    here.write("d/f", "old")
    here.write("d/g", "old")
    here.scan()
    before = here.path("d").stat().st_mtime_ns
    arrive(here, lab.file(b"d/f", b"new"), lab.file(b"d/h", b"new"), lab.tombstone(b"d/g"))
    assert applied(here.apply(contents(b"new")))
    assert here.path("d").stat().st_mtime_ns == before
    assert not here.look()


def test_metadata_alone_changes_the_file_in_place(here: Device, lab: Lab) -> None:
    path = here.write("f", "same")
    here.write("d/x")
    here.path("link").symlink_to("f")
    here.scan()
    inode = path.stat().st_ino
    arrive(
        here, lab.file(b"f", b"same", mode=0o755), lab.directory(b"d", mode=0o711), lab.symlink(b"link", b"f")
    )
    outcomes = by_key(here.apply({}))
    assert applied(list(outcomes.values()))
    assert here.fetched == []
    assert (path.stat().st_ino, path.stat().st_mode & 0o777, path.stat().st_mtime_ns) == (
        inode,
        0o755,
        lab.MTIME_NS,
    )
    assert here.path("d").stat().st_mode & 0o777 == 0o711
    assert here.path("link").lstat().st_mtime_ns == lab.MTIME_NS
    outcome = outcomes[b"f"]
    assert isinstance(outcome, Applied)
    assert not is_trusted(outcome.state)
    assert here.history() == []


def test_an_edit_hidden_behind_a_remote_touch_is_found(here: Device, lab: Lab) -> None:
    path = here.write("f", "same")
    here.scan()
    arrive(here, lab.file(b"f", b"same", mode=0o755))
    real = os.utime

    def edit_first(*args: object, **kwargs: object) -> None:
        path.write_text("edit")
        real(*args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "utime", edit_first)
        assert applied(here.apply({}))
    (seen,) = here.scan()
    assert seen.draft.digest == blake3(b"edit").digest()


# Local edits that were not scanned yet


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_a_local_edit_is_not_overwritten(here: Device, lab: Lab, what: str) -> None:
    here.write("f", "base")
    here.scan()
    arrive(here, lab.file(b"f", b"remote") if what == "replaced" else lab.tombstone(b"f"))
    here.write("f", "edited")
    assert here.apply(contents(b"remote")) == [Surprised(key=b"f")]
    assert here.read("f") == b"edited"
    assert here.history() == []


@pytest.mark.parametrize("what", ["replaced", "deleted"])
@pytest.mark.parametrize("how", ["in place", "renamed over", "same size and time"])
def test_an_edit_between_the_last_look_and_the_step_is_put_back(
    here: Device, lab: Lab, what: str, how: str
) -> None:
    path = here.write("f", "base")
    here.scan()
    times = path.stat().st_mtime_ns

    def edit() -> None:
        if how == "renamed over":
            here.write("tmp", "edit").rename(path)
        else:
            path.write_text("edit")
        if how == "same size and time":
            os.utime(path, ns=(times, times))

    editing(here, b"f", edit)
    arrive(here, lab.file(b"f", b"remote") if what == "replaced" else lab.tombstone(b"f"))
    assert here.apply(contents(b"remote")) == [Surprised(key=b"f")]
    assert here.read("f") == b"edit"
    assert here.history() == []
    if what == "replaced":
        assert here.staged() == [blake3(b"remote").hexdigest()]


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_what_is_seen_before_an_edit_is_put_back_is_not_recorded(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = here.write("f", "base")
    here.scan()
    arrive(here, lab.file(b"f", b"remote") if what == "replaced" else lab.tombstone(b"f"))
    from p2psyncd.sources.folder.replace import Replacer  # noqa: PLC0415

    real = Replacer.is_what_was_replaced
    seen: list[Observation] = []

    def look_first(replacer: Replacer, slot: bytes, base: Stored) -> bool:
        found = here.source.scan(Dirty(keys=frozenset({b"f"})))
        seen.extend(one for one in found if isinstance(one, Observation))
        return real(replacer, slot, base)

    editing(here, b"f", lambda: path.write_text("edit"))
    with monkeypatch.context() as patched:
        patched.setattr(Replacer, "is_what_was_replaced", look_first)
        assert here.apply(contents(b"remote")) == [Surprised(key=b"f")]
    assert [one.draft.kind for one in seen] == [Kind.FILE if what == "replaced" else Kind.TOMBSTONE]
    assert here.source.confirm(seen) == []
    now = [one for one in here.source.scan(Dirty(keys=frozenset({b"f"}))) if isinstance(one, Observation)]
    assert [one.draft.size for one in here.source.confirm(now)] == [len("edit")]


def test_an_edit_that_was_put_back_can_be_deleted_with_its_folder(here: Device, lab: Lab) -> None:
    path = here.write("d/f", "base")
    here.scan()
    arrive(here, lab.file(b"d/f", b"remote"))
    editing(here, b"d/f", lambda: path.write_text("edit"))
    assert here.apply(contents(b"remote")) == [Surprised(key=b"d/f")]
    shutil.rmtree(path.parent)
    seen = [one for one in here.source.scan(Dirty(subtrees=frozenset({b""}))) if isinstance(one, Observation)]
    assert {one.draft.key for one in here.source.confirm(seen)} == {b"d", b"d/f"}


def test_edits_that_follow_each_other_during_the_exchange_end_with_the_last(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here.write("f", "base")
    here.scan()
    arrive(here, lab.file(b"f", b"remote"))
    from p2psyncd.sources.folder import replace  # noqa: PLC0415

    real = replace.exchange
    edits = iter([b"first", b"second", b"third"])

    def edit_then_exchange(*args: object) -> None:
        edit = next(edits, None)
        if edit is not None:
            here.write("tmp", edit).rename(path)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(replace, "exchange", edit_then_exchange)
    assert here.apply(contents(b"remote")) == [Surprised(key=b"f")]
    assert here.read("f") == b"third"
    # Not the new version, but what the user had saved over.
    assert set(here.history()) >= {b"second"} or set(here.history()) >= {b"first"}


def test_a_file_deleted_during_the_exchange_is_a_surprise(here: Device, lab: Lab) -> None:
    path = here.write("f", "base")
    here.scan()
    arrive(here, lab.file(b"f", b"remote"))
    editing(here, b"f", path.unlink)
    assert here.apply(contents(b"remote")) == [Surprised(key=b"f")]
    assert not path.exists()
    assert here.history() == []
    assert len(here.staged()) == 1


def test_the_new_file_deleted_while_an_edit_is_put_back_does_not_cost_the_edit(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here.write("f", "base")
    here.scan()
    arrive(here, lab.file(b"f", b"remote"))
    from p2psyncd.sources.folder import replace  # noqa: PLC0415

    real = replace.exchange
    calls = []

    def interfere(*args: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            path.write_text("edit")
        else:
            path.unlink()
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(replace, "exchange", interfere)
    assert here.apply(contents(b"remote")) == [Surprised(key=b"f")]
    assert here.read("f") == b"edit"


def test_a_name_taken_again_while_a_deletion_is_undone_keeps_both(here: Device, lab: Lab) -> None:
    path = here.write("f", "base")
    here.scan()
    arrive(here, lab.tombstone(b"f"))
    editing(here, b"f", lambda: path.write_text("edit"))
    with pytest.MonkeyPatch.context() as patch:
        from p2psyncd.sources.folder.replace import Replacer  # noqa: PLC0415

        real = Replacer.give_back

        def save_first(self: Replacer, slot: bytes, key: bytes) -> None:
            path.write_text("saved again")
            real(self, slot, key)

        patch.setattr(Replacer, "give_back", save_first)
        assert here.apply({}) == [Surprised(key=b"f")]
    assert here.read("f") == b"saved again"
    assert here.history() == [b"edit"]


def test_a_new_name_that_is_taken_is_a_surprise(here: Device, lab: Lab) -> None:
    arrive(here, lab.file(b"f", b"remote"), lab.symlink(b"l", b"t"), lab.directory(b"d"))
    for key in ("f", "l", "d"):
        here.write(key, "local")
    assert here.apply(contents(b"remote")) == [Surprised(key=key) for key in (b"d", b"f", b"l")]
    assert here.read("f") == b"local"
    assert here.staged() == [blake3(b"remote").hexdigest()]


def test_a_directory_that_is_there_already_is_taken_over(here: Device, lab: Lab) -> None:
    here.write("d/local", "local")
    arrive(here, lab.directory(b"d", mode=0o700))
    assert applied(here.apply({}))
    assert here.read("d/local") == b"local"
    assert here.path("d").stat().st_mode & 0o777 == 0o700


def test_a_directory_made_while_it_is_about_to_be_made_is_a_surprise(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_first(source: int, old: bytes, target: int, new: bytes) -> None:
        os.mkdir(new, dir_fd=target)
        rename_new(source, old, target, new)

    rename_new = folders.rename_new
    arrive(here, lab.directory(b"d"))
    monkeypatch.setattr(folders, "rename_new", make_first)
    assert here.apply({}) == [Surprised(key=b"d")]
    assert here.staged() == []


def test_a_directory_has_its_permissions_as_soon_as_it_has_its_name(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(source: int, old: bytes, target: int, new: bytes) -> None:
        rename_new(source, old, target, new)
        raise KeyboardInterrupt

    rename_new = folders.rename_new
    arrive(here, lab.directory(b"d", mode=0o775))
    monkeypatch.setattr(folders, "rename_new", stop)
    with pytest.raises(KeyboardInterrupt):
        here.apply({})
    assert here.path("d").stat().st_mode & 0o777 == 0o775


def test_a_directory_that_a_crash_left_in_staging_is_tidied_away(here: Device, lab: Lab) -> None:
    left = here.root / ".p2psync/staging/directory.new"
    left.mkdir(parents=True)
    arrive(here, lab.directory(b"d"))
    assert applied(here.apply({}))
    assert here.staged() == []
    left.mkdir()
    here.source.tidy()
    assert here.staged() == []


def test_an_untrusted_base_is_read_before_it_is_replaced(here: Device, lab: Lab) -> None:
    path = here.write("f", "base")
    here.look()
    here.source.scanning.fine_times = False
    here.scan()
    here.source.scanning.fine_times = True
    arrive(here, lab.file(b"f", b"remote"))
    state = here.storage.waiting[b"f"].base.state
    assert not is_trusted(state)
    # The same fingerprint, other content: what a coarse clock hides.
    here.storage.waiting[b"f"].base.item.digest  # noqa: B018
    from dataclasses import replace as change  # noqa: PLC0415

    base = here.storage.waiting[b"f"].base
    wrong = change(base, item=change(base.item, digest=blake3(b"other").digest()))
    right = here.storage.waiting[b"f"]
    here.storage.waiting[b"f"] = change(right, base=wrong)
    assert here.apply(contents(b"remote")) == [Surprised(key=b"f")]
    here.storage.waiting[b"f"] = right
    assert applied(here.apply(contents(b"remote")))
    assert path.read_bytes() == b"remote"


# Kinds that change


def test_a_file_becomes_a_directory_with_children(here: Device, lab: Lab) -> None:
    here.write("x", "file")
    here.scan()
    arrive(here, lab.directory(b"x"), lab.file(b"x/child", b"c"))
    assert applied(here.apply(contents(b"c")))
    assert here.read("x/child") == b"c"
    assert here.history() == [b"file"]
    assert not here.look()


def test_a_file_that_moves_below_a_directory_of_its_own_name_does_not_travel(here: Device, lab: Lab) -> None:
    here.write("x", "file")
    here.scan()
    arrive(here, lab.directory(b"x"), lab.file(b"x/x", b"file"))
    assert applied(here.apply({}))
    assert here.read("x/x") == b"file"
    assert here.fetched == []


def test_a_directory_becomes_a_file(here: Device, lab: Lab) -> None:
    here.write("x/a/f", "child")
    here.scan()
    arrive(here, lab.file(b"x", b"now a file"), lab.tombstone(b"x/a"), lab.tombstone(b"x/a/f"))
    assert applied(here.apply(contents(b"now a file")))
    assert here.read("x") == b"now a file"
    assert here.history() == [b"child"]
    assert not here.look()


def test_a_directory_with_a_new_child_does_not_become_a_file(here: Device, lab: Lab) -> None:
    here.write("x/f", "child")
    here.scan()
    arrive(here, lab.file(b"x", b"file"), lab.tombstone(b"x/f"))
    here.write("x/new", "local")
    outcomes = by_key(here.apply(contents(b"file")))
    assert outcomes[b"x"] == Surprised(key=b"x")
    assert outcomes[b"x/new"] == Surprised(key=b"x/new")
    assert here.read("x/new") == b"local"


def test_a_directory_with_ignored_files_does_not_become_a_file(here: Device, lab: Lab) -> None:
    here.write(".p2psyncignore", "*.o\n")
    here.write("x/f.o", "ignored")
    here.scan()
    arrive(here, lab.file(b"x", b"file"))
    outcome = by_key(here.apply(contents(b"file")))[b"x"]
    assert isinstance(outcome, Failed)
    assert "ignored" in outcome.reason
    assert here.read("x/f.o") == b"ignored"


def test_a_file_becomes_a_symlink_and_back(here: Device, lab: Lab) -> None:
    here.write("x", "file")
    here.scan()
    arrive(here, lab.symlink(b"x", b"target"))
    assert applied(here.apply({}))
    assert here.path("x").readlink() == Path("target")
    arrive(here, lab.file(b"x", b"again"))
    assert applied(here.apply(contents(b"again")))
    assert here.read("x") == b"again"
    assert sorted(here.history()) == [b"file", b"target"]


@pytest.mark.parametrize("now", ["file", "gone"])
def test_a_directory_that_is_something_else_here_is_a_surprise(here: Device, lab: Lab, now: str) -> None:
    here.path("d").mkdir()
    here.scan()
    here.path("d").rmdir()
    if now == "file":
        here.write("d", "local")
    arrive(here, lab.directory(b"d", mode=0o700))
    assert here.apply({}) == [Surprised(key=b"d")]
    arrive(here, lab.tombstone(b"d"))
    assert here.apply({}) == ([Surprised(key=b"d")] if now == "file" else [Applied(key=b"d", state=b"")])


# Deleting directories


def test_a_directory_with_a_new_child_stays_and_the_child_is_told(here: Device, lab: Lab) -> None:
    here.write("d/known")
    here.scan()
    here.write("d/new/deep", "local")
    arrive(here, lab.tombstone(b"d"), lab.tombstone(b"d/known"))
    outcomes = by_key(here.apply({}))
    assert outcomes == {
        b"d/known": Applied(key=b"d/known", state=b""),
        b"d": Surprised(key=b"d"),
        b"d/new": Surprised(key=b"d/new"),
    }
    assert here.read("d/new/deep") == b"local"


def test_a_directory_kept_by_ignored_files_counts_as_deleted(here: Device, lab: Lab) -> None:
    here.write(".p2psyncignore", "*.o\n")
    here.write("d/f")
    here.write("d/sub/x.o", "ignored")
    here.write("d/y.o", "ignored")
    os.mkfifo(here.path("d/fifo"))
    here.scan()
    arrive(here, *(lab.tombstone(key) for key in (b"d", b"d/f", b"d/sub")))
    assert applied(here.apply({}))
    assert here.read("d/y.o") == b"ignored"
    assert here.read("d/sub/x.o") == b"ignored"
    here.errors.clear()
    assert here.scan() == []
    assert here.errors == {b"d": "deleted on another device; kept, it holds ignored files"}
    assert here.scan(type(lab.EVERYTHING)(keys=frozenset({b"d"}))) == []
    here.write("d/wanted", "again")
    assert [one.draft.key for one in here.scan()][:2] == [b"d", b"d/wanted"]


def test_a_directory_waits_for_what_it_still_holds(here: Device, lab: Lab) -> None:
    here.write("d/f")
    here.scan()
    arrive(here, lab.tombstone(b"d"))
    (outcome,) = here.apply({})
    assert isinstance(outcome, Failed)
    assert "not deleted yet" in outcome.reason


# Moves


def test_a_rename_of_a_folder_moves_files_and_copies_nothing(here: Device, lab: Lab) -> None:
    here.write("old/a", "one")
    here.write("old/sub/b", "two")
    here.scan()
    inodes = {name: here.path(f"old/{name}").stat().st_ino for name in ("a", "sub/b")}
    arrive(
        here,
        *(lab.tombstone(key) for key in (b"old", b"old/a", b"old/sub", b"old/sub/b")),
        lab.directory(b"new"),
        lab.directory(b"new/sub"),
        lab.file(b"new/a", b"one"),
        lab.file(b"new/sub/b", b"two"),
    )
    assert applied(here.apply({}))
    assert {name: here.path(f"new/{name}").stat().st_ino for name in inodes} == inodes
    assert not here.path("old").exists()
    assert here.history() == []
    assert not (here.root / ".p2psync/history/old").exists()
    assert not here.look()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_move_works_in_batches_of_any_size_and_order(here: Device, lab: Lab, size: int) -> None:
    for number in range(4):
        here.write(f"a/{number}", f"content {number}")
    here.scan()
    drafts = [lab.tombstone(b"a"), lab.directory(b"z")]
    for number in range(4):
        drafts += [lab.tombstone(b"a/%d" % number), lab.file(b"z/%d" % number, b"content %d" % number)]
    arrive(here, *drafts)
    # Deletes first, whatever is better: the replica may not know.
    waiting = sorted(here.storage.waiting.values(), key=lambda one: one.item.key, reverse=True)
    for order in (waiting[4:], waiting):
        for at in range(0, len(order), size):
            batch = [one for one in order[at : at + size] if one.item.key in here.storage.waiting]
            if not batch:
                continue
            ready = here.source.stage_local(batch)
            here.settle(here.source.apply([one for one in batch if one.item.key in ready]))
    assert not here.storage.waiting
    assert {key for key in here.tree() if key.startswith(b"z/")} == {b"z/%d" % number for number in range(4)}
    assert not here.look()


def test_deletes_that_come_first_do_not_cost_the_content(here: Device, lab: Lab) -> None:
    here.write("a", "content")
    here.scan()
    arrive(here, lab.tombstone(b"a"))
    assert applied(here.apply({}))
    arrive(here, lab.file(b"z", b"content"))
    assert applied(here.apply({}))
    assert here.fetched == []
    assert here.read("z") == b"content"


def test_a_moved_file_is_not_reported_as_deleted_before_its_delete_is_applied(here: Device, lab: Lab) -> None:
    here.write("a", "content")
    here.scan()
    arrive(here, lab.tombstone(b"a"), lab.file(b"z", b"content"))
    batch = [here.storage.waiting[b"z"]]
    assert here.source.stage_local(batch) == {b"z"}
    here.settle(here.source.apply(batch))
    assert here.keys(b"a", b"z") == []
    assert here.look() == []
    assert applied(here.apply({}))
    assert here.source.scanning.moved_away == set()
    here.write("a", "a new file")
    assert len(here.scan()) == 1
    here.path("a").unlink()
    assert len(here.scan()) == 1


def test_a_file_moved_away_may_come_back_from_elsewhere(here: Device, lab: Lab) -> None:
    here.write("a", "content")
    here.scan()
    arrive(here, lab.tombstone(b"a"), lab.file(b"z", b"content"))
    batch = [here.storage.waiting[b"z"]]
    here.source.stage_local(batch)
    here.settle(here.source.apply(batch))
    arrive(here, lab.file(b"a", b"back"))
    assert applied(here.apply(contents(b"back")))
    assert here.read("a") == b"back"
    assert not here.look()


def test_a_move_whose_source_was_edited_fetches_nothing_wrong(here: Device, lab: Lab) -> None:
    here.write("a", "content")
    here.scan()
    arrive(here, lab.tombstone(b"a"), lab.file(b"z", b"content"))
    batch = sorted(here.storage.waiting.values(), key=lambda one: one.item.key)
    assert here.source.stage_local(batch) == {b"a", b"z"}
    here.write("a", "edited")
    outcomes = by_key(here.source.apply(batch))
    assert outcomes[b"a"] == Surprised(key=b"a")
    assert isinstance(outcomes[b"z"], Failed)
    assert here.read("a") == b"edited"


def test_a_move_whose_source_lives_again_copies(here: Device, lab: Lab) -> None:
    here.write("a", "content")
    here.scan()
    arrive(here, lab.tombstone(b"a"), lab.file(b"z", b"content"))
    batch = [here.storage.waiting[b"z"]]
    here.source.stage_local(batch)
    here.storage.put(here.storage.waiting[b"a"].base)
    assert applied(here.source.apply(batch))
    assert here.read("a") == here.read("z") == b"content"


def test_two_files_swap_names_and_nothing_travels(here: Device, lab: Lab) -> None:
    here.write("one", "1")
    here.write("two", "2")
    here.scan()
    arrive(here, lab.file(b"one", b"2"), lab.file(b"two", b"1"))
    assert applied(here.apply({}))
    assert (here.read("one"), here.read("two")) == (b"2", b"1")
    assert here.fetched == []


def test_one_content_under_many_names_is_fetched_once(here: Device, lab: Lab) -> None:
    drafts = [lab.file(b"%d" % number, b"same") for number in range(5)]
    arrive(here, *drafts)
    batch = list(here.storage.waiting.values())
    here.source.put_content(blake3(b"same").digest(), b"same")
    assert len(here.source.stage_local(batch)) == 5
    assert applied(here.settle(here.source.apply(batch[:3])))
    assert len(here.source.stage_local(batch[3:])) == 2
    assert applied(here.settle(here.source.apply(batch[3:])))
    assert {here.read(f"{number}") for number in range(5)} == {b"same"}
    assert here.staged() == []


# What goes wrong


@pytest.mark.parametrize(
    "key", [b"../out", b"/etc/x", b".p2psync/share", b"a//b", b"n" * 256, b"a/\0", b".P2psync/x"]
)
def test_an_unsafe_key_is_refused_before_anything_is_touched(here: Device, lab: Lab, key: bytes) -> None:
    arrive(here, lab.file(key, b"evil"), lab.file(b"good", b"good"))
    outcomes = by_key(here.apply(contents(b"evil", b"good")))
    assert isinstance(outcomes[key], Failed)
    assert isinstance(outcomes[b"good"], Applied)
    assert list(here.root.parent.iterdir()) == [here.root]
    here.source.check()


def test_nonsense_in_metadata_or_kind_is_refused(here: Device, lab: Lab) -> None:
    link = encode(Attributes(mode=0o777, mtime_ns=0, target=b"t"))
    arrive(
        here,
        Draft(key=b"bad", kind=Kind.FILE, digest=blake3(b"x").digest(), size=1, meta=b"\xff"),
        Draft(key=b"targeted", kind=Kind.FILE, digest=blake3(b"x").digest(), size=1, meta=link),
        Draft(
            key=b"untargeted", kind=Kind.SYMLINK, digest=blake3(b"x").digest(), meta=lab.file(b"", b"").meta
        ),
        Draft(key=b"row", kind=Kind.ROW, meta=link),
    )
    outcomes = here.apply(contents(b"x"))
    assert all(isinstance(outcome, Failed) for outcome in outcomes)
    assert here.tree() == {}


def test_a_parent_swapped_for_a_symlink_is_refused(here: Device, lab: Lab, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("precious")
    here.write("d/f", "base")
    here.write("d/sub/g", "base")
    here.scan()
    arrive(
        here,
        lab.file(b"d/f", b"evil"),
        lab.file(b"d/new", b"evil"),
        lab.directory(b"d/newdir"),
        lab.tombstone(b"d/sub"),
        lab.tombstone(b"d/sub/g"),
    )
    here.path("d").rename(tmp_path / "moved")
    here.path("d").symlink_to(outside)
    outcomes = by_key(here.apply(contents(b"evil")))
    assert {key for key, outcome in outcomes.items() if outcome == Surprised(key=key)} == {
        b"d/f",
        b"d/new",
        b"d/newdir",
    }
    assert [path.name for path in outside.iterdir()] == ["f"]
    assert (outside / "f").read_text() == "precious"
    assert (tmp_path / "moved/sub/g").exists()


def test_a_parent_that_never_came_is_a_failure_not_a_loop(here: Device, lab: Lab) -> None:
    arrive(here, lab.file(b"no/such/f", b"x"))
    (outcome,) = here.apply(contents(b"x"))
    assert outcome == Failed(key=b"no/such/f", reason="its folder is not here (yet)")
    assert here.source.stage_local(list(here.storage.waiting.values())) == {b"no/such/f"}


def test_a_read_only_folder_fails_and_the_others_go_on(as_user: Path, lab: Lab) -> None:
    here = lab.Device(as_user / "share", lab.ACTOR)
    here.write("closed/f", "old")
    here.write("open/f", "old")
    here.path("closed").chmod(0o555)
    here.scan()
    arrive(
        here,
        lab.file(b"closed/f", b"new"),
        lab.file(b"closed/g", b"new"),
        lab.directory(b"closed/d"),
        lab.file(b"open/f", b"new"),
    )
    outcomes = by_key(here.apply(contents(b"new")))
    for key in (b"closed/f", b"closed/g", b"closed/d"):
        outcome = outcomes[key]
        assert isinstance(outcome, Failed)
        assert "read-only" in outcome.reason
    assert here.read("closed/f") == b"old"
    assert here.read("open/f") == b"new"
    here.path("closed").chmod(0o755)
    here.scan()
    assert here.storage.waiting.keys() >= {b"closed/g"}


def test_a_file_that_its_owner_may_not_read_arrives(as_user: Path, lab: Lab) -> None:
    here = lab.Device(as_user / "share", lab.ACTOR)
    arrive(here, lab.file(b"f", b"secret", mode=0))
    assert applied(here.apply(contents(b"secret")))
    assert here.path("f").stat().st_size == 6
    arrive(here, lab.file(b"f", b"changed", mode=0o400))
    assert applied(here.apply(contents(b"changed")))
    assert here.read("f") == b"changed"


def test_a_tree_with_read_only_folders_arrives_in_several_batches(as_user: Path, lab: Lab) -> None:
    here = lab.Device(as_user / "share", lab.ACTOR)
    arrive(here, lab.directory(b"ro", mode=0o555), lab.file(b"ro/a", b"a"), lab.file(b"ro/b", b"b"))
    arrive(here, lab.directory(b"ro/sub", mode=0o555), lab.file(b"ro/sub/c", b"c"))
    assert applied(here.apply(contents(b"a", b"b", b"c"), size=1))
    assert here.path("ro").stat().st_mode & 0o777 == 0o555
    assert here.read("ro/sub/c") == b"c"
    assert not here.look()
    arrive(here, lab.directory(b"ro", mode=0o755))
    assert applied(here.apply({}))
    assert b"ro" not in here.source.applying.read_only_made


def test_a_full_disk_leaves_the_old_file(here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    here.write("f", "old")
    here.scan()
    arrive(here, lab.file(b"f", b"new"), lab.file(b"g", b"new"))
    batch = sorted(here.storage.waiting.values(), key=lambda one: one.item.key)
    here.source.put_content(blake3(b"new").digest(), b"new")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    from p2psyncd.sources.folder import preparing  # noqa: PLC0415

    monkeypatch.setattr(preparing, "copy_content", full)
    outcomes = by_key(here.source.apply(batch))
    assert outcomes[b"f"] == Failed(key=b"f", reason="the disk is full")
    assert here.read("f") == b"old"
    assert isinstance(outcomes[b"g"], Applied)


@pytest.mark.parametrize("count", [1, 20])
def test_a_disk_that_fails_to_sync_applies_nothing(here: Device, lab: Lab, count: int) -> None:
    drafts = [lab.file(b"%d" % number, b"new") for number in range(count)]
    arrive(here, *drafts)
    batch = list(here.storage.waiting.values())
    here.source.put_content(blake3(b"new").digest(), b"new")
    working = (here.source.applying.sync, here.source.applying.sync_one)
    calls = []

    def fail_at(which: int) -> None:
        def sync(opened: int) -> None:
            calls.append(opened)
            if len(calls) == which:
                raise OSError(errno.EIO, "Input/output error")

        calls.clear()
        here.source.applying.sync = here.source.applying.sync_one = sync

    fail_at(1)
    assert {type(outcome) for outcome in here.source.apply(batch)} == {Failed}
    assert here.tree() == {}
    fail_at(2)
    assert {type(outcome) for outcome in here.source.apply(batch)} == {Failed}
    assert len(here.tree()) == count
    here.source.applying.sync, here.source.applying.sync_one = working
    # What is there now is what was pending: a scan settles it.
    here.scan()
    assert not here.storage.waiting
    assert not here.look()


def test_a_name_that_differs_only_in_case_is_not_overwritten(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("readme", "here")
    here.scan()
    arrive(here, lab.file(b"README", b"new"))
    from p2psyncd.sources.folder import replace  # noqa: PLC0415

    def one_name_for_both(*_: object) -> None:
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(replace, "rename_new", one_name_for_both)
    (outcome,) = here.apply(contents(b"new"))
    assert outcome == Failed(key=b"README", reason="another spelling of this name is taken here already")
    assert here.read("readme") == b"here"


def test_a_folder_that_becomes_a_symlink_again_and_again_leads_nowhere(
    here: Device, lab: Lab, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("precious")
    here.write("d/f", "base")
    here.scan()
    folder, hidden = here.path("d"), here.path("hidden")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            folder.rename(hidden)
            folder.symlink_to(outside)
            folder.unlink()
            hidden.rename(folder)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(150):
            arrive(here, lab.file(b"d/f", b"%d" % number), lab.file(b"d/%d" % number, b"new"))
            for digest, data in contents(b"%d" % number, b"new").items():
                here.source.put_content(digest, data)
            batch = [here.storage.waiting[b"d/f"], here.storage.waiting[b"d/%d" % number]]
            here.settle(here.source.apply(batch))
    finally:
        over.set()
        swapper.join()
    assert [path.name for path in outside.iterdir()] == ["f"]
    assert (outside / "f").read_text() == "precious"


def test_content_that_somebody_took_out_of_staging_is_asked_for_again(here: Device, lab: Lab) -> None:
    arrive(here, lab.file(b"f", b"new"), lab.file(b"g", b"new"))
    batch = sorted(here.storage.waiting.values(), key=lambda one: one.item.key)
    here.source.put_content(blake3(b"new").digest(), b"new")
    for path in (here.root / ".p2psync/staging").iterdir():
        path.unlink()
    for outcome in here.source.apply(batch):
        assert isinstance(outcome, Failed)
        assert "not here any more" in outcome.reason
    assert here.source.stage_local(batch) == set()
    here.source.put_content(blake3(b"new").digest(), b"new")
    for path in (here.root / ".p2psync/staging").iterdir():
        path.unlink()
    assert isinstance(here.source.apply(batch[:1])[0], Failed)


def test_an_edit_right_after_the_rename_is_not_recorded_as_the_new_version(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(here, lab.file(b"f", b"new"), lab.file(b"g", b"new"))
    from p2psyncd.sources.folder.replace import Replacer  # noqa: PLC0415

    real = Replacer.place

    def place(self: Replacer, source: bytes, key: bytes) -> None:
        real(self, source, key)
        if key == b"f":
            here.path("f").write_text("edited at once")
        else:
            here.path("g").unlink()

    monkeypatch.setattr(Replacer, "place", place)
    assert applied(here.apply(contents(b"new")))
    seen = {one.draft.key: one.draft for one in here.scan()}
    assert seen[b"f"].digest == blake3(b"edited at once").digest()
    assert seen[b"g"].kind is Kind.TOMBSTONE


def test_ignored_versions_are_settled_without_being_written(here: Device, lab: Lab) -> None:
    here.write(".p2psyncignore", "*.log\nbuild/\n")
    here.write("old.txt", "x")
    here.write("mine.log", "mine")
    here.scan()
    arrive(here, lab.file(b"a.log", b"x"), lab.directory(b"build"), lab.file(b"build/o", b"x"))
    outcomes = by_key(here.apply({}))
    assert set(outcomes.values()) == {Applied(key=key, state=SKIPPED) for key in outcomes}
    assert here.fetched == []
    arrive(here, lab.tombstone(b"a.log"), lab.tombstone(b"build"), lab.tombstone(b"build/o"))
    assert applied(here.apply({}))
    assert not here.path("build").exists()


def test_a_share_that_is_held_applies_nothing(here: Device, lab: Lab) -> None:
    arrive(here, lab.file(b"f", b"new"))
    (here.root / ".p2psync/share").unlink()
    with pytest.raises(ShareHeld):
        here.apply(contents(b"new"))
    assert not here.path("f").exists()


def test_content_is_durable_before_it_gets_its_name(here: Device, lab: Lab) -> None:
    arrive(here, lab.directory(b"d"), *(lab.file(b"d/%d" % number, b"new") for number in range(20)))
    seen: list[bool] = []
    here.source.applying.sync = lambda _: seen.append(here.path("d/0").exists())
    assert applied(here.apply(contents(b"new")))
    assert seen == [False, True]
    arrive(here, *(lab.tombstone(b"d/%d" % number) for number in range(20)))
    assert applied(here.apply({}))
    assert seen == [False, True, False]


def test_few_things_are_made_durable_without_waiting_for_all_else_on_the_disk(here: Device, lab: Lab) -> None:
    arrive(here, lab.file(b"f", b"new"), lab.symlink(b"l", b"t"), lab.directory(b"d"), lab.file(b"d/g", b""))
    synced: list[tuple[str, bool]] = []
    staging = str(here.root / ".p2psync/staging")

    def sync_one(opened: int) -> None:
        path = str(Path(f"/proc/self/fd/{opened}").readlink())
        synced.append((path if not path.startswith(staging) else "staged", here.path("f").exists()))

    def never(_: int) -> None:
        raise AssertionError

    here.source.applying.sync = never
    here.source.applying.sync_one = sync_one
    assert applied(here.apply(contents(b"new")))
    root = str(here.root)
    assert sorted(synced) == [(root, True), (f"{root}/d", True), ("staged", False), ("staged", False)]
    arrive(here, lab.tombstone(b"d/g"), lab.tombstone(b"d"))
    assert applied(here.apply({}))


def test_recent_fingerprints_do_not_pile_up(here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from p2psyncd.sources.folder import apply as apply_module  # noqa: PLC0415

    monkeypatch.setattr(apply_module, "RECENT_MAX", 3)
    for number in range(10):
        arrive(here, lab.file(b"%d" % number, b""))
        assert applied(here.apply({}))
    assert len(here.source.scanning.recent) <= 4


def test_what_is_set_under_one_of_two_names_has_the_other_one_looked_at(here: Device, lab: Lab) -> None:
    path = here.write("f", "content", mode=0o644)
    here.path("h").hardlink_to(path)
    here.scan()
    arrive(here, lab.file(b"f", b"content", mode=0o600))
    outcomes = by_key(here.apply({}))
    assert isinstance(outcomes[b"f"], Applied)
    assert outcomes[b"h"] == Surprised(key=b"h")
    assert here.path("h").stat().st_mode & 0o777 == 0o600


def test_what_history_shares_with_the_folder_is_copied_and_not_used_up(here: Device, lab: Lab) -> None:
    path = here.write("f", "content", mode=0o644)
    here.path("h").hardlink_to(path)
    here.scan()
    arrive(here, lab.tombstone(b"f"))
    assert applied(here.apply({}))
    arrive(here, lab.file(b"g", b"content", mode=0o600))
    assert applied(here.apply({}))
    assert here.fetched == []
    assert here.path("g").stat().st_mode & 0o777 == 0o600
    assert here.path("h").stat().st_mode & 0o777 == 0o644
    assert not here.path("g").samefile(here.path("h"))


def test_a_name_too_long_here_and_a_time_that_cannot_be_kept_are_told(
    here: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from p2psyncd.sources.folder.apply import reason_of  # noqa: PLC0415

    assert "too long" in reason_of(OSError(errno.ENAMETOOLONG, "x"))
    assert "cannot be written" in reason_of(OSError(errno.EIO, "Input/output error"))
    assert monkeypatch is not None
    assert lab is not None
    assert here is not None
