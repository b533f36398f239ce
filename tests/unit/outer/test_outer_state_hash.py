"""Claims about outer/state_hash.py: streaming and whole hashes agree, and name every byte."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outer_samples import sample

from farflung.hashing import digest, merkle_root
from farflung.outer import state_hash
from farflung.outer.nesterov import bits_of, outer_step
from farflung.outer.state_hash import (
    LEAF_ELEMENTS,
    StateHasher,
    candidate_hash,
    fragment_hash,
    fragment_leaves,
    state_root,
)

LR, MU = bits_of(0.7), bits_of(0.9)


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_hash, "LEAF_ELEMENTS", 100)
    monkeypatch.setattr(state_hash, "CHUNK_ELEMENTS", 64)


def test_leaves_are_four_mebibytes_anchor_first() -> None:
    n = LEAF_ELEMENTS + 5
    anchor, momentum = sample(n, 1), sample(n, 2)
    cuts = [p[a : a + LEAF_ELEMENTS] for p in (anchor, momentum) for a in (0, LEAF_ELEMENTS)]
    assert 4 * LEAF_ELEMENTS == 4 << 20
    assert fragment_leaves(anchor, momentum) == [digest(c.tobytes()) for c in cuts]
    assert fragment_hash(anchor, momentum) == merkle_root(fragment_leaves(anchor, momentum))


def test_an_empty_fragment_has_one_empty_chunk_per_vector() -> None:
    empty = np.empty(0, np.float32)
    assert fragment_leaves(empty, empty) == [digest(b"")] * 2 == StateHasher().leaves()


@pytest.mark.usefixtures("small_leaves")
@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 250), max_size=6))
def test_any_cut_into_pieces_gives_the_same_leaves(cuts: list[int]) -> None:
    anchor, momentum = sample(sum(cuts), 1), sample(sum(cuts), 2)
    hasher, at = StateHasher(), 0
    for n in cuts:
        hasher.update(anchor[at : at + n], momentum[at : at + n])
        at += n
    assert hasher.leaves() == fragment_leaves(anchor, momentum)
    assert hasher.root() == fragment_hash(anchor, momentum)


@pytest.mark.usefixtures("small_leaves")
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 150), max_size=5), st.booleans())
def test_candidate_hash_is_the_hash_after_applying(cuts: list[int], pieces: bool) -> None:
    n = sum(cuts)
    anchor, momentum, gradient = (sample(n, seed) for seed in range(3))
    bounds = np.cumsum([0, *cuts])
    iterator = (gradient[a:b] for a, b in pairwise(bounds))
    kept = anchor.copy()
    promised = candidate_hash(anchor, momentum, iterator if pieces else gradient, LR, MU)
    np.testing.assert_array_equal(anchor, kept)
    outer_step(anchor, momentum, gradient, LR, MU, out_anchor=anchor, out_momentum=momentum)
    assert promised == fragment_hash(anchor, momentum)


def test_candidate_hash_holds_at_full_size() -> None:
    n = LEAF_ELEMENTS + 70_000
    anchor, momentum, gradient = (sample(n, seed) for seed in range(3))
    promised = candidate_hash(anchor, momentum, gradient, LR, MU)
    outer_step(anchor, momentum, gradient, LR, MU, out_anchor=anchor, out_momentum=momentum)
    assert promised == fragment_hash(anchor, momentum)


@pytest.mark.parametrize("n", [0, 9, 11])
def test_a_gradient_of_another_length_is_refused(n: int) -> None:
    ten = sample(10, 1)
    with pytest.raises(ValueError, match="does not fit 10"):
        candidate_hash(ten, ten, sample(n, 1), LR, MU)
    with pytest.raises(ValueError, match="differ"):
        candidate_hash(ten, sample(n, 1), ten, LR, MU)


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
