"""Claims about outer/state_hash.py: hashes name every byte."""

from __future__ import annotations

import numpy as np
from outer_samples import sample

from farflung.hashing import digest, merkle_root
from farflung.outer.state_hash import (
    LEAF_ELEMENTS,
    fragment_hash,
    fragment_leaves,
    state_root,
)


def test_leaves_are_four_mebibytes_anchor_first() -> None:
    n = LEAF_ELEMENTS + 5
    anchor, momentum = sample(n, 1), sample(n, 2)
    cuts = [p[a : a + LEAF_ELEMENTS] for p in (anchor, momentum) for a in (0, LEAF_ELEMENTS)]
    assert 4 * LEAF_ELEMENTS == 4 << 20
    assert fragment_leaves(anchor, momentum) == [digest(c.tobytes()) for c in cuts]
    assert fragment_hash(anchor, momentum) == merkle_root(fragment_leaves(anchor, momentum))


def test_an_empty_fragment_has_one_empty_chunk_per_vector() -> None:
    empty = np.empty(0, np.float32)
    assert fragment_leaves(empty, empty) == [digest(b"")] * 2


def test_one_flipped_bit_changes_the_root() -> None:
    anchor, momentum = sample(1000, 1), sample(1000, 2)
    roots = {fragment_hash(anchor, momentum), fragment_hash(momentum, anchor)}
    anchor.view(np.uint32)[999] ^= 1
    roots.add(fragment_hash(anchor, momentum))
    anchor.view(np.uint32)[999] ^= 1
    momentum.view(np.uint32)[0] ^= 1 << 31
    roots.add(fragment_hash(anchor, momentum))
    assert len(roots) == 4


def test_state_root_depends_on_the_order_of_fragments() -> None:
    a, b = digest(b"a"), digest(b"b")
    assert state_root([a, b]) == merkle_root([a, b]) != state_root([b, a])
