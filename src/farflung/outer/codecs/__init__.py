"""Codecs: fp32 values to wire bytes and back, the same bytes on every CPU."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from farflung.errors import ConfigError, ProtocolError

# legend: n = elements, B = blocks of 256
Float32 = npt.NDArray[np.float32]

BLOCK = 256
BUCKETS = 256
SIGMAS = 6.0


class Codec(Protocol):
    """Stateless. `decode` may give non-finite values for hostile bytes: callers check."""

    @property
    def name(self) -> str: ...

    def encoded_size(self, n: int) -> int: ...

    def encode(self, x: Float32) -> bytes: ...

    def decode(self, data: bytes | memoryview, out: Float32) -> None:
        """Raises ProtocolError when the size does not fit `out`."""


def _check_size(codec: Codec, data: bytes | memoryview, n: int) -> None:
    if len(data) != codec.encoded_size(n):
        raise ProtocolError(
            f"{codec.name}: {len(data)} bytes for {n} elements, {codec.encoded_size(n)} expected"
        )


class Fp32:
    """Raw little-endian values."""

    name = "fp32"

    def encoded_size(self, n: int) -> int:
        return 4 * n

    def encode(self, x: Float32) -> bytes:
        return x.astype("<f4", copy=False).tobytes()

    def decode(self, data: bytes | memoryview, out: Float32) -> None:
        _check_size(self, data, out.size)
        out[:] = np.frombuffer(data, "<f4")


class Bf16:
    """The upper half of each fp32, rounded to nearest even; NaN stays NaN."""

    name = "bf16"

    def encoded_size(self, n: int) -> int:
        return 2 * n

    def encode(self, x: Float32) -> bytes:
        bits = np.ascontiguousarray(x).view(np.uint32)
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> 16
        quiet = (bits >> 16) | 0x0040
        return np.where(np.isnan(x), quiet, rounded).astype("<u2").tobytes()

    def decode(self, data: bytes | memoryview, out: Float32) -> None:
        _check_size(self, data, out.size)
        out.view(np.uint32)[:] = np.frombuffer(data, "<u2").astype(np.uint32) << 16


class Int8:
    """Blocks of 256: scale = absmax / 127 (fp32), codes round(x / scale) in -127..127.

    Bytes: all codes (int8), then all scales (fp32 little-endian). A zero block has scale 0.
    """

    name = "int8"

    def encoded_size(self, n: int) -> int:
        return n + 4 * (-(-n // BLOCK))

    def encode(self, x: Float32) -> bytes:
        blocks = -(-x.size // BLOCK)
        padded = x
        if x.size % BLOCK:
            padded = np.zeros(blocks * BLOCK, np.float32)
            padded[: x.size] = x
        rows = padded.reshape(blocks, BLOCK)
        with np.errstate(all="ignore"):  # non-finite input gives a non-finite scale, and is caught
            scales = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(127)
            inverse = np.where(scales > 0, np.float32(1) / scales, np.float32(0))
            codes = np.rint(rows * inverse[:, None])
            np.clip(codes, -127, 127, out=codes)
            packed = np.nan_to_num(codes).astype(np.int8)
        return packed.reshape(-1)[: x.size].tobytes() + scales.astype("<f4").tobytes()

    def decode(self, data: bytes | memoryview, out: Float32) -> None:
        n = out.size
        _check_size(self, data, n)
        codes = np.frombuffer(data, np.int8, n)
        scales = np.frombuffer(data, "<f4", offset=n)
        whole = n // BLOCK * BLOCK
        with np.errstate(all="ignore"):
            np.multiply(
                codes[:whole].reshape(-1, BLOCK),
                scales[: whole // BLOCK, None],
                out=out[:whole].reshape(-1, BLOCK),
                dtype=np.float32,
            )
            if whole < n:
                np.multiply(codes[whole:], scales[-1], out=out[whole:], dtype=np.float32)


class Int8Sigma:
    """INTELLECT-1 (arXiv 2412.01152): 256 even buckets on mean +- 6 sigma, codebook of means.

    Bytes: codebook (256 fp32 little-endian), then one code per element. Sums go through
    np.bincount, which adds one by one in double precision: the same order on every CPU.
    """

    name = "int8-sigma"

    def encoded_size(self, n: int) -> int:
        return 4 * BUCKETS + n

    def encode(self, x: Float32) -> bytes:
        zeros = np.zeros(x.size, np.intp)
        wide = x.astype(np.float64)
        with np.errstate(all="ignore"):
            mean = float(np.bincount(zeros, wide)[0]) / x.size
            centred = wide - mean
            sigma = float(np.sqrt(np.bincount(zeros, centred * centred)[0] / x.size))
            width = 2 * SIGMAS * sigma / BUCKETS
            if not np.isfinite(width):
                book = np.full(BUCKETS, np.nan, "<f4")
                return book.tobytes() + bytes(x.size)
            position = centred / width + BUCKETS / 2 if width > 0 else zeros.astype(np.float64)
            codes = np.clip(np.floor(position), 0, BUCKETS - 1).astype(np.uint8)
            count = np.bincount(codes, minlength=BUCKETS)
            total = np.bincount(codes, wide, minlength=BUCKETS)
            centres = mean + (np.arange(BUCKETS) + 0.5 - BUCKETS / 2) * width
            book = np.where(count > 0, total / np.maximum(count, 1), centres).astype("<f4")
        return book.tobytes() + codes.tobytes()

    def decode(self, data: bytes | memoryview, out: Float32) -> None:
        _check_size(self, data, out.size)
        book = np.frombuffer(data, "<f4", BUCKETS)
        np.take(book, np.frombuffer(data, np.uint8, offset=4 * BUCKETS), out=out)


_CODECS: dict[str, Codec] = {c.name: c for c in (Fp32(), Bf16(), Int8(), Int8Sigma())}


def get_codec(name: str) -> Codec:
    """ConfigError for an unknown name."""
    if name not in _CODECS:
        raise ConfigError(f"codec {name!r} is not known; known are: {', '.join(_CODECS)}")
    return _CODECS[name]
