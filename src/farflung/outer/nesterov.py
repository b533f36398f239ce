"""The outer step: Nesterov momentum on the averaged pseudo-gradient of one fragment.

    m <- mu * m + g
    theta <- theta - lr * (g + mu * m)          [g = averaged pseudo-gradient, m = momentum]

Source: DiLoCo (arXiv 2311.08105, algorithm 1) with the form of torch.optim.SGD(nesterov=True,
dampening=0). Differs from torch: every operation is a separate IEEE fp32 multiply, add or
subtract, so that all CPUs get the same bits; torch's fused kernels (FMA) do not.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

# legend: F = elements of one fragment, C = elements of one chunk
Float32 = npt.NDArray[np.float32]

CHUNK_ELEMENTS = 65_536
"""256 KiB per array: four of them stay in the second-level cache."""


def bits_of(value: float) -> int:
    """The 32 bits of `value`, rounded to the nearest fp32. OverflowError beyond fp32's range."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def float_from_bits(bits: int) -> np.float32:
    """The fp32 number with these 32 bits. Raises ValueError outside 0..2**32-1."""
    if not 0 <= bits < 1 << 32:
        raise ValueError(f"fp32 bits {bits} must be in 0..2**32-1")
    value: np.float32 = np.uint32(bits).view(np.float32)
    return value


class ChunkStep:
    """The outer step on chunks of at most `chunk_elements`, with its own scratch.

    Not for two threads at once. Overflow gives infinities without a warning: the result must
    have the same bits everywhere, and a caller that cares checks `all_finite`.
    """

    def __init__(self, lr_bits: int, mu_bits: int, *, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        self.chunk_elements = chunk_elements
        self._lr = float_from_bits(lr_bits)
        self._mu = float_from_bits(mu_bits)
        self._scratch = np.empty(chunk_elements, np.float32)

    def __call__(
        self,
        anchor_C: Float32,
        momentum_C: Float32,
        gradient_C: Float32,
        out_anchor_C: Float32,
        out_momentum_C: Float32,
    ) -> None:
        """One chunk, float32[C] each; an output may be its input."""
        step_C = self._scratch[: anchor_C.size]
        with np.errstate(all="ignore"):
            np.multiply(momentum_C, self._mu, out=step_C)
            np.add(step_C, gradient_C, out=out_momentum_C)
            np.multiply(out_momentum_C, self._mu, out=step_C)
            np.add(gradient_C, step_C, out=step_C)
            np.multiply(step_C, self._lr, out=step_C)
            np.subtract(anchor_C, step_C, out=out_anchor_C)


def outer_step(
    anchor_F: Float32,
    momentum_F: Float32,
    gradient_F: Float32,
    lr_bits: int,
    mu_bits: int,
    *,
    out_anchor: Float32,
    out_momentum: Float32,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> None:
    """The outer step on one fragment, all arrays float32[F]; scalars as fp32 bits.

    `out_anchor` may be `anchor_F` and `out_momentum` may be `momentum_F` (in place); other
    overlaps are not allowed. The bits do not depend on `chunk_elements`. Raises ValueError
    when shapes or dtypes differ.
    """
    arrays = (anchor_F, momentum_F, gradient_F, out_anchor, out_momentum)
    if any(a.shape != (anchor_F.size,) or a.dtype != np.float32 for a in arrays):
        found = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
        raise ValueError(f"the outer step needs five float32 vectors of one length, not {found}")
    step = ChunkStep(lr_bits, mu_bits, chunk_elements=chunk_elements)
    for at in range(0, anchor_F.size, chunk_elements):
        cut = slice(at, at + chunk_elements)
        step(anchor_F[cut], momentum_F[cut], gradient_F[cut], out_anchor[cut], out_momentum[cut])
