"""Tokens per second of one peer by itself."""

from __future__ import annotations

from dataclasses import dataclass

from farflung.config.run import RunSpec
from farflung.inner.sizing import StepSize
from farflung.sizing.devices import DeviceClass, expected_mfu
from farflung.sizing.memory import StepFit, gpu_fit
from farflung.sizing.model import ModelSizes

UNKNOWN_GPU_FLOPS = 20e12
"""Of a GPU whose peak is not known: said as unknown, never as MFU."""


@dataclass(frozen=True, kw_only=True)
class PeerSpeed:
    """What a device does with a run's steps."""

    fit: StepFit
    """On a CPU the whole batch, which needs no memory of its own."""
    tokens_per_s: float
    mfu: float
    """0 where the peak is not known."""


def speed_of(spec: RunSpec, sizes: ModelSizes, device: DeviceClass) -> PeerSpeed:
    if not device.is_gpu:
        whole = StepFit(size=StepSize(spec.inner.batch_rows, 0), bytes=0, fits=True)
        return PeerSpeed(fit=whole, tokens_per_s=device.flops / sizes.flops, mfu=0.0)
    fit = gpu_fit(spec, sizes, device.memory_bytes)
    config = sizes.config
    mfu = expected_mfu(
        config.dim, fit.size.micro_rows * config.seq_len, fit.size.checkpointed / config.layers
    )
    if not device.peak:
        return PeerSpeed(fit=fit, tokens_per_s=UNKNOWN_GPU_FLOPS / sizes.flops, mfu=0.0)
    return PeerSpeed(fit=fit, tokens_per_s=device.peak * mfu / sizes.flops, mfu=mfu)
