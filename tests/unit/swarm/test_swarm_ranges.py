"""Ranges against sets of integers."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.swarm import ranges

Pairs = tuple[tuple[int, int], ...]

pairs = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6).map(tuple)
"""Any pairs: overlapping, touching, empty and backward ones too."""
disjoint = pairs.map(ranges.normalise)
quick = settings(max_examples=50, deadline=None)


def members(given_ranges: Pairs) -> set[int]:
    return {i for start, stop in given_ranges for i in range(start, stop)}


def listed(given_ranges: Pairs) -> list[int]:
    return [i for start, stop in given_ranges for i in range(start, stop)]


def assert_normal(given_ranges: Pairs) -> None:
    assert all(start < stop for start, stop in given_ranges)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(given_ranges))


@quick
@given(pairs)
def test_normalise_keeps_the_set_and_sorts_and_merges(a: Pairs) -> None:
    assert members(ranges.normalise(a)) == members(a)
    assert_normal(ranges.normalise(a))


@quick
@given(pairs, pairs)
def test_union_intersect_and_subtract_are_those_of_sets(a: Pairs, b: Pairs) -> None:
    assert members(ranges.union(a, b)) == members(a) | members(b)
    assert members(ranges.intersect(a, b)) == members(a) & members(b)
    assert members(ranges.subtract(a, b)) == members(a) - members(b)
    assert_normal(ranges.union(a, b))
    assert_normal(ranges.intersect(a, b))


@quick
@given(pairs, pairs)
def test_contains_is_the_superset_relation(a: Pairs, b: Pairs) -> None:
    assert ranges.contains(a, b) == (members(a) >= members(b))


@quick
@given(disjoint)
def test_count_of_disjoint_ranges_is_the_size_of_the_set(a: Pairs) -> None:
    assert ranges.count(a) == len(members(a))


@quick
@given(disjoint, st.integers(-2, 60), st.randoms(use_true_random=False))
def test_take_cuts_the_given_order_after_n_positions(a: Pairs, n: int, rng: object) -> None:
    shuffled = list(a)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    first, rest = ranges.take(shuffled, n)
    everything = listed(tuple(shuffled))
    assert listed(first) == everything[: max(0, n)]
    assert listed(rest) == everything[max(0, n) :]


@quick
@given(disjoint, disjoint)
def test_subtract_keeps_the_order_of_its_first_argument(a: Pairs, b: Pairs) -> None:
    backward = tuple(reversed(a))
    left = ranges.subtract(backward, b)
    assert listed(left) == [i for i in listed(backward) if i not in members(b)]
