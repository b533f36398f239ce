"""Several sources in one order of samples, with exact weights.

Positions go in blocks of 1,000. Every block has an integer count per source: the largest-remainder
rounding of its quota plus what earlier blocks left over (Hamilton's method with carry). Quotas are
exact fractions, so after `period` blocks the counts equal the weights exactly and the table
repeats. A key per block shuffles its positions. The position inside each source is then O(1).

Why a weight must be at least one row per block: the carry of a source stays above -1, so quota +
carry is never negative, every count is its floor or one more, and the carry stays inside (-1, 1);
at the end of the period it is an integer, hence 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from math import gcd, lcm

from farflung.data.order import Order, permute, round_keys
from farflung.errors import ConfigError

BLOCK_ROWS = 1000
MAX_PERIOD = 10_000
"""Blocks until the table repeats; bounds its memory."""


class Mixture:
    """`locate` maps a position to a row of one source.

    weights: one positive number per source, any scale. bases: the position at which each source
    starts, for a mixture that follows another one at position `start`. Raises ConfigError.
    """

    def __init__(
        self,
        weights: Sequence[int | float],
        rows_per_source: Sequence[int],
        seed: int,
        *,
        start: int = 0,
        bases: Sequence[int] = (),
    ) -> None:
        parts = _parts(weights)
        if len(parts) != len(rows_per_source):
            raise ConfigError(f"{len(parts)} weights for {len(rows_per_source)} sources; match")
        self.seed = seed
        self.start = start
        self.bases = tuple(bases) or (0,) * len(parts)
        self._orders = [Order(n, _source_seed(seed, j)) for j, n in enumerate(rows_per_source)]
        self._counts = _counts(parts)
        self._before = list(accumulate(self._counts, _add, initial=(0,) * len(parts)))

    @property
    def period(self) -> int:
        """Blocks after which the counts repeat."""
        return len(self._counts)

    def counts(self, block: int) -> tuple[int, ...]:
        """Positions of each source in a block; they sum to BLOCK_ROWS."""
        return self._counts[block % self.period]

    def source_position(self, position: int) -> tuple[int, int]:
        """(source, position in that source's own order)."""
        block, index = divmod(position - self.start, BLOCK_ROWS)
        slot = permute(index, BLOCK_ROWS, round_keys("mixture", self.seed, block))
        cycle, phase = divmod(block, self.period)
        ends = list(accumulate(self._counts[phase]))
        source = bisect_right(ends, slot)
        inside = slot - (ends[source] - self._counts[phase][source])
        before = cycle * self._before[-1][source] + self._before[phase][source]
        return source, self.bases[source] + before + inside

    def locate(self, position: int) -> tuple[int, int]:
        """(source, row) at a position >= start."""
        source, own = self.source_position(position)
        return source, self._orders[source].row(own)

    def bases_at(self, position: int) -> tuple[int, ...]:
        """Where a mixture that starts at this position must start each source.

        The position must end a block, so that no source is left with a gap.
        """
        block, inside = divmod(position - self.start, BLOCK_ROWS)
        if inside:
            raise ConfigError(
                f"position {position} is inside a block of the mixture; "
                f"change it at {position - inside + BLOCK_ROWS}"
            )
        cycle, phase = divmod(block, self.period)
        done = zip(self.bases, self._before[-1], self._before[phase], strict=True)
        return tuple(base + cycle * total + part for base, total, part in done)


def _source_seed(seed: int, source: int) -> int:
    return round_keys("source", seed, source)[0]


def _add(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _parts(weights: Sequence[int | float]) -> list[int]:
    """The weights as coprime integers; a float means the decimal number that it prints as."""
    if not weights or not all(0 < w < float("inf") for w in weights):
        raise ConfigError(f"weights={list(weights)} must be positive numbers")
    exact = [Fraction(str(w)) for w in weights]
    scale = lcm(*(f.denominator for f in exact))
    whole = [int(f * scale) for f in exact]
    divisor = gcd(*whole)
    parts = [w // divisor for w in whole]
    if min(parts) * BLOCK_ROWS < sum(parts):
        raise ConfigError(
            f"the smallest weight of {list(weights)} is below 1/{BLOCK_ROWS} of their sum; raise it"
        )
    if sum(parts) // gcd(sum(parts), BLOCK_ROWS) > MAX_PERIOD:
        raise ConfigError(f"weights={list(weights)} have too many digits; round them to four")
    return parts


def _counts(parts: Sequence[int]) -> list[tuple[int, ...]]:
    """Counts per block for one period; carries are in units of 1/sum(parts) row."""
    total = sum(parts)
    carry = [0] * len(parts)
    table: list[tuple[int, ...]] = []
    for _ in range(total // gcd(total, BLOCK_ROWS)):
        ideal = [BLOCK_ROWS * p + c for p, c in zip(parts, carry, strict=True)]
        count = [i // total for i in ideal]
        by_remainder = sorted(range(len(parts)), key=lambda j: (-(ideal[j] % total), j))
        for j in by_remainder[: BLOCK_ROWS - sum(count)]:
            count[j] += 1
        carry = [i - n * total for i, n in zip(ideal, count, strict=True)]
        table.append(tuple(count))
    assert not any(carry), "the period of a mixture must close"
    return table
