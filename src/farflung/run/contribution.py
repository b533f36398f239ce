"""What one node has given to a run: from its copy of the journal, which every node can check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from farflung.swarm import ranges
from farflung.swarm.records import AnyRecord, Commit, Evaluation
from farflung.swarm.resolve import shown_tokens
from farflung.words import counted


@dataclass(frozen=True, kw_only=True)
class Given:
    """Of one node, over some records."""

    rounds: int = 0
    """Committed with a contribution of it."""
    samples: int = 0
    """Credited to it."""
    tokens: int = 0
    """As its program counted them."""
    share: float = 0.0
    """Of the samples that these records credit to anybody."""
    evaluations: int = 0
    """Measured by it."""


def given_by(node: str, records: Iterable[AnyRecord], seq_len: int) -> Given:
    """The node's part in the commits among `records`."""
    rounds, mine, everybody, tokens, evaluations = 0, 0, 0, 0, 0
    for record in records:
        if isinstance(record, Evaluation):
            evaluations += record.node == node
        if not isinstance(record, Commit):
            continue
        for contributor in record.contributors:
            rows = ranges.count(contributor.credited)
            everybody += rows
            if contributor.node == node:
                rounds += 1
                mine += rows
                tokens += shown_tokens(contributor, seq_len)
    share = mine / everybody if everybody else 0.0
    return Given(rounds=rounds, samples=mine, tokens=tokens, share=share, evaluations=evaluations)


def tell(given: Given, total: Given, hours: float, up: int, down: int) -> str:
    """For people. `given`: of this process, `total`: of the node's whole time in the run; `up`,
    `down`: bytes that this process moved."""
    text = (
        f"contributed to {counted(given.rounds, 'round')}: {counted(given.tokens, 'token')}, "
        f"{counted(given.samples, 'sample')}, {100 * given.share:.1f} % of the run's in "
        f"{_duration(hours)}; "
        f"{up / 1e6:,.1f} MB up, {down / 1e6:,.1f} MB down"
    )
    if total.rounds != given.rounds:
        text += f" (in all {counted(total.rounds, 'round')}, {counted(total.tokens, 'token')})"
    return text


def tell_evaluator(given: Given, total: Given, hours: float, up: int, down: int) -> str:
    """As `tell`, for a node that trains nothing."""
    times = f"{given.evaluations:,} time{'s' if given.evaluations != 1 else ''}"
    text = (
        f"measured the model {times} in {_duration(hours)}; "
        f"{up / 1e6:,.1f} MB up, {down / 1e6:,.1f} MB down"
    )
    if total.evaluations != given.evaluations:
        text += f" (in all {total.evaluations:,} times)"
    return text


def _duration(hours: float) -> str:
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"
