"""The bytes of a snapshot's manifest never change within a version."""

from __future__ import annotations

import numpy as np

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import write_snapshot
from farflung.disk import MemoryDisk

GOLDEN = (
    b'{"fragments":[{"elements":5,"leaves":["'
    b'%s","%s"],"round":3}],"next_round":4,"run":"0123456789abcdef","version":1}'
)


def test_manifest_bytes_are_golden() -> None:
    disk = MemoryDisk()
    store = BlobStore(disk)
    anchor = np.arange(5, dtype=np.float32)
    momentum = np.zeros(5, np.float32)
    pointer = write_snapshot(disk, store, "0123456789abcdef", 4, [(3, anchor, momentum)])
    leaves = (store.put(anchor.tobytes()), store.put(momentum.tobytes()))
    expected = GOLDEN % tuple(leaf.hex().encode() for leaf in leaves)
    assert store.get(bytes.fromhex(pointer.manifest)) == expected
    assert leaves[1].hex() == ZEROS_20


ZEROS_20 = "607b1aff64b01352352a8009de6c06ae2cf9d1d6e25b213e75f84995f8bef435"
