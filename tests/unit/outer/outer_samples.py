"""Inputs and digests for the tests of the outer room.

Run as a program it prints one digest per operation: the tests run it under several settings of
NPY_DISABLE_CPU_FEATURES and compare. All inputs come from integer arithmetic, so that they are
the same bits everywhere.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import numpy.typing as npt

from farflung.hashing import digest
from farflung.outer.codecs import CODECS
from farflung.outer.gradient import pseudo_gradient
from farflung.outer.nesterov import bits_of, outer_step
from farflung.outer.state_hash import fragment_hash

Float32 = npt.NDArray[np.float32]


def sample(n: int, seed: int) -> Float32:
    """Roughly Gaussian float32[n], scaled by powers of two from 2^-12 to 2^3 in runs of 97."""
    index = np.arange(4 * n, dtype=np.uint64) + np.uint64(seed * 1_000_003 + 1)
    mixed = index * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    uniform = (mixed >> np.uint64(44)).astype(np.int64).reshape(n, 4)
    centred = uniform.sum(axis=1) - 2 * (1 << 20)
    runs = (np.arange(n) // 97 + seed) % 16 - 12
    return np.ldexp(centred.astype(np.float32), runs - 20).astype(np.float32)


def arithmetic(n: int = 300_000) -> dict[str, str]:
    """Digest of each operation on the samples: outer step, difference, every codec both ways."""
    anchor, momentum, gradient, out = (sample(n, seed) for seed in range(4))
    found: dict[str, str] = {}
    for codec in CODECS.values():
        wire = codec.encode(gradient)
        codec.decode(wire, out)
        found[f"{codec.name} wire"] = digest(wire).hex()
        found[f"{codec.name} values"] = digest(out.data.cast("B")).hex()
    pseudo_gradient(anchor, gradient, out)
    found["pseudo-gradient"] = digest(out.data.cast("B")).hex()
    for _ in range(5):
        outer_step(
            anchor, momentum, gradient, bits_of(0.7), bits_of(0.9),
            out_anchor=anchor, out_momentum=momentum,
        )  # fmt: skip
    found["outer step"] = fragment_hash(anchor, momentum).hex()
    return found


if __name__ == "__main__":
    found = arithmetic()
    heavy = {"torch", "pydantic", "rich", "typer"} & set(sys.modules)
    print(json.dumps({"digests": found, "heavy": sorted(heavy)}))
