from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.core.item import Draft, Item, Kind, supersede
from p2psyncd.core.version import Dot
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.sources.folder import xattrs as module
from p2psyncd.sources.folder.attributes import Attributes, capture, decode, encode
from p2psyncd.sources.folder.beneath import Directories
from p2psyncd.sources.folder.merge import merge
from p2psyncd.sources.folder.xattrs import XATTRS_BYTES_MAX, Capacity, bounded, put_xattrs, read_xattrs
from p2psyncd.sources.source import Applied, Dirty, ItemError, Surprised
from p2psyncd.wire.records import META_BYTES_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Device, Lab

A, B = ActorId(b"actor--a"), ActorId(b"actor--b")


@pytest.fixture(autouse=True)
def _attributes_are_taken_here(tmp_path: Path) -> None:
    try:
        os.setxattr(tmp_path, "user.probe", b"")
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} takes no user attributes: {error.strerror}")
    os.removexattr(tmp_path, "user.probe")


def attributes_of(device: Device, key: str) -> dict[str, bytes]:
    """Return the user attributes of a path."""
    path = device.path(key)
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}


def same(here: Device, there: Device) -> bool:
    """Whether both hold the same, and both know it."""
    for device in (here, there):
        device.scan()
        assert not device.look()
        assert not device.storage.waiting
        assert device.staged() == []
    assert there.tree() == here.tree()
    assert [(i.key, i.dot, i.meta) for i in here.items()] == [(i.key, i.dot, i.meta) for i in there.items()]
    for key in here.tree():
        assert attributes_of(here, os.fsdecode(key)) == attributes_of(there, os.fsdecode(key))
    return True


# The metadata


def test_metadata_without_attributes_is_what_it_always_was() -> None:
    assert encode(Attributes(mode=0o644, mtime_ns=5)) == cbor2.dumps([0o644, 5, None, None, None])
    assert decode(cbor2.dumps([0o644, 5, None, None, None])).xattrs == ()


@pytest.mark.parametrize(
    "packed",
    [
        None,
        {},
        b"user.a",
        [b"user.a", b"1"],
        [[b"user.a"]],
        [[b"user.a", b"1", b"2"]],
        [["user.a", b"1"]],
        [[b"user.a", "1"]],
        [[b"user.a", None]],
        [[b"user.", b"1"]],
        [[b"", b"1"]],
        [[b"security.selinux", b"1"]],
        [[b"trusted.overlay.opaque", b"y"]],
        [[b"system.posix_acl_access", b"1"]],
        [[b"USER.a", b"1"]],
        [[b"user.a\0b", b"1"]],
        [[b"user." + b"n" * 251, b"1"]],
        [[b"user.b", b"1"], [b"user.a", b"1"]],
        [[b"user.a", b"1"], [b"user.a", b"2"]],
        [[b"user.a", bytes(XATTRS_BYTES_MAX)]],
        [[b"user.%05d" % number, bytes(100)] for number in range(700)],
        [[[[[[]]]]]],
    ],
)
def test_hostile_attributes_are_the_peers_fault(packed: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(cbor2.dumps([0o644, 0, None, None, None, packed]))


@given(
    st.recursive(
        st.none() | st.binary(max_size=9) | st.just(b"user.a"), lambda one: st.lists(one, max_size=3)
    )
)
def test_whatever_a_peer_sends_as_attributes_is_refused_or_canonical(packed: object) -> None:
    try:
        decoded = decode(cbor2.dumps([0o644, 0, None, None, None, packed]))
    except RemoteProtocolError:
        return
    assert decode(encode(decoded)) == decoded


def test_the_most_attributes_fit_into_an_items_metadata() -> None:
    shortest = (len(b"user.00000"), XATTRS_BYTES_MAX // len(b"user.00000"))
    many = tuple((b"user.%05d" % number, b"") for number in range(shortest[1]))
    assert bounded(many) == many
    meta = encode(Attributes(mode=0o644, mtime_ns=2**62, content=Dot(A, 1), chosen=Dot(B, 2), xattrs=many))
    assert len(meta) <= META_BYTES_MAX
    assert decode(meta).xattrs == many


def test_what_does_not_fit_is_left_out_and_the_rest_is_not() -> None:
    big = (b"user.b", bytes(XATTRS_BYTES_MAX))
    assert bounded(((b"user.a", b"1"), big, (b"user.c", b"2"))) == ((b"user.a", b"1"), (b"user.c", b"2"))


# Merging


def version(dot: Dot, base: Item | None, *, digest: bytes = b"D" * 32, **fields: object) -> Item:
    seen = Attributes(**{"mode": 0o644, "mtime_ns": 5, **fields})  # type: ignore[arg-type]  # the fields are the caller's
    meta = capture(Kind.FILE, digest, seen, base, base)
    draft = Draft(key=b"f", kind=Kind.FILE, digest=digest, meta=meta)
    return supersede(draft, dot, dot.seq, *([base] if base else []))


BASE = version(Dot(A, 1), None)


@pytest.mark.parametrize("attributes_last", [True, False])
def test_new_attributes_join_an_edit(attributes_last: bool) -> None:
    edited = version(Dot(A, 10), BASE, digest=b"E" * 32, mtime_ns=9)
    labelled = version(Dot(B, 11 if attributes_last else 9), BASE, xattrs=((b"user.a", b"1"),))
    for one in (merge(edited, labelled), merge(labelled, edited)):
        assert one.aside is None
        assert one.rewrite is not None
        assert one.rewrite.digest == edited.digest
        combined = decode(one.rewrite.meta)
        assert (combined.xattrs, combined.mtime_ns) == (((b"user.a", b"1"),), 9)
        assert (combined.content, combined.chosen) == (edited.dot, labelled.dot)


def test_the_later_of_a_chmod_and_new_attributes_wins_with_both() -> None:
    chmod = version(Dot(A, 10), BASE, mode=0o755)
    labelled = version(Dot(B, 11), BASE, xattrs=((b"user.a", b"1"),))
    assert merge(labelled, chmod).winner is not merge(chmod, labelled).winner
    assert merge(labelled, chmod).rewrite is None
    assert merge(labelled, chmod).aside is None


def test_attributes_survive_a_later_touch_of_the_other_side() -> None:
    labelled = version(Dot(A, 10), BASE, xattrs=((b"user.a", b"1"),))
    touched = version(Dot(B, 11), BASE, mtime_ns=99)
    rewrite = merge(labelled, touched).rewrite
    assert rewrite is not None
    assert decode(rewrite.meta).xattrs == ((b"user.a", b"1"),)
    assert decode(rewrite.meta).mtime_ns == 99


def test_a_conflict_copy_keeps_its_attributes() -> None:
    one = version(Dot(A, 10), BASE, digest=b"1" * 32, xattrs=((b"user.a", b"1"),))
    other = version(Dot(B, 11), BASE, digest=b"2" * 32)
    aside = merge(one, other).aside
    assert aside is not None
    assert decode(aside.meta).xattrs == ((b"user.a", b"1"),)


def test_what_a_crash_left_half_applied_is_not_the_users_choice() -> None:
    applied = version(Dot(A, 10), BASE, xattrs=((b"user.a", b"1"), (b"user.b", b"1")))
    newest = version(Dot(B, 11), applied, xattrs=((b"user.a", b"2"), (b"user.c", b"2")))
    half = Attributes(mode=0o644, mtime_ns=5, xattrs=((b"user.a", b"2"), (b"user.b", b"1")))
    assert capture(Kind.FILE, applied.digest, half, applied, newest) == applied.meta
    edited = Attributes(mode=0o644, mtime_ns=5, xattrs=((b"user.a", b"3"), (b"user.b", b"1")))
    assert decode(capture(Kind.FILE, applied.digest, edited, applied, newest)).xattrs == edited.xattrs


# On disk


def test_attributes_of_files_and_directories_arrive(here: Device, there: Device, lab: Lab) -> None:
    os.setxattr(here.write("d/f", "content", mode=0o444), "user.comment", b"\0 binary \xff")
    os.setxattr(here.path("d"), "user.project", b"x")
    os.setxattr(here.write("d/empty", ""), b"user.odd \xff name", b"")
    lab.sync(here, there)
    assert same(here, there)
    assert attributes_of(there, "d/f") == {"user.comment": b"\0 binary \xff"}
    assert attributes_of(there, "d") == {"user.project": b"x"}
    assert attributes_of(there, "d/empty") == {"user.odd \udcff name": b""}


def test_a_change_and_a_removal_alone_arrive(here: Device, there: Device, lab: Lab) -> None:
    for path in (here.write("d/f", "content", mode=0o400), here.path("d")):
        os.setxattr(path, "user.a", b"1")
        os.setxattr(path, "user.b", b"1")
    lab.sync(here, there)
    inode = there.path("d/f").stat().st_ino
    for path in (here.path("d/f"), here.path("d")):
        os.setxattr(path, "user.a", b"2")
        os.removexattr(path, "user.b")
        os.setxattr(path, "user.c", b"3")
    lab.sync(here, there)
    assert same(here, there)
    assert attributes_of(there, "d/f") == attributes_of(there, "d") == {"user.a": b"2", "user.c": b"3"}
    assert there.path("d/f").stat().st_ino == inode
    assert there.path("d/f").stat().st_mode & 0o777 == 0o400


def test_an_edit_removes_the_attributes_that_the_new_version_does_not_have(
    here: Device, there: Device, lab: Lab
) -> None:
    os.setxattr(here.write("f", "first"), "user.a", b"1")
    lab.sync(here, there)
    here.path("f").unlink()
    here.write("f", "second")
    lab.sync(here, there)
    assert same(here, there)
    assert attributes_of(there, "f") == {}


def test_what_is_moved_takes_the_attributes_of_its_new_version(here: Device, there: Device, lab: Lab) -> None:
    os.setxattr(here.write("old", "content" * 100), "user.a", b"1")
    os.setxattr(here.path("old"), "user.b", b"1")
    lab.sync(here, there)
    moved = here.path("old").rename(here.path("new"))
    os.removexattr(moved, "user.a")
    os.setxattr(moved, "user.b", b"2")
    lab.sync(here, there)
    assert same(here, there)
    assert attributes_of(there, "new") == {"user.b": b"2"}


def test_a_look_at_a_key_finds_a_directorys_attributes(here: Device) -> None:
    here.path("d").mkdir()
    here.scan()
    os.setxattr(here.path("d"), "user.a", b"1")
    assert [one.draft.key for one in here.scan(Dirty(keys=frozenset({b"d"})))] == [b"d"]
    assert not here.look()


def test_chmod_here_and_attributes_and_an_edit_there_are_joined(
    here: Device, there: Device, lab: Lab
) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    here.write("f", "edited")
    here.scan()
    os.setxattr(there.path("f"), "user.a", b"1")
    there.path("f").chmod(0o755)
    lab.sync(here, there)
    assert same(here, there)
    assert list(here.tree()) == [b"f"]
    assert here.read("f") == b"edited"
    assert attributes_of(here, "f") == {"user.a": b"1"}
    assert here.path("f").stat().st_mode & 0o777 == 0o755


def test_both_sides_of_a_conflict_keep_their_attributes(here: Device, there: Device, lab: Lab) -> None:
    here.write("f", "base")
    lab.sync(here, there)
    for device, value in ((here, b"here"), (there, b"there")):
        os.setxattr(device.write("f", value), "user.from", value)
    lab.sync(here, there)
    assert same(here, there)
    assert len(here.tree()) == 2
    for key in here.tree():
        assert attributes_of(here, os.fsdecode(key)) == {"user.from": here.read(key)}


def test_a_directory_whose_attributes_were_changed_here_is_a_surprise(
    here: Device, there: Device, lab: Lab
) -> None:
    here.path("d").mkdir()
    lab.sync(here, there)
    os.setxattr(here.path("d"), "user.a", b"1")
    here.scan()
    there.receive(here.items())
    os.setxattr(there.path("d"), "user.a", b"mine")
    assert [type(outcome) for outcome in there.apply(here.contents())] == [Surprised]
    assert attributes_of(there, "d") == {"user.a": b"mine"}


def test_too_many_attributes_are_left_out_and_reported(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "XATTRS_BYTES_MAX", 100)
    path = here.write("f")
    os.setxattr(path, "user.a", b"small")
    os.setxattr(path, "user.b", bytes(200))
    found = here.look()
    assert [one.key for one in found if isinstance(one, ItemError)] == [b"f"]
    here.scan()
    assert decode(here.storage.items[b"f"].item.meta).xattrs == ((b"user.a", b"small"),)
    assert not here.look()


def test_restored_from_history_it_has_its_attributes(here: Device, there: Device, lab: Lab) -> None:
    os.setxattr(here.write("f", "first"), "user.a", b"1")
    lab.sync(here, there)
    there.path("f").unlink()
    there.write("f", "second")
    lab.sync(here, there)
    assert attributes_of(here, "f") == {}
    (old,) = here.source.history.list(b"f")
    here.source.history.restore(b"f", old.version)
    assert attributes_of(here, "f") == {"user.a": b"1"}


# File systems that refuse


class Refusing:
    """`os`, but for the attributes of what lies below one folder: all fail, or those of more than so many bytes."""

    def __init__(self, root: Path, code: int, most: int) -> None:
        self.root = os.fsencode(root)
        self.code = code
        self.most = most

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def check(self, target: int | bytes, size: int) -> None:
        path = b"/proc/self/fd/%d" % target if isinstance(target, int) else target
        if os.path.realpath(path).startswith(self.root) and size > self.most:
            raise OSError(self.code, os.strerror(self.code))

    def listxattr(self, target: int | bytes, *, follow_symlinks: bool) -> list[str]:
        if self.code == errno.EOPNOTSUPP:
            self.check(target, 0)
        return os.listxattr(target, follow_symlinks=follow_symlinks)

    def setxattr(
        self, target: int | bytes, name: bytes, value: bytes, *, follow_symlinks: bool = True
    ) -> None:
        self.check(target, len(value))
        os.setxattr(target, name, value, follow_symlinks=follow_symlinks)


@pytest.mark.parametrize("refusal", [(errno.EOPNOTSUPP, -1), (errno.EPERM, -1), (errno.ENOSPC, 2000)])
def test_what_a_file_system_refuses_is_no_removal(
    here: Device, there: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch, refusal: tuple[int, int]
) -> None:
    code, most = refusal
    for path in (here.write("d/f", "content"), here.path("d")):
        os.setxattr(path, "user.a", bytes(1000))
        os.setxattr(path, "user.big", bytes(2500))
    monkeypatch.setattr(module, "os", Refusing(there.root, code, most))
    lab.sync(here, there)
    left = {"user.a": bytes(1000)} if most > 0 else {}
    assert attributes_of(there, "d/f") == attributes_of(there, "d") == left
    there.restart()
    assert not there.look()
    # An edit there passes on what this device could not hold.
    there.write("d/f", "edited there")
    there.path("d/new").mkdir()
    lab.sync(here, there)
    assert here.read("d/f") == b"edited there"
    for key in ("d/f", "d"):
        assert attributes_of(here, key) == {"user.a": bytes(1000), "user.big": bytes(2500)}
    # A new value arrives as little, and is not undone by the old one.
    os.setxattr(here.path("d/f"), "user.big", bytes(2600))
    os.removexattr(here.path("d/f"), "user.a")
    lab.sync(here, there)
    there.scan()
    lab.sync(here, there)
    assert attributes_of(here, "d/f") == {"user.big": bytes(2600)}
    assert attributes_of(there, "d/f") == {}
    assert not there.storage.waiting


def test_a_full_disk_is_no_refusal(
    here: Device, there: Device, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.setxattr(here.write("f", "content"), "user.a", b"1")
    refusing = Refusing(there.root, errno.ENOSPC, -1)
    monkeypatch.setattr(module, "os", refusing)
    monkeypatch.setattr(module, "is_full", lambda _target: True)
    lab.sync(here, there)
    assert b"f" in there.storage.waiting
    refusing.most = 10
    lab.sync(here, there)
    monkeypatch.undo()
    assert same(here, there)


def test_the_probe_leaves_nothing_behind_and_asks_once(here: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = ((b"user.a", b"1"), (b"user.b", b"2"))
    with Directories(here.root) as directories:
        capacity = Capacity(directories)
        assert capacity.carried(recorded, recorded[:1]) == recorded[:1]
        monkeypatch.setattr(capacity, "probe", None)
        assert capacity.carried(recorded, ()) == ()
        assert capacity.carried((), recorded) == recorded
    assert here.staged() == []


def test_setting_them_again_changes_only_what_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    os.setxattr(path, "user.kept", b"1")
    os.setxattr(path, "user.dropped", b"1")
    target = os.fsencode(path)
    wanted = ((b"user.new", b"2"),)
    assert put_xattrs(target, wanted, [b"user.dropped", b"user.never"]) == wanted
    assert read_xattrs(target) == ((b"user.kept", b"1"), (b"user.new", b"2"))


def test_an_applied_directorys_state_is_what_a_scan_finds(here: Device, there: Device, lab: Lab) -> None:
    here.path("d").mkdir()
    os.setxattr(here.path("d"), "user.a", b"1")
    here.scan()
    there.receive(here.items())
    (outcome,) = there.apply(here.contents())
    assert isinstance(outcome, Applied)
    assert not there.look()
