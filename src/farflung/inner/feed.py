"""Rows on the way to the device: read, pinned and copied while the former step runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""(inputs, targets), int64 [B, T] each, on the device."""


class Feed:
    """One batch ahead of the step on an accelerator; on a CPU read when it is asked for.

    Two pinned buffers take turns; their copies run on a stream of their own, and a step's kernels
    wait for the copy on the device, never on the host.
    """

    def __init__(
        self, read: Callable[[Sequence[int]], npt.NDArray[np.int64]], device: torch.device
    ) -> None:
        """`read`: positions -> int64 [B, T + 1]."""
        self.wait_s = 0.0
        """Of the step's time that went to reading rows; whoever tells it sets it back."""
        self._read = read
        self._device = device
        self._ring = _Ring(device) if device.type == "cuda" else None
        self._next: tuple[list[int], Tensor] | None = None

    def take(self, positions: Sequence[int]) -> Batch:
        """The batch at these positions, as it was prepared or read now."""
        ready, self._next = self._next, None
        if ready is None or ready[0] != list(positions):
            started_s = time.perf_counter()
            ready = self._prepare(positions)
            self.wait_s += time.perf_counter() - started_s
        block = ready[1]
        if self._ring is not None:
            self._ring.await_copy(block)
        return block[:, :-1], block[:, 1:].contiguous()

    def prepare(self, positions: Sequence[int]) -> None:
        """Read the coming batch now; call it after a step's kernels are queued. When they are done
        before the rows are here, the device has waited for them."""
        if self._ring is None or not positions:
            return
        started_s = time.perf_counter()
        queued = self._ring.now()
        self._next = self._prepare(positions)
        if queued.query():  # type: ignore[no-untyped-call]
            self.wait_s += time.perf_counter() - started_s

    def _prepare(self, positions: Sequence[int]) -> tuple[list[int], Tensor]:
        block = torch.from_numpy(self._read(positions))
        moved = block if self._ring is None else self._ring.move(block)
        return list(positions), moved


class _Ring:
    """Two pinned buffers and the stream of their copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor | None] = [None, None]
        self._copied: list[torch.cuda.Event] = [_event(), _event()]
        self._turn = 0

    def now(self) -> torch.cuda.Event:
        """Passes when all that is queued has run."""
        event = _event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def move(self, block: Tensor) -> Tensor:
        """Its copy on the device, under way."""
        self._turn = turn = 1 - self._turn
        self._copied[turn].synchronize()  # its former copy, two steps ago
        staging = self._buffers[turn]
        if staging is None or staging.shape != block.shape:
            staging = self._buffers[turn] = torch.empty_like(block, pin_memory=True)
        staging.copy_(block)
        with torch.cuda.stream(self._stream):
            moved = staging.to(self._device, non_blocking=True)
            self._copied[turn].record(self._stream)
        return moved

    def await_copy(self, moved: Tensor) -> None:
        """The step's stream waits for it on the device, the host does not."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._copied[self._turn])
        moved.record_stream(current)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
