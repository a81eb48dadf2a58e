"""What is remembered of a paired device between connections."""

from __future__ import annotations

from p2psyncd.core.ids import DeviceId
from p2psyncd.daemon.peerstate import BRIEF_FREE, BRIEF_S, PATIENCE_S_MAX, PeerState
from p2psyncd.store.device import PeerRecord

RECORD = PeerRecord(
    device=DeviceId(bytes(32)),
    name="maple",
    certificate=b"",
    introduced_by=None,
    addresses=(),
    paused=False,
    paired_us=0,
    last_seen_us=0,
    found_by="",
)


def test_a_peer_that_ends_every_connection_at_once_is_dialled_less_and_less_often() -> None:
    state = PeerState(RECORD)
    waits = []
    for _ in range(BRIEF_FREE + 8):
        state.patient_until = 0.0
        state.ended(0.1, 1000.0)
        waits.append(max(state.patient_until - 1000.0, 0.0))
    assert waits[: BRIEF_FREE - 1] == [0.0] * (BRIEF_FREE - 1)
    assert waits[BRIEF_FREE - 1 :] == [1, 2, 4, 8, 16, 32, PATIENCE_S_MAX, PATIENCE_S_MAX, PATIENCE_S_MAX]


def test_a_connection_that_lasted_makes_up_for_brief_ones() -> None:
    state = PeerState(RECORD)
    for _ in range(BRIEF_FREE + 3):
        state.ended(0.1, 1000.0)
    state.patient_until = 0.0
    state.ended(BRIEF_S + 1, 1000.0)
    state.ended(0.1, 1000.0)
    assert state.patient_until == 0.0
