"""Runs `namespace/inside.py` in a user, network and mount namespace of its own; works without root."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
INSIDE = Path(__file__).parent / "namespace" / "inside.py"


def why_not() -> str | None:
    """Return why namespaces cannot be made here, or None."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "needs unshare and ip (apt-get install util-linux iproute2)"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"this system allows no user namespaces: {tried.stderr.strip()}" if tried.returncode else None


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_discovery_and_interfaces_in_a_network_of_their_own() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(INSIDE)]
    done = subprocess.run([*UNSHARE, *command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
