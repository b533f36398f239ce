"""int8-sigma: the quantiser of INTELLECT-1 (arXiv 2412.01152), one codebook per chunk.

256 uniform buckets on mean +- 6 sigma of the chunk; values outside go to the outer buckets; the
codebook holds the mean of each bucket's values (its centre when it is empty).

Wire: codebook (256 little-endian fp32), then one bucket number (uint8) per element: N + 1024
bytes. decode = codebook[number].

Differs from the original: statistics are per codec chunk, not per tensor, and fp64. Sums must
have one order on every CPU: mean and sigma (of the population) use a halving tree of elementwise
adds, bucket sums use `bincount`, which adds in the order of the elements. A constant chunk is
exact. A chunk with a NaN or an infinity decodes to NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from farflung.outer.codecs.base import Float32, UInt8, WireCodec

Float64 = npt.NDArray[np.float64]

BUCKETS = 256
_MIDDLE = BUCKETS // 2
_BOOK_BYTES = 4 * BUCKETS
_SPAN = 6.0
_NAN = np.uint32(0x7FC00000).view(np.float32)


class Int8Sigma(WireCodec):
    name = "int8-sigma"

    def encoded_size(self, n: int) -> int:
        return n + _BOOK_BYTES

    def _write(self, x_N: Float32, wire: UInt8) -> None:
        book, numbers_N = wire[:_BOOK_BYTES].view("<f4"), wire[_BOOK_BYTES:]
        if x_N.size == 0:
            book[:] = 0
        elif not np.isfinite(x_N).all():
            book[:], numbers_N[:] = _NAN, 0
        else:
            wide_N = x_N.astype(np.float64)
            mean, sigma = _moments(wide_N)
            book[:] = _fill(wide_N, mean, sigma, numbers_N)

    def _read(self, wire: UInt8, out_N: Float32) -> None:
        book: Float32 = wire[:_BOOK_BYTES].view("<f4").astype(np.float32)
        # mode="clip" skips the bounds check that a uint8 index into 256 entries cannot fail
        np.take(book, wire[_BOOK_BYTES:], out=out_N, mode="clip")


def tree_sum(values_N: Float64) -> np.float64:
    """Sum by repeated halving, zero-padded to a power of two: only elementwise adds.

    np.sum may group its additions by SIMD width, so its last bits belong to the CPU.
    """
    half = 1 << max(0, values_N.size - 1).bit_length()
    level = np.zeros(half, np.float64)
    level[: values_N.size] = values_N
    while half > 1:
        half //= 2
        np.add(level[:half], level[half : 2 * half], out=level[:half])
    total: np.float64 = level[0]
    return total


def _moments(wide_N: Float64) -> tuple[float, float]:
    """(mean, population standard deviation)."""
    mean = tree_sum(wide_N) / wide_N.size
    offset_N = np.subtract(wide_N, np.float64(mean))
    np.multiply(offset_N, offset_N, out=offset_N)
    return float(mean), float(np.sqrt(tree_sum(offset_N) / wide_N.size))


def _fill(wide_N: Float64, mean: float, sigma: float, numbers_N: UInt8) -> Float64:
    """Write the bucket numbers; return the codebook, float64[256]."""
    low, width = mean - _SPAN * sigma, 2 * _SPAN * sigma / BUCKETS
    if width > 0:
        bucket_N = np.subtract(wide_N, np.float64(low))
        np.divide(bucket_N, width, out=bucket_N)
        np.floor(bucket_N, out=bucket_N)
        np.clip(bucket_N, 0, BUCKETS - 1, out=bucket_N)
        np.copyto(numbers_N, bucket_N, casting="unsafe")
    else:
        numbers_N[:] = _MIDDLE
    count = np.bincount(numbers_N, minlength=BUCKETS)
    total = np.bincount(numbers_N, weights=wide_N, minlength=BUCKETS)
    centre = low + (np.arange(BUCKETS, dtype=np.float64) + 0.5) * width
    np.divide(total, count, out=centre, where=count > 0)
    return centre
