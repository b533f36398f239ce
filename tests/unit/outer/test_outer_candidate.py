"""Claims about outer/candidate.py: a step beside the state has the bits of a step in place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outer_samples import sample

from farflung.outer import candidate, state_hash
from farflung.outer.candidate import StepAhead, Stepped
from farflung.outer.fragments import Fragment, gather, size, view_or_gather
from farflung.outer.nesterov import bits_of, outer_step
from farflung.outer.state_hash import LEAF_ELEMENTS, fragment_hash, fragment_leaves

LR, MU = bits_of(0.7), bits_of(0.9)


@pytest.fixture
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (candidate, state_hash):
        monkeypatch.setattr(module, "LEAF_ELEMENTS", 100)
    monkeypatch.setattr(candidate, "PIECE_ELEMENTS", 32)


def in_place(anchor_F: np.ndarray, momentum_F: np.ndarray, gradient_F: np.ndarray) -> Stepped:
    anchor_F, momentum_F = anchor_F.copy(), momentum_F.copy()
    outer_step(
        anchor_F, momentum_F, gradient_F, LR, MU, out_anchor=anchor_F, out_momentum=momentum_F
    )
    leaves = tuple(fragment_leaves(anchor_F, momentum_F))
    return Stepped(anchor_F, momentum_F, leaves, fragment_hash(anchor_F, momentum_F))


def assert_equal(got: Stepped, expected: Stepped) -> None:
    assert got.hash == expected.hash
    assert got.anchor.tobytes() == expected.anchor.tobytes()
    assert got.momentum.tobytes() == expected.momentum.tobytes()


@st.composite
def fragments(draw: st.DrawFn) -> Fragment:
    """Ranges of the flat vector in order, with gaps between some."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 150)), max_size=5))
    ranges, at = [], 0
    for gap, length in lengths:
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    return tuple(ranges)


@pytest.mark.usefixtures("small_leaves")
@settings(max_examples=80, deadline=None)
@given(fragments(), st.lists(st.integers(1, 150), max_size=8), st.randoms())
def test_any_chunks_in_any_order_give_the_step_in_place(
    fragment: Fragment, lengths: list[int], rng: object
) -> None:
    flat = 10 + max((stop for _, stop in fragment), default=0)
    anchor_N, momentum_N, n = sample(flat, 1), sample(flat, 2), size(fragment)
    gradient_F, kept = sample(n, 3), (anchor_N.copy(), momentum_N.copy())
    bounds = sorted({0, n, *(min(n, int(b)) for b in np.cumsum(lengths))})
    cuts = list(pairwise(bounds))
    rng.shuffle(cuts)  # type: ignore[attr-defined]
    ahead = StepAhead(anchor_N, momentum_N, fragment, LR, MU)
    for first, stop in cuts:
        ahead.add(first, gradient_F[first:stop])
    expected = in_place(gather(anchor_N, fragment), gather(momentum_N, fragment), gradient_F)
    assert_equal(ahead.finish(), expected)
    np.testing.assert_array_equal(anchor_N, kept[0])
    np.testing.assert_array_equal(momentum_N, kept[1])


def test_it_holds_at_full_size() -> None:
    n = LEAF_ELEMENTS + 70_000
    anchor, momentum, gradient = (sample(n, seed) for seed in range(3))
    ahead = StepAhead(anchor, momentum, ((0, n),), LR, MU)
    for first in (131_072, 0):
        ahead.add(first, gradient[first : 131_072 if first == 0 else n])
    assert_equal(ahead.finish(), in_place(anchor, momentum, gradient))


@pytest.mark.parametrize(("first", "n"), [(0, 11), (-1, 3), (9, 2)])
def test_elements_outside_the_fragment_are_refused(first: int, n: int) -> None:
    ten = sample(10, 1)
    ahead = StepAhead(ten, ten, ((0, 10),), LR, MU)
    with pytest.raises(ValueError, match="do not fit a fragment of 10"):
        ahead.add(first, sample(n, 1))


def test_elements_come_once_each() -> None:
    ten = sample(10, 1)
    ahead = StepAhead(ten, ten, ((0, 10),), LR, MU)
    ahead.add(0, ten[:7])
    with pytest.raises(ValueError, match="3 elements is missing"):
        ahead.finish()
    ahead.add(7, ten[7:])
    with pytest.raises(ValueError, match="came before"):
        ahead.add(0, ten[:1])


def test_a_fragment_of_one_range_is_a_view_and_others_are_copies_of_the_same_values() -> None:
    flat = sample(20, 1)
    one, two = ((3, 9),), ((0, 4), (7, 9))
    assert np.shares_memory(view_or_gather(flat, one), flat)
    assert not np.shares_memory(view_or_gather(flat, two), flat)
    for fragment in (one, two):
        np.testing.assert_array_equal(view_or_gather(flat, fragment), gather(flat, fragment))
