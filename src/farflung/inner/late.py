"""A number of the device that the host reads later: no step waits for the one before."""

from __future__ import annotations

import torch
from torch import Tensor


class LateValue:
    """A tensor of one element on its way to the host. Making it waits for nothing.

    What the program does to its tensor afterwards changes nothing here.
    """

    def __init__(self, value: float | Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if isinstance(value, Tensor):
            value = value.detach()
        if not isinstance(value, Tensor) or value.device.type == "cpu":
            self._value: float | Tensor = float(value)
        elif value.is_cuda:
            host = torch.empty((), dtype=torch.float32, pin_memory=True)
            host.copy_(value.reshape(()), non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
            self._value = host
        else:
            self._value = value.clone()

    def read(self) -> float:
        """Waits until the device has made it, and for nothing that was queued after it."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._value)
