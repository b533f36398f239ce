"""What a coordinator tells a node that asks about the run.

A Frame (web/src/types.ts) with fewer entries, `running` and the run's `spec` as JSON. However many
peers there are and whatever they call themselves, it is smaller than `MOST_BYTES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from farflung.config.run import spec_bytes
from farflung.monitor.view import View

Json = dict[str, Any]

FRESH_S = 0.5
"""So long everybody gets the same answer: hundreds of people who watch cost as much as one."""
POINTS, EVALUATIONS, PEERS, TIMELINES, TRACKS = 200, 64, 100, 3, 48
LINKED, LINES = 12, 64
KIB = 1024
MOST_BYTES = 896 * KIB
BUDGETS = {
    "evaluations": 304 * KIB,
    "peers": 160 * KIB,
    "timeline": 72 * KIB,
    "lines": 96 * KIB,
    "regions": 32 * KIB,
}
"""Bytes of a kind; those of each timeline. What is in a frame besides is bounded by its counts."""


class Answers:
    """Owned by the coordinator's loop, like the view: it is read while nobody feeds it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._made_s = -math.inf
        self._frame: Json = {}
        self._text = ""
        self._shown: frozenset[str] = frozenset()

    def to(self, asker: str, *, at_s: float, now: float) -> str:
        """The answer to the node `asker` as JSON; its own row is in it, wherever it ranks.
        `at_s`: seconds of a monotonic clock. `now`: unix seconds."""
        if at_s - self._made_s >= FRESH_S:
            self._make(now)
            self._made_s = at_s
        own = None if asker in self._shown else self._view.peer(asker, now)
        if own is None:
            return self._text
        return _text({**self._frame, "peers": [*self._frame["peers"], own]})

    def _make(self, now: float) -> None:
        view = self._view
        peers = view.peers(now, PEERS)
        rows = _fitting(peers, BUDGETS["peers"])
        scores = view.evaluations(EVALUATIONS)
        scores[:-1] = [score | {"samples": []} for score in scores[:-1]]
        self._frame = {
            "running": True,
            "spec": spec_bytes(view.spec).decode(),
            "head": view.head(now),
            "rounds": view.rounds(points=POINTS),
            "evaluations": _fitting(scores[::-1], BUDGETS["evaluations"])[::-1],
            "peers": rows,
            "regions": _fitting(view.regions(), BUDGETS["regions"]),
            "timelines": [_shortened(one) for one in view.newest_timelines(TIMELINES, TRACKS)],
            "links": view.links(LINKED),
            "lines": _fitting(view.lines(limit=LINES), BUDGETS["lines"]),
        }
        if len(rows) < len(view):
            self._frame["peers_total"] = len(view)
        self._frame = {key: _raw(part) for key, part in self._frame.items()} | {"peers": rows}
        self._shown = frozenset(p["node"] for p in peers[: len(rows)])
        self._text = _text(self._frame)


def _shortened(timeline: Json) -> Json:
    """With the slowest peers whose parts fit."""
    parts = timeline["peers"]
    kept = _fitting(parts, BUDGETS["timeline"])
    return timeline | {"peers": kept, "more": timeline["more"] + len(parts) - len(kept)}


def _fitting(items: Iterable[Json], budget: int) -> list[msgspec.Raw]:
    """The first ones that take `budget` bytes together."""
    kept: list[msgspec.Raw] = []
    for item in items:
        coded = _raw(item)
        budget -= len(coded) + 1
        if budget < 0:
            break
        kept.append(coded)
    return kept


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _text(frame: Json) -> str:
    return msgspec.json.encode(frame).decode()
