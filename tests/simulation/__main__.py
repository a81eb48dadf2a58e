"""`python -m tests.simulation`: see `runner`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from runner import main

sys.exit(main())
