"""A data source for torchtitan: rows of a farflung run for a loop that fetches ahead and never
ends an epoch.

torchtitan's loaders keep batches in hand, so the row numbers travel inside each batch, and are
credited after the step that used them. In a subclass of torchtitan's Trainer:

    def batch_generator(self, iterable):      # the model shall not see them
        for inputs, labels in super().batch_generator(iterable):
            self.used.take(inputs)
            yield inputs, labels

    def train_step(self, iterator):           # the optimizer has stepped
        super().train_step(iterator)
        self.used.step(self.peer, tokens=self.tokens_per_step)

The dataset takes no torchtitan class: it is iterable, and stateful by two methods. What has been
trained is in the run's ledger, so its own state is empty. No worker processes: it talks to the
agent through `peer`, and a copy in another process cannot.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset

from farflung.attach import Peer

ROWS = "farflung_rows"


class RunRows(IterableDataset):
    """One sample per row: ({"input": int64[T], ROWS: row number}, label int64[T])."""

    def __init__(self, peer: Peer, sample: Callable[[int], Tensor]) -> None:
        """`sample`: int64[T + 1] of a row number; the same on every peer."""
        self._peer = peer
        self._sample = sample

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for (row,) in self._peer.stream(micro_rows=1):
            tokens = self._sample(row)
            yield {"input": tokens[:-1], ROWS: row}, tokens[1:]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state


class UsedRows:
    """Row numbers between a batch's way into the model and the end of its optimizer step."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def take(self, inputs: dict[str, Any]) -> None:
        self._rows.append(inputs.pop(ROWS))

    def step(self, peer: Peer, tokens: int, loss: float = 0.0) -> None:
        rows, self._rows = self._rows, []
        peer.step(tokens=tokens, metrics={"loss": loss}, rows=rows)
