"""int8: blocks of 256 elements, each with one fp32 scale = absmax / 127. 1.0156 bytes per element.

Wire: all scales (little-endian fp32, one per block), then all codes (int8, -127..127). The last
block may be short. decode = code * scale, one fp32 multiply.

    code = rint(x / scale), ties to even

A block whose scale would be below the smallest normal number (absmax < 1.5e-36) has scale 0 and
codes 0; a block with a NaN or an infinity has the scale NaN and codes 0, and decodes to NaN.
Maximum, division, rint and multiply are exactly rounded: the bits are the same on every CPU.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from farflung.outer.codecs.base import PIECE_ELEMENTS, Float32, UInt8, WireCodec

# legend: B = blocks, E = elements of a block
BLOCK = 256
_LEVELS = np.float32(127)
_SMALLEST = np.float32(2.0**-126)
_NAN = np.uint32(0x7FC00000).view(np.float32)

Int8 = npt.NDArray[np.int8]


class Int8Blocks(WireCodec):
    name = "int8"

    def encoded_size(self, n: int) -> int:
        return n + 4 * -(-n // BLOCK)

    def _write(self, x_N: Float32, wire: UInt8) -> None:
        scales, codes = _parts(wire, x_N.size)
        scratch = np.empty(min(x_N.size, PIECE_ELEMENTS), np.float32)
        for cut, blocks, shape in _groups(x_N.size):
            work_BE = scratch[: cut.stop - cut.start].reshape(shape)
            scales[blocks] = _quantise(x_N[cut].reshape(shape), codes[cut].reshape(shape), work_BE)

    def _read(self, wire: UInt8, out_N: Float32) -> None:
        scales, codes = _parts(wire, out_N.size)
        for cut, blocks, shape in _groups(out_N.size):
            out_N[cut] = codes[cut]
            out_BE = out_N[cut].reshape(shape)
            np.multiply(out_BE, scales[blocks, None], out=out_BE)


def _parts(wire: UInt8, n: int) -> tuple[Float32, Int8]:
    split = 4 * -(-n // BLOCK)
    return wire[:split].view("<f4"), wire[split:].view(np.int8)


def _groups(n: int) -> list[tuple[slice, slice, tuple[int, int]]]:
    """(elements, blocks, shape [B, E]) of each piece; a short last block is a piece of its own."""
    whole = n // BLOCK * BLOCK
    bounds = [*range(0, whole, PIECE_ELEMENTS), whole]
    groups = []
    for first, stop in pairwise(bounds):
        blocks = slice(first // BLOCK, stop // BLOCK)
        groups.append((slice(first, stop), blocks, (blocks.stop - blocks.start, BLOCK)))
    if whole < n:
        last = whole // BLOCK
        groups.append((slice(whole, n), slice(last, last + 1), (1, n - whole)))
    return groups


def _quantise(x_BE: Float32, codes_BE: Int8, work_BE: Float32) -> Float32:
    """Write the codes; return the scales, float32[B]."""
    np.abs(x_BE, out=work_BE)
    scale_B: Float32 = work_BE.max(axis=1)
    np.divide(scale_B, _LEVELS, out=scale_B)
    scale_B[scale_B < _SMALLEST] = 0
    divisor_B = np.where(scale_B > 0, scale_B, np.float32(1))
    np.divide(x_BE, divisor_B[:, None], out=work_BE)
    np.rint(work_BE, out=work_BE)
    broken_B = ~np.isfinite(scale_B)
    if broken_B.any():  # casting NaN to an integer differs between CPUs
        scale_B[broken_B] = _NAN
        work_BE[broken_B] = 0
    np.copyto(codes_BE, work_BE, casting="unsafe")
    return scale_B
