"""Sessions with hostile peers, a few of them; the long form: `python -m tests.fuzz`."""

from __future__ import annotations

from hostile_sessions import run_sessions

SESSIONS_IN_CI = 120
SEED = 20_261_124


def test_hostile_sessions_lose_nothing_and_poison_nothing() -> None:
    totals = run_sessions(SESSIONS_IN_CI, SEED)
    assert totals.sessions == SESSIONS_IN_CI
    assert totals.folders > 0
    assert {"Hello", "Delta", "Done", "Ask", "Want", "Know", "Gone", "Summaries", "Closed"} <= set(
        totals.messages
    )
