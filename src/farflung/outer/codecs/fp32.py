"""fp32: the bits as they are, little-endian. 4 bytes per element."""

from __future__ import annotations

from farflung.outer.codecs.base import Float32, UInt8, WireCodec


class Fp32(WireCodec):
    name = "fp32"

    def encoded_size(self, n: int) -> int:
        return 4 * n

    def _write(self, x_N: Float32, wire: UInt8) -> None:
        wire.view("<f4")[:] = x_N

    def _read(self, wire: UInt8, out_N: Float32) -> None:
        out_N[:] = wire.view("<f4")
