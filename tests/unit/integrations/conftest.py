"""Makes the agent's end (tests/unit/inner/agent_end.py) importable here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "inner"))
