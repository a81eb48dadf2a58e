"""Sessions between whole daemons: what a person asks for while they have work of their own."""

from __future__ import annotations

import trio
from daemons import WAIT_S, Daemon, share
from trio.testing import wait_all_tasks_blocked

from p2psyncd.daemon.report import drivers_of


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
