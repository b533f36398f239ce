"""What data-parallel training would have sent."""

from __future__ import annotations

BF16_BYTES = 2


def ddp_bytes(parameters: int, steps: int, peers: int) -> int:
    """Bytes that each peer would send in data-parallel training: a bf16 ring every step.

    2 (M - 1) / M values per parameter and step (reduce-scatter and all-gather).
    """
    return round(2 * (peers - 1) / peers * BF16_BYTES * parameters * steps)
