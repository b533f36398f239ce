"""BLAKE3 digests and Merkle roots. Vocabulary: every room may import it."""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from farflung.ids import Hash


def digest(data: bytes | bytearray | memoryview) -> Hash:
    """32-byte BLAKE3 of contiguous bytes."""
    return Hash(blake3(data).digest())


def merkle_root(leaves: Sequence[bytes]) -> Hash:
    """Root of a binary Merkle tree; an odd node is carried up unchanged.

    Leaves and inner nodes hash under different prefixes, so that no inner node can pose as a leaf
    (the second-preimage attack on plain trees); the count of leaves is part of the root.
    """
    level = [blake3(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [
            blake3(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)
        ]
        level = pairs + (level[-1:] if len(level) % 2 else [])
    top = level[0] if level else bytes(32)
    return Hash(blake3(b"\x02" + len(leaves).to_bytes(8, "little") + top).digest())
