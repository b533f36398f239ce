"""The rounds of a run as NumPy columns, and how they are drawn with fewer points.

One entry per round number, 112 bytes each: 100,000 rounds take 11 MB. Columns double as the run
grows. NaN: not known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from farflung.monitor import inert

Floats = NDArray[np.float64]

OPEN, COMMITTED, ABANDONED = 0, 1, 2
OUTCOMES = ("open", "committed", "abandoned")
FIRST_CAPACITY = 256
NEAR = 64
"""Rounds that may be unresolved at a time, generously: how far back the end of the round before is
looked for."""
JUMP = 1 << 20
"""A round number this far above all others is damage, not a round."""


class RoundColumns:
    """Everything is written in place, as often as it is told: the last word stands."""

    FLOATS = (
        *("opened", "at", "loss", "lr", "grad_norm"),
        *("took_s", "compute_s", "wait_s", "bytes_up"),
    )
    COUNTS = ("tokens", "peers", "outcome", "step")

    def __init__(self) -> None:
        self.length = 0
        """One above the largest round number."""
        self._columns: dict[str, NDArray[Any]] = {
            **{name: np.full(FIRST_CAPACITY, np.nan) for name in self.FLOATS},
            **{name: np.zeros(FIRST_CAPACITY, np.int64) for name in self.COUNTS},
        }

    def reach(self, round_: int) -> bool:
        """Make room for this round. False when the number cannot be one."""
        if not 0 <= round_ < self.length + JUMP:
            return False
        capacity = len(self._columns["opened"])
        if round_ >= capacity:
            for name, old in self._columns.items():
                empty = np.nan if name in self.FLOATS else 0
                new = np.full(max(2 * capacity, round_ + 1), empty, old.dtype)
                new[:capacity] = old
                self._columns[name] = new
        self.length = max(self.length, round_ + 1)
        return True

    def set(self, round_: int, **values: float) -> None:
        for name, value in values.items():
            self._columns[name][round_] = value

    def add(self, round_: int, name: str, value: float) -> None:
        """Sums begin at nothing, which is NaN."""
        column = self._columns[name]
        known = column.item(round_)
        column[round_] = known + value if known == known else value  # a scalar's NaN, fast

    def raise_to(self, round_: int, name: str, value: float) -> None:
        column = self._columns[name]
        if not column.item(round_) >= value:  # NaN too
            column[round_] = value

    def get(self, name: str, round_: int) -> float:
        """NaN, or 0 for counts, of a round that is not known."""
        if not 0 <= round_ < self.length:
            return 0 if name in self.COUNTS else float("nan")
        return float(self._columns[name][round_])

    def part(self, name: str, first: int, stop: int) -> NDArray[Any]:
        """A view of rounds first..stop (exclusive)."""
        found: NDArray[Any] = self._columns[name][first:stop]
        return found

    # ---- what follows from the columns ---------------------------------------------------------

    def seconds(self, first: int, stop: int) -> Floats:
        """How long each round kept the swarm: from its opening, or from the end of the one before
        where they overlap, to its own end. `took_s` where wall times are missing; rounds of which
        an old log keeps nothing share the time between their neighbours' ends."""
        before = max(0, first - NEAR)
        done = self.part("outcome", before, stop + NEAR) == COMMITTED
        at = _filled(self.part("at", before, stop + NEAR), done)[: stop - before]
        ended = np.maximum.accumulate(np.where(np.isnan(at), -np.inf, at))
        since = np.fmax(self.part("opened", before, stop), np.r_[-np.inf, ended[:-1]][: len(at)])
        since[~np.isfinite(since)] = np.nan
        spent = np.maximum(at - since, 0.0)[first - before :]
        return np.where(np.isnan(spent), self.part("took_s", first, stop), spent)

    def tokens_before(self, first: int) -> int:
        """Committed in all rounds below."""
        return int(self.part("tokens", 0, first).sum())

    def newest(self, count: int) -> range:
        """Bounds of the newest `count` rounds, those behind the last resolved one left out."""
        resolved = np.flatnonzero(self.part("outcome", max(0, self.length - 4096), self.length))
        if not len(resolved):
            return range(0)
        stop = max(0, self.length - 4096) + int(resolved[-1]) + 1
        return range(max(0, stop - count), stop)

    def changed(self, since: int, look_back: int = 1024) -> list[int]:
        """Resolved rounds that were told of after step `since`, among the newest ones."""
        first = max(0, self.length - look_back)
        new = (self.part("step", first, self.length) > since) & (
            self.part("outcome", first, self.length) != OPEN
        )
        return [first + int(i) for i in np.flatnonzero(new)]

    def row(self, round_: int) -> dict[str, Any] | None:
        """RoundRow of web/src/types.ts; None of an open or unknown round."""
        if not 0 <= round_ < self.length or self.get("outcome", round_) == OPEN:
            return None
        columns = self.table(round_, round_ + 1, 1)
        names = (
            *("round", "at", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "peers"),
            *("took_s", "utilisation", "bytes_up", "abandoned"),
        )
        return {name: columns[name][0] for name in names}

    def table(self, first: int, stop: int, points: int) -> dict[str, Any]:
        """Rounds of web/src/types.ts: at most `points` buckets of rounds first..stop (exclusive).

        Buckets begin at multiples of their stride, so that a longer table has the same ones.
        """
        first, stop = max(0, first), max(0, min(stop, self.length))
        first = min(first, stop)
        known = first + np.flatnonzero(self.part("outcome", first, stop) != OPEN)
        stride = stride_for(first, stop, max(1, points))
        starts = np.flatnonzero(np.r_[True, np.diff(known // stride) > 0]) if len(known) else known
        pick = known - first
        made: dict[str, Any] = {"from": first, "to": stop, "stride": stride}
        return made | self._bucketed(first, stop, pick, starts)

    def _bucketed(
        self, first: int, stop: int, pick: NDArray[Any], starts: NDArray[Any]
    ) -> dict[str, list[Any]]:
        def of(name: str) -> NDArray[Any]:
            column = self.part(name, first, stop)
            found: NDArray[Any] = column if len(pick) == len(column) else column[pick]
            return found

        buckets = Buckets(starts, len(pick))
        committed = of("outcome") == COMMITTED
        seconds = self.seconds(first, stop)[pick]
        timed = np.where(np.isfinite(seconds), seconds, 0.0)
        busy, idle = of("compute_s"), of("wait_s")
        contributors = np.where(committed, of("peers"), np.nan)
        tokens = np.where(np.isfinite(seconds), of("tokens"), 0)
        total = self.tokens_before(first) + np.cumsum(self.part("tokens", first, stop))[pick]
        return {
            "round": buckets.last(pick + first),
            "at": [inert.seconds(t) for t in buckets.largest(of("at"))],
            "loss": inert.of_series(buckets.mean(of("loss"))),
            "loss_min": inert.of_series(buckets.smallest(of("loss"))),
            "loss_max": inert.of_series(buckets.largest(of("loss"))),
            "lr": inert.of_series(buckets.mean(of("lr"))),
            "grad_norm": inert.of_series(buckets.mean(of("grad_norm"))),
            "tokens": buckets.last(total),
            "tokens_per_s": inert.of_series(buckets.ratio(tokens, timed)),
            "peers": [round(p or 0) for p in inert.of_series(buckets.mean(contributors))],
            "took_s": inert.of_series(buckets.mean(of("took_s"))),
            "utilisation": inert.of_series(buckets.ratio(busy, busy + idle), 4),
            "bytes_up": inert.of_counts(buckets.largest(of("bytes_up"))),
            "abandoned": buckets.sums(~committed),
        }


def _filled(at: Floats, done: NDArray[np.bool_]) -> Floats:
    """Times of rounds, those of the done ones between known ones interpolated."""
    known, lost = np.flatnonzero(np.isfinite(at)), np.flatnonzero(np.isnan(at) & done)
    if not len(known) or not len(lost):
        return at
    filled = at.copy()
    filled[lost] = np.interp(lost, known, at[known], left=np.nan, right=np.nan)
    return filled


class Buckets:
    """Reductions of columns [n] over runs of entries that begin at `starts`; NaN is left out."""

    def __init__(self, starts: NDArray[Any], length: int) -> None:
        self._starts = starts
        self._ends = np.r_[starts[1:], length] if length else starts

    def last(self, values: NDArray[Any]) -> list[int]:
        return [int(v) for v in values[self._ends - 1]] if len(self._ends) else []

    def sums(self, values: NDArray[Any]) -> list[int]:
        return [int(v) for v in self._reduce(np.add, values.astype(np.int64))]

    def mean(self, values: Floats) -> list[float]:
        known = np.isfinite(values)
        total = self._reduce(np.add, np.where(known, values, 0.0))
        return _over(total, self._reduce(np.add, known.astype(np.int64)))

    def ratio(self, above: NDArray[Any], below: NDArray[Any]) -> list[float]:
        """Sum over sum; NaN where the lower one is 0."""
        known = np.isfinite(above + below)
        top = self._reduce(np.add, np.where(known, above, 0.0))
        return _over(top, self._reduce(np.add, np.where(known, below, 0.0)))

    def smallest(self, values: Floats) -> list[float]:
        found: list[float] = self._reduce(np.fmin, values).tolist()
        return found

    def largest(self, values: Floats) -> list[float]:
        found: list[float] = self._reduce(np.fmax, values).tolist()
        return found

    def _reduce(self, how: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        if not len(self._starts):
            return np.zeros(0)
        reduced: NDArray[Any] = how.reduceat(values, self._starts)
        return reduced


def _over(above: NDArray[Any], below: NDArray[Any]) -> list[float]:
    out = np.full(len(above), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    found: list[float] = out.tolist()
    return found


def stride_for(first: int, stop: int, points: int) -> int:
    """The smallest stride whose aligned buckets of first..stop number at most `points`."""
    stride = max(1, -(-(stop - first) // points))
    while stop > first and (stop - 1) // stride - first // stride + 1 > points:
        stride += 1
    return stride
