"""Scenarios A21 to A33, A38 to A40 and some more: names and kinds of files, and disks that refuse."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from group import ORDERS, Group, contents, put

from p2psyncd.daemon.replica import Phase

MEGABYTE = 1024 * 1024
TERABYTE = 10**12
READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("CREATE TABLE t (a)")
print("ready", flush=True)
for line in sys.stdin:
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (?)", (line.strip(),))
    connection.execute("INSERT INTO t VALUES (?)", (line.strip(),))
    connection.execute("COMMIT")
    print("done", flush=True)
"""


async def test_a21_a_rename_that_changes_only_case_is_a_rename(pair: Group) -> None:
    here, _ = await pair.begin(readme_txt="text" * 100)
    (here / "readme.txt").rename(here / "README.txt")
    await pair.noted(0)
    assert await pair.same() == {"README.txt": "text" * 100}
    assert pair.travelled() == (0, 0)


async def test_a23_two_spellings_of_one_letter_are_two_files(pair: Group) -> None:
    here, _ = await pair.begin()
    names = [unicodedata.normalize(form, "Grüße.txt") for form in ("NFC", "NFD")]
    for name in names:
        put(here / name, f"{len(name)} letters")
    await pair.noted(0)
    assert await pair.same() == {name: f"{len(name)} letters" for name in names}


async def test_a24_a_name_that_is_not_utf8_goes_there_and_back(pair: Group) -> None:
    here, there = await pair.begin()
    name = os.fsdecode(b"\xff\xfe caf\xe9.txt")
    put(here / name, "one")
    await pair.noted(0)
    assert await pair.same() == {name: "one"}
    put(there / name, "two, from there")
    await pair.noted(1)
    assert await pair.same() == {name: "two, from there"}


@ORDERS
async def test_a25_a_name_of_255_bytes_works_and_so_does_its_conflict_copy(pair: Group, first: int) -> None:
    here, there = await pair.begin()
    name = "ü" * 125 + "x.txt"
    assert len(os.fsencode(name)) == 255
    put(here / name, "one")
    await pair.noted(0)
    assert await pair.same() == {name: "one"}
    await pair.part()
    for number in (first, 1 - first):
        put((here, there)[number] / name, f"from {number}")
        await pair.noted(number)
    await pair.meet()
    found = await pair.same(conflicts=1)
    assert sorted(text for text in found.values() if text) == ["from 0", "from 1"]
    assert found[name] == f"from {1 - first}"
    assert max(len(os.fsencode(one)) for one in found) <= 255


async def test_a26_newlines_and_escape_sequences_in_names_are_synced(pair: Group) -> None:
    here, _ = await pair.begin()
    names = ["two\nlines", "\x1b[31mred\x1b[0m", "tab\tand\rreturn", "-rf", " space "]
    for name in names:
        put(here / name, repr(name))
    await pair.noted(0)
    assert await pair.same() == {name: repr(name) for name in names}


async def test_a27_a_dangling_symlink_arrives_as_a_link(pair: Group) -> None:
    here, there = await pair.begin()
    (here / "link").symlink_to("nowhere/at/all")
    await pair.noted(0)
    assert await pair.same() == {"link": "→ nowhere/at/all"}
    assert (there / "link").is_symlink()


async def test_a28_a_symlink_to_outside_is_a_link_and_nothing_is_followed(
    pair: Group, tmp_path: Path
) -> None:
    here, there = await pair.begin()
    (tmp_path / "secret.txt").write_text("not shared")
    (here / "out").symlink_to(tmp_path)
    (here / "file").symlink_to(tmp_path / "secret.txt")
    await pair.noted(0)
    assert await pair.same() == {"out": f"→ {tmp_path}", "file": f"→ {tmp_path}/secret.txt"}
    # Deleting the link on the other side leaves what it pointed to alone.
    (there / "out").unlink()
    await pair.noted(1)
    assert list(await pair.same()) == ["file"]
    assert (tmp_path / "secret.txt").read_text() == "not shared"


async def test_a30_a_loop_of_symlinks_ends_the_scan_like_any_other(pair: Group) -> None:
    here, _ = await pair.begin()
    (here / "d").mkdir()
    (here / "d" / "up").symlink_to("..")
    (here / "self").symlink_to("self")
    put(here / "z.txt", "after them")
    await pair.noted(0)
    assert await pair.same() == {"d": None, "d/up": "→ ..", "self": "→ self", "z.txt": "after them"}


async def test_a31_what_is_no_file_is_passed_over_and_reported_once(pair: Group) -> None:
    here, there = await pair.begin()
    os.mkfifo(here / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(here / "socket"))
        put(here / "file.txt", "a file")
        await pair.noted(0)
        await pair.noted(0)
        await pair.settle()
        assert contents(there) == {"file.txt": "a file"}
        errors = {one["item"]: one["error"] for one in (await pair.row(0))["errors"]}
        assert errors == {"fifo": "a FIFO is not synced", "socket": "a socket is not synced"}
        assert len((await pair.row(0))["errors"]) == 2


async def test_a32_both_names_of_a_hard_linked_file_have_the_right_content(pair: Group) -> None:
    here, there = await pair.begin(one_txt="first")
    (here / "two.txt").hardlink_to(here / "one.txt")
    await pair.noted(0)
    assert await pair.same() == {"one.txt": "first", "two.txt": "first"}
    # In place, through one name: it is the other one's content as well.
    with (here / "one.txt").open("a") as file:
        file.write(", then more")
    await pair.noted(0)
    assert await pair.same() == {"one.txt": "first, then more", "two.txt": "first, then more"}
    # A change there replaces one name here; the other keeps its content.
    put(there / "two.txt", "only this")
    await pair.noted(1)
    assert await pair.same() == {"one.txt": "first, then more", "two.txt": "only this"}


async def test_a33_a_sparse_file_of_a_terabyte_stays_sparse(pair: Group) -> None:
    here, there = await pair.begin()
    size = make_sparse(here / "disk.img", TERABYTE)
    middle = size // 2 + 12_345
    write_at(here / "disk.img", middle, random.Random(33).randbytes(MEGABYTE))
    await pair.noted(0)
    await pair.settle()
    # Counted by who fetched: the list of what the file is made of, and what of it is no hole.
    items, travelled = pair.travelled()
    assert items == 1
    assert MEGABYTE <= sent(pair) <= travelled < 3 * MEGABYTE
    await sparse_and_equal(pair, size, at=middle, data=random.Random(33).randbytes(MEGABYTE))
    # Another megabyte, somewhere else: only that travels, and only once.
    pair.count()
    before, elsewhere = sent(pair), size // 3
    write_at(there / "disk.img", elsewhere, random.Random(34).randbytes(MEGABYTE))
    await pair.noted(1)
    await pair.settle()
    items, travelled = pair.travelled()
    assert items == 1
    assert MEGABYTE <= sent(pair) - before <= travelled < 3 * MEGABYTE
    await sparse_and_equal(pair, size, at=middle, data=random.Random(33).randbytes(MEGABYTE))
    await sparse_and_equal(pair, size, at=elsewhere, data=random.Random(34).randbytes(MEGABYTE))


async def test_a33_a_small_sparse_file_stays_sparse(pair: Group) -> None:
    size = 64 * MEGABYTE
    here, there = await pair.begin()
    with (here / "disk.img").open("wb") as file:
        file.write(b"head" * 1024)
        file.truncate(size)
    await pair.noted(0)
    await pair.settle()
    status = (there / "disk.img").stat()
    assert status.st_size == size
    assert status.st_blocks * 512 <= 2 * MEGABYTE
    assert (await pair.daemons[1].backend.verify(pair.name))["problems"] == []


def make_sparse(path: Path, size: int) -> int:
    """Make a file of holes, as large as asked for or as the file system takes; return its size."""
    with path.open("wb") as file:
        while size > MEGABYTE:
            try:
                file.truncate(size)
            except OSError as error:
                sys.stderr.write(f"a33: this file system takes no file of {size} bytes ({error.strerror})\n")
                size //= 2
            else:
                break
    if path.stat().st_blocks:
        pytest.skip("a33: this file system makes no holes")
    return size


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Write inside a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def sent(pair: Group) -> int:
    """Return how many content bytes both devices have given away since they were started."""
    return sum(daemon.running(pair.name).sent.size for daemon in pair.daemons)


async def sparse_and_equal(pair: Group, size: int, *, at: int, data: bytes) -> None:
    """Check one file on both devices: what it takes on the disk, some bytes, digests, and what verifying says."""
    items = [
        await pair.daemons[n].running(pair.name).replica.query(lambda s: s.get(b"disk.img")) for n in (0, 1)
    ]
    assert items[0].item.digest == items[1].item.digest
    for number, folder in enumerate(pair.folders):
        status = (folder / "disk.img").stat()
        assert status.st_size == size
        assert status.st_blocks * 512 <= 8 * MEGABYTE
        with (folder / "disk.img").open("rb") as file:
            file.seek(at)
            assert file.read(len(data)) == data
        assert (await pair.daemons[number].backend.verify(pair.name))["problems"] == []


async def test_a44_an_edit_that_keeps_size_and_mtime_is_found(pair: Group) -> None:
    here, _ = await pair.begin(a_txt="old")
    times = (here / "a.txt").stat()
    (here / "a.txt").write_text("new")
    os.utime(here / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
    await pair.noted(0)
    assert await pair.same() == {"a.txt": "new"}


async def test_a56_what_becomes_ignored_or_not_is_deleted_on_no_device(pair: Group) -> None:
    here, there = await pair.begin(a_log="kept", b_txt="text")
    put(here / ".p2psyncignore", "*.log\n")
    await pair.noted(0)
    await pair.settle()
    assert (here / "a.log").read_text() == (there / "a.log").read_text() == "kept"
    put(here / "a.log", "changed while ignored")
    await pair.noted(0)
    await pair.settle()
    assert (there / "a.log").read_text() == "kept"
    put(here / ".p2psyncignore", "")
    await pair.noted(0)
    await pair.settle()
    await pair.noted(1)
    await pair.settle()
    texts = [text for root in (here, there) for name, text in contents(root).items() if "log" in name]
    assert "changed while ignored" in texts
    assert (here / "a.log").exists()
    assert (there / "a.log").exists()


async def test_a60_a_log_that_grows_costs_what_was_appended(pair: Group) -> None:
    here, there = await pair.begin()
    with (here / "app.log").open("wb") as file:
        file.write(os.urandom(8 * 1024 * 1024))
    await pair.noted(0)
    await pair.settle()
    sent = pair.daemons[0].running("f").sent
    before = sent.size
    with (here / "app.log").open("ab") as file:
        file.write(os.urandom(10_000))
    await pair.noted(0)
    await pair.settle()
    assert (there / "app.log").read_bytes() == (here / "app.log").read_bytes()
    # The last chunk is cut anew: at most 256 KiB, and what was appended.
    assert sent.size - before <= 2 * 256 * 1024 + 10_000


async def test_a61_a_database_in_use_gives_consistent_snapshots_only(pair: Group) -> None:
    here, there = await pair.begin()
    program = subprocess.Popen(  # noqa: ASYNC220  (it only starts it)
        [sys.executable, "-c", READER, here / "app.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "ready\n"
        for number in range(20):
            program.stdin.write(f"row {number}\n")
            program.stdin.flush()
            assert program.stdout.readline() == "done\n"
            if number % 5 == 0:
                await pair.noted(0)
                await pair.settle()
                assert_consistent(there / "app.db")
        await pair.noted(0)
        await pair.settle()
        assert sorted(contents_of(there)) == ["app.db"]
        assert len(assert_consistent(there / "app.db")) == 40
    finally:
        program.communicate()
    await pair.noted(0)
    await pair.settle()
    assert len(assert_consistent(there / "app.db")) == 40
    assert sorted(contents_of(here)) == sorted(contents_of(there)) == ["app.db"]


def contents_of(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name != ".p2psync"]


def assert_consistent(path: Path) -> list[str]:
    """Return the rows of a database that nobody has open: whole, and every transaction whole."""
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = [row[0] for row in connection.execute("SELECT a FROM t")]
    finally:
        connection.close()
    assert all(rows.count(row) == 2 for row in rows)
    return rows


async def test_a63_a_megabyte_inserted_at_the_front_costs_about_a_megabyte(pair: Group) -> None:
    # A 32nd of the scenario's size: what travels does not depend on the rest.
    here, there = await pair.begin()
    old = os.urandom(32 * 1024 * 1024)
    (here / "big").write_bytes(old)
    await pair.noted(0)
    await pair.settle()
    sent = pair.daemons[0].running("f").sent
    before = sent.size
    (here / "big").write_bytes(os.urandom(1024 * 1024) + old)
    await pair.noted(0)
    await pair.settle()
    assert (there / "big").read_bytes() == (here / "big").read_bytes()
    assert sent.size - before < 2 * 1024 * 1024


async def test_a64_files_equal_before_the_first_meeting_do_not_travel(pair: Group) -> None:
    # A hundredth of the scenario's number.
    for daemon in pair.daemons:
        folder = daemon.make("f")
        for number in range(1000):
            path = folder / f"{number}.txt"
            path.write_text(f"the same on both, {number}")
            os.utime(path, ns=(10**18, 10**18))
    await pair.begin()
    assert len(await pair.same()) == 1000
    assert [pair.fetched(daemon) for daemon in pair.daemons] == [(0, 0), (0, 0)]
    assert pair.daemons[0].running("f").replica.phase is Phase.READY
