"""A peer's contribution: pseudo-gradient, encoded chunks, and the commitment to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farflung.hashing import digest, merkle_root
from farflung.ids import Hash
from farflung.outer.codecs import Codec

# legend: F = elements of one fragment, C = elements of one codec chunk
Float32 = npt.NDArray[np.float32]

_CHUNK = 65_536


def pseudo_gradient(anchor_F: Float32, local_F: Float32, out: Float32) -> None:
    """out <- anchor - local: a descent direction with the sign of a gradient (DiLoCo, eq. 2).

    `out` may be either input. Diverged parameters give non-finite values and no warning: ask
    `all_finite`. Raises ValueError when the lengths differ.
    """
    if not anchor_F.shape == local_F.shape == out.shape:
        raise ValueError(f"anchor {anchor_F.shape}, local {local_F.shape}, out {out.shape} differ")
    with np.errstate(all="ignore"):
        np.subtract(anchor_F, local_F, out=out)


def all_finite(x: Float32) -> bool:
    """No NaN and no infinity; stops at the first chunk that has one."""
    return all(bool(np.isfinite(x[at : at + _CHUNK]).all()) for at in range(0, x.size, _CHUNK))


def encode_departure(
    anchor_F: Float32, local_F: Float32, codec: Codec, chunk_elements: int
) -> tuple[list[bytes], list[Hash]] | None:
    """(encoded chunk, its hash) for every `chunk_elements` of the pseudo-gradient.

    The last chunk may be short. None when a value is not finite. Each chunk is subtracted,
    checked, encoded and hashed while it is in the cache; the whole vector is never built. Raises
    ValueError when the lengths differ.
    """
    if anchor_F.shape != local_F.shape:
        raise ValueError(f"anchor {anchor_F.shape} and local {local_F.shape} differ")
    chunks: list[bytes] = []
    scratch = np.empty(min(chunk_elements, anchor_F.size), np.float32)
    for at in range(0, anchor_F.size, chunk_elements):
        cut = slice(at, at + chunk_elements)
        delta_C = scratch[: anchor_F[cut].size]
        pseudo_gradient(anchor_F[cut], local_F[cut], delta_C)
        if not all_finite(delta_C):
            return None
        chunks.append(codec.encode(delta_C))
    return chunks, [digest(chunk) for chunk in chunks]


def commitment(hashes: Sequence[bytes]) -> Hash:
    """Root over the chunks' hashes: an owner that sees one slice can check it."""
    return merkle_root(hashes)
