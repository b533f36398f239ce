"""What the steps of a lease were like: gathered on the device, read once when it departs."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from farflung.inner.channel import StepFigures
from farflung.inner.flops import utilisation
from farflung.model.presets import LlamaConfig, flops_per_token

LONGEST_NAME = 100


class Meter:
    """Figures of the running lease. Give it to a lease (`TrainLease.meter`), which asks it for
    them at its end; they start at zero again then. Nothing here waits for the device before."""

    def __init__(
        self, device: torch.device, flops: float, flops_causal: float, *, devices: int = 1
    ) -> None:
        """`flops` of a token, forward and backward (inner/flops.py); `devices` that share the
        tokens, all of one kind."""
        self._device = device
        self._flops = flops
        self._flops_causal = flops_causal
        self._devices = devices
        self._name = device_name(device)
        self._norms: Tensor | None = None
        self._steps = 0
        self.data_wait_s = 0.0
        self._copy_s = 0.0

    @classmethod
    def of_config(cls, config: LlamaConfig, device: torch.device, *, devices: int = 1) -> Meter:
        """Of the built-in model."""
        flops, causal = flops_per_token(config), flops_per_token(config, causal=True)
        return cls(device, flops, causal, devices=devices)

    @classmethod
    def of_module(cls, model: nn.Module, *, devices: int = 1) -> Meter:
        """Of any module: 6 per parameter that is no embedding; its attention is not known."""
        look_ups = {
            p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
        }
        heads = {
            p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()
        }  # a tied head multiplies
        parameters = list(model.parameters())
        multiplied = sum(p.numel() for p in parameters if p not in look_ups or p in heads)
        device = parameters[0].device
        return cls(device, 6.0 * multiplied, 6.0 * multiplied, devices=devices)

    def note(self, grad_norm: Tensor | None) -> None:
        """A step has been made. `grad_norm`: 0-d, before clipping."""
        self._steps += 1
        if grad_norm is not None:
            norm = grad_norm.detach()
            self._norms = norm.clone() if self._norms is None else self._norms.add_(norm)

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """Time in here goes to copies of departing and landing fragments."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self._copy_s += time.perf_counter() - started_s

    def figures(self, *, lr: float, tokens: int, seconds: float) -> StepFigures:
        """Of the lease that ends: `tokens` in `seconds` of training. Waits for the device."""
        norm = 0.0
        if self._norms is not None and self._steps:
            norm = float(self._norms) / self._steps
        rate = tokens / self._devices
        of = StepFigures(
            lr=lr,
            grad_norm=norm,
            data_wait_s=self.data_wait_s,
            copy_s=self._copy_s,
            flops=self._flops,
            mfu=min(1.0, utilisation(self._flops, round(rate), seconds, self._name)),
            mfu_causal=min(1.0, utilisation(self._flops_causal, round(rate), seconds, self._name)),
            memory_bytes=memory_bytes(self._device),
            device=self._name,
        )
        self._norms, self._steps, self.data_wait_s, self._copy_s = None, 0, 0.0, 0.0
        return of


def memory_bytes(device: torch.device) -> int:
    """Most that this process has had allocated on an accelerator; 0 on CPUs."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def device_name(device: torch.device) -> str:
    """`NVIDIA H200`; of CPUs their model and the number of threads, `AMD EPYC, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)[:LONGEST_NAME]
    threads = torch.get_num_threads()
    return f"{_cpu_name()[:LONGEST_NAME]}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        line = next(n for n in lines if n.lower().startswith("model name"))
        return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
