"""Rows for loops that run ahead: loaders that prefetch, trainers that accumulate. No torch.

per lease   one pass over the stream is one lease; what was taken and not trained goes back
            when the next pass begins (an epoch of the Hugging Face Trainer or of Lightning)
endless     one pass over all leases: whatever is taken and not trained when a lease has no
            rows left comes first in the next lease (torchtitan)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from farflung.errors import UserError
from farflung.inner.lease import TrainLease


class Leases(Protocol):
    """What a stream needs of `Peer`."""

    @property
    def running(self) -> TrainLease | None:
        """The lease that is not over."""

    def fresh_lease(self) -> TrainLease | None:
        """A lease of which nothing is taken; what was taken before goes back. Blocks."""

    def following_lease(self) -> TrainLease | None:
        """The lease after the running one; what is taken comes first in it. Blocks."""


class Stream:
    """Micro-batches of row numbers, in order. Each goes into the batch that is made of it, and
    `peer.step(rows=...)` gets the numbers of all micro-batches of its step."""

    def __init__(self, leases: Leases, batch_rows: int, micro_rows: int, *, endless: bool) -> None:
        """Raises UserError unless a batch is a whole number of micro-batches."""
        self.micro_rows = micro_rows or batch_rows
        if self.micro_rows < 1 or batch_rows % self.micro_rows:
            raise UserError(
                f"micro_rows={micro_rows} must divide inner.batch_rows={batch_rows}: a step of "
                f"this run trains that many rows"
            )
        self.steps_per_update = batch_rows // self.micro_rows
        """Micro-batches of one optimizer step."""
        self._leases = leases
        self._endless = endless

    @property
    def ended(self) -> bool:
        """The running pass need not go on: its lease is over, or shall end early."""
        lease = self._leases.running
        return lease is None or lease.finished

    def wait(self) -> bool:
        """Ends the running lease and waits for the next. False: the run is over.

        What was taken and not trained goes back, so drop it.
        """
        return self._leases.fresh_lease() is not None

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of `micro_rows` row numbers. A pass that has begun a batch completes it."""
        return self._all_leases() if self._endless else self._one_lease()

    def _one_lease(self) -> Iterator[list[int]]:
        lease = self._leases.fresh_lease()
        if lease is not None:
            yield from self._micro_batches(lease)

    def _all_leases(self) -> Iterator[list[int]]:
        lease = self._leases.running or self._leases.following_lease()
        while lease is not None:
            yield from self._micro_batches(lease)
            lease = self._leases.following_lease()

    def _micro_batches(self, lease: TrainLease) -> Iterator[list[int]]:
        while (batch := lease.take()) is not None:
            for first in range(0, len(batch), self.micro_rows):
                yield batch[first : first + self.micro_rows]
