"""Numbers of a storm: how many of what, and how long recoveries took. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from farflung.chaos.evidence import Evidence
from farflung.chaos.schedule import HOST, Kind
from farflung.chaos.timeline import RETURN_S, Timeline
from farflung.events import RoundAbandoned, RunStarted
from farflung.swarm.records import Join


def figures(evidence: Evidence, line: Timeline) -> dict[str, Any]:
    """For the JSON report; times in seconds."""
    kinds = Counter(str(e.kind) for e in line.real)
    skipped = Counter(str(e.kind) for e in evidence.executed if e.skipped)
    abandoned = [s for s in evidence.said.get(HOST, []) if isinstance(s.event, RoundAbandoned)]
    doubles = Counter(e.outcome for e in line.real if e.kind is Kind.DOUBLE)
    return {
        "rounds_committed": len(line.commits),
        "rounds_abandoned": len(abandoned),
        "faults": dict(sorted(kinds.items())),
        "faults_skipped": dict(sorted(skipped.items())),
        "identities": sum(isinstance(r, Join) for r in evidence.records),
        "processes": len(evidence.lives),
        "double_starts": dict(sorted(doubles.items())),
        "median_s_between_commits": round(line.calm_round_s, 3),
        "longest_s_between_commits": round(_longest(line.commit_times), 3),
        "s_from_peer_kill_to_next_commit": _spread(_after(line, Kind.KILL)),
        "s_from_peer_start_to_contribution": _spread(_returns(evidence, line)),
        "s_from_join_to_contribution": _spread(_joins(evidence, line)),
        "s_from_host_start_to_next_commit": _spread(_host_returns(evidence, line)),
        "join_stall_percent_of_a_round": _spread(_stalls(evidence, line)),
        "relay": {
            "connections": evidence.counts.connections,
            "unmapped": evidence.counts.unmapped,
            "resets": evidence.counts.resets,
            "bytes": evidence.counts.bytes,
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    return {
        "n": len(values),
        "median": round(statistics.median(values), 3) if values else None,
        "max": round(max(values), 3) if values else None,
    }


def _longest(times: Sequence[float]) -> float:
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def _after(line: Timeline, kind: Kind) -> list[float]:
    """From each fault of a kind to the next commit, where one came."""
    found = (line.next_commit(e.started_s) for e in line.real if e.kind is kind)
    return [s for s in found if s is not None]


def _returns(evidence: Evidence, line: Timeline) -> list[float]:
    """From each later start of a peer to its first contribution in that life."""
    found = []
    for life in evidence.lives:
        if life.number and life.name != HOST:
            end_s = float("inf") if life.ended_s is None else life.ended_s
            first_s = line.first_contribution(life.name, life.started_s, end_s)
            if first_s is not None:
                found.append(first_s - life.started_s)
    return found


def _joins(evidence: Evidence, line: Timeline) -> list[float]:
    found = []
    for life in evidence.lives:
        if not life.number and life.name.startswith("late"):
            end_s = float("inf") if life.ended_s is None else life.ended_s
            first_s = line.first_contribution(life.name, life.started_s, end_s)
            if first_s is not None:
                found.append(first_s - life.started_s)
    return found


def _host_returns(evidence: Evidence, line: Timeline) -> list[float]:
    """From the start of each later host process to the first commit of its own term."""
    terms = [s.at_s for s in evidence.said.get(HOST, []) if isinstance(s.event, RunStarted)]
    found = []
    for life in evidence.lives:
        if life.name != HOST or not life.number:
            continue
        end_s = float("inf") if life.ended_s is None else life.ended_s
        term_s = next((t for t in terms if life.started_s <= t <= end_s), None)
        wait_s = None if term_s is None else line.next_commit(term_s)
        if term_s is not None and wait_s is not None and term_s + wait_s <= end_s:
            found.append(term_s + wait_s - life.started_s)
    return found


def _stalls(evidence: Evidence, line: Timeline) -> list[float]:
    """What the others' longest gap around a join is above a usual round, in percent of it; only
    joins around which nothing else happened."""
    found = []
    for life in evidence.lives:
        if life.number or not life.name.startswith("late"):
            continue
        first_s = line.first_contribution(life.name, life.started_s, float("inf"))
        if first_s is None:
            continue
        others = [
            e
            for e in line.real
            if e.kind is not Kind.JOIN
            and e.started_s <= first_s
            and line.end_s(e) + RETURN_S >= life.started_s
        ]
        if not others and line.calm_round_s:
            times = [t for t in line.commit_times if life.started_s - 2 <= t <= first_s + 1]
            found.append(100 * max(0.0, _longest(times) / line.calm_round_s - 1))
    return found
