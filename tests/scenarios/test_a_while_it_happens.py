"""Scenarios A41 to A45: files edited at the worst moment, edits that hide, and clocks that are wrong."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from daemons import Daemon, Lab, connect
from group import Group, put, texts

from p2psyncd.sources.folder import content as reading
from p2psyncd.sources.folder.fingerprint import fingerprint

# Read in several steps: above what is read at once and chunked.
LARGE_BYTES = 3_000_000
TEN_YEARS_S = 10 * 365 * 86_400.0


async def test_a41_a_file_edited_while_it_is_hashed_is_hashed_again(
    pair: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await pair.begin()
    file = here / "large"
    was, now = b"a" * LARGE_BYTES, b"b" * LARGE_BYTES
    readings: list[int] = []
    edits: list[int] = []
    original = reading.DescriptorStream.readinto

    def interrupted(stream: reading.DescriptorStream, buffer: memoryview) -> int:
        """Read, and in the middle of the first reading save the file anew, in place."""
        got = original(stream, buffer)
        if stream.offset == got:
            readings.append(got)
        elif len(readings) == 1 and got and not edits:
            edits.append(stream.offset)
            with file.open("r+b") as opened:
                opened.write(now)
        return got

    monkeypatch.setattr(reading.DescriptorStream, "readinto", interrupted)
    file.write_bytes(was)
    found = await pair.same()
    assert found == {"large": now.decode()}
    assert (there / "large").read_bytes() == now
    assert 0 < edits[0] < LARGE_BYTES
    assert len(readings) > 1
    # Nothing else was ever announced under this name: no earlier version came, so none was replaced.
    assert pair.kept(1) == []
    assert pair.travelled() == (1, LARGE_BYTES)


async def test_a42_a_file_edited_while_its_new_version_is_fetched_becomes_a_conflict(pair: Group) -> None:
    here, there = await pair.begin(note_txt="base")
    edited = EditOnce(there / "note.txt", "edited meanwhile")
    maple = pair.daemons[0].running("f")
    original = maple.held.with_digest

    def while_it_is_given(digest: bytes) -> list[object]:
        edited()
        return list(original(digest))

    maple.held = replace(maple.held, with_digest=while_it_is_given)  # type: ignore[arg-type]  # the same, and an edit
    put(here / "note.txt", "new version")
    await pair.settle()
    found = await pair.same(conflicts=1)
    assert edited.done
    assert texts(found) == ["edited meanwhile", "new version"]
    [conflict] = await pair.conflicts()
    assert conflict["item"] == "note.txt"


async def test_a43_a_file_edited_between_the_last_check_and_the_replacement_is_kept(pair: Group) -> None:
    here, there = await pair.begin(note_txt="base")
    edited = EditOnce(there / "note.txt", "edited meanwhile")

    def between(key: bytes) -> None:
        if key == b"note.txt":
            edited()

    pair.daemons[1].running("f").source.applying.between = between
    put(here / "note.txt", "new version")
    await pair.settle()
    found = await pair.same(conflicts=1)
    assert edited.done
    assert texts(found) == ["edited meanwhile", "new version"]


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_a44_an_edit_that_keeps_size_and_mtime_is_found(pair: Group, running: bool) -> None:
    here, _ = await pair.begin(note_txt="aaaa")
    maple = pair.daemons[0]
    if not running:
        await maple.stop()
    was = (here / "note.txt").stat()
    (here / "note.txt").write_text("bbbb")
    os.utime(here / "note.txt", ns=(was.st_atime_ns, was.st_mtime_ns))
    if not running:
        await maple.start()
        await pair.meet()
    assert await pair.same() == {"note.txt": "bbbb"}
    assert pair.kept(1) == ["aaaa"]


async def test_a44_what_not_even_ctime_tells_is_found_by_verify(pair: Group) -> None:
    here, _ = await pair.begin(note_txt="aaaa")
    maple = pair.daemons[0]
    running = maple.running("f")
    # A disk that rots leaves every time as it was: what is on record of the file is made to say so.
    async with running.busy, running.replica.lock:
        put(here / "note.txt", "bbbb")
        running.store.set_state([(b"note.txt", fingerprint((here / "note.txt").stat()))])
    problems = (await maple.backend.verify("f"))["problems"]
    assert [(one["share"], one["item"]) for one in problems] == [("f", "note.txt")]


@pytest.mark.parametrize("ahead_s", [TEN_YEARS_S, -TEN_YEARS_S], ids=["ahead", "behind"])
async def test_a45_a_clock_ten_years_off_loses_nothing_and_later_edits_still_win(
    lab: Lab, ahead_s: float
) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    willow.clock.ahead_s = ahead_s
    await connect(maple, willow)
    pair = Group([maple, willow])
    here, there = await pair.begin(note_txt="base")
    # Edits that know each other: the later one wins, whatever the clocks say.
    put(there / "note.txt", "by the one whose clock is off")
    assert await pair.same() == {"note.txt": "by the one whose clock is off"}
    put(here / "note.txt", "later, by the other")
    assert await pair.same() == {"note.txt": "later, by the other"}
    put(there / "note.txt", "and back")
    assert await pair.same() == {"note.txt": "and back"}
    # Edits that are really concurrent: nothing is lost, and the winner is the same everywhere.
    await pair.part()
    put(here / "note.txt", "maple's")
    put(there / "note.txt", "willow's")
    put(here / "gone.txt", "made here")
    await pair.noted()
    await pair.meet()
    found = await pair.same(conflicts=1)
    assert texts(found) == ["made here", "maple's", "willow's"]
    assert found["note.txt"] == ("willow's" if ahead_s > 0 else "maple's")
    # A delete that knows the write stands.
    (here / "gone.txt").unlink()
    found = await pair.same(conflicts=1)
    assert "gone.txt" not in found
    # The clock is set right: what is written from then on wins where it knows what it replaces.
    willow.clock.ahead_s = 0.0
    put(there / "note.txt", "after the clock was set")
    assert (await pair.same(conflicts=1))["note.txt"] == "after the clock was set"


class EditOnce:
    """Saves a file when it is first called, from whatever thread."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.done = False
        self.lock = threading.Lock()

    def __call__(self) -> None:
        with self.lock:
            if not self.done:
                self.done = True
                put(self.path, self.text)


async def test_a45_a_device_restarted_with_its_clock_set_back_goes_on_numbering_upwards(pair: Group) -> None:
    here, _ = await pair.begin(note_txt="base")
    maple: Daemon = pair.daemons[0]
    put(here / "note.txt", "first")
    await pair.settle()
    await maple.stop()
    maple.clock.ahead_s = -TEN_YEARS_S
    await maple.start()
    put(here / "note.txt", "second")
    await pair.meet()
    assert await pair.same() == {"note.txt": "second"}
