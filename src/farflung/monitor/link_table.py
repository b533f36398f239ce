"""The newest figures of links between nodes, and who owns how much of a round."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from farflung.monitor import inert

KEPT_PAIRS = 20_000
"""Those that were measured last; about 250 bytes each, 5 MB."""
FRESH_ROUNDS = 2
"""A link is drawn as active this many rounds: reports of the newest one come one by one."""


class Measure(NamedTuple):
    round: int
    bytes: int
    bytes_per_s: float
    rtt_s: float
    loss: float


class LinkTable:
    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], Measure] = OrderedDict()
        self._ends: Counter[str] = Counter()
        """How many pairs a node is in."""
        self._round = -1
        self.owners: dict[str, float] = {}
        """Share of the newest attempt's slices."""
        self.step = 0

    def measure(self, source: str, target: str, measured: Measure) -> None:
        if (source, target) not in self._pairs:
            self._ends.update((source, target))
        self._pairs[source, target] = measured
        self._pairs.move_to_end((source, target))
        if len(self._pairs) > KEPT_PAIRS:
            forgotten, _ = self._pairs.popitem(last=False)
            for node in forgotten:
                self._ends[node] -= 1
                if not self._ends[node]:
                    del self._ends[node]
        self._round = max(self._round, measured.round)

    def own(self, round_: int, slices: Sequence[tuple[str, float]]) -> None:
        """(owner, elements or share) of the newest attempt."""
        total = sum(length for _, length in slices) or 1.0
        owned: dict[str, float] = {}
        for owner, length in slices:
            owned[owner] = owned.get(owner, 0.0) + length / total
        self.owners = owned
        self._round = max(self._round, round_)

    def table(
        self, most: int, weight: Callable[[str], int], describe: Callable[[str], dict[str, str]]
    ) -> dict[str, Any]:
        """Links of web/src/types.ts: the `most` nodes of the largest weight, and all pairs among
        them. `describe` gives node, name and region."""
        linked = self._ends.keys() | self.owners.keys()
        nodes = sorted(linked, key=lambda node: (-weight(node), node))[:most]
        index = {node: at for at, node in enumerate(nodes)}
        return {
            "round": self._round,
            "nodes": [describe(node) for node in nodes],
            "pairs": [
                self._pair(index[source], index[target], self._pairs[source, target])
                for source, target in self._among(nodes)
            ],
            "owners": [
                {"node": index[node], "share": round(share, 4)}
                for node, share in sorted(self.owners.items())
                if node in index
            ],
            "more": len(linked) - len(nodes),
        }

    def _among(self, nodes: Sequence[str]) -> list[tuple[str, str]]:
        """In order: whatever is fewer is looked through, all pairs or those that could be."""
        if len(nodes) ** 2 < len(self._pairs):
            ordered = sorted(nodes)
            return [(a, b) for a in ordered for b in ordered if (a, b) in self._pairs]
        wanted = set(nodes)
        return sorted(pair for pair in self._pairs if wanted.issuperset(pair))

    def _pair(self, source: int, target: int, measured: Measure) -> dict[str, Any]:
        fresh = measured.round > self._round - FRESH_ROUNDS and measured.bytes > 0
        return {
            "from": source,
            "to": target,
            "bytes_per_s": _known(measured.bytes_per_s),
            "rtt_s": _known(measured.rtt_s),
            "loss": inert.number(measured.loss, 4) if measured.loss >= 0 else None,
            "bytes": measured.bytes if fresh else 0,
            "active": fresh,
        }


def _known(value: float) -> float | None:
    """0 and below stand for what was not measured."""
    return inert.number(value, 4) if math.isfinite(value) and value > 0 else None
