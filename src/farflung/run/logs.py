"""Logs of processes that we started."""

from __future__ import annotations

from pathlib import Path


def last_line(path: Path) -> str:
    """The last line of a log, for one-sentence errors."""
    if not path.exists():
        return "it wrote nothing"
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"
