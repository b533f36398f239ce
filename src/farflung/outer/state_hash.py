"""Hashes of fragments. A leaf is 1 Mi elements (4 MiB) and is also a snapshot's chunk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farflung.hashing import digest, merkle_root
from farflung.ids import Hash
from farflung.outer.nesterov import outer_step

Float32 = npt.NDArray[np.float32]

LEAF_ELEMENTS = 1 << 20


def _parts(n: int) -> list[slice]:
    count = max(1, -(-n // LEAF_ELEMENTS))
    return [slice(i * LEAF_ELEMENTS, min(n, (i + 1) * LEAF_ELEMENTS)) for i in range(count)]


def _leaf(values: Float32) -> Hash:
    return digest(np.ascontiguousarray(values).view(np.uint8).data)


def fragment_leaves(anchor_F: Float32, momentum_F: Float32) -> list[Hash]:
    """Hashes of the anchor's chunks, then of the momentum's."""
    return [
        _leaf(values[part]) for values in (anchor_F, momentum_F) for part in _parts(values.size)
    ]


def fragment_hash(anchor_F: Float32, momentum_F: Float32) -> Hash:
    return merkle_root(fragment_leaves(anchor_F, momentum_F))


def candidate_hash(
    anchor_F: Float32, momentum_F: Float32, gradient_F: Float32, lr_bits: int, mu_bits: int
) -> Hash:
    """The hash that the fragment would have after the outer step, chunk by chunk, in scratch."""
    anchors: list[Hash] = []
    moments: list[Hash] = []
    for part in _parts(anchor_F.size):
        n = part.stop - part.start
        anchor, moment = np.empty(n, np.float32), np.empty(n, np.float32)
        outer_step(
            anchor_F[part],
            momentum_F[part],
            gradient_F[part],
            lr_bits,
            mu_bits,
            out_anchor=anchor,
            out_momentum=moment,
        )
        anchors.append(_leaf(anchor))
        moments.append(_leaf(moment))
    return merkle_root([*anchors, *moments])


def state_root(fragment_hashes: Sequence[bytes]) -> Hash:
    return merkle_root(fragment_hashes)
