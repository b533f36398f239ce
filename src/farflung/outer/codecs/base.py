"""What all codecs share: the Protocol, the size checks, the walk over buffers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from farflung.errors import ProtocolError

# legend: N = elements of one chunk
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

PIECE_ELEMENTS = 32_768
"""Codecs walk in pieces of this size, so that temporaries stay in the second-level cache."""


class Codec(Protocol):
    """fp32 vector <-> wire bytes. Stateless: may be used by several threads at once.

    Both directions give the same bits on every CPU: wire bytes decide what the average is, and a
    witness recomputes what an owner encoded.
    """

    @property
    def name(self) -> str: ...

    def encoded_size(self, n: int) -> int:
        """Bytes of `n` encoded elements."""
        ...

    def encode(self, x: Float32, out: memoryview | None = None) -> bytes:
        """The wire bytes of float32[n]; with `out`, they are also put there.

        Never fails on values: what cannot be represented decodes to non-finite values.
        Raises ValueError when x is no contiguous float32 vector or `out` has the wrong size.
        """
        ...

    def decode(self, data: bytes | memoryview, out: Float32) -> None:
        """Fill float32[n] `out`. Raises ProtocolError when the size of `data` is wrong.

        A peer can send non-finite scales: the result is then not finite, and callers check.
        """
        ...


class WireCodec(ABC):
    """A codec from two loops, `_write` and `_read`; this class guards their buffers."""

    name: ClassVar[str]

    @abstractmethod
    def encoded_size(self, n: int) -> int:
        """Bytes of `n` encoded elements."""

    @abstractmethod
    def _write(self, x_N: Float32, wire: UInt8) -> None:
        """Encode into exactly `encoded_size(N)` bytes."""

    @abstractmethod
    def _read(self, wire: UInt8, out_N: Float32) -> None:
        """Decode exactly `encoded_size(N)` bytes."""

    def encode(self, x: Float32, out: memoryview | None = None) -> bytes:
        _check_vector(x)
        n_bytes = self.encoded_size(x.size)
        wire = np.empty(n_bytes, np.uint8) if out is None else np.frombuffer(out, np.uint8)
        if wire.size != n_bytes:
            raise ValueError(f"{self.name}: out has {wire.size} bytes, {n_bytes} are needed")
        with np.errstate(all="ignore"):
            self._write(x, wire)
        return wire.tobytes()

    def decode(self, data: bytes | memoryview, out: Float32) -> None:
        _check_vector(out)
        n_bytes = self.encoded_size(out.size)
        if len(data) != n_bytes:
            raise ProtocolError(
                f"{self.name}: {out.size} elements have {n_bytes} bytes, not {len(data)}"
            )
        with np.errstate(all="ignore"):
            self._read(np.frombuffer(data, np.uint8), out)


def pieces(n: int) -> list[slice]:
    """Cuts of 0..n of PIECE_ELEMENTS each; the last may be short."""
    return [slice(at, min(n, at + PIECE_ELEMENTS)) for at in range(0, n, PIECE_ELEMENTS)]


def _check_vector(x: Float32) -> None:
    if x.dtype != np.float32 or x.ndim != 1 or not x.flags.c_contiguous:
        raise ValueError(f"a codec needs a contiguous float32 vector, not {x.dtype}{list(x.shape)}")
