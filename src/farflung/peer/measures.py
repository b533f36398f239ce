"""What this node did when, in each round: for people, decided by nobody (decisions/0029).

A phase is entered and left by whoever does it; several at a time (slices, links) are one span from
the first to the last. Time that no phase covers is `wait`. Everything is bounded: a round that is
never resolved is forgotten, and a phase that is entered too often is only counted as waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from farflung.events import PHASES
from farflung.network.messages import LinkFigures, RoundMeasures
from farflung.trainers.port import StepFigures, WorkReport

MAX_SPANS = 64
"""Of a message. The shortest are left out."""
MAX_ROUNDS = 8
"""Unresolved ones; more than any window."""
MAX_KEPT = 512
"""Spans of a round in memory."""
MAX_TEXT = 64
SHORTEST_S, SHORTEST_SHARE = 0.001, 0.002
"""Nothing shorter is told, in seconds or as a share of what the node did in the round; a phase that
goes on after so short a pause is one span."""

WAIT = PHASES.index("wait")
Span = tuple[int, float, float]
"""(index into PHASES, start, stop)."""


@dataclass
class _Round:
    began_s: float
    spans: list[Span] = field(default_factory=list)
    inside: dict[int, tuple[int, float]] = field(default_factory=dict)
    """By phase: how many are in it, since when."""
    steps: StepFigures | None = None
    tokens_per_s: float = 0.0


class RoundBook:
    """Owned by the agent's loop; lives as long as the process."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: seconds of any clock that never goes back."""
        self._now = now
        self._rounds: dict[int, _Round] = {}
        self._closed = -1
        """Rounds up to this one are told: what still ends in them is too late."""
        self.device = ""
        """As the trainer last named it."""

    def begin(self, round_: int) -> None:
        """This node turns to a round: what it does not do from now on is waiting. Phases of rounds
        that were not begun are not kept: a node that catches up tells nothing."""
        if round_ <= self._closed or round_ in self._rounds:
            return
        self._rounds[round_] = _Round(self._now())
        if len(self._rounds) > MAX_ROUNDS:
            del self._rounds[min(self._rounds)]

    def knows(self, round_: int) -> bool:
        """Whether there is something to tell of it."""
        return round_ in self._rounds

    @contextmanager
    def during(self, round_: int, phase: str) -> Iterator[None]:
        """The phase lasts as long as the block, however that ends."""
        self.enter(round_, phase)
        try:
            yield
        finally:
            self.leave(round_, phase)

    def enter(self, round_: int, phase: str) -> None:
        book, index = self._rounds.get(round_), PHASES.index(phase)
        if book is not None:
            count, since_s = book.inside.get(index, (0, self._now()))
            book.inside[index] = (count + 1, since_s)

    def leave(self, round_: int, phase: str) -> None:
        """Nothing, when it was ended by `interrupt` or the round is told."""
        book, index = self._rounds.get(round_), PHASES.index(phase)
        if book is None or index not in book.inside:
            return
        count, since_s = book.inside.pop(index)
        if count > 1:
            book.inside[index] = (count - 1, since_s)
        else:
            _keep(book, (index, since_s, self._now()))

    def interrupt(self, round_: int, phase: str) -> None:
        """Whoever is in the phase has left it: an attempt failed, a commit is here."""
        book, index = self._rounds.get(round_), PHASES.index(phase)
        if book is not None and index in book.inside:
            _keep(book, (index, book.inside.pop(index)[1], self._now()))

    def trained(self, round_: int, report: WorkReport) -> None:
        """What the trainer tells of its steps."""
        self.device = report.figures.device[:MAX_TEXT] or self.device
        book = self._rounds.get(round_)
        if book is not None and report.steps:
            book.steps = report.figures
            book.tokens_per_s = report.tokens / report.compute_s if report.compute_s > 0 else 0.0

    def close(self, round_: int, links: Sequence[LinkFigures]) -> RoundMeasures | None:
        """The round is resolved: what to tell of it, to be sent at once. None: nothing happened
        here. Older rounds are forgotten."""
        now_s, book = self._now(), self._rounds.get(round_)
        self._closed = max(self._closed, round_)
        self._rounds = {r: b for r, b in self._rounds.items() if r > self._closed}
        if book is None:
            return None
        for index, (_, since_s) in book.inside.items():
            book.spans.append((index, since_s, now_s))
        steps = book.steps or StepFigures()
        return RoundMeasures(
            round=round_,
            spans=tuple((i, now_s - a, now_s - b) for i, a, b in told(book.began_s, book.spans)),
            links=tuple(links),
            lr=steps.lr,
            grad_norm=steps.grad_norm,
            tokens_per_s=book.tokens_per_s,
            mfu=steps.mfu,
            flops=steps.flops,
            data_wait_s=steps.data_wait_s,
            copy_s=steps.copy_s,
            memory_bytes=steps.memory_bytes,
            device=self.device,
        )


def _keep(book: _Round, span: Span) -> None:
    if len(book.spans) < MAX_KEPT:
        book.spans.append(span)


def told(began_s: float, spans: Sequence[Span]) -> list[Span]:
    """The spans of a round, joined where a phase goes on, with its waits, by order of start."""
    lasted_s = max((stop_s for *_, stop_s in spans), default=began_s) - began_s
    least_s = max(SHORTEST_S, SHORTEST_SHARE * lasted_s)
    joined = [s for s in _joined(spans, least_s) if s[2] - s[1] >= least_s]
    found = joined + _waits(began_s, joined, least_s)
    longest = sorted(found, key=lambda s: s[1] - s[2])[:MAX_SPANS]
    return sorted(longest, key=lambda s: (s[1], s[2], s[0]))


def _joined(spans: Sequence[Span], least_s: float) -> list[Span]:
    last: dict[int, Span] = {}
    found: list[Span] = []
    for index, start_s, stop_s in sorted(spans, key=lambda s: s[1]):
        before = last.get(index)
        if before is not None and start_s - before[2] <= least_s:
            last[index] = (index, before[1], max(before[2], stop_s))
            continue
        if before is not None:
            found.append(before)
        last[index] = (index, start_s, stop_s)
    return found + list(last.values())


def _waits(began_s: float, spans: Sequence[Span], least_s: float) -> list[Span]:
    """From the beginning to the end of the last span, where there is none."""
    found: list[Span] = []
    covered_s = began_s
    for _, start_s, stop_s in sorted(spans, key=lambda s: s[1]):
        if start_s - covered_s >= least_s:
            found.append((WAIT, covered_s, start_s))
        covered_s = max(covered_s, stop_s)
    return found
