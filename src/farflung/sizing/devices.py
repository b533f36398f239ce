"""Devices by short names: peak, memory, and what share of the peak a step reaches. Estimates.

The share was measured on one H200 at three sizes (docs/speed.md) and is assumed for every GPU:
no other was at hand. It grows with the width of the model and with the tokens of a micro-batch:

    mfu = top(d) * t / (t + 2.77e6 / d) * 3 / (3 + recomputed blocks / blocks)

d model width, t tokens of a micro-batch; the last factor is the forward pass that is made twice.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import pairwise

from farflung.errors import UserError
from farflung.inner.flops import peak_flops

GIB = 2**30
HALF_SPEED = 2.77e6
"""Tokens times width at which half of the time is lost: from the two capped rows of docs/speed.md.
"""
TOP_MFU = ((512, 0.475), (896, 0.495), (2048, 0.642))
"""(model width, share of the peak with large micro-batches): one H200, 35m, 150m and 1b."""
CPU_FLOPS = {"cpu": 19e9, "cpu-avx512": 43e9}
"""FLOP/s of a trainer on one thread in fp32: `demo` on an AMD EPYC with AVX2, and on the 16 cores
beside an H200."""


@dataclass(frozen=True, kw_only=True)
class DeviceClass:
    """What a peer trains on."""

    name: str
    peak: float
    """bf16 FLOP/s of a GPU; 0 for CPUs and unknown GPUs."""
    memory_bytes: int
    """Of the GPU; 0: a CPU, whose model lies in the host's memory."""
    flops: float = 0.0
    """FLOP/s that a CPU reaches."""

    @property
    def is_gpu(self) -> bool:
        return self.memory_bytes > 0


_GPUS: dict[str, tuple[str, float]] = {
    "gb200": ("GB200", 185.0),
    "b200": ("B200", 179.0),
    "h200": ("H200", 139.8),
    "gh200": ("GH200", 95.0),
    "h100": ("H100", 79.1),
    "h100-pcie": ("H100 PCIe", 79.1),
    "a100": ("A100", 79.1),
    "a100-40": ("A100", 39.4),
    "a800": ("A800", 79.1),
    "a40": ("A40", 44.4),
    "a30": ("A30", 23.5),
    "a10": ("A10", 22.1),
    "a10g": ("A10G", 22.1),
    "a6000": ("RTX A6000", 47.5),
    "6000-ada": ("RTX 6000 Ada", 47.5),
    "l40s": ("L40S", 44.5),
    "l40": ("L40", 44.5),
    "l4": ("L4", 22.0),
    "5090": ("RTX 5090", 31.3),
    "5080": ("RTX 5080", 15.5),
    "4090": ("RTX 4090", 23.5),
    "4080": ("RTX 4080", 15.6),
    "3090": ("RTX 3090", 23.5),
    "mi300x": ("MI300X", 191.0),
    "mi250x": ("MI250X", 63.9),
}
"""Short name -> (name in inner/flops.py, GiB that a program can have)."""

DEVICES: dict[str, DeviceClass] = {
    short: DeviceClass(name=short, peak=peak_flops(full), memory_bytes=int(gib * GIB))
    for short, (full, gib) in _GPUS.items()
} | {
    name: DeviceClass(name=name, peak=0.0, memory_bytes=0, flops=rate)
    for name, rate in CPU_FLOPS.items()
}


def device_of(name: str) -> DeviceClass:
    """The device of this short name; `rtx4090` is `4090`. UserError with the nearest name."""
    plain = name.strip().lower().removeprefix("nvidia-").removeprefix("rtx").strip("-_ ")
    if plain in DEVICES:
        return DEVICES[plain]
    near = difflib.get_close_matches(plain, DEVICES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(DEVICES)}"
    raise UserError(f"--peers: unknown device {name!r}; {hint}")


def top_mfu(width: int) -> float:
    """Share of the peak with large micro-batches, linear between the measured widths."""
    (first, least), (last, most) = TOP_MFU[0], TOP_MFU[-1]
    if width <= first:
        return least * max(0.1, width / first)
    for (a, low), (b, high) in pairwise(TOP_MFU):
        if width <= b:
            return low + (high - low) * (width - a) / (b - a)
    return most if width >= last else least


def expected_mfu(width: int, micro_tokens: int, recomputed: float) -> float:
    """`recomputed`: share of the blocks that are computed again in the backward pass."""
    filled = micro_tokens / (micro_tokens + HALF_SPEED / width)
    return top_mfu(width) * filled * 3 / (3 + recomputed)
