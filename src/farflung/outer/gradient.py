"""The pseudo-gradient and its encoding into committed chunks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farflung.hashing import digest, merkle_root
from farflung.ids import Hash
from farflung.outer.codecs import Codec

Float32 = npt.NDArray[np.float32]


def pseudo_gradient(anchor_F: Float32, local_F: Float32, out: Float32) -> None:
    """out = anchor - local: the direction of descent (DiLoCo, arXiv 2311.08105, eq. 2)."""
    np.subtract(anchor_F, local_F, out=out)


def all_finite(x: Float32) -> bool:
    return bool(np.isfinite(x).all())


def encode_chunks(
    x_F: Float32, codec: Codec, chunk_elements: int
) -> tuple[list[bytes], list[Hash]]:
    """Encoded chunks and their hashes."""
    chunks = [codec.encode(x_F[i : i + chunk_elements]) for i in range(0, x_F.size, chunk_elements)]
    return chunks, [digest(chunk) for chunk in chunks]


def commitment(hashes: Sequence[bytes]) -> Hash:
    """What READY promises: the root over the hashes of the encoded chunks."""
    return merkle_root(hashes)
