"""`make report` counts and never judges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_report_prints_every_part_and_ends_well() -> None:
    report = Path(__file__).parents[1] / "house_report.py"
    done = subprocess.run([sys.executable, report], capture_output=True, text=True, check=True)
    for part in ("Rooms", "Longest files", "Longest functions", "Constructors", "Classes by"):
        assert part in done.stdout
    assert "bare create_task" in done.stdout and "Broad excepts" in done.stdout
