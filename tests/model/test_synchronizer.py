"""The published property on real daemons; see `file_model.py` and `property.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from p2plab.installed import Installed
from p2plab.network import Lab

sys.path.insert(0, str(Path(__file__).parent))

from cluster import Cluster
from property import Command, examples, run_example

# More, and other ones every time, with MODEL_EXAMPLES=300 (or `python -m tests.model --examples 300`).
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))


@pytest.mark.lan
def test_what_users_see_on_three_devices_has_an_explanation(
    lab: Lab, installed: Installed, short_folder: Path
) -> None:
    cluster = Cluster(lab, short_folder, installed)
    cluster.begin()

    @settings(
        max_examples=EXAMPLES or 10,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        # The daemons' timing is not drawn: an example that is run again is another one.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(examples)
    def holds(example: list[Command]) -> None:
        assert run_example(cluster, example)

    try:
        holds()
    finally:
        # Shown with the test if it fails.
        sys.stdout.writelines(cluster.logs())
        cluster.end()
