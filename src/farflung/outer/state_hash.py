"""Hashes of the outer state: 4 MiB leaves, a Merkle root per fragment, a root over fragments.

The leaves of a fragment are its anchor's chunks, then its momentum's; they are also the chunks
of a snapshot, so that a joiner checks each chunk by itself. Bytes are little-endian fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from farflung.hashing import digest, merkle_root
from farflung.ids import Hash

# legend: F = elements of one fragment
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


def _leaves(part_F: Float32) -> Iterator[memoryview]:
    for at in range(0, max(1, part_F.size), LEAF_ELEMENTS):
        yield _bytes(part_F[at : at + LEAF_ELEMENTS])


def _bytes(values: Float32) -> memoryview:
    return np.ascontiguousarray(values, "<f4").data.cast("B")
