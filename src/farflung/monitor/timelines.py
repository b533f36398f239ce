"""Who did what when in the newest rounds, and what else is known of each peer's part in them.

The newest 64 rounds are kept; of all but the newest 8 only the 128 slowest peers. That is some
8 N + 7,168 parts of about 1.4 KB: 21 MB with 1,000 peers. While events are read long after the
journal, 64 N more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from farflung.events import PHASES
from farflung.monitor import inert
from farflung.monitor.columns import OPEN, OUTCOMES

TRAIN, WAIT = PHASES.index("train"), PHASES.index("wait")
KEPT_ROUNDS = 64
WHOLE_ROUNDS = 8
KEPT_PEERS = 128
MAX_SPANS = 64
"""Of one peer in one round."""

NameOf = Callable[[str], str]
Source = Literal["journal", "events"]
JOURNAL: Source = "journal"
EVENTS: Source = "events"


class PeerPart:
    """One peer's part in one round."""

    __slots__ = (
        *("ready", "loss", "steps", "compute_s", "wait_s", "left_out"),
        *("spans", "lr", "grad_norm", "reported"),
    )

    def __init__(self) -> None:
        self.ready = math.nan
        """Wall time."""
        self.loss = math.nan
        self.steps = 0
        self.compute_s = 0.0
        self.wait_s = 0.0
        self.left_out = ""
        self.spans: tuple[float, ...] | None = None
        """As PeerMeasured has them: flat (phase, start, stop), wall times."""
        self.lr = math.nan
        self.grad_norm = math.nan
        self.reported = False
        """Its bytes were counted."""

    def spans_after(self, opened: float) -> list[float]:
        """As measured; of peers that tell nothing, from the times that READY holds."""
        if self.spans is not None:
            return relative(self.spans, opened)
        if not math.isfinite(self.ready):
            return []
        stop = self.ready - opened
        start = stop - self.compute_s
        waited = max(0.0, min(self.wait_s, start))
        known = [TRAIN, max(0.0, start), stop]
        known = [WAIT, start - waited, start, *known] if waited > 0 else known
        return [round(value, 3) for value in known]


class OneRound:
    """What is known of one round."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.fragment = 0
        self.opened = math.nan
        self.resolved = math.nan
        self.outcome = OPEN
        self.attempts = 0
        self.contributors = 0
        self.parts: dict[str, PeerPart] = {}
        self.thinned = 0
        """Peers that are not kept any more."""
        self.aged = False
        self.step = 0
        """Of the newest thing that changed."""

    def part(self, node: str) -> PeerPart | None:
        """None of a peer that is not kept any more."""
        found = self.parts.get(node)
        if found is None and not self.thinned:
            found = self.parts[node] = PeerPart()
        return found

    def slowest(self, most: int) -> list[str]:
        """Who was ready last, or never; by node where that is equal."""
        return sorted(self.parts, key=lambda node: (-self._lateness(node), node))[:most]

    def _lateness(self, node: str) -> float:
        part = self.parts[node]
        if part.left_out or (self.outcome == OPEN and not math.isfinite(part.ready)):
            return math.inf
        return part.ready if math.isfinite(part.ready) else -math.inf

    def thin(self, most: int) -> None:
        self.aged = True
        if len(self.parts) > most:
            kept = set(self.slowest(most))
            self.thinned += len(self.parts) - most
            self.parts = {n: p for n, p in self.parts.items() if n in kept}

    def settle(self, contributors: Iterable[str], why: dict[str, str]) -> None:
        """After the commit: who trained in vain, with the reason if one was given."""
        given = set(contributors)
        for node, part in self.parts.items():
            if node not in given and not part.left_out:
                part.left_out = why.get(node) or "not ready in time"

    def median(self, name: str) -> float:
        """Over the peers that told it; NaN when nobody did."""
        told: list[float] = [getattr(part, name) for part in self.parts.values()]
        known = sorted(value for value in told if math.isfinite(value))
        middle = len(known) // 2
        if not known:
            return math.nan
        return known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2

    def table(self, most: int, name_of: NameOf) -> dict[str, Any]:
        """Timeline of web/src/types.ts."""
        shown = self.slowest(most)
        return {
            "round": self.number,
            "fragment": self.fragment,
            "opened": inert.seconds(self.opened),
            "resolved": inert.seconds(self.resolved),
            "outcome": OUTCOMES[self.outcome],
            "attempts": self.attempts,
            "phases": list(PHASES),
            "peers": [self._row(node, name_of) for node in shown],
            "more": len(self.parts) + self.thinned - len(shown),
        }

    def _row(self, node: str, name_of: NameOf) -> dict[str, Any]:
        part = self.parts[node]
        return {
            "node": node,
            "name": name_of(node),
            "spans": part.spans_after(self.opened),
            "ready": inert.seconds(part.ready - self.opened),
            "left_out": part.left_out,
        }


class Timelines:
    """The newest rounds of each source: a journal may be read long before the events of its first
    rounds are, and figures of a round are complete before it is forgotten."""

    def __init__(self) -> None:
        self._rounds: dict[int, OneRound] = {}
        self._newest = {JOURNAL: -1, EVENTS: -1}

    def of(self, number: int, source: Source) -> OneRound | None:
        """The round, begun if it is new; None of one that is too old to be kept."""
        found = self._rounds.get(number)
        if number > self._newest[source]:
            self._newest[source] = number
            self._age()
        if found is None and number > self._newest[source] - KEPT_ROUNDS and number >= 0:
            found = self._rounds[number] = OneRound(number)
        return found

    def known(self, number: int) -> OneRound | None:
        """The round, if it is kept."""
        return self._rounds.get(number)

    def _age(self) -> None:
        told, journalled = self._newest[EVENTS], self._newest[JOURNAL]
        for number in list(self._rounds):
            if number <= journalled - KEPT_ROUNDS and not told - KEPT_ROUNDS < number <= told:
                del self._rounds[number]
            elif number <= told - WHOLE_ROUNDS and not self._rounds[number].aged:
                self._rounds[number].thin(KEPT_PEERS)

    def __iter__(self) -> Iterator[OneRound]:
        """The newest ones whose opening has a time, newest first."""
        oldest = max(self._newest.values()) - KEPT_ROUNDS
        for number in sorted(self._rounds, reverse=True):
            if number > oldest and math.isfinite(self._rounds[number].opened):
                yield self._rounds[number]


def relative(spans: Sequence[float], opened: float) -> list[float]:
    """Flat (phase, start, stop) of wall times, as seconds after `opened`; unknown phases and spans
    that end before they begin are left out."""
    kept: list[float] = []
    for at in range(0, min(len(spans), 3 * MAX_SPANS) - 2, 3):
        phase, start, stop = spans[at : at + 3]
        if phase in range(len(PHASES)) and start <= stop:
            kept += (int(phase), round(start - opened, 3), round(stop - opened, 3))
    return kept
