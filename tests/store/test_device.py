from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from p2psyncd.core.ids import DeviceId, ShareId
from p2psyncd.errors import NoSuchDevice, ShareExists
from p2psyncd.store.device import DeviceStore, EventRecord, PeerRecord, Removal, ShareRecord

ANNA, BERT, CARA = (DeviceId(bytes([n]) * 32) for n in (1, 2, 3))
PEER = PeerRecord(
    device=ANNA,
    name="anna",
    certificate=b"der",
    introduced_by=None,
    addresses=("192.168.1.2:22600", "[fe80::1%eth0]:22600"),
    paused=False,
    paired_us=10,
    last_seen_us=0,
    found_by="",
)
SHARE = ShareRecord(
    id=ShareId(b"one share's own "),
    name="photos",
    kind="folder",
    path="/home/anna/Photos",
    secret=b"s" * 32,
    added_us=5,
)


# Peers


def test_a_peer_reads_back_as_it_was_put(device_store: DeviceStore) -> None:
    other = replace(
        PEER, device=BERT, name="bert", introduced_by=ANNA, paused=True, found_by="mdns", addresses=()
    )
    device_store.put_peer(other)
    device_store.put_peer(PEER)
    assert device_store.peers() == [PEER, other]
    assert device_store.peer(BERT) == other
    assert device_store.peer(CARA) is None


def test_putting_a_peer_again_replaces_it(device_store: DeviceStore) -> None:
    device_store.put_peer(PEER)
    device_store.put_peer(replace(PEER, paused=True))
    assert device_store.peers() == [replace(PEER, paused=True)]


def test_a_peer_is_renamed_if_it_is_paired(device_store: DeviceStore) -> None:
    device_store.put_peer(PEER)
    device_store.rename_peer(ANNA, "anna's laptop")
    assert device_store.peers() == [replace(PEER, name="anna's laptop")]
    with pytest.raises(NoSuchDevice):
        device_store.rename_peer(BERT, "nobody")


def test_a_removed_peer_is_gone(device_store: DeviceStore) -> None:
    device_store.put_peer(PEER)
    device_store.remove_peer(ANNA)
    device_store.remove_peer(ANNA)
    assert device_store.peers() == []


def test_the_address_that_worked_last_comes_first(device_store: DeviceStore) -> None:
    device_store.put_peer(PEER)
    device_store.note_seen(ANNA, "10.0.0.7:22600", "mdns", 77)
    device_store.note_seen(ANNA, PEER.addresses[0], "inbound", 78)
    device_store.note_seen(ANNA, None, "inbound", 79)
    device_store.note_seen(BERT, "10.0.0.8:22600", "mdns", 80)
    expected = replace(
        PEER,
        addresses=(PEER.addresses[0], "10.0.0.7:22600", PEER.addresses[1]),
        last_seen_us=79,
        found_by="inbound",
    )
    assert device_store.peers() == [expected]


def test_few_addresses_are_remembered(device_store: DeviceStore) -> None:
    device_store.put_peer(PEER)
    for n in range(20):
        device_store.note_seen(ANNA, f"10.0.0.{n}:22600", "mdns", n)
    peer = device_store.peer(ANNA)
    assert peer is not None
    assert peer.addresses == tuple(f"10.0.0.{n}:22600" for n in range(19, 11, -1))


# Removals


def test_removals_are_remembered_and_the_later_one_counts(device_store: DeviceStore) -> None:
    device_store.put_removal(ANNA, 50, BERT, everywhere=False)
    device_store.put_removal(CARA, 10, BERT, everywhere=True)
    device_store.put_removal(ANNA, 40, CARA, everywhere=True)
    assert device_store.removals() == [
        Removal(device=CARA, removed_us=10, by=BERT, everywhere=True),
        Removal(device=ANNA, removed_us=50, by=BERT, everywhere=True),
    ]
    device_store.put_removal(ANNA, 60, CARA, everywhere=False)
    assert device_store.removed(ANNA) == Removal(device=ANNA, removed_us=60, by=CARA, everywhere=True)
    device_store.forget_removal(ANNA)
    assert device_store.removed(ANNA) is None


# Shares


def test_a_share_reads_back_as_it_was_put(device_store: DeviceStore) -> None:
    other = replace(
        SHARE,
        id=ShareId(bytes(16)),
        name="books",
        kind="database",
        mode="receive-only",
        path=os.fsdecode(b"/home/anna/b\xffcher.db"),
        with_devices=(ANNA, CARA),
        paused=True,
        settings={"members": ["a", "b"], "n": 3},
    )
    device_store.put_share(SHARE)
    device_store.put_share(other)
    assert device_store.shares() == [other, SHARE]
    assert device_store.share("photos") == SHARE
    assert device_store.share(other.id) == other
    assert device_store.share("none") is None
    assert device_store.share(ShareId(b"none")) is None


def test_a_share_with_nobody_is_not_one_with_all(device_store: DeviceStore) -> None:
    device_store.put_share(replace(SHARE, with_devices=()))
    assert device_store.shares()[0].with_devices == ()


def test_a_share_can_change_its_name_but_not_take_anothers(device_store: DeviceStore) -> None:
    other = replace(SHARE, id=ShareId(bytes(16)), name="books")
    device_store.put_share(SHARE)
    device_store.put_share(other)
    device_store.put_share(replace(SHARE, name="pictures"))
    with pytest.raises(ShareExists, match="books"):
        device_store.put_share(replace(SHARE, name="books"))
    assert [share.name for share in device_store.shares()] == ["books", "pictures"]


def test_a_removed_share_is_gone(device_store: DeviceStore) -> None:
    device_store.put_share(SHARE)
    device_store.remove_share(SHARE.id)
    device_store.remove_share(SHARE.id)
    assert device_store.shares() == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"short"},
        {"kind": "tape"},
        {"mode": "sometimes"},
        {"secret": b"short"},
        {"with_devices": (b"short",)},
    ],
    ids=str,
)
def test_an_impossible_share_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SHARE, **change)  # type: ignore[arg-type]


def test_a_device_id_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="device"):
        replace(PEER, device=DeviceId(b"short"))


# Events and settings


def test_events_are_listed_oldest_first(device_store: DeviceStore) -> None:
    made = [device_store.append_event("edit", {"item": f"n{n}", "share": None}, 100 + n) for n in range(5)]
    assert made[0] == EventRecord(id=1, time_us=100, kind="edit", fields={"item": "n0", "share": None})
    assert device_store.newest_events(3) == made[2:]
    assert device_store.newest_events(100) == made
    assert device_store.events_since(made[1].id, 2) == made[2:4]
    assert device_store.events_since(made[4].id, 2) == []


def test_a_name_that_is_not_utf8_passes_through_an_event(device_store: DeviceStore) -> None:
    fields = {"item": os.fsdecode(b"caf\xe9")}
    device_store.append_event("edit", fields, 1)
    assert device_store.newest_events(1)[0].fields == fields


def test_the_newest_10000_events_are_kept(device_store: DeviceStore) -> None:
    with device_store.transaction():
        for n in range(10_005):
            device_store.append_event("edit", {}, n)
    events = device_store.newest_events(20_000)
    assert len(events) == 10_000
    assert (events[0].id, events[-1].id) == (6, 10_005)


def test_event_numbers_go_on_after_opening_again(tmp_path: Path) -> None:
    for expected in (1, 2):
        store = DeviceStore.open(tmp_path / "device.db")
        assert store.append_event("start", {}, 1).id == expected
        store.close()


def test_settings_are_kept(device_store: DeviceStore) -> None:
    assert device_store.setting("boots") is None
    device_store.set_setting("boots", b"\x01")
    device_store.set_setting("boots", b"\x02")
    assert device_store.setting("boots") == b"\x02"


def test_everything_but_the_passing_is_durable(device_store: DeviceStore) -> None:
    device_store.put_peer(PEER)
    assert device_store.database.row("PRAGMA synchronous") == (2,)
    device_store.note_seen(ANNA, None, "mdns", 1)
    assert device_store.database.row("PRAGMA synchronous") == (1,)
    with device_store.transaction():
        device_store.append_event("edit", {}, 1)
        assert device_store.database.row("PRAGMA synchronous") == (2,)


def test_any_thread_may_use_it_at_any_time(device_store: DeviceStore) -> None:
    def work(n: int) -> None:
        device_store.append_event("edit", {"n": n}, n)
        device_store.put_peer(replace(PEER, device=DeviceId(bytes([n]) * 32)))
        assert device_store.peer(DeviceId(bytes([n]) * 32)) is not None

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(60)))
    assert len(device_store.newest_events(100)) == len(device_store.peers()) == 60
