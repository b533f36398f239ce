"""A DataLoader over the rows of leases: worker processes may prefetch as far as they like.

The sampler runs in the training process and gives row numbers; workers fetch the samples. A row
number travels with its sample and ends in its batch, under `ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from farflung.attach import Peer
from farflung.config.run import RunSpec
from farflung.data.order import Order
from farflung.data.samples import order_seed
from farflung.errors import UserError
from farflung.inner.stream import Stream

ROWS = "farflung_rows"
"""Key of a batch: its row numbers, int64[rows]."""

Numbered = tuple[int, int]
"""(row number in the run, index of the sample in the dataset)."""


class Samples(Protocol):
    """A dataset: a length, and samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Seat(Protocol):
    """What a loader needs of the run, which it may get after it was built."""

    def stream(self) -> Stream:
        """Attaches if that was not done yet."""

    def order(self, n_samples: int) -> Callable[[int], int]:
        """Row number to sample."""


class LoopSeat:
    """The seat of a plain loop that has attached itself."""

    def __init__(
        self, peer: Peer, micro_rows: int = 0, *, endless: bool = False, shuffle: bool = True
    ) -> None:
        """As `Peer.stream`; `shuffle`: take samples in the run's keyed order, else in their own."""
        self._peer = peer
        self._stream = peer.stream(micro_rows, endless=endless)
        self._shuffle = shuffle

    def stream(self) -> Stream:
        return self._stream

    def order(self, n_samples: int) -> Callable[[int], int]:
        return keyed_order(self._peer.spec, n_samples, shuffle=self._shuffle)


def keyed_order(spec: RunSpec, n_samples: int, *, shuffle: bool) -> Callable[[int], int]:
    """Row number to index of `n_samples`: each epoch takes every sample once, in the run's keyed
    order or in the dataset's own. All peers must have the same samples in the same order.

    Raises UserError for an empty dataset.
    """
    if n_samples < 1:
        raise UserError("the dataset is empty; give at least one sample")
    if not shuffle:
        return lambda row: row % n_samples
    data = spec.data
    return Order(
        n_samples,
        order_seed(spec),
        block_rows=data.rows_per_block,
        window_blocks=data.window_blocks,
    ).row


class LeaseSampler:
    """A batch sampler: each pass is a lease, or the whole run (inner/stream.py)."""

    def __init__(self, seat: Seat, n_samples: int) -> None:
        self._seat = seat
        self._n_samples = n_samples

    def __iter__(self) -> Iterator[list[Numbered]]:
        stream = self._seat.stream()
        index = self._seat.order(self._n_samples)
        for rows in stream:
            yield [(row, index(row)) for row in rows]


class NumberedSamples(Dataset[tuple[int, Any]]):
    """Samples with their row numbers."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, numbered: Numbered) -> tuple[int, Any]:
        row, index = numbered
        return row, self._samples[index]


class NumberedCollate:
    """Makes a batch with another collator and puts the row numbers into it."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, numbered: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        batch = self._collate([sample for _, sample in numbered])
        if not isinstance(batch, Mapping):
            raise UserError(
                f"a batch is a {type(batch).__name__} and must be a dict, so that its row numbers "
                f"can travel in it; make samples dicts, or give a collate_fn that returns one"
            )
        return {**batch, ROWS: torch.tensor([row for row, _ in numbered])}


def lease_loader(
    samples: Samples,
    seat: Seat,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    **options: Any,
) -> DataLoader[Any]:
    """A DataLoader of micro-batches. `options` are DataLoader's (`num_workers`, `pin_memory`,
    ...), without those that choose samples."""
    return DataLoader(
        NumberedSamples(samples),
        batch_sampler=LeaseSampler(seat, len(samples)),
        collate_fn=NumberedCollate(collate_fn or default_collate),
        **options,
    )
