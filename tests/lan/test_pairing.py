"""Two people, two machines, one code."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from p2plab.device import Device, pair, start
from p2plab.trees import describe
from p2plab.waiting import eventually

pytestmark = pytest.mark.lan


def wrong_version_of(code: str) -> str:
    """Return another code with the same number, so that it finds the device and fails there."""
    number, *words = code.split("-")
    return "-".join([number, *reversed(words)])


def test_two_devices_pair_by_a_code_and_find_each_other_by_mdns_alone(two: tuple[Device, Device]) -> None:
    a, b = two
    showing, code = a.show_code()
    assert code.count("-") == 2
    b.cli("pair", code).ok()
    assert showing.wait(10) == 0
    eventually("both are connected", lambda: a.connected_to(b) and b.connected_to(a))
    assert a.peer("b")["id"] == b.device_id
    assert b.peer("a")["id"] == a.device_id


def test_two_devices_without_mdns_pair_at_an_address(new_device: Callable[..., Device]) -> None:
    a, b = new_device("a", None, "--no-mdns"), new_device("b", None, "--no-mdns")
    start(a, b)
    pair(a, b, "--at", a.address)
    a.stop()
    a.start()
    eventually("connected again at the remembered address", lambda: b.connected_to(a))


def test_devices_that_speak_only_ipv6_pair_and_connect(new_device: Callable[..., Device]) -> None:
    a, b = new_device("a"), new_device("b")
    for device in (a, b):
        device.host.run(["ip", "-4", "address", "flush", "dev", "eth0"], check=True)
    start(a, b)
    pair(a, b)
    assert "fd77::" in a.peer("b")["address"] or "fe80::" in a.peer("b")["address"]


def test_a_wrong_code_is_refused_and_burns_the_right_one(two: tuple[Device, Device]) -> None:
    a, b = two
    showing, code = a.show_code()
    guess = b.cli("pair", wrong_version_of(code), "--at", a.address)
    assert guess.code == 5, guess
    assert "code" in guess.err
    assert showing.wait(10) == 5
    late = b.cli("pair", code, "--at", a.address)
    assert late.code == 5, late
    assert a.status()["peers"] == []
    assert b.status()["peers"] == []


def test_a_code_works_once(new_device: Callable[..., Device]) -> None:
    a, b, c = new_device("a"), new_device("b"), new_device("c")
    start(a, b, c)
    showing, code = a.show_code()
    b.cli("pair", code, "--at", a.address).ok()
    assert showing.wait(10) == 0
    again = c.cli("pair", code, "--at", a.address)
    assert again.code == 5, again
    assert c.status()["peers"] == []
    assert [peer["name"] for peer in a.status()["peers"]] == ["b"]


def test_a_code_that_is_no_longer_shown_is_refused(two: tuple[Device, Device]) -> None:
    a, b = two
    showing, code = a.show_code("--timeout", "1")
    assert showing.wait(20) == 4
    late = b.cli("pair", code, "--at", a.address)
    assert late.code == 5, late
    assert b.status()["peers"] == []


def test_a_code_that_cannot_be_one_is_a_usage_error(two: tuple[Device, Device]) -> None:
    _, b = two
    assert b.cli("pair", "hello").code == 2


def test_nobody_shows_the_code_is_a_refusal_that_says_what_to_do(two: tuple[Device, Device]) -> None:
    _, b = two
    result = b.cli("pair", "7-amber-falcon", "--at", "10.77.0.99:22600")
    assert result.code == 5, result
    assert "--at" in result.err


def test_an_address_on_the_internet_is_not_even_dialled(two: tuple[Device, Device]) -> None:
    _, b = two
    result = b.cli("pair", "7-amber-falcon", "--at", "198.51.100.7:22600")
    assert result.code == 5, result
    assert "allow" in result.err


def test_five_devices_with_one_code_each_become_ten_connected_pairs(
    new_device: Callable[..., Device],
) -> None:
    devices = [new_device(name) for name in "abcde"]
    start(*devices)
    for shows, joins in pairwise(devices):
        pair(shows, joins)
    for device in devices:
        others = {other.name for other in devices} - {device.name}
        eventually(
            f"{device.name} is connected to all others",
            lambda device=device, others=others: (
                {peer["name"] for peer in device.status()["peers"] if peer["connected"]} == others
            ),
        )


def test_without_introductions_devices_meet_only_by_code(new_device: Callable[..., Device]) -> None:
    a, b, c = (new_device(name) for name in "abc")
    start(a, b, c)
    pair(a, b)
    pair(b, c, "--no-introduce")
    assert a.peer("c") is None
    assert c.peer("a") is None


def test_a_device_removed_on_one_side_is_refused_and_told_so(two: tuple[Device, Device]) -> None:
    a, b = two
    pair(a, b)
    a.cli("device", "remove", "b", "--yes").ok()
    assert a.status()["peers"] == []
    eventually("b knows that it was refused", lambda: not b.connected_to(a) and b.peer("a")["trouble"])
    assert "pair" in b.peer("a")["trouble"].lower()
    b.stop()
    b.start()
    eventually("b is refused again", lambda: b.peer("a")["trouble"])
    assert not b.connected_to(a)
    assert a.status()["peers"] == []


def test_a_refused_guess_changes_nothing_on_disk(two: tuple[Device, Device]) -> None:
    a, b = two
    showing, code = a.show_code()
    before = {path: entry for path, entry in describe(b.home).items() if b"identity" in path}
    assert b.cli("pair", wrong_version_of(code), "--at", a.address).code == 5
    showing.wait(10)
    assert {path: entry for path, entry in describe(b.home).items() if b"identity" in path} == before
