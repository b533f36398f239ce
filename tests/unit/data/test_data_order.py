"""Claims about the order of samples and mixtures."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.data.mixture import BLOCK_ROWS, Mixture
from farflung.data.order import Order
from farflung.errors import ConfigError


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 700), seed=st.integers(), epoch=st.integers(0, 5))
def test_every_epoch_visits_every_row_once(rows: int, seed: int, epoch: int) -> None:
    order = Order(rows, seed)
    visited = order.rows_of([(epoch * rows, (epoch + 1) * rows)])
    assert sorted(visited) == list(range(rows))


def test_epochs_and_seeds_have_different_orders() -> None:
    first = Order(100, 1).rows_of([(0, 100)])
    assert first != Order(100, 1).rows_of([(100, 200)])
    assert first != Order(100, 2).rows_of([(0, 100)])
    assert first != list(range(100))


def test_neighbours_in_the_order_are_far_apart_in_the_text() -> None:
    rows = Order(10_000, 0).rows_of([(0, 10_000)])
    gaps = [abs(a - b) for a, b in pairwise(rows)]
    assert 3_000 < sum(gaps) / len(gaps) < 3_700  # n/3 for a random permutation


def test_the_place_of_a_row_is_spread_evenly() -> None:
    """Chi-square of (first quarter of positions) x (decile of rows): 9 degrees of freedom."""
    rows, draws = 1_000, 400
    seen = Counter(
        Order(rows, seed).row(position) * 10 // rows
        for seed in range(draws // 10)
        for position in range(0, 250, 25)
    )
    expected = draws / 10
    chi_square = sum((seen[decile] - expected) ** 2 / expected for decile in range(10))
    assert chi_square < 27.9  # 1 in 1,000


def test_order_is_the_golden_one() -> None:
    assert Order(10, 0).rows_of([(0, 20)]) == GOLDEN_10
    assert [Order(19_790, 7).row(p) for p in (0, 1, 2, 19_789, 19_790)] == GOLDEN_19790
    assert Order(1 << 40, -3).row((1 << 41) + 5) == GOLDEN_LARGE


def test_ranges_are_read_in_order_and_half_open() -> None:
    order = Order(50, 3)
    assert order.rows_of([(10, 12), (70, 71)]) == [order.row(10), order.row(11), order.row(70)]
    assert order.rows_of([(5, 5)]) == []


def test_an_order_needs_rows() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Order(0, 0)


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    block=st.integers(0, 500),
)
def test_every_block_is_within_one_row_of_the_exact_share(weights: list[int], block: int) -> None:
    mixture = Mixture(weights, [10] * len(weights), seed=0)
    total = [0] * len(weights)
    for b in range(block % 50 + 1):
        counts = mixture.counts(b)
        assert sum(counts) == BLOCK_ROWS
        total = [t + c for t, c in zip(total, counts, strict=True)]
        for source, weight in enumerate(weights):
            exact = Fraction(weight, sum(weights)) * BLOCK_ROWS * (b + 1)
            assert abs(total[source] - exact) < 1


def test_long_run_weights_are_exact() -> None:
    mixture = Mixture([1, 1, 1], [10, 10, 10], seed=0)
    assert mixture.period == 3
    assert [sum(c) for c in zip(*map(mixture.counts, range(3)), strict=True)] == [1000, 1000, 1000]


def test_decimal_weights_mean_what_they_print() -> None:
    assert Mixture([0.7, 0.3], [1, 1], seed=0).counts(0) == (700, 300)
    assert Mixture([0.1, 0.2], [1, 1], seed=0).period == 3


def test_each_source_is_read_without_gap_or_repeat() -> None:
    mixture = Mixture([0.55, 0.25, 0.2], [331, 97, 1009], seed=5)
    places = [mixture.source_position(p) for p in range(4 * BLOCK_ROWS)]
    for source in range(3):
        own = sorted(position for s, position in places if s == source)
        assert own == list(range(len(own)))


def test_each_source_epoch_visits_every_row_once() -> None:
    rows = [331, 97, 1009]
    mixture = Mixture([0.55, 0.25, 0.2], rows, seed=5)
    reads: list[Counter[int]] = [Counter(), Counter(), Counter()]
    for position in range(6 * BLOCK_ROWS):
        source, own = mixture.source_position(position)
        if own < rows[source]:
            assert mixture.locate(position)[0] == source
            reads[source][mixture.locate(position)[1]] += 1
    assert all(set(r) == set(range(n)) for r, n in zip(reads, rows, strict=True))
    assert all(set(r.values()) == {1} for r in reads)


def test_blocks_are_shuffled_and_differ() -> None:
    mixture = Mixture([1, 1], [10_000, 10_000], seed=0)
    first = [mixture.locate(p)[0] for p in range(1000)]
    second = [mixture.locate(p)[0] for p in range(1000, 2000)]
    assert first != second
    assert 400 < sum(a != b for a, b in pairwise(first)) < 600


def test_a_changed_mixture_goes_on_where_the_old_one_stopped() -> None:
    old = Mixture([0.6, 0.4], [5000, 5000], seed=1)
    new = Mixture([0.1, 0.9], [5000, 5000], seed=1, start=3000, bases=old.bases_at(3000))
    places = [old.source_position(p) for p in range(3000)]
    places += [new.source_position(p) for p in range(3000, 5000)]
    for source in range(2):
        own = sorted(position for s, position in places if s == source)
        assert own == list(range(len(own)))
    with pytest.raises(ConfigError, match="change it at 3000"):
        old.bases_at(2500)


@pytest.mark.parametrize(
    ("weights", "rule"),
    [
        ([], "positive"),
        ([1, 0], "positive"),
        ([1, -2], "positive"),
        ([1, float("nan")], "positive"),
        ([1, float("inf")], "positive"),
        ([10_000, 1], "below 1/1000"),
        ([0.123456789, 0.5], "too many digits"),
    ],
)
def test_bad_weights_are_refused(weights: list[float], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        Mixture(weights, [10] * len(weights), seed=0)


def test_weights_and_sources_must_match() -> None:
    with pytest.raises(ConfigError, match="2 weights for 1 sources"):
        Mixture([1, 1], [10], seed=0)


GOLDEN_10 = [2, 0, 7, 6, 5, 9, 1, 4, 3, 8, 7, 1, 6, 4, 2, 3, 9, 0, 5, 8]
GOLDEN_19790 = [14576, 13701, 17112, 16551, 8323]
GOLDEN_LARGE = 624640750677
