"""Who was struck when, when rounds were committed, who was a member: questions to the evidence."""

from __future__ import annotations

import bisect
import itertools
import statistics
from dataclasses import dataclass
from functools import cached_property

from farflung.chaos.evidence import Evidence, Said
from farflung.chaos.faults import Executed
from farflung.chaos.schedule import HOST, Kind
from farflung.events import Applied, GenerationClosed, GenerationOpened, PeerSuspect, RoundCommitted

RETURN_S = 8.0
"""A struck process needs this long to be itself again: start, connect, catch up."""
MILD = frozenset({Kind.SLOW, Kind.DELAY, Kind.JOIN, Kind.DOUBLE})
"""Kinds that stop nobody."""


@dataclass(frozen=True)
class Timeline:
    """A view of one storm. Times are monotonic seconds of this machine."""

    evidence: Evidence

    @cached_property
    def commits(self) -> list[tuple[float, int]]:
        """(time, round), as the host told."""
        return [
            (s.at_s, s.event.round)
            for s in self.evidence.said.get(HOST, [])
            if isinstance(s.event, RoundCommitted)
        ]

    @cached_property
    def commit_times(self) -> list[float]:
        return [at_s for at_s, _ in self.commits]

    @cached_property
    def calm_round_s(self) -> float:
        """Median time between two commits: of a round that nothing disturbs, with many of them."""
        times = self.commit_times
        gaps = [b - a for a, b in itertools.pairwise(times)]
        return statistics.median(gaps) if gaps else 0.0

    @cached_property
    def bound_s(self) -> float:
        """W: from 'enough peers and the host are sound' to a commit, at most."""
        rules = self.evidence.spec.swarm
        return rules.dead_s + rules.attempt_s + max(1.0, 2 * self.calm_round_s) + RETURN_S

    def next_commit(self, after_s: float) -> float | None:
        """Seconds from `after_s` to the next commit."""
        at = bisect.bisect_right(self.commit_times, after_s)
        return self.commit_times[at] - after_s if at < len(self.commit_times) else None

    @cached_property
    def real(self) -> list[Executed]:
        """Faults that happened."""
        return [e for e in self.evidence.executed if not e.skipped]

    def end_s(self, done: Executed) -> float:
        return done.started_s if done.ended_s is None else done.ended_s

    def struck(
        self, name: str, from_s: float, to_s: float, tail_s: float = 0.0, mild: bool = True
    ) -> list[Executed]:
        """Faults on this node between two times; each counts for `tail_s` after its end."""
        return [
            e
            for e in self._by_node.get(name, [])
            if e.started_s <= to_s
            and self.end_s(e) + tail_s >= from_s
            and (mild or e.kind not in MILD)
        ]

    @cached_property
    def _by_node(self) -> dict[str, list[Executed]]:
        found: dict[str, list[Executed]] = {}
        for done in self.real:
            for name in done.fault.nodes:
                found.setdefault(name, []).append(done)
        return found

    # ---- membership ------------------------------------------------------------------------

    @cached_property
    def _moves(self) -> dict[str, list[tuple[float, bool]]]:
        """Name -> (time, whether the host then counts on it)."""
        found: dict[str, list[tuple[float, bool]]] = {}
        for said in self.evidence.said.get(HOST, []):
            match said.event:
                case GenerationOpened(name=name):
                    found.setdefault(name, []).append((said.at_s, True))
                case GenerationClosed(name=name) | PeerSuspect(name=name):
                    found.setdefault(name, []).append((said.at_s, False))
                case _:
                    pass
        return found

    def member(self, name: str, at_s: float) -> bool:
        """Whether the host counted on this peer: its stay was open and it was not suspect."""
        moves = self._moves.get(name, [])
        at = bisect.bisect_right([t for t, _ in moves], at_s)
        return at > 0 and moves[at - 1][1]

    def contributions(self, name: str) -> list[tuple[float, int]]:
        """(time, round) of the commits that this peer applied as one of their contributors."""
        return [
            (s.at_s, s.event.round)
            for s in self.evidence.said.get(name, [])
            if isinstance(s.event, Applied) and s.event.contributed
        ]

    def first_contribution(self, name: str, from_s: float, to_s: float) -> float | None:
        """Time of the first one between two times."""
        return next((t for t, _ in self.contributions(name) if from_s <= t <= to_s), None)

    def said_between(self, log: str, from_s: float, to_s: float) -> list[Said]:
        return [s for s in self.evidence.said.get(log, []) if from_s <= s.at_s <= to_s]

    @cached_property
    def trainers(self) -> list[str]:
        """Logs of peers, second processes left out."""
        return [life.name for life in self.evidence.lives if life.number == 0 and life.name != HOST]
