"""The arithmetic of an owner: statistics, weighted mean, both on decoded wire bytes.

Bit-identical by construction: contributors in the verdict's order, separate IEEE multiply and
add in fp32, coefficients from integers and fp32 bits of the verdict. A witness that holds the
same inputs gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farflung.network.messages import Included, Partial

# legend: C = elements of one codec chunk
Float32 = npt.NDArray[np.float32]


class ChunkCodec(Protocol):
    """What averaging needs of a codec (outer/codecs provides it)."""

    @property
    def name(self) -> str: ...

    def encoded_size(self, n: int) -> int: ...

    def encode(self, x: Float32) -> bytes: ...

    def decode(self, data: bytes | memoryview, out: Float32) -> None: ...


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
        """Encoded bytes of chunks [first, stop); O(1), the last chunk may be short."""
        if not 0 <= first < stop <= self.chunks:
            raise ValueError(f"chunks [{first}, {stop}) are outside 0..{self.chunks}")
        whole = (stop - first - 1) * self.codec.encoded_size(self.chunk_elements)
        return whole + self.bytes_of(stop - 1)

    def split(self, payload: memoryview, first: int, stop: int) -> list[bytes]:
        """The payload of chunks [first, stop), cut into chunks (copied)."""
        out, at = [], 0
        for chunk in range(first, stop):
            size = self.bytes_of(chunk)
            out.append(bytes(payload[at : at + size]))
            at += size
        return out


def statistics(
    grid: ChunkGrid, first: int, inputs: Mapping[str, Sequence[bytes]]
) -> tuple[Partial, ...]:
    """Sums of squares and dot products with the plain sum, per contributor, over one slice.

    `inputs`: node -> encoded chunks from chunk `first` on, in candidate order.
    """
    squares = dict.fromkeys(inputs, 0.0)
    dots = dict.fromkeys(inputs, 0.0)
    count = len(next(iter(inputs.values())))
    for k in range(count):
        n = grid.elements_of(first + k)
        decoded = {node: _decoded(grid, chunks[k], n) for node, chunks in inputs.items()}
        with np.errstate(all="ignore"):  # non-finite input is an answer here, not a surprise
            total_C = np.sum(list(decoded.values()), axis=0, dtype=np.float64)
            for node, values_C in decoded.items():
                wide_C = values_C.astype(np.float64)
                squares[node] += float(wide_C @ wide_C)
                dots[node] += float(wide_C @ total_C)
    return tuple(
        Partial(node=node, square=_finite_or_inf(squares[node]), dot=_finite_or_zero(dots[node]))
        for node in inputs
    )


def _decoded(grid: ChunkGrid, data: bytes, n: int) -> Float32:
    out_C = np.empty(n, np.float32)
    grid.codec.decode(data, out_C)
    return out_C


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
    inputs: Mapping[str, Sequence[bytes]],
    included: Sequence[Included],
    divisor: int,
) -> list[bytes]:
    """Encoded weighted mean of one slice: decode, multiply, add in order, encode once."""
    out: list[bytes] = []
    count = len(inputs[included[0].node])
    for k in range(count):
        n = grid.elements_of(first + k)
        sum_C, scaled_C = np.zeros(n, np.float32), np.empty(n, np.float32)
        for entry in included:
            values_C = _decoded(grid, inputs[entry.node][k], n)
            with np.errstate(all="ignore"):  # an overflow is a value, the same everywhere
                np.multiply(values_C, coefficient(entry, divisor), out=scaled_C)
                np.add(sum_C, scaled_C, out=sum_C)
        out.append(grid.codec.encode(sum_C))
    return out
