"""A peer behind another library's training loop: what its hooks tell becomes attach, take, step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from farflung.attach import Peer, attach
from farflung.errors import UserError
from farflung.inner.optimizer import HasParamGroups
from farflung.inner.stream import Stream
from farflung.integrations.loader import ROWS, keyed_order

CountTokens = Callable[[Mapping[str, Any]], "int | Tensor"]
"""Tokens of a micro-batch."""


def count_tokens(batch: Mapping[str, Any]) -> int | Tensor:
    """Tokens that are no padding; 0 when the batch does not say."""
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    if isinstance(mask, Tensor):
        return mask.sum()
    return ids.numel() if isinstance(ids, Tensor) else 0


class RunMember:
    """Attached on first use. One micro-batch after the other, then the step that used them."""

    def __init__(
        self,
        *,
        schedule: Literal["run", "own"],
        layout_names: Mapping[str, str] | None,
        tokens: CountTokens,
        shuffle: bool,
    ) -> None:
        self._schedule = schedule
        self._layout_names = layout_names
        self._count = tokens
        self._shuffle = shuffle
        self._peer: Peer | None = None
        self._stream: Stream | None = None
        self._rows: list[Tensor] = []
        self._tokens: int | Tensor = 0
        self._loss: float | Tensor = 0.0

    @property
    def peer(self) -> Peer:
        """For `progress`, `spec` and the like. Raises UserError before the training begins."""
        if self._peer is None:
            raise UserError("the peer is attached when the training begins, not before")
        return self._peer

    @property
    def attached(self) -> bool:
        return self._peer is not None

    def attach(
        self, model: nn.Module, optimizer: HasParamGroups, micro_rows: int, accumulation: int
    ) -> None:
        """Raises UserError when a step would not train what a step of this run trains."""
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                "under these trainers a peer is one process: start it without torchrun, one peer "
                "per GPU; several ranks work with farflung's own trainer (--gpus) and own loops"
            )
        peer = attach(model, optimizer, layout_names=self._layout_names, schedule=self._schedule)
        wanted = peer.spec.inner.batch_rows
        if micro_rows * accumulation != wanted:
            peer.close()
            raise UserError(
                f"a micro-batch of {micro_rows} rows times {accumulation} accumulated is "
                f"{micro_rows * accumulation} rows a step, and a step of this run trains {wanted} "
                f"(inner.batch_rows); change one of them"
            )
        self._peer = peer
        self._stream = peer.stream(micro_rows, endless=False)

    def stream(self) -> Stream:
        if self._stream is None:
            raise UserError("the loader was read before the training began")
        return self._stream

    def order(self, n_samples: int) -> Callable[[int], int]:
        return keyed_order(self.peer.spec, n_samples, shuffle=self._shuffle)

    def next_lease(self) -> bool:
        """Waits for it. False: the run is over."""
        self._forget()
        return self.stream().wait()

    @property
    def lease_ended(self) -> bool:
        """Between two steps: the loop shall drop what it has fetched and begin another pass."""
        return not self._rows and self.stream().ended

    def used(self, batch: Mapping[str, Any], loss: float | Tensor) -> None:
        """A micro-batch has gone through the model. `loss`: its share of the step's mean loss."""
        if ROWS not in batch:
            raise UserError(
                f"a batch has no {ROWS!r}: train on the loader of this callback, and let nothing "
                f"take keys out of its batches"
            )
        self._rows.append(batch[ROWS])
        counted = self._count(batch)
        self._tokens = self._tokens + counted
        self._loss = self._loss + (loss.detach() if isinstance(loss, Tensor) else loss)

    def stepped(self) -> None:
        """The optimizer has stepped on what was used since the last step."""
        rows = torch.cat([part.reshape(-1) for part in self._rows])
        tokens, loss = int(self._tokens), self._loss
        spec = self.peer.spec
        self._forget()
        self.peer.step(
            tokens=tokens or len(rows) * spec.data.seq_len, metrics={"loss": loss}, rows=rows
        )

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()

    def _forget(self) -> None:
        self._rows, self._tokens, self._loss = [], 0, 0.0
