"""Sessions between whole daemons: what a person asks for while they have work of their own."""

from __future__ import annotations

import trio
from daemons import WAIT_S, Daemon, share
from trio.testing import wait_all_tasks_blocked

from p2psyncd.daemon.report import drivers_of
from p2psyncd.wire.session import State


async def test_a_comparison_that_is_asked_for_during_a_descent_comes_after_it(
    two: tuple[Daemon, Daemon],
) -> None:
    maple, willow = two
    maple.make("f", a_txt="a")
    await share(maple, willow)
    [(_, driver)] = drivers_of(maple.supervisor.mesh, maple.running("f"))
    session = driver.session
    # As one begins that looks what the peer lacks.
    session.descending = session.offering = True
    session.lacking, session.surplus, session.to_ask = [], [], [b""]
    found: list[object] = []

    async def compare() -> None:
        found.append(await driver.inspect(within_s=WAIT_S))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(compare)
        await wait_all_tasks_blocked()
        assert not found
        driver.link.post(session.ask().message)
    assert found == [([], {}, 0)]


async def test_who_waits_for_a_session_hears_of_the_end_of_our_stream(two: tuple[Daemon, Daemon]) -> None:
    maple, willow = two
    maple.make("f", a_txt="a")
    await share(maple, willow)
    replica = maple.running("f").replica
    [(_, driver)] = drivers_of(maple.supervisor.mesh, maple.running("f"))
    # As if the peer had said all that it has to say before.
    driver.session.state = State.STREAMING
    async with trio.open_nursery() as nursery:
        waiting = replica.signal.event
        async with driver.turn:
            await driver.push_news(nursery, streamed=True)
        assert waiting.is_set()
    assert driver.session.pushes
