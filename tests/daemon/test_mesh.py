"""Connections between whole daemons: who may connect, what discovery says, and what is made of oddities."""

from __future__ import annotations

import pytest
import trio
from daemons import WAIT_S, Daemon, Lab, connect, share

from p2psyncd.core.ids import format_device_id
from p2psyncd.daemon import peerlink
from p2psyncd.daemon.contents import CONTENTS_WAITING_MAX, DIALLER_ANSWERS
from p2psyncd.errors import DeviceRefused, NoSuchDevice
from p2psyncd.net.discovery import Lost, Seen
from p2psyncd.net.tls import CONTENT_ALPN, MAIN_ALPN
from p2psyncd.net.transport import Link, dial
from p2psyncd.wire.messages import Greeting, Offer, Offers, Ping, Refusal, decode_message, encode_message
from p2psyncd.wire.session_messages import Hello


async def dialled(maple: Daemon, willow: Daemon, alpn: str) -> Link:
    """Return a connection from willow to maple, made past willow's own mesh."""
    stream = await dial(
        maple.at,
        willow.supervisor.identity,
        maple.supervisor.identity.certificate,
        alpn,
        timeout_s=WAIT_S,
        policy=willow.supervisor.policy,
    )
    return Link(stream)


async def closed(link: Link) -> bool:
    """Return whether the other side closes a connection, whatever it says before."""
    with trio.fail_after(WAIT_S):
        try:
            while True:
                await link.receive()
        except (trio.EndOfChannel, trio.BrokenResourceError):
            await link.aclose()
            return True


def greeting(*versions: int, instance: bytes = b"instance") -> bytes:
    return encode_message(
        Greeting(versions=versions, name="willow", instance=instance, ports=(), introduces=True, clock_us=0)
    )


async def test_nonsense_on_a_connection_ends_that_and_not_the_daemon(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    for first in (encode_message(Ping()), encode_message(Refusal(code="x", text="no")), b"\xff nonsense"):
        link = await dialled(maple, willow, MAIN_ALPN)
        await link.send(first)
        assert await closed(link)
    link = await dialled(maple, willow, CONTENT_ALPN)
    await link.stream.send_all(b"?")
    assert await closed(link)
    assert maple.connected_to(willow)


async def test_a_peer_of_another_protocol_is_named(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    link = await dialled(maple, willow, MAIN_ALPN)
    await link.send(greeting(999))
    assert await closed(link)
    event = await maple.event("trouble")
    assert "maple speaks an older protocol" in event["message"]


async def test_a_second_connection_of_a_restarted_peer_replaces_the_first(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    await willow.stop()
    old = await dialled(maple, willow, MAIN_ALPN)
    await old.send(greeting(1))
    await maple.until(lambda: maple.connected_to(willow), "connected")
    before = maple.peer(willow).link  # type: ignore[union-attr]
    link = await dialled(maple, willow, MAIN_ALPN)
    await link.send(greeting(1, instance=b"restarts"))
    await maple.until(lambda: maple.peer(willow).link not in {None, before}, "replaced")  # type: ignore[union-attr]
    # A second greeting is out of place.
    await link.send(greeting(1))
    assert await closed(link)
    assert await closed(old)
    await willow.start()
    await maple.until(lambda: maple.connected_to(willow), "connected for real")


async def test_a_share_is_offered_before_its_session_begins_however_early_the_peer_offers_it(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    await share(maple, willow, "f")
    record = maple.running("f").record
    offer = Offer(share=record.id, name="f", kind="folder", secret=record.secret, items=0, size=0)
    await willow.stop()
    for number in range(10):
        link = await dialled(maple, willow, MAIN_ALPN)
        instance = b"restart%d" % number
        await link.send_many([greeting(1, instance=instance), encode_message(Offers(offers=(offer,)))])
        said: list[type] = []
        with trio.fail_after(WAIT_S):
            while Hello not in said:
                said.append(type(decode_message(await link.receive())))
        # A hello of a share that was not offered is passed over, and both would wait for ever.
        assert said.index(Offers) < said.index(Hello)
        await link.aclose()


async def test_a_device_removed_while_it_greets_is_not_connected(lab: Lab) -> None:
    maple, willow = await lab.daemon("maple"), await lab.daemon("willow")
    await connect(maple, willow)
    await maple.backend.device_pause("willow")
    state = maple.peer(willow)
    assert state is not None
    state.record = maple.supervisor.devices.peer(state.record.device)
    link = await dialled(maple, willow, MAIN_ALPN)
    await maple.backend.device_remove("willow", everywhere=False)
    await link.send(greeting(1))
    assert await closed(link)
    with pytest.raises(NoSuchDevice):
        maple.backend.device("willow")
    with pytest.raises(DeviceRefused):
        await dialled(maple, willow, MAIN_ALPN)


async def test_a_silent_peer_is_pinged_and_then_given_up(
    two: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    maple, willow = two
    link = maple.peer(willow).link  # type: ignore[union-attr]
    assert link is not None
    monkeypatch.setattr(peerlink, "PING_S", 0.02)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.keep_alive)
        sent = link.sent_bytes
        with trio.fail_after(WAIT_S):
            while link.sent_bytes == sent:  # the ping
                await link.queue_signal.event.wait()
        nursery.cancel_scope.cancel()
    monkeypatch.setattr(peerlink, "SILENT_S", 0.0)
    await link.keep_alive()
    await maple.until(lambda: maple.peer(willow).link is not link, "given up")  # type: ignore[union-attr]


async def test_what_discovery_says_is_a_hint(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    mesh = maple.supervisor.mesh
    device = willow.supervisor.identity.device

    def seen(text: str) -> Seen:
        return Seen(device=text, name="willow", addresses=("127.0.0.1:1",), nameplate=None, version=1)

    maple.supervisor.discovered(seen("nonsense"))
    maple.supervisor.discovered(seen(format_device_id(maple.supervisor.identity.device)))
    maple.supervisor.discovered(seen(format_device_id(device)))
    assert mesh.peers[device].addresses == ("127.0.0.1:1",)
    maple.supervisor.discovered(Lost(device=format_device_id(device)))
    assert mesh.peers[device].addresses == ()
    assert mesh.describe(device) == "willow"
    assert mesh.describe(b"x" * 32) == format_device_id(b"x" * 32)[:7]  # type: ignore[arg-type]


async def test_content_connections_that_nobody_asked_for_are_bounded(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    state = maple.peer(willow)
    assert state is not None
    links = []
    for _ in range(CONTENTS_WAITING_MAX + 3):
        link = await dialled(maple, willow, CONTENT_ALPN)
        await link.stream.send_all(DIALLER_ANSWERS)
        links.append(link)
    assert await closed(links[-1])
    assert len(state.contents) <= CONTENTS_WAITING_MAX
    for link in links:
        await link.aclose()
    await maple.backend.device_pause("willow")
    assert state.contents == []
