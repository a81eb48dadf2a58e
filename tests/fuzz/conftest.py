"""Makes this folder's modules, and the simulation's, importable (tests have no packages)."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "simulation")]
