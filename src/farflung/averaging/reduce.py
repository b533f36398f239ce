"""The arithmetic of an owner: statistics, weighted mean, both on decoded wire bytes.

Bit-identical by construction: contributors in the verdict's order, separate IEEE multiply and
add in fp32, coefficients from integers and fp32 bits of the verdict. A witness that holds the
same inputs gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farflung.network.messages import Included, Partial

# legend: C = elements of one codec chunk, X = contributors, P = elements of a piece
Float32 = npt.NDArray[np.float32]
Bytes = bytes | memoryview
"""Of one chunk; a view belongs to whoever holds it, for nobody writes to what it shows."""

_PIECE = 8_192
"""Elements of a piece of the statistics: as fp64, those of eight contributors are 512 KiB."""


class ChunkCodec(Protocol):
    """What averaging needs of a codec (outer/codecs provides it)."""

    @property
    def name(self) -> str: ...

    def encoded_size(self, n: int) -> int: ...

    def encode(self, x: Float32) -> bytes: ...

    def decode(self, data: bytes | memoryview, out: Float32) -> None: ...


@dataclass(frozen=True)
class EncodedChunks:
    """What one node contributes of a fragment: every chunk's wire bytes and their digests."""

    chunks: Sequence[bytes]
    hashes: tuple[bytes, ...]


class ChunkGrid:
    """Codec chunks of one fragment: `elements` values in chunks of `chunk_elements`."""

    def __init__(self, elements: int, chunk_elements: int, codec: ChunkCodec) -> None:
        self.elements = elements
        self.chunk_elements = chunk_elements
        self.codec = codec
        self.chunks = -(-elements // chunk_elements)

    def elements_of(self, chunk: int) -> int:
        return min(self.chunk_elements, self.elements - chunk * self.chunk_elements)

    def bytes_of(self, chunk: int) -> int:
        return self.codec.encoded_size(self.elements_of(chunk))

    def bytes_between(self, first: int, stop: int) -> int:
        """EncodedChunks bytes of chunks [first, stop); O(1), the last chunk may be short."""
        if not 0 <= first < stop <= self.chunks:
            raise ValueError(f"chunks [{first}, {stop}) are outside 0..{self.chunks}")
        whole = (stop - first - 1) * self.codec.encoded_size(self.chunk_elements)
        return whole + self.bytes_of(stop - 1)

    def split(self, payload: memoryview, first: int, stop: int) -> list[memoryview]:
        """The payload of chunks [first, stop), cut into chunks: views."""
        out, at = [], 0
        for chunk in range(first, stop):
            size = self.bytes_of(chunk)
            out.append(payload[at : at + size])
            at += size
        return out


def statistics(
    grid: ChunkGrid, first: int, inputs: Mapping[str, Sequence[Bytes]]
) -> tuple[Partial, ...]:
    """Sums of squares and dot products with the plain sum, per contributor, over one slice.

    `inputs`: node -> encoded chunks from chunk `first` on, in candidate order. Products and sums
    are fp64, in pieces that stay in the cache.
    """
    squares = dict.fromkeys(inputs, 0.0)
    dots = dict.fromkeys(inputs, 0.0)
    count = len(next(iter(inputs.values())))
    decoded_XC = np.empty((len(inputs), grid.elements_of(first)), np.float32)
    for k in range(count):
        n = grid.elements_of(first + k)
        for row, chunks in enumerate(inputs.values()):
            grid.codec.decode(chunks[k], decoded_XC[row, :n])
        for at in range(0, n, _PIECE):
            _add_products(decoded_XC[:, at : min(n, at + _PIECE)], squares, dots)
    return tuple(
        Partial(node=node, square=_finite_or_inf(squares[node]), dot=_finite_or_zero(dots[node]))
        for node in inputs
    )


def _add_products(values_XP: Float32, squares: dict[str, float], dots: dict[str, float]) -> None:
    """Add one piece; rows in the order of the nodes."""
    with np.errstate(all="ignore"):  # non-finite input is an answer here, not a surprise
        wide_XP = values_XP.astype(np.float64)
        total_P = wide_XP.sum(axis=0)
        for wide_P, node in zip(wide_XP, squares, strict=True):
            squares[node] += float(wide_P @ wide_P)
            dots[node] += float(wide_P @ total_P)


def _finite_or_inf(value: float) -> float:
    return value if np.isfinite(value) else float("inf")


def _finite_or_zero(value: float) -> float:
    return value if np.isfinite(value) else 0.0


def coefficient(entry: Included, divisor: int) -> np.float32:
    """weight * clip / divisor, rounded once to fp32."""
    clip = float(np.uint32(entry.clip).view(np.float32))
    return np.float32(entry.weight * clip / divisor)


def reduce_slice(
    grid: ChunkGrid,
    first: int,
    inputs: Mapping[str, Sequence[Bytes]],
    included: Sequence[Included],
    divisor: int,
) -> list[bytes]:
    """EncodedChunks weighted mean of one slice: decode, multiply, add in order, encode once."""
    out: list[bytes] = []
    count = len(inputs[included[0].node])
    sum_all, values_all = (np.empty(grid.elements_of(first), np.float32) for _ in range(2))
    for k in range(count):
        n = grid.elements_of(first + k)
        sum_C, values_C = sum_all[:n], values_all[:n]
        sum_C.fill(0)
        for entry in included:
            grid.codec.decode(inputs[entry.node][k], values_C)
            with np.errstate(all="ignore"):  # an overflow is a value, the same everywhere
                np.multiply(values_C, coefficient(entry, divisor), out=values_C)
                np.add(sum_C, values_C, out=sum_C)
        out.append(grid.codec.encode(sum_C))
    return out
