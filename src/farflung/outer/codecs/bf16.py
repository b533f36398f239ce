"""bf16: the upper half of fp32, rounded to nearest, ties to even. 2 bytes per element.

Beyond bf16's range rounds to infinity, as IEEE says; NaN stays NaN (quiet, sign kept).
Little-endian uint16. Integer arithmetic only.
"""

from __future__ import annotations

import numpy as np

from farflung.outer.codecs.base import PIECE_ELEMENTS, Float32, UInt8, WireCodec, pieces

_HALF = np.uint32(0x7FFF)
_ONE = np.uint32(1)
_SHIFT = np.uint32(16)
_QUIET = np.uint32(0x40)


class Bf16(WireCodec):
    name = "bf16"

    def encoded_size(self, n: int) -> int:
        return 2 * n

    def _write(self, x_N: Float32, wire: UInt8) -> None:
        codes = wire.view("<u2")
        scratch = np.empty(min(x_N.size, PIECE_ELEMENTS), np.uint32)
        for cut in pieces(x_N.size):
            bits = x_N[cut].view(np.uint32)
            rounded = scratch[: bits.size]
            np.right_shift(bits, _SHIFT, out=rounded)
            np.bitwise_and(rounded, _ONE, out=rounded)
            np.add(rounded, _HALF, out=rounded)
            np.add(rounded, bits, out=rounded)
            np.right_shift(rounded, _SHIFT, out=rounded)
            nan = np.isnan(x_N[cut])
            if nan.any():  # rounding could carry a NaN into infinity or zero
                rounded[nan] = (bits[nan] >> _SHIFT) | _QUIET
            np.copyto(codes[cut], rounded, casting="unsafe")

    def _read(self, wire: UInt8, out_N: Float32) -> None:
        codes, bits = wire.view("<u2"), out_N.view(np.uint32)
        for cut in pieces(out_N.size):
            bits[cut] = codes[cut]
            np.left_shift(bits[cut], _SHIFT, out=bits[cut])
