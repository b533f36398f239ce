"""Several sources in one order of samples, with exact weights: which source a position reads, and
how far that source has got.

Positions go in parts of 1,000. Every part has an integer count per source: the largest-remainder
rounding of its quota plus what earlier parts left over (Hamilton's method with carry). Quotas are
exact fractions, so after `period` parts the counts equal the weights exactly and the table
repeats. A key per part shuffles which position reads which source; inside a part each source is
read in its own order. So a place in a source is: base + whole parts before + rank inside the part,
in O(1).

Why a weight must be at least one row per part: the carry of a source stays above -1, so quota +
carry is never negative, every count is its floor or one more, and the carry stays inside (-1, 1);
at the end of the period it is an integer, hence 0.

A mixture may follow another one: it starts at a position where a part of the old one ends, with
each source where the old one left it. `MixtureTimeline` holds them all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import gcd, lcm

from farflung.data.order import permute, round_keys
from farflung.errors import ConfigError

PART_ROWS = 1000
MAX_PERIOD = 10_000
"""Parts until the table repeats; bounds its memory."""

Counts = tuple[int, ...]
"""One number per source."""


@dataclass(frozen=True)
class Change:
    """A mixture's beginning: what a journal must hold of it."""

    start: int
    """The first position that it says."""
    parts: Counts
    """The weights as coprime integers."""
    bases: Counts
    """Where each source starts: rows of it that earlier positions read."""


class Mixture:
    """`place` maps a position to a source and the position in that source's own order.

    weights: one positive number per source, any scale. bases: where each source starts, for a
    mixture that follows another one at position `start`. Raises ConfigError.
    """

    def __init__(
        self,
        weights: Sequence[int | float],
        seed: int,
        *,
        start: int = 0,
        bases: Sequence[int] = (),
    ) -> None:
        self.parts = integer_weights(weights)
        self.seed = seed
        self.start = start
        self.bases = tuple(bases) or (0,) * len(self.parts)
        if len(self.bases) != len(self.parts):
            raise ConfigError(f"{len(self.parts)} weights for {len(self.bases)} sources; match")
        self._counts = _counts(self.parts)
        self._before = list(accumulate(self._counts, _add, initial=(0,) * len(self.parts)))

    @property
    def period(self) -> int:
        """Parts after which the counts repeat."""
        return len(self._counts)

    def counts(self, part: int) -> Counts:
        """Positions of each source in a part; they sum to PART_ROWS."""
        return self._counts[part % self.period]

    def place(self, position: int) -> tuple[int, int]:
        """(source, position in that source's own order), for a position >= start."""
        if len(self.parts) == 1:
            return 0, self.bases[0] + position - self.start
        part, index = divmod(position - self.start, PART_ROWS)
        source, rank = self._table(part)[index]
        return source, self._reached(part)[source] + rank

    def reached(self, position: int) -> Counts:
        """Where each source is when everything below a position >= start was read."""
        if len(self.parts) == 1:
            return (self.bases[0] + position - self.start,)
        part, index = divmod(position - self.start, PART_ROWS)
        inside = [0] * len(self.parts)
        for source, _ in self._table(part)[:index] if index else ():
            inside[source] += 1
        return _add(self._reached(part), tuple(inside))

    def next_end(self, position: int) -> int:
        """The first position from here on at which a part ends: where a change may start."""
        return self.start + -(-max(0, position - self.start) // PART_ROWS) * PART_ROWS

    def _reached(self, part: int) -> Counts:
        cycle, phase = divmod(part, self.period)
        whole = tuple(cycle * n for n in self._before[-1])
        return _add(_add(self.bases, whole), self._before[phase])

    def _table(self, part: int) -> tuple[tuple[int, int], ...]:
        return _part_table(self.counts(part), self.seed, self.start, part)


class MixtureTimeline:
    """The run's mixtures one after the other. Positions in, (source, own position) out.

    changes: in the order in which they were decided; one that starts no later than an earlier
    one replaces it.
    """

    def __init__(
        self, weights: Sequence[int | float], seed: int, changes: Iterable[Change] = ()
    ) -> None:
        self._mixtures = [Mixture(weights, seed)]
        for change in changes:
            while len(self._mixtures) > 1 and self._mixtures[-1].start >= change.start:
                self._mixtures.pop()
            mixture = Mixture(change.parts, seed, start=change.start, bases=change.bases)
            if change.start > 0:
                self._mixtures.append(mixture)
            else:
                self._mixtures = [mixture]
        self._starts = [m.start for m in self._mixtures]

    @property
    def sources(self) -> int:
        return len(self._mixtures[0].parts)

    @property
    def newest(self) -> Mixture:
        """The one that was decided last; it may begin above all that is leased."""
        return self._mixtures[-1]

    def at(self, position: int) -> Mixture:
        """The mixture that says what a position reads."""
        return self._mixtures[bisect_right(self._starts, position) - 1]

    def place(self, position: int) -> tuple[int, int]:
        """(source, position in that source's own order)."""
        return self.at(position).place(position)

    def reached(self, position: int) -> Counts:
        """Rows of each source that positions below this one read."""
        if position == 0:
            return self._mixtures[0].bases
        return self.at(position - 1).reached(position)

    def count(self, ranges: Iterable[tuple[int, int]]) -> Counts:
        """Rows of each source in half-open ranges of positions."""
        total = [0] * self.sources
        for begin, end in ranges:
            for source, (low, high) in enumerate(
                zip(self.reached(begin), self.reached(end), strict=True)
            ):
                total[source] += high - low
        return tuple(total)

    def change(self, weights: Sequence[int | float], frontier: int) -> Change:
        """The rule of a change: it starts where a part ends, at or above everything that was
        leased, and each source goes on where it is. Raises ConfigError."""
        parts = integer_weights(weights)
        if len(parts) != self.sources:
            raise ConfigError(f"{len(parts)} weights for {self.sources} sources; give one for each")
        start = self.at(max(0, frontier - 1)).next_end(frontier)
        return Change(start=start, parts=parts, bases=self.reached(start))


@lru_cache(maxsize=16)
def _part_table(counts: Counts, seed: int, start: int, part: int) -> tuple[tuple[int, int], ...]:
    """(source, rank) of every position of a part: the slots of the sources, shuffled."""
    ends = list(accumulate(counts))
    keys = round_keys("mixture", seed, start, part)
    ranks = [0] * len(counts)
    table = []
    for index in range(PART_ROWS):
        source = bisect_right(ends, permute(index, PART_ROWS, keys))
        table.append((source, ranks[source]))
        ranks[source] += 1
    return tuple(table)


def _add(a: Counts, b: Counts) -> Counts:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def integer_weights(weights: Sequence[int | float]) -> Counts:
    """The weights as coprime integers; a float means the decimal number that it prints as.

    Raises ConfigError.
    """
    if not weights or not all(0 < w < float("inf") for w in weights):
        raise ConfigError(f"weights={list(weights)} must be positive numbers")
    exact = [Fraction(str(w)) for w in weights]
    scale = lcm(*(f.denominator for f in exact))
    whole = [int(f * scale) for f in exact]
    divisor = gcd(*whole)
    parts = tuple(w // divisor for w in whole)
    if min(parts) * PART_ROWS < sum(parts):
        raise ConfigError(
            f"the smallest weight of {list(weights)} is below 1/{PART_ROWS} of their sum; raise it"
        )
    if sum(parts) // gcd(sum(parts), PART_ROWS) > MAX_PERIOD:
        raise ConfigError(f"weights={list(weights)} have too many digits; round them to four")
    return parts


def _counts(parts: Sequence[int]) -> list[Counts]:
    """Counts per part for one period; carries are in units of 1/sum(parts) row."""
    total = sum(parts)
    carry = [0] * len(parts)
    table: list[Counts] = []
    for _ in range(total // gcd(total, PART_ROWS)):
        ideal = [PART_ROWS * p + c for p, c in zip(parts, carry, strict=True)]
        count = [i // total for i in ideal]
        by_remainder = sorted(range(len(parts)), key=lambda j: (-(ideal[j] % total), j))
        for j in by_remainder[: PART_ROWS - sum(count)]:
            count[j] += 1
        carry = [i - n * total for i, n in zip(ideal, count, strict=True)]
        table.append(tuple(count))
    assert not any(carry), "the period of a mixture must close"
    return table
