"""Hashes of the outer state: 4 MiB leaves, a Merkle root per fragment, a root over fragments.

The leaves of a fragment are its anchor's chunks, then its momentum's; they are also the chunks
of a snapshot, so that a joiner checks each chunk by itself. Bytes are little-endian fp32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farflung.hashing import digest, merkle_root
from farflung.ids import Hash
from farflung.outer.nesterov import CHUNK_ELEMENTS, ChunkStep

# legend: F = elements of one fragment, C = elements of one chunk
Float32 = npt.NDArray[np.float32]

LEAF_ELEMENTS = 1 << 20
"""Elements of one hashed chunk: 4 MiB. An empty vector has one, empty, chunk."""


def fragment_leaves(anchor_F: Float32, momentum_F: Float32) -> list[Hash]:
    """BLAKE3 of every chunk: the anchor's, then the momentum's."""
    return [digest(leaf) for part in (anchor_F, momentum_F) for leaf in _leaves(part)]


def fragment_hash(anchor_F: Float32, momentum_F: Float32) -> Hash:
    """Merkle root over `fragment_leaves`."""
    return merkle_root(fragment_leaves(anchor_F, momentum_F))


def state_root(fragment_hashes: Sequence[bytes]) -> Hash:
    """Merkle root over the fragments' hashes, in order."""
    return merkle_root(fragment_hashes)


class StateHasher:
    """`fragment_hash` of a fragment that arrives in pieces, without holding it.

    Feed consecutive pieces of any length with `update`; then read `leaves` or `root`.
    """

    def __init__(self) -> None:
        self._anchor = _LeafHasher()
        self._momentum = _LeafHasher()

    def update(self, anchor_C: Float32, momentum_C: Float32) -> None:
        """The next elements of both vectors, float32[C] each."""
        self._anchor.update(anchor_C)
        self._momentum.update(momentum_C)

    def leaves(self) -> list[Hash]:
        """Equal to `fragment_leaves` of everything that was fed."""
        return self._anchor.leaves() + self._momentum.leaves()

    def root(self) -> Hash:
        """Equal to `fragment_hash` of everything that was fed."""
        return merkle_root(self.leaves())


def candidate_hash(
    anchor_F: Float32,
    momentum_F: Float32,
    gradient: Float32 | Iterable[Float32],
    lr_bits: int,
    mu_bits: int,
) -> Hash:
    """`fragment_hash` after the outer step, which is computed chunk by chunk and not kept.

    gradient: float32[F], or consecutive pieces of it of any length (decoded as they are needed).
    Raises ValueError when the lengths differ.
    """
    if anchor_F.shape != momentum_F.shape:
        raise ValueError(f"anchor {anchor_F.shape} and momentum {momentum_F.shape} differ")
    step = ChunkStep(lr_bits, mu_bits)
    hasher, at = StateHasher(), 0
    new_anchor, new_momentum = (np.empty(CHUNK_ELEMENTS, np.float32) for _ in range(2))
    for gradient_C in _pieces(gradient):
        n = gradient_C.size
        cut = slice(at, at + n)
        at += n
        if at > anchor_F.size:
            break
        step(anchor_F[cut], momentum_F[cut], gradient_C, new_anchor[:n], new_momentum[:n])
        hasher.update(new_anchor[:n], new_momentum[:n])
    if at != anchor_F.size:
        raise ValueError(f"a gradient of {at} elements does not fit {anchor_F.size}")
    return hasher.root()


def _pieces(gradient: Float32 | Iterable[Float32]) -> Iterator[Float32]:
    parts = (gradient,) if isinstance(gradient, np.ndarray) else gradient
    for part in parts:
        for at in range(0, part.size, CHUNK_ELEMENTS):
            yield part[at : at + CHUNK_ELEMENTS]


def _leaves(part_F: Float32) -> Iterator[memoryview]:
    for at in range(0, max(1, part_F.size), LEAF_ELEMENTS):
        yield _bytes(part_F[at : at + LEAF_ELEMENTS])


def _bytes(values: Float32) -> memoryview:
    return np.ascontiguousarray(values, "<f4").data.cast("B")


class _LeafHasher:
    """The leaves of one vector that arrives in pieces."""

    def __init__(self) -> None:
        self._done: list[Hash] = []
        self._open = blake3()
        self._open_elements = 0

    def update(self, values: Float32) -> None:
        while values.size:
            room = LEAF_ELEMENTS - self._open_elements
            self._open.update(_bytes(values[:room]))
            self._open_elements += min(room, values.size)
            values = values[room:]
            if self._open_elements == LEAF_ELEMENTS:
                self._close()

    def leaves(self) -> list[Hash]:
        if self._open_elements or not self._done:
            return [*self._done, Hash(self._open.digest())]
        return list(self._done)

    def _close(self) -> None:
        self._done.append(Hash(self._open.digest()))
        self._open = blake3()
        self._open_elements = 0
