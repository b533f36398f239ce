"""From the evidence to a table: each promise with its number of checks and its violations. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from farflung.chaos.evidence import Evidence
from farflung.chaos.figures import figures
from farflung.chaos.judge_liveness import evictions, joins, noticed, progress
from farflung.chaos.judge_processes import ends, resources
from farflung.chaos.judge_safety import (
    agreement,
    arithmetic,
    durability,
    fencing,
    known_keys,
    one_log,
    samples,
)
from farflung.chaos.row import Row
from farflung.chaos.timeline import Timeline

__all__ = ["Judgement", "Row", "judge"]


@dataclass(frozen=True)
class Judgement:
    """The table and the figures."""

    rows: tuple[Row, ...]
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)


def judge(evidence: Evidence) -> Judgement:
    """All rows. A row without a check fails: what was not looked at was not shown."""
    line = Timeline(evidence)
    rows = (
        agreement(evidence),
        one_log(evidence),
        durability(evidence, line),
        samples(evidence),
        arithmetic(evidence),
        fencing(evidence),
        known_keys(evidence),
        resources(evidence),
        progress(evidence, line),
        joins(evidence, line),
        noticed(evidence, line),
        evictions(evidence, line),
        ends(evidence, line),
    )
    return Judgement(rows, figures(evidence, line))
