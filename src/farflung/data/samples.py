"""The run's whole order of samples: a global position in, a row of one source out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import overload

from farflung.config.run import RunSpec
from farflung.data.mixture import Change, MixtureTimeline
from farflung.data.order import Order, round_keys

LOCATED = 8192
"""Positions that are remembered: they are looked up when they are read ahead, and when used."""


class SampleOrder:
    """Every source has its own order and its own epochs; the mixture says whose turn it is.

    rows: of an epoch of each source, in the order of the spec.
    """

    def __init__(self, spec: RunSpec, rows: Sequence[int], changes: Iterable[Change] = ()) -> None:
        seed = order_seed(spec)
        self._spec, self._changes = spec, tuple(changes)
        self.timeline = mixture_of(spec, self._changes)
        self._located = lru_cache(maxsize=LOCATED)(self._locate)
        self._orders = [
            Order(
                n,
                round_keys("source", seed, source)[0],
                block_rows=spec.data.rows_per_block,
                window_blocks=spec.data.window_blocks,
            )
            for source, n in enumerate(rows)
        ]

    def follow(self, changes: Sequence[Change]) -> None:
        """The changes so far; what was read before them stays where it was."""
        if tuple(changes) != self._changes:
            self._changes = tuple(changes)
            self.timeline = mixture_of(self._spec, changes)
            self._located.cache_clear()

    def locate(self, position: int) -> tuple[int, int]:
        """(source, row) at a global position."""
        return self._located(position)

    def _locate(self, position: int) -> tuple[int, int]:
        source, own = self.timeline.place(position)
        return source, self._orders[source].row(own)


class Places(Sequence[tuple[int, int]]):
    """(source, row) of positions, computed when they are looked at."""

    def __init__(self, order: SampleOrder, positions: Sequence[int]) -> None:
        self._order = order
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Places: ...

    def __getitem__(self, index: int | slice) -> tuple[int, int] | Places:
        if isinstance(index, slice):
            return Places(self._order, self._positions[index])
        return self._order.locate(self._positions[index])


def mixture_of(spec: RunSpec, changes: Iterable[Change] = ()) -> MixtureTimeline:
    """What the spec's weights say, and then the changes."""
    weights = [part.weight for part in spec.data.parts]
    return MixtureTimeline(weights, order_seed(spec), changes)


def order_seed(spec: RunSpec) -> int:
    """Key of the run's order of samples: the data's seed and the run's."""
    return (spec.seed << 32) + spec.data.seed
