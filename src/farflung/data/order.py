"""The order of one source's rows: one integer, the position, says which row is next.

legend: N rows, B rows of a block, W blocks of a window.

An epoch permutes blocks of B contiguous rows and cuts the permuted blocks into windows of about W;
inside its window every row may come at any place. So neighbours in the order come from W places
of the text, and yet whoever trains a window reads W runs of B rows, not one row here and one
there. The last block holds what N leaves over; it lies at a place that the epoch draws. Windows
differ by at most one block, so that none at the end is too small to mix.

Every step is O(1): a keyed permutation of [0, n) is an alternating Feistel network over
Z_a x Z_b with a*b just above n, and cycle walking back into the range. Source: Black and
Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, FE1 and cycle walking. Differs: 6
rounds of a 64-bit mixer; it must scatter, not keep secrets. Integers only, so that every machine
has the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import isqrt

from blake3 import blake3

ROUNDS = 6
ORDER_VERSION = 2
"""Part of every key: 1 permuted single rows."""
_MASK = (1 << 64) - 1

Keys = tuple[int, ...]


class Order:
    """Order of the rows of one source; every epoch visits every row once, in its own order."""

    def __init__(self, rows: int, seed: int, *, block_rows: int, window_blocks: int) -> None:
        if min(rows, block_rows, window_blocks) < 1:
            raise ValueError(
                f"rows={rows}, block_rows={block_rows} and window_blocks={window_blocks} must be "
                "at least 1"
            )
        self.rows = rows
        self.seed = seed
        self.block_rows = block_rows
        self._whole, self._rest = divmod(rows, block_rows)
        self._blocks = self._whole + (self._rest > 0)
        self._windows = -(-self._blocks // window_blocks)

    def row(self, position: int) -> int:
        """The row at a position >= 0; position // rows is the epoch."""
        epoch, index = divmod(position, self.rows)
        short = self._short_slot(epoch)
        window = self._window_of(index, short)
        begin = self._start(self._first_slot(window), short)
        size = self._start(self._first_slot(window + 1), short) - begin
        inside = permute(index - begin, size, round_keys("rows", self.seed, epoch, window))
        return self._row_at(begin + inside, epoch, short)

    def rows_of(self, ranges: Iterable[tuple[int, int]]) -> list[int]:
        """Rows of half-open ranges of positions, in order."""
        return [self.row(p) for begin, end in ranges for p in range(begin, end)]

    # ---- slots: the blocks of an epoch in their permuted order -------------------------------

    def _short_slot(self, epoch: int) -> int:
        """Where the short block lies; behind all slots when there is none."""
        if not self._rest:
            return self._blocks
        return round_keys("short", self.seed, epoch, 0)[0] % self._blocks

    def _start(self, slot: int, short: int) -> int:
        """Rows of the epoch before a slot."""
        return slot * self.block_rows - (self.block_rows - self._rest if slot > short else 0)

    def _first_slot(self, window: int) -> int:
        return window * self._blocks // self._windows

    def _window_of(self, index: int, short: int) -> int:
        """A first guess by size is at most one window off."""
        window = min(index * self._windows // self.rows, self._windows - 1)
        while index < self._start(self._first_slot(window), short):
            window -= 1
        while index >= self._start(self._first_slot(window + 1), short):
            window += 1
        return window

    def _row_at(self, place: int, epoch: int, short: int) -> int:
        """The row at a place of the permuted blocks laid end to end."""
        slot = place // self.block_rows
        if slot >= short:  # behind the short block's start: maybe in it, maybe after it
            after = place - short * self.block_rows
            if after < self._rest:
                return self._whole * self.block_rows + after
            slot = (place - self._rest) // self.block_rows  # among whole blocks alone
        offset = place - self._start(slot + (slot >= short), short)
        keys = round_keys("blocks", self.seed, epoch, 0)
        return permute(slot, self._whole, keys) * self.block_rows + offset


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


@lru_cache(maxsize=1024)
def round_keys(purpose: str, seed: int, *numbers: int) -> Keys:
    """ROUNDS keys of 64 bits from BLAKE3 of purpose, seed and numbers (an epoch, a window)."""
    label = "/".join(map(str, ("farflung", purpose, ORDER_VERSION, seed, *numbers))).encode()
    stream = blake3(label).digest(length=8 * ROUNDS)
    return tuple(int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))
