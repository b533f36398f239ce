"""Can this peer ever catch up? What the log grows by against what it downloads. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from farflung.peer.disk_budget import show_size

LEAST_S = 20.0
LEAST_ROUNDS = 3
"""Before both have passed nothing is judged."""
LEAST_GROWTH = 64 << 10
"""Bytes per second that every link carries: below, delays are measured, not bandwidth."""
MARGIN = 2.0
"""A trainer must fetch at least this many times what the log grows by: it also contributes."""


@dataclass(frozen=True, kw_only=True)
class CatchUpRate:
    """Measured from the beginning of a replay until now."""

    since_s: float
    rounds: int
    """Resolved by the others meanwhile."""
    grown_bytes: int
    """Result bytes of those rounds."""
    fetched_bytes: int
    """Downloaded, the snapshot included."""
    busy_s: float
    """Seconds in which something was being downloaded."""

    def refusal(self) -> str:
        """One sentence when the log outgrows the download; '' when it does not, or too early."""
        if self.since_s < LEAST_S or self.rounds < LEAST_ROUNDS or self.busy_s <= 0:
            return ""
        growth = self.grown_bytes / self.since_s
        download = self.fetched_bytes / self.busy_s
        if growth < LEAST_GROWTH or download >= MARGIN * growth:
            return ""
        return (
            f"the run's log grows by {show_size(growth)}/s and this peer downloads "
            f"{show_size(download)}/s; to train it needs {MARGIN:g} times the growth, "
            f"{show_size(MARGIN * growth)}/s: use a faster link, or a run with more inner steps"
        )
