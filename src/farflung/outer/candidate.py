"""The outer step beside the state: what a fragment would be after a commit, and its hash.

A vote names the hash before anybody may change anything. What was computed for it is kept, so
that the commit only has to copy it in.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farflung.hashing import digest, merkle_root
from farflung.ids import Hash
from farflung.outer.fragments import Fragment, offsets, size
from farflung.outer.nesterov import ChunkStep
from farflung.outer.state_hash import LEAF_ELEMENTS

# legend: F = elements of one fragment, N = elements of the flat vector, C = of one chunk
Float32 = npt.NDArray[np.float32]

PIECE_ELEMENTS = 32_768
"""128 KiB per array: the six of a step stay in a second-level cache of 1 MiB."""


@dataclass(frozen=True)
class Stepped:
    """A fragment after the outer step, float32[F] each, and the hash of both."""

    anchor: Float32
    momentum: Float32
    leaves: tuple[Hash, ...]
    """Hashes of their 4 MiB chunks: the anchor's, then the momentum's."""
    hash: Hash
    """The fragment's: the Merkle root over the leaves."""


class StepAhead:
    """Computes `Stepped` from gradient chunks, in any order, each element once.

    Reads the flat vectors and writes only its own arrays. A leaf is hashed when it is whole: its
    4 MiB are in the last cache still. Not for two threads at once.
    """

    def __init__(
        self, anchor_N: Float32, momentum_N: Float32, fragment: Fragment, lr_bits: int, mu_bits: int
    ) -> None:
        """Scalars as fp32 bits."""
        self._old_anchor, self._old_momentum = anchor_N, momentum_N
        self._fragment, self._offsets = fragment, offsets(fragment)
        self._size = size(fragment)
        self._step = ChunkStep(lr_bits, mu_bits, chunk_elements=PIECE_ELEMENTS)
        self._anchor = np.empty(self._size, np.float32)
        self._momentum = np.empty(self._size, np.float32)
        self._leaves = _Leaves(self._anchor, self._momentum)

    def add(self, first: int, gradient_C: Float32) -> None:
        """The averaged pseudo-gradient of elements [first, first + C) of the fragment.

        Raises ValueError when they are outside the fragment or came before.
        """
        stop = first + gradient_C.size
        if not 0 <= first <= stop <= self._size:
            raise ValueError(f"elements [{first}, {stop}) do not fit a fragment of {self._size}")
        at = first
        while at < stop:
            until = min(stop, at + PIECE_ELEMENTS, (at // LEAF_ELEMENTS + 1) * LEAF_ELEMENTS)
            at = self._add_piece(at, gradient_C[at - first : until - first])

    def _add_piece(self, at: int, gradient_C: Float32) -> int:
        """As much of it as lies in one range of the fragment; returns where that ends."""
        index = bisect_right(self._offsets, at) - 1
        start = self._fragment[index][0] + at - self._offsets[index]
        n = min(gradient_C.size, self._fragment[index][1] - start)
        flat, own = slice(start, start + n), slice(at, at + n)
        self._leaves.check_new(at, n)
        self._step(
            self._old_anchor[flat],
            self._old_momentum[flat],
            gradient_C[:n],
            self._anchor[own],
            self._momentum[own],
        )
        self._leaves.wrote(at, n)
        return at + n

    def finish(self) -> Stepped:
        """Raises ValueError when the gradient of some elements never came."""
        leaves = self._leaves.all()
        return Stepped(self._anchor, self._momentum, leaves, merkle_root(leaves))


class _Leaves:
    """Hashes of the 4 MiB leaves of two vectors that fill up piece by piece."""

    def __init__(self, anchor_F: Float32, momentum_F: Float32) -> None:
        self._anchor, self._momentum = anchor_F, momentum_F
        self._count = max(1, -(-anchor_F.size // LEAF_ELEMENTS))
        self._filled = [0] * self._count
        self._hashes: dict[int, tuple[Hash, Hash]] = {}
        if not anchor_F.size:
            self._hashes[0] = (digest(b""), digest(b""))

    def check_new(self, at: int, n: int) -> None:
        index = at // LEAF_ELEMENTS
        if self._filled[index] + n > self._length(index):
            raise ValueError(f"elements [{at}, {at + n}) came before")

    def wrote(self, at: int, n: int) -> None:
        """Elements [at, at + n), all of one leaf, have their final values."""
        index = at // LEAF_ELEMENTS
        self._filled[index] += n
        if self._filled[index] == self._length(index):
            own = slice(index * LEAF_ELEMENTS, index * LEAF_ELEMENTS + self._length(index))
            pair = digest(_bytes(self._anchor[own])), digest(_bytes(self._momentum[own]))
            self._hashes[index] = pair

    def all(self) -> tuple[Hash, ...]:
        if len(self._hashes) != self._count:
            missing = self._anchor.size - sum(self._filled)
            raise ValueError(f"the gradient of {missing} elements is missing")
        pairs = [self._hashes[i] for i in range(self._count)]
        return (*(a for a, _ in pairs), *(m for _, m in pairs))

    def _length(self, index: int) -> int:
        return min(LEAF_ELEMENTS, self._anchor.size - index * LEAF_ELEMENTS)


def _bytes(values: Float32) -> memoryview:
    return np.ascontiguousarray(values, "<f4").data.cast("B")
