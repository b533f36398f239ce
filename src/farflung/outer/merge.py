"""How a committed fragment enters a peer's local parameters: what a commit means for this peer,
and the arithmetic. The one definition of both; every trainer lands with it.

    overwrite   local := new                                   DiLoCo (arXiv 2311.08105)
    blend       local := alpha * local + (1 - alpha) * new     Streaming DiLoCo (arXiv 2501.18512)
    carry       local := local + (new - sent)
    rebase      local := local + (new - old)

`new` and `old` are the fragment's anchor after and before the commit, `sent` the local parameters
that departed with the contribution. The first three are for a contributor, by the run's merge mode;
`rebase` is for a peer whose progress is not in the commit. `carry` and `rebase` differ in what is
subtracted and land as the same addition: the agent forms the difference, the trainer adds it.

Local parameters are private, so no two peers need the same bits.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

# legend: F = elements of one fragment, or of one piece of it
Float32 = npt.NDArray[np.float32]
Mode = Literal["overwrite", "blend", "carry"]
"""What a run chooses for its contributors."""
Operation = Literal["overwrite", "blend", "carry", "rebase"]

_CHUNK = 65_536


def operation_of(mode: Mode, *, contributed: bool, fresh: bool) -> Operation:
    """What a commit means for the local parameters of one peer.

    contributed: the commit credits its present stay. fresh: nothing was trained since its local
    parameters were reset to the anchor; then they simply become the anchor, whatever that reset
    has read of this commit.
    """
    if fresh:
        return "overwrite"
    return mode if contributed else "rebase"


def reads_anchor(operation: Operation) -> bool:
    """True: the landing reads the new anchor. False: it adds a difference."""
    return operation in {"overwrite", "blend"}


def difference(new_F: Float32, minus_F: Float32, out_F: Float32) -> None:
    """out <- new - minus: the addend of `carry` (minus: sent) or `rebase` (minus: old anchor).

    float32[F] each; `out` may be `minus`. Raises ValueError when the lengths differ.
    """
    _check(new_F, minus_F, out_F)
    with np.errstate(all="ignore"):
        np.subtract(new_F, minus_F, out=out_F)


def kept_share(operation: Operation, alpha: float) -> float:
    """The weight of the local parameters in a landing that reads the anchor.

    At 0 they become the anchor, at 1 they stay, both to the bit. Raises ValueError when the alpha
    of a blend is outside [0, 1].
    """
    if operation != "blend":
        return 0.0
    if not 0 <= alpha <= 1:
        raise ValueError(f"blend alpha={alpha} must be in [0, 1]")
    return alpha


def land(local_F: Float32, operation: Operation, value_F: Float32, alpha: float = 0.0) -> None:
    """Merge into the local parameters, in place; float32[F] both.

    value: the new anchor where the operation reads it, else the addend. After a blend, progress
    since the departure is in part counted again by the next pseudo-gradient (the published rule);
    after `carry` the next pseudo-gradient holds exactly that progress; `rebase` leaves it what it
    was. Every operation is a separate fp32 multiply or add. Raises ValueError when the lengths
    differ, and as `kept_share`.
    """
    _check(local_F, value_F)
    with np.errstate(all="ignore"):
        if not reads_anchor(operation):
            np.add(local_F, value_F, out=local_F)
        elif (keep := kept_share(operation, alpha)) == 0:
            np.copyto(local_F, value_F)
        elif keep < 1:
            _blend(local_F, value_F, np.float32(keep), np.float32(1 - keep))


def _blend(local_F: Float32, new_F: Float32, keep: np.float32, take: np.float32) -> None:
    """In chunks, so that the scratch stays small and in the cache."""
    for at in range(0, local_F.size, _CHUNK):
        cut = slice(at, at + _CHUNK)
        np.multiply(local_F[cut], keep, out=local_F[cut])
        np.add(local_F[cut], new_F[cut] * take, out=local_F[cut])


def _check(*vectors: Float32) -> None:
    """NumPy would broadcast a vector of one element: a wrong length must not pass."""
    if len({v.shape for v in vectors}) != 1:
        raise ValueError(f"vectors of one length are needed, not {[v.shape for v in vectors]}")
