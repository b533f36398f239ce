"""How a committed fragment enters a peer's local parameters. All in place, float32[F].

`overwrite`, `blend`, `carry`: for a contributor of the round, by the run's merge mode.
`rebase`: for everybody else. Local parameters are private, so these need no common bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# legend: F = elements of one fragment
Float32 = npt.NDArray[np.float32]

_CHUNK = 65_536


def overwrite(local_F: Float32, new_F: Float32) -> None:
    """local <- new: steps since the departure are discarded (DiLoCo, arXiv 2311.08105)."""
    _check(local_F, new_F)
    np.copyto(local_F, new_F)


def blend(local_F: Float32, new_F: Float32, alpha: float) -> None:
    """local <- alpha * local + (1 - alpha) * new (Streaming DiLoCo, arXiv 2501.18512, alg. 2).

    alpha = 0 is `overwrite`, alpha = 1 changes nothing, both to the bit. Progress since the
    departure is in part counted again by the next pseudo-gradient: that is the published rule.
    Raises ValueError outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"blend alpha={alpha} must be in [0, 1]")
    _check(local_F, new_F)
    if alpha == 0:
        np.copyto(local_F, new_F)
    elif alpha < 1:
        keep, take = np.float32(alpha), np.float32(1 - alpha)
        for at in range(0, local_F.size, _CHUNK):
            cut = slice(at, at + _CHUNK)
            np.multiply(local_F[cut], keep, out=local_F[cut])
            np.add(local_F[cut], new_F[cut] * take, out=local_F[cut])


def carry(local_F: Float32, new_F: Float32, sent_F: Float32) -> None:
    """local <- local + (new - sent): what was trained since `sent` departed stays, once.

    The next pseudo-gradient, new - local = sent - local_now, then holds exactly that progress.
    """
    _add_difference(local_F, new_F, sent_F)


def rebase(local_F: Float32, new_F: Float32, old_F: Float32) -> None:
    """local <- local + (new - old), anchors: the pseudo-gradient stays what it was.

    For a peer whose progress is not in the commit (late, excluded, rejected).
    """
    _add_difference(local_F, new_F, old_F)


def _add_difference(local_F: Float32, plus_F: Float32, minus_F: Float32) -> None:
    _check(local_F, plus_F, minus_F)
    for at in range(0, local_F.size, _CHUNK):
        cut = slice(at, at + _CHUNK)
        np.add(local_F[cut], plus_F[cut] - minus_F[cut], out=local_F[cut])


def _check(*vectors: Float32) -> None:
    """NumPy would broadcast a vector of one element: a wrong length must not pass."""
    if len({v.shape for v in vectors}) != 1:
        raise ValueError(f"vectors of one length are needed, not {[v.shape for v in vectors]}")
