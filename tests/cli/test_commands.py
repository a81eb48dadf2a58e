from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import pytest

from p2psync.main import THEMES, make_app, needed_themes
from p2psyncd.errors import CodeExpired, NoSuchShare, ShareHeld, TimedOut, Undecided, WrongCode

EVIL = "x\x1b[2J\u202e\n"


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("status",), ("status", (), {})),
        (("wait",), ("wait", (None,), {"timeout_s": None, "peers": 1})),
        (
            ("wait", "Photos", "--timeout", "2", "--peers", "3"),
            ("wait", ("Photos",), {"timeout_s": 2.0, "peers": 3}),
        ),
        (("sync", "--once"), ("sync_once", (None,), {"timeout_s": None})),
        (("sync", "Photos", "--once", "--timeout", "9"), ("sync_once", ("Photos",), {"timeout_s": 9.0})),
        (("diff", "Photos"), ("diff", ("Photos", None), {})),
        (("diff", "Photos", "desk"), ("diff", ("Photos", "desk"), {})),
        (("verify",), ("verify", (None,), {})),
        (("verify", "Photos"), ("verify", ("Photos",), {})),
        (
            ("pair", "7-amber-falcon", "--at", "10.0.0.1:22600", "--no-introduce", "--timeout", "5"),
            (
                "pair_join",
                ("7-amber-falcon",),
                {"at": "10.0.0.1:22600", "introduce": False, "timeout_s": 5.0},
            ),
        ),
        (("device", "list"), ("devices", (), {})),
        (("device", "rename", "desk", "table"), ("device_rename", ("desk", "table"), {})),
        (("device", "pause", "desk"), ("device_pause", ("desk",), {})),
        (("device", "resume", "desk"), ("device_resume", ("desk",), {})),
        (("device", "remove", "desk", "--yes"), ("device_remove", ("desk",), {"everywhere": False})),
        (
            ("device", "remove", "desk", "--everywhere", "-y"),
            ("device_remove", ("desk",), {"everywhere": True}),
        ),
        (("share", "list"), ("share_list", (), {})),
        (("share", "offers"), ("share_offers", (), {})),
        (
            ("share", "add", "/data", "--name", "N", "--kind", "database", "--mode", "send-only", "--with", "a", "--with", "b", "--without", "log", "--without", "cache", "--counter", "item.stock", "--propagate-schema"),
            ("share_add", ("/data",), {"name": "N", "kind": "database", "mode": "send-only", "with_devices": ["a", "b"], "without": ["log", "cache"], "counters": ["item.stock"], "propagate_schema": True}),
        ),
        (
            ("share", "add", "/data"),
            ("share_add", ("/data",), {"name": None, "kind": None, "mode": "send-receive", "with_devices": [], "without": [], "counters": [], "propagate_schema": False}),
        ),
        (
            ("share", "accept", "Music", "/m", "--mode", "receive-only", "--from", "desk"),
            ("share_accept", ("Music", "/m"), {"mode": "receive-only", "from_device": "desk", "join": None, "without": [], "counters": [], "propagate_schema": False}),
        ),
        (
            ("share", "accept", "Music", "/m", "--adopt", "--without", "log"),
            ("share_accept", ("Music", "/m"), {"mode": "send-receive", "from_device": None, "join": "adopt", "without": ["log"], "counters": [], "propagate_schema": False}),
        ),
        (
            ("share", "accept", "Music", "/m", "--merge", "--propagate-schema"),
            ("share_accept", ("Music", "/m"), {"mode": "send-receive", "from_device": None, "join": "merge", "without": [], "counters": [], "propagate_schema": True}),
        ),
        (("share", "pause", "Photos"), ("share_pause", ("Photos",), {})),
        (("share", "resume", "Photos"), ("share_resume", ("Photos",), {})),
        (("share", "rescan", "Photos"), ("share_rescan", ("Photos",), {})),
        (("share", "approve", "Photos"), ("share_approve", ("Photos",), {"catch_up": False})),
        (("share", "approve", "Photos", "--catch-up"), ("share_approve", ("Photos",), {"catch_up": True})),
        (("share", "remove", "Photos", "--yes"), ("share_remove", ("Photos",), {"force": False})),
        (("share", "remove", "Photos", "--force", "--yes"), ("share_remove", ("Photos",), {"force": True})),
        (("conflict", "list"), ("conflicts", (), {"include_resolved": False})),
        (("conflict", "list", "--all"), ("conflicts", (), {"include_resolved": True})),
        (("conflict", "show", "c1"), ("conflict_show", ("c1",), {})),
        (
            ("conflict", "resolve", "c1", "--keep", "loser", "--loser", "2", "--yes"),
            ("conflict_resolve", ("c1",), {"keep": "loser", "loser": 1}),
        ),
        (
            ("conflict", "resolve", "c1", "--keep", "both"),
            ("conflict_resolve", ("c1",), {"keep": "both", "loser": 0}),
        ),
        (("history", "/home/ada/a.txt"), ("history", ("/home/ada/a.txt",), {})),
        (("restore", "/nowhere/a.txt"), ("restore", ("/nowhere/a.txt",), {"version": None})),
        (
            ("restore", "/", "--version", "v1", "--yes"),
            ("restore", ("/",), {"version": "v1"}),
        ),
        (("events", "--since", "2", "-n", "5"), ("events", (), {"since": 2, "limit": 5})),
    ],
)  # fmt: skip
def test_a_command_asks_the_daemon_and_prints_its_answer(
    run: Any, backend: Any, arguments: tuple[str, ...], call: tuple[Any, ...]
) -> None:
    plain = run(*arguments)
    assert plain.code == 0
    assert backend.calls == [call]
    answer = backend.answers[call[0]]
    printed = run(*arguments, "--json")
    assert printed.code == 0
    if arguments[0] == "events":
        assert [json.loads(line) for line in printed.out.splitlines()] == answer
    else:
        assert json.loads(printed.out) == answer
    assert printed.out.isascii()


@pytest.mark.parametrize(
    ("arguments", "out", "err"),
    [
        (("wait",), "", "Photos: equal on this device and desk."),
        (("sync", "--once"), "Photos: 1 item, 2 B, equal with desk\nreceived 1 item, 2.0 KiB;", ""),
        (("diff", "Photos"), "a.txt  absent  file, 3 bytes", "desk: 1 difference (2 round trips, 900 B)."),
        (("verify",), "", "1,234 items, 4.8 MiB read: all as recorded."),
        (("device", "list"), "desk  connected  192.168.1.7:22600  by code  DDDDDDD-EEEEEEE", ""),
        (("device", "remove", "desk", "--yes"), "", "Also by: phone."),
        (("device", "remove", "desk", "--yes"), "", "when they are seen next: tablet."),
        (("share", "list"), "Photos  idle   folder  send-receive  1,234 items  4.8 MiB", ""),
        (("share", "offers"), "Music  desk  folder  3 items  4.0 KiB", "share accept NAME PATH"),
        (("share", "add", "/data"), "", "Photos (/home/ada/Photos) is offered to all paired devices."),
        (("share", "add", "/data", "--with", "desk"), "", "is offered to desk."),
        (("conflict", "list"), "c1  Photos  a.txt  desk      laptop", ""),
        (("conflict", "show", "c1"), "loser 1  laptop", "p2psync conflict resolve c1"),
        (("history", "/a"), "v1       ", ""),
        (("history", "/a"), "replaced by desk", ""),
        (("restore", "/nowhere/a"), "", "is back as of version v1; what was there is in history."),
        (("events",), "2025-06-01T10:00:00Z  item_applied [Photos]  3.jpg came from desk", ""),
    ],
)
def test_data_goes_to_stdout_and_talk_to_stderr(
    run: Any, backend: Any, arguments: tuple[str, ...], out: str, err: str
) -> None:
    del backend
    result = run(*arguments)
    assert out in result.out
    assert err in result.err
    assert out or not result.out


@pytest.mark.parametrize(
    ("arguments", "name", "says"),
    [
        (("device", "list"), "devices", "p2psync pair"),
        (("share", "list"), "share_list", "p2psync share add PATH"),
        (("share", "offers"), "share_offers", "No connected device offers"),
        (("conflict", "list"), "conflicts", "There are no conflicts."),
        (("history", "/a"), "history", "No earlier version is kept"),
    ],
)
def test_an_empty_list_says_so_to_the_person_only(
    run: Any, backend: Any, arguments: tuple[str, ...], name: str, says: str
) -> None:
    backend.answers[name] = []
    result = run(*arguments)
    assert (result.code, result.out) == (0, "")
    assert says in result.err
    assert json.loads(run(*arguments, "--json").out) == []


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (NoSuchShare("Phtos"), 1, "p2psync: Phtos: There is no such share here. `p2psync share list` shows"),
        (TimedOut("desk lacks 3 items"), 4, "p2psync: desk lacks 3 items. It did not finish in time."),
        (ShareHeld("Photos"), 5, "p2psync share approve NAME"),
        (NoSuchShare(EVIL), 1, "x\\x1b[2J\\u202e\\n"),
    ],
)
def test_an_error_is_one_line_with_what_to_do_and_its_exit_code(
    run: Any, backend: Any, error: Exception, code: int, says: str
) -> None:
    backend.answers["wait"] = error
    for options in ((), ("--json",)):
        result = run("wait", "Photos", *options)
        assert (result.code, result.out) == (code, "")
        assert says in result.err
        assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "--json"),
        ("status", "--watch"),
        ("pair",),
        ("pair", "7-amber-falcon"),
        ("share", "list"),
        ("wait",),
        ("events", "--follow"),
    ],
)
def test_without_a_daemon_the_exit_code_is_3(run: Any, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("p2psync: The daemon is not running. Start it with `p2psync up`")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bogus",), "No such command 'bogus'"),
        (("share", "bogus"), "See `p2psync share --help`."),
        (("wait", "--bogus"), "See `p2psync wait --help`."),
        (("wait", "--timeout", "soon"), "'--timeout'"),
        (("wait", "--peers", "-1"), "'--peers'"),
        (("share", "add"), "PATH"),
        (("share", "add", "/a", "--mode", "sideways"), "'--mode'"),
        (("conflict", "resolve", "c1", "--keep", "nothing"), "'--keep'"),
        (("sync",), "p2psync sync --once"),
        (("pair", "--at", "10.0.0.1:1"), "--at belongs to a CODE"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2_in_a_line_or_two(
    run: Any, backend: Any, arguments: tuple[str, ...], says: str
) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert result.err.count("\n") <= 2
    assert backend.calls == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("share", "remove", "Photos"),
        ("device", "remove", "desk"),
        ("conflict", "resolve", "c1"),
        ("conflict", "resolve", "c1", "--keep", "loser"),
        ("restore", "/"),
    ],
)
def test_what_destroys_needs_a_yes(
    run: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments)
    assert (result.code, backend.calls) == (2, [])
    assert "give --yes" in result.err

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr(sys.stdin, "readline", lambda answer=answer: answer, raising=False)
        result = run(*arguments)
        assert (result.code, backend.calls) == (1, [])
        assert "[y/N]" in result.err
        assert "nothing was changed" in result.err
    monkeypatch.setattr(sys.stdin, "readline", lambda: "Y\n", raising=False)
    assert run(*arguments).code == 0
    assert len(backend.calls) == 1


def test_approving_asks_on_a_terminal_and_says_what_would_be_carried_out(
    run: Any, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {**backend.answers["share_list"][0], "state": "held", "reason": "900 of 1,000 items are gone"}
    backend.answers["share_list"] = [held]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "\n", raising=False)
    result = run("share", "approve", held["name"])
    assert result.code == 1
    assert "900 of 1,000 items are gone" in result.err
    assert [call[0] for call in backend.calls] == ["share_list"]
    assert run("share", "approve", held["name"], "--yes").code == 0
    assert backend.calls[-1][0] == "share_approve"


def test_a_device_is_not_renamed_to_nothing(run: Any, backend: Any) -> None:
    result = run("device", "rename", "desk", " ")
    assert (result.code, backend.calls) == (2, [])
    assert "a name that is not empty" in result.err


def test_verify_fails_if_anything_is_wrong(run: Any, backend: Any) -> None:
    problem = {"share": "Photos", "item": EVIL, "problem": "content differs"}
    backend.answers["verify"] = {"items": 1, "bytes": 1, "problems": [problem]}
    result = run("verify")
    assert result.code == 1
    assert "Photos  x\\x1b[2J\\u202e\\n  content differs" in result.out
    assert "1 problem." in result.err
    result = run("verify", "--json")
    assert result.code == 1
    assert json.loads(result.out)["problems"] == [problem]


def test_diff_tells_equal_and_absent_peers_apart(run: Any, backend: Any) -> None:
    line = {"device": "desk", "connected": True, "differences": [], "round_trips": 1, "bytes": 75}
    backend.answers["diff"] = {
        "share": "P",
        "devices": [line, line | {"device": "phone", "connected": False}],
    }
    result = run("diff", "P")
    assert result.err == (
        "desk: equal (1 round trip, 75 B).\nphone is not connected, or does not share P now (it may have paused it).\n"
    )


def test_wait_without_peers_says_so(run: Any, backend: Any) -> None:
    backend.answers["wait"] = {
        "shares": [{"name": "P", "root": "", "items": 0, "bytes": 0, "peers": []}],
        "paused": ["Old"],
    }
    assert run("wait", "--peers", "0").err == (
        "P: equal on this device and no peer.\nOld is paused on this device, and was not waited for.\n"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"count": 3}, "3 deleted files back in /f.\n"),
        ({"count": 1, "failed": ["d/a: why"]}, "1 deleted file back in /f.\nnot back: d/a: why\n"),
        ({"item": "people 1"}, "people 1 in /f is back as of version v1.\n"),
    ],
)
def test_restore_says_what_is_back(run: Any, backend: Any, more: dict[str, object], said: str) -> None:
    backend.answers["restore"] = {"path": "/f", "version": "v1", "replaced": True, **more}
    assert run("restore", "/nowhere/f").err == said


def test_names_of_others_are_escaped_in_every_list(run: Any, backend: Any, scripted: Any) -> None:
    backend.answers["devices"] = [scripted.DESK | {"name": EVIL, "introduced_by": EVIL, "connected": False}]
    backend.answers["share_offers"] = [scripted.ANSWERS["share_offers"][0] | {"name": EVIL, "device": EVIL}]
    backend.answers["conflicts"] = [scripted.CONFLICT | {"item": EVIL, "winner": EVIL}]
    backend.answers["events"] = [scripted.EVENTS[0] | {"message": EVIL, "share": None}]
    for arguments in (("device", "list"), ("share", "offers"), ("conflict", "list"), ("events",)):
        out = run(*arguments).out
        assert "x\\x1b[2J\\u202e\\n" in out
        assert not {"\x1b", "\u202e"} & set(out)


def test_paths_are_sent_as_seen_from_here(
    run: Any, backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    monkeypatch.chdir(tmp_path)
    for given, sent in [
        ("a b", "a b"),
        (".", ""),
        ("./x/", "x"),
        ("link", "link"),
        ("link/../x", "real/x"),
        ("link/..", "real"),
        (os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9")),
    ]:
        run("history", given)
        assert backend.calls[-1][1] == (str(tmp_path / sent),)
        run("share", "add", given)
        assert backend.calls[-1][1] == (str(tmp_path / sent),)


def test_home_is_understood_at_every_place(
    run: Any, backend: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del backend
    monkeypatch.delenv("P2PSYNC_HOME")
    at = str(home)
    for arguments in (
        ("--home", at, "status"),
        (f"--home={at}", "status"),
        ("status", "--home", at),
        ("share", "--home", at, "list"),
        ("--home", "/nowhere", "share", "--home", at, "list"),
        ("--home", "/nowhere", "share", "list", "--home", at),
    ):
        assert run(*arguments).code == 0
    assert run("--home", "/nowhere", "status").code == 3


def test_only_the_theme_that_is_needed_is_loaded() -> None:
    assert needed_themes(["status"]) == ["look"]
    assert needed_themes(["--home", "x", "share", "list"]) == ["shares"]
    assert needed_themes(["--home=x", "pair"]) == ["pair"]
    for doubtful in ([], ["--help"], ["bogus"], ["--home"], ["--version", "status"]):
        assert needed_themes(doubtful) == list(THEMES)


def test_help_lists_every_command_once(run: Any) -> None:
    result = run("--help")
    assert result.code == 0
    for names in THEMES.values():
        for name in names:
            assert f"\n  {name} " in result.out
    for names in THEMES.values():
        for name in names:
            shown = run(name, "--help")
            assert shown.code == 0
            assert "--home" in shown.out


def test_nothing_to_do_shows_the_help(run: Any) -> None:
    for arguments in ((), ("share",)):
        result = run(*arguments)
        assert result.code == 2
        assert "Usage: p2psync" in result.err + result.out


def test_version(run: Any) -> None:
    assert run("--version").out.startswith("p2psync 0.")


def test_a_bug_is_told_without_a_traceback(run: Any, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.answers["status"] = {}
    result = run("status")
    assert result.code == 1
    assert "this should not happen: KeyError('device')" in result.err
    monkeypatch.setenv("P2PSYNC_DEBUG", "1")
    with pytest.raises(KeyError):
        run("status")


def test_a_code_is_the_first_line_of_stdout(run: Any, backend: Any) -> None:
    backend.joined.set()
    result = run("pair", "--no-introduce", "--timeout", "60")
    assert (result.code, result.out) == (0, "7-amber-falcon\n")
    assert "On the other device run:  p2psync pair 7-amber-falcon\n" in result.err
    assert "--at 192.168.1.5:22600" in result.err
    assert "Paired with desk." in result.err
    assert backend.calls[0] == ("pair_show", (), {"introduce": False})
    assert ("pair_wait", ("7-amber-falcon",), {"timeout_s": 60.0}) in backend.calls


def test_with_json_the_device_is_the_only_document(run: Any, backend: Any) -> None:
    backend.joined.set()
    result = run("pair", "--json")
    assert json.loads(result.out)["name"] == "desk"
    assert "7-amber-falcon" in result.err


@pytest.mark.parametrize(("error", "code"), [(CodeExpired(), 5), (WrongCode(), 5), (TimedOut(), 4)])
def test_a_code_that_nobody_used_ends_with_the_reason(
    run: Any, backend: Any, error: Exception, code: int
) -> None:
    backend.pair_ends_with = error
    result = run("pair")
    assert (result.code, result.out) == (code, "7-amber-falcon\n")
    assert backend.withdrawn == ["7-amber-falcon"]


def test_a_wrong_code_is_exit_code_5(run: Any, backend: Any) -> None:
    backend.answers["pair_join"] = WrongCode()
    result = run("pair", "7-wrong-words")
    assert result.code == 5
    assert "Show a new one with `p2psync pair`" in result.err


@pytest.mark.parametrize(
    ("listen", "shown"),
    [
        (["127.0.0.1:1", "[fe80::1%eth0]:1", "10.0.0.1:1"], "10.0.0.1:1"),
        (["[::1]:1", "[fe80::1]:1"], "[fe80::1]:1"),
        (["odd"], "odd"),
        ([], None),
    ],
)
def test_the_address_most_likely_reachable_is_suggested(
    run: Any, backend: Any, listen: list[str], shown: str | None
) -> None:
    backend.answers["status"] = backend.answers["status"] | {
        "device": {"id": "", "name": "", "listen": listen}
    }
    backend.joined.set()
    err = run("pair").err
    assert f"--at {shown}" in err if shown else "--at" not in err


def test_a_failing_status_does_not_hinder_pairing(run: Any, backend: Any) -> None:
    backend.answers["status"] = TimedOut()
    backend.answers["pair_show"] = {"code": "7-amber-falcon", "expires": "soon"}
    backend.joined.set()
    result = run("pair")
    assert result.code == 0
    assert "Waiting until soon" in result.err


def test_events_go_on_until_the_daemon_stops(run: Any, backend: Any) -> None:
    backend.answers["follow_end"] = TimedOut("the daemon stops")
    backend.answers["events"] = backend.answers["events"][:1]
    result = run("events", "--follow", "--json")
    assert result.code == 4
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == [1, 2, 3]


class Terminal:
    """Drives `p2psync` as its user does: as a program of its own, with pipes."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "p2psync.main", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


def test_the_program_keeps_stdout_and_stderr_apart(backend: Any) -> None:
    with Terminal("status", "--json") as terminal:
        code, out, err = terminal.end()
    assert (code, err) == (0, "")
    assert json.loads(out) == backend.answers["status"]


def test_the_program_without_a_daemon(home: Path) -> None:
    with Terminal("--home", str(home), "status") as terminal:
        code, out, err = terminal.end()
    assert (code, out) == (3, "")
    assert err.count("\n") == 1


def test_ctrl_c_withdraws_the_code(backend: Any) -> None:
    with Terminal("pair") as terminal:
        assert terminal.process.stdout is not None
        assert terminal.process.stdout.readline() == "7-amber-falcon\n"
        assert terminal.process.stderr is not None
        while "Ctrl-C" not in terminal.process.stderr.readline():
            pass
        terminal.process.send_signal(2)
        code, _, err = terminal.end()
    assert code == 130
    assert "Traceback" not in err
    withdrawn = threading.Event()
    for _ in range(100):
        if backend.withdrawn:
            break
        withdrawn.wait(0.05)
    assert backend.withdrawn == ["7-amber-falcon"]


def test_ctrl_c_is_how_a_watch_ends(backend: Any) -> None:
    del backend
    with Terminal("status", "--watch") as terminal:
        assert terminal.process.stdout is not None
        assert terminal.process.stdout.readline() == "device desk: connected\n"
        terminal.process.send_signal(2)
        assert terminal.end()[0] == 0


def test_a_reader_that_has_enough_is_no_error_to_talk_about(backend: Any) -> None:
    backend.answers["events"] = backend.answers["events"] * 30_000
    with Terminal("events", "-n", "90000") as terminal:
        assert terminal.process.stdout is not None
        terminal.process.stdout.readline()
        terminal.process.stdout.close()
        assert terminal.process.stderr is not None
        assert terminal.process.stderr.read() == ""


def test_output_survives_a_terminal_without_unicode(backend: Any, scripted: Any) -> None:
    backend.answers["devices"] = [scripted.DESK | {"name": "Grüße"}]
    command = [sys.executable, "-X", "utf8=0", "-m", "p2psync.main", "device", "list"]
    environ = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environ, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0
    assert rb"Gr\xfc\xdfe" in done.stdout


def test_the_client_never_loads_the_daemons_rooms() -> None:
    program = (
        "import sys; from p2psync.main import make_app; make_app();"
        "print([m for m in sys.modules if m.split('.')[0] in ('trio', 'zeroconf', 'apsw', 'h11', 'rich')"
        " or m.startswith(('p2psyncd.core', 'p2psyncd.daemon', 'p2psyncd.net', 'p2psyncd.store'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_commands_are_declared_without_loading_twice() -> None:
    assert make_app().info.name == "p2psync"


def test_rows_that_differ_are_shown_before_a_database_joins_a_share(run: Any, backend: Any) -> None:
    backend.answers["share_accept"] = Undecided("/n.db holds rows of its own")
    result = run("share", "accept", "Notes", "/n.db", "--from", "desk")
    assert result.code == 5
    assert [call[0] for call in backend.calls] == ["share_accept", "share_compare"]
    assert "TABLE  IDENTICAL  ONLY HERE  ONLY ON desk  DIFFERENT" in result.out
    assert "notes  1,200      1          2             3" in result.out
    assert "p2psync share accept Notes /n.db --merge" in result.err
    assert "p2psync share accept Notes /n.db --adopt" in result.err
    printed = run("share", "accept", "Notes", "/n.db", "--json")
    assert printed.code == 5
    assert json.loads(printed.out) == backend.answers["share_compare"]
    assert run("share", "accept", "Notes", "/n.db", "--merge", "--adopt").code == 2


def test_a_database_that_is_equal_already_is_joined_at_once(run: Any, backend: Any) -> None:
    same = {"only_here": 0, "only_there": 0, "different": 0, "tables": []}
    backend.answers["share_compare"] = backend.answers["share_compare"] | same

    async def share_accept(name: str, path: str, *, join: str | None, **_: Any) -> Any:
        if join is None:
            raise Undecided(path)
        return backend.answers["share_list"][0] | {"name": name, "path": path}

    backend.answers["share_accept"] = share_accept
    result = run("share", "accept", "Notes", "/n.db")
    assert result.code == 0
    assert "Both hold the same 1,200 rows." in result.err
    assert "Notes is at /n.db." in result.err
