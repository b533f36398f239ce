"""The global order of samples: one integer, the position, says which row is next.

Row = P_epoch(position mod rows), P a keyed permutation of [0, rows): an alternating Feistel
network over Z_a x Z_b with a*b just above rows, and cycle walking back into the range.
Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, FE1 and cycle
walking. Differs: 6 rounds of a 64-bit mixer; it must scatter, not keep secrets.
Integers only, so that every machine has the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import isqrt

from blake3 import blake3

ROUNDS = 6
_MASK = (1 << 64) - 1

Keys = tuple[int, ...]


class Order:
    """Order of the rows of one source; every epoch visits every row once, in its own order."""

    def __init__(self, rows: int, seed: int) -> None:
        if rows < 1:
            raise ValueError(f"rows={rows} must be at least 1")
        self.rows = rows
        self.seed = seed

    def row(self, position: int) -> int:
        """The row at a position >= 0; position // rows is the epoch."""
        epoch, index = divmod(position, self.rows)
        return permute(index, self.rows, round_keys("order", self.seed, epoch))

    def rows_of(self, ranges: Iterable[tuple[int, int]]) -> list[int]:
        """Rows of half-open ranges of positions, in order."""
        return [self.row(p) for begin, end in ranges for p in range(begin, end)]


def permute(index: int, size: int, keys: Keys) -> int:
    """Where `index` of [0, size) goes; a bijection for each `keys`."""
    a = isqrt(size - 1) + 1
    b = -(-size // a)
    while True:
        index = _network(index, a, b, keys)
        if index < size:  # else walk on along the cycle: it began inside, so it comes back
            return index


def _network(index: int, a: int, b: int, keys: Keys) -> int:
    left, right = index % a, index // a
    for i in range(0, ROUNDS, 2):
        left = (left + _mix(right ^ keys[i])) % a
        right = (right + _mix(left ^ keys[i + 1])) % b
    return left + a * right


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014): 64 bits to 64 bits."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@lru_cache(maxsize=256)
def round_keys(purpose: str, seed: int, number: int) -> Keys:
    """ROUNDS keys of 64 bits from BLAKE3 of purpose, seed and number (an epoch or a block)."""
    label = f"farflung/{purpose}/1/{seed}/{number}".encode()
    stream = blake3(label).digest(length=8 * ROUNDS)
    return tuple(int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))
