"""How long a peer may take over what it was asked for."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2psyncd.daemon.fetcher import within
from p2psyncd.errors import RemoteProtocolError


async def test_a_peer_that_drips_is_given_up(autojump_clock: MockClock) -> None:
    del autojump_clock
    began = trio.current_time()
    with pytest.raises(RemoteProtocolError, match="90 s"):
        await within(90, trio.sleep_forever)
    assert trio.current_time() == began + 90


async def test_what_comes_in_time_comes(autojump_clock: MockClock) -> None:
    del autojump_clock

    async def call() -> int:
        await trio.sleep(89)
        return 5

    assert await within(90, call) == 5
