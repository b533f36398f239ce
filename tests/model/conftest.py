"""The driver of the real coordinator lies with the tests of its room."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "swarm"))
