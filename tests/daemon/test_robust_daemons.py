"""What goes wrong stays where it went wrong; and the daemon seen through its control socket."""

from __future__ import annotations

import errno
import json
import random
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from daemons import WAIT_S, Daemon, Lab, connect, share, tree

from p2psyncd.daemon import applier, fetcher, mesh, peerlink, sessiontable
from p2psyncd.daemon import share as share_module
from p2psyncd.daemon import shares as shares_module
from p2psyncd.daemon.folder_share import FolderKind
from p2psyncd.daemon.replica import Phase
from p2psyncd.errors import ConfigError, StateCorrupt
from p2psyncd.net.tls import ServerContexts, server_context
from p2psyncd.sources.source import Dirty
from p2psyncd.wire.messages import Ask, Boot, Closed, Done, Hello, Removed, Summaries

LARGE = 2 * 1024 * 1024


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rests after a failure rests for a moment only."""
    monkeypatch.setattr(sessiontable, "SESSION_RETRY_S", 0.05)
    monkeypatch.setattr(share_module, "RETRY_S", 0.05)
    monkeypatch.setattr(applier, "RETRY_S", 0.05)
    monkeypatch.setattr(fetcher, "RETRY_S", 0.05)
    monkeypatch.setattr(fetcher, "STAGING_RETRY_S", 0.05)


def large_text() -> bytes:
    return random.Random(1).randbytes(LARGE)


# Large files


async def test_of_a_large_file_only_what_changed_travels(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f")
    content = large_text()
    (here / "big").write_bytes(content)
    there = await share(maple, willow)
    assert (there / "big").read_bytes() == content
    sent = maple.running("f").sent
    assert (sent.items, sent.size) == (1, LARGE)
    changed = content[: LARGE // 2] + b"a few other bytes" + content[LARGE // 2 :]
    (here / "big").write_bytes(changed)
    await maple.wait()
    assert (there / "big").read_bytes() == changed
    assert 0 < sent.size - LARGE < LARGE // 4


async def test_a_fetch_that_is_cut_off_is_taken_up_again(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    maple, willow = two
    here = maple.make("f")
    there = await share(maple, willow)
    begun = trio.Event()
    through = fetcher.Fetcher.fetch_blocking

    def stuck(self: fetcher.Fetcher, sock: Any, *rest: Any) -> list[bytes]:
        trio.from_thread.run_sync(begun.set)
        sock.recv(1)  # nothing comes before the connection ends
        return through(self, sock, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(fetcher.Fetcher, "fetch_blocking", stuck)
        (here / "big").write_bytes(large_text())
        (here / "small").write_text("x")
        await begun.wait()
    state = willow.peer(maple)
    assert state is not None
    assert state.link is not None
    state.link.close()
    await willow.until(lambda: (there / "big").exists() and (there / "small").exists(), "both files")
    await willow.wait()
    assert (there / "big").read_bytes() == large_text()


async def test_a_broken_content_connection_ends_nothing_else(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    maple, willow = two
    here = maple.make("f", a_txt="one")
    there = await share(maple, willow)
    failures = [ConnectionResetError("cut"), StateCorrupt("share.db")]
    through = fetcher.serve_waiting

    def cut(*given: Any) -> bool:
        if failures:
            raise failures.pop()
        return through(*given)

    monkeypatch.setattr(fetcher, "serve_waiting", cut)
    for number in range(3):
        (here / f"n{number}.txt").write_text(str(number))
        await maple.wait()
    assert not failures
    assert len(tree(there)) == 4
    kinds = [event["type"] for event in await willow.backend.events(since=0, limit=50)]
    assert kinds.count("disconnected") == 0


async def test_a_full_disk_is_told_and_fetching_goes_on_when_there_is_room(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    maple, willow = two
    here = maple.make("f")
    there = await share(maple, willow)
    staging = willow.running("f").source.staging

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(staging, "put_content", full)
        (here / "a.txt").write_text("one")
        await willow.until(lambda: bool(willow.running("f").applier.failures), "the failure")
        [row] = await willow.backend.share_list()
        assert row["errors"] == [{"item": "a.txt", "error": "No space left on device"}]
    await willow.until(lambda: tree(there) == {"a.txt": "one"}, "the file")

    running = willow.running("f")
    with monkeypatch.context() as patch:
        patch.setattr(running.source, "free_bytes", lambda: (1000, 10**12))
        (here / "b.txt").write_text("two")
        await willow.until(lambda: b"b.txt" in running.applier.failures, "the failure")
        assert "nearly full" in running.applier.failures[b"b.txt"]
    await willow.until(lambda: "b.txt" in tree(there), "the second file")
    await willow.wait()
    assert (await willow.backend.share_list())[0]["errors"] == []


async def test_content_for_a_peer_that_removed_us_is_refused_without_harm(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    maple, willow = two
    here = maple.make("f")
    await share(maple, willow)
    # Both ends try: whoever dialled the link dials for content, and is refused.
    # Of the listeners, which asked for whom to trust when they began: what the mesh says later is not asked again.
    dialled = trio.Event()

    def trust_nobody(contexts: ServerContexts) -> ssl.SSLContext:
        dialled.set()
        return server_context(contexts.identity, ())

    monkeypatch.setattr(ServerContexts, "now", trust_nobody)
    (here / "a.txt").write_text("x")
    (willow.folder / "f" / "b.txt").write_text("y")
    await maple.until(lambda: maple.running("f").replica.totals.pending_items > 0, "b is known")
    await willow.until(lambda: willow.running("f").replica.totals.pending_items > 0, "a is known")
    with trio.fail_after(WAIT_S):
        await dialled.wait()
    monkeypatch.undo()
    await maple.wait()


# Sessions


async def test_an_error_in_one_session_ends_only_that_and_it_is_tried_again(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    maple, willow = two
    for name in ("f", "g"):
        maple.make(name)
        await share(maple, willow, name)
    link = willow.peer(maple).link  # type: ignore[union-attr]
    replica = willow.running("f").replica
    failures: list[Exception] = [OSError(errno.EIO, "the disk"), StateCorrupt("f.db")]
    through = replica.receive

    async def fail(*given: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await through(*given, **more)

    monkeypatch.setattr(replica, "receive", fail)
    (maple.folder / "f" / "a.txt").write_text("one")
    (maple.folder / "g" / "b.txt").write_text("two")
    await willow.until(lambda: tree(willow.folder / "g") == {"b.txt": "two"}, "the other share")
    await willow.until(lambda: tree(willow.folder / "f") == {"a.txt": "one"}, "the file")
    await willow.wait()
    assert willow.peer(maple).link is link  # type: ignore[union-attr]
    assert link is not None
    assert link.failures == {}
    events = [e for e in await willow.backend.events(since=0, limit=50) if e["type"] == "session_failed"]
    assert [(event["share"], event["device"]) for event in events] == [("f", "maple")] * 2


async def test_a_share_that_fails_again_and_again_is_told_of_once(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    maple, _willow = two
    rounds: list[Phase] = []
    third = trio.Event()

    async def fail(self: applier.Applier) -> None:
        while self.replica.phase is not Phase.READY:
            await self.replica.signal.event.wait()
        rounds.append(self.replica.phase)
        if len(rounds) == 3:
            third.set()
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(applier.Applier, "run", fail)
    await maple.backend.share_add(
        str(maple.make("f")), name=None, kind=None, mode="send-receive", with_devices=[]
    )
    with trio.fail_after(WAIT_S):
        await third.wait()
    told = await maple.event("share_error")
    assert "the disk" in told["message"]
    events = await maple.backend.events(since=0, limit=99)
    assert [e["type"] for e in events if e["type"].startswith("share_")] == ["share_added", "share_error"]


async def test_a_message_out_of_place_ends_only_its_session(
    two: tuple[Daemon, Daemon], impatient: None
) -> None:
    maple, willow = two
    maple.make("f", a_txt="one")
    there = await share(maple, willow)
    link = maple.peer(willow).link  # type: ignore[union-attr]
    assert link is not None
    link.post(Summaries(share=maple.running("f").record.id, body=[]))
    event = await willow.event("session_failed")
    assert "not allowed" in event["message"]
    (maple.folder / "f" / "b.txt").write_text("two")
    await willow.until(lambda: len(tree(there)) == 2, "the second file")
    assert maple.peer(willow).link is link  # type: ignore[union-attr]


async def test_hellos_for_shares_that_do_not_exist_take_no_memory(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    link = maple.peer(willow).link  # type: ignore[union-attr]
    theirs = willow.peer(maple).link  # type: ignore[union-attr]
    assert link is not None
    assert theirs is not None
    for number in range(300):
        link.post(
            Hello(
                share=number.to_bytes(16, "big"),  # type: ignore[arg-type]
                actor=b"a" * 8,  # type: ignore[arg-type]
                knowledge_hash=b"h" * 16,
                knowledge=b"",
                root=b"r" * 32,
                need_items=0,
                need_size=0,
                boot=Boot(number=1, nonce=b"n" * 8),
            )
        )
        link.post(Closed(share=number.to_bytes(16, "big"), reason=""))  # type: ignore[arg-type]
    link.post(Ask(share=(1).to_bytes(16, "big"), prefixes=(b"",), full=False))  # type: ignore[arg-type]
    await link.drained()
    maple.make("f", a_txt="x")
    await share(maple, willow)
    assert theirs.sessions.early == {}
    assert len(theirs.sessions.closings_seen) <= 1


async def test_a_reader_that_waits_for_its_session_is_not_taken_for_a_silent_peer(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    maple, willow = two
    maple.make("f")
    await share(maple, willow)
    link = willow.peer(maple).link  # type: ignore[union-attr]
    theirs = maple.peer(willow).link  # type: ignore[union-attr]
    assert link is not None
    assert theirs is not None
    running = willow.running("f")
    async with running.replica.lock:
        # More than the session's inbox holds: the reader stands still.
        (maple.folder / "f" / "a.txt").write_text("x")
        while not link.sessions.handing_over:
            standing = maple.running("f").replica.standing
            theirs.post(
                Done(
                    share=running.record.id,
                    knowledge=b"",
                    root=standing.root,
                    need_items=0,
                    need_size=0,
                )
            )
            await trio.lowlevel.checkpoint()
        link.heard_s -= 10 * peerlink.SILENT_S
        monkeypatch.setattr(peerlink, "PING_S", 0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.keep_alive)
            while link.queued == 0 and not link.scope.cancel_called:
                await link.queue_signal.event.wait()
            nursery.cancel_scope.cancel()
        assert not link.scope.cancel_called


# One share's trouble


async def test_a_share_whose_applier_fails_says_so_and_comes_back(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    maple, willow = two
    here = maple.make("f")
    there = await share(maple, willow)
    replica = willow.running("f").replica
    seen: list[str] = []

    def fail(*_: Any) -> None:
        seen.append("once")
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(replica, "apply_now", fail)
        (here / "a.txt").write_text("one")
        await willow.until(lambda: replica.phase is Phase.ERROR, "the error")
        assert "Input/output error" in replica.reason
    assert seen
    await willow.until(lambda: tree(there) == {"a.txt": "one"}, "the file")


async def test_a_share_that_the_applier_holds_ends_its_sessions(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    here = maple.make("f")
    there = await share(maple, willow)
    marker = there / ".p2psync" / "share"
    text = marker.read_text()
    marker.unlink()
    (here / "a.txt").write_text("one")
    await willow.until(lambda: willow.running("f").replica.phase is Phase.HELD, "held")
    await willow.until(lambda: not willow.peer(maple).link.drivers, "no session")  # type: ignore[union-attr]
    marker.write_text(text)
    await willow.backend.share_rescan("f")
    await willow.wait()
    assert tree(there) == {"a.txt": "one"}


async def test_two_that_dial_each_other_at_once_keep_one_connection(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    maple, willow = two
    monkeypatch.setattr(mesh, "COURTESY_S", 0.0)
    for daemon in two:
        for state in daemon.supervisor.mesh.peers.values():
            state.link.close()
    await maple.until(lambda: maple.connected_to(willow), "connected")
    await willow.until(lambda: willow.connected_to(maple), "connected")
    maple.make("f", a_txt="x")
    await share(maple, willow)


async def test_a_peer_that_says_it_removed_us_is_believed(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    link = maple.peer(willow).link  # type: ignore[union-attr]
    assert link is not None
    link.post(Removed())
    await willow.until(lambda: bool(willow.supervisor.mesh.peers), "still listed")
    event = await willow.event("trouble")
    assert "has removed this device" in event["message"]


# The daemon itself


async def ask(daemon: Daemon, request: str) -> Any:
    """Return the JSON that the control socket answers."""
    stream = await trio.open_unix_socket(str(daemon.places.socket_path))
    async with stream:
        await stream.send_all(
            f"GET {request} HTTP/1.1\r\nHost: p2psyncd\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join([part async for part in stream])
    return answer.partition(b"\r\n\r\n")[2].decode()


async def test_the_control_socket_tells_what_the_backend_knows(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    maple.make("f", a_txt="12345")
    await share(maple, willow)
    status = json.loads(await ask(maple, "/v1/status"))
    assert status["device"]["name"] == "maple"
    assert [row["name"] for row in status["shares"]] == ["f"]
    text = await ask(willow, "/v1/metrics")
    assert 'p2psync_content_received_bytes_total{share="f"} 5' in text
    assert 'p2psync_message_bytes_sent_total{peer="maple"}' in text
    assert "p2psync_peers_connected 1" in text


async def test_doctor_looks_at_every_part(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    maple.make("f")
    await share(maple, willow)
    checks = {check["name"]: check for check in await maple.backend.doctor()}
    assert checks["listening"]["message"] == maple.at
    assert checks["mdns"]["ok"] == "warn"
    assert {checks[name]["ok"] for name in ("clock", "share f", "watching f", "disk of f")} == {"ok"}
    maple.clock.ahead_s = -10.0 * 365 * 86_400
    assert {check["name"]: check["ok"] for check in await maple.backend.doctor()}["clock"] == "warn"


async def test_the_configuration_is_read_again(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    maple.config = replace(maple.config, log_level="debug")
    await maple.backend.reload()
    assert maple.supervisor.config.log_level == "debug"

    def broken() -> None:
        raise ConfigError("config.toml: `nme`")

    maple.supervisor.load_config = broken
    with pytest.raises(ConfigError):
        await maple.backend.reload()
    assert maple.supervisor.config.log_level == "debug"


async def test_events_are_followed_as_they_happen(lab: Lab) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    newest = (await maple.backend.events(since=0, limit=1))[-1]["id"]
    kinds: list[str] = []
    async with maple.backend.follow_events(newest) as events:
        await connect(maple, willow)
        with trio.fail_after(WAIT_S):
            async for event in events:
                kinds.append(event["type"])
                if event["type"] == "connected":
                    break
    assert kinds == ["paired", "connected"]


async def test_shutting_down_is_a_request_like_any_other(lab: Lab) -> None:
    maple = await lab.daemon("maple")
    await maple.backend.shutdown()
    with trio.fail_after(WAIT_S):
        await maple.done.wait()
    assert not maple.places.socket_path.exists()


# What nobody foresaw


async def test_what_nobody_foresaw_in_one_share_ends_neither_the_others_nor_the_daemon(
    two: tuple[Daemon, Daemon],
    monkeypatch: pytest.MonkeyPatch,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    maple, willow = two
    await share(maple, willow, "f")
    there = await share(maple, willow, "g")
    source = maple.running("f").source
    scans: list[Dirty] = []
    again = trio.Event()

    def broken(dirty: Dirty) -> Iterator[Any]:
        scans.append(dirty)
        if len(scans) > 1:
            again.set()
        raise KeyError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(source, "scan", broken)
        (maple.folder / "f" / "a.txt").write_text("one")
        await maple.until(lambda: maple.running("f").replica.phase is Phase.ERROR, "an error")
        [reason] = [row["reason"] for row in await maple.backend.share_list() if row["name"] == "f"]
        assert "KeyError at test_robust_daemons.py" in (reason or "")
        assert "the daemon's log" in (reason or "")
        (maple.folder / "g" / "b.txt").write_text("two")
        await willow.until((there / "b.txt").exists, "the file of the other share")
        with trio.fail_after(WAIT_S):
            await again.wait()
    told = [record for record in caplog.records if record.message.startswith("fault ")]
    assert len(told) == 1
    assert told[0].exc_info is not None
    await willow.until((willow.folder / "f" / "a.txt").exists, "the file, once it works")
    assert not maple.done.is_set()


async def test_what_nobody_foresaw_in_a_session_ends_only_it(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    maple, willow = two
    there = await share(maple, willow)
    link = willow.peer(maple).link  # type: ignore[union-attr]

    def broken(*_args: Any, **_more: Any) -> Any:
        raise TypeError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(willow.running("f").replica.ledger, "receive", broken)
        (maple.folder / "f" / "a.txt").write_text("one")
        event = await willow.event("session_failed")
        assert "TypeError at test_robust_daemons.py" in event["message"]
    await willow.until((there / "a.txt").exists, "the file, once it works")
    assert willow.peer(maple).link is link  # type: ignore[union-attr]


async def test_a_share_that_cannot_be_opened_for_a_reason_nobody_foresaw_is_opened_later(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    maple = await lab.daemon("maple")
    path = maple.make("f", a_txt="one")
    await maple.backend.share_add(str(path), name="f", kind=None, mode="send-receive", with_devices=[])
    monkeypatch.setattr(shares_module, "REOPEN_S", 0.05)

    def broken(*_args: Any) -> Any:
        raise LookupError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(FolderKind, "open", broken)
        await maple.restart()
        [row] = await maple.backend.share_list()
        assert "LookupError at test_robust_daemons.py" in (row["reason"] or "")
    await maple.until(lambda: bool(maple.supervisor.shares.running), "the share")
